"""Findings in nginx's configuration."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from supervisor_rolling.core.min_ready import min_ready_texts
from supervisor_rolling.core.nginx_config import FAIL_TIMEOUT, MAX_FAILS, NO_POOL, Nginx, Passing, Server, Upstream
from supervisor_rolling.core.policy import Policy
from supervisor_rolling.core.preflight_report import Finding, Severity, error_if

LEAST_TURN = 1.0
"""Seconds that a process takes in a rollout that settles for nothing, about."""


@dataclass(frozen=True)
class Behind:
    """The part of a configuration that a group is behind: the servers that are its processes, each with its upstream,
    and the places that pass requests to these. ``is_certain``: by their addresses, and not by their ports alone."""

    nginx: Nginx
    servers: tuple[tuple[Upstream, Server], ...] = ()
    is_certain: bool = True

    @property
    def upstreams(self) -> list[Upstream]:
        """Those in which the group has a server."""
        return list(dict.fromkeys(upstream for upstream, _ in self.servers))

    @property
    def passings(self) -> list[Passing]:
        """The places that pass requests to the group."""
        names = {(upstream.kind, upstream.name) for upstream in self.upstreams}
        return [one for one in self.nginx.passings if (one.kind, one.upstream) in names]


def behind(nginx: Nginx, ports: Collection[int], is_named: bool) -> Behind:
    """What of a configuration concerns these ports. Where somebody has named it (``is_named``) and none of its servers
    is this host, it calls this host by another name: then the ports decide."""
    used = [upstream for upstream in nginx.upstreams if nginx.is_used(upstream)]
    found = [(upstream, one) for upstream in used for one in upstream.servers if one.port in ports]
    here = [(upstream, one) for upstream, one in found if one.host in nginx.own]
    return Behind(nginx, tuple(here or (found if is_named else ())), is_certain=bool(here))


def min_ready_for(group: Behind) -> float | None:
    """Seconds for which nginx passes over a process that has refused; None where it knows nothing of the group."""
    shun, _, one = _longest_shunned(group)
    return shun if one else None


def min_ready_why(group: Behind) -> str:
    """What in the configuration says for how long; empty where it is for no time, or nothing does."""
    shun, _, one = _longest_shunned(group)
    return _said(one) if one and shun else ""


def findings(
    group: Behind,
    policy: Policy,
    limit: int,
    ports: Mapping[int, str],
    heard: Mapping[int, tuple[str, ...]] = MappingProxyType({}),
) -> Iterator[Finding]:
    """What is wrong with the nginx before a group, of which ``limit`` processes may be unavailable at a time;
    ``ports``: each of its ports, with the process that has it; ``heard``: the addresses at which somebody listens on
    it, where that is known."""
    if not group.servers:
        return
    if group.is_certain:
        yield from _findings(group, policy, limit, ports)
        yield from _unheard(group, heard)
    else:
        yield from (replace(one, severity=Severity.WARNING) for one in _findings(group, policy, limit, ports))


def unreadable(nginx: Nginx, policy: Policy) -> Finding:
    """A configuration that is there, or that somebody has named, and says nothing of the group."""
    why = nginx.problem or "no upstream in it has a port of the group"
    named = policy.balancer.nginx
    return Finding(
        "nginx.unreadable",
        f"balancer.nginx: {named}" if named else "nginx",
        f"{why}, so nothing is known of what nginx does while a port is closed"
        f"{f', and min_ready_seconds: auto is {policy.min_ready_seconds:g}' if policy.min_ready_auto else ''}",
        "name nginx.conf, or a file with what nginx -T prints where nginx runs" if named else "",
    )


def beside_haproxy(group: Behind) -> Iterator[Finding]:
    """What is wrong with an nginx that has the processes of a group which HAProxy drains."""
    if group.is_certain:
        upstream, one = group.servers[0]
        yield Finding(
            "nginx.beside_haproxy",
            _places([one for _, one in group.servers]),
            f"{_named(upstream)} sends requests to {_written(one)} itself, and gate.backend is haproxy: a drain in "
            "HAProxy does not stop these, and what comes when nothing seems to be left is lost",
            "let nginx send to HAProxy, or say gate: {backend: auto}, which closes the port to both",
            severity=Severity.ERROR,
        )


def _unheard(group: Behind, heard: Mapping[int, tuple[str, ...]]) -> Iterator[Finding]:
    """The servers at whose address nobody listens, although somebody does on their port."""
    deaf = [one for _, one in group.servers if heard.get(one.port) and not _is_heard(one.host, heard[one.port])]
    if deaf:
        one = deaf[0]
        yield Finding(
            "nginx.address",
            _places(deaf),
            f"nothing listens at {_written(one)}, where nginx sends requests: port {one.port} is listened on at "
            f"{', '.join(heard[one.port])}",
            "write the address that the process listens on, or let it listen on that one",
        )


def _is_heard(host: str, addresses: Collection[str]) -> bool:
    """A name is looked up by nginx, and a process that listens on :: may take IPv4, too."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True
    listening = [ipaddress.ip_address(one) for one in addresses]
    return any(one == address or (one.is_unspecified and one.version >= address.version) for one in listening)


