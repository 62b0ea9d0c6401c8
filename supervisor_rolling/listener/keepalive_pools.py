"""nginx's keep-alive pools to the members that drain: closed where ``drain.keepalive: nginx`` asks for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from supervisor_rolling.core.connections import Arrival
from supervisor_rolling.core.endpoint import Endpoint, tcp_ports
from supervisor_rolling.core.errors import GateError
from supervisor_rolling.core.rollout import Member, Rollout
from supervisor_rolling.listener.contracts import KeepaliveCloser

log = logging.getLogger("supervisor_rolling")


class KeepalivePools:
    """What ``KeepaliveCloser`` does for the ports that drain. An error in it only makes a drain longer: the drain still
    ends at its deadline."""

    def __init__(self, closer: KeepaliveCloser) -> None:
        self._closer = closer
        self._answered: Mapping[int, str] = {}
        self._closed_since: Mapping[Endpoint, float] = {}
        self._problem = ""

    def hold(self, leaving: Sequence[tuple[Rollout, Member]], closed_since: Mapping[Endpoint, float]) -> None:
        """Close the pools of exactly these members. ``closed_since``: of each of their endpoints."""
        held = [(rollout, member) for rollout, member in leaving if is_for_pools(rollout, "nginx")]
        endpoints = [one for _, member in held for one in member.endpoints]
        lease = max((rollout.gate.lease for rollout, _ in held), default=0.0)
        since = {one: closed_since[one] for one in endpoints}
        reopened = {one for one in endpoints if since[one] > self._closed_since.get(one, since[one])}
        self._closed_since = since
        try:
            if reopened:  # nginx may have connected meanwhile: the connections of now are taken up
                self._closer.hold(tcp_ports(one for one in endpoints if one not in reopened), lease)
            self._answered, problem = self._closer.hold(tcp_ports(endpoints), lease), ""
        except GateError as error:
            self._answered, problem = {}, str(error)
        if problem and problem != self._problem:
            log.error(
                "cannot make nginx close its connections (drain.keepalive: nginx): %s",
                problem,
                extra={"code": "drain.nginx"},
            )
        self._problem = problem

    def release(self) -> None:
        """Close no pool any more."""
        self._closer.hold((), 0.0)

    def is_closing(self, member: Member) -> bool:
        """Whether its pooled connections are being closed, on all of its ports."""
        return bool(member.ports) and self._answered.keys() >= set(member.ports)

    def is_opaque(self, member: Member) -> bool:
        """Whether it answers in TLS or HTTP/2, so that no connection is closed."""
        answered = {self._answered[port] for port in member.ports} if self.is_closing(member) else set()
        return "opaque" in answered and "http" not in answered

    def after_close(self, arrivals: Sequence[Arrival], member: Member, rollout: Rollout) -> list[Arrival]:
        """The requests to a member that count as reuse: if nginx is made to close its connections, only those on
        connections that should have been closed."""
        arrived = [one for one in arrivals if one.port in member.ports]
        if rollout.policy.drain.keepalive != "nginx":
            return arrived
        closed = {port for port in member.ports if self.is_closing(member) and self._answered[port] == "http"}
        return [one for one in arrived if one.port in closed and one.peer not in self._closer.waiting]


def is_for_pools(rollout: Rollout, *ways: str) -> bool:
    """Whether a load balancer's pool is dealt with, in one of these ways of ``drain.keepalive``. HAProxy's is not: it
    sends nothing to a server that drains. Without ports there is none."""
    if rollout.gate.backend == "haproxy" or not rollout.policy.ports.are_own:
        return False
    return not ways or rollout.policy.drain.keepalive in ways
