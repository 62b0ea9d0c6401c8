"""A simulated world: supervisord, the kernel, the traffic and the clock, behind the Protocols of ``contracts.py``.

Nothing here decides anything about rollouts: it does what the real ones were measured to do, at a clock that the tests
move. It keeps the books that matter to a user: requests that were lost, and requests that a cold process answered.

Every call is an operation, and any of them may be the last before the reconciler is killed (``kill_after``).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from supervisor_rolling.codec import dump, load_rollout, load_watch
from supervisor_rolling.core.actions import Action, Outcome, Verb
from supervisor_rolling.core.checks.conntrack import Conntrack
from supervisor_rolling.core.checks.processes import Wrapper
from supervisor_rolling.core.connections import Arrival, Connection, Connections
from supervisor_rolling.core.endpoint import TCP, Endpoint, tcp, tcp_ports
from supervisor_rolling.core.errors import ConflictError, GateError, GatePermissionError
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.jobs import (
    HookJob,
    HookResult,
    NotificationJob,
    NotificationStatus,
    WarmupJob,
    WarmupStatus,
)
from supervisor_rolling.core.nginx_config import Nginx
from supervisor_rolling.core.policy import (
    BalancerPolicy,
    Config,
    DrainPolicy,
    GatePolicy,
    HistoryPolicy,
    Policy,
    PortRule,
    RestartPolicy,
    Share,
    WarmupPolicy,
)
from supervisor_rolling.core.port_use import Client, Holder, PortUse
from supervisor_rolling.core.preflight_report import Finding, Report
from supervisor_rolling.core.process import Change, Incarnation, Process
from supervisor_rolling.core.rollout import Rollout
from supervisor_rolling.core.snapshot import Request, Snapshot
from supervisor_rolling.listener.gatekeeper import Gatekeeper
from supervisor_rolling.listener.history_file import FileHistory
from supervisor_rolling.listener.prometheus import PrometheusMetrics
from supervisor_rolling.listener.reconciler import Reconciler
from supervisor_rolling.plugin.mailbox import Mailbox

T = TypeVar("T")

GROUP = "app"
SENDS_AWAY = 0.1  # seconds in which whoever was told to has ended the connections that it keeps
STEP = 0.01  # seconds that the clock moves at a time


class Killed(BaseException):
    """The reconciler died here."""


@dataclass
class SimProcess:
    """A process and how it behaves. ``boots``: up, crash, or never (it runs and does not listen). ``lives``: seconds
    until an incarnation ends by itself. ``heeds``: the signal at which it ends its connections in a moment; of any
    other it dies. ``told``: the signals, each with the pid that it came to. ``deploy``: the fields that the next
    incarnation has otherwise."""

    name: str
    port: int
    state: str = "RUNNING"
    pid: int = 0
    spawned: float = -100.0
    down_at: float = -100.0
    stop_takes: float = 0.05
    stopwaitsecs: float = 10.0
    lives: float = math.inf
    startsecs: float = 0.3
    boot_takes: float = 0.1
    boots: str = "up"
    retries: int = 0
    warms: str = "warm"
    warm_takes: float = 0.2
    warm_pid: int = 0
    heeds: str = ""
    told: list[tuple[int, str]] = field(default_factory=list)
    stop_at: float = 0.0
    told_to_stop: bool = False
    stopped_by_rollout: bool = False
    stopping_since: float = 0.0
    started_by_other: float = 0.0
    stop_took: float = 0.0
    connections: list[float] = field(default_factory=list)
    releases: list[int] = field(default_factory=list)
    deploy: dict[str, Any] = field(default_factory=dict)

    @property
    def listens(self) -> bool:
        return self.state in ("RUNNING", "STARTING", "STOPPING")

    @property
    def incarnation(self) -> Incarnation:
        return Incarnation(self.pid, self.spawned)


class DeathWatch:
    """The kernel's side of a pidfd."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._watched: set[Incarnation] = set()

    def watch(self, processes: Collection[Incarnation]) -> None:
        self._watched = set(processes)

    def take(self) -> Collection[Incarnation]:
        alive = {process.incarnation for process in self._world.processes.values()}
        return set() if self._world.is_deaf else self._watched - alive


