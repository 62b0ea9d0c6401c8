"""What the configurations of load balancers say of a group: whether a refused connection is tried on another server.

Only as much of each language is read as that takes. A configuration that is built otherwise (server names from DNS, a
variable, an API) names none of the ports, and says nothing here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from supervisor_rolling.core.nginx_config import NO_POOL

Files = Sequence[tuple[str, str]]
"""The path and text of each file of a configuration."""


@dataclass(frozen=True)
class Proxy:
    """What one configuration says of the servers that are processes of the group."""

    where: str  # file and line
    retries: bool  # a refused connection is tried on another server
    unavailable_for: float = 0.0  # seconds for which a server that refused a connection then gets no requests
    keeps_connections: bool = False  # for the next request
    is_here: bool = True  # the address may be this host's; else it has the same port on another one, as far as it shows


@dataclass(frozen=True)
class Program:
    """A load balancer."""

    title: str
    fix: str  # what makes it try another server
    read: Callable[[Files, Collection[int]], Iterator[Proxy]] | None = None
    retries: bool = False  # it tries another server unless its configuration says otherwise
    pool_fix: str = ""  # what makes it keep no connections, or the gate that copes with them


def read(name: str, files: Files, ports: Collection[int]) -> Proxy | None:
    """What the configuration of this program says of these ports; None where it names none of them."""
    program = PROGRAMS.get(name)
    found = list(program.read(files, ports)) if program and program.read else []
    if not found:
        return None
    worst = min(found, key=lambda one: (one.retries, not one.keeps_connections, -one.unavailable_for))
    return replace(
        worst,
        unavailable_for=max(one.unavailable_for for one in found),
        keeps_connections=any(one.keeps_connections for one in found),
        is_here=any(one.is_here for one in found),
    )


# --- HAProxy


_HAPROXY_SECTIONS = ("global", "defaults", "backend", "listen", "frontend", "peers", "resolvers", "userlist", "cache")
_CLOSING = ("http-server-close", "httpclose", "forceclose")


@dataclass
class _Section:
    """A section of haproxy.cfg, with what it inherits from its defaults."""

    redispatch: bool = False
    retries: int = 3
    is_http: bool = False  # HAProxy's default is tcp
    closing: str = ""  # the option by which it closes a connection to a server after the answer
    server: tuple[str, ...] = ()  # of default-server
    servers: list[tuple[str, Sequence[str]]] = field(default_factory=list)  # the place of each, and its words

    def proxies(self, ports: Collection[int]) -> Iterator[Proxy]:
        for where, words in self.servers:
            if here := _matches(words[1], ports):
                retries, keeps = self.redispatch and self.retries > 0, self.is_http and not self.closing
                yield Proxy(where, retries, _checks_for([*self.server, *words[2:]]), keeps, any(here))

    def take(self, words: Sequence[str], where: str) -> None:
        """Take one line of it."""
        is_no = words[0] == "no"
        if words[is_no:][:1] == ["option"]:
            self._set("".join(words[is_no + 1 : is_no + 2]), not is_no)
        elif words[0] == "mode" and len(words) > 1:
            self.is_http = words[1] == "http"
        elif words[0] == "retries" and words[1:] and words[1].isdecimal():
            self.retries = int(words[1])
        elif words[0] == "default-server":
            self.server = (*self.server, *words[1:])
        elif words[0] in ("server", "server-template") and len(words) > 2:
            self.servers.append((where, words[1:] if words[0] == "server" else [words[1], *words[3:], ""]))

    def _set(self, option: str, is_on: bool) -> None:
        """Take an option. Of those that say what becomes of connections the last one holds."""
        if option == "redispatch":
            self.redispatch = is_on
        elif is_on and option in (*_CLOSING, "http-keep-alive"):
            self.closing = option if option in _CLOSING else ""
        elif option == self.closing:
            self.closing = ""


def _haproxy(files: Files, ports: Collection[int]) -> Iterator[Proxy]:
    found, named, last, now = [], {"": _Section()}, "", _Section()
    for where, words in _lines(files):
        if words[0] not in _HAPROXY_SECTIONS:
            now.take(words, where)
            continue
        base = named.get(words[words.index("from") + 1], _Section()) if "from" in words[:-1] else named[last]
        now = replace(_Section() if words[0] == "defaults" and "from" not in words else base, servers=[])
        found.append(now)
        if words[0] == "defaults":
            last = words[1] if len(words) > 1 and words[1] != "from" else ""
            named[last] = now
    for section in found:
        yield from section.proxies(ports)


def haproxy_gate(files: Files, ports: Collection[int]) -> tuple[str, ...]:
    """What ``gate: {backend: haproxy}`` needs: the path of the stats socket with level admin, and the backend that has
    a server with one of these ports. Empty where there is not both."""
    socket = backend = section = ""
    for _, words in _lines(files):
        if words[0] in _HAPROXY_SECTIONS:
            section = words[1] if words[0] in ("backend", "listen") and len(words) > 1 else ""
        elif words[:2] == ["stats", "socket"] and " level admin" in " ".join(words) and words[2].startswith("/"):
            socket = words[2]
        elif words[0] == "server" and section and any(_matches(" ".join(words[2:3]), ports)):
            backend = section
    return (socket, backend) if socket and backend else ()


def _checks_for(words: Sequence[str]) -> float:
    """Seconds of the ``rise`` checks that a server has to pass once it counted as dead."""
    if "check" not in words:
        return 0.0
    values = dict(zip(words, words[1:]))
    every = max(_seconds(values.get(key, "0"), 1e-3) for key in ("inter", "fastinter", "downinter"))
    return (every or 2.0) * _whole(values.get("rise", ""), 2)


# --- Caddy


def _caddy(files: Files, ports: Collection[int]) -> Iterator[Proxy]:
    lines = list(_lines(files))
    for number, (where, words) in enumerate(lines):
        if "reverse_proxy" in words[:2]:
            body = list(_block([words for _, words in lines[number:]]))
            to = [*words, *(word for line in body if line[0] == "to" for word in line)]
            if here := _matches(" ".join(to), ports):
                yield _caddy_proxy(where, {line[0]: " ".join(line[1:]) for line in body}, any(here))


def _block(lines: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
    """The lines within the braces that the first one opens, if it does."""
    depth = 0
    for number, words in enumerate(lines):
        if number and words != ["}"]:
            yield words
        depth += (words[-1] == "{") - (words[0] == "}")
        if depth <= 0:
            return


def _caddy_proxy(where: str, values: Mapping[str, str], is_here: bool) -> Proxy:
    retries = _whole(values.get("lb_retries", ""), 0) > 0 or _seconds(values.get("lb_try_duration", "0")) > 0
    is_checked = "health_uri" in values or "health_port" in values
    checked = _seconds(values.get("health_interval", "30s")) if is_checked else 0.0
    unavailable_for = max(_seconds(values.get("fail_duration", "0")), checked)
    return Proxy(where, retries, unavailable_for, values.get("keepalive") != "off", is_here)


# --- Apache


def _apache(files: Files, ports: Collection[int]) -> Iterator[Proxy]:
    for where, words in _lines(files):
        if words[0].lower() == "balancermember" and len(words) > 1 and (here := _matches(words[1], ports)):
            values = dict(word.lower().partition("=")[::2] for word in words[2:])
            retry = _whole(values.get("retry", ""), 60)  # Apache's default
            yield Proxy(where, True, float(retry), values.get("disablereuse") != "on", any(here))


# --- Varnish


_COMMENT = re.compile(r"/\*.*?\*/|(?://|#)[^\n]*", re.DOTALL)
_BACKEND_ERROR = re.compile(r"\bsub\s+vcl_backend_error\s*\{")
_RETRY = re.compile(r"return\s*\(\s*retry\s*\)")
_PORT = re.compile(r'\.port\s*=\s*"(\d+)"')
_PROBE = re.compile(r"\.(interval|threshold)\s*=\s*([\w.]+)")


def _varnish(files: Files, ports: Collection[int]) -> Iterator[Proxy]:
    texts = [(path, _COMMENT.sub(lambda gone: "\n" * gone[0].count("\n"), text)) for path, text in files]
    errors = [_braced(text[start.end() :]) for _, text in texts for start in _BACKEND_ERROR.finditer(text)]
    retries = any(_RETRY.search(body) for body in errors)
    probe = {key: value for _, text in texts for key, value in _PROBE.findall(text)}
    seconds = _seconds(probe.get("interval", "5s")) * _whole(probe.get("threshold", ""), 3)
    unavailable_for = seconds if any(".probe" in text for _, text in texts) else 0.0
    for path, text in texts:
        for found in _PORT.finditer(text):
            if int(found[1]) in ports:
                yield Proxy(f"{path}:{text.count(chr(10), 0, found.start()) + 1}", retries, unavailable_for)


def _braced(text: str) -> str:
    """The text up to the brace that closes the one before it."""
    depth = 1
    for brace in re.finditer("[{}]", text):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return text[: brace.start()]
    return text


# --- what they have in common


_ADDRESSES = re.compile(r"(\[[^\]]*\]|[^\s/@,\[\]:]*):(\d{1,5})(?:-(\d{1,5}))?(?![\d.:])")
_ONE_SECOND = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)?")


def _lines(files: Files) -> Iterator[tuple[str, list[str]]]:
    """The words of each line that has any, and its place, without comments."""
    for path, text in files:
        for number, line in enumerate(text.splitlines(), 1):
            words = re.sub(r"(^|\s)#.*", "", line).replace('"', " ").split()
            if words:
                yield f"{path}:{number}", words


def _matches(text: str, ports: Collection[int]) -> list[bool]:
    """For each address with one of these ports, such as 10.0.0.1:8000, or :8000-8003: whether it may be this host's."""
    return [
        _may_be_own(host)
        for host, first, last in _ADDRESSES.findall(text)
        if any(int(first) <= port <= int(last or first) for port in ports)
    ]


