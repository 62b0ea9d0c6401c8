"""Watching a rollout until it ends. The rollout does not depend on it: Ctrl-C ends the watching and nothing else."""

from __future__ import annotations

import http.client
import time
import xmlrpc.client
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from supervisor_rolling.core.errors import Fault
from supervisor_rolling.ctl.exit_status import (
    CONNECTION_ERRORS,
    DONE,
    FAILED,
    INTERRUPTED,
    NO_LISTENER,
    CommandError,
    connection_text,
)
from supervisor_rolling.ctl.progress import screen_for
from supervisor_rolling.ctl.rollout_lines import chain_line, first_lines, following_lines, last_lines
from supervisor_rolling.ctl.session import Session

View = Mapping[str, Any]

MIN_POLL = 0.1  # seconds between two questions to supervisord
MAX_POLL = 2.0  # at most
POLL_SHARE = 10
"""The pause is so many times as long as the last answer took: supervisord has one thread, which needs its time to show
a thousand processes and has the rollout to serve."""

LISTENER_TIMEOUT = 10.0
"""Seconds without a listener before the watching ends: supervisord restarts one that exited within a second."""

IF_KILLED = (
    "All ports reopen, at the latest when their lease expires. If supervisord was killed, its processes are still "
    "running and hold their ports: stop them before you start supervisord again"
)
NO_LONGER_WATCHING = "No longer watching. The rollout continues."


def watch(session: Session, rollout: View, resumed: bool) -> int:
    """Show the rollout, and those of the groups that follow it, until the last one ends; returns the exit status."""
    session.has_watched = True
    seen = [rollout]
    try:
        while True:
            seen[-1] = _watch_one(session, seen[-1], resumed and len(seen) == 1)
            seen[-1], following = _next_of(session, seen[-1])
            if following is None:
                break
            seen.append(following)
    except KeyboardInterrupt:
        group, names = seen[-1]["group"], ", ".join(seen[-1]["following"])
        more = [f"To see it: supervisorctl rolling_status {group}", f"To abort it: supervisorctl rolling_abort {group}"]
        text = f"{NO_LONGER_WATCHING}{names and f' Then: {names}.'}"
        session.print({"error": text, "exit_status": INTERRUPTED}, ["", text, *more])
        return INTERRUPTED
    last = seen[-1]
    if len(seen) > 1 or last["following"]:
        answer = {"rollouts": seen, "following": last["following"], "error": last["next_problem"]}
        session.print(answer, [*following_lines(last), chain_line(seen)])
    elif session.as_json:
        session.print(last, [])
    return DONE if last["status"] == "done" and not last["next_problem"] else FAILED


def _watch_one(session: Session, rollout: View, resumed: bool) -> View:
    """Show a rollout until it ends. Returns it as it ended; prints nothing with --json."""
    if session.as_json:
        return _until(session, rollout, _has_ended)
    screen = screen_for(session.output)
    session.print(rollout, [*first_lines(rollout, resumed), *following_lines({**rollout, "status": "running"})])
    if resumed:
        screen.skip(rollout)
    rollout = _until(session, rollout, _has_ended, screen.show)
    screen.close(rollout)
    session.print(rollout, last_lines(rollout, _processes_after(session, rollout)))
    return rollout


def _next_of(session: Session, rollout: View) -> tuple[View, View | None]:
    """The rollout as it is when the next group has started, or was refused; and the rollout of that group, if any."""
    if rollout["status"] != "done" or not rollout["following"]:
        return rollout, None
    group, number = rollout["following"][0], rollout["id"]
    rollout = _until(session, rollout, lambda now: bool(now["next_problem"] or _rollout_of(session, group, number)))
    return rollout, None if rollout["next_problem"] else _rollout_of(session, group, number)


def _has_ended(rollout: View) -> bool:
    return bool(rollout["status"] != "running")


def _until(
    session: Session, rollout: View, is_over: Callable[[View], bool], show: Callable[[View], None] = lambda _: None
) -> View:
    """Ask for the rollout until ``is_over``, and show it meanwhile."""
    number, group, listener_gone_since, pause = rollout["id"], rollout["group"], 0.0, MIN_POLL
    while not is_over(rollout):
        show(rollout)
        time.sleep(pause)
        asked_at = time.monotonic()
        rollout = _latest(session, group, number)
        now = time.monotonic()
        pause = min(max(MIN_POLL, POLL_SHARE * (now - asked_at)), MAX_POLL)
        if rollout["id"] != number:
            raise CommandError(
                f"rollout {number} of {group} has ended, and rollout {rollout['id']} has started. To see how it ended: "
                f"supervisorctl rolling_history {group}",
                FAILED,
                "rollout.unknown",
            )
        listener_gone_since = 0.0 if rollout["listener"] else listener_gone_since or now
        if listener_gone_since and now - listener_gone_since >= LISTENER_TIMEOUT:
            raise CommandError(
                f"the listener is not running: rollout {number} of {group} is stalled, and continues when the listener "
                "is started again. See why: supervisorctl status, supervisorctl tail rolling stderr",
                NO_LISTENER,
                "listener.down",
            )
    return rollout


def _rollout_of(session: Session, group: str, later_than: int) -> View | None:
    """The rollout of a group that began after the one with this number; None where there is none yet."""
    try:
        found: View = session.ask_packed("getRollout", group)
    except xmlrpc.client.Fault as fault:
        if fault.faultCode != Fault.NO_ROLLOUT_KNOWN:
            raise
        return None
    return found if found["id"] > later_than else None


def _latest(session: Session, group: str, number: int) -> View:
    try:
        found: View = session.ask_packed("getRollout", group)
    except xmlrpc.client.Fault as fault:
        if fault.faultCode != Fault.NO_ROLLOUT_KNOWN:  # supervisord remembers a rollout for as long as it lives
            raise
        text = f"supervisord was restarted: rollout {number} of {group} ended with it, and all ports are open"
        raise CommandError(text, FAILED, "rollout.lost") from None
    except PermissionError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise CommandError(connection_text(session.url, error, IF_KILLED), NO_LISTENER) from None
    return found


def _processes_after(session: Session, rollout: View) -> Sequence[View]:
    """The group after a rollout that left a process failed: a moment later the crash guard has taken it over, and
    decided whether it stays closed. Empty if nothing failed, or if supervisord does not answer."""
    if not any(process["stage"] == "failed" for process in rollout["processes"]):
        return ()
    time.sleep(MIN_POLL)
    try:
        found: Sequence[View] = session.ask_packed("getProcesses", rollout["group"])
    except CONNECTION_ERRORS:
        return ()
    return found
