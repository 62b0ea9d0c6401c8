"""``rolling_status`` as lines: what rollouts, and how each process of a group stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from supervisor_rolling.core.lingering import count_text
from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.ctl.progress import waits_text
from supervisor_rolling.ctl.text_table import table

View = Mapping[str, Any]

NO_LISTENER = (
    "The listener is not running: rollouts are stalled, and closed ports reopen when their lease expires "
    "(30 s; HAProxy has none). Fix: "
)

START_LISTENER = "supervisorctl start rolling; if it does not start: supervisorctl status"
"""What an older supervisord, which tells nothing of it, would say."""

WRONG = "rolling.yaml is invalid: {problem}. Fix: see all that is wrong with supervisorctl rolling_check {group}"

NOT_GUARDED = "rolling.yaml has guard: false for it, or does not have it, or the listener has not looked yet."
NOT_GUARDED_INVALID = "rolling.yaml is invalid, see above; or it has guard: false for {group}, or does not have it."
NOT_GUARDED_ALONE = "the listener is down, see above."

NO_ROLLOUT = "supervisord knows of no rollout of {group}."
EARLIER = " Earlier ones: supervisorctl rolling_history {group}"

COLUMNS = ("PROCESS", "STATE", "PID", "STAGE", "SINCE", "WARM", "GATE", "WHY")

_UNDER_WAY = {
    "draining": "{left} left",
    "restarting": "it stops, and starts again",
    "warming": "a new process, not warm yet",
    "ready": "open, and not counted as available yet",
}
"""What is said of a process of which nothing else is to be said."""


def problem_lines(listener: View, group: str) -> list[str]:
    """What ``getListener`` tells of rolling.yaml; an older supervisord tells nothing."""
    return [WRONG.format(problem=listener["problem"], group=group)] if listener.get("problem") else []


def listener_lines(listener: View, rollouts: Sequence[View]) -> list[str]:
    """That the listener is not running, by what ``getListener`` tells, or the rollouts where that tells nothing."""
    runs = listener.get("running", all(rollout["listener"] for rollout in rollouts))
    return [] if runs else [NO_LISTENER + (listener.get("fix") or START_LISTENER)]


def rollout_lines(rollouts: Sequence[View]) -> list[str]:
    """The rollout of every group, the running one or the last."""
    if not rollouts:
        return ["No group has been rolled since supervisord started."]
    return table([("GROUP", "ROLLOUT", "STATUS", "REPLACED", "TOOK", "WHY"), *map(_rollout_row, rollouts)])


def process_lines(
    group: str, rollout: View | None, processes: Sequence[View], listener: View, has_earlier: bool
) -> list[str]:
    """One group: its rollout, and its processes. ``has_earlier``: there are rollouts of it in the history."""
    processes = sorted(processes, key=lambda process: natural(process["name"]))
    head = (
        rollout_lines([rollout]) if rollout else [f"{NO_ROLLOUT}{EARLIER if has_earlier else ''}".format(group=group)]
    )
    is_guarded = any(process.get("guarded", True) for process in processes)  # an older supervisord does not tell
    warning = [] if is_guarded else [f"{group} is not guarded: {_unguarded_why(group, listener)}"]
    left = {p["name"]: p["lingering_connections"] for p in rollout["processes"]} if rollout else {}
    rows = [_process_row(process, left.get(process["name"], 0)) for process in processes]
    return [*head, *warning, "", *table([COLUMNS, *rows])]


def _unguarded_why(group: str, listener: View) -> str:
    """Why a group is not guarded: the cause that is known, or those that can be."""
    if listener.get("problem"):
        return NOT_GUARDED_INVALID.format(group=group)
    return NOT_GUARDED if listener.get("running", True) else NOT_GUARDED_ALONE


def _rollout_row(rollout: View) -> tuple[str, ...]:
    status = "paused" if rollout["paused"] and rollout["status"] == "running" else rollout["status"]
    status = "aborting" if rollout["aborting"] and rollout["status"] == "running" else status
    replaced = f"{rollout['replaced']}/{rollout['total']}"
    why = rollout["why"] or waits_text(rollout)
    return (rollout["group"], str(rollout["id"]), status, replaced, f"{rollout['seconds']:.1f} s", why)


def _process_row(process: View, left: int) -> tuple[str, ...]:
    return (
        process["name"],
        process["statename"],
        str(process["pid"] or "-"),
        process["stage"],
        f"{process['seconds']:.0f} s" if process["seconds"] else "-",
        "warm" if process["warm"] else "-",
        process["gate"],
        _why(process, left),
    )


def _why(process: View, left: int) -> str:
    """``left``: the connections that one which drains still has."""
    if not process["retry_in"]:
        return str(process["why"] or _UNDER_WAY.get(process["stage"], "").format(left=count_text(left)))
    attempted = _times(process["tries"])
    return f"{process['why']}; tried {attempted}, again in {process['retry_in']:.0f} s"


def _times(number: int) -> str:
    return f"{number} time{'' if number == 1 else 's'}"
