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
from supervisor_rolling.ctl.rollout_lines import first_lines, last_lines
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
    """Show the rollout until it ends; returns the exit status."""
    session.has_watched, group = True, rollout["group"]
    screen = None if session.as_json else screen_for(session.output)
    if screen:
        session.print(rollout, first_lines(rollout, resumed))
    if screen and resumed:
        screen.skip(rollout)
    try:
        rollout = _until_end(session, rollout, screen.show if screen else lambda _: None)
    except KeyboardInterrupt:
        more = [f"To see it: supervisorctl rolling_status {group}", f"To abort it: supervisorctl rolling_abort {group}"]
        session.print({"error": NO_LONGER_WATCHING, "exit_status": INTERRUPTED}, ["", NO_LONGER_WATCHING, *more])
        return INTERRUPTED
    if screen:
        screen.close(rollout)
    session.print(rollout, last_lines(rollout, () if session.as_json else _processes_after(session, rollout)))
    return DONE if rollout["status"] == "done" else FAILED


def _until_end(session: Session, rollout: View, show: Callable[[View], None]) -> View:
    number, group, listener_gone_since, pause = rollout["id"], rollout["group"], 0.0, MIN_POLL
    while rollout["status"] == "running":
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