@dataclass
class Pooled:
    """A connection of the load balancer's pool. ``busy_until``: the end of the answer that is under way."""

    peer: str
    moved_at: float
    busy_until: float = -math.inf


class KeepaliveCloser:
    """The load balancer's keepalive pool of each port, and the rule that makes it close a connection after its answer.

    ``picks_every``: seconds from one request on a port's pool to the next; the newest idle connection is taken.
    ``is_sealed``: it speaks TLS, so that no connection is ever closed; ``is_deaf``: it is not nginx, and keeps them all
    the same. ``problem``: the kernel cannot.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.picks_every = math.inf
        self.answer_takes = 0.05
        self.is_sealed = False
        self.is_deaf = False
        self.problem = ""
        self.by_port: dict[int, list[Pooled]] = {}
        self._until: dict[int, float] = {}
        self._closing: dict[int, set[str]] = {}
        self._answered: dict[int, str] = {}
        self._picked_at: dict[int, float] = {}

    def fill(self, number: int) -> None:
        """So many idle connections to each process."""
        at = self._world.now
        for process in self._world.processes.values():
            self.by_port[process.port] = [Pooled(f"10.0.0.9:{n}", at) for n in range(number)]

    def check(self) -> None:
        if self.problem:
            raise GatePermissionError(self.problem)

    def hold(self, ports: Collection[int], lease: float) -> dict[int, str]:
        if ports and self.problem:
            raise GatePermissionError(self.problem)
        now = self._world.now
        for port in ports:
            if self._until.get(port, 0.0) <= now:
                self._closing[port] = {one.peer for one in self.by_port.get(port, [])}
        self._until = dict.fromkeys(ports, now + lease)
        return {port: self._answered.get(port, "") for port in ports}

    def pass_time(self) -> None:
        now = self._world.now
        for port, pool in self.by_port.items():
            if now - self._picked_at.get(port, -math.inf) >= self.picks_every:
                self._pick(port, pool)
            self.by_port[port] = [one for one in pool if not self._is_over(port, one)]

    def stopped(self, port: int) -> int:
        """The process stops: all are closed. Returns the requests that were lost."""
        return sum(one.busy_until > self._world.now for one in self.by_port.pop(port, []))

    def silent(self, port: int) -> float:
        now = self._world.now
        found = [0.0 if one.busy_until > now else now - one.moved_at for one in self.by_port.get(port, [])]
        return min(found, default=math.inf)

    def _pick(self, port: int, pool: list[Pooled]) -> None:
        idle = [one for one in pool if one.busy_until <= self._world.now]
        if idle:
            self._picked_at[port] = self._world.now
            idle[-1].moved_at = idle[-1].busy_until = self._world.now + self.answer_takes

    def _is_over(self, port: int, one: Pooled) -> bool:
        """Whether it is closed: its answer has ended and said HTTP/1.0."""
        now = self._world.now
        has_answered = math.isfinite(one.busy_until) and one.busy_until <= now
        if not has_answered or self._until.get(port, 0.0) <= now or one.peer not in self._closing[port]:
            return False
        if one.busy_until <= now - STEP * 1.5:
            return False  # answered before the rule was there
        self._answered[port] = "sealed" if self.is_sealed else "http"
        if self.is_deaf:
            self._closing[port].discard(one.peer)
            return False
        return not self.is_sealed

    @property
    def waiting(self) -> frozenset[str]:
        return frozenset(peer for peers in self._closing.values() for peer in peers)


class Pool:
    """A load balancer that asks over each of its old connections every ``pool_asks_every`` seconds."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.guarded_groups: Collection[int] = ()
        self._taken_at = world.now

    def watch(self, ports: Collection[int]) -> None:
        self.guarded_groups = ports

    def take(self) -> list[Arrival]:
        world, begun = self._world, self._taken_at
        self._taken_at = world.now
        turns = [int(at / world.pool_asks_every) for at in (begun, world.now)]
        return [
            Arrival(port, peer, turn)
            for port in self.guarded_groups
            for peer in world.peers_of(port)
            for turn in range(*turns)
        ]


