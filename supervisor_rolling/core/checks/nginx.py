"""Findings in nginx's configuration."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from supervisor_rolling.core.endpoint import UNIX, Endpoint, endpoints_text
from supervisor_rolling.core.min_ready import is_min_ready_known, min_ready_texts
from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.core.nginx_config import FAIL_TIMEOUT, MAX_FAILS, NO_POOL, Nginx, ProxyPass, Server, Upstream
from supervisor_rolling.core.policy import Policy
from supervisor_rolling.core.preflight_report import Finding, Severity, error_if
from supervisor_rolling.core.text import listed

MIN_SECONDS_PER_PROCESS = 1.0
"""What a process takes in a rollout with min_ready_seconds: 0, about."""


@dataclass(frozen=True)
class GroupInNginx:
    """The part of a configuration that concerns a group."""

    nginx: Nginx
    servers: tuple[tuple[Upstream, Server], ...] = ()  # those that are its processes
    is_certain: bool = True  # by their addresses, and not by their ports only

    @property
    def upstreams(self) -> list[Upstream]:
        """Those in which the group has a server."""
        return list(dict.fromkeys(upstream for upstream, _ in self.servers))

    @property
    def slowest(self) -> tuple[float, Upstream | None, Server | None]:
        """The server to which nginx sends nothing for the longest time after a refused connection; and that time. It
        always sends to the only server that it has."""
        found = [
            (server.unavailable_for if len(upstream.servers) > 1 else 0.0, upstream, server)
            for upstream, server in self.servers
            if not server.is_down
        ]
        return max(found, key=lambda one: one[0], default=(0.0, None, None))


def group_in_nginx(nginx: Nginx, endpoints: Collection[Endpoint], is_named: bool) -> GroupInNginx:
    """What of a configuration concerns these endpoints. Where the operator has named it (``is_named``) and none of its
    servers is this host, it has another name for this host: then the ports decide."""
    used = [upstream for upstream in nginx.upstreams if nginx.is_used(upstream)]
    found = [(upstream, server) for upstream in used for server in upstream.servers if server.endpoint in endpoints]
    here = [(upstream, one) for upstream, one in found if one.endpoint.kind == UNIX or one.host in nginx.own]
    return GroupInNginx(nginx, tuple(here or (found if is_named else ())), is_certain=bool(here))


def min_ready_for(group: GroupInNginx) -> float | None:
    """Seconds for which nginx sends nothing to a process that refused a connection; None where the configuration does
    not have the group."""
    seconds, _, server = group.slowest
    return seconds if server else None


def min_ready_why(group: GroupInNginx) -> str:
    """The parameters of nginx that say so; empty where it is no time, or none do."""
    seconds, _, server = group.slowest
    return _parameters(server) if server and seconds else ""


def is_pool_dealt_with(policy: Policy) -> bool:
    """Whether the policy says what becomes of a load balancer's keep-alive connections."""
    drain = policy.drain
    return drain.keepalive != "refuse" or bool(drain.signal or drain.request)


def findings(
    group: GroupInNginx,
    policy: Policy,
    limit: int,
    owners: Mapping[Endpoint, str],
    listening: Mapping[int, tuple[str, ...]] = MappingProxyType({}),
) -> Iterator[Finding]:
    """What is wrong with the nginx before a group, of which ``limit`` processes may be unavailable at a time.

    ``owners``: each endpoint of the group, with its process; ``listening``: the addresses at which a process listens on
    a port, where that is known."""
    if not group.servers:
        return
    found = _findings(group, policy, limit, owners)
    if group.is_certain:
        yield from found
        yield from _wrong_address(group, listening)
    else:
        yield from (replace(one, severity=Severity.WARNING) for one in found)


def unreadable(nginx: Nginx, policy: Policy) -> Finding:
    """A configuration that exists, or that the operator has named, and does not have the group."""
    why, _, fix = (nginx.problem or "no upstream in it has a port of the group").partition(". Fix: ")
    named = policy.balancer.nginx
    return Finding(
        "nginx.unreadable",
        f"balancer.nginx: {named}" if named else "nginx",
        f"{why}, so it is not known what nginx does while a port is closed"
        f"{'' if is_min_ready_known(policy) else f', and min_ready_seconds: auto is {policy.min_ready_seconds:g}'}",
        fix or ("name nginx.conf, or a file with what nginx -T prints where nginx runs" if named else ""),
    )


