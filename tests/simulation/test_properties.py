"""What must hold of every rollout, whatever the group, the policy, the bad luck and the moment of a
kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor_rolling.core.actions import Action, Outcome
from supervisor_rolling.core.connections import Connection
from supervisor_rolling.core.lingering import MAX_SHOWN
from supervisor_rolling.core.policy import DrainPolicy, Share
from supervisor_rolling.core.rollout import Rollout, Stage, Status
from supervisor_rolling.listener.reconciler import Reconciler
from tests.simulation.clients import STEP
from tests.simulation.supervisord import FakeSupervisor
from tests.simulation.world import Killed, SimProcess, World, fast_policy

PATIENCE = 400.0
"""Seconds of simulated time in which every rollout must have ended: some times the sum of all its deadlines."""

WISHES: dict[str, dict[str, bool]] = {
    "pause": {"paused": True},
    "resume": {"paused": False},
    "abort": {"aborting": True},
}


@dataclass(frozen=True)
class Plan:
    """What happens in one example. ``crashes`` and ``wishes``: at how many seconds into the rollout, and to what;
    ``kills``: after how many operations of the reconciler; ``bad``: the deploy of some; ``deaf``: those that do not
    stop."""

    size: int
    limit: int
    canary: int = 1
    min_ready_seconds: float = 0.0
    max_failures: int = 0
    boots: tuple[float, ...] = (0.1,)
    warms: tuple[float, ...] = (0.2,)
    stops: tuple[float, ...] = (0.05,)
    connections: float = 0.05
    drain: float = 2.0
    bad: dict[int, dict[str, Any]] = field(default_factory=dict)
    deaf: frozenset[int] = frozenset()
    crashes: tuple[tuple[float, int], ...] = ()
    wishes: tuple[tuple[float, str], ...] = ()
    kills: tuple[int, ...] = ()


class Luck(World):
    """The simulated world with an operator and with accidents; keeps the books that the properties are about."""

    def __init__(self, plan: Plan) -> None:
        policy = fast_policy(
            plan.min_ready_seconds,
            max_unavailable=Share(number=plan.limit),
            canary=plan.canary,
            max_failures=min(plan.max_failures, plan.limit - 1),  # more is refused
            drain=DrainPolicy(timeout=plan.drain),
        )
        super().__init__(plan.size, policy)
        self.connection_takes = plan.connections
        self.plan_of_luck = plan
        self.crashed: set[str] = set()
        self.cold_from: set[str] = set()
        self.lost_by_stop = 0
        self.most_out = 0
        self.ended_in = 0.0
        self._kills = list(plan.kills)
        self._happenings: list[tuple[float, Callable[[], object]]] = []
        for index, process in enumerate(self.processes.values()):
            process.boot_takes, process.warm_takes = _of(plan.boots, index), _of(plan.warms, index)
            process.stop_takes, process.deploy = _of(plan.stops, index), plan.bad.get(index, {})
            process.stop_takes = 60.0 if index in plan.deaf else process.stop_takes

    def begin(self) -> Reconciler:
        """Ask for a rollout; from now on what is planned happens."""
        reconciler = self.reconciler()
        self.ask(force=self.plan_of_luck.size == 1)
        names = list(self.processes)
        crashes = [(at, lambda n=n: self._die(names[n % len(names)])) for at, n in self.plan_of_luck.crashes]
        wishes = [(at, lambda w=w: self.mailbox.flag("app", **WISHES[w])) for at, w in self.plan_of_luck.wishes]
        self._happenings = [(self.now + at, act) for at, act in crashes + wishes]
        self._next_kill()
        return reconciler

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end - 1e-9:
            for due in [one for one in self._happenings if one[0] <= self.now]:
                self._happenings.remove(due)
                due[1]()
            super().pass_time(min(STEP, end - self.now))
            self._count()

    def stop(self, name: str) -> Outcome:
        before = self.lost
        try:
            return super().stop(name)
        finally:
            self.lost_by_stop += self.lost - before

    def _die(self, name: str) -> None:
        if self.processes[name].state in ("RUNNING", "STARTING"):
            self.crashed.add(name)
            self.crash(name)

    def operation(self, what: str) -> None:
        try:
            super().operation(what)
        except Killed:
            self._next_kill()
            raise

    def live_on(self) -> None:
        """Nobody is killed any more."""
        self.kill_after = 0

    def _next_kill(self) -> None:
        self.kill_after = self.operations + self._kills.pop(0) if self._kills else 0

    def _serves(self, process: SimProcess) -> bool:
        return self.accepts(process) and not self.gate.is_closed(process.port)

    def _count(self) -> None:
        serving = {name for name, process in self.processes.items() if self._serves(process)}
        self.cold_from |= {name for name in serving if self.processes[name].pid != self.processes[name].warm_pid}
        self.most_out = max(self.most_out, len(self.processes.keys() - serving - self.crashed))


def _of(values: tuple[float, ...], index: int) -> float:
    return values[index % len(values)]


def rollout_of(plan: Plan) -> tuple[Luck, Rollout]:
    """The world after the rollout. A rollout that was left paused is resumed, as an operator would."""
    world = Luck(plan)
    began = world.now
    reconciler = world.run(world.begin(), PATIENCE / 2)
    if world.rollout().paused:
        world.mailbox.flag("app", paused=False)
        reconciler = world.run(reconciler, PATIENCE / 2)
    world.ended_in = world.now - began
    world.live_on()
    reconciler.reconcile()
    return world, world.rollout()


seconds = st.sampled_from
moments = st.floats(0.0, 6.0)
sizes = st.integers(1, 6)


def plans(**changes: st.SearchStrategy) -> st.SearchStrategy[Plan]:
    parts: dict[str, st.SearchStrategy] = {
        "size": sizes,
        "limit": st.integers(1, 4),
        "canary": st.integers(0, 3),
        "min_ready_seconds": seconds([0.0, 0.0, 0.4, 2.0]),
        "boots": st.lists(seconds([0.02, 0.1, 0.5, 1.5]), min_size=1, max_size=3).map(tuple),
        "warms": st.lists(seconds([0.02, 0.2, 0.9]), min_size=1, max_size=3).map(tuple),
        "stops": st.lists(seconds([0.01, 0.05, 0.7, 3.0]), min_size=1, max_size=3).map(tuple),
        "connections": seconds([0.02, 0.3, 1.2]),
    }
    return st.builds(Plan, **{**parts, **changes})


crashes = st.lists(st.tuples(moments, st.integers(0, 5)), max_size=3).map(tuple)
wishes = st.lists(st.tuples(moments, st.sampled_from(sorted(WISHES))), max_size=3).map(tuple)
kills = st.lists(st.integers(1, 40), max_size=4).map(tuple)
bad = st.dictionaries(
    st.integers(0, 5),
    st.sampled_from(
        [
            {"boots": "crash", "boot_takes": 0.1},
            {"lives": 0.25},
            {"boots": "never"},
            {"boot_takes": 30.0},
            {"warms": "GET / answered 500"},
        ]
    ),
    max_size=2,
)
deaf = st.frozensets(st.integers(0, 5), max_size=3)

examples = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])


def assert_guarded(world: World) -> None:
    """No port is closed but for a process that is not warm, and each of those is closed, if that is not too much."""
    guard_state = world.guard_state()
    closed = {port for port in world.gate.closed_until if world.gate.is_closed(port)}
    assert closed == {one.port for guarded in guard_state.guarded if guarded.closed for one in guarded.endpoints}
    guarded = {guarded.name for guarded in guard_state.guarded}
    assert all(
        world.mailbox.is_warm("app", p.name, p.incarnation) for p in world.processes.values() if p.name not in guarded
    )
    cold = [guarded for guarded in guard_state.guarded if guarded.stage is not Stage.READY]
    assert {guarded.name for guarded in guard_state.guarded if guarded.closed} <= {guarded.name for guarded in cold}
    there = [p for p in world.processes.values() if p.state not in ("STOPPED", "FATAL")]
    most = max(1, len(there) // 2)
    alive = [w for w in cold if world.processes[w.name].state not in ("STOPPED", "FATAL")]
    assert sum(guarded.closed for guarded in alive) <= most
    if len(guarded) == len(world.processes):
        assert not closed
    elif len(alive) <= most:
        assert all(guarded.closed for guarded in cold)


def assert_safe(world: Luck, rollout: Rollout) -> None:
    """What no bad luck excuses."""
    assert rollout.status is not Status.RUNNING
    assert world.ended_in < PATIENCE
    assert world.lost_by_stop == 0
    assert world.cold_from <= world.crashed
    assert world.most_out <= rollout.limit
    assert_guarded(world)
    assert {member.stage for member in rollout.members} <= {Stage.OPEN, Stage.FAILED}
    assert all(member.failed for member in rollout.members if member.stage is Stage.FAILED)


@examples
@given(plans(kills=kills))
def test_killed_reconciler_replaces_each_process_once(plan: Plan) -> None:
    world, rollout = rollout_of(plan)
    assert_safe(world, rollout)
    assert rollout.status is Status.DONE
    assert [len(process.releases) for process in world.processes.values()] == [1] * plan.size
    assert all(member.replaced and member.stage is Stage.OPEN for member in rollout.members)
    assert world.lost == 0
    assert world.gate.closed_until == {}


@examples
@given(plans(size=st.integers(2, 6), limit=st.integers(1, 9)))
def test_one_process_serves_without_force(plan: Plan) -> None:
    world, rollout = rollout_of(plan)
    assert rollout.status is Status.DONE
    assert world.least_serving >= max(1, plan.size - plan.limit)


@examples
@given(plans(kills=kills, wishes=wishes, crashes=crashes, bad=bad, deaf=deaf, max_failures=st.integers(0, 2)))
def test_rollout_ends_without_harm(plan: Plan) -> None:
    world, rollout = rollout_of(plan)
    assert_safe(world, rollout)
    if rollout.status is Status.DONE:
        assert all(member.replaced for member in rollout.members if member.selected)
        assert world.gate.closed_until == {}


@examples
@given(plans(bad=st.just({n: {"warms": "GET / answered 500"} for n in range(6)}), max_failures=st.integers(0, 2)))
def test_bad_deploy_costs_at_most_max_failures(plan: Plan) -> None:
    world, rollout = rollout_of(plan)
    assert_safe(world, rollout)
    assert rollout.status is Status.FAILED
    most = 1 if plan.canary and not min(plan.max_failures, plan.limit - 1) else plan.limit
    assert 1 <= sum(bool(process.releases) for process in world.processes.values()) <= most


@examples
@given(plans(size=st.integers(2, 6), deaf=st.just(frozenset(range(6))), kills=kills, max_failures=st.integers(0, 2)))
def test_killed_processes_count_as_failures(plan: Plan) -> None:
    world, rollout = rollout_of(plan)
    assert_safe(world, rollout)
    assert rollout.status is Status.FAILED
    assert all(member.killed and member.replaced for member in rollout.members if member.attempted)
    assert {process.state for process in world.processes.values()} == {"RUNNING"}
    most = 1 if plan.canary and not min(plan.max_failures, plan.limit - 1) else plan.limit
    assert 1 <= sum(member.failed for member in rollout.members) <= min(plan.max_failures, plan.limit - 1) + most


@examples
@given(plans(kills=kills, wishes=st.tuples(st.tuples(moments, st.just("abort")))))
def test_abort_leaves_every_process_serving(plan: Plan) -> None:
    world, rollout = rollout_of(plan)
    assert_safe(world, rollout)
    assert rollout.status in (Status.ABORTED, Status.DONE)
    assert world.gate.closed_until == {}
    assert all(process.warm_pid == process.pid for process in world.processes.values())
    assert all(len(process.releases) <= 1 for process in world.processes.values())


@examples
@given(plans(connections=st.just(60.0), drain=seconds([0.5, 1.0]), kills=kills))
def test_endless_connections_hold_until_deadline(plan: Plan) -> None:
    world, rollout = rollout_of(plan)
    assert rollout.status is Status.DONE
    assert world.cold_from == set()
    assert world.most_out <= plan.limit
    assert all(member.lingering_connections > 0 for member in rollout.members)


class ClerksSupervisor(FakeSupervisor):
    def record(self, rollout: Rollout, version: int, request: int = 0) -> None:
        assert isinstance(self._world, Clerk)
        self._world.note(rollout)
        super().record(rollout, version, request)


class Clerk(Luck):
    """Writes down what is said of connections that are left, with the truth; this kernel knows no age."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.supervisor = ClerksSupervisor(self)
        self.said: list[tuple[float, float]] = []  # age, true age
        self.counts: list[tuple[int, int]] = []  # how many of how many

    def note(self, rollout: Rollout) -> None:
        for member in rollout.members:
            if member.stage is Stage.RESTARTING and member.since == self.now:
                self.said += [(one.age, self._true_age(one)) for one in member.oldest_lingering]
                self.counts.append((len(member.oldest_lingering), member.lingering_connections))

    def _true_age(self, connection: Connection) -> float:
        end = float(connection.peer.rpartition(":")[2]) / 1000
        return self.now - (end - self.connection_takes)