class DrainFlags:
    """What processes are told, and by whom it is believed."""

    def __init__(self, world: World) -> None:
        self._world = world

    def hold(self, draining: Collection[tuple[str, str]]) -> None:
        self._world.flagged = {name for _, name in draining}


OVERTAKEN = Outcome("NOT_RUNNING", already_stopped=True)


class Clients:
    """The ``Clients`` of this world: what it says, at once."""

    def __init__(self, world: World) -> None:
        self._world = world

    def find(self, group: str, ports: Collection[int], since: float) -> list[Client] | None:
        return self._world.clients

    def last_found(self, group: str) -> list[Client] | None:
        return self._world.clients

    def program_of(self, peer: str, port: int) -> str:
        return next((one.name for one in self._world.clients or () if one.is_local), "")


class Hooks:
    """The operator's commands, of one listener. ``hooks_begun`` of the world has those that were begun, with their
    variables."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._begun: dict[str, float] = {}

    def tend(self, selected: Mapping[str, HookJob]) -> dict[str, HookResult]:
        world = self._world
        self._begun = {key: at for key, at in self._begun.items() if key in selected}
        for key, job in selected.items():
            if key not in self._begun:
                self._begun[key] = world.now
                world.hooks_begun += [(name, dict(job.variables)) for name, _ in job.hooks]
        return {key: self._result(self._begun[key], job) for key, job in selected.items()}

    def _result(self, begun: float, job: HookJob) -> HookResult:
        whys = [f"{name}: {self._world.hooks_fail[name]}" for name, _ in job.hooks if name in self._world.hooks_fail]
        takes = sum(self._world.hooks_take.get(name, 0.2) for name, _ in job.hooks)
        is_over = self._world.now - begun >= takes
        return HookResult("over", "; ".join(whys)) if is_over else HookResult("running")

    def end(self) -> None:
        self._begun = {}


class World:
    """supervisord, netfilter, sockets, warm-ups and users."""

    name = "world"
    closes = frozenset({TCP})

    def __init__(
        self,
        processes: int = 4,
        policy: Policy | None = None,
        *,
        min_ready_seconds: float = 0.0,
        group: str = GROUP,
        first_port: int = 8001,
    ) -> None:
        self.now = 1000.0
        self.group = group
        self.policy = policy or fast_policy(min_ready_seconds=min_ready_seconds)
        self.gate_policy = GatePolicy(lease=5.0)
        self.mailbox = Mailbox()
        self._read: dict[type, tuple[dict[str, Any], Any]] = {}
        self._events: list[Change] = []
        self._is_by_rollout = False  # what happens just now was ordered by the reconciler
        self.is_deaf = False  # no event reaches the reconciler, and no death
        self._pids = itertools.count(100)
        self.keepalive_closer = KeepaliveCloser(self)
        self.processes = {f"app-{n}": SimProcess(f"app-{n}", first_port - 1 + n) for n in range(1, processes + 1)}
        for process in self.processes.values():
            process.pid = process.warm_pid = next(self._pids)
        self.closed_until: dict[int, float] = {}
        self._closed_since: dict[int, float] = {}
        self._warming: dict[str, tuple[WarmupJob, float]] = {}
        self._told_late: dict[str, tuple[WarmupJob, float]] = {}
        self.history = FileHistory("unix:///world.sock", lambda: HistoryPolicy(enabled=False), lambda: self.now)
        self.hooks_take: dict[str, float] = {}
        self.hooks_fail: dict[str, str] = {}
        self.hooks_begun: list[tuple[str, dict[str, str]]] = []
        self.gate_problem = ""
        self.trial: list[str] = []
        self.unreached = ""  # why no process can be connected to
        self.knocked: list[int] = []  # the ports that a trial has connected to
        self.clients: list[Client] | None = []  # what connects to the group; None: the look is not over
        self.nginx: Nginx | None = Nginx(problem="there is no nginx in this world", is_absent=True)
        self.refuses_to_start = ""
        self.refuses_to_signal = ""
        self.told_while_open = 0
        self.notice_takes = 0.05
        self._noticed: dict[str, tuple[int, float]] = {}
        self._looked_at = 0.0
        self.connection_takes = 0.05
        self.leaks: set[int] = set()
        self.holders: dict[int, Holder] = {}
        self.holders_asked: list[list[int]] = []
        self.flagged: set[str] = set()
        self.pool_asks_every = math.inf
        self.lost = 0
        self.cold = 0
        self.was_warmed: set[str] = set()
        self.log: list[str] = []
        self.kill_after = 0
        self.operations = 0
        self.least_serving = processes
        self.down_at_once = 0

    # --- the reconciler's side

    def reconciler(self) -> Reconciler:
        """A new listener: it knows nothing."""
        self._warming = {}
        self._closed_since = {}
        self._noticed = {}
        gatekeeper = Gatekeeper(lambda policy: self)
        self.deaths = DeathWatch(self)
        self.request_sniffer = Pool(self)
        configs, clock = (lambda: self.config, lambda: self.config), lambda: self.now
        reconciler = Reconciler(
            self,
            self,
            self,
            self.deaths,
            gatekeeper,
            *configs,
            clock,
            notifications=self,
            keepalive_closer=self.keepalive_closer,
            flags=DrainFlags(self),
            request_sniffer=self.request_sniffer,
            balancers=self,
            gate_probes=self,
            history=self.history,
            hooks=Hooks(self),
            metrics=PrometheusMetrics(lambda: ""),
            clients=Clients(self),
        )
        reconciler.begin()
        return reconciler

    @property
    def config(self) -> Config:
        return Config(self.gate_policy, {self.group: self.policy})

    def look(self, guarded: Collection[str]) -> Snapshot:
        rollouts = {
            g: (self.mailbox.rollouts.version(g), self.rollout()) for g in self.mailbox.rollouts if g == self.group
        }
        guard_states = {g: self.watch() for g in self.mailbox.guard_states if g == self.group}
        requests = tuple(
            Request(r["id"], r["kind"], r["group"], tuple(r["processes"]), r["max_unavailable"], r["force"], r["by"])
            for r in self.mailbox.asked(self.now - 10)
            if r["group"] == self.group
        )
        table = {p.name: self._row(p) for p in self.processes.values()}
        idle = self.now - self._looked_at if self._looked_at else 0.0
        self._looked_at = self.now
        return Snapshot(rollouts, requests, {self.group: table}, idle, guard_states)

    def connections(self, endpoints: Collection[Endpoint], oldest: int = 0) -> dict[Endpoint, Connections]:
        """This kernel knows no age and so tells any; the newest, of which it is easiest to say too much."""
        found = {port: self.peers_of(port) for port in tcp_ports(endpoints)}
        return {
            tcp(port): Connections(
                frozenset(peers),
                tuple(map(Connection, peers[::-1][:oldest])),
                self._silent(port) if oldest else 0.0,
            )
            for port, peers in found.items()
        }

    def listeners(self, ports: Collection[int]) -> dict[int, tuple[str, ...]]:
        return dict.fromkeys(ports, ("127.0.0.1",))

    def _silent(self, port: int) -> float:
        is_busy = any(p.connections for p in self.processes.values() if p.port == port)
        return 0.0 if is_busy else self.keepalive_closer.silent(port)

    def ports_of(self, pids: Collection[int]) -> dict[int, tuple[int, ...]]:
        return {pid: tuple(p.port for p in self.processes.values() if p.pid == pid) for pid in pids}

    def last_read(self, policy: BalancerPolicy) -> Nginx | None:
        return self.nginx

    def try_gate(self, closed: object, addresses: Collection[str], bypass: str) -> list[str]:
        return list(self.trial)

    def door(self, addresses: tuple[str, ...], bypass: str) -> str:
        return addresses[0]

    def connect(self, doors: Collection[tuple[str, int]], bypass: str = "none") -> dict[tuple[str, int], str]:
        self.knocked += [port for _, port in doors]
        return dict.fromkeys(doors, self.unreached)

    def metrics(self, address: str) -> tuple[str, str]:
        return "", ""

    def distrust(self, policy: Policy) -> Sequence[Finding]:
        return ()

    def conntrack(self) -> Conntrack | None:
        return None

    def unix_of(self, pids: Collection[int]) -> dict[int, tuple[str, ...]]:
        return dict.fromkeys(pids, ())

    def wrappers_of(self, ports: Mapping[int, Collection[int]]) -> dict[int, Wrapper]:
        return {}

    def read(self, policy: BalancerPolicy, since: float) -> Nginx | None:
        return self.nginx

    def listening(self, port: int, pid: int) -> PortUse:
        return PortUse()

    def holders_of(self, ports: Collection[int]) -> dict[int, Holder]:
        self.holders_asked.append(list(ports))
        return {port: self.holders[port] for port in ports if port in self.holders}

    def record(self, rollout: Rollout, version: int, request: int = 0) -> None:
        if not self.mailbox.record(self.group, version, json.loads(dump(rollout)), self.now):
            raise ConflictError("somebody else wrote")
        if request:
            self.mailbox.answer(request, "accepted", 0, "", {})
        self._operation("record")

    def guard(self, guard_state: GuardState) -> None:
        self.mailbox.guard(self.group, json.loads(dump(guard_state)), self.now)
        self._operation("guard")

    def unguard(self, group: str) -> None:
        self.mailbox.guard(group, None, self.now)
        self._operation("unguard")

    def refuse(self, request: int, code: int, text: str) -> None:
        self.mailbox.answer(request, "refused", code, text, {})
        self._operation("refuse")

    def report(self, request: int, report: Report) -> None:
        self.mailbox.answer(request, "checked", plan=json.loads(dump(report)))

    def tell(self, request: int, answer: Mapping[str, Any]) -> None:
        self._operation("tell")
        self.mailbox.answer(request, "told", plan=dict(answer))

    def plan(self, request: int, rollout: Rollout) -> None:
        self.mailbox.answer(request, "planned", 0, "", {"rollout": rollout})
        self._operation("plan")

    def action(self, group: str, actions: Sequence[Action]) -> list[Outcome]:
        return [self._ordered(one) for one in actions]

    def _ordered(self, action: Action) -> Outcome:
        if action.incarnation != self.processes[action.name].incarnation:
            return OVERTAKEN
        self._is_by_rollout = True
        try:
            if action.verb is Verb.SIGNAL:
                return self.signal(action.name, action.signal)
            return self.stop(action.name) if action.verb is Verb.STOP else self.start(action.name)
        finally:
            self._is_by_rollout = False

    def stop(self, name: str) -> Outcome:
        process = self.processes[name]
        if process.state == "BACKOFF":
            self._goes_down(process, "STOPPED", self._is_by_rollout)
        elif process.state in ("RUNNING", "STARTING"):
            self.lost += len(process.connections) + self.keepalive_closer.stopped(
                process.port
            )  # SIGTERM ends it at once, and what it was doing with it
            process.connections = []
            self._becomes(process, "STOPPING")
            process.stopped_by_rollout, process.stopping_since = self._is_by_rollout, self.now
            process.stop_at = self.now + min(process.stop_takes, process.stopwaitsecs)
        else:
            return OVERTAKEN
        self._operation(f"stop {name}")
        return Outcome()

    def signal(self, name: str, signal: str) -> Outcome:
        process = self.processes[name]
        if self.refuses_to_signal:
            return Outcome(self.refuses_to_signal)
        if process.state not in ("RUNNING", "STARTING", "STOPPING"):
            return OVERTAKEN
        self._is_told(process, signal)
        if signal != process.heeds or process.state != "RUNNING":
            self.crash(name)
        self._operation(f"signal {name}")
        return Outcome()

    def give(self, selected: Mapping[str, NotificationJob]) -> Mapping[str, NotificationStatus]:
        jobs = {name.partition(":")[2]: job for name, job in selected.items()}
        self._noticed = {n: one for n, one in self._noticed.items() if n in jobs and jobs[n].pid == one[0]}
        for name in jobs.keys() - self._noticed.keys():
            self._noticed[name] = (jobs[name].pid, self.now)
            self._is_told(self.processes[name], jobs[name].request)
        return {
            f"{self.group}:{name}": NotificationStatus(pid, f"127.0.0.1:{pid}", self.now - begun >= self.notice_takes)
            for name, (pid, begun) in self._noticed.items()
        }

    def peers(self) -> frozenset[str]:
        return frozenset(f"127.0.0.1:{pid}" for pid, _ in self._noticed.values())

    def _is_told(self, process: SimProcess, how: str) -> None:
        process.told.append((process.pid, how))
        self.told_while_open += not self.is_closed(process.port)
        if how == process.heeds:
            process.connections = [min(end, self.now + SENDS_AWAY) for end in process.connections]

    def start(self, name: str) -> Outcome:
        process = self.processes[name]
        if self.refuses_to_start:
            return Outcome(self.refuses_to_start)
        if process.state in ("STOPPED", "EXITED", "FATAL"):
            self._spawn(process)
            if not self._is_by_rollout:
                process.started_by_other = process.spawned
        self._operation(f"start {name}")
        return Outcome()

    def check(self) -> None:
        if self.gate_problem:
            raise GateError(self.gate_problem)

    def inspect(self, endpoints: Mapping[Endpoint, str]) -> list[Finding]:
        return []

    def hold(self, closed: Mapping[Endpoint, str], drained: Collection[Endpoint] = ()) -> Mapping[Endpoint, float]:
        if self.gate_problem:
            raise GateError(self.gate_problem)
        for port in tcp_ports(closed):
            if self.closed_until.get(port, 0.0) <= self.now:
                self._closed_since.pop(port, None)
        self.closed_until = dict.fromkeys(tcp_ports(closed), self.now + self.gate_policy.lease)
        self._closed_since = {port: self._closed_since.get(port, self.now) for port in tcp_ports(closed)}
        self._operation("hold")
        return {tcp(port): since for port, since in self._closed_since.items()}

    def tend(self, selected: Mapping[str, WarmupJob]) -> Mapping[str, WarmupStatus]:
        selected = {name.partition(":")[2]: job for name, job in selected.items()}
        self._warming = {
            n: w for n, w in self._warming.items() if n in selected and selected[n].incarnation == w[0].incarnation
        }
        self.was_warmed |= selected.keys()
        for name, job in selected.items():
            begun = self._warming.get(name)
            if begun is None or begun == self._told_late.get(name):
                self._warming[name] = (job, self.now)
        self._operation("tend")
        warmups = {name: self._warmth(name, *found) for name, found in self._warming.items()}
        self._told_late = {
            name: self._warming[name] for name, warmup_status in warmups.items() if warmup_status.state == "late"
        }
        return {f"{self.group}:{name}": warmup_status for name, warmup_status in warmups.items()}

    def end(self) -> None:
        self._warming = {}

    # --- the operator's side

    def ask(self, kind: str = "restart", **details: Any) -> dict[str, Any]:
        self.pass_time(max(1.5, min(self.connection_takes, 2.0)))  # users are there before anybody asks
        given = {"processes": [], "max_unavailable": "", "force": False, "by": "", **details}
        return self.mailbox.ask(kind, self.group, self.now, given)

    def rollout(self) -> Rollout:
        return self._loaded(Rollout, self.mailbox.rollouts[self.group], load_rollout)

    def watch(self) -> GuardState:
        return self._loaded(GuardState, self.mailbox.guard_states[self.group], load_watch)

    def _loaded(self, kind: type[T], wire: dict[str, Any], load: Callable[[dict[str, Any]], T]) -> T:
        """Read once, like the real adapter: most of a simulated rollout's time would go into it."""
        if kind not in self._read or self._read[kind][0] is not wire:
            self._read[kind] = (wire, load(wire))
        found: T = self._read[kind][1]
        return found

    def rollout_or_none(self) -> Rollout | None:
        return self.rollout() if self.group in self.mailbox.rollouts else None

    def crash(self, name: str) -> None:
        process = self.processes[name]
        self.lost += len(process.connections)
        process.connections = []
        self._goes_down(process, "EXITED")

    def restart_by_hand(self, name: str) -> None:
        """``supervisorctl restart``, on a process that nobody is connected to."""
        self.processes[name].connections = []
        self._goes_down(self.processes[name], "STOPPED")
        self._spawn(self.processes[name])
        self.processes[name].started_by_other = self.processes[name].spawned

    def run(self, reconciler: Reconciler, seconds: float = 60.0) -> Reconciler:
        """Turns and time until the rollout has ended; a killed reconciler is followed by a new one."""
        return self.live(reconciler, seconds, self._has_ended)

    def live(self, reconciler: Reconciler, seconds: float, until: Callable[[], bool] = lambda: False) -> Reconciler:
        """Events, turns and time; a killed reconciler is followed by a new one."""
        end = self.now + seconds
        while self.now < end:
            try:
                reconciler.notice_deaths()
                reconciler.hear(self._new_events())
                due = self.now + reconciler.turn()
            except Killed:
                self.log.append("KILLED")
                reconciler = self.reconciler()
                continue
            if until():
                return reconciler
            self._wait(due, reconciler)
        return reconciler

    def _wait(self, due: float, reconciler: Reconciler) -> None:
        """Until the next turn is due, or an event comes; what is closed is looked at meanwhile."""
        self.pass_time(STEP)
        looked = self.now
        while self.now < due and self.now % 0.05 >= STEP and (self.is_deaf or not self._events):
            self.pass_time(STEP)
            if self.now >= looked + reconciler.gate_pause():
                reconciler.look_at_gate()
                looked = self.now

    def _new_events(self) -> list[Change]:
        events, self._events = self._events, []
        return [] if self.is_deaf else events

    def _has_ended(self) -> bool:
        rollout = self.mailbox.rollouts.get(self.group)
        return rollout is not None and rollout["status"] != "running"

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(end, self.now + STEP)
            for process in self.processes.values():
                self._live(process)
            self._users()
            self.keepalive_closer.pass_time()

    # --- how the world goes

    def is_closed(self, port: int) -> bool:
        return self.closed_until.get(port, 0.0) > self.now and port not in self.leaks

    def _users(self) -> None:
        serving = [p for p in self.processes.values() if self._accepts(p) and not self.is_closed(p.port)]
        self.least_serving = min(self.least_serving, len(serving))
        for process in serving:
            process.connections.append(self.now + self.connection_takes)
            self.cold += process.warm_pid != process.pid

    def _accepts(self, process: SimProcess) -> bool:
        booted = self.now >= process.spawned + process.boot_takes
        return process.state in ("RUNNING", "STARTING") and booted and process.boots != "never"

    def _live(self, process: SimProcess) -> None:
        process.connections = [end for end in process.connections if end > self.now]
        age = self.now - process.spawned
        if process.state == "STOPPING" and self.now >= process.stop_at:
            self._goes_down(process, "STOPPED", process.stopped_by_rollout)
        elif process.state == "STARTING" and age >= _life(process):
            process.retries += 1
            self._goes_down(process, "FATAL" if process.retries > 2 else "BACKOFF")
        elif process.state == "RUNNING" and age >= _life(process):
            self.crash(process.name)
        elif process.state == "STARTING" and age > process.startsecs:
            self._becomes(process, "RUNNING")
        elif process.state == "EXITED" or (process.state == "BACKOFF" and self.now - process.down_at > process.retries):
            self._spawn(process)

    def _goes_down(self, process: SimProcess, state: str, by_rollout: bool = False) -> None:
        process.stop_took = self.now - process.stopping_since if process.state == "STOPPING" else 0.0
        self._becomes(process, state)
        process.told_to_stop, process.stopped_by_rollout = state == "STOPPED", by_rollout
        process.pid, process.down_at, process.connections = 0, self.now, []

    def _becomes(self, process: SimProcess, state: str) -> None:
        pid = process.pid if state not in ("STARTING", "BACKOFF", "FATAL") else 0  # as supervisord's events have it
        self._events.append(Change(self.group, process.name, state, process.state, pid))
        process.state = state

    def _spawn(self, process: SimProcess) -> None:
        self._becomes(process, "STARTING")
        process.pid, process.spawned = next(self._pids), self.now
        process.releases.append(process.pid)
        for key, value in process.deploy.items():
            setattr(process, key, value)

    def peers_of(self, port: int) -> list[str]:
        process = next(p for p in self.processes.values() if p.port == port)
        told = [f"127.0.0.1:{pid}" for name, (pid, _) in self._noticed.items() if name == process.name]
        pooled = [one.peer for one in self.keepalive_closer.by_port.get(port, [])]
        return [*pooled, *(f"10.0.0.1:{round(end * 1000)}" for end in process.connections), *told]

    def _warmth(self, name: str, job: WarmupJob, begun: float) -> WarmupStatus:
        process = self.processes[name]
        is_over = self._told_late.get(name) == (job, begun)
        if is_over or process.pid != job.pid or not self._accepts(process) or self.now - begun < process.warm_takes:
            is_late = self.now - begun >= job.policy.timeout
            state = "late" if is_late else "warming"
            return WarmupStatus(job.pid, state, why="nothing listens on its port", spawned=job.spawned)
        if process.warms != "warm":
            return WarmupStatus(job.pid, "failed", why=process.warms, spawned=job.spawned)
        process.warm_pid = job.pid
        return WarmupStatus(job.pid, "warm", 11, 730.0, 3.0, spawned=job.spawned)

    def _row(self, p: SimProcess) -> Process:
        left = max(0.0, p.spawned + p.startsecs - self.now) if p.state == "STARTING" else 0.0
        warm = self.mailbox.is_warm(self.group, p.name, *p.incarnation)
        down_for, up_for = self.now - p.down_at, self.now - p.spawned
        took = self.now - p.stopping_since if p.state == "STOPPING" else p.stop_took
        ends = p.stopwaitsecs, p.told_to_stop, p.stopped_by_rollout, took, p.started_by_other
        return Process(p.name, p.state, p.pid, p.spawned, down_for, left, up_for, "", warm, *ends)

    def _operation(self, what: str) -> None:
        self.operations += 1
        self.log.append(what)
        if self.operations == self.kill_after:
            raise Killed


def _life(process: SimProcess) -> float:
    """Seconds after which an incarnation ends."""
    return process.boot_takes if process.boots == "crash" else process.lives


def fast_policy(min_ready_seconds: float = 0.0, **changes: object) -> Policy:
    """A policy whose deadlines are short."""
    policy = Policy(
        GROUP,
        PortRule(by_name={f"app-{n}": (8000 + n,) for n in range(1, 100)}),
        max_unavailable=Share(number=1),
        drain=DrainPolicy(timeout=2.0),
        restart=RestartPolicy(timeout=10.0),
        warmup=WarmupPolicy(timeout=5.0),
        min_ready_seconds=min_ready_seconds,
        min_ready_auto=False,
    )
    return replace(policy, **changes)  # type: ignore[arg-type]