def _may_be_own(host: str) -> bool:
    """A name may be, a number only of loopback."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return True
    return address.is_loopback or address.is_unspecified


def _seconds(text: str, unit: float = 1.0) -> float:
    """A duration such as 250ms or 1m30s; ``unit``: of a bare number, in seconds."""
    return sum(float(number) * _ONE_SECOND.get(name, unit) for number, name in _DURATION.findall(text))


def _whole(text: str, default: int) -> int:
    return int(text) if text.isdecimal() else default


# --- the programs


_APACHE = Program(
    "Apache",
    "retry=0 disablereuse=On at each BalancerMember",
    _apache,
    retries=True,
    pool_fix="disablereuse=On at each BalancerMember",
)
_NGINX = Program(
    "nginx",
    "proxy_next_upstream error timeout;",
    retries=True,
    pool_fix=f"in the upstream, {NO_POOL}; or in rolling.yaml drain: {{keepalive: nginx}}",
)
_HAPROXY_GATE = "gate: {backend: haproxy, socket: …, backend_name: …} in rolling.yaml"
PROGRAMS: Mapping[str, Program] = MappingProxyType(
    {
        "nginx": _NGINX,
        "openresty": _NGINX,
        "apache2": _APACHE,
        "httpd": _APACHE,
        "haproxy": Program(
            "HAProxy",
            f"{_HAPROXY_GATE}, or `option redispatch 1` in the backend and a reload of HAProxy",
            _haproxy,
            pool_fix=f"{_HAPROXY_GATE}, or `option http-server-close` in the backend and a reload of HAProxy",
        ),
        "caddy": Program(
            "Caddy",
            "lb_retries 3, lb_try_duration 5s, lb_try_interval 10ms and fail_duration 1s in reverse_proxy",
            _caddy,
            pool_fix="keepalive off in the block transport http of reverse_proxy",
        ),
        "varnishd": Program(
            "Varnish",
            "sub vcl_backend_error { return (retry); } in the VCL, with a director over all backends",
            _varnish,
            pool_fix='set bereq.http.Connection = "close"; in vcl_backend_fetch',
        ),
        "traefik": Program("Traefik", "a retry middleware (attempts: 4) on the router"),
        "envoy": Program(
            "Envoy",
            "retry_policy: {retry_on: connect-failure, num_retries: 3} with the retry host predicate previous_hosts",
            pool_fix="max_requests_per_connection: 1 in the cluster",
        ),
    }
)
"""By the name of the program's file, or what the kernel calls the process."""

NGINX = frozenset({"nginx", "openresty"})
"""What ``checks/nginx.py`` has findings for."""