@examples
@given(plans(connections=st.just(60.0), drain=seconds([0.5, 1.0]), kills=kills))
def test_ages_of_connections_are_true(plan: Plan) -> None:
    world = Clerk(plan)
    world.run(world.begin(), PATIENCE)
    assert world.rollout().status is Status.DONE
    assert len(world.counts) >= plan.size
    assert all(named == min(MAX_SHOWN, left) > 0 for named, left in world.counts)
    assert all(plan.drain <= age <= truth + 0.001 for age, truth in world.said)  # the name of a peer is rounded


@examples
@given(plans(size=st.integers(2, 6), boots=st.just((0.1,)), bad=st.just({1: {"boots": "crash"}}), kills=kills))
def test_failed_rollout_resumes_after_repair(plan: Plan) -> None:
    world, rollout = rollout_of(replace(plan, canary=1))
    assert rollout.status is Status.FAILED
    for process in world.processes.values():
        process.boots, process.deploy, process.retries = "up", {}, 0
    world.live_on()
    world.ask("resume")
    world.run(world.reconciler(), PATIENCE)
    assert world.rollout().status is Status.DONE
    assert world.lost_by_stop == 0
    assert world.cold_from == set()
    assert [len(p.releases) for p in world.processes.values() if p.name in ("app-1",)] == [1]
    assert world.gate.closed_until == {}


