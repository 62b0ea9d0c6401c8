"""What rolling.yaml says: of each group, and of the listener. Durations are in seconds.

A field is a key of the file. Its name, default, type and what the type is annotated with are all that
``listener/config/parser.py`` needs to read and check it; fields that are ``NOT_A_KEY`` are filled in by the program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

BYPASS_MARK = 0x726F6C6C
"""The firewall mark of a warm-up's socket: "roll" in ASCII, so that it is easy to find and unlike the small numbers and
single bits that other tools use."""

BYPASS_ADDRESS = "127.0.0.2"
"""The source address of a warm-up with ``bypass: address``."""

PROXIES = ("docker-proxy", "rootlessport", "conmon")
"""Programs that listen on the host for a container: of Docker, and of Podman."""


# --- what a key takes, besides its type


@dataclass(frozen=True)
class Range:
    """A number from ``least`` to ``most``."""

    least: float
    most: float


class OneOf(tuple[str, ...]):
    """One of these words."""


NOT_A_KEY = "not a key"
WEEK = 7 * 24 * 3600
"""The longest duration: anything beyond is a typing error, and this is far below what a socket's timeout can hold."""

MAX_PORT = 65535
MAX_PROCESSES = MAX_PORT
"""Each has a port of its own."""

Seconds = Annotated[float, Range(0, WEEK)]
Deadline = Annotated[float, Range(0.1, WEEK)]  # one of nothing would fail every rollout
SecondsOrAuto = Annotated[float, "seconds or auto"]
Number = Annotated[int, Range(0, MAX_PROCESSES)]
Port = Annotated[int, Range(1, MAX_PORT)]
Path = Annotated[str, "path"]  # of a URL
Headers = Annotated[Mapping[str, str], "headers"]
File = Annotated[str, "file"]  # its full path


# --- the keys


@dataclass(frozen=True)
class GatePolicy:
    """How ports are closed."""

    backend: Annotated[str, OneOf(("auto", "iptables", "nftables", "haproxy"))] = "auto"
    method: Annotated[str, OneOf(("reject", "redirect"))] = "reject"
    lease: Annotated[float, Range(15, 3600)] = 30.0  # after so long without renewal the kernel opens a port by itself
    bypass: Annotated[str, OneOf(("mark", "address"))] = "mark"  # how a warm-up passes; "none" with haproxy
    socket: File = ""  # HAProxy's stats socket; with haproxy only, and so is the next
    backend_name: Annotated[str, "HAProxy name"] = ""


@dataclass(frozen=True)
class DrainPolicy:
    """How long to wait for open connections, and how the process learns that its port is closed, so that it ends those
    that are kept open."""

    timeout: Seconds = 30.0
    min_seconds: Seconds = 0.0
    on_timeout: Annotated[str, OneOf(("continue", "fail"))] = "continue"
    signal: Annotated[str, "signal"] = ""  # its name without SIG
    request: Annotated[str, "drain request"] = ""  # method and path, such as GET /drain
    # What deals with a load balancer's pool of keep-alive connections; refuse: nothing does.
    keepalive: Annotated[str, OneOf(("refuse", "application", "nginx", "ignore"))] = "refuse"
    idle_after: Deadline = 10.0  # with keepalive: nginx, a connection on which no byte moved for so long is idle


@dataclass(frozen=True)
class RestartPolicy:
    """How long the old process may take to stop, at least its stopwaitsecs, and then the new one to run."""

    timeout: Deadline = 60.0
    on_kill: Annotated[str, OneOf(("fail", "continue"))] = "fail"  # where supervisord had to kill the old one


@dataclass(frozen=True)
class WarmupRequest:
    """One request of the warm-up list."""

    method: Annotated[str, "method"] = "GET"
    path: Path = "/"
    headers: Headers = field(default_factory=dict)
    body: str = ""
    expect: Annotated[tuple[int, ...], "statuses"] = ()  # empty: any 2xx
    count: Annotated[int, Range(1, 10000)] = 1


