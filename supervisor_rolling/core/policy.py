"""What rolling.yaml says: of each group, and of the listener. Durations are in seconds.

A field is a key of the file. Its name, default, type and what the type is annotated with are all that
``listener/config/parser.py`` needs to read and check it; fields that are ``NOT_A_KEY`` are filled in by the program.
The reference in docs/ is made from all of this: a comment that begins with ``#:`` is what a key means, the docstring
of a class what is said about its section, both as reStructuredText.
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

DEFAULT_FILE = "/etc/supervisor/rolling.yaml"
"""What the listener reads where its command names no other file."""

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
    """How ports are closed. These keys are the same for all groups."""

    #: What closes a port. ``iptables`` (legacy xtables, by python-iptables) and ``nftables`` (by libnftables1) refuse
    #: new connections. ``auto`` takes nftables where the host has an nft firewall and no legacy table, or where
    #: python-iptables is not installed; else iptables; and always one that works. ``haproxy`` drains the server in
    #: HAProxy instead; it needs no firewall and no root.
    backend: Annotated[str, OneOf(("auto", "iptables", "nftables", "haproxy"))] = "auto"
    #: ``reject`` answers a new connection with a reset at once. ``redirect`` sends it to a port where nothing listens;
    #: it is a nat rule, and works with iptables only.
    method: Annotated[str, OneOf(("reject", "redirect"))] = "reject"
    #: A closed port is a lease. The listener renews it; after so many seconds without renewal the kernel opens the port
    #: by itself.
    lease: Annotated[float, Range(15, 3600)] = 30.0
    #: How a warm-up passes a closed port. ``mark``: its socket has a firewall mark. ``address``: it comes from
    #: 127.0.0.2, and so is for IPv4 only.
    bypass: Annotated[str, OneOf(("mark", "address"))] = "mark"  # "none" with haproxy
    #: HAProxy's stats socket, with level admin, such as ``/run/haproxy/admin.sock``. Required with ``backend:
    #: haproxy``, and for nothing else.
    socket: File = ""
    #: The backend in haproxy.cfg that has the processes as servers; they are matched by port. Required with ``backend:
    #: haproxy``, and for nothing else.
    backend_name: Annotated[str, "HAProxy name"] = ""


@dataclass(frozen=True)
class DrainPolicy:
    """The port is closed to new connections; the process answers the requests that it has. Here you say how long a
    rollout waits for them, and how the process learns that its port is closed, so that it ends the connections that are
    kept open."""

    #: Wait at most so long until no connection is left.
    timeout: Seconds = 30.0
    #: Wait at least so long, even if no connection is left.
    min_seconds: Seconds = 0.0
    #: What to do if connections are left at the timeout, or a worker that ``drain.signal`` asked to finish has not
    #: exited. ``continue`` restarts the process anyway. ``fail`` opens the port again, leaves the process alone, and
    #: ends the rollout.
    on_timeout: Annotated[str, OneOf(("continue", "fail"))] = "continue"
    #: A signal that is sent to the process when its port is closed: USR1, USR2, HUP, WINCH, URG, TTIN or TTOU. The
    #: application then answers with ``Connection: close``. A process without a handler for the signal exits. The signal
    #: may be sent twice, and after an abort the process continues to serve. With ``ports: none`` it asks a worker to
    #: finish: the worker has until ``drain.timeout`` to exit by itself, and is stopped then. An abort waits for it,
    #: too.
    signal: Annotated[str, "signal"] = ""  # its name without SIG
    #: A request that is sent to the process when its port is closed, through the closed port: a path such as
    #: ``/drain``, or ``{method: POST, path: /drain}``. It has the headers of the warm-up. It may be sent twice, too.
    request: Annotated[str, "drain request"] = ""  # method and path, such as GET /drain
    #: What closes the keep-alive connections of a load balancer. ``refuse``: nothing does; a rollout is refused where
    #: there are any, and stops where requests still come over them. ``application``: the application does while it
    #: drains. ``nginx``: the kernel makes nginx close them. ``ignore``: they are cut off, and requests may be lost.
    keepalive: Annotated[str, OneOf(("refuse", "application", "nginx", "ignore"))] = "refuse"
    #: With ``keepalive: nginx``, a connection is idle when no byte has moved on it for so long. Choose it longer than
    #: the application ever pauses within a response, and shorter than ``drain.timeout``.
    idle_after: Deadline = 10.0


@dataclass(frozen=True)
class RestartPolicy:
    """supervisord stops the old process and starts the new one."""

    #: How long the new process may take to run. The old one has its ``stopwaitsecs`` to stop, and then so long to end
    #: after its SIGKILL. A rollout also waits so long for its next restart if other processes of the group are down.
    timeout: Deadline = 60.0
    #: What to do if supervisord had to kill the old process because it did not stop within its ``stopwaitsecs``.
    #: ``fail`` starts it again, warms it up, opens it, and ends the rollout. ``continue`` accepts it.
    on_kill: Annotated[str, OneOf(("fail", "continue"))] = "fail"


@dataclass(frozen=True)
class Hook:
    """A command, or ``{command: […], timeout: 60}``."""

    #: The arguments, without a shell. The first one is the full path of a program.
    command: Annotated[tuple[str, ...], "command"] = ()
    #: After so long the command is killed, with all its children, and has failed.
    timeout: Deadline = 60.0


@dataclass(frozen=True)
class Ready:
    """What tells that a new process is ready: a path, or ``{command: […], timeout: 60}``. At most one of the two."""

    path: Annotated[str, NOT_A_KEY] = ""
    hook: Annotated[Hook, NOT_A_KEY] = Hook()


@dataclass(frozen=True)
class WarmupRequest:
    """One request of the list. A path alone, such as ``/``, is a GET request for it."""

    #: The method.
    method: Annotated[str, "method"] = "GET"
    #: The path, with its query, such as ``/search?q=warm``.
    path: Path = "/"
    #: Headers besides those of ``warmup.headers``.
    headers: Headers = field(default_factory=dict)
    #: The body.
    body: str = ""
    #: The statuses that are right: one, or a list such as ``[200, 302]``. By default any 2xx is, and a redirect is
    #: followed while it leads to the process itself.
    expect: Annotated[tuple[int, ...], "statuses"] = ()
    #: How often to send it.
    count: Annotated[int, Range(1, 10000)] = 1


@dataclass(frozen=True)
class WarmupPolicy:
    """What a new process has to answer before its port is opened. Without any of these keys a process is warm as soon
    as its port accepts connections."""

    #: How long the whole warm-up may take, the boot of the application included. The wait for other warm-ups does not
    #: count: at most two for each CPU, and two more, send requests at a time.
    timeout: Deadline = 60.0
    #: A path such as ``/health`` that is requested until it answers 2xx. Connection errors and answers of 5xx are tried
    #: again until ``warmup.timeout``; 400, 401, 403, 404, and a redirect to elsewhere, fail after three answers.
    #: Or ``{command: [/srv/app/ready], timeout: 10}``, a command that is run until its exit status is 0. Without this
    #: key the process is ready when its port accepts connections, and with ``ports: none`` when it is RUNNING.
    ready: Ready = Ready()
    #: Headers of each request, such as ``{Host: example.org}``.
    headers: Headers = field(default_factory=dict)
    #: Requests that are sent when the process is ready, in this order; see below.
    requests: tuple[WarmupRequest, ...] = ()
    #: Programs that may listen on the port in place of the process, by their names as ``ps -o comm`` shows them. By
    #: default those of Docker and Podman. Otherwise a process is warm only if it, or a child of it, listens on its
    #: port, and no other process does.
    proxies: tuple[Annotated[str, "program"], ...] = PROXIES
    #: With ``ports: shared``, the full path of a second socket of each process, at which it is warmed up; ``{name}`` is
    #: the name of the process, such as ``/run/app/{name}.sock`` for ``daphne -u /run/app/%(process_name)s.sock``.
    socket: File = ""


@dataclass(frozen=True)
class Share:
    """A number of processes, or a percentage of the group: exactly one of the two is above 0."""

    number: int = 0
    percent: float = 0.0


@dataclass(frozen=True)
class GuardPolicy:
    """The crash guard keeps each new process closed until it is warm, whatever started it: a crash, a boot, a manual
    restart. ``guard: false`` turns it off."""

    enabled: Annotated[bool, NOT_A_KEY] = True
    #: At most so many processes of the group are kept closed at a time: a number, or a percentage, rounded down, at
    #: least 1. The others serve while they are warmed up. If no process of the group is warm and open, none is kept
    #: closed.
    max_closed: Share = Share(percent=50.0)


@dataclass(frozen=True)
class BalancerPolicy:
    """What the program cannot find out about the load balancer."""

    #: The full path of nginx.conf, or of a file with the output of ``nginx -T`` on another host. By default what
    #: ``nginx -T`` prints on this host.
    nginx: File = ""
    #: ``true`` confirms that the load balancer tries another server when a connection is refused. Without it a rollout
    #: is refused where the configuration of HAProxy, Caddy, Varnish or Apache does not show that, and ``rolling_check``
    #: prints a warning where it cannot be known.
    retries: bool = False


@dataclass(frozen=True)
class HooksPolicy:
    """Commands of your own, which the listener runs."""

    #: Runs before anything is changed. If it fails, the rollout ends, and nothing was changed.
    before_rollout: Hook = Hook()
    #: Runs for each process that is warm and still closed, within ``warmup.timeout``; after a crash, too. If it fails,
    #: the process is not warm.
    after_warmup: Hook = Hook()
    #: Runs at the end of a rollout that failed, before ``after_rollout``.
    on_failure: Hook = Hook()
    #: Runs at the end of each rollout.
    after_rollout: Hook = Hook()


@dataclass(frozen=True)
class PortRule:
    """How a process's ports are found: one of the five."""

    pattern: str = ""  # a regex on its name, with one group around the port
    by_name: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    auto: bool = False  # what it listens on
    none: bool = False  # it has none: a queue worker, a scheduler
    shared: bool = False  # it accepts on a socket that others of the group accept on, too

    @property
    def are_own(self) -> bool:
        """Whether each process has ports of its own, which a gate can close for it alone."""
        return not (self.none or self.shared)