class Sabotage(FakeSupervisor):
    """A gate that fails between the observation that finds a process drained and the action that stops it."""

    def record(self, rollout: Rollout, version: int, request: int = 0) -> None:
        super().record(rollout, version, request)
        is_stopped = any(entry.startswith("stop") for entry in self._world.log)
        if rollout.members[0].stage is Stage.RESTARTING and not is_stopped:
            self._world.gate.problem = "the table is locked"


def test_gate_failure_prevents_the_stop() -> None:
    world = World(3)
    world.supervisor = Sabotage(world)
    world.ask()
    reconciler = world.reconciler()
    while not world.gate.problem:
        reconciler.reconcile()
        world.pass_time(STEP)
    assert world.rollout().members[0].stage is Stage.RESTARTING
    assert not any(entry.startswith("stop") for entry in world.log)


class SlowSupervisor(FakeSupervisor):
    """It takes longer for a few actions than the lease lasts."""

    def action(self, group: str, actions: Sequence[Action]) -> list[Outcome]:
        outcomes = super().action(group, actions)
        self._world.pass_time(self._world.gate_policy.lease + 1.0)
        return outcomes


def test_slow_commands_cost_no_request() -> None:
    world = World(12, fast_policy(max_unavailable=Share(number=8), canary=0))
    world.supervisor = SlowSupervisor(world)
    world.ask()
    world.run(world.reconciler(), 4 * PATIENCE)
    assert (world.rollout().status, world.lost) == (Status.DONE, 0)
