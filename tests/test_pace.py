"""Rolls on a host whose processors are busy: how many boot at a time, how long that takes, and that it ends."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor_rolling.in_supervisord.views import roll_view
from supervisor_rolling.model import GuardPolicy, PacePolicy, Share, Stage, Status, WarmupPolicy
from tests.lab.look import assert_nobody_noticed, listener_pid, refuses, rolling, users, wait_ended, wait_stage
from tests.lab.pressure import said
from tests.lab.stack import Stack
from tests.test_roller import Dying, end_of, quick, survived
from tests.world import GROUP, World, fast_policy

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
    world.run(world.roller(), seconds)
    return world


def took(world: World) -> float:
    return world.roll().ended_at - world.roll().started_at


def test_where_each_that_boots_is_too_much_for_the_cpu_one_boots_at_a_time() -> None:
    hasty, paced = rolled(a_world(pace=PacePolicy())), rolled(a_world())
    assert (hasty.most_booting, paced.most_booting) == (4, 1)
    assert took(hasty) < took(paced)
    for world in (hasty, paced):
        assert world.roll().status is Status.DONE
        assert [len(process.releases) for process in world.processes.values()] == [1] * 6
        assert (world.lost, world.cold) == (0, 0)


def test_where_two_that_boot_are_bearable_two_do() -> None:
    world = a_world(pace=PacePolicy(cpu_pressure=50.0, patience=30.0))
    for process in world.processes.values():
        process.boot_takes = 3.0
    assert rolled(world).roll().status is Status.DONE
    assert world.most_booting == 2


def test_a_pressure_that_never_falls_costs_time_and_not_the_roll() -> None:
    calm, pressed = rolled(a_world(limit=1)), rolled(a_world(limit=1, cpu_steady=90.0))
    assert pressed.roll().status is Status.DONE
    assert took(pressed) == pytest.approx(took(calm) + 6 * PACE.patience, rel=0.2)
    assert (pressed.lost, pressed.cold) == (0, 0)


def test_where_nobody_can_tell_the_pressure_the_roll_goes_as_without_a_pace() -> None:
    world, hasty = rolled(a_world(cpu_steady=None)), rolled(a_world(pace=PacePolicy()))
    assert world.most_booting == 4
    assert took(world) == pytest.approx(took(hasty), abs=0.2)


def test_when_the_pressure_falls_the_next_leaves_at_once() -> None:
    world = a_world(limit=1, pace=PacePolicy(20.0, patience=600.0), cpu_steady=90.0)
    world.ask()
    roller = world.live(world.roller(), 60.0)
    assert roll_view(world.mailbox.rolls[GROUP], world.now)["paced"]
    assert not any(member.tried for member in world.roll().members)
    world.cpu_steady = 5.0
    roller = world.live(roller, 1.0)
    assert world.roll().members[0].tried
    world.run(roller, 120.0)
    assert world.roll().status is Status.DONE
    assert not roll_view(world.mailbox.rolls[GROUP], world.now)["paced"]


def test_a_roll_that_waits_for_the_cpu_can_be_paused_and_aborted() -> None:
    world = a_world(limit=1, pace=PacePolicy(20.0, patience=600.0), cpu_steady=90.0)
    world.ask()
    roller = world.live(world.roller(), 5.0)
    world.mailbox.flag(GROUP, paused=True)
    roller = world.live(roller, 5.0)
    assert not roll_view(world.mailbox.rolls[GROUP], world.now)["paced"]
    world.mailbox.flag(GROUP, aborting=True)
    world.run(roller, 5.0)
    assert world.roll().status is Status.ABORTED
    assert not any(member.tried for member in world.roll().members)


def test_one_that_waits_for_the_cpu_and_for_room_in_turn_does_not_do_so_for_ever() -> None:
    """Another comes and goes all the while, quicker than the patience."""
    world = a_world(processes=3, limit=1, pace=PacePolicy(20.0, patience=10.0), cpu_steady=90.0)
    world.ask(processes=["app-1"])
    roller = world.roller()
    for _ in range(8):
        roller = world.live(roller, 3.0)
        world.crash("app-3")
    assert world.roll().members[0].tried
    world.run(roller, 60.0)
    assert world.roll().status is Status.DONE


def test_one_that_crashes_while_the_roll_waits_is_replaced_without_waiting() -> None:
    world = a_world(limit=1, pace=PacePolicy(20.0, patience=600.0), cpu_steady=90.0)
    world.processes["app-3"].state, world.processes["app-3"].pid = "FATAL", 0
    world.ask()
    world.live(world.roller(), 10.0)
    assert [member.name for member in world.roll().members if member.replaced] == ["app-3"]


def test_the_roller_may_die_at_any_moment_of_a_roll_that_waits_for_the_cpu() -> None:
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


# --- who is new boots on what others leave

IDLE = PacePolicy(patience=3.0, cpu_scheduling="idle")


def an_idle_world(processes: int = 3, **changes: object) -> World:
    world = a_world(processes, limit=1, pace=IDLE)
    world.policy = replace(world.policy, **changes)  # type: ignore[arg-type]
    return world


def idle_now(world: World) -> set[str]:
    """Who boots so, by name."""
    return {process.name for process in world.processes.values() if process.pid in world.idle}


def test_who_is_new_boots_on_what_others_leave_and_has_its_share_when_it_serves() -> None:
    world = an_idle_world()
    world.ask()
    roller = world.roller()
    seen: list[str] = []
    while not seen or rolls(world):
        roller = world.live(roller, 0.05)
        warming = {member.name for member in world.roll().members if member.stage is Stage.WARMING}
        assert idle_now(world) == warming
        seen += [name for name in sorted(warming) if name not in seen]
    assert seen == ["app-1", "app-2", "app-3"]
    assert world.was_idle == {pid for process in world.processes.values() for pid in process.releases}
    assert_all_have_their_share(world)


def rolls(world: World) -> bool:
    return world.roll().status is Status.RUNNING


def assert_all_have_their_share(world: World) -> None:
    assert (idle_now(world), world.open_while_idle, world.cold) == (set(), 0, 0)


def test_without_being_told_to_nobody_does() -> None:
    assert rolled(a_world()).was_idle == set()


def test_on_a_host_that_leaves_nothing_the_boot_has_its_share_after_the_patience() -> None:
    world = an_idle_world(1, pace=replace(IDLE, patience=1.0), warmup=WarmupPolicy(timeout=5.0))
    world.processes["app-1"].deploy = {"boot_takes": 3.0}
    world.ask(force=True)
    roller = world.live(world.roller(), 0.8)
    assert idle_now(world) == {"app-1"}
    roller = world.live(roller, 1.0)
    assert (idle_now(world), world.roll().members[0].stage) == (set(), Stage.WARMING)
    world.run(roller, 10.0)
    assert world.roll().status is Status.DONE
    assert_all_have_their_share(world)


@pytest.mark.parametrize("has_guard", [True, False])
def test_one_that_fails_is_left_with_its_share(has_guard: bool) -> None:
    world = an_idle_world(guard=GuardPolicy(enabled=has_guard))
    world.processes["app-1"].deploy = {"warms": "GET / answered 500"}
    assert rolled(world).roll().status is Status.FAILED
    assert world.was_idle
    assert_all_have_their_share(world)


def test_after_an_abort_all_have_their_share() -> None:
    world = an_idle_world()
    world.ask()
    roller = world.live(world.roller(), 0.8)
    assert idle_now(world) == {"app-1"}
    world.mailbox.flag(GROUP, aborting=True)
    world.run(roller, 10.0)
    assert world.roll().status is Status.ABORTED
    assert_all_have_their_share(world)


def test_a_listener_that_ends_gives_back_before_it_opens() -> None:
    world = an_idle_world()
    world.ask()
    roller = world.live(world.roller(), 0.8)
    assert idle_now(world) == {"app-1"}
    world.log.clear()
    roller.release()
    assert [what for what in world.log if what in ("schedule", "hold")] == ["schedule", "hold"]
    assert idle_now(world) == set()


@pytest.mark.parametrize("has_guard", [True, False])
def test_another_listener_gives_back_what_one_that_was_killed_left_after_a_roll(has_guard: bool) -> None:
    world = an_idle_world(guard=GuardPolicy(enabled=has_guard))
    assert rolled(world).roll().status is Status.DONE
    world.idle = {world.processes["app-2"].pid, 7777}
    world.live(world.roller(), 0.1)
    assert world.idle == {7777}


def test_the_roller_may_die_at_any_moment_and_nobody_is_opened_before_he_has_his_share() -> None:
    def idle(world: World) -> World:
        world.policy = fast_policy(max_unavailable=Share(number=2), pace=IDLE)
        return quick(world)

    whole = survived(idle(World(2)))
    end = end_of(whole)
    assert (end["status"], len(whole.was_idle)) == (Status.DONE, 2)
    for death in range(1, whole.operations + 1):
        world = survived(idle(Dying(2, death)))
        assert end_of(world) == end, death
        assert_all_have_their_share(world)


# --- is the set-up right?


def found(world: World) -> list[tuple[str, str, bool]]:
    request = world.ask("check")
    world.live(world.roller(), 0.5)
    return [(one["code"], one["text"], one["refuses"]) for one in request["plan"]["findings"]]


def test_a_check_says_where_the_pressure_cannot_be_read() -> None:
    ((code, text, refuses),) = found(a_world(cpu_steady=None))
    assert (code, refuses) == ("pace.unreadable", False)
    assert text.endswith("so that a roll goes as without a pace")


def test_a_check_says_where_the_pressure_is_too_high_without_any_roll() -> None:
    ((code, text, refuses),) = found(a_world(cpu_steady=42.4))
    assert (code, refuses) == ("pace.pressure", False)
    assert text.startswith("the pressure of the CPU is 42% now")
    assert "at 20% and above each leaves only after the patience of 3 s" in text


@pytest.mark.parametrize("steady", [None, 99.0])
def test_without_a_pace_no_check_asks_for_the_pressure(steady: float | None) -> None:
    assert found(a_world(pace=PacePolicy(), cpu_steady=steady)) == []


def test_below_the_pressure_there_is_no_finding() -> None:
    assert found(a_world(cpu_steady=19.9)) == []


def test_a_check_says_where_a_share_could_not_be_given_back() -> None:
    world = an_idle_world()
    world.cannot_schedule = "no process could be given it back without CAP_SYS_NICE"
    ((code, text, refuses_),) = found(world)
    assert (code, refuses_) == ("pace.scheduling", False)
    assert text == f"{world.cannot_schedule}, so that new processes boot at equal rank with those that serve"
    world.cannot_schedule = ""
    assert found(world) == []


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
            roll = wait_ended(stack)
        assert (roll["status"], roll["replaced"], roll["paced"]) == ("done", 3, False)
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


def scheduled(pid: int) -> set[int]:
    """Under which policies the threads of a process are."""
    return {os.sched_getscheduler(int(thread)) for thread in os.listdir(f"/proc/{pid}/task")}


def boots_idle(stack: Stack, port: int) -> int:
    """Wait until the new process of this port does. Its pid."""
    pid = int(wait_stage(stack, "warming", f"app-{port}")["pid"])
    stack.wait_until(lambda: scheduled(pid) == {os.SCHED_IDLE}, 5.0, f"{pid} boots idle")
    return pid


def serves(stack: Stack, port: int, pid: int) -> set[int]:
    """Wait until it does. Its policies then."""
    stack.wait_until(lambda: not refuses(port), 30.0, f"port {port} is open")
    return scheduled(pid)


def test_who_is_new_boots_idle_and_serves_as_the_others(light: Callable[..., Stack]) -> None:
    stack = light(2, pace={"cpu_scheduling": "idle", "patience": 20})
    assert "CAP_SYS_NICE" not in stack.ctl("rolling_check", "app").stdout
    old = {process.pid for process in stack.processes()}
    stack.fault("slow 1")
    with users(stack) as report:
        assert stack.ctl("rolling_restart", "app", "--no-wait").returncode == 0
        for port in (8000, 8001):
            pid = boots_idle(stack, port)
            assert pid not in old
            assert serves(stack, port, pid) == {os.SCHED_OTHER}
        assert wait_ended(stack)["status"] == "done"
    assert_nobody_noticed(report())


def test_the_next_listener_gives_back_what_one_that_was_killed_in_a_warm_up_took(light: Callable[..., Stack]) -> None:
    stack = light(2, pace={"cpu_scheduling": "idle", "patience": 20})
    stack.fault("slow 4")
    assert stack.ctl("rolling_restart", "app", "--no-wait").returncode == 0
    pid = boots_idle(stack, 8000)
    listener = listener_pid(stack)
    os.kill(listener, signal.SIGKILL)
    stack.wait_until(lambda: listener_pid(stack) not in (0, listener), 10.0, "another listener is there")
    assert scheduled(pid) == {os.SCHED_IDLE}
    assert serves(stack, 8000, pid) == {os.SCHED_OTHER}
    stack.fault()
    assert wait_ended(stack)["status"] == "done"


def test_a_listener_that_is_stopped_gives_back_what_it_took(light: Callable[..., Stack]) -> None:
    stack = light(2, pace={"cpu_scheduling": "idle", "patience": 20})
    stack.fault("slow 3")
    assert stack.ctl("rolling_restart", "app", "--no-wait").returncode == 0
    pid = boots_idle(stack, 8000)
    stack.ctl("stop", "rolling")
    assert scheduled(pid) == {os.SCHED_OTHER}
