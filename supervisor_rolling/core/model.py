"""The values that the programs of this package pass to each other: frozen, without behaviour, without I/O.

Four families. *Policy*: what the YAML says of a group. *Rollout*: one rolling restart, from the request to its end,
with a ``Member`` for each process of the group. *Watch*: what the guard of a group has in hand, with a
``GuardedProcess`` for each process that is not warm. *Seen*: what a look found. ``wire.py`` turns rollouts and watches,
with their policies, into JSON and back.

Units: durations are seconds, ``*_ms`` are milliseconds. Points in time are seconds on CLOCK_MONOTONIC, which every
program of a host shares, so that a rollout outlives the listener that began it; 0.0 stands for "not yet".
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

BYPASS_MARK = 0x726F6C6C
"""The firewall mark of a warm-up's socket: "roll" in ASCII, so that it is easy to find and unlike the small numbers and
single bits that other tools use."""

BYPASS_ADDRESS = "127.0.0.2"
"""The source address of a warm-up with ``bypass: address``."""


# --- policy: what the YAML says


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
class PacePolicy:
    """The next process leaves only while the processors are less busy than this. ``cpu_pressure``: percent of the time
    in which somebody waits for one, 0.0: no matter. ``patience``: seconds after which the next leaves all the same."""

    cpu_pressure: float = 0.0
    patience: float = 30.0


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
    pace: PacePolicy = PacePolicy()


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


# --- rollout: what was asked and how far it got


class Stage(str, enum.Enum):
    """Where a process stands; the diagrams are in ``core/machine.py`` and, for DOWN, in ``core/guard.py``."""

    OPEN = "open"
    DOWN = "down"
    DRAINING = "draining"
    RESTARTING = "restarting"
    WARMING = "warming"
    READY = "ready"
    FAILED = "failed"


class Status(str, enum.Enum):
    """Where a rollout stands. ``PLANNED`` is the end of a dry run."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"
    PLANNED = "planned"


class Step(NamedTuple):
    """A stage that a process entered, and when."""

    stage: Stage
    at: float


class Level(NamedTuple):
    """How many processes of a group were available from a moment on."""

    at: float
    available: int


class Rest(NamedTuple):
    """A time in which a rollout lay still: it had ended, and was resumed later. ``why``: it had ended."""

    begin: float
    end: float
    why: str


@dataclass(frozen=True)
class Timing:
    """How long each stage of one process took, in seconds; 0.0 until it is over. RESTARTING has two parts: ``stopped``,
    until the old process was down, and ``started``, from then until there was a new one. It is warmed from then on, and
    at least for its startsecs. See ``core/timeline.py`` for when a stage begins and ends."""

    drained: float = 0.0
    stopped: float = 0.0
    started: float = 0.0
    warmed: float = 0.0
    ready: float = 0.0


@dataclass(frozen=True)
class Connection:
    """One connection of a process, as far as the kernel tells.

    ``peer``: ``address:port``. ``age``: seconds for which it has been open at least; since when, nobody can ask.
    ``idle``: seconds since the last byte, and ``last`` whether the process ``sent`` or ``received`` it; empty where
    none has moved. ``state`` says what is unusual: ``not accepted`` by the process yet, ``half-closed`` by the client,
    or ``stuck``: the client does not take what it is sent.
    """

    peer: str
    age: float = 0.0
    idle: float = 0.0
    last: str = ""
    state: str = ""


class Incarnation(NamedTuple):
    """One run of a process, or (``pid`` 0) the attempt to start it after which it is down.

    The kernel uses a pid again, and a process may live for 50 ms: only both numbers together name one run. ``spawned``
    is that of ``Process``.
    """

    pid: int = 0
    spawned: float = 0.0


