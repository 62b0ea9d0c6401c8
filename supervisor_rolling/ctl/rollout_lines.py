"""A rollout as lines of text, made from what ``rolling.getRollout`` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from supervisor_rolling.core.connections import Connection
from supervisor_rolling.core.lingering import count_text, left_texts
from supervisor_rolling.core.log_messages import standing_word
from supervisor_rolling.core.min_ready import min_ready_texts
from supervisor_rolling.core.reason import see
from supervisor_rolling.core.warmup_replies import statuses_text
from supervisor_rolling.ctl.quantities import counted

View = Mapping[str, Any]

UNDER_WAY = ("draining", "restarting", "warming", "ready")
BAR_WIDTH = 24
NOTABLE = 0.6
"""Seconds; a shorter stage is left out, so that a line fits 80 columns."""


NOTHING_CHANGED = "Nothing was changed."
"""The last line of a dry run."""


class Signs(NamedTuple):
    """Characters that an output can show."""

    dot: str
    arrow: str
    full: str
    empty: str


UNICODE = Signs(" · ", "→", "█", "░")
ASCII = Signs(", ", "->", "#", ".")


# --- one process


def is_done(process: View) -> bool:
    """Whether the rollout is through with a process: it is back in service, failed, or left alone. A process that an
    earlier failure keeps closed has still to be replaced."""
    if process["stage"] in UNDER_WAY or (process["stage"] == "failed" and not process["failed"]):
        return False
    return bool(process["failed"] or process["why"] or process["replaced"])


def process_line(process: View, width: int, signs: Signs) -> str:
    """A process: the stages it has been through, with durations, and its present state."""
    parts = [*past_stages(process, _requests(process, signs)), _present(process)]
    return f"{process['name']:<{width}}  {signs.dot.join(part for part in parts if part)}"


def left_lines(process: View, width: int) -> list[str]:
    """A line for each connection that was left when the process was restarted; none if its drain failed, as then
    nothing was restarted."""
    if process["failed"] and not process["drained"]:
        return []
    oldest = [Connection(**connection) for connection in process["oldest_lingering"]]
    return [f"{'':<{width}}  {line}" for line in left_texts(process["lingering_connections"], oldest)]


def name_width(rollout: View) -> int:
    """The width of the column of names."""
    return max((len(process["name"]) for process in rollout["processes"]), default=0)


def past_stages(process: View, requests: str = "") -> list[str]:
    """The stages that a process has been through, with durations. ``requests``: what to add to its warm-up."""
    parts = []
    if process["drained"] and (is_reached(process) or process["drained"] >= NOTABLE):
        left = f" ({count_text(process['lingering_connections'])} left)" if process["lingering_connections"] else ""
        parts.append(f"drained {process['drained']:.1f} s{left}")
    if process["stopped"] >= NOTABLE:
        parts.append(f"stopped {process['stopped']:.1f} s{' (killed)' if process['killed'] else ''}")
    if process["started"] >= NOTABLE:
        parts.append(f"started {process['started']:.1f} s")
    if process["warmed"]:
        parts.append(f"{'warmed' if process['requests'] else 'ready'} {process['warmed']:.1f} s{requests}")
    if process["ready"] >= NOTABLE:
        parts.append(f"ready {process['ready']:.0f} s")
    return parts


def _requests(process: View, signs: Signs) -> str:
    if not process["requests"]:
        return ""
    latencies = f"{process['first_ms']:.0f} {signs.arrow} {process['last_ms']:.0f} ms"
    statuses = statuses_text(process["statuses"])
    return f" ({counted(process['requests'], 'request')} {latencies}{statuses and f', statuses {statuses}'})"


def _present(process: View) -> str:
    if process["stage"] in UNDER_WAY:
        left = f", {draining_text(process)}" if process["stage"] == "draining" else ""
        return f"{process['stage']} {process['seconds']:.0f} s{left}"
    if process["failed"] or process["stage"] == "failed":
        return f"FAILED: {process['why']}"
    return process["why"] or ("open" if is_reached(process) else "running")


def draining_text(process: View) -> str:
    """What a drain waits for; ``lingering_connections`` are in the rollout's view of the process alone."""
    return f"{count_text(process['lingering_connections'])} left" if is_reached(process) else "until it exits"


def is_reached(process: View) -> bool:
    """Whether it has a port or a unix socket of its own, which is closed while it is replaced."""
    return bool(process["ports"] or process["sockets"])


