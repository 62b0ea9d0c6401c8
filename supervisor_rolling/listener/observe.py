"""Observes a group: puts together what supervisord, the kernel and the listener's own threads say of it."""

from __future__ import annotations

from collections.abc import Callable, Collection

from supervisor_rolling.core.group import Group, kept_down
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.rollout import Rollout
from supervisor_rolling.core.snapshot import Snapshot
from supervisor_rolling.listener.actions import Actions
from supervisor_rolling.listener.crash_guard import CrashGuard
from supervisor_rolling.listener.drain_observer import DrainObserver, Drains
from supervisor_rolling.listener.gatekeeper import Gatekeeper
from supervisor_rolling.listener.held_ports import HeldPorts
from supervisor_rolling.listener.workers import Workers

MAX_OBSERVATION_INTERVAL = 2.0
"""Seconds between two observations beyond which nothing could act: the listener was away, or kept waiting."""


class Observer:
    """For the loop's thread."""

    def __init__(
        self,
        guards: CrashGuard,
        workers: Workers,
        drains: DrainObserver,
        held_ports: HeldPorts,
        gatekeeper: Gatekeeper,
        actions: Actions,
        clock: Callable[[], float],
    ) -> None:
        self._guards = guards
        self._workers = workers
        self._drains = drains
        self._held_ports = held_ports
        self._gatekeeper = gatekeeper
        self._actions = actions
        self._clock = clock
        self._gaps: dict[str, float] = {}  # in which nothing was observed, and that no decision has made up for yet
        self._known: set[str] = set()

    def guarded(self) -> Collection[str]:
        """The groups that are to be guarded, by rolling.yaml as it is now."""
        return self._guards.begin()

    def ended(self, snapshot: Snapshot) -> list[str]:
        """The groups that are guarded and are not to be any more."""
        return self._guards.ended(snapshot)

    def begin(self, snapshot: Snapshot) -> list[str]:
        """Begin a reconcile: the names of the groups that have a rollout or a guard."""
        rollouts = {name: rollout for name, (_, rollout) in snapshot.rollouts.items()}
        groups = list(dict.fromkeys([*rollouts, *self._guards.groups(snapshot)]))
        for gone in self._known - set(groups):
            self._workers.tend(gone)
        self._known = set(groups)
        missed = snapshot.idle if snapshot.idle > MAX_OBSERVATION_INTERVAL else 0.0
        self._gaps = {name: self._gaps.get(name, 0.0) + missed for name in groups}
        self._drains.begin(rollouts)
        return groups

    def observe(self, name: str, snapshot: Snapshot) -> Group:
        """One group, now."""
        rollout: Rollout | None = snapshot.rollouts.get(name, (0, None))[1]
        processes = snapshot.processes.get(name, {})
        guard_state = self._guards.state(name, snapshot, self._clock())
        progress = self._workers.tend(name, rollout, guard_state, processes)
        at = self._clock()
        drains = self._drains.of(rollout, at) if rollout else Drains()
        observed = Observation(
            at=at,
            processes=processes,
            gap=self._gaps[name],
            closed=self._gatekeeper.closed_since,
            gate_problem=self._gatekeeper.problem,
            unclosed=drains.unclosed,
            connections={**drains.connections, **self._drains.left_of_spares(guard_state)},
            oldest=drains.oldest,
            leaks=drains.leaks,
            reuses=drains.reuses,
            warmups=progress.warmups,
            refusals=self._actions.refusals(rollout, processes) if rollout else {},
            held=self._held_ports.of(name, kept_down(rollout, guard_state, processes)),
            hook=progress.hook,
            signalled=self._actions.signalled(rollout) if rollout else frozenset(),
            being_notified=progress.notifying,
            idle_for=drains.idle_for,
            opaque=drains.opaque,
        )
        endpoints = self._guards.endpoints(guard_state, processes) if guard_state else {}
        return Group(rollout, guard_state, observed, endpoints)

    def kept(self, name: str, snapshot: Snapshot, before: Group | None) -> Group:
        """A group that failed in this reconcile: as the last one left it or, if that is of another rollout, as
        supervisord has it. Its closed ports stay closed."""
        rollout, guard_state = snapshot.rollouts.get(name, (0, None))[1], snapshot.guard_states.get(name)
        if before and (before.rollout.id if before.rollout else 0) == (rollout.id if rollout else 0):
            return before
        endpoints = {m.name: m.endpoints for m in rollout.members} if rollout else {}
        endpoints.update({guarded.name: guarded.endpoints for guarded in guard_state.guarded} if guard_state else {})
        return Group(rollout, guard_state, Observation(self._clock(), snapshot.processes.get(name, {})), endpoints)

    def decided(self, name: str) -> None:
        """The deadlines of a group have been extended by the gap before it, and that is recorded."""
        self._gaps[name] = 0.0

    def end(self) -> None:
        """The listener exits."""
        self._drains.end()
        self._workers.end()
