"""What an nginx configuration says of its upstreams, from the tree that crossplane makes of it.

Only what matters while the port of a process is closed: which servers there are, for how long one that refused a
connection gets no requests, whether connections are kept, and whether the next server is tried. A directive of an
inner block replaces the same one outside, as in nginx (http://nginx.org/en/docs/http/ngx_http_upstream_module.html and
…/ngx_http_proxy_module.html).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from supervisor_rolling.core.endpoint import Endpoint, tcp, unix

Directive = Mapping[str, Any]  # directive, args, file, line, and block where it has one: crossplane's
Directives = Mapping[str, list[Directive]]  # those that hold in a block, by name

POOLED_BY_DEFAULT = (1, 29, 7)
"""The first version that keeps 32 connections to an upstream without a keepalive line."""

NO_POOL = "remove the keepalive line (nginx 1.29.7 or later: keepalive 0;)"
"""How an upstream keeps no connections. Before POOLED_BY_DEFAULT ``keepalive 0;`` is an error of nginx."""

MAX_FAILS, FAIL_TIMEOUT = 1, 10.0
"""nginx's own defaults."""

_PASSES = {f"{protocol}_pass": protocol for protocol in ("proxy", "uwsgi", "fastcgi", "scgi", "grpc")}
"""The directives that pass requests on; each module has others that begin with the same word."""

_SCHEME = re.compile(r"(?:https?|grpcs?)://", re.IGNORECASE)
_TIMES = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_TIME = re.compile(r"(\d+)(s|m|h|d|w|)")


@dataclass(frozen=True)
class Server:
    """A server of an upstream."""

    host: str  # as it is written
    port: int  # 0: a unix socket
    where: str  # file and line
    max_fails: int = MAX_FAILS
    fail_timeout: float = FAIL_TIMEOUT
    is_down: bool = False

    @property
    def endpoint(self) -> Endpoint:
        """What it is for the process that listens there."""
        return unix(self.host.partition(":")[2]) if self.host.startswith("unix:") else tcp(self.port)

    @property
    def unavailable_for(self) -> float:
        """Seconds for which nginx sends nothing to it after it refused a connection, at most: nginx counts whole
        seconds, and ``fail_timeout`` has to be over (measured: 2s are 2.1 to 3.0)."""
        return self.fail_timeout + 1.0 if self.max_fails else 0.0


@dataclass(frozen=True)
class Upstream:
    """A named upstream, or the one that a location names by its address."""

    name: str
    where: str
    servers: tuple[Server, ...]
    keepalive: int = 0  # connections that it keeps
    has_keepalive: bool = False  # a line says so
    is_named: bool = True
    kind: str = "http"  # or stream


@dataclass(frozen=True)
class ProxyPass:
    """A place that passes requests to an upstream."""

    upstream: str
    where: str
    next_upstream: tuple[str, ...] = ("error", "timeout")  # on what the next server is tried
    tries: int = 0  # how many servers are; 0: all
    keeps: bool = False  # it leaves connections open, so that a pool can keep them
    directive: str = "proxy"
    kind: str = "http"  # or stream


@dataclass(frozen=True)
class Nginx:
    """One configuration."""

    upstreams: tuple[Upstream, ...] = ()
    proxy_passes: tuple[ProxyPass, ...] = ()
    version: tuple[int, ...] = ()  # such as (1, 22, 1); empty: not known
    source: str = ""  # for messages
    own: frozenset[str] = frozenset()  # its names for this host
    problem: str = ""  # why it could not be read
    is_absent: bool = False  # because there is none

    def is_used(self, upstream: Upstream) -> bool:
        """Whether a place passes requests to it, as far as that is written down: a variable may name any."""
        return any(
            "$" in one.upstream or (one.kind, one.upstream) == (upstream.kind, upstream.name)
            for one in self.proxy_passes
        )

    def pool_of(self, upstream: Upstream) -> int:
        """The connections that are kept to the servers of an upstream; 0: none."""
        if upstream.kind != "http" or not any(one.keeps for one in self.proxy_passes if one.upstream == upstream.name):
            return 0
        if not upstream.has_keepalive:
            return 32 if upstream.is_named and self.version >= POOLED_BY_DEFAULT else 0
        return upstream.keepalive


def nginx_of(tree: Sequence[Directive], version: tuple[int, ...] = (), source: str = "") -> Nginx:
    """The upstreams of a configuration, and the places that pass requests to them."""
    upstreams: dict[tuple[str, str], Upstream] = {}
    proxy_passes = []
    for part in [one for one in tree if one["directive"] in ("http", "stream")]:
        kind, block = part["directive"], part.get("block") or ()
        for one in [one for one in block if one["directive"] == "upstream"]:
            upstreams[kind, _first(one).lower()] = _upstream(one, kind)
        for proxy_pass in _proxy_passes(block, {}, kind, version):
            known = proxy_pass.upstream.partition("$")[0]  # such as app$request_uri
            if (kind, known) not in upstreams and _is_address(known):
                server = Server(*_address(known), proxy_pass.where)
                upstreams[kind, known] = Upstream(known, proxy_pass.where, (server,), is_named=False, kind=kind)
            proxy_passes.append(replace(proxy_pass, upstream=known) if (kind, known) in upstreams else proxy_pass)
    return Nginx(tuple(upstreams.values()), tuple(proxy_passes), version, source)


