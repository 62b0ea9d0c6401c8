"""Two simulated worlds, each with a group of its own, behind one reconciler: an error in one must not reach the
other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from supervisor_rolling.core.actions import Action, Outcome
from supervisor_rolling.core.connections import Arrival, Connections
from supervisor_rolling.core.endpoint import Endpoint
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.jobs import NotificationJob, NotificationStatus, WarmupJob, WarmupStatus
from supervisor_rolling.core.policy import Config, Policy, PortRule
from supervisor_rolling.core.process import Incarnation
from supervisor_rolling.core.rollout import Rollout
from supervisor_rolling.core.snapshot import Snapshot
from supervisor_rolling.listener.gatekeeper import Gatekeeper
from supervisor_rolling.listener.reconciler import Reconciler
from tests.simulation.world import STEP, DeathWatch, World, fast_policy


class TwoGroups:
    """The groups ``app`` and ``web``. ``breaks`` maps a method and a group to what that call raises."""

    name = "two groups"

    def __init__(self) -> None:
        self.app = World(6)
        self.web = World(3, _policy("web", 9000), group="web", first_port=9001)
        self.web.mailbox = self.app.mailbox
        self.web._pids = self.app._pids
        for process in self.web.processes.values():
            process.pid = process.warm_pid = next(self.app._pids)
        self.worlds = {"app": self.app, "web": self.web}
        self.breaks: dict[tuple[str, str], Exception] = {}
        self.invalid: Mapping[str, str] = {}

    def reconciler(self) -> Reconciler:
        """A new listener for both."""
        one = self.app
        own = one.reconciler()
        self.web.reconciler()
        deaths = [DeathWatch(world) for world in self.worlds.values()]
        both = replace(
            own,
            supervisor=self,
            sockets=self,
            warmups=self,
            notifications=self,
            request_sniffer=_NoArrivals(),
            deaths=_Deaths(deaths),
            gatekeeper=Gatekeeper(lambda policy: self),
            load_config=lambda: self.config,
            latest_config=lambda: replace(self.config, groups=self.policies, invalid=self.invalid),
            clock=lambda: one.now,
        )
        both.begin()
        return both

    @property
    def policies(self) -> Mapping[str, Policy]:
        return {group: world.policy for group, world in self.worlds.items()}

    @property
    def config(self) -> Config:
        """As the file has it: without the policies that are invalid."""
        valid = {group: policy for group, policy in self.policies.items() if group not in self.invalid}
        return Config(self.app.gate_policy, valid, invalid=self.invalid)

    def live(self, reconciler: Reconciler, seconds: float, until: Callable[[], bool] = lambda: False) -> Reconciler:
        """Events, turns and time."""
        end = self.app.now + seconds
        while self.app.now < end and not until():
            reconciler.notice_deaths()
            reconciler.hear([change for world in self.worlds.values() for change in world._new_events()])
            due = self.app.now + reconciler.turn()
            self.pass_time(STEP)
            while self.app.now < due and not any(world._events for world in self.worlds.values()):
                self.pass_time(STEP)
        return reconciler

    def pass_time(self, seconds: float) -> None:
        for world in self.worlds.values():
            world.pass_time(seconds)

    def ask(self, group: str) -> dict[str, Any]:
        """A rollout of a group; time passes for both."""
        request = self.worlds[group].ask()
        for world in self.worlds.values():
            world.pass_time(max(0.0, self.worlds[group].now - world.now))
        return request

    def status(self, group: str) -> str:
        return self.worlds[group].rollout().status.value

    # --- the reconciler's side

    def _world_of(self, method: str, group: str) -> World:
        if (method, group) in self.breaks:
            raise self.breaks[method, group]
        return self.worlds[group]

    def look(self, guarded: Collection[str]) -> Snapshot:
        looks = [world.look(guarded) for world in self.worlds.values()]
        return Snapshot(
            {group: found for one in looks for group, found in one.rollouts.items()},
            tuple(request for one in looks for request in one.requests),
            {group: found for one in looks for group, found in one.processes.items()},
            looks[0].idle,
            {group: found for one in looks for group, found in one.guard_states.items()},
        )

    def record(self, rollout: Rollout, version: int, request: int = 0) -> None:
        self._world_of("record", rollout.group).record(rollout, version, request)

    def guard(self, guard_state: GuardState) -> None:
        self._world_of("guard", guard_state.group).guard(guard_state)

    def action(self, group: str, actions: Sequence[Action]) -> list[Outcome]:
        return self._world_of("action", group).action(group, actions)

    def connections(self, endpoints: Collection[Endpoint], oldest: int = 0) -> dict[Endpoint, Connections]:
        found: dict[Endpoint, Connections] = {}
        for group, own in self._by_group(endpoints).items():
            if own:
                found.update(self._world_of("connections", group).connections(own, oldest))
        return found

    def ports_of(self, pids: Collection[int]) -> dict[int, tuple[int, ...]]:
        app, web = (world.ports_of(pids) for world in self.worlds.values())
        return {pid: app[pid] or web[pid] for pid in pids}

    def tend(self, selected: Mapping[str, WarmupJob]) -> dict[str, WarmupStatus]:
        found = [world.tend(_of(group, selected)) for group, world in self.worlds.items()]
        return {key: warmup_status for one in found for key, warmup_status in one.items()}

    def give(self, selected: Mapping[str, NotificationJob]) -> dict[str, NotificationStatus]:
        found = [world.give(_of(group, selected)) for group, world in self.worlds.items()]
        return {key: notice for one in found for key, notice in one.items()}

    def peers(self) -> frozenset[str]:
        return self.app.peers() | self.web.peers()

    def hold(self, closed: Mapping[Endpoint, str], drained: Collection[Endpoint] = ()) -> dict[Endpoint, float]:
        groups = self._by_group(closed)
        found = [self.worlds[group].hold({one: closed[one] for one in own}) for group, own in groups.items()]
        return {endpoint: since for one in found for endpoint, since in one.items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.app, name)  # what is the same for both

    def _by_group(self, endpoints: Collection[Endpoint]) -> dict[str, list[Endpoint]]:
        return {
            "app": [one for one in endpoints if one.port < 9000],
            "web": [one for one in endpoints if one.port > 9000],
        }


class _NoArrivals:
    def watch(self, ports: Collection[int]) -> None:
        pass

    def take(self) -> list[Arrival]:
        return []


class _Deaths:
    def __init__(self, each: Sequence[DeathWatch]) -> None:
        self._each = each

    def watch(self, processes: Collection[Incarnation]) -> None:
        for each in self._each:
            each.watch({one for one in processes if one in self._those_of(each)})

    def take(self) -> set[Incarnation]:
        return {one for each in self._each for one in each.take()}

    def _those_of(self, each: DeathWatch) -> set[Incarnation]:
        return {process.incarnation for process in each._world.processes.values()}


def _policy(group: str, port: int) -> Policy:
    ports = PortRule(by_name={f"app-{n}": (port + n,) for n in range(1, 100)})
    return replace(fast_policy(), group=group, ports=ports)


def _of(group: str, selected: Mapping[str, Any]) -> dict[str, Any]:
    return {key: job for key, job in selected.items() if key.startswith(f"{group}:")}
