"""Whether the event listener that does the rollouts is running, and what to do if it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from supervisor.options import make_namespec
from supervisor.states import ProcessStates

from supervisor_rolling.core.errors import Fault
from supervisor_rolling.plugin.fault_barrier import RollingFault
from supervisor_rolling.plugin.mailbox import Mailbox
from supervisor_rolling.plugin.supervisor_settings import gets_doorbell

HEARTBEAT = 15.0
"""Seconds within which a healthy listener asks for its snapshot: TICK_5 wakes it every five."""

RESTARTING = (ProcessStates.EXITED, ProcessStates.BACKOFF, ProcessStates.STARTING)

STALLED = (
    "rollouts are stalled, and closed ports reopen, at the latest when their lease expires (30 s; HAProxy has none)"
)

ADD_LISTENER = (
    "no event listener gets ROLLING_REQUEST: add [eventlistener:rolling] to supervisord.conf, or that word to its "
    "events, and restart supervisord (echo_rolling_conf sections prints the section)"
)


class ListenerHealth:
    """Of one supervisord. ``clock``: CLOCK_MONOTONIC."""

    def __init__(self, supervisord: Any, mailbox: Mailbox, clock: Callable[[], float]) -> None:
        self._supervisord = supervisord
        self._mailbox = mailbox
        self._clock = clock

    def is_running(self) -> bool:
        """Whether a process that gets the doorbell runs or is being restarted, and has asked for its snapshot lately or
        was only just started: it will find new requests then."""
        there = [one for one in self._processes() if self._is_there(*one)]
        is_recent = self._clock() - self._mailbox.observed_at < HEARTBEAT
        return any(is_recent or self._mailbox.times.up_for(*one) < HEARTBEAT for one in there)

    def has_given_up(self) -> bool:
        """Whether supervisord restarts none of its processes. A stopped one may be in the middle of a restart."""
        listeners = self._processes()
        may_come = any(self._is_there(*one) or one[2].get_state() == ProcessStates.STOPPED for one in listeners)
        return bool(listeners) and not may_come

    def check(self) -> None:
        """Raise LISTENER_DOWN where it is not running."""
        if not self.is_running():
            raise RollingFault(Fault.LISTENER_DOWN, "the listener is not running: %s. Fix: %s" % (STALLED, self.fix()))

    def fix(self) -> str:
        """What starts it."""
        listeners = self._processes()
        if not listeners:
            return ADD_LISTENER
        verb = "restart" if listeners[0][2].pid else "start"  # one that hangs has a pid
        return "supervisorctl %s %s; if it does not start: supervisorctl status" % (verb, self.name())

    def name(self) -> str:
        """The name of its process in supervisorctl."""
        return next((make_namespec(group, name) for group, name, _ in self._processes()), "rolling")

    def shortest_uptime(self) -> float:
        """Seconds for which its youngest process has been up; 0.0: it has none."""
        return min((self._mailbox.times.up_for(*one) for one in self._processes()), default=0.0)

    def _processes(self) -> list[tuple[str, str, Any]]:
        """Each process that gets the doorbell, behind the names of its group and of its own."""
        pools = [(name, group) for name, group in self._supervisord.process_groups.items() if gets_doorbell(group)]
        return [(group, name, process) for group, pool in pools for name, process in pool.processes.items()]

    def _is_there(self, group: str, name: str, process: Any) -> bool:
        """Whether it runs, or exited a moment ago and is being restarted."""
        state = process.get_state()
        is_over = state == ProcessStates.EXITED and self._mailbox.times.stays_down(group, name)
        return bool(process.pid) or (state in RESTARTING and not is_over)
