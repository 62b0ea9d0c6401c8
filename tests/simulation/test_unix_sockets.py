"""Groups on unix sockets in the simulated world: the same rollouts and the same guard, without a lease."""

from __future__ import annotations

import random

import pytest

from supervisor_rolling.core.policy import SocketRule
from supervisor_rolling.core.rollout import Stage, Status
from tests.simulation.world import World, fast_policy

RULE = SocketRule(by_name={f"app-{number}": f"/run/{8000 + number}" for number in range(1, 100)})


def unix_world(processes: int = 4) -> World:
    return World(processes, fast_policy(sockets=RULE))


def test_rollout_loses_nothing_and_leaves_nothing_closed() -> None:
    world = unix_world()
    world.ask()
    reconciler = world.run(world.reconciler())
    world.live(reconciler, 1.0)
    assert (world.rollout().status, world.lost, world.cold, world.least_serving) == (Status.DONE, 0, 0, 3)
    assert (world.path_gate.closed_until, world.gate.closed_until) == ({}, {})


def test_crashed_process_is_closed_until_it_is_warm() -> None:
    world = unix_world()
    reconciler = world.live(world.reconciler(), 1.0)
    for process in world.processes.values():
        process.connections = []
    world.crash("app-1")
    world.live(reconciler, 10.0)
    assert (world.lost, world.cold, world.path_gate.closed_until) == (0, 0, {})


def test_host_without_a_firewall_has_rollouts() -> None:
    world = unix_world()
    world.gate.problem = "no rights"
    world.ask()
    world.run(world.reconciler())
    assert (world.rollout().status, world.lost, world.cold) == (Status.DONE, 0, 0)


def test_socket_that_cannot_be_closed_is_not_stopped() -> None:
    world = unix_world()
    world.path_gate.problem = "no space"
    world.ask()
    world.run(world.reconciler(), 120.0)
    rollout = world.rollout()
    assert (rollout.status, rollout.code, world.lost) == (Status.FAILED, "drain.gate", 0)
    assert not any(process.releases for process in world.processes.values())


def test_client_that_gets_through_is_found() -> None:
    world = unix_world()
    world.path_gate.leaks = {8001}
    world.connection_takes = 0.2
    world.ask()
    world.run(world.reconciler())
    rollout = world.rollout()
    assert (rollout.status, rollout.code, world.lost) == (Status.FAILED, "drain.leak", 0)
    assert "its socket is closed" in rollout.why


@pytest.mark.parametrize("seed", range(25))
def test_killed_listener_leaves_nothing_closed_and_loses_nothing(seed: int) -> None:
    chance = random.Random(seed)
    world = unix_world(chance.choice([2, 3, 5]))
    world.kill_after = world.operations + chance.randint(1, 60)
    world.ask()
    reconciler = world.run(world.reconciler())
    world.live(reconciler, 5.0)
    assert (world.rollout().status, world.lost, world.cold) == (Status.DONE, 0, 0)
    assert {member.stage for member in world.rollout().members} == {Stage.OPEN}
    assert world.path_gate.closed_until == {}
