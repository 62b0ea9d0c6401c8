"""Observes the members that drain: which connections are left, and what still comes although the port is closed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from supervisor_rolling.core.connections import GONE_CLIENT, Connection, Connections, KeepaliveReuse
from supervisor_rolling.core.drain import is_overdue
from supervisor_rolling.core.endpoint import Endpoint, unix_paths
from supervisor_rolling.core.gate_leaks import GateLeaks
from supervisor_rolling.core.group import draining
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.lingering import MAX_SHOWN, oldest
from supervisor_rolling.core.process_states import closed_since
from supervisor_rolling.core.rollout import Member, Rollout
from supervisor_rolling.listener.contracts import DrainNotifications, Sockets
from supervisor_rolling.listener.gatekeeper import Gatekeeper
from supervisor_rolling.listener.keepalive_pools import KeepalivePools
from supervisor_rolling.listener.reuse_observer import ReuseObserver


@dataclass(frozen=True)
class Drains:
    """What was seen of the members of one group that drain, by name. The fields are those of ``Observation``."""

    unclosed: Mapping[str, float] = field(default_factory=dict)
    connections: Mapping[str, int] = field(default_factory=dict)
    oldest: Mapping[str, tuple[Connection, ...]] = field(default_factory=dict)
    leaks: Mapping[str, str] = field(default_factory=dict)
    reuses: Mapping[str, KeepaliveReuse] = field(default_factory=dict)
    idle_for: Mapping[str, float] = field(default_factory=dict)
    opaque: frozenset[str] = frozenset()


class DrainObserver:
    """Remembers, of each group, the connections behind its closed gates. A new object forgets, and observes again."""

    def __init__(
        self,
        sockets: Sockets,
        gatekeeper: Gatekeeper,
        pools: KeepalivePools,
        reuses: ReuseObserver,
        notifications: DrainNotifications,
    ) -> None:
        self._sockets = sockets
        self._gatekeeper = gatekeeper
        self._pools = pools
        self._reuses = reuses
        self._notifications = notifications
        self._leaks: dict[str, GateLeaks] = {}
        self._unclosed: dict[str, dict[str, float]] = {}

    def begin(self, rollouts: Mapping[str, Rollout]) -> None:
        """Begin a reconcile of these rollouts."""
        self._leaks = {group: leaks for group, leaks in self._leaks.items() if group in rollouts}
        self._unclosed = {group: since for group, since in self._unclosed.items() if group in rollouts}
        self._reuses.begin(rollouts)

    def of(self, rollout: Rollout, at: float) -> Drains:
        """What is seen now. ``at`` was read before."""
        members = draining(rollout)
        found = self._connections(members, rollout, at)
        ours = self._notifications.peers()  # asked after the kernel, so that none is missing that it found
        peers = {m.name: frozenset(peer for one in m.endpoints for peer in found[one].peers) - ours for m in members}
        unclosed = self._unclosed_since(rollout.group, members, at)
        left = self._gatekeeper.in_flight(found) if found else None
        leaks = self._leaks_of(rollout.group, [m for m in members if _shows_leaks(m, rollout)], peers, at)
        if left is not None:
            leaks = self._past_the_balancer(leaks, members, found, rollout, at)
        closing = [m for m in members if self._pools.is_closing(m)]
        return Drains(
            unclosed=unclosed,
            connections={m.name: len(peers[m.name]) if left is None else _sum(m, left) for m in members},
            oldest={m.name: oldest(one for end in m.endpoints for one in found[end].oldest) for m in members},
            leaks=leaks,
            reuses=self._reuses.of(rollout, members, peers, self._closed_since(members), at),
            idle_for={m.name: min(found[one].idle_for for one in m.endpoints) for m in closing},
            opaque=frozenset(m.name for m in closing if self._pools.is_opaque(m)),
        )

    def left_of_spares(self, guard_state: GuardState | None) -> dict[str, int]:
        """The number of connections of each process that the guard has closed because it is to be the spare."""
        spares = [one for one in guard_state.guarded if one.spare and one.closed] if guard_state else []
        if not spares:
            return {}
        found = self._sockets.connections([end for one in spares for end in one.endpoints])
        left = self._gatekeeper.in_flight(found) or {end: len(those.peers) for end, those in found.items()}
        return {one.name: sum(left[end] for end in one.endpoints) for one in spares}

    def end(self) -> None:
        """Observe nothing any more."""
        self._reuses.end()

    def _connections(self, members: Sequence[Member], rollout: Rollout, at: float) -> Mapping[Endpoint, Connections]:
        """Of all endpoints that drain. Their age is asked when the time of one is over, and when bytes last moved where
        pools are closed."""
        endpoints = [one for member in members for one in member.endpoints]
        if not endpoints:
            return {}
        closed, policy = self._gatekeeper.closed_since, rollout.policy.drain
        is_late = any(is_overdue(member, at, closed, policy) for member in members)
        return self._sockets.connections(endpoints, oldest=MAX_SHOWN if is_late or policy.keepalive == "nginx" else 0)

    def _leaks_of(
        self, group: str, members: Sequence[Member], peers: Mapping[str, frozenset[str]], at: float
    ) -> dict[str, str]:
        """The clients that got through a closed gate. If a port was open for a moment since the gate was last read
        (another program flushed the rules), it is closed again, and that was no leak."""
        since = self._closed_since(members)
        peers = {
            name: frozenset(peer for peer in those if not peer.startswith(GONE_CLIENT))
            for name, those in peers.items()
            if name in since
        }
        found = self._leaks.setdefault(group, GateLeaks()).find(peers, since, at)
        if found:
            self._gatekeeper.renew()
        now = self._closed_since(members)
        return {name: peer for name, peer in found.items() if now[name] == since[name]}

    def _past_the_balancer(
        self,
        leaks: Mapping[str, str],
        members: Sequence[Member],
        found: Mapping[Endpoint, Connections],
        rollout: Rollout,
        at: float,
    ) -> dict[str, str]:
        """With a gate in the load balancer, a new connection may be the balancer's own: a check, or what it had queued.
        It is a leak only if, when the time of the drain is over, connections are left that are not the balancer's."""
        closed, policy = self._gatekeeper.closed_since, rollout.policy.drain
        late = [m for m in members if m.name in leaks and is_overdue(m, at, closed, policy)]
        bypassed = self._gatekeeper.bypassed(found) if late else frozenset()
        return {m.name: leaks[m.name] for m in late if bypassed.intersection(m.endpoints)}

    def _unclosed_since(self, group: str, members: Sequence[Member], at: float) -> dict[str, float]:
        """Since when the gate of each member has not been known to be closed."""
        known = self._unclosed.get(group, {})
        unclosed = [name for name, since in self._closed_since(members).items() if since == math.inf]
        self._unclosed[group] = {name: known.get(name, at) for name in unclosed}
        return self._unclosed[group]

    def _closed_since(self, members: Sequence[Member]) -> dict[str, float]:
        return {member.name: closed_since(member, self._gatekeeper.closed_since) for member in members}


def _shows_leaks(member: Member, rollout: Rollout) -> bool:
    """Not at a unix socket where the listener connects itself: its connection there looks like any other."""
    return not (rollout.policy.drain.request and unix_paths(member.endpoints))


def _sum(member: Member, left: Mapping[Endpoint, int]) -> int:
    return sum(left[endpoint] for endpoint in member.endpoints)