def beside_haproxy(group: GroupInNginx) -> Iterator[Finding]:
    """An nginx that sends to the processes of a group which HAProxy drains."""
    if group.is_certain:
        upstream, server = group.servers[0]
        yield Finding(
            "nginx.beside_haproxy",
            _places([server for _, server in group.servers]),
            f"{_named(upstream)} sends requests directly to {_address(server)}, and gate.backend is haproxy: a drain "
            "in HAProxy does not stop these requests, and they fail when the process stops",
            "let nginx send to HAProxy, or set gate: {backend: auto}, which closes the port to both",
            Severity.ERROR,
        )


def _findings(group: GroupInNginx, policy: Policy, limit: int, owners: Mapping[Endpoint, str]) -> Iterator[Finding]:
    yield from _absent(group, owners)
    yield from _unavailable(group, policy, limit)
    seconds, _, server = group.slowest
    if server and seconds and policy.min_ready_auto:
        total = len(set(owners.values()))
        text, fix = min_ready_texts(seconds, _parameters(server), total, policy.canary, limit)
        yield Finding("nginx.min_ready_seconds", server.where, text, fix)
    for upstream in group.upstreams:
        yield from _of_upstream(group, upstream, policy)
    names = {(upstream.kind, upstream.name) for upstream in group.upstreams}
    for proxy_pass in group.nginx.proxy_passes:
        if (proxy_pass.kind, proxy_pass.upstream) in names:
            yield from _of_proxy_pass(proxy_pass, limit)


def _wrong_address(group: GroupInNginx, listening: Mapping[int, tuple[str, ...]]) -> Iterator[Finding]:
    """The servers with an address where nothing listens, although a process listens on their port."""
    wrong = [
        server
        for _, server in group.servers
        if listening.get(server.port) and not _is_reached(server.host, listening[server.port])
    ]
    if wrong:
        server = wrong[0]
        yield Finding(
            "nginx.address",
            _places(wrong),
            f"nothing listens at {_address(server)}, where nginx sends requests: port {server.port} listens at "
            f"{', '.join(listening[server.port])}",
            "write the address that the process listens on, or make the process listen on that one",
        )


