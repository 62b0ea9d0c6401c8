"""The groups as of now: the result of the last reconcile, updated by each event and death since.

After a death or an event, ports are closed before anything else is done: an observation takes milliseconds, in which a
new process may already accept connections.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence

from supervisor_rolling.core.flapping import Flapping
from supervisor_rolling.core.group import Group
from supervisor_rolling.core.poll_interval import RESTART_POLL
from supervisor_rolling.core.process import Change, Incarnation
from supervisor_rolling.core.process_states import ALIVE
from supervisor_rolling.core.snapshot import Snapshot
from supervisor_rolling.listener.apply import Applier
from supervisor_rolling.listener.contracts import DeathWatch
from supervisor_rolling.listener.group_errors import GroupErrors

log = logging.getLogger("supervisor_rolling")

NEVER = float("inf")
"""Seconds until a reconcile, after events that concern no group of ours."""


class LiveGroups:
    """For the loop's thread. ``by_name``: the groups."""

    def __init__(self, deaths: DeathWatch, applier: Applier, errors: GroupErrors, clock: Callable[[], float]) -> None:
        self._deaths = deaths
        self._applier = applier
        self._errors = errors
        self._clock = clock
        self._died: dict[Incarnation, float] = {}
        self._flaps = Flapping()
        self.by_name: Mapping[str, Group] = {}

    def watch(self, snapshot: Snapshot) -> None:
        """Begin a reconcile: hear of the deaths of these processes. supervisord may have kept us waiting for longer
        than the lease, so what is closed is closed again."""
        self._applier.renew()
        there = [process for table in snapshot.processes.values() for process in table.values()]
        self._deaths.watch([process.incarnation for process in there if process.state in ALIVE])

    def apply(self, groups: Mapping[str, Group]) -> None:
        """These are the groups now, less what has died since they were observed: hold what they need."""
        self.by_name = self._without_dead(groups, groups)
        self._applier.hold_gates(self.by_name)
        self._applier.hold_pools(self.by_name)

    def keep_closed(self) -> None:
        """A reconcile was left: what is closed stays closed, and deaths are not lost."""
        self.check_gate()
        self.on_deaths()
        _attempt(lambda: self._applier.hold_pools(self.by_name))

    def check_gate(self) -> None:
        """Close again what is to be closed and is found open."""
        _attempt(self._applier.renew)

    def gate_interval(self) -> float:
        """Seconds until ``check_gate`` is due."""
        return self._applier.gate_interval()

    def has_dead(self) -> bool:
        """Whether processes have died that supervisord still has as alive."""
        return bool(self._deaths.take())

    def release(self) -> None:
        """Open every gate: the listener exits."""
        self._applier.release()

    def on_events(self, changes: Sequence[Change]) -> float:
        """Close what these events ask for. Returns the seconds within which a reconcile is due: at once after news,
        soon where an event is old, comes after a lost one or is of a process that flaps, never where no group of ours
        is concerned. When a thousand processes start together, most of their three thousand events are old."""
        groups = dict(self.by_name)
        for change in changes:
            if change.group in groups:
                groups[change.group] = groups[change.group].with_event(change)
        exited = [f"{change.group}:{change.name}" for change in changes if change.state == "EXITED"]
        self._flaps.exited(exited, self._clock())
        if self._close(groups):
            return 0.0
        return RESTART_POLL if any(change.group in groups for change in changes) else NEVER

    def on_deaths(self) -> float:
        """Close what follows from the deaths. May be called while a reconcile waits for supervisord. Returns the
        seconds within which a reconcile is due."""
        return 0.0 if self._close(self.by_name) else RESTART_POLL

    def _dead(self) -> Mapping[Incarnation, float]:
        """Since when each process that has died is known to be dead."""
        now = self._clock()
        self._died = {one: self._died.get(one, now) for one in self._deaths.take()}
        return self._died

    def _close(self, groups: Mapping[str, Group]) -> bool:
        """Close what follows from these groups. Whether a reconcile is due at once. An error is logged and left to the
        next reconcile."""
        try:
            old, new = self.by_name, self._without_dead(groups, self.by_name)
            self.by_name = new
            if any(new[name] is not old[name] for name in new):
                self._applier.hold_gates(new)
            return any(self._is_news(name, old[name], new[name]) for name in new)
        except Exception:  # a listener that ends opens all gates
            log.exception("a bug in supervisor_rolling; the next reconcile observes everything again")
            return True

    def _without_dead(self, groups: Mapping[str, Group], before: Mapping[str, Group]) -> dict[str, Group]:
        """The groups without those that have died, guarded again where that makes them other than before."""
        dead = self._dead()

        def now(name: str, group: Group) -> Group:
            left = group.without_dead(dead)
            return left if left is before[name] else left.guarded_at(self._clock())

        return {
            name: self._errors.attempt(name, functools.partial(now, name, group), before[name])
            for name, group in groups.items()
        }

    def _is_news(self, group: str, old: Group, new: Group) -> bool:
        """Whether a process has changed that does not flap."""
        if new is old:
            return False
        before, after, now = old.observed.processes, new.observed.processes, self._clock()
        changed = [name for name in after if after[name] is not before.get(name)]
        return any(not self._flaps.has(f"{group}:{name}", now) for name in changed)


def _attempt(hold: Callable[[], None]) -> None:
    try:
        hold()
    except Exception:  # a listener that ends opens all gates
        log.exception("a bug in supervisor_rolling; closed ports stay closed until their lease expires")