@dataclass(frozen=True)
class SocketRule:
    """How a process's unix socket is found: one of the three, or none."""

    template: str = ""  # its full path, with {name} for the name of the process
    by_name: Mapping[str, str] = field(default_factory=dict)
    auto: bool = False  # what it listens on

    @property
    def is_used(self) -> bool:
        """Whether the group is reached at unix sockets, whatever else its processes listen on."""
        return bool(self.template or self.by_name or self.auto)


@dataclass(frozen=True)
class Policy:
    """The keys of a group. The name of the group is the one in supervisord.conf."""

    group: Annotated[str, NOT_A_KEY]
    #: The ports of each process. ``auto``: the ports that it listens on. A regex on the name of the process with one
    #: group around the port, such as ``'app-(\d+)'``: put it in single quotes. Or a map of process names, such as
    #: ``{web-a: 8000, web-b: [8001, 8002]}``. ``none``: no load balancer sends to them, as to queue workers and
    #: schedulers. Then nothing is closed and no right is needed; a process is stopped as supervisord stops it, and its
    #: ``stopwaitsecs`` is its drain. ``shared``: all accept on one socket, that of an ``[fcgi-program]`` or a port with
    #: SO_REUSEPORT. Nothing is closed then either: a new process is ready when it accepts, and the graceful stop of the
    #: application is the drain. ``auto`` finds such a socket by itself, and a unix socket of each process, too.
    ports: PortRule = PortRule(auto=True)
    #: The unix socket of each process, in place of ``ports``: its full path, with ``{name}`` for the name of the
    #: process, such as ``/run/app/{name}.sock``; or a map of process names to paths; or ``auto``, the sockets that it
    #: listens on. Without this key ``ports: auto`` finds them where a process listens on no port.
    sockets: SocketRule = SocketRule()
    #: How many processes may be closed or down at a time: a number, or a percentage of the group, rounded down, at
    #: least 1.
    max_unavailable: Share = Share(percent=10.0)
    #: Replace so many processes first, one at a time.
    canary: Number = 1
    #: End the rollout when more processes than this have failed. Each failed process stays closed, and so uses one slot
    #: of ``max_unavailable``.
    max_failures: Number = 0
    drain: DrainPolicy = DrainPolicy()
    restart: RestartPolicy = RestartPolicy()
    warmup: WarmupPolicy = field(default_factory=WarmupPolicy)
    #: How long a port is open again before its process counts as available. For a while a load balancer sends nothing
    #: to a server that refused a connection: nginx for ``fail_timeout`` and up to a second more, or for no time with
    #: ``max_fails=0``; HAProxy for ``rise`` checks; Caddy for ``fail_duration``; Apache for ``retry``. ``auto`` reads
    #: that from its configuration, and is 10 where it cannot be read. Then the last line of a rollout says *open*, not
    #: *available*. With ``gate.backend: haproxy`` it is 0: HAProxy uses a server at once when it is set ready.
    min_ready_seconds: SecondsOrAuto = 10.0
    guard: GuardPolicy = GuardPolicy()
    balancer: BalancerPolicy = BalancerPolicy()
    hooks: HooksPolicy = HooksPolicy()
    #: So many processes of the group are spares: they are stopped between rollouts. A rollout starts a spare with the
    #: new code, and stops an old process only when that one is open; what it has stopped is the next spare. So no fewer
    #: serve than before, and ``max_unavailable`` has no effect. After a boot, which starts all, so many are stopped
    #: again.
    surge: Number = 0
    # min_ready_seconds: auto. The load balancer's configuration or its gate says how long; else the default.
    min_ready_auto: Annotated[bool, NOT_A_KEY] = True
    min_ready_read: Annotated[bool, NOT_A_KEY] = False  # min_ready_seconds is what these say
    min_ready_why: Annotated[str, NOT_A_KEY] = ""  # what in it says so; empty where nothing does

    @property
    def is_auto(self) -> bool:
        """Whether its endpoints are what a process is seen to listen on."""
        return self.sockets.auto if self.sockets.is_used else self.ports.auto

    @property
    def is_guarded(self) -> bool:
        """Whether the crash guard keeps new processes closed: not where there is nothing to close."""
        return self.guard.enabled and self.ports.are_own


