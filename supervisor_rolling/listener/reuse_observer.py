"""Observes requests on keep-alive connections that are older than the closed gate, and names the program that sends
them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from supervisor_rolling.core.connections import Arrival, KeepaliveReuse
from supervisor_rolling.core.drain import POOL_REFUSED
from supervisor_rolling.core.group import draining
from supervisor_rolling.core.keepalive_reuse import KeepaliveReuses
from supervisor_rolling.core.rollout import Member, Rollout
from supervisor_rolling.listener.contracts import Background, Clients, RequestSniffer
from supervisor_rolling.listener.keepalive_pools import KeepalivePools, is_for_pools


class ReuseObserver:
    """Remembers what each connection carried. A new object counts anew."""

    def __init__(
        self, sniffer: RequestSniffer, pools: KeepalivePools, clients: Clients, background: Background
    ) -> None:
        self._sniffer = sniffer
        self._pools = pools
        self._clients = clients
        self._background = background
        self._arrivals: Sequence[Arrival] = ()
        self._reuses: dict[str, KeepaliveReuses] = {}
        self._programs: dict[tuple[str, str], str] = {}

    def begin(self, rollouts: Mapping[str, Rollout]) -> None:
        """Begin a reconcile: take what came since the last one, on the ports of these rollouts that drain."""
        watched = [rollout for rollout in rollouts.values() if is_for_pools(rollout, "nginx", *POOL_REFUSED)]
        self._sniffer.watch([port for rollout in watched for m in draining(rollout) for port in m.ports])
        self._arrivals = self._sniffer.take()
        self._reuses = {group: reuses for group, reuses in self._reuses.items() if group in rollouts}
        kept = {(group, m.name) for group, rollout in rollouts.items() for m in draining(rollout)}
        self._programs = {key: program for key, program in self._programs.items() if key in kept}
        self._background.keep(kept)

    def of(
        self,
        rollout: Rollout,
        members: Sequence[Member],
        peers: Mapping[str, Collection[str]],
        closed_since: Mapping[str, float],
        at: float,
    ) -> dict[str, KeepaliveReuse]:
        """The reuse of each member that drains; where its client is still being looked for, later."""
        arrived = {m.name: self._pools.after_close(self._arrivals, m, rollout) for m in members}
        found = self._reuses.setdefault(rollout.group, KeepaliveReuses()).find(arrived, peers, closed_since, at)
        named = {m.name: self._named(rollout.group, m, found[m.name]) for m in members if m.name in found}
        return {name: reuse for name, reuse in named.items() if reuse is not None}

    def end(self) -> None:
        """Watch no port."""
        self._sniffer.watch(())

    def _named(self, group: str, member: Member, reuse: KeepaliveReuse) -> KeepaliveReuse | None:
        """With the program of its peer, which is looked for once in a drain; None until that is over."""
        key = (group, member.name)
        if key not in self._programs:
            found = self._background.run(key, lambda: self._program(reuse.peer, member.ports))
            if found is None:
                return None
            self._programs[key] = found
        return replace(reuse, program=self._programs[key])

    def _program(self, peer: str, ports: Sequence[int]) -> str:
        return next(filter(None, (self._clients.program_of(peer, port) for port in ports)), "")