@dataclass(frozen=True)
class Member:
    """One process of a group in a rollout.

    ``selected``: this rollout is to replace it. ``attempted``: it has left OPEN for that. ``replaced``: it came back
    new. ``failed``: the rollout failed on it; its stage says whether it is kept closed (FAILED), is on its way back, or
    serves all the same. ``cold``: it was kept closed before it left, so it must not be opened again as it is.
    ``old_pid`` and ``old_spawned`` name the incarnation that is to be replaced (pid 0 where none ran), ``pid`` and
    ``spawned`` the new. ``killed``: the old one did not stop, so that supervisord killed it; ``deaths``: new ones that
    died while they were warmed up. ``oldest_lingering`` are the oldest few of the ``lingering_connections`` at the
    drain's deadline. ``steps``: each stage that it entered, from the first that is not OPEN on. ``latencies``: of the
    first requests of its warm-up, in ms."""

    name: str
    ports: tuple[int, ...]
    selected: bool = True
    stage: Stage = Stage.OPEN
    since: float = 0.0
    attempted: bool = False
    replaced: bool = False
    failed: bool = False
    cold: bool = False
    old_pid: int = 0
    old_spawned: float = 0.0
    pid: int = 0
    stopped_at: float = 0.0
    killed: bool = False
    deaths: int = 0
    timing: Timing = Timing()
    lingering_connections: int = 0
    oldest_lingering: tuple[Connection, ...] = ()
    requests: int = 0
    first_ms: float = 0.0
    last_ms: float = 0.0
    why: str = ""
    steps: tuple[Step, ...] = ()
    latencies: tuple[float, ...] = ()
    statuses: tuple[int, ...] = ()  # of the same requests as the latencies
    spawned: float = 0.0

    @property
    def old(self) -> Incarnation:
        """The incarnation that is to be replaced."""
        return Incarnation(self.old_pid, self.old_spawned)

    @property
    def new(self) -> Incarnation:
        """The one that replaces it."""
        return Incarnation(self.pid, self.spawned)


@dataclass(frozen=True)
class Rollout:
    """One rolling restart of a group: everything that a new listener needs to go on with it.

    ``by``: who asks, as they say. ``user`` and ``client``: as their connection tells; empty where it does not.
    ``began``: when it was asked for, by the wall clock, in Unix seconds. ``forecast``: how many seconds it was expected
    to take; 0.0 where nobody could know. ``levels``: how many were available, whenever that changed. ``prepared``:
    the command before it has succeeded. ``verdict``: the status that it will have when those after it have run.
    """

    id: int
    group: str
    policy: Policy
    members: tuple[Member, ...]
    limit: int  # processes that may be unavailable at a time
    gate: GatePolicy
    force: bool = False
    by: str = ""
    status: Status = Status.RUNNING
    paused: bool = False
    aborting: bool = False
    started_at: float = 0.0
    ended_at: float = 0.0
    stuck_since: float = 0.0  # nothing under way and no room for the next; 0.0 while it moves
    paced_since: float = 0.0  # the next waits for the CPU, if there is room just then or not; 0.0 while none does
    least_available: int = 0
    why: str = ""
    user: str = ""
    client: str = ""
    began: float = 0.0
    forecast: float = 0.0
    levels: tuple[Level, ...] = ()
    prepared: bool = False
    verdict: str = ""
    waits: str = ""  # for what it waits, while nothing is under way or a warm-up lasts; empty: for nothing
    waits_long: bool = False  # for some seconds already, so that it is worth a line
    rests: tuple[Rest, ...] = ()  # its other times are real ones; what counts as its own is ``chronicle.active``


# --- orders


class Verb(str, enum.Enum):
    """What supervisord can be told to do with a process."""

    STOP = "stop"
    START = "start"
    SIGNAL = "signal"


