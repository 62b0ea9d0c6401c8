"""What the operator sees of a rollout: pure functions from ``views.rollout_view`` structs to lines, and two screens
that show them.

On a terminal the processes under way and a bar are drawn again and again below the lines of those that are done;
elsewhere each process is one plain line, when it is done.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Protocol

from supervisor_rolling.core.connections import Connection
from supervisor_rolling.core.lingering import count_text, left_texts
from supervisor_rolling.core.log_messages import standing_word
from supervisor_rolling.core.min_ready import min_ready_texts
from supervisor_rolling.core.warmup_replies import statuses_text
from supervisor_rolling.ctl.output import Output

View = Mapping[str, Any]

UNDER_WAY = ("draining", "restarting", "warming", "ready")
BAR_WIDTH = 24
NOTABLE = 0.6  # seconds; what took less is left out, so that a line fits 80 columns
CLEAR_BELOW = "\x1b[J"
UP = "\x1b[{}F"


class Screen(Protocol):
    """Shows a rollout as it goes on."""

    def skip(self, rollout: View) -> None:
        """Take what is done already for told."""
        ...

    def show(self, rollout: View) -> None:
        """Show the rollout as it is now."""
        ...

    def close(self, rollout: View) -> None:
        """Show the last of it."""
        ...


def screen_for(output: Output) -> Screen:
    """The screen that fits: drawn on a terminal, plain lines elsewhere."""
    signs = _signs(output)
    return TerminalScreen(output, signs) if output.is_terminal else PlainScreen(output, signs)


class PlainScreen:
    """One line for each process, when it is done; and one for each connection that its restart has ended."""

    def __init__(self, output: Output, signs: Signs) -> None:
        self._output = output
        self._signs = signs
        self._told: set[tuple[str, bool]] = set()
        self._waits = False

    def skip(self, rollout: View) -> None:
        """See ``Screen``."""
        self.news(rollout)

    def show(self, rollout: View) -> None:
        """See ``Screen``."""
        self._output.tell(self.news(rollout))

    def close(self, rollout: View) -> None:
        """See ``Screen``."""
        self.show(rollout)

    def news(self, rollout: View) -> list[str]:
        """The lines of the processes that are done since the last call."""
        done = [p for p in rollout["processes"] if is_done(p) and (p["name"], p["failed"]) not in self._told]
        self._told.update((process["name"], process["failed"]) for process in done)
        width = name_width(rollout)
        done.sort(key=lambda process: -process["seconds"])
        is_news, self._waits = not self._waits, bool(rollout.get("waits_long"))  # an older supervisord does not tell
        waits = [waits_text(rollout)] if self._waits and is_news else []
        return [*(line for process in done for line in self._lines(process, width)), *waits]

    def _lines(self, process: View, width: int) -> list[str]:
        return [process_line(process, width, self._signs), *left_lines(process, width)]


class TerminalScreen:
    """Done processes scroll up; those under way and the bar are redrawn."""

    def __init__(self, output: Output, signs: Signs) -> None:
        self._output = output
        self._signs = signs
        self._plain = PlainScreen(output, signs)
        self._drawn = 0

    def skip(self, rollout: View) -> None:
        """See ``Screen``."""
        self._plain.skip(rollout)

    def show(self, rollout: View) -> None:
        """See ``Screen``."""
        width = name_width(rollout)
        moving = [process_line(p, width, self._signs) for p in rollout["processes"] if p["stage"] in UNDER_WAY]
        self._draw(self._plain.news(rollout), [*moving, bar_line(rollout, self._signs)])

    def close(self, rollout: View) -> None:
        """See ``Screen``."""
        self._draw(self._plain.news(rollout), [])

    def _draw(self, lasting: list[str], passing: list[str]) -> None:
        columns, rows = shutil.get_terminal_size()
        passing = [line[: columns - 1] for line in passing[-max(1, rows - 1) :]]  # the bar is the last of them
        back = UP.format(self._drawn) + CLEAR_BELOW if self._drawn else ""
        self._output.write(back + self._output.painted([*self._output.fitted(lasting), *passing]))
        self._drawn = len(passing)


class Signs:
    """The characters that an output can show."""

    def __init__(self, dot: str, arrow: str, full: str, empty: str) -> None:
        self.dot = dot
        self.arrow = arrow
        self.full = full
        self.empty = empty


UNICODE = Signs(" · ", "→", "█", "░")
ASCII = Signs(", ", "->", "#", ".")


def _signs(output: Output) -> Signs:
    return UNICODE if output.encoding.lower().replace("-", "") == "utf8" else ASCII


# --- lines


def is_done(process: View) -> bool:
    """Whether nothing more will be told of a process: it is back in service, failed, or is left alone. One that an
    earlier failure keeps closed has still to be replaced."""
    if process["stage"] in UNDER_WAY or (process["stage"] == "failed" and not process["failed"]):
        return False
    return bool(process["failed"] or process["why"] or process["replaced"])


def process_line(process: View, width: int, signs: Signs) -> str:
    """One process: what it has been through, with durations, and where it stands."""
    parts = [*_past(process, signs), _present(process)]
    return f"{process['name']:<{width}}  {signs.dot.join(part for part in parts if part)}"


def left_lines(process: View, width: int) -> list[str]:
    """The connections that were left when a process was restarted, a line each. A drain that failed tells them itself,
    and nothing was restarted."""
    if process["failed"] and not process["drained"]:
        return []
    told = [_connection(one) for one in process.get("oldest_lingering", ())]  # an older supervisord does not tell
    return [f"{'':<{width}}  {line}" for line in left_texts(process["lingering_connections"], told)]


def _connection(told: Mapping[str, Any]) -> Connection:
    """What a supervisord tells; a newer one may tell more."""
    return Connection(**{field.name: told[field.name] for field in fields(Connection) if field.name in told})


def bar_line(rollout: View, signs: Signs) -> str:
    """How far the rollout is, and how long it may still take."""
    done, total = rollout["replaced"], rollout["total"]
    filled = BAR_WIDTH * done // total if total else BAR_WIDTH
    bar = signs.full * filled + signs.empty * (BAR_WIDTH - filled)
    return f"{bar} {done}/{total}  {rollout['seconds']:.0f} s{_left(rollout)}{_standing(rollout)}"


def last_line(rollout: View, standing: Sequence[View] = ()) -> str:
    """How the rollout ended: how many were replaced, how long it took, and the least that was available. ``standing``:
    the group as ``rolling.getProcesses`` has it since then."""
    group = len(rollout["processes"])
    head = {"done": "", "failed": "FAILED: ", "aborted": "ABORTED: "}.get(rollout["status"], "")
    least = f"never fewer than {rollout['least_available']} of {group} {standing_word(rollout.get('min_ready_known', True))}"
    text = (
        f"{rollout['group']}: {head}{rollout['replaced']} of {rollout['total']} replaced in {rollout['seconds']:.1f} s"
        f"{_compared(rollout)}, {least}"
    )
    is_well = rollout["status"] != "failed" and not any(
        process["stage"] == "failed" for process in rollout["processes"]
    )
    return "\n".join([text, *(_left_to_do(rollout) if is_well else what_now(rollout, standing))])


def _compared(rollout: View) -> str:
    """How far off the forecast was, of a rollout that did all that it was to do."""
    expected = rollout.get("forecast", 0.0)  # an older supervisord does not tell
    if not expected or rollout["status"] != "done":
        return ""
    off = round(100 * (rollout["seconds"] - expected) / expected)
    return f" ({abs(off)} % {'more' if off > 0 else 'less'} than forecast)" if off else " (as forecast)"


def _left_to_do(rollout: View) -> list[str]:
    """After the end of a rollout that nothing failed on: why it ended, and how to go on with one that was aborted."""
    is_aborted = rollout["aborting"] and rollout["replaced"] < rollout["total"]
    why = [rollout["why"]] if rollout["why"] else []
    return [*why, f"To go on with the others: supervisorctl rolling_resume {rollout['group']}"] if is_aborted else why


def what_now(rollout: View, standing: Sequence[View] = ()) -> list[str]:
    """What an operator does after a failure."""
    group = rollout["group"]
    failed = [process for process in rollout["processes"] if process["failed"]]
    lines = [] if failed or not rollout["why"] else [rollout["why"]]
    lines += _gate_lines(rollout, standing)
    telling = [process["name"] for process in failed if _has_its_say(process)]
    lines += [f"See why: supervisorctl tail {group}:{name} stderr" for name in telling[:1]]
    earlier = [f"{group}:{p['name']}" for p in rollout["processes"] if p["stage"] == "failed" and not p["failed"]]
    if rollout["replaced"] == rollout["total"] and earlier:
        return [
            *lines,
            f"To replace what an earlier rollout left closed: supervisorctl rolling_restart {' '.join(earlier)}",
        ]
    if rollout["replaced"] == rollout["total"]:
        return [
            *lines,
            f"All are new, none is left to replace. To see how they stand: supervisorctl rolling_status {group}",
        ]
    return [*lines, f"Mend it, then go on where it stopped: supervisorctl rolling_resume {group}"]


def _gate_lines(rollout: View, standing: Sequence[View]) -> list[str]:
    """Those that the rollout left failed, and whether users can meet them. The guard decides that, as far as the group
    can bear it, and opens them where no other serves: so it is told as it stands, and not where nobody has asked."""
    now = {process["name"]: process for process in standing}
    is_served = any(process["statename"] == "RUNNING" and process["gate"] == "open" for process in standing)
    texts: dict[str, list[str]] = {}
    for process in rollout["processes"]:
        if process["stage"] == "failed":
            text = _gate_text(now.get(process["name"]), is_served)
            texts.setdefault(text, []).append(f"{process['name']} (port {_ports(process)})")
    lines = [f"{text}: {', '.join(names)}" for text, names in texts.items()]
    is_open_to_question = not all(text.startswith("Closed") for text in texts)
    return (
        [*lines, f"See how it stands: supervisorctl rolling_status {rollout['group']}"]
        if is_open_to_question
        else lines
    )


def _gate_text(now: View | None, is_served: bool) -> str:
    if now is None or now["gate"] == "unknown" or now["warm"]:
        return "Not warm when the rollout ended"
    if now["gate"] == "open":
        return "Not warm, and open all the same"
    return "Closed, so that no user meets it" if is_served else "Closed, and no other serves"


def _has_its_say(process: View) -> bool:
    """Whether the log of a process can tell why the rollout failed on it: not where the old one serves on (nothing was
    started, so it has no new pid), nor where all that it did was not to stop."""
    return process["stage"] == "failed" or (bool(process["pid"]) and not process.get("killed"))


def first_lines(rollout: View, resumed: bool = False) -> list[str]:
    """What a rollout is about to do, and what it will wait for."""
    return [first_line(rollout, resumed), *_settle_line(rollout, rollout["total"] - rollout["replaced"])]


def _settle_line(rollout: View, total: int) -> list[str]:
    """Why each process settles, where the load balancer decides; an older supervisord does not tell."""
    if not rollout.get("min_ready_auto") or not rollout["min_ready_seconds"] or not total:
        return []
    text, fix = min_ready_texts(
        rollout["min_ready_seconds"], rollout["min_ready_why"], total, rollout["canary"], _limit(rollout)
    )
    return [f"{text[0].upper()}{text[1:]}. Fix: {fix}"]


def first_line(rollout: View, resumed: bool = False) -> str:
    """What a rollout is about to do."""
    group, total, replaced = rollout["group"], rollout["total"], rollout["replaced"]
    doing = f"going on, {replaced} of {total} replaced" if resumed else f"replacing {_count(total, 'process', 'es')}"
    return f"{group}: {doing}, {_limit(rollout)} at a time (rollout {rollout['id']})"


def plan_lines(rollout: View) -> list[str]:
    """A dry run."""
    selected = [process for process in rollout["processes"] if process["selected"]]
    width = name_width(rollout)
    number = _count(len(selected), "process", "es")
    lines = [f"{rollout['group']}: would replace {number}, {_limit(rollout)} at a time, in this order:"]
    for process in selected:
        lines.append(f"{process['name']:<{width}}  port {_ports(process)}")
    left = [process for process in rollout["processes"] if not process["selected"]]
    lines += [f"{p['name']:<{width}}  {p['why'] or 'is not asked for'}" for p in left]
    return [*lines, *_forecast_line(rollout), *_settle_line(rollout, len(selected)), "Nothing was touched."]


def _forecast_line(rollout: View) -> list[str]:
    expected = rollout.get("forecast", 0.0)
    return [f"It would take about {expected:.0f} s, by how long the last rollouts took."] if expected else []


def _limit(rollout: View) -> int:
    """How many are replaced at a time: more than there are may be allowed."""
    return max(1, min(rollout["limit"], rollout["total"]))


def name_width(rollout: View) -> int:
    """The width of the column of names."""
    return max((len(process["name"]) for process in rollout["processes"]), default=0)


def _past(process: View, signs: Signs) -> list[str]:
    parts = []
    if process["drained"]:
        left = f" ({count_text(process['lingering_connections'])} left)" if process["lingering_connections"] else ""
        parts.append(f"drained {process['drained']:.1f} s{left}")
    if process["stopped"] >= NOTABLE:
        killed = " (killed)" if process.get("killed") else ""  # an older supervisord does not tell
        parts.append(f"stopped {process['stopped']:.1f} s{killed}")
    if process["started"] >= NOTABLE:
        parts.append(f"started {process['started']:.1f} s")
    if process["warmed"]:
        parts.append(_warmed(process, signs))
    if process["ready"] >= NOTABLE:
        parts.append(f"ready {process['ready']:.0f} s")
    return parts


def _warmed(process: View, signs: Signs) -> str:
    if not process["requests"]:
        return f"ready {process['warmed']:.1f} s"
    latencies = f"{process['first_ms']:.0f} {signs.arrow} {process['last_ms']:.0f} ms"
    statuses = statuses_text(process.get("statuses", ()))  # an older supervisord does not tell
    told = f", statuses {statuses}" if statuses else ""
    return f"warmed {process['warmed']:.1f} s ({_count(process['requests'], 'request')} {latencies}{told})"


def _present(process: View) -> str:
    if process["stage"] in UNDER_WAY:
        left = f", {count_text(process['lingering_connections'])} left" if process["stage"] == "draining" else ""
        return f"{process['stage']} {process['seconds']:.0f} s{left}"
    if process["failed"] or process["stage"] == "failed":
        return f"FAILED: {process['why']}"
    return process["why"] or "open"


def _ports(process: View) -> str:
    return ", ".join(map(str, process["ports"]))


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"


def _left(rollout: View) -> str:
    """How long it may still take: by the rollouts before this one at its beginning, by itself towards its end."""
    done, total, expected = rollout["replaced"], rollout["total"], rollout.get("forecast", 0.0)
    if not done and not expected:
        return ""
    by_itself = rollout["seconds"] / done * (total - done) if done else 0.0
    by_others = max(0.0, expected - rollout["seconds"])
    own = done / total if expected else 1.0
    return f", about {own * by_itself + (1 - own) * by_others:.0f} s left"


def _standing(rollout: View) -> str:
    """What a rollout is doing besides; an older supervisord does not tell of hooks."""
    if not rollout["listener"]:
        return ", the listener does not run"
    if rollout["aborting"]:
        return ", aborting"
    hook = rollout.get("hook", "")
    if rollout["paused"]:
        return ", paused"
    waits = waits_text(rollout)
    return f", {hook} runs" if hook else f", {waits}" if waits else ""


def waits_text(rollout: View) -> str:
    """For what a rollout waits; an older supervisord tells less."""
    waits = rollout.get("waits", "")
    return f"waits for {waits}" if waits else ""
