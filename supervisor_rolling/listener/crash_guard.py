"""Which groups are guarded, by which policy, and on which ports: what ``core.guard`` needs.

Remembers nothing that cannot be lost: policies are read again, ports are found again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from supervisor_rolling.core import guard
from supervisor_rolling.core.endpoint import Endpoint, Endpoints
from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.core.policy import Config, Policy
from supervisor_rolling.core.ports import are_shared, endpoints_for
from supervisor_rolling.core.process import Incarnation, Process
from supervisor_rolling.core.snapshot import Snapshot
from supervisor_rolling.listener.contracts import Sockets
from supervisor_rolling.listener.own_endpoints import seen

log = logging.getLogger("supervisor_rolling")

NONE = Incarnation()
"""In place of the incarnation that known ports are of, where that is not known."""


class CrashGuard:
    """For the loop's thread. ``with_min_ready`` gives a policy the ``min_ready_seconds`` that these ports ask for,
    with this gate's backend."""

    def __init__(
        self,
        sockets: Sockets,
        latest_config: Callable[[], Config | None],  # None: there has been no valid one
        with_min_ready: Callable[[Policy, Endpoints, str], Policy],
    ) -> None:
        self._sockets = sockets
        self._latest_config = latest_config
        self._with_min_ready = with_min_ready
        self._config: Config | None = None
        self._policies: Mapping[str, Policy] = {}
        self._by_rule: dict[str, tuple[Policy, dict[str, tuple[Endpoint, ...]]]] = {}
        self._by_kernel: dict[str, dict[str, tuple[Incarnation, tuple[Endpoint, ...]]]] = {}
        self._claims: dict[str, Counter[Endpoint]] = {}
        self._complaints: dict[tuple[str, str], str] = {}

    def begin(self) -> Collection[str]:
        """Begin a reconcile, with the policies as they are now. Returns the groups that are to be guarded."""
        self._config = self._latest_config()
        groups = self._config.groups if self._config else {}
        self._policies = {group: policy for group, policy in groups.items() if policy.is_guarded or policy.surge}
        return self._policies.keys()

    def ended(self, snapshot: Snapshot) -> list[str]:
        """The groups that are guarded and are not to be any more; without those with a policy that cannot be read."""
        return [g for g in snapshot.guard_states if g not in self._policies and not self._is_unread(g)]

    def groups(self, snapshot: Snapshot) -> list[str]:
        """The groups that are guarded."""
        there = [group for group in self._policies if snapshot.processes.get(group)]
        self._claims = {group: claims for group, claims in self._claims.items() if group in there}
        return [*there, *filter(self._is_unread, snapshot.guard_states)]

    def state(self, group: str, snapshot: Snapshot, at: float) -> GuardState | None:
        """The guard's state of a group, by today's policy; None if it is not guarded."""
        known, policy, processes = snapshot.guard_states.get(group), self._policies.get(group), snapshot.processes
        if known and self._is_unread(group):
            return known
        if self._config is None or policy is None or not processes.get(group):
            return None
        guard_state = known or self._begun(policy, self._config, processes[group], at)
        if policy.min_ready_auto:
            endpoints = self.endpoints(replace(guard_state, policy=policy), processes[group])
            policy = self._with_min_ready(policy, endpoints, self._config.gate.backend)
        return guard.with_policy(guard_state, policy, self._config.gate, at)

    def _is_unread(self, group: str) -> bool:
        """Whether a guarded group keeps the policy in its state, because this listener has never read a valid one."""
        config = self._config
        return config is None or (group in config.invalid and group not in config.groups)

    def endpoints(self, guard_state: GuardState, processes: Mapping[str, Process]) -> Endpoints:
        """The endpoints of each process of which they are known; none where it shares them: it cannot be guarded."""
        policy = guard_state.policy
        if not policy.is_guarded:  # it is here for its spares alone
            return {} if policy.ports.are_own else dict.fromkeys(processes, ())
        found = self._listening(guard_state, processes) if policy.is_auto else self._ruled(policy, processes)
        self._claims[policy.group] = Counter(one for endpoints in found.values() for one in endpoints)
        shared = self._shared(policy.group)
        without = [name for name in processes if not found[name] and not policy.is_auto]
        sharing = [name for name, endpoints in found.items() if not shared.isdisjoint(endpoints)]
        is_by_design = policy.is_auto and are_shared(found.values())
        self._complain(policy.group, "finds no port for", without)
        self._complain(policy.group, "gives a port of another process to", [] if is_by_design else sharing)
        return {name: () if name in sharing else own for name, own in found.items() if own}

    def _shared(self, group: str) -> frozenset[Endpoint]:
        """The endpoints that more than one process has: to close one of them would close all."""
        own = self._claims[group]
        others = (claims for name, claims in self._claims.items() if name != group)
        twice = {endpoint for endpoint, times in own.items() if times > 1}
        return frozenset(twice.union(*(own.keys() & claims.keys() for claims in others)))

    def _begun(self, policy: Policy, config: Config, processes: Mapping[str, Process], at: float) -> GuardState:
        empty = GuardState(policy.group, policy, config.gate)
        self._by_kernel.pop(policy.group, None)  # supervisord may have removed the group and added it anew
        if policy.is_guarded:
            log.info("%s: the crash guard is on: no new process gets traffic before it is warm", policy.group)
        return guard.begin(empty, processes, self.endpoints(empty, processes), at)

    def _ruled(self, policy: Policy, processes: Mapping[str, Process]) -> Endpoints:
        rule, known = self._by_rule.get(policy.group, (None, {}))
        if rule != policy or known.keys() != processes.keys():
            known = {name: endpoints_for(policy, name) for name in processes}
            self._by_rule[policy.group] = (policy, known)
        return known

    def _listening(self, guard_state: GuardState, processes: Mapping[str, Process]) -> Endpoints:
        """``ports: auto``: what each process listens on. Until a new process is warm, what the one before it listened
        on: the load balancer sends to that port, and a process that listens elsewhere must not become warm there."""
        before = self._by_kernel.get(
            guard_state.group, {guarded.name: (NONE, guarded.endpoints) for guarded in guard_state.guarded}
        )
        known = {name: before.get(name, (NONE, ())) for name in processes}
        asked = {
            name: process.incarnation
            for name, process in processes.items()
            if process.state == "RUNNING" and process.pid
            if not known[name][1] or (process.warm and known[name][0] != process.incarnation)
        }
        found, why = self._seen(guard_state.policy, {name: one.pid for name, one in asked.items()})
        for name, one in asked.items():
            known[name] = (one, found[name]) if found[name] else (NONE, known[name][1])
        self._by_kernel[guard_state.group] = known
        self._complain(
            guard_state.group,
            "is auto, but it is not known which ports are those of",
            list(why),
            next(iter(why.values()), ""),
        )
        return {name: endpoints for name, (_, endpoints) in known.items()}

    def _seen(self, policy: Policy, pids: Mapping[str, int]) -> tuple[Endpoints, dict[str, str]]:
        """Those of each process, and the reason where they cannot be seen. All at once, which reads /proc once; where
        one cannot be seen, one by one."""
        if not pids:
            return {}, {}
        try:
            found = seen(self._sockets, policy, list(pids.values()))
            return {name: found[pid] for name, pid in pids.items()}, {}
        except SocketsError as error:
            if len(pids) == 1:
                return dict.fromkeys(pids, ()), dict.fromkeys(pids, str(error))
        each = [self._seen(policy, {name: pid}) for name, pid in pids.items()]
        return {k: v for found, _ in each for k, v in found.items()}, {k: v for _, why in each for k, v in why.items()}

    def _complain(self, group: str, problem: str, names: list[str], why: str = "") -> None:
        """Log once which processes cannot be guarded. What was logged is remembered by ``problem``."""
        text = ", ".join(sorted(names, key=natural))
        if text and text != self._complaints.get((group, problem)):
            log.warning(
                "groups.%s.ports %s %s: they are not guarded%s",
                group,
                problem,
                text,
                why and f". {why}",
                extra={"code": "config.ports"},
            )
        self._complaints[group, problem] = text
