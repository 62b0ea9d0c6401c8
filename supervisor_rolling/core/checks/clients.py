"""Findings about what connects to a group's ports: a load balancer that fails a request when its port is closed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from supervisor_rolling.core.checks.nginx import is_pool_dealt_with
from supervisor_rolling.core.policy import Policy
from supervisor_rolling.core.port_use import Client
from supervisor_rolling.core.preflight_report import Finding, error_if
from supervisor_rolling.core.proxy_config import NGINX, PROGRAMS, Program, Proxy, read
from supervisor_rolling.core.text import printable

MAX_NAMED = 5

_SAY_SO = "Where it does already, say balancer: {retries: true} in the policy of the group"


@dataclass(frozen=True)
class Balancer:
    """A load balancer of this host that sends to a group. ``proxy``: what its configuration says; None: nothing."""

    client: Client
    program: Program
    proxy: Proxy | None

    @property
    def retries(self) -> bool:
        """Whether it is known to try another server."""
        return self.proxy.retries if self.proxy else self.program.retries

    @property
    def is_certain(self) -> bool:
        """Whether it sends to the group: it is connected, or its configuration does not name another host."""
        return bool(self.client.address) or self.proxy is None or self.proxy.is_here

    @property
    def sends(self) -> str:
        """What it has to do with the group."""
        return "sends requests to the group" if self.is_certain else "has a server with a port of the group elsewhere"

    @property
    def where(self) -> str:
        """For a finding."""
        return self.proxy.where if self.proxy else f"{self.client.name} (pid {self.client.pid})"


@dataclass(frozen=True)
class Front:
    """Everything that connects to these ports of a group."""

    clients: Sequence[Client]
    ports: frozenset[int]

    @cached_property
    def balancers(self) -> list[Balancer]:
        """Those that are connected, and those whose configuration names a port of the group; nginx left out."""
        known = [one for one in self.clients if one.name in PROGRAMS and one.name not in NGINX]
        found = [Balancer(one, PROGRAMS[one.name], read(one.name, one.files, self.ports)) for one in known]
        return [one for one in found if one.proxy or one.client.address]

    @property
    def nginxes(self) -> list[Client]:
        """Those of this host that are connected."""
        return [one for one in self.clients if one.name in NGINX and one.address]

    @property
    def shuns(self) -> tuple[float, str] | None:
        """Seconds for which the balancers pass over a server that has refused, and what says so; None where that is
        not known of all."""
        if not self.balancers or any(one.proxy is None for one in self.balancers):
            return None
        told = [(one.proxy.shuns, f"{one.program.title}, {one.proxy.where}") for one in self.balancers if one.proxy]
        seconds, why = max(told)
        return seconds, why if seconds else ""


def front(clients: Sequence[Client], ports: Collection[int]) -> Front:
    """What connects to these ports."""
    return Front(tuple(clients), frozenset(ports))


def findings(found: Front, policy: Policy, nginx_is_known: bool) -> Iterator[Finding]:
    """What is wrong with it. ``nginx_is_known``: a configuration of nginx was read that has servers of the group."""
    for one in found.balancers:
        yield from _of_balancer(one, policy)
    if found.balancers or found.nginxes or nginx_is_known or policy.balancer.retries:
        return
    yield from _unknown([one for one in found.clients if one.name not in PROGRAMS], policy)


def unread(found: Front, policy: Policy, source: str) -> Iterator[Finding]:
    """Each nginx that is connected, where the configuration that was read, if any (``source``), has no server of the
    group: it was started with another one."""
    what = f": {source}, which was read, has no server with a port of the group" if source else ""
    min_ready_seconds = (
        f", and min_ready_seconds: auto is {policy.min_ready_seconds:g} without it" if policy.min_ready_auto else ""
    )
    for one in found.nginxes if not policy.balancer.retries else ():
        file = printable(one.files[0][0]) if one.files else ""
        elsewhere = "" if file else "; FILE: what this nginx was started with, or what its nginx -T prints"
        yield Finding(
            "balancer.unread",
            f"groups.{policy.group}.balancer",
            f"nginx (pid {one.pid}) sends requests to the group, and its configuration was not read{what}. Whether it "
            "tries another server when a connection is refused, for how long it then sends nothing to that process and "
            f"whether it keeps connections is not known{min_ready_seconds}. Requests may fail while a port is closed",
            f"groups.{policy.group}.balancer: {{nginx: {file or 'FILE'}}}{elsewhere}",
        )


def _of_balancer(one: Balancer, policy: Policy) -> Iterator[Finding]:
    if not one.retries and not policy.balancer.retries:
        yield _without_retry(one)
    if policy.drain.keepalive == "nginx":
        yield _not_nginx(one)
    elif one.proxy and one.proxy.keepalive_closer and not is_pool_dealt_with(policy):
        yield _pooled(one)
    shuns = one.proxy.shuns if one.proxy else 0.0
    if shuns > policy.min_ready_seconds:
        yield _shunned(one, shuns, policy)


def _without_retry(one: Balancer) -> Finding:
    title = one.program.title
    why = "its configuration does not tell it to" if one.proxy else "nothing shows that it does"
    return Finding(
        "balancer.retries",
        one.where,
        f"{title} {one.sends}, and does not try another server when a connection is refused: {why}. "
        "Requests fail for as long as a port is closed. The rollout cannot see this: a refused connection looks the "
        "same whether the request then goes to another server or fails",
        f"{one.program.fix}. {_SAY_SO}",
        severity=error_if(one.is_certain),
    )


def _not_nginx(one: Balancer) -> Finding:
    fix = f"{one.program.pool_fix}, and take drain.keepalive away" if one.program.pool_fix else "take it away"
    return Finding(
        "balancer.keepalive",
        one.where,
        f"{one.program.title} {one.sends}, and drain.keepalive is nginx: only nginx is known to close "
        "its connections for that, so a drain lasts until its timeout and then cuts off requests",
        fix,
        severity=error_if(one.is_certain),
    )


def _pooled(one: Balancer) -> Finding:
    return Finding(
        "balancer.keepalive",
        one.where,
        f"{one.program.title} {one.sends}, keeps connections for the next request, and a gate closes a port to new "
        "ones only: requests on old connections would be cut off",
        f"{one.program.pool_fix}; or in the policy drain: {{keepalive: application}} where the application closes "
        "them while it drains",
        severity=error_if(one.is_certain),
    )


def _shunned(one: Balancer, shuns: float, policy: Policy) -> Finding:
    fix = "retry=0 at each BalancerMember" if one.program.title == "Apache" else "lower it"
    return Finding(
        "balancer.shuns",
        one.where,
        f"{one.program.title} sends no requests to a process for up to {shuns:g} s after it has refused, and the "
        f"rollout goes on after min_ready_seconds: {policy.min_ready_seconds:g}: it closes the next ones meanwhile",
        f"{fix}, or say min_ready_seconds: auto",
    )


def _unknown(clients: Sequence[Client], policy: Policy) -> Iterator[Finding]:
    names = _listed(sorted({_called(one) for one in clients}))
    if names:
        unread = (
            f", and min_ready_seconds: auto is {policy.min_ready_seconds:g} without it" if policy.min_ready_auto else ""
        )
        yield Finding(
            "balancer.unknown",
            f"groups.{policy.group}.balancer",
            f"{names} connects to the group: whether it tries another server when a connection is refused is not "
            f"known, nor for how long it then sends nothing to that process{unread}. If it does not, requests fail "
            "while a port is closed",
            "say balancer: {retries: true} in the policy of the group where it does, or name nginx's configuration: "
            "balancer: {nginx: FILE}",
        )


def _called(one: Client) -> str:
    if not one.is_local:
        return f"another host ({one.address})"
    return printable(one.name) or "a program that cannot be seen"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{', '.join(names[:MAX_NAMED])}{more}"
