"""Reloads supervisord after ``setup``, and waits until all is there again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from supervisor_rolling.core.text import listed
from supervisor_rolling.ctl.exit_status import CONNECTION_ERRORS, NO_LISTENER, CommandError
from supervisor_rolling.ctl.session import Session

TIMEOUT = 120.0
"""Seconds for supervisord to stop and start every program. The slowest stop takes its stopwaitsecs."""

LISTEN_TIMEOUT = 30.0
"""Seconds for a process that counts as RUNNING to listen on its port: ``startsecs`` does not wait for that."""

POLL = 0.2

Info = Mapping[str, Any]
Pids = Mapping[tuple[str, str], int]
"""Of the processes that ran, by group and name."""


def reload(session: Session) -> float:
    """Reload, and wait until the plugin is loaded and every program runs again that ran before. Returns the seconds
    that it took. Raises CommandError at the deadline."""
    began = time.monotonic()
    before = {(one["group"], one["name"]): one["pid"] for one in session.ask_supervisord("getAllProcessInfo")}
    session.ask_supervisord("restart")
    while missing := _missing(session, before):
        if time.monotonic() >= began + TIMEOUT:
            raise CommandError(
                f"{TIMEOUT:g} s after the reload {missing}. Fix: see supervisorctl status, supervisorctl maintail",
                NO_LISTENER,
            )
        time.sleep(POLL)
    return time.monotonic() - began


def _missing(session: Session, before: Pids) -> str:
    """What does not run yet; empty: nothing."""
    try:
        if not any(name.startswith("rolling.") for name in session.ask_methods()):
            return "the plugin is not loaded"
        waiting = not_again(before, session.ask_supervisord("getAllProcessInfo"))
        if waiting:
            return f"{listed(waiting)} does not run again"
        return "" if session.ask("getListener")["running"] else "the listener does not run"
    except CONNECTION_ERRORS:
        return "supervisord does not answer"


def checked(session: Session, group: str) -> Mapping[str, Any]:
    """The report of a check of a group, after its processes listen, or the deadline for that."""
    until = time.monotonic() + LISTEN_TIMEOUT
    while True:
        report: Mapping[str, Any] = session.ask("check", group)
        is_silent = any(finding["code"] == "config.ports" for finding in report["findings"])
        if not is_silent or time.monotonic() >= until:
            return report
        time.sleep(POLL)


def not_again(before: Pids, now: Iterable[Info]) -> list[str]:
    """The processes that ran and do not run again as new ones. One that supervisord does not start by itself
    (``autostart = false``) is not waited for: it has never been started since."""
    return [
        f"{one['group']}:{one['name']}"
        for one in now
        if (pid := before.get((one["group"], one["name"])))
        and (one["statename"] != "RUNNING" or one["pid"] == pid)
        and not (one["statename"] == "STOPPED" and not one["start"])
    ]
