"""``rolling_status``: the rollout of every group, or one group process by process."""

from __future__ import annotations

import argparse
import xmlrpc.client
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor_rolling.core.errors import Fault
from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.core.reason import see
from supervisor_rolling.ctl.exit_status import DONE
from supervisor_rolling.ctl.loaded_version import version_text
from supervisor_rolling.ctl.rollout_lines import counted, draining_text, following_lines, is_reached, waits_text
from supervisor_rolling.ctl.session import Session
from supervisor_rolling.ctl.text_table import table
from supervisor_rolling.ctl.usage import group_of, name_of

View = Mapping[str, Any]

NO_LISTENER_TEXT = (
    "The listener is not running: rollouts are stalled, and closed ports reopen, at the latest when their lease "
    "expires (30 s; HAProxy has none). Fix: {fix}. See: supervisor_rolling help listener.down"
)
INVALID = (
    "rolling.yaml is invalid: {problem}. Every problem: supervisorctl rolling_check {group}. "
    "See: supervisor_rolling help config"
)

UNGUARDED = "{group} is not guarded against crashes: {why}"
UNGUARDED_INVALID = "rolling.yaml is invalid (see above), or has guard: false for {group}, or does not have the group"
UNGUARDED_NO_LISTENER = "the listener is not running (see above)"
UNGUARDED_OTHER = (
    "rolling.yaml has guard: false for it, or ports: none, or does not have the group, or the listener has only just "
    "started"
)

NO_ROLLOUT = "No rollout of {group} since supervisord started."
EARLIER = " Earlier ones: supervisorctl rolling_history {group}"

ROLLOUT_COLUMNS = ("GROUP", "ROLLOUT", "STATUS", "REPLACED", "TOOK", "WHY")
PROCESS_COLUMNS = ("PROCESS", "STATE", "PID", "STAGE", "SINCE", "WARM", "GATE", "WHY")

_UNDER_WAY = {
    "restarting": "is stopping, will be started again",
    "warming": "a new process, not warm yet",
    "ready": "open, not yet counted as available",
}
"""What stands in the column WHY of a process that gives no reason itself."""


def status(session: Session, options: argparse.Namespace) -> int:
    """Print the rollout of every group, or the processes of one group."""
    if options.group is None:
        rollouts, listener = session.ask_packed("getAllRollouts"), session.ask("getListener")
        lines = [*listener_lines(listener), *problem_lines(listener, "GROUP"), *rollout_lines(rollouts)]
        session.print({"rollouts": rollouts, "listener": listener}, lines)
        return DONE
    name = name_of(options.group)
    group = group_of(name)
    processes, rollout = session.ask_packed("getProcesses", name), _last_rollout(session, group)
    listener = session.ask("getListener")
    has_earlier = rollout is None and not session.as_json and _has_history(session, group)
    warning = [*listener_lines(listener), *problem_lines(listener, group)]
    lines = [*warning, *process_lines(group, rollout, processes, listener, has_earlier)]
    session.print({"rollout": rollout, "processes": processes, "listener": listener}, lines)
    return DONE


def _last_rollout(session: Session, group: str) -> View | None:
    """The running one, or the last that supervisord remembers."""
    try:
        found: View = session.ask_packed("getRollout", group)
    except xmlrpc.client.Fault as fault:
        if fault.faultCode != Fault.NO_ROLLOUT_KNOWN:
            raise
        return None
    return found


def _has_history(session: Session, group: str) -> bool:
    """Whether the listener has earlier rollouts of the group; False if it does not answer, as the status says why."""
    try:
        return bool(session.ask("getHistory", group, 1))
    except xmlrpc.client.Fault:
        return False


def listener_lines(listener: View) -> list[str]:
    """A warning if the listener is not running, or cannot be started again because supervisord has another version of
    the plugin loaded; ``listener``: as from ``rolling.getListener``."""
    version = version_text(listener)
    if version:
        return [version]
    return [] if listener["running"] else [NO_LISTENER_TEXT.format(fix=listener["fix"])]


def problem_lines(listener: View, group: str) -> list[str]:
    """A warning if rolling.yaml is invalid."""
    return [INVALID.format(problem=listener["problem"], group=group)] if listener["problem"] else []


def rollout_lines(rollouts: Sequence[View]) -> list[str]:
    """A table with the running or the last rollout of each group."""
    if not rollouts:
        return ["No rollout since supervisord started."]
    return table([ROLLOUT_COLUMNS, *map(_rollout_row, rollouts)])


def process_lines(
    group: str, rollout: View | None, processes: Sequence[View], listener: View, has_earlier: bool
) -> list[str]:
    """One group: its rollout, and a table of its processes. ``has_earlier``: the history has rollouts of it."""
    head = rollout_lines([rollout]) if rollout else [(NO_ROLLOUT + EARLIER * has_earlier).format(group=group)]
    draining = {p["name"]: draining_text(p) for p in rollout["processes"]} if rollout else {}
    codes = sorted({process["code"] for process in processes if process["code"]})
    rows = [_process_row(p, draining.get(p["name"], "")) for p in sorted(processes, key=lambda p: natural(p["name"]))]
    return [
        *head,
        *_unguarded_lines(group, rollout, processes, listener),
        "",
        *table([PROCESS_COLUMNS, *rows]),
        *map(see, codes),
    ]


def _unguarded_lines(group: str, rollout: View | None, processes: Sequence[View], listener: View) -> list[str]:
    """Why no crash guard closes its ports; nothing where it has none."""
    theirs = [is_reached(process) for process in rollout["processes"]] if rollout else []
    if (theirs and not any(theirs)) or any(process["guarded"] for process in processes):
        return []
    why = UNGUARDED_OTHER if listener["running"] else UNGUARDED_NO_LISTENER
    why = UNGUARDED_INVALID.format(group=group) if listener["problem"] else why
    return [UNGUARDED.format(group=group, why=why)]


def _rollout_row(rollout: View) -> tuple[str, ...]:
    state = rollout["status"]
    if state == "running":
        state = "aborting" if rollout["aborting"] else "paused" if rollout["paused"] else state
    replaced = f"{rollout['replaced']}/{rollout['total']}"
    why = "; ".join(filter(None, [rollout["why"] or waits_text(rollout), *following_lines(rollout)]))
    return (rollout["group"], str(rollout["id"]), state, replaced, f"{rollout['seconds']:.1f} s", why)


def _process_row(process: View, draining: str) -> tuple[str, ...]:
    """``draining``: what its drain waits for, if it drains."""
    why = process["why"] or (draining if process["stage"] == "draining" else _UNDER_WAY.get(process["stage"], ""))
    if process["retry_in"]:
        why = f"{process['why']}; {counted(process['tries'], 'attempt')}, next in {process['retry_in']:.0f} s"
    return (
        process["name"],
        process["statename"],
        str(process["pid"] or "-"),
        process["stage"],
        f"{process['seconds']:.0f} s" if process["seconds"] else "-",
        "warm" if process["warm"] else "-",
        process["gate"],
        why,
    )
