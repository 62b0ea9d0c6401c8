"""A simulated world: supervisord, the kernel, the traffic and the clock, behind the Protocols of ``contracts.py``.

Nothing here decides anything about rollouts: it does what the real ones were measured to do, at a clock that the tests
move. It counts what matters to a user: requests that were lost, and requests that a cold process answered. There is a
fake for each Protocol, and the world puts them together.

Every call is an operation, and any of them may be the last before the reconciler is killed (``kill_after``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from supervisor_rolling.core.actions import Outcome
from supervisor_rolling.core.endpoint import UNIX
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.policy import (
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
from supervisor_rolling.core.process import Change, Incarnation
from supervisor_rolling.core.rollout import Rollout, Status
from supervisor_rolling.listener.assembly import Adapters, assemble
from supervisor_rolling.listener.gate_probe import ProbedPorts
from supervisor_rolling.listener.history_file import FileHistory
from supervisor_rolling.listener.prometheus import PrometheusMetrics
from supervisor_rolling.listener.reconciler import Reconciler
from supervisor_rolling.plugin.mailbox import Mailbox, PendingRequest
from tests.simulation.clients import (
    STEP,
    FakeBalancers,
    FakeClients,
    FakeDrainFlags,
    FakeGateProbes,
    FakeKeepaliveCloser,
    FakeRequestSniffer,
)
from tests.simulation.kernel import FakeDeathWatch, FakeGate, FakeSockets
from tests.simulation.supervisord import ALREADY_STOPPED, FakeSupervisor
from tests.simulation.threads import FakeBackground, FakeHooks, FakeNotifications, FakeWarmups

GROUP = "app"
SENDS_AWAY = 0.1  # seconds in which a process that is notified has ended the connections that it keeps


class Killed(BaseException):
    """The reconciler died here."""


@dataclass
class SimProcess:
    """A process and how it behaves."""

    name: str
    port: int
    state: str = "RUNNING"
    pid: int = 0
    spawned: float = -100.0
    down_at: float = -100.0
    stop_takes: float = 0.05
    stopwaitsecs: float = 10.0
    lives: float = math.inf  # seconds until an incarnation ends by itself
    startsecs: float = 0.3
    boot_takes: float = 0.1
    boots: str = "up"  # up, crash, or never: it runs and does not listen
    retries: int = 0
    warms: str = "warm"
    warm_takes: float = 0.2
    warm_pid: int = 0
    heeds: str = ""  # the signal or request at which it ends its connections; of any other signal it dies
    notified: list[tuple[int, str]] = field(default_factory=list)  # by which signals and requests, with its pid
    stop_at: float = 0.0
    stopped_on_request: bool = False
    stopped_by_rollout: bool = False
    stopping_since: float = 0.0
    started_by_other_at: float = 0.0
    stop_took: float = 0.0
    connections: list[float] = field(default_factory=list)
    releases: list[int] = field(default_factory=list)
    deploy: dict[str, Any] = field(default_factory=dict)  # the fields that the next incarnation has otherwise

    @property
    def listens(self) -> bool:
        return self.state in ("RUNNING", "STARTING", "STOPPING")

    @property
    def incarnation(self) -> Incarnation:
        return Incarnation(self.pid, self.spawned)


class World:
    """Processes, users and a clock; the fakes of all adapters."""

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
        self.pids = itertools.count(100)
        self.processes = {f"app-{n}": SimProcess(f"app-{n}", first_port - 1 + n) for n in range(1, processes + 1)}
        for process in self.processes.values():
            process.pid = process.warm_pid = next(self.pids)
        self.load_config: Callable[[], Config] = lambda: self.config
        self.events: list[Change] = []
        self.wakes: list[float] = []  # when a call in the background ends
        self.background_takes: Callable[[object], float] = lambda key: 0.0
        self.is_by_rollout = False  # what happens just now is an action of the reconciler
        self.is_deaf = False  # no event reaches the reconciler, and no death
        self.refuses_to_start = ""
        self.refuses_to_signal = ""
        self.notified_while_open = 0
        self.connection_takes = 0.05
        self.lost = 0
        self.cold = 0
        self.log: list[str] = []
        self.kill_after = 0
        self.operations = 0
        self.least_serving = processes
        self.supervisor = FakeSupervisor(self)
        self.sockets = FakeSockets(self)
        self.gate = FakeGate(self)
        self.path_gate = FakeGate(self, UNIX)
        self.deaths = FakeDeathWatch(self)
        self.warmups = FakeWarmups(self)
        self.notifications = FakeNotifications(self)
        self.hooks = FakeHooks(self)
        self.keepalive_closer = FakeKeepaliveCloser(self)
        self.request_sniffer = FakeRequestSniffer(self)
        self.drain_flags = FakeDrainFlags()
        self.balancers = FakeBalancers()
        self.clients = FakeClients()
        self.gate_probes = FakeGateProbes()
        self.history = FileHistory("unix:///world.sock", lambda: HistoryPolicy(enabled=False), lambda: self.now)

    # --- the listener's side

    def reconciler(self, **other: Any) -> Reconciler:
        """A new listener: it knows nothing. ``other``: other adapters than those of this world."""
        return assemble(replace(self.adapters(), **other))

    def adapters(self) -> Adapters:
        """Those of a new listener."""
        for own in (
            self.gate,
            self.path_gate,
            self.deaths,
            self.warmups,
            self.notifications,
            self.hooks,
            self.request_sniffer,
        ):
            own.restart()
        return Adapters(
            supervisor=self.supervisor,
            make_gate=lambda policy: self.gate,
            path_gate=self.path_gate,
            sockets=self.sockets,
            deaths=self.deaths,
            warmups=self.warmups,
            notifications=self.notifications,
            hooks=self.hooks,
            keepalive_closer=self.keepalive_closer,
            request_sniffer=self.request_sniffer,
            drain_flags=self.drain_flags,
            balancers=self.balancers,
            clients=self.clients,
            gate_probes=self.gate_probes,
            spare_ports=ProbedPorts(lambda: None),
            history=self.history,
            metrics=PrometheusMetrics(lambda: ""),
            load_config=lambda: self.load_config(),
            latest_config=lambda: self.config,
            background=lambda: FakeBackground(self),
            clock=lambda: self.now,
        )

    @property
    def config(self) -> Config:
        return Config(self.gate_policy, {self.group: self.policy})

    @property
    def mailbox(self) -> Mailbox:
        return self.supervisor.mailbox

    # --- supervisord's commands, as a rollout or an operator gives them

    def stop(self, name: str) -> Outcome:
        process = self.processes[name]
        if process.state == "BACKOFF":
            self.goes_down(process, "STOPPED", self.is_by_rollout)
        elif process.state in ("RUNNING", "STARTING"):
            self.lost += len(process.connections) + self.keepalive_closer.stopped(
                process.port
            )  # SIGTERM ends it at once, and what it was doing with it
            process.connections = []
            self._becomes(process, "STOPPING")
            process.stopped_by_rollout, process.stopping_since = self.is_by_rollout, self.now
            process.stop_at = self.now + min(process.stop_takes, process.stopwaitsecs)
        else:
            return ALREADY_STOPPED
        self.operation(f"stop {name}")
        return Outcome()

    def signal(self, name: str, signal: str) -> Outcome:
        process = self.processes[name]
        if self.refuses_to_signal:
            return Outcome(self.refuses_to_signal)
        if process.state not in ("RUNNING", "STARTING", "STOPPING"):
            return ALREADY_STOPPED
        self.is_notified(process, signal)
        if signal != process.heeds or process.state != "RUNNING":
            self.crash(name)
        self.operation(f"signal {name}")
        return Outcome()

    def is_notified(self, process: SimProcess, how: str) -> None:
        process.notified.append((process.pid, how))
        self.notified_while_open += not self.is_closed(process.port)
        if how == process.heeds:
            process.connections = [min(end, self.now + SENDS_AWAY) for end in process.connections]

    def start(self, name: str) -> Outcome:
        process = self.processes[name]
        if self.refuses_to_start:
            return Outcome(self.refuses_to_start)
        if process.state in ("STOPPED", "EXITED", "FATAL"):
            self.spawn(process)
            if not self.is_by_rollout:
                process.started_by_other_at = process.spawned
        self.operation(f"start {name}")
        return Outcome()

    # --- the operator's side

    def ask(self, kind: str = "restart", **details: Any) -> PendingRequest:
        self.pass_time(max(1.5, min(self.connection_takes, 2.0)))  # users are there before anybody asks
        return self.mailbox.ask(kind, self.group, self.now, **details)

    def rollout(self) -> Rollout:
        return self.supervisor.rollout()

    def guard_state(self) -> GuardState:
        return self.supervisor.guard_state()

    def rollout_or_none(self) -> Rollout | None:
        return self.rollout() if self.group in self.mailbox.rollouts else None

    def crash(self, name: str) -> None:
        process = self.processes[name]
        self.lost += len(process.connections)
        process.connections = []
        self.goes_down(process, "EXITED")

    def restart_by_hand(self, name: str) -> None:
        """``supervisorctl restart``, on a process without connections."""
        self.processes[name].connections = []
        self.goes_down(self.processes[name], "STOPPED")
        self.spawn(self.processes[name])
        self.processes[name].started_by_other_at = self.processes[name].spawned

    def run(self, reconciler: Reconciler, seconds: float = 60.0) -> Reconciler:
        """Turns and time until the rollout has ended; a killed reconciler is followed by a new one."""
        return self.live(reconciler, seconds, self._has_ended)

    def live(self, reconciler: Reconciler, seconds: float, until: Callable[[], bool] = lambda: False) -> Reconciler:
        """Events, reconciles and time; a killed reconciler is followed by a new one."""
        end = self.now + seconds
        while self.now < end:
            try:
                reconciler.on_deaths()
                reconciler.on_events(self.new_events())
                due = self.now + reconciler.reconcile()
            except Killed:
                self.log.append("KILLED")
                reconciler = self.reconciler()
                continue
            if until():
                return reconciler
            self._wait(due, reconciler)
        return reconciler

    def _wait(self, due: float, reconciler: Reconciler) -> None:
        """Until the next reconcile is due, or the loop is woken; the gate is checked meanwhile."""
        self.pass_time(STEP)
        looked = self.now
        while self.now < due and self.now % 0.05 >= STEP and not self.is_woken():
            self.pass_time(STEP)
            if self.now >= looked + reconciler.gate_interval():
                reconciler.check_gate()
                looked = self.now

    def is_woken(self) -> bool:
        """Whether the loop is woken: by an event, or by the end of a call in the background."""
        over = [at for at in self.wakes if at <= self.now]
        self.wakes = [at for at in self.wakes if at > self.now]
        return bool(over) or (bool(self.events) and not self.is_deaf)

    def new_events(self) -> list[Change]:
        events, self.events = self.events, []
        return [] if self.is_deaf else events

    def _has_ended(self) -> bool:
        rollout = self.mailbox.rollouts.get(self.group)
        return rollout is not None and rollout.status is not Status.RUNNING

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(end, self.now + STEP)
            for process in self.processes.values():
                self._live(process)
            self._users()
            self.keepalive_closer.pass_time()

    # --- how the world goes

    def _users(self) -> None:
        serving = [p for p in self.processes.values() if self.accepts(p) and not self.is_closed(p.port)]
        self.least_serving = min(self.least_serving, len(serving))
        for process in serving:
            process.connections.append(self.now + self.connection_takes)
            self.cold += process.warm_pid != process.pid

    def is_closed(self, port: int) -> bool:
        return self.gate.is_closed(port) or self.path_gate.is_closed(port)

    def accepts(self, process: SimProcess) -> bool:
        booted = self.now >= process.spawned + process.boot_takes
        return process.state in ("RUNNING", "STARTING") and booted and process.boots != "never"

    def _live(self, process: SimProcess) -> None:
        process.connections = [end for end in process.connections if end > self.now]
        age = self.now - process.spawned
        if process.state == "STOPPING" and self.now >= process.stop_at:
            self.goes_down(process, "STOPPED", process.stopped_by_rollout)
        elif process.state == "STARTING" and age >= _life(process):
            process.retries += 1
            self.goes_down(process, "FATAL" if process.retries > 2 else "BACKOFF")
        elif process.state == "RUNNING" and age >= _life(process):
            self.crash(process.name)
        elif process.state == "STARTING" and age > process.startsecs:
            self._becomes(process, "RUNNING")
        elif process.state == "EXITED" or (process.state == "BACKOFF" and self.now - process.down_at > process.retries):
            self.spawn(process)

    def goes_down(self, process: SimProcess, state: str, by_rollout: bool = False) -> None:
        process.stop_took = self.now - process.stopping_since if process.state == "STOPPING" else 0.0
        self._becomes(process, state)
        process.stopped_on_request, process.stopped_by_rollout = state == "STOPPED", by_rollout
        process.pid, process.down_at, process.connections = 0, self.now, []

    def _becomes(self, process: SimProcess, state: str) -> None:
        pid = process.pid if state not in ("STARTING", "BACKOFF", "FATAL") else 0  # as supervisord's events have it
        self.events.append(Change(self.group, process.name, state, process.state, pid))
        process.state = state

    def spawn(self, process: SimProcess) -> None:
        self._becomes(process, "STARTING")
        process.pid, process.spawned = next(self.pids), self.now
        process.releases.append(process.pid)
        for key, value in process.deploy.items():
            setattr(process, key, value)

    def peers_of(self, port: int) -> list[str]:
        process = next(p for p in self.processes.values() if p.port == port)
        pooled = [one.peer for one in self.keepalive_closer.by_port.get(port, [])]
        users = [f"10.0.0.1:{round(end * 1000)}" for end in process.connections]
        return [*pooled, *users, *self.notifications.peers_of(process.name)]

    def operation(self, what: str) -> None:
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