@dataclass(frozen=True)
class Action:
    """One order to supervisord, for this ``incarnation`` of a process and no other; ``signal``: which one."""

    verb: Verb
    name: str
    incarnation: Incarnation
    signal: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of an order. ``why``: supervisord refuses for good, and why. ``already_stopped``: the process was
    stopped or replaced before the order came, so nothing was done; ``why`` says so, too."""

    why: str = ""
    already_stopped: bool = False


# --- watch: what the guard has in hand


@dataclass(frozen=True)
class GuardedProcess:
    """A process that is not warm, in the hands of the guard.

    ``closed``: its port is to be closed; not every ward's is, because a group must go on serving. ``pid`` and
    ``spawned``: the incarnation that is warmed, 0 while it is down. ``tries``: warm-ups of it that have failed;
    ``retry_at`` is when the next one begins. ``problem``: what the last one failed of; ``why``: the sentence for
    ``rolling_status``.
    """

    name: str
    ports: tuple[int, ...]
    stage: Stage
    since: float
    closed: bool = False
    pid: int = 0
    tries: int = 0
    retry_at: float = 0.0
    requests: int = 0
    first_ms: float = 0.0
    last_ms: float = 0.0
    problem: str = ""
    why: str = ""
    spawned: float = 0.0

    @property
    def incarnation(self) -> Incarnation:
        """The one that is warmed."""
        return Incarnation(self.pid, self.spawned)


@dataclass(frozen=True)
class GuardState:
    """What the guard of a group has in hand: a ward for each process that is not warm. The others are in the ledger."""

    group: str
    policy: Policy
    gate: GatePolicy
    guarded: tuple[GuardedProcess, ...] = ()


# --- seen: what a look found


@dataclass(frozen=True)
class Process:
    """A process as supervisord's table has it.

    ``state`` is supervisord's word (RUNNING, BACKOFF, …); ``spawned`` a number that tells one attempt to start it from
    another; ``down_for`` seconds since it went down, ``running_in`` seconds until a STARTING one will be RUNNING,
    ``up_for`` seconds since it was started; ``warm``: this incarnation is in the ledger; ``stopwaitsecs``: seconds from
    the order to stop until supervisord kills it, 0.0 where nobody knows; ``told_to_stop``: it went down the last time
    because somebody ordered it, and not by itself; ``stopped_by_rollout``: the order that it is STOPPING for, or went
    down for the last time, was a rollout's.

    supervisord sends the fields in this order. An older one sends fewer, so a new field comes last, with a default.
    """

    name: str
    state: str
    pid: int = 0
    spawned: float = 0.0
    down_for: float = 0.0
    running_in: float = 0.0
    up_for: float = 0.0
    spawn_error: str = ""
    warm: bool = False
    stopwaitsecs: float = 0.0
    told_to_stop: bool = False
    stopped_by_rollout: bool = False
    stop_took: float = 0.0  # seconds from the last order to stop until it was down, or until now; 0.0: no such order
    started_by_other: float = 0.0  # ``spawned`` of the last start that another client than a rollout ordered; 0.0: none

    @property
    def incarnation(self) -> Incarnation:
        """The one that runs, or after which it is down."""
        return Incarnation(self.pid, self.spawned)

    @property
    def is_stopped_by_other(self) -> bool:
        """Whether an order that was no rollout's stops it, or has stopped it."""
        return self.state in ("STOPPING", "STOPPED") and not self.stopped_by_rollout


@dataclass(frozen=True)
class Connections:
    """The connections of one port, both families.

    ``peers``: one string (``address:port``) for each that is ESTABLISHED, SYN_RECV or CLOSE_WAIT, those that wait in
    the accept queue among them. ``oldest``: the oldest few of the connections, the oldest first, where they were asked
    for; ``silent`` then is for how many seconds no byte has moved on any of them: 0.0 where one waits for its answer,
    infinity where there is none.
    """

    peers: frozenset[str] = frozenset()
    oldest: tuple[Connection, ...] = ()
    silent: float = 0.0


@dataclass(frozen=True)
class Holder:
    """Processes that listen on a port: their ``pids``, the ``name`` that the kernel has for the first of them, and what
    supervisord had ``started`` it or its forebear as (``group:process``); empty where it has not, or nobody can see."""

    pids: tuple[int, ...]
    name: str
    started: str = ""
    peer: str = ""  # they do not listen: the port is the local one of their connection to this address and port


@dataclass(frozen=True)
class PortUse:
    """What listens on one port, seen from one process and its descendants.

    An empty ``own`` and no ``others`` where something listens: its holder cannot be seen, as in another pid namespace.
    """

    addresses: tuple[str, ...] = ()  # of every socket that listens there
    own: tuple[str, ...] | None = ()  # of the process's own sockets; None: which are its own cannot be seen
    others: tuple[Holder, ...] = ()  # other processes that listen in its place, or beside it at the same address


@dataclass(frozen=True)
class Client:
    """A program on this host, or another host, that connects to the ports of a group."""

    name: str  # of the program; empty: on another host, or it cannot be seen
    pid: int = 0
    address: str = ""  # of the other end of one of its connections; empty: none is open now
    is_local: bool = True
    files: tuple[tuple[str, str], ...] = ()  # its configuration: path and text, the main file first


