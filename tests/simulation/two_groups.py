"""Two groups of one supervisord: two simulated worlds behind one reconciler, with the clock of both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from supervisor_rolling.core.actions import Action, Outcome
from supervisor_rolling.core.connections import Arrival, Connections
from supervisor_rolling.core.endpoint import Endpoint
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.jobs import (
    HookJob,
    HookResult,
    NotificationJob,
    NotificationStatus,
    WarmupJob,
    WarmupStatus,
)
from supervisor_rolling.core.policy import Config, Policy, PortRule
from supervisor_rolling.core.process import Incarnation
from supervisor_rolling.core.rollout import Rollout
from supervisor_rolling.core.snapshot import Snapshot
from supervisor_rolling.listener.assembly import assemble
from supervisor_rolling.listener.reconciler import Reconciler
from supervisor_rolling.plugin.mailbox import PendingRequest
from tests.simulation.clients import STEP
from tests.simulation.kernel import FakeDeathWatch
from tests.simulation.world import World, fast_policy


class TwoGroups:
    """The groups ``app`` and ``web``. ``breaks`` maps a method and a group to what that call raises."""

    def __init__(self) -> None:
        self.app = World(6)
        self.web = World(3, _policy("web", 9000), group="web", first_port=9001)
        self.web.supervisor.mailbox = self.app.supervisor.mailbox
        self.web.pids = self.app.pids
        for process in self.web.processes.values():
            process.pid = process.warm_pid = next(self.app.pids)
        self.worlds = {"app": self.app, "web": self.web}
        self.breaks: dict[tuple[str, str], Exception] = {}
        self.invalid: Mapping[str, str] = {}
        self.reconciled_at: list[float] = []

    def reconciler(self, **other: Any) -> Reconciler:
        """A new listener for both. ``other``: other adapters than those of these worlds."""
        own = self.app.adapters()
        self.web.adapters()
        by_group = _ByGroup(self)
        both = replace(
            own,
            supervisor=_Supervisor(self),
            sockets=_Sockets(self),
            warmups=by_group,
            notifications=by_group,
            hooks=_Hooks(self),
            request_sniffer=_NoArrivals(),
            deaths=_Deaths(self),
            make_gate=lambda policy: _Gate(self),
            load_config=lambda: self.config,
            latest_config=lambda: replace(self.config, groups=self.policies, invalid=self.invalid),
        )
        return assemble(replace(both, **other))

    @property
    def policies(self) -> Mapping[str, Policy]:
        return {group: world.policy for group, world in self.worlds.items()}

    @property
    def config(self) -> Config:
        """As the file has it: without the policies that are invalid."""
        valid = {group: policy for group, policy in self.policies.items() if group not in self.invalid}
        return Config(self.app.gate_policy, valid, invalid=self.invalid)

    def live(self, reconciler: Reconciler, seconds: float, until: Callable[[], bool] = lambda: False) -> Reconciler:
        """Events, reconciles and time."""
        end = self.app.now + seconds
        while self.app.now < end and not until():
            reconciler.on_deaths()
            reconciler.on_events([change for world in self.worlds.values() for change in world.new_events()])
            self.reconciled_at.append(self.app.now)
            due = self.app.now + reconciler.reconcile()
            self.pass_time(STEP)
            while self.app.now < due and not self._is_woken():
                self.pass_time(STEP)
        return reconciler

    def _is_woken(self) -> bool:
        woken = [world.is_woken() for world in self.worlds.values()]
        return any(woken)

    def pass_time(self, seconds: float) -> None:
        for world in self.worlds.values():
            world.pass_time(seconds)

    def ask(self, group: str, kind: str = "restart") -> PendingRequest:
        """A request for a group; time passes for both."""
        request = self.worlds[group].ask(kind)
        for world in self.worlds.values():
            world.pass_time(max(0.0, self.worlds[group].now - world.now))
        return request

    def status(self, group: str) -> str:
        return self.worlds[group].rollout().status.value

    def world_of(self, method: str, group: str) -> World:
        """The world of a group, unless this method is broken for it."""
        if (method, group) in self.breaks:
            raise self.breaks[method, group]
        return self.worlds[group]


class _Supervisor:
    def __init__(self, both: TwoGroups) -> None:
        self._both = both

    def observe(self, guarded: Collection[str]) -> Snapshot:
        found = [world.supervisor.observe(guarded) for world in self._both.worlds.values()]
        return Snapshot(
            {group: rollout for one in found for group, rollout in one.rollouts.items()},
            tuple(request for one in found for request in one.requests),
            {group: processes for one in found for group, processes in one.processes.items()},
            found[0].idle,
            {group: state for one in found for group, state in one.guard_states.items()},
        )

    def record(self, rollout: Rollout, version: int, request: int = 0) -> None:
        self._both.world_of("record", rollout.group).supervisor.record(rollout, version, request)

    def guard(self, guard_state: GuardState) -> None:
        self._both.world_of("guard", guard_state.group).supervisor.guard(guard_state)

    def action(self, group: str, actions: Sequence[Action]) -> list[Outcome]:
        return self._both.world_of("action", group).supervisor.action(group, actions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._both.app.supervisor, name)  # what is the same for both


class _Sockets:
    def __init__(self, both: TwoGroups) -> None:
        self._both = both

    def connections(self, endpoints: Collection[Endpoint], oldest: int = 0) -> dict[Endpoint, Connections]:
        found: dict[Endpoint, Connections] = {}
        for group, own in _by_group(endpoints).items():
            if own:
                found.update(self._both.world_of("connections", group).sockets.connections(own, oldest))
        return found

    def ports_of(self, pids: Collection[int]) -> dict[int, tuple[int, ...]]:
        app, web = (world.sockets.ports_of(pids) for world in self._both.worlds.values())
        return {pid: app[pid] or web[pid] for pid in pids}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._both.app.sockets, name)


class _ByGroup:
    """The warm-ups and notifications of each group."""

    def __init__(self, both: TwoGroups) -> None:
        self._both = both

    def tend(self, group: str, selected: Mapping[str, WarmupJob]) -> Mapping[str, WarmupStatus]:
        return self._both.world_of("tend", group).warmups.tend(group, selected)

    def give(self, group: str, selected: Mapping[str, NotificationJob]) -> Mapping[str, NotificationStatus]:
        return self._both.world_of("give", group).notifications.give(group, selected)

    def peers(self) -> frozenset[str]:
        return self._both.app.notifications.peers() | self._both.web.notifications.peers()

    def end(self) -> None:
        for world in self._both.worlds.values():
            world.warmups.end()


class _Hooks:
    def __init__(self, both: TwoGroups) -> None:
        self._both = both

    def tend(self, group: str, selected: Mapping[str, HookJob]) -> Mapping[str, HookResult]:
        return self._both.world_of("hooks", group).hooks.tend(group, selected)

    def end(self) -> None:
        """Nothing runs on."""


class _Gate:
    name = description = "two groups"

    def __init__(self, both: TwoGroups) -> None:
        self._both = both

    def hold(self, closed: Mapping[Endpoint, str], drained: Collection[Endpoint] = ()) -> dict[Endpoint, float]:
        groups = _by_group(closed)
        found = [self._both.worlds[group].gate.hold({one: closed[one] for one in own}) for group, own in groups.items()]
        return {endpoint: since for one in found for endpoint, since in one.items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._both.app.gate, name)


class _NoArrivals:
    def watch(self, ports: Collection[int]) -> None:
        pass

    def take(self) -> list[Arrival]:
        return []


class _Deaths:
    def __init__(self, both: TwoGroups) -> None:
        self._each = [(world, FakeDeathWatch(world)) for world in both.worlds.values()]

    def watch(self, processes: Collection[Incarnation]) -> None:
        for world, each in self._each:
            own = {process.incarnation for process in world.processes.values()}
            each.watch({one for one in processes if one in own})

    def take(self) -> set[Incarnation]:
        return {one for _, each in self._each for one in each.take()}


def _by_group(endpoints: Collection[Endpoint]) -> dict[str, list[Endpoint]]:
    return {"app": [one for one in endpoints if one.port < 9000], "web": [one for one in endpoints if one.port > 9000]}


def _policy(group: str, port: int) -> Policy:
    ports = PortRule(by_name={f"app-{n}": (port + n,) for n in range(1, 100)})
    return replace(fast_policy(), group=group, ports=ports)