def _ports_text(process: View) -> str:
    if process["sockets"]:
        return f"socket {', '.join(process['sockets'])}"
    return f"port {', '.join(map(str, process['ports']))}" if process["ports"] else ""


# --- before a rollout


def first_lines(rollout: View, resumed: bool = False) -> list[str]:
    """What a rollout is about to do, and what it will wait for."""
    group, total, replaced = rollout["group"], rollout["total"], rollout["replaced"]
    doing = f"resuming, {replaced} of {total} replaced" if resumed else f"replacing {_processes(total)}"
    line = f"{group}: {doing}, {_limit(rollout)} at a time (rollout {rollout['id']})"
    return [line, *_min_ready_lines(rollout, total - replaced)]


def plan_lines(rollout: View) -> list[str]:
    """A dry run."""
    selected = [process for process in rollout["processes"] if process["selected"]]
    others = [process for process in rollout["processes"] if not process["selected"]]
    width = name_width(rollout)
    head = f"{rollout['group']}: would replace {_processes(len(selected))}, {_limit(rollout)} at a time, in this order:"
    expected = rollout["forecast"]
    return [
        head,
        *(f"{process['name']:<{width}}  {_ports_text(process)}".rstrip() for process in selected),
        *(f"{process['name']:<{width}}  {process['why'] or 'not selected'}" for process in others),
        *([f"It would take about {expected:.0f} s, as the last rollouts did."] if expected else []),
        *_min_ready_lines(rollout, len(selected)),
    ]


def _min_ready_lines(rollout: View, total: int) -> list[str]:
    """How long each process is not counted as available, if that follows from the load balancer."""
    if not rollout["min_ready_auto"] or not rollout["min_ready_seconds"] or not total:
        return []
    text, fix = min_ready_texts(
        rollout["min_ready_seconds"], rollout["min_ready_why"], total, rollout["canary"], _limit(rollout)
    )
    return [f"{text[0].upper()}{text[1:]}. Fix: {fix}"]


def _limit(rollout: View) -> int:
    """How many are replaced at a time; the policy may allow more than there are."""
    return max(1, min(rollout["limit"], rollout["total"]))


def _processes(number: int) -> str:
    return counted(number, "process", "es")


# --- during a rollout


def bar_line(rollout: View, signs: Signs) -> str:
    """How far the rollout is, and how long it may still take."""
    done, total = rollout["replaced"], rollout["total"]
    filled = BAR_WIDTH * done // total if total else BAR_WIDTH
    bar = signs.full * filled + signs.empty * (BAR_WIDTH - filled)
    return f"{bar} {done}/{total}  {rollout['seconds']:.0f} s{_remaining(rollout)}{_state(rollout)}"


def waits_text(rollout: View) -> str:
    """What a rollout waits for; empty if it does not wait."""
    return f"waiting for {rollout['waits_for']}" if rollout["waits_for"] else ""


def _remaining(rollout: View) -> str:
    """The time left: judged by earlier rollouts at the beginning, by this rollout itself towards the end."""
    done, total, expected = rollout["replaced"], rollout["total"], rollout["forecast"]
    if not done and not expected:
        return ""
    by_itself = rollout["seconds"] / done * (total - done) if done else 0.0
    by_others = max(0.0, expected - rollout["seconds"])
    own = done / total if expected else 1.0
    return f", about {own * by_itself + (1 - own) * by_others:.0f} s left"


def _state(rollout: View) -> str:
    if not rollout["listener"]:
        return ", the listener is not running"
    if rollout["aborting"]:
        return ", aborting"
    if rollout["paused"]:
        return ", paused"
    return f", {waits_text(rollout)}" if rollout["waits_for"] else ""


# --- after a rollout


def last_lines(rollout: View, processes_after: Sequence[View] = ()) -> list[str]:
    """How the rollout ended: how many were replaced, how long it took, the least that was available, and what to do
    next. ``processes_after``: the group as ``rolling.getProcesses`` has it now."""
    head = {"failed": "FAILED: ", "aborted": "ABORTED: "}.get(rollout["status"], "")
    text = (
        f"{rollout['group']}: {head}{rollout['replaced']} of {rollout['total']} replaced in {rollout['seconds']:.1f} s"
        f"{_compared(rollout)}, never fewer than {rollout['min_available']} of {rollout['size']} "
        f"{standing_word(rollout['min_ready_known'])}"
    )
    if rollout["status"] == "failed" or any(process["stage"] == "failed" for process in rollout["processes"]):
        return [text, *next_steps(rollout, processes_after)]
    why = [rollout["why"]] if rollout["why"] else []
    is_cut_short = rollout["aborting"] and rollout["replaced"] < rollout["total"]
    return [text, *why, *([continue_line(rollout["group"])] if is_cut_short else [])]


