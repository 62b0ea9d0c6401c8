"""Findings about what connects to a group's ports: a load balancer that fails a request when a port is closed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from supervisor_rolling.core.checks.nginx import is_pool_dealt_with
from supervisor_rolling.core.policy import Policy
from supervisor_rolling.core.port_use import Client
from supervisor_rolling.core.preflight_report import Finding, error_if
from supervisor_rolling.core.proxy_config import NGINX, PROGRAMS, Program, Proxy, read
from supervisor_rolling.core.text import listed, printable

MAX_NAMED = 5


@dataclass(frozen=True)
class Balancer:
    """A load balancer of this host that sends to a group."""

    client: Client
    program: Program
    proxy: Proxy | None  # what its configuration says; None: nothing

    @property
    def is_certain(self) -> bool:
        """Whether it sends to the group: it is connected, or its configuration does not name another host."""
        return bool(self.client.address) or self.proxy is None or self.proxy.is_here

    @property
    def where(self) -> str:
        return self.proxy.where if self.proxy else f"{self.client.name} (pid {self.client.pid})"

    @property
    def sends(self) -> str:
        """The beginning of a finding."""
        what = (
            "sends requests to the group"
            if self.is_certain
            else "has a server on another host with a port of the group"
        )
        return f"{self.program.title} {what}"


@dataclass(frozen=True)
class GroupClients:
    """What connects to these ports of a group."""

    clients: Sequence[Client]
    ports: frozenset[int]

    @cached_property
    def balancers(self) -> list[Balancer]:
        """Those that are connected, or have a port of the group in their configuration; without nginx."""
        known = [one for one in self.clients if one.name in PROGRAMS and one.name not in NGINX]
        found = [Balancer(one, PROGRAMS[one.name], read(one.name, one.files, self.ports)) for one in known]
        return [one for one in found if one.proxy or one.client.address]

    @property
    def nginxes(self) -> list[Client]:
        """Those of this host that are connected."""
        return [one for one in self.clients if one.name in NGINX and one.address]

    @property
    def unavailable_for(self) -> tuple[float, str] | None:
        """Seconds for which the balancers send nothing to a server that refused a connection, and what says so; None
        where that is not known of all."""
        if not self.balancers or any(one.proxy is None for one in self.balancers):
            return None
        found = [(one.proxy.unavailable_for, one) for one in self.balancers if one.proxy]
        seconds, slowest = max(found, key=lambda one: one[0])
        return seconds, f"{slowest.program.title}, {slowest.where}" if seconds else ""


def group_clients(clients: Sequence[Client], ports: Collection[int]) -> GroupClients:
    """What connects to these ports."""
    return GroupClients(tuple(clients), frozenset(ports))


def findings(found: GroupClients, policy: Policy, nginx_is_known: bool) -> Iterator[Finding]:
    """What is wrong with it. ``nginx_is_known``: a configuration of nginx was read that has servers of the group."""
    for balancer in found.balancers:
        yield from _of_balancer(balancer, policy)
    if not (found.balancers or found.nginxes or nginx_is_known or policy.balancer.retries):
        yield from _unknown([one for one in found.clients if one.name not in PROGRAMS], policy)


def unread(found: GroupClients, policy: Policy, source: str) -> Iterator[Finding]:
    """Each nginx that is connected and was started with another configuration than ``source``, the one that was read,
    which has no server of the group."""
    what = f": {source}, which was read, has no server with a port of the group" if source else ""
    for one in found.nginxes if not policy.balancer.retries else ():
        file = printable(one.files[0][0]) if one.files else ""
        elsewhere = "" if file else "; FILE: what this nginx was started with, or what its nginx -T prints"
        yield Finding(
            "balancer.unread",
            f"groups.{policy.group}.balancer",
            f"nginx (pid {one.pid}) sends requests to the group, and its configuration was not read{what}. It is not "
            "known whether it tries another server when a connection is refused, for how long it then sends nothing to "
            f"that process, and whether it keeps connections open{_default(policy)}. Requests may fail while a port is "
            "closed",
            f"set groups.{policy.group}.balancer: {{nginx: {file or 'FILE'}}}{elsewhere}",
        )


def _default(policy: Policy) -> str:
    return f", so min_ready_seconds: auto is {policy.min_ready_seconds:g}" if policy.min_ready_auto else ""


def _of_balancer(one: Balancer, policy: Policy) -> Iterator[Finding]:
    program, proxy, severity = one.program, one.proxy, error_if(one.is_certain)
    if not (proxy.retries if proxy else program.retries) and not policy.balancer.retries:
        why = "its configuration does not tell it to" if proxy else "nothing shows that it does"
        yield Finding(
            "balancer.retries",
            one.where,
            f"{one.sends}, and does not try another server when a connection is refused: {why}. Requests fail for as "
            "long as a port is closed. A rollout cannot see this: a refused connection looks the same whether the "
            "request then goes to another server or fails",
            f"{program.fix}. If it tries another server already, set balancer: {{retries: true}} for the group in "
            "rolling.yaml",
            severity,
        )
    if policy.drain.keepalive == "nginx":
        yield Finding(
            "balancer.keepalive",
            one.where,
            f"{one.sends}, and drain.keepalive is nginx: only nginx closes its connections then, so that a drain lasts "
            "until its timeout and requests are cut off",
            f"{program.pool_fix}, and remove drain.keepalive" if program.pool_fix else "remove drain.keepalive",
            severity,
        )
    elif proxy and proxy.keeps_connections and not is_pool_dealt_with(policy):
        yield Finding(
            "balancer.keepalive",
            one.where,
            f"{one.sends}, keeps connections open for the next request, and closing a port stops only new connections: "
            "requests on the open ones are cut off",
            f"{program.pool_fix}; or, if the application closes them while it drains, set drain: {{keepalive: "
            "application} for the group in rolling.yaml",
            severity,
        )
    if proxy and proxy.unavailable_for > policy.min_ready_seconds:
        lower = "retry=0 at each BalancerMember" if program.title == "Apache" else "lower that time"
        yield Finding(
            "balancer.unavailable",
            one.where,
            f"{program.title} sends nothing to a process for up to {proxy.unavailable_for:g} s after it refused a "
            f"connection, and the rollout continues after min_ready_seconds: {policy.min_ready_seconds:g}: it closes "
            "the next ports before the last ones get requests again",
            f"{lower}, or set min_ready_seconds: auto",
        )


def _unknown(clients: Sequence[Client], policy: Policy) -> Iterator[Finding]:
    names = sorted({_named(one) for one in clients})
    if names:
        yield Finding(
            "balancer.unknown",
            f"groups.{policy.group}.balancer",
            f"{listed(names, MAX_NAMED)} connects to the group. It is not known whether it tries another server when a "
            f"connection is refused, and for how long it then sends nothing to that process{_default(policy)}. If it "
            "does not, requests fail while a port is closed",
            "if it does, set balancer: {retries: true} for the group in rolling.yaml, or name nginx's configuration: "
            "balancer: {nginx: FILE}",
        )


def _named(one: Client) -> str:
    if not one.is_local:
        return f"another host ({one.address})"
    return printable(one.name) or "a program that cannot be seen"
