"""Spare processes (``surge``) in the simulated world: capacity never falls below what it was."""

from __future__ import annotations

import random
from typing import Any

import pytest

from supervisor_rolling.core.policy import GuardPolicy, PortRule
from supervisor_rolling.core.rollout import Rollout, Stage, Status
from tests.simulation.world import SimProcess, World, fast_policy


def rests(process: SimProcess) -> None:
    """It is stopped, and was so for long."""
    process.state, process.pid, process.stopped_on_request = "STOPPED", 0, True


def spare_world(serving: int = 1, surge: int = 1, **policy: Any) -> World:
    """The last ones are the spares."""
    world = World(serving + surge, fast_policy(surge=surge, **policy))
    for process in list(world.processes.values())[serving:]:
        rests(process)
    world.least_serving = serving
    return world


def states(world: World) -> list[str]:
    return [process.state for process in world.processes.values()]


def new(world: World) -> list[str]:
    """The processes that run a new incarnation."""
    return [name for name, process in world.processes.items() if process.releases and process.state == "RUNNING"]


def ended(world: World, seconds: float = 60.0) -> Rollout:
    world.ask()
    world.run(world.reconciler(), seconds)
    return world.rollout()


def assert_open(world: World) -> None:
    """What serves is open. A stopped one may be closed: its next process is to be warm before it is reached."""
    assert set(world.gate.closed_until) <= {one.port for one in world.processes.values() if one.state == "STOPPED"}


def assert_nothing_lost(world: World, serving: int) -> None:
    assert (world.lost, world.cold) == (0, 0)
    assert world.least_serving == serving


KINDS = pytest.mark.parametrize(
    "policy", [{}, {"guard": GuardPolicy(enabled=False)}], ids=["guarded", "without a guard"]
)


@KINDS
@pytest.mark.parametrize(("serving", "surge"), [(1, 1), (4, 1), (4, 2), (3, 3)])
def test_every_old_process_is_replaced_at_full_capacity(serving: int, surge: int, policy: dict[str, Any]) -> None:
    world = spare_world(serving, surge, **policy)
    rollout = ended(world)
    assert (rollout.status, rollout.why, rollout.total) == (Status.DONE, "", serving)
    assert sum(member.replaced for member in rollout.members) == serving
    assert len(new(world)) == serving
    assert states(world).count("STOPPED") == surge
    assert_nothing_lost(world, serving)
    assert_open(world)


def test_spare_of_one_rollout_serves_in_the_next() -> None:
    world = spare_world()
    for running in ("app-2", "app-1", "app-2"):
        assert ended(world).status is Status.DONE
        assert [name for name, one in world.processes.items() if one.state == "RUNNING"] == [running]
    assert_nothing_lost(world, 1)


@KINDS
@pytest.mark.parametrize("deploy", [{"boots": "crash"}, {"boots": "never"}, {"warms": "failed"}], ids=str)
def test_bad_deploy_leaves_every_old_process(deploy: dict[str, Any], policy: dict[str, Any]) -> None:
    world = spare_world(2, **policy)
    old = [process.pid for process in world.processes.values()]
    for process in world.processes.values():
        process.deploy = deploy
    rollout = ended(world)
    assert rollout.status is Status.FAILED
    assert [process.pid for process in world.processes.values()][:2] == old[:2]
    assert states(world)[2] in ("STOPPED", "FATAL"), "it does not crash for ever"
    assert_nothing_lost(world, 2)
    for process in world.processes.values():
        process.deploy = {"boots": "up", "warms": "warm"}
        process.retries = 0
    assert ended(world).status is Status.DONE
    assert len(new(world)) == 2
    assert_nothing_lost(world, 2)


@pytest.mark.parametrize("tenths", range(0, 30, 1))
def test_abort_at_any_moment_keeps_capacity_and_a_spare(tenths: int) -> None:
    world = spare_world(2, min_ready_seconds=0.3)
    world.ask()
    reconciler = world.live(world.reconciler(), tenths / 10)
    world.mailbox.flag("app", aborting=True)
    world.run(reconciler, 30.0)
    assert world.rollout().status in (Status.ABORTED, Status.DONE)
    assert {member.stage for member in world.rollout().members} == {Stage.OPEN}
    assert states(world).count("RUNNING") >= 2
    assert_nothing_lost(world, 2)
    world.live(reconciler, 5.0)
    world.ask("resume") if world.rollout().status is Status.ABORTED else world.ask()
    world.live(reconciler, 0.5)
    world.run(reconciler, 60.0)
    assert world.rollout().status is Status.DONE
    assert_nothing_lost(world, 2)


@pytest.mark.parametrize("seed", range(25))
def test_killed_listener_and_crash_lose_nothing_but_the_crash(seed: int) -> None:
    chance = random.Random(seed)
    world = spare_world(chance.choice([1, 2, 3]), chance.choice([1, 2]))
    serving = world.least_serving
    world.kill_after = world.operations + chance.randint(1, 40)
    rollout = ended(world)
    assert (rollout.status, rollout.why) == (Status.DONE, "")
    assert_nothing_lost(world, serving)
    assert_open(world)


