"""Rollouts on a host whose processors are busy: how many boot at a time, how long that takes, and that it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor_rolling.core.policy import PacePolicy, Share
from supervisor_rolling.core.rollout import Status
from supervisor_rolling.plugin.views import rollout_view
from tests.simulation.test_reconciler import Dying, end_of, quick, survived
from tests.simulation.world import GROUP, World, fast_policy
from tests.support.look import assert_nobody_noticed, rolling, users, wait_ended
from tests.support.pressure import said
from tests.support.stack import Stack

PACE = PacePolicy(cpu_pressure=20.0, patience=3.0)


def a_world(processes: int = 6, limit: int = 4, pace: PacePolicy = PACE, **cpu: float | None) -> World:
    """Where each that boots is worth 30 % of pressure, and boots for a second."""
    world = World(processes, fast_policy(max_unavailable=Share(number=limit), pace=pace))
    world.cpu_of_a_boot = 30.0
    for name, value in cpu.items():
        setattr(world, name, value)
    for process in world.processes.values():
        process.boot_takes, process.startsecs, process.warm_takes = 1.0, 0.2, 0.5
    return world


def rolled(world: World, seconds: float = 120.0) -> World:
    world.ask()
    world.run(world.reconciler(), seconds)
    return world


def took(world: World) -> float:
    return world.rollout().ended_at - world.rollout().started_at


def test_where_each_that_boots_is_too_much_for_the_cpu_one_boots_at_a_time() -> None:
    hasty, paced = rolled(a_world(pace=PacePolicy())), rolled(a_world())
    assert (hasty.most_booting, paced.most_booting) == (4, 1)
    assert took(hasty) < took(paced)
    for world in (hasty, paced):
        assert world.rollout().status is Status.DONE
        assert [len(process.releases) for process in world.processes.values()] == [1] * 6
        assert (world.lost, world.cold) == (0, 0)


def test_where_two_that_boot_are_bearable_two_do() -> None:
    world = a_world(pace=PacePolicy(cpu_pressure=50.0, patience=30.0))
    for process in world.processes.values():
        process.boot_takes = 3.0
    assert rolled(world).rollout().status is Status.DONE
    assert world.most_booting == 2


def test_a_pressure_that_never_falls_costs_time_and_not_the_rollout() -> None:
    calm, pressed = rolled(a_world(limit=1)), rolled(a_world(limit=1, cpu_steady=90.0))
    assert pressed.rollout().status is Status.DONE
    assert took(pressed) == pytest.approx(took(calm) + 6 * PACE.patience, rel=0.2)
    assert (pressed.lost, pressed.cold) == (0, 0)


def test_where_nobody_can_tell_the_pressure_the_rollout_goes_as_without_a_pace() -> None:
    world, hasty = rolled(a_world(cpu_steady=None)), rolled(a_world(pace=PacePolicy()))
    assert world.most_booting == 4
    assert took(world) == pytest.approx(took(hasty), abs=0.2)


def test_when_the_pressure_falls_the_next_leaves_at_once() -> None:
    world = a_world(limit=1, pace=PacePolicy(20.0, patience=600.0), cpu_steady=90.0)
    world.ask()
    reconciler = world.live(world.reconciler(), 60.0)
    assert rollout_view(world.mailbox.rollouts[GROUP], world.now)["paced"]
    assert not any(member.attempted for member in world.rollout().members)
    world.cpu_steady = 5.0
    reconciler = world.live(reconciler, 1.0)
    assert world.rollout().members[0].attempted
    world.run(reconciler, 120.0)
    assert world.rollout().status is Status.DONE
    assert not rollout_view(world.mailbox.rollouts[GROUP], world.now)["paced"]


def test_a_rollout_that_waits_for_the_cpu_can_be_paused_and_aborted() -> None:
    world = a_world(limit=1, pace=PacePolicy(20.0, patience=600.0), cpu_steady=90.0)
    world.ask()
    reconciler = world.live(world.reconciler(), 5.0)
    world.mailbox.flag(GROUP, paused=True)
    reconciler = world.live(reconciler, 5.0)
    assert not rollout_view(world.mailbox.rollouts[GROUP], world.now)["paced"]
    world.mailbox.flag(GROUP, aborting=True)
    world.run(reconciler, 5.0)
    assert world.rollout().status is Status.ABORTED
    assert not any(member.attempted for member in world.rollout().members)


def test_one_that_waits_for_the_cpu_and_for_room_in_turn_does_not_do_so_for_ever() -> None:
    """Another comes and goes all the while, quicker than the patience."""
    world = a_world(processes=3, limit=1, pace=PacePolicy(20.0, patience=10.0), cpu_steady=90.0)
    world.ask(processes=["app-1"])
    reconciler = world.reconciler()
    for _ in range(8):
        reconciler = world.live(reconciler, 3.0)
        world.crash("app-3")
    assert world.rollout().members[0].attempted
    world.run(reconciler, 60.0)
    assert world.rollout().status is Status.DONE


def test_one_that_crashes_while_the_rollout_waits_is_replaced_without_waiting() -> None:
    world = a_world(limit=1, pace=PacePolicy(20.0, patience=600.0), cpu_steady=90.0)
    world.processes["app-3"].state, world.processes["app-3"].pid = "FATAL", 0
    world.ask()
    world.live(world.reconciler(), 10.0)
    assert [member.name for member in world.rollout().members if member.replaced] == ["app-3"]


def test_the_reconciler_may_die_at_any_moment_of_a_rollout_that_waits_for_the_cpu() -> None:
    def busy(world: World) -> World:
        world.policy = fast_policy(max_unavailable=Share(number=2), pace=PacePolicy(20.0, patience=0.3))
        world.cpu_steady = 50.0
        return quick(world)

    whole = survived(busy(World(2)))
    end = end_of(whole)
    assert (end["status"], end["restarts"], end["harm"]) == (Status.DONE, [1, 1], (0, 0))
    assert took(whole) > 2 * 0.3
    for death in range(1, whole.operations + 1):
        assert end_of(survived(busy(Dying(2, death)))) == end, death


# --- is the set-up right?


def found(world: World) -> list[tuple[str, str, bool]]:
    request = world.ask("check")
    world.live(world.reconciler(), 0.5)
    return [(one["code"], one["text"], one["refuses"]) for one in request["plan"]["findings"]]


def test_a_check_says_where_the_pressure_cannot_be_read() -> None:
    ((code, text, refuses),) = found(a_world(cpu_steady=None))
    assert (code, refuses) == ("pace.unreadable", False)
    assert text.endswith("so that a rollout goes as without a pace")


def test_a_check_says_where_the_pressure_is_too_high_without_any_rollout() -> None:
    ((code, text, refuses),) = found(a_world(cpu_steady=42.4))
    assert (code, refuses) == ("pace.pressure", False)
    assert text.startswith("the pressure of the CPU is 42% now")
    assert "at 20% and above each leaves only after the patience of 3 s" in text


@pytest.mark.parametrize("steady", [None, 99.0])
def test_without_a_pace_no_check_asks_for_the_pressure(steady: float | None) -> None:
    assert found(a_world(pace=PacePolicy(), cpu_steady=steady)) == []


def test_below_the_pressure_there_is_no_finding() -> None:
    assert found(a_world(cpu_steady=19.9)) == []


# --- with the real supervisord


def test_under_pressure_the_next_waits_is_told_as_waiting_and_leaves_when_it_falls(
    light: Callable[..., Stack], tmp_path: Path
) -> None:
    with said(60.0, tmp_path) as pressure:
        stack = light(3, pace={"cpu_pressure": "20%", "patience": 600})
        with users(stack) as report:
            assert stack.ctl("rolling_restart", "app", "--no-wait").returncode == 0
            time.sleep(3.0)
            assert (rolling(stack)["paced"], rolling(stack)["replaced"]) == (True, 0)
            assert "the next waits for the CPU" in stack.ctl("rolling_status", "app").stdout
            pressure.percent = 5.0
            rollout = wait_ended(stack)
        assert (rollout["status"], rollout["replaced"], rollout["paced"]) == ("done", 3, False)
    assert_nobody_noticed(report())


def test_a_pressure_that_never_falls_holds_each_for_its_patience_and_no_longer(
    light: Callable[..., Stack], tmp_path: Path
) -> None:
    with said(60.0, tmp_path):
        stack = light(3, pace={"cpu_pressure": "20%", "patience": 2})
        assert "pace.pressure" in stack.ctl("rolling_check", "app").stdout
        done = stack.ctl("rolling_restart", "app", "--json")
    assert done.returncode == 0, done.stdout
    assert 6.0 < json.loads(done.stdout)["seconds"] < 30.0