@dataclass(frozen=True)
class Arrival:
    """An HTTP request that came to a port. ``peer``: ``address:port``. ``answered``: a number that is another when the
    process has sent anything on that connection since."""

    port: int
    peer: str
    answered: int


@dataclass(frozen=True)
class KeepaliveReuse:
    """Requests that came over connections that were used again behind a closed gate: how many, over how many, the most
    over one and whose that is, within how many seconds. ``program``: of this host, that the peer is; empty where it is
    not known."""

    requests: int = 0
    connections: int = 0
    most: int = 0
    peer: str = ""
    seconds: float = 0.0
    program: str = ""


@dataclass(frozen=True)
class WarmupJob:
    """One process to warm up, by the first of its ports."""

    pid: int
    ports: tuple[int, ...]
    policy: WarmupPolicy
    bypass: str  # how it passes the closed gate: mark, address, or none: nothing refuses it
    hook: Hook = Hook()  # the last step
    variables: Mapping[str, str] = field(default_factory=dict)  # of the hook's environment
    rank: int = 0  # where not all can be warmed at once, a lower one goes first
    spawned: float = 0.0

    @property
    def incarnation(self) -> Incarnation:
        """The one that is to be warmed."""
        return Incarnation(self.pid, self.spawned)


@dataclass(frozen=True)
class WarmupStatus:
    """How far the warm-up of one incarnation got: ``state`` is warming, warm, failed, or late: not warm at its
    deadline. ``latencies``: of the first requests, in ms. ``queued``: the seconds for which it waited for other
    warm-ups; they do not count for its deadline."""

    pid: int
    state: str
    requests: int = 0
    first_ms: float = 0.0
    last_ms: float = 0.0
    why: str = ""
    latencies: tuple[float, ...] = ()
    queued: float = 0.0
    statuses: tuple[int, ...] = ()  # of the same requests as the latencies
    spawned: float = 0.0

    @property
    def incarnation(self) -> Incarnation:
        """The one that is warmed."""
        return Incarnation(self.pid, self.spawned)


@dataclass(frozen=True)
class HookJob:
    """Commands to run for a rollout, one after another, each with the name of its key; ``variables``: of their
    environment, besides the listener's own."""

    hooks: tuple[tuple[str, Hook], ...]
    variables: Mapping[str, str]


@dataclass(frozen=True)
class HookResult:
    """How far they got: ``state`` is running or over; ``why``: what went wrong."""

    state: str
    why: str = ""


@dataclass(frozen=True)
class NotificationJob:
    """One process to be told that it drains, at the first of its ports. ``request``: method and path."""

    pid: int
    ports: tuple[int, ...]
    request: str
    headers: Mapping[str, str]
    bypass: str
    spawned: float = 0.0

    @property
    def incarnation(self) -> Incarnation:
        """The one that is to be told."""
        return Incarnation(self.pid, self.spawned)


@dataclass(frozen=True)
class NotificationStatus:
    """How far that got. ``peer``: the ``address:port`` that the process sees; empty until there is one."""

    pid: int
    peer: str = ""
    is_over: bool = False


@dataclass(frozen=True)
class Observation:
    """What one look found.

    ``at`` was read before the connections were, so that a port closed since ``t <= at`` had its connections looked at
    behind a closed gate. ``gap``: seconds before it in which nobody looked.

    ``closed`` maps a port to the moment since when it has been closed without a gap; ``unclosed`` has since when a
    process that drains has been seen with a gate that is not known to be closed. ``connections`` holds the number of
    connections left for a process that drains, ``oldest`` the oldest few of them where its time is over, ``leaks`` the
    peer that got through a closed gate, ``reuses`` what was asked over old connections. ``refusals`` are the orders
    that supervisord refused for good, by process. ``told`` are the draining processes that have been sent the signal of
    their drain, ``telling`` those that are being asked its request. ``dead`` says since when those have been known to
    be dead to which supervisord has not come round: whether they crashed or were stopped, only it can tell. ``hook``:
    how far the commands of the rollout got. ``guarded`` are the processes in the hands of the guard. ``held``: who has
    the port of one that does not come up, in words. Of those whose pools are made to run dry (``drain.keepalive:
    nginx``), ``silent`` has for how many seconds no byte has moved on any connection that is left, and ``sealed`` are
    those that answer in something else than plain HTTP/1.1. ``cpu_pressure``: percent of the last second in which
    somebody waited for a processor; None where nobody asks or can tell."""

    at: float
    processes: Mapping[str, Process]
    gap: float = 0.0
    closed: Mapping[int, float] = field(default_factory=dict)
    gate_problem: str = ""
    unclosed: Mapping[str, float] = field(default_factory=dict)
    connections: Mapping[str, int] = field(default_factory=dict)
    oldest: Mapping[str, tuple[Connection, ...]] = field(default_factory=dict)
    leaks: Mapping[str, str] = field(default_factory=dict)
    reuses: Mapping[str, KeepaliveReuse] = field(default_factory=dict)
    warmups: Mapping[str, WarmupStatus] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)
    dead: Mapping[str, float] = field(default_factory=dict)
    told: frozenset[str] = frozenset()
    telling: frozenset[str] = frozenset()
    guarded: Mapping[str, GuardedProcess] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
    hook: HookResult | None = None
    silent: Mapping[str, float] = field(default_factory=dict)
    sealed: frozenset[str] = frozenset()
    cpu_pressure: float | None = None