@pytest.mark.parametrize("tenths", range(0, 12, 2))
def test_serving_process_that_crashes_while_the_spare_boots_is_replaced(tenths: int) -> None:
    world = spare_world()
    world.processes["app-2"].boot_takes = 1.0
    world.ask()
    reconciler = world.live(world.reconciler(), tenths / 10)
    world.crash("app-1")
    world.run(reconciler, 60.0)
    assert world.rollout().status is Status.DONE, world.rollout().why
    world.live(reconciler, 5.0)
    assert "RUNNING" in states(world)
    assert_open(world)


def test_boot_of_all_stops_the_surplus() -> None:
    world = World(3, fast_policy(surge=1))
    for process in world.processes.values():
        process.state, process.warm_pid = "STARTING", 0
        process.spawned = world.now
    world.live(world.reconciler(), 10.0)
    assert states(world) == ["RUNNING", "RUNNING", "STOPPED"]
    assert_open(world)
    assert ended(world).status is Status.DONE


@pytest.mark.parametrize("takes", [0.05, 1.0, 9.0], ids=str)
@pytest.mark.parametrize("kill_after", [0, 3, 4, 5, 6])
def test_late_listener_drains_the_surplus_that_serves_already(takes: float, kill_after: int) -> None:
    world = World(3, fast_policy(surge=1))
    for process in world.processes.values():
        process.spawned, process.warm_pid = world.now - 2.0, 0
    world.connection_takes, world.kill_after = takes, kill_after
    world.pass_time(1.0)
    world.live(world.reconciler(), 1.0 + min(takes, 2.0))
    assert states(world) == ["RUNNING", "RUNNING", "STOPPED"]
    is_cut_off = takes > world.policy.drain.timeout
    assert bool(world.lost) == is_cut_off, "what takes longer than drain.timeout is cut off, as in a rollout"
    assert world.least_serving == 2


def test_surplus_is_closed_although_no_other_is_warm_yet() -> None:
    world = World(2, fast_policy(surge=1))
    for process in world.processes.values():
        process.spawned, process.warm_pid, process.warm_takes = world.now - 2.0, 0, 4.0
    world.pass_time(1.0)
    world.live(world.reconciler(), 1.0)
    assert states(world) == ["RUNNING", "STOPPED"]
    assert (world.lost, world.least_serving) == (0, 1)


def test_surplus_that_drains_takes_over_when_the_other_crashes() -> None:
    world = World(2, fast_policy(surge=1))
    for process in world.processes.values():
        process.spawned, process.warm_pid = world.now - 2.0, 0
    world.connection_takes = 1.5
    world.pass_time(2.0)
    reconciler = world.live(world.reconciler(), 0.5)
    world.processes["app-1"].boot_takes = 3.0
    world.crash("app-1")
    world.live(reconciler, 0.5)
    assert world.processes["app-2"].connections, "it is opened again"
    world.live(reconciler, 10.0)
    assert states(world) == ["STOPPED", "RUNNING"], "and serves from now on"
    assert_open(world)


def test_process_of_which_the_port_is_not_known_is_not_stopped() -> None:
    world = World(2, fast_policy(surge=1, ports=PortRule(auto=True)))
    world.sockets.is_blind = True
    world.live(world.reconciler(), 5.0)
    assert (states(world), world.lost) == (["RUNNING"] * 2, 0), "it may serve"


def test_boot_without_a_guard_stops_nothing_that_may_serve() -> None:
    world = World(3, fast_policy(surge=1, guard=GuardPolicy(enabled=False)))
    world.live(world.reconciler(), 10.0)
    assert (states(world), world.lost) == (["RUNNING"] * 3, 0)


def test_spare_that_an_operator_starts_keeps_running() -> None:
    world = spare_world(2)
    reconciler = world.live(world.reconciler(), 1.0)
    world.start("app-3")
    world.live(reconciler, 10.0)
    assert states(world) == ["RUNNING"] * 3


def test_group_without_a_stopped_spare_gets_one_from_its_rollout() -> None:
    world = World(3, fast_policy(surge=1))
    world.least_serving = 3
    rollout = ended(world)
    assert (rollout.status, rollout.capacity) == (Status.DONE, 2)
    assert sorted(states(world)) == ["RUNNING", "RUNNING", "STOPPED"]
    assert len(new(world)) == 2
    assert (world.lost, world.least_serving) == (0, 2)


@pytest.mark.parametrize("ports", [PortRule(none=True), PortRule(shared=True)], ids=["workers", "shared"])
def test_group_without_ports_of_its_own_has_spares_too(ports: PortRule) -> None:
    world = World(2, fast_policy(surge=1, ports=ports))
    reconciler = world.live(world.reconciler(), 5.0)
    assert states(world) == ["RUNNING", "STOPPED"], "what supervisord started is stopped"
    world.ask()
    world.run(reconciler)
    assert (world.rollout().status, world.rollout().total) == (Status.DONE, 1)
    assert states(world) == ["STOPPED", "RUNNING"]