def _findings(group: Behind, policy: Policy, limit: int, ports: Mapping[int, str]) -> Iterator[Finding]:
    yield from _absent(group, ports)
    yield from _shunned(group, policy, limit)
    yield from _settles(group, policy, limit, len(set(ports.values())))
    for upstream in group.upstreams:
        yield from _of_upstream(group, upstream, policy)
    for passing in group.passings:
        yield from _of_passing(passing, limit)


def _absent(group: Behind, ports: Mapping[int, str]) -> Iterator[Finding]:
    known = {one.port for _, one in group.servers}
    missing = [f"{name} (port {port})" for port, name in sorted(ports.items()) if port not in known]
    if missing:
        where = group.upstreams[0]
        yield Finding(
            "nginx.absent",
            where.where,
            f"upstream {where.name} has some processes of the group and not {_listed(missing)}: nobody asks these",
            f"add {'a server line for each' if len(missing) > 1 else 'a server line for it'}, or leave them stopped",
        )


def _shunned(group: Behind, policy: Policy, limit: int) -> Iterator[Finding]:
    """What a rollout does to nginx's idea of who is alive. A large group is never shunned as a whole, and the last part
    of a second is no reason to refuse."""
    shun, upstream, one = _longest_shunned(group)
    if upstream is None or one is None or shun <= policy.min_ready_seconds:
        return
    out = limit * (1 + math.ceil(shun / max(policy.min_ready_seconds, LEAST_TURN)))
    yield Finding(
        "nginx.max_fails",
        one.where,
        f"nginx passes over a process for up to {shun:g} s after it has refused ({_said(one)}), and the rollout goes on "
        f"after min_ready_seconds: {policy.min_ready_seconds:g}: it closes the next ones while nginx still shuns the last, in a small group "
        "until none is left",
        "say max_fails=0 at each server of the upstream, or min_ready_seconds: auto in the policy of the group",
        severity=error_if(policy.min_ready_seconds < one.fail_timeout and out >= len(_live(upstream))),
    )


def _of_upstream(group: Behind, upstream: Upstream, policy: Policy) -> Iterator[Finding]:
    ours = [one for of, one in group.servers if of == upstream]
    pool = group.nginx.pool_of(upstream)
    if pool and not is_pool_dealt_with(policy):
        how = f"keepalive {pool}" if upstream.keepalive is not None else f"by default since 1.29.7, keepalive {pool}"
        yield Finding(
            "nginx.keepalive",
            upstream.where,
            f"upstream {upstream.name} keeps connections ({how}), and a gate closes a port to new ones only: what the "
            "pool carries is cut off",
            f"{NO_POOL}; or in the policy drain: {{keepalive: nginx}}, or "
            "drain: {keepalive: application} where the application itself closes them while it drains",
            severity=Severity.ERROR,
        )
    live = _live(upstream)
    if len(live) == 1 and ours and _is_one(live[0]):
        yield Finding(
            "nginx.lone",
            upstream.where,
            f"{_named(upstream)} has this server alone ({_written(live[0])}): while its port is closed all requests "
            "fail",
            "give the upstream a server line for each process of the group",
            severity=error_if(upstream.is_named or not any(one.is_named for one in group.upstreams)),
        )
    by_name = [one for one in ours if one.host.lower() == "localhost"]
    if by_name:
        one = by_name[0]
        yield Finding(
            "nginx.localhost",
            _places(by_name),
            f"server localhost:{one.port} is two servers for nginx, 127.0.0.1 and ::1: a process that listens on one "
            "of them refuses every other request, and a closed one counts twice",
            f"write 127.0.0.1:{one.port}",
        )
    down = [one for one in ours if one.is_down]
    if down:
        yield Finding(
            "nginx.down",
            _places(down),
            f"upstream {upstream.name} marks {_listed(map(_written, down))} as down: who is that serves nobody",
            "take the word down away, or leave the process stopped",
        )