@dataclass(frozen=True)
class HistoryPolicy:
    """Ended rollouts are kept for ``rolling_history``, ``rolling_report`` and forecasts. ``history: false`` turns that
    off."""

    enabled: Annotated[bool, NOT_A_KEY] = True
    #: The full path of the file. It has JSON lines, and is rotated at 1 MB; ten files are kept. By default it is in
    #: ``/var/lib/supervisor_rolling``, and is named after supervisord's socket.
    file: File = ""


@dataclass(frozen=True)
class MetricsPolicy:
    """Metrics for Prometheus; they need ``prometheus_client`` (Debian: ``python3-prometheus-client``)."""

    #: The address and port to listen on, such as ``127.0.0.1:9180``. By default there are no metrics.
    listen: Annotated[str, "address and port"] = ""


@dataclass(frozen=True)
class Config:
    """The whole file. Only ``groups`` is required."""

    gate: GatePolicy = GatePolicy()
    groups: Mapping[str, Policy] = field(default_factory=dict)
    history: HistoryPolicy = HistoryPolicy()
    metrics: MetricsPolicy = MetricsPolicy()
    invalid: Annotated[Mapping[str, str], NOT_A_KEY] = field(default_factory=dict)  # by group: a problem a line
    #: By group, where it begins: ``file:line``.
    places: Annotated[Mapping[str, str], NOT_A_KEY] = field(default_factory=dict, compare=False)