def _is_reached(host: str, addresses: Collection[str]) -> bool:
    """A name is looked up by nginx, and a process that listens on :: may take IPv4, too."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True
    listening = [ipaddress.ip_address(one) for one in addresses]
    return any(one == address or (one.is_unspecified and one.version >= address.version) for one in listening)


def _absent(group: GroupInNginx, owners: Mapping[Endpoint, str]) -> Iterator[Finding]:
    known = {server.endpoint for _, server in group.servers}
    every = sorted(owners, key=lambda endpoint: natural(endpoint.address))
    missing = [f"{owners[one]} ({endpoints_text([one])})" for one in every if one not in known]
    if missing:
        upstream = group.upstreams[0]
        yield Finding(
            "nginx.absent",
            upstream.where,
            f"upstream {upstream.name} has some processes of the group, but not {listed(missing)}, which get no "
            "requests from it",
            "add a server line for each, or stop them" if len(missing) > 1 else "add a server line for it, or stop it",
        )


def _unavailable(group: GroupInNginx, policy: Policy, limit: int) -> Iterator[Finding]:
    """Processes that are open again and still get no requests. In a large group never all of them, and the last part
    of a second is no error."""
    seconds, upstream, server = group.slowest
    if upstream is None or server is None or seconds <= policy.min_ready_seconds:
        return
    unavailable = limit * (1 + math.ceil(seconds / max(policy.min_ready_seconds, MIN_SECONDS_PER_PROCESS)))
    yield Finding(
        "nginx.max_fails",
        server.where,
        f"nginx sends nothing to a process for up to {seconds:g} s after it refused a connection "
        f"({_parameters(server)}), and the rollout waits for min_ready_seconds: {policy.min_ready_seconds:g}. So it "
        "closes the next ports before the last ones get requests again; in a small group no process is left that does",
        "set max_fails=0 at each server of the upstream, or min_ready_seconds: auto for the group in rolling.yaml",
        error_if(policy.min_ready_seconds < server.fail_timeout and unavailable >= len(_live(upstream))),
    )


def _of_upstream(group: GroupInNginx, upstream: Upstream, policy: Policy) -> Iterator[Finding]:
    pool = group.nginx.pool_of(upstream)
    if pool and not is_pool_dealt_with(policy):
        how = f"keepalive {pool}" if upstream.has_keepalive else f"by default since 1.29.7, keepalive {pool}"
        yield Finding(
            "nginx.keepalive",
            upstream.where,
            f"upstream {upstream.name} keeps connections open ({how}), and closing a port stops only new "
            "connections: requests on the open ones are cut off",
            f"{NO_POOL}; or set for the group in rolling.yaml drain: {{keepalive: nginx}}, or "
            "drain: {keepalive: application} where the application closes them while it drains",
            Severity.ERROR,
        )
    live = _live(upstream)
    ours = [server for of, server in group.servers if of == upstream]
    if len(live) == 1 and ours and _is_one(live[0]):
        yield Finding(
            "nginx.lone",
            upstream.where,
            f"{_named(upstream)} has one server only ({_address(live[0])}): while its port is closed all requests fail",
            "give the upstream a server line for each process of the group",
            error_if(upstream.is_named or not any(one.is_named for one in group.upstreams)),
        )
    by_name = [server for server in ours if server.host.lower() == "localhost"]
    if by_name:
        port = by_name[0].port
        yield Finding(
            "nginx.localhost",
            _places(by_name),
            f"server localhost:{port} is two servers for nginx, 127.0.0.1 and ::1: a process that listens on one of "
            "them refuses every other request, and a closed one counts twice",
            f"write 127.0.0.1:{port}",
        )
    down = [server for server in ours if server.is_down]
    if down:
        yield Finding(
            "nginx.down",
            _places(down),
            f"upstream {upstream.name} marks {listed(map(_address, down))} as down, so that it gets no requests",
            "remove the word down, or leave the process stopped",
        )


def _of_proxy_pass(proxy_pass: ProxyPass, limit: int) -> Iterator[Finding]:
    directive = f"{proxy_pass.directive}_next_upstream"
    if "error" not in proxy_pass.next_upstream:
        yield Finding(
            "nginx.next_upstream",
            proxy_pass.where,
            f"{directive} is {' '.join(proxy_pass.next_upstream) or 'off'}, without error: a request that a closed "
            "port refuses fails",
            f"set {directive} {'on' if proxy_pass.kind == 'stream' else 'error timeout'};",
            Severity.ERROR,
        )
    elif 0 < proxy_pass.tries <= limit:
        yield Finding(
            "nginx.tries",
            proxy_pass.where,
            f"{directive}_tries is {proxy_pass.tries}, and {limit} may be closed at a time: a request that meets as "
            "many closed ports fails",
            f"set {directive}_tries to {limit + 1} or more, or to 0 for no limit",
            Severity.ERROR,
        )


def _live(upstream: Upstream) -> list[Server]:
    return [server for server in upstream.servers if not server.is_down]


def _is_one(server: Server) -> bool:
    """A name may have many addresses; localhost has two of one process."""
    return server.host == "localhost" or not re.search("[a-z]", server.host) or ":" in server.host


def _parameters(server: Server) -> str:
    are_defaults = (server.max_fails, server.fail_timeout) == (MAX_FAILS, FAIL_TIMEOUT)
    defaults = ", which are the defaults" if are_defaults else ""
    return f"max_fails={server.max_fails}, fail_timeout={server.fail_timeout:g}s{defaults}"


def _named(upstream: Upstream) -> str:
    return f"upstream {upstream.name}" if upstream.is_named else f"proxy_pass to {upstream.name}"


def _address(server: Server) -> str:
    if server.endpoint.kind == UNIX:
        return server.host
    return f"[{server.host}]:{server.port}" if ":" in server.host else f"{server.host}:{server.port}"


def _places(servers: Sequence[Server]) -> str:
    return f"{servers[0].where}{f' and {len(servers) - 1} more' if len(servers) > 1 else ''}"
