"""``rolling_status`` as lines: what rolls, and how each process of a group stands."""

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

NO_ROLL = "supervisord knows of no roll of {group}."
EARLIER = " Earlier ones: supervisorctl rolling_history {group}"

COLUMNS = ("PROCESS", "STATE", "PID", "STAGE", "SINCE", "WARM", "GATE", "WHY")

_UNDER_WAY = {
    "draining": "{left} left",
    "restarting": "it stops, and starts again",
    "warming": "a new process, not warm yet",
    "settling": "open, and not counted as available yet",
}
"""What is said of a process of which nothing else is to be said."""


def problem_lines(listener: View, group: str) -> list[str]:
    """What ``getListener`` tells of rolling.yaml; an older supervisord tells nothing."""
    return [WRONG.format(problem=listener["problem"], group=group)] if listener.get("problem") else []


def listener_lines(listener: View, rolls: Sequence[View]) -> list[str]:
    """That the listener is not running, by what ``getListener`` tells, or the rolls where that tells nothing."""
    runs = listener.get("running", all(roll["listener"] for roll in rolls))
    return [] if runs else [NO_LISTENER + (listener.get("fix") or START_LISTENER)]


def roll_lines(rolls: Sequence[View]) -> list[str]:
    """The roll of every group, the running one or the last."""
    if not rolls:
        return ["No group has been rolled since supervisord started."]
    return table([("GROUP", "ROLL", "STATUS", "REPLACED", "TOOK", "WHY"), *map(_roll_row, rolls)])


def process_lines(
    group: str, roll: View | None, processes: Sequence[View], listener: View, has_earlier: bool
) -> list[str]:
    """One group: its roll, and its processes. ``has_earlier``: there are rolls of it in the history."""
    processes = sorted(processes, key=lambda process: natural(process["name"]))
    head = roll_lines([roll]) if roll else [f"{NO_ROLL}{EARLIER if has_earlier else ''}".format(group=group)]
    is_guarded = any(process.get("guarded", True) for process in processes)  # an older supervisord does not tell
    warning = [] if is_guarded else [f"{group} is not guarded: {_unguarded_why(group, listener)}"]
    left = {p["name"]: p["connections_left"] for p in roll["processes"]} if roll else {}
    rows = [_process_row(process, left.get(process["name"], 0)) for process in processes]
    return [*head, *warning, "", *table([COLUMNS, *rows])]


def _unguarded_why(group: str, listener: View) -> str:
    """Why a group is not guarded: the cause that is known, or those that can be."""
    if listener.get("problem"):
        return NOT_GUARDED_INVALID.format(group=group)
    return NOT_GUARDED if listener.get("running", True) else NOT_GUARDED_ALONE


def _roll_row(roll: View) -> tuple[str, ...]:
    status = "paused" if roll["paused"] and roll["status"] == "running" else roll["status"]
    status = "aborting" if roll["aborting"] and roll["status"] == "running" else status
    replaced = f"{roll['replaced']}/{roll['total']}"
    why = roll["why"] or waits_text(roll)
    return (roll["group"], str(roll["id"]), status, replaced, f"{roll['seconds']:.1f} s", why)


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
    tried = _times(process["tries"])
    return f"{process['why']}; tried {tried}, again in {process['retry_in']:.0f} s"


def _times(number: int) -> str:
    return f"{number} time{'' if number == 1 else 's'}"
