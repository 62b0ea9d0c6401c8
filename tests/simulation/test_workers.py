"""Groups without ports in the simulated world: queue workers, schedulers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from supervisor_rolling.core.policy import DrainPolicy, PortRule, RestartPolicy, Share, WarmupPolicy
from supervisor_rolling.core.rollout import Stage, Status
from tests.simulation.world import World, fast_policy

NO_RIGHTS = "no CAP_NET_ADMIN"


def workers(processes: int = 4, **policy: Any) -> World:
    """A group without ports, on a host where nothing can be closed."""
    world = World(processes, fast_policy(**{"ports": PortRule(none=True), **policy}))
    world.gate.problem = NO_RIGHTS
    return world


def rolled(world: World, seconds: float = 60.0) -> World:
    world.ask()
    world.run(world.reconciler(), seconds)
    return world


def went(world: World) -> list[tuple[str, int]]:
    """Each process, and how many incarnations it has had since."""
    return [(name, len(process.releases)) for name, process in world.processes.items()]


def commands(world: World) -> list[str]:
    """What supervisord was told, in this order."""
    return [entry for entry in world.log if entry.startswith(("signal", "stop", "start"))]


@pytest.mark.parametrize("processes", [1, 4])
def test_workers_are_replaced_without_a_gate(processes: int) -> None:
    world = rolled(workers(processes))
    assert (world.rollout().status, world.rollout().why) == (Status.DONE, "")
    assert went(world) == [(name, 1) for name in world.processes]
    assert world.gate.closed_until == {}
    assert commands(world) == [f"{verb} app-{n}" for n in range(1, processes + 1) for verb in ("stop", "start")]


def test_worker_may_take_long_to_finish_and_others_go_on() -> None:
    world = workers(max_unavailable=Share(number=2), canary=0, restart=RestartPolicy(timeout=10.0))
    slow = world.processes["app-1"]
    slow.stop_takes, slow.stopwaitsecs = 90.0, 3600.0
    world.ask()
    reconciler = world.reconciler()
    world.run(reconciler, 60.0)
    assert went(world) == [("app-1", 0), ("app-2", 1), ("app-3", 1), ("app-4", 1)]
    assert world.rollout().status is Status.RUNNING
    assert world.rollout().waits_for == "app-1 to exit, for up to 3600 s (stopwaitsecs)"
    world.run(reconciler, 60.0)
    assert (world.rollout().status, went(world)[0]) == (Status.DONE, ("app-1", 1))


def test_worker_that_drains_gets_no_drain_flag() -> None:
    """It has no connection to close, and the directory may need rights."""
    world = workers(1, drain=DrainPolicy(timeout=60.0, signal="USR1"))
    world.processes["app-1"].heeds = "USR1"
    world.ask()
    world.run(world.reconciler(), 2.0)
    assert world.rollout().members[0].stage is Stage.DRAINING
    assert world.drain_flags.flagged == set()


def test_check_needs_no_gate_and_no_load_balancer() -> None:
    world = workers()
    world.balancers.nginx = None  # nginx -T hangs
    request = world.ask("check")
    world.live(world.reconciler(), 1.0)
    assert request.state == "answered"
    assert [finding.code for finding in request.answer.findings] == []


def test_killed_worker_fails_the_rollout_and_is_named() -> None:
    world = workers()
    world.processes["app-1"].stop_takes = 99.0
    rolled(world)
    assert (world.rollout().status, world.rollout().code) == (Status.FAILED, "restart.killed")
    assert world.rollout().why.startswith("app:app-1 did not stop within 10 s (stopwaitsecs), so supervisord kills it")
    assert went(world) == [("app-1", 1), ("app-2", 0), ("app-3", 0), ("app-4", 0)]


def test_workers_that_are_asked_to_finish_exit_by_themselves() -> None:
    world = workers(drain=DrainPolicy(timeout=30.0, signal="USR1"))  # which ends them, and autorestart starts them
    rolled(world)
    assert (world.rollout().status, world.rollout().why) == (Status.DONE, "")
    assert went(world) == [(name, 1) for name in world.processes]
    assert not [entry for entry in commands(world) if entry.startswith("stop")]


def test_worker_that_ignores_the_signal_is_stopped_when_its_time_is_over() -> None:
    world = workers(1, drain=DrainPolicy(timeout=5.0, signal="USR1"))
    world.processes["app-1"].heeds = "USR1"
    rolled(world)
    (member,) = world.rollout().members
    assert (world.rollout().status, round(member.timing.drained)) == (Status.DONE, 5)
    assert commands(world) == ["signal app-1", "stop app-1", "start app-1"]


def test_rollout_says_that_it_waits_for_a_signalled_worker() -> None:
    world = workers(1, drain=DrainPolicy(timeout=60.0, signal="USR1"))
    world.processes["app-1"].heeds = "USR1"
    world.ask()
    world.run(world.reconciler(), 10.0)
    assert world.rollout().waits_for == "app-1 to exit after SIGUSR1, for up to 60 s (drain.timeout)"
    assert world.rollout().waits_long


def test_operator_may_restart_a_slow_worker_at_the_end_of_a_rollout() -> None:
    world = workers(2, restart=RestartPolicy(timeout=5.0))
    world.ask()
    reconciler = world.reconciler()
    world.run(reconciler, 0.5)
    for _ in itertools.takewhile(lambda _: not world.rollout().members[0].replaced, range(1000)):
        world.run(reconciler, 0.1)
    first = world.processes["app-1"]
    first.stop_takes, first.stopwaitsecs = 30.0, 3600.0
    world.stop("app-1")  # supervisorctl restart
    for _ in itertools.takewhile(lambda _: first.state == "STOPPING", range(1000)):
        world.run(reconciler, 0.1)
    assert world.rollout().status is Status.RUNNING
    world.start("app-1")
    world.run(reconciler, 10.0)
    assert (world.rollout().status, world.rollout().why) == (Status.DONE, "")


def test_bad_deploy_stops_at_the_first_worker() -> None:
    world = workers()
    world.processes["app-1"].deploy = {"boots": "crash"}
    rolled(world, 120.0)
    assert world.rollout().status is Status.FAILED
    assert went(world)[1:] == [("app-2", 0), ("app-3", 0), ("app-4", 0)]


@pytest.mark.parametrize("drain", [DrainPolicy(), DrainPolicy(timeout=5.0, signal="USR1")], ids=["stop", "signal"])
def test_listener_may_be_killed_after_any_operation(drain: DrainPolicy) -> None:
    operations = rolled(workers(2, drain=drain)).operations
    for moment in range(1, operations + 1):
        world = workers(2, drain=drain)
        world.kill_after = moment
        rolled(world)
        assert world.rollout().status is Status.DONE, f"killed after operation {moment}"
        assert went(world) == [(name, 1) for name in world.processes], f"killed after operation {moment}"


def test_abort_leaves_the_others_as_they_are() -> None:
    world = workers()
    world.ask()
    reconciler = world.reconciler()
    for _ in itertools.takewhile(lambda _: not world.processes["app-1"].releases, range(1000)):
        world.run(reconciler, 0.1)
    world.mailbox.flag("app", aborting=True)
    world.run(reconciler, 30.0)
    assert world.rollout().status is Status.ABORTED
    assert went(world)[2:] == [("app-3", 0), ("app-4", 0)]


def test_abort_replaces_the_worker_that_was_asked_to_finish() -> None:
    """No autorestart brings it back: the rollout has told it to exit."""
    world = workers(drain=DrainPolicy(timeout=30.0, signal="USR1"))
    world.processes["app-1"].heeds = "USR1"  # it takes note, and exits later
    world.ask()
    reconciler = world.reconciler()
    for _ in itertools.takewhile(lambda _: not world.processes["app-1"].notified, range(1000)):
        world.run(reconciler, 0.1)
    world.mailbox.flag("app", aborting=True)
    world.run(reconciler, 5.0)
    assert world.rollout().status is Status.RUNNING
    world.crash("app-1")
    world.run(reconciler, 30.0)
    assert world.rollout().status is Status.ABORTED
    assert went(world) == [("app-1", 1), ("app-2", 0), ("app-3", 0), ("app-4", 0)]
    assert world.rollout().members[0].replaced


def test_next_rollout_asks_a_failed_worker_to_finish() -> None:
    world = workers(2, drain=DrainPolicy(timeout=30.0, signal="USR1"), warmup=WarmupPolicy(timeout=1.0))
    world.processes["app-1"].deploy = {"warms": "the command of ready exited with 1"}
    rolled(world)
    assert world.rollout().status is Status.FAILED
    world.processes["app-1"].deploy = {"warms": "warm"}
    world.processes["app-1"].notified.clear()
    rolled(world)
    assert world.rollout().status is Status.DONE
    assert [how for _, how in world.processes["app-1"].notified] == ["USR1"]