def _proxy_passes(
    block: Sequence[Directive], outer: Directives, kind: str, version: tuple[int, ...]
) -> Iterator[ProxyPass]:
    """Each place in a block that passes requests on."""
    own: dict[str, list[Directive]] = {}
    for one in block:
        own.setdefault(one["directive"], []).append(one)
    settings = {**outer, **own}
    for one in block:
        protocol = _PASSES.get(one["directive"])
        if protocol and one.get("args"):
            yield _proxy_pass(one, settings, protocol, kind, version)
        if one["directive"] != "upstream":
            yield from _proxy_passes(one.get("block") or (), settings, kind, version)


def _proxy_pass(one: Directive, settings: Directives, protocol: str, kind: str, version: tuple[int, ...]) -> ProxyPass:
    target = _SCHEME.sub("", _first(one))
    words = tuple(_last(settings, f"{protocol}_next_upstream") or ("error", "timeout"))
    if words == ("off",):
        words = ()
    elif kind == "stream":  # it is on or off
        words = ("error",)
    return ProxyPass(
        upstream=target if target.startswith("unix:") else target.partition("/")[0].lower(),
        where=_where(one),
        next_upstream=words,
        tries=_number(_last(settings, f"{protocol}_next_upstream_tries"), 0),
        keeps=kind == "http" and _keeps(settings, protocol, version),
        directive=protocol,
        kind=kind,
    )


def _keeps(settings: Directives, protocol: str, version: tuple[int, ...]) -> bool:
    """Whether requests are passed on in a way that leaves the connection open: over HTTP by default with the later
    versions only, which say HTTP/1.1 and no ``Connection: close``."""
    if protocol == "proxy":
        headers = [one.get("args", ()) for one in settings.get("proxy_set_header", ())]
        values = [args[1].lower() for args in headers if len(args) > 1 and args[0].lower() == "connection"]
        is_later = version >= POOLED_BY_DEFAULT
        keeps = values[-1] != "close" and "$" not in values[-1] if values else is_later  # a map often says close
        return keeps and (_last(settings, "proxy_http_version") or ["1.1" if is_later else "1.0"]) != ["1.0"]
    if protocol == "fastcgi":
        return _last(settings, "fastcgi_keep_conn") == ["on"]
    return protocol == "grpc"


def _upstream(found: Directive, kind: str) -> Upstream:
    block = [one for one in found.get("block") or () if one.get("args")]
    servers = tuple(_server(one) for one in block if one["directive"] == "server")
    kept = [one["args"] for one in block if one["directive"] == "keepalive"]
    number = _number(kept[-1], 0) if kept else 0
    return Upstream(_first(found).lower(), _where(found), servers, number, bool(kept), kind=kind)


def _server(one: Directive) -> Server:
    words = dict(arg.partition("=")[::2] for arg in one["args"][1:])
    return Server(
        *_address(one["args"][0]),
        where=_where(one),
        max_fails=_number([words.get("max_fails", "")], MAX_FAILS),
        fail_timeout=_seconds(words.get("fail_timeout", "")),
        is_down="down" in words,
    )


def _address(text: str) -> tuple[str, int]:
    if text.startswith("unix:"):
        return text, 0
    host, colon, port = text.rpartition(":")
    return (host.strip("[]"), int(port)) if colon and port.isdigit() else (text.strip("[]"), 80)


def _is_address(name: str) -> bool:
    """Whether it is that of a server and not the name of an upstream, as far as its form tells."""
    return name.startswith(("unix:", "[")) or ":" in name or "." in name or name == "localhost"


def _seconds(text: str) -> float:
    """nginx's way to write times: 10, 10s, 1m30s."""
    found = _TIME.findall(text)
    if not found or "".join(map("".join, found)) != text:
        return FAIL_TIMEOUT
    return sum(int(number) * _TIMES[unit] for number, unit in found)


def _last(settings: Directives, name: str) -> list[str]:
    return list(settings[name][-1].get("args", ())) if name in settings else []


def _number(args: Sequence[str], default: int) -> int:
    return int(args[0]) if args and args[0].isdigit() else default


def _first(one: Directive) -> str:
    return str((one.get("args") or [""])[0])


def _where(one: Directive) -> str:
    return f"{one.get('file', '')}:{one.get('line', '')}"