@dataclass(frozen=True)
class Change:
    """What a PROCESS_STATE event says: the process came from one of supervisord's states to another. ``pid``: 0 where
    the event does not tell."""

    group: str
    name: str
    state: str
    from_state: str
    pid: int = 0


# --- checked: what is wrong with a set-up


@dataclass(frozen=True)
class ProcessSettings:
    """What supervisord.conf says of one process. ``autorestart``: true, false or unexpected. ``stopsignal``: its name
    without SIG; empty where an older supervisord does not tell it."""

    name: str
    startsecs: float = 1.0
    stopwaitsecs: float = 10.0
    autorestart: str = "unexpected"
    stopasgroup: bool = False
    stopsignal: str = ""


@dataclass(frozen=True)
class ListenerSettings:
    """What it says of an event listener that hears the doorbell. ``processes``: how many of it there are; ``lacks``:
    events that it does not hear, and should."""

    name: str
    processes: int = 1
    buffer_size: int = 10
    startsecs: float = 1.0
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What supervisord.conf says of a group and of its listener; ``total``: the processes of all groups."""

    processes: tuple[ProcessSettings, ...] = ()
    listeners: tuple[ListenerSettings, ...] = ()
    total: int = 0


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a set-up. ``code`` names it for programs, ``where`` is a file and line, a section or
    a process, ``fix`` what to do about it, empty where ``text`` says that; ``refuses``: no rollout begins, because it
    would lose requests, or fail."""

    code: str
    where: str
    text: str
    fix: str
    refuses: bool = False


@dataclass(frozen=True)
class Report:
    """What a check has found. ``looked_at``: what was read or tried, findings or not; ``not_looked_at``: what could
    not be, and why."""

    group: str
    findings: tuple[Finding, ...] = ()
    looked_at: tuple[str, ...] = ()
    not_looked_at: tuple[str, ...] = ()


# --- asked: what came over XML-RPC


@dataclass(frozen=True)
class Request:
    """What somebody asks: ``kind`` is restart, plan, resume, check, history or record; an empty ``max_unavailable``
    leaves it to the policy. ``settings`` come with a check. ``by``, ``user``, ``client`` and ``began`` are those of a
    ``Rollout``. A history is of the last ``number`` rollouts, of all groups where ``group`` is empty; a record of
    ``rollout``: a number, or empty for the last one."""

    id: int
    kind: str
    group: str
    processes: tuple[str, ...] = ()
    max_unavailable: str = ""
    force: bool = False
    by: str = ""
    settings: Settings = Settings()
    user: str = ""
    client: str = ""
    began: float = 0.0
    number: int = 0
    rollout: str = ""


@dataclass(frozen=True)
class Snapshot:
    """What supervisord knows: each group's rollout with its version, what is asked, the processes of the groups that
    are rolled, asked for or guarded, by group and name, how many seconds before this look the last one was (0.0: none),
    and each group's watch."""

    rollouts: Mapping[str, tuple[int, Rollout]]
    requests: tuple[Request, ...]
    processes: Mapping[str, Mapping[str, Process]]
    idle: float = 0.0
    guard_states: Mapping[str, GuardState] = field(default_factory=dict)