def following_lines(rollout: View) -> list[str]:
    """The groups that are restarted after this rollout, or why they were not."""
    names = ", ".join(rollout["following"])
    if rollout["next_problem"]:
        return [f"Not restarted: {names}: {rollout['next_problem']}"]
    if rollout["status"] in ("failed", "aborted"):
        return [f"Not restarted: {names}. They follow when {rollout['group']} is resumed"] if names else []
    return [f"Then: {names}"] if names and rollout["status"] == "running" else []


def chain_line(ended: Sequence[View]) -> str:
    """The summary of several groups, when the last rollout has ended."""
    replaced = [rollout["group"] for rollout in ended if rollout["status"] == "done"]
    seconds = sum(rollout["seconds"] for rollout in ended)
    number = len(ended) + len(ended[-1]["following"])
    return f"{len(replaced)} of {number} groups replaced in {seconds:.1f} s: {', '.join(replaced) or 'none'}"


def continue_line(group: str) -> str:
    """What to do after an aborted rollout."""
    return f"To continue with the others: supervisorctl rolling_resume {group}"


def _compared(rollout: View) -> str:
    """How far off the forecast was, if the rollout did all it was to do."""
    expected = rollout["forecast"]
    if not expected or rollout["status"] != "done":
        return ""
    off = round(100 * (rollout["seconds"] - expected) / expected)
    return f" ({abs(off)} % {'more' if off > 0 else 'less'} than forecast)" if off else " (as forecast)"


def next_steps(rollout: View, processes_after: Sequence[View] = ()) -> list[str]:
    """What to do after a failure."""
    group = rollout["group"]
    failed = [process for process in rollout["processes"] if process["failed"]]
    lines = [] if failed or not rollout["why"] else [rollout["why"]]
    lines += _gate_lines(rollout, processes_after)
    with_log = [process["name"] for process in failed if _log_has_cause(process)]
    lines += [f"See why: supervisorctl tail {group}:{name} stderr" for name in with_log[:1]]
    lines += [see(rollout["code"])] if rollout["code"] else []
    if rollout["replaced"] < rollout["total"]:
        return [*lines, f"Fix the problem, then resume: supervisorctl rolling_resume {group}"]
    earlier = [f"{group}:{p['name']}" for p in rollout["processes"] if p["stage"] == "failed" and not p["failed"]]
    if earlier:
        return [
            *lines,
            f"To replace what an earlier rollout left closed: supervisorctl rolling_restart {' '.join(earlier)}",
        ]
    return [*lines, f"Every process was replaced. To see their state: supervisorctl rolling_status {group}"]


def _gate_lines(rollout: View, processes_after: Sequence[View]) -> list[str]:
    """The processes that are left failed, and whether they receive traffic. The crash guard decides that, so it is
    said only as supervisord has reported it since."""
    now = {process["name"]: process for process in processes_after}
    is_served = any(process["statename"] == "RUNNING" and process["gate"] == "open" for process in processes_after)
    texts: dict[str, list[str]] = {}
    for process in rollout["processes"]:
        if process["stage"] == "failed" and is_reached(process):
            text = _gate_text(now.get(process["name"]), is_served)
            texts.setdefault(text, []).append(f"{process['name']} ({_ports_text(process)})")
    lines = [f"{text}: {', '.join(names)}" for text, names in texts.items()]
    if all(text.startswith("Closed") for text in texts):
        return lines
    return [*lines, f"See the state now: supervisorctl rolling_status {rollout['group']}"]


def _gate_text(now: View | None, is_served: bool) -> str:
    if now is None or now["gate"] == "unknown" or now["warm"]:
        return "Not warm when the rollout ended"
    if now["gate"] == "open":
        return "Not warm, but accepting traffic"
    return "Closed, so it receives no traffic" if is_served else "Closed, and no other process serves"


def _log_has_cause(process: View) -> bool:
    """Whether the log of a failed process can say why: not if nothing was started (it has no new pid), nor if all that
    failed was its stop."""
    return process["stage"] == "failed" or (bool(process["pid"]) and not process["killed"])
