"""What is known of the load balancers that send to a group: from nginx's configuration, and from what connects to it.

Both are read in threads of their own; here is only what they found last. For the loop's thread.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from supervisor_rolling.core.checks.clients import GroupClients, group_clients
from supervisor_rolling.core.checks.nginx import GroupInNginx, group_in_nginx, min_ready_for, min_ready_why
from supervisor_rolling.core.endpoint import Endpoints, tcp_ports
from supervisor_rolling.core.policy import Policy
from supervisor_rolling.listener.contracts import Balancers, Clients

HAPROXY = "haproxy"
"""The gate with which HAProxy sends to the group alone: what connects to the ports is not looked up for it."""


@dataclass(frozen=True)
class LoadBalancerFacts:
    """What was read last of the load balancers of a group."""

    nginx: GroupInNginx | None  # what nginx's configuration says of the group; None while it is being read
    clients: GroupClients  # the programs that connect to the group
    are_clients_known: bool  # false while they are being looked up


@dataclass(frozen=True)
class _MinReady:
    """The ``min_ready_seconds`` that was read, None where it could not be, and why."""

    read: tuple[object, object]  # nginx's configuration, and what connects to the ports
    backend: str
    endpoints: Endpoints
    seconds: float | None
    why: str


class LoadBalancers:
    """Remembers the ``min_ready_seconds`` of each group until what it was made from changes. ``backend``: of the
    gate."""

    def __init__(self, balancers: Balancers, clients: Clients) -> None:
        self._balancers = balancers
        self._clients = clients
        self._known: dict[str, _MinReady] = {}

    def are_read(self, policy: Policy, endpoints: Endpoints, backend: str, since: float) -> bool:
        """Whether everything was read at ``since`` or later; begins to read it. With HAProxy's gate it makes no
        difference what connects to the ports, and a group without ports of its own has none that could tell."""
        if not policy.ports.are_own:
            return True
        every = _ports(endpoints) if backend != HAPROXY else ()
        is_read = self._balancers.read(policy.balancer, since) is not None
        are_seen = not every or self._clients.find(policy.group, every, since) is not None
        return is_read and are_seen

    def found(self, policy: Policy, endpoints: Endpoints) -> LoadBalancerFacts:
        """What was read last."""
        configuration, clients = self._balancers.last_read(policy.balancer), self._clients.last_found(policy.group)
        every = {one for those in endpoints.values() for one in those}
        return LoadBalancerFacts(
            group_in_nginx(configuration, every, bool(policy.balancer.nginx)) if configuration is not None else None,
            group_clients(clients or (), _ports(endpoints)),
            clients is not None,
        )

    def with_min_ready(self, policy: Policy, endpoints: Endpoints, backend: str) -> Policy:
        """The policy, with ``min_ready_seconds: auto`` as the load balancer's configuration, or its gate, asks for."""
        if not policy.min_ready_auto:
            return policy
        if not policy.ports.are_own:
            return replace(policy, min_ready_seconds=0.0, min_ready_read=True)
        read = (self._balancers.last_read(policy.balancer), self._clients.last_found(policy.group))
        known = self._known.get(policy.group)
        if (
            known is None
            or known.read[0] is not read[0]
            or known.read[1] is not read[1]
            or (known.backend, known.endpoints) != (backend, endpoints)
        ):
            known = _MinReady(read, backend, dict(endpoints), *_min_ready(self.found(policy, endpoints), backend))
            self._known[policy.group] = known
        if known.seconds is None:
            return policy
        return replace(policy, min_ready_seconds=known.seconds, min_ready_why=known.why, min_ready_read=True)


def _min_ready(found: LoadBalancerFacts, backend: str) -> tuple[float | None, str]:
    """None where it is not known of all that send to the group."""
    own = (min_ready_for(found.nginx), min_ready_why(found.nginx)) if found.nginx else (None, "")
    if backend == HAPROXY:  # which uses a server at once after `ready`; nginx may send to it as well
        return own[0] or 0.0, own[1]
    if not found.clients.balancers:
        return own
    by_others = found.clients.unavailable_for
    return (None, "") if by_others is None else max((own[0] or 0.0, own[1]), by_others)


def _ports(endpoints: Endpoints) -> tuple[int, ...]:
    return tuple(port for those in endpoints.values() for port in tcp_ports(those))