def _of_passing(passing: Passing, limit: int) -> Iterator[Finding]:
    directive = f"{passing.directive}_next_upstream"
    if "error" not in passing.next_upstream:
        said = " ".join(passing.next_upstream) or "off"
        yield Finding(
            "nginx.next_upstream",
            passing.where,
            f"{directive} is {said}, without error: a request that a closed port refuses fails",
            f"say {directive} {'on' if passing.kind == 'stream' else 'error timeout'};",
            severity=Severity.ERROR,
        )
    elif 0 < passing.tries <= limit:
        yield Finding(
            "nginx.tries",
            passing.where,
            f"{directive}_tries is {passing.tries}, and {limit} may be closed at a time: a request that meets as many "
            "closed ports fails",
            f"say {directive}_tries {limit + 1}; or more, or 0 for no limit",
            severity=Severity.ERROR,
        )


def is_pool_dealt_with(policy: Policy) -> bool:
    """Whether the policy says what becomes of a load balancer's keep-alive connections."""
    drain = policy.drain
    return drain.keepalive != "refuse" or bool(drain.signal or drain.request)


def _live(upstream: Upstream) -> list[Server]:
    return [one for one in upstream.servers if not one.is_down]


def _is_one(server: Server) -> bool:
    """A name may have many addresses; localhost has two of one process."""
    return server.host == "localhost" or not re.search("[a-z]", server.host) or ":" in server.host


def _settles(group: Behind, policy: Policy, limit: int, total: int) -> Iterator[Finding]:
    """What a rollout of so many processes waits for because nginx passes over those that have refused."""
    shun, _, one = _longest_shunned(group)
    if one is not None and shun and policy.min_ready_auto:
        text, fix = min_ready_texts(shun, _said(one), total, policy.canary, limit)
        yield Finding("nginx.min_ready_seconds", one.where, text, fix)


def _longest_shunned(group: Behind) -> tuple[float, Upstream | None, Server | None]:
    """The server that nginx passes over for the longest time after it has refused, with that time."""
    found = [(_shunned_for(upstream, one), upstream, one) for upstream, one in group.servers if not one.is_down]
    return max(found, key=lambda each: each[0], default=(0.0, None, None))


def _said(one: Server) -> str:
    are_defaults = (one.max_fails, one.fail_timeout) == (MAX_FAILS, FAIL_TIMEOUT)
    return (
        f"max_fails={one.max_fails}, fail_timeout={one.fail_timeout:g}s"
        f"{', which are the defaults' if are_defaults else ''}"
    )


def _shunned_for(upstream: Upstream, one: Server) -> float:
    """nginx never passes over the only server that it has."""
    return one.shunned_for if len(upstream.servers) > 1 else 0.0


def _named(upstream: Upstream) -> str:
    return f"upstream {upstream.name}" if upstream.is_named else f"what is passed to {upstream.name}"


def _written(one: Server) -> str:
    return f"[{one.host}]:{one.port}" if ":" in one.host else f"{one.host}:{one.port}"


def _places(servers: Sequence[Server]) -> str:
    more = f" and {len(servers) - 1} more" if len(servers) > 1 else ""
    return f"{servers[0].where}{more}"


def _listed(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