@dataclass(frozen=True)
class WarmupPolicy:
    """What a new process answers before its port is opened."""

    timeout: Deadline = 60.0
    ready: Path = ""  # asked until it answers 2xx; empty: until the port accepts connections
    headers: Headers = field(default_factory=dict)  # of every request
    requests: tuple[WarmupRequest, ...] = ()  # then these, in order
    proxies: tuple[Annotated[str, "program"], ...] = PROXIES  # programs that may listen in place of a process


@dataclass(frozen=True)
class Share:
    """A number of processes, or a percentage of the group: exactly one of the two is above 0."""

    number: int = 0
    percent: float = 0.0


@dataclass(frozen=True)
class GuardPolicy:
    """Whether new processes are kept closed until they are warm, and how many of the group at a time at most."""

    enabled: Annotated[bool, NOT_A_KEY] = True
    max_closed: Share = Share(percent=50.0)


@dataclass(frozen=True)
class BalancerPolicy:
    """What is known of the load balancer."""

    nginx: File = ""  # nginx.conf, or the output of nginx -T; empty: what nginx -T prints on this host
    retries: bool = False  # the operator knows that it tries another server when a connection is refused


@dataclass(frozen=True)
class Hook:
    """A command of the operator's, without a shell; empty: none."""

    command: Annotated[tuple[str, ...], "command"] = ()
    timeout: Deadline = 60.0


@dataclass(frozen=True)
class HooksPolicy:
    """The operator's commands."""

    before_rollout: Hook = Hook()
    after_warmup: Hook = Hook()  # for each process that is warm and still closed
    on_failure: Hook = Hook()  # at the end of a rollout that failed, before after_rollout
    after_rollout: Hook = Hook()


@dataclass(frozen=True)
class PortRule:
    """How a process's ports are found: one of the three."""

    pattern: str = ""  # a regex on its name, with one group around the port
    by_name: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    auto: bool = False  # what it listens on


@dataclass(frozen=True)
class Policy:
    """A group's keys."""

    group: Annotated[str, NOT_A_KEY]
    ports: PortRule
    max_unavailable: Share = Share(percent=10.0)
    canary: Number = 1
    max_failures: Number = 0
    drain: DrainPolicy = DrainPolicy()
    restart: RestartPolicy = RestartPolicy()
    warmup: WarmupPolicy = field(default_factory=WarmupPolicy)
    min_ready_seconds: SecondsOrAuto = 10.0
    guard: GuardPolicy = GuardPolicy()
    balancer: BalancerPolicy = BalancerPolicy()
    hooks: HooksPolicy = HooksPolicy()
    # min_ready_seconds: auto. The load balancer's configuration says how long; where it cannot be read, the default.
    min_ready_auto: Annotated[bool, NOT_A_KEY] = True
    min_ready_read: Annotated[bool, NOT_A_KEY] = False  # min_ready_seconds is what that configuration says
    min_ready_why: Annotated[str, NOT_A_KEY] = ""  # what in it says so; empty where nothing does


@dataclass(frozen=True)
class HistoryPolicy:
    """Where ended rollouts are kept."""

    enabled: Annotated[bool, NOT_A_KEY] = True
    file: File = ""  # empty: one of this supervisord's in /var/lib/supervisor_rolling


@dataclass(frozen=True)
class MetricsPolicy:
    """Where Prometheus gets its metrics."""

    listen: Annotated[str, "address and port"] = ""  # empty: nowhere


@dataclass(frozen=True)
class Config:
    """The whole file."""

    gate: GatePolicy = GatePolicy()
    groups: Mapping[str, Policy] = field(default_factory=dict)
    history: HistoryPolicy = HistoryPolicy()
    metrics: MetricsPolicy = MetricsPolicy()
    invalid: Annotated[Mapping[str, str], NOT_A_KEY] = field(default_factory=dict)  # by group: a problem a line
