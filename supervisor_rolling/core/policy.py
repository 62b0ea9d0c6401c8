"""What rolling.yaml says: of each group, and of the listener. Durations are in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

BYPASS_MARK = 0x726F6C6C
"""The firewall mark of a warm-up's socket: "roll" in ASCII, so that it is easy to find and unlike the small numbers and
single bits that other tools use."""


BYPASS_ADDRESS = "127.0.0.2"
"""The source address of a warm-up with ``bypass: address``."""


@dataclass(frozen=True)
class GatePolicy:
    """How ports are closed. ``lease``: seconds after which the kernel opens a port by itself unless renewed.

    ``socket`` and ``backend_name`` are HAProxy's, with that backend alone. Nothing stands in the way of a warm-up then:
    ``bypass`` is none.
    """

    backend: str = "auto"  # or iptables, nftables, haproxy
    method: str = "reject"  # or redirect
    lease: float = 30.0
    bypass: str = "mark"  # or address, none
    socket: str = ""
    backend_name: str = ""


@dataclass(frozen=True)
class DrainPolicy:
    """How long to wait for the connections that are left; and what a process is told when its gate is closed, so that
    it ends those that are kept: a ``signal`` by its name without SIG, a ``request`` such as ``GET /drain``; empty:
    nothing. ``quiet``: with ``keepalive: nginx``, for so many seconds no byte has to move before connections that stay
    open are taken for idle ones of a pool."""

    timeout: float = 30.0
    min: float = 0.0
    on_timeout: str = "restart"  # or fail
    signal: str = ""
    request: str = ""
    keepalive: str = "refuse"  # or application, nginx, ignore: who deals with a load balancer's keepalive pool
    quiet: float = 10.0


@dataclass(frozen=True)
class RestartPolicy:
    """``timeout``: for the old process to stop, at least its stopwaitsecs, and again for the new one to be there.
    ``on_kill``: what the rollout does about a process that does not stop, so that supervisord has to kill it."""

    timeout: float = 60.0
    on_kill: str = "fail"  # or restart


@dataclass(frozen=True)
class WarmupRequest:
    """One request of the warm-up list. An empty ``expect`` stands for any 2xx."""

    method: str = "GET"
    path: str = "/"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    expect: tuple[int, ...] = ()
    count: int = 1


PROXIES = ("docker-proxy", "rootlessport", "conmon")
"""Programs that listen for a container on the host: of Docker, and of Podman."""


@dataclass(frozen=True)
class WarmupPolicy:
    """``ready`` is asked until it answers 2xx (empty: until the port accepts), then ``requests`` in order."""

    timeout: float = 60.0
    ready: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    requests: tuple[WarmupRequest, ...] = ()
    proxies: tuple[str, ...] = PROXIES  # names of programs that may listen in place of a process


@dataclass(frozen=True)
class Share:
    """A number of processes, or a percentage of the group: exactly one of the two is above 0."""

    number: int = 0
    percent: float = 0.0


@dataclass(frozen=True)
class GuardPolicy:
    """Whether new processes are kept closed until they are warm, whoever started them, and at most how many of the
    group are closed for that."""

    enabled: bool = True
    max_closed: Share = Share(percent=50.0)


@dataclass(frozen=True)
class BalancerPolicy:
    """Where the load balancer says what it does. ``nginx``: its configuration, or a file with the output of ``nginx
    -T``; empty: what ``nginx -T`` says here. ``retries``: the operator knows that it tries another server when a
    connection is refused."""

    nginx: str = ""
    retries: bool = False


@dataclass(frozen=True)
class Hook:
    """A command of the operator's, without a shell; empty: none. ``timeout``: seconds until it is killed."""

    command: tuple[str, ...] = ()
    timeout: float = 60.0


@dataclass(frozen=True)
class HooksPolicy:
    """What is run: before anything is touched, for each process that is warm and still closed, and at the end of a
    rollout; of one that failed first the one and then the other."""

    before_rollout: Hook = Hook()
    after_warmup: Hook = Hook()
    on_failure: Hook = Hook()
    after_rollout: Hook = Hook()


@dataclass(frozen=True)
class PortRule:
    """How a process's ports are found: one of a regex with one group, a map by process name, or what it listens on."""

    pattern: str = ""
    by_name: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    auto: bool = False


@dataclass(frozen=True)
class Policy:
    """All that the YAML says of one group. ``min_ready_auto``: the load balancer's configuration says how long to
    settle, and ``min_ready_seconds`` holds where it cannot be read. ``min_ready_why``: what in it says so; empty where
    nothing does. ``min_ready_read``: it has been read, and ``min_ready_seconds`` is what it says."""

    group: str
    ports: PortRule
    max_unavailable: Share = Share(percent=10.0)
    canary: int = 1
    max_failures: int = 0
    drain: DrainPolicy = DrainPolicy()
    restart: RestartPolicy = RestartPolicy()
    warmup: WarmupPolicy = field(default_factory=WarmupPolicy)
    min_ready_seconds: float = 10.0
    guard: GuardPolicy = GuardPolicy()
    min_ready_auto: bool = True
    min_ready_why: str = ""
    min_ready_read: bool = False
    balancer: BalancerPolicy = BalancerPolicy()
    hooks: HooksPolicy = HooksPolicy()


@dataclass(frozen=True)
class HistoryPolicy:
    """Where the rollouts that were are kept. ``file``: a full path; empty: one of this supervisord's in
    /var/lib/supervisor_rolling."""

    enabled: bool = True
    file: str = ""


@dataclass(frozen=True)
class MetricsPolicy:
    """Where figures for Prometheus are to be had: an address and a port; empty: nowhere."""

    listen: str = ""


@dataclass(frozen=True)
class Config:
    """The whole YAML file."""

    gate: GatePolicy
    groups: Mapping[str, Policy]
    history: HistoryPolicy = HistoryPolicy()
    metrics: MetricsPolicy = MetricsPolicy()
    invalid: Mapping[str, str] = field(default_factory=dict)  # groups with mistakes: what is wrong, a line for each
