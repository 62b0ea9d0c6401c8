"""The course of a rollout: every stage of every process with its moment, and how many were available."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from supervisor_rolling.codec import struct_of
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.metrics_snapshot import group_metrics
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import GatePolicy, Policy, PortRule
from supervisor_rolling.core.public_view import Detail, rollout_view
from supervisor_rolling.core.rollout import Interruption, Level, Member, Rollout, Stage, Step
from supervisor_rolling.core.timeline import (
    MAX_LEVELS,
    MAX_STEPS,
    active,
    interrupted_for,
    noted,
    stays,
    with_availability,
)
from supervisor_rolling.ctl.report_record import read
from supervisor_rolling.ctl.report_words import words
from tests.simulation.world import World

MEMBER = Member("app-1", (tcp(8001),))
ROLLOUT = Rollout(1, "app", Policy("app", PortRule()), (MEMBER,), 1, GatePolicy(), min_available=3)
WAY = [Stage.DRAINING, Stage.RESTARTING, Stage.WARMING, Stage.READY, Stage.OPEN]


def a_rollout(world: World, **details: Any) -> Rollout:
    """The rollout of a world, when it has ended."""
    world.ask(**details)
    world.run(world.reconciler())
    return world.rollout()


def stages(member: Member) -> list[Stage]:
    return [step.stage for step in member.steps]


def test_stage_is_noted_once() -> None:
    draining = replace(MEMBER, stage=Stage.DRAINING)
    entered = noted(MEMBER, draining, 1000.12345)
    assert entered.steps == (Step(Stage.DRAINING, 1000.123),)
    assert noted(entered, entered, 1001.0) == entered


def test_steps_are_bounded() -> None:
    member = MEMBER
    for number in range(2 * MAX_STEPS):
        stage = Stage.DRAINING if member.stage is Stage.OPEN else Stage.OPEN
        member = noted(member, replace(member, stage=stage), float(number))
    assert len(member.steps) == MAX_STEPS


def test_level_is_noted_when_it_changes() -> None:
    rollout = with_availability(with_availability(with_availability(ROLLOUT, 3, 1000.0), 3, 1001.0), 2, 1002.0)
    assert rollout.levels == (Level(1000.0, 3), Level(1002.0, 2))
    assert rollout.min_available == 2
    assert with_availability(rollout, 3, 1003.0).min_available == 2


def test_levels_are_bounded_and_least_is_not() -> None:
    full = replace(ROLLOUT, levels=tuple(Level(float(n), n % 2 + 5) for n in range(MAX_LEVELS)))
    assert with_availability(full, 1, 9999.0).levels == full.levels
    assert with_availability(full, 1, 9999.0).min_available == 1


def test_rest_before_resume_is_not_active() -> None:
    interruptions = (Interruption(1010.0, 1100.0, "failed"), Interruption(1120.0, 1121.0, ""))
    rollout = replace(ROLLOUT, started_at=1000.0, ended_at=1130.0, interruptions=interruptions)
    assert (active(rollout, 9999.0), interrupted_for(rollout)) == (39.0, 91.0)
    assert active(replace(rollout, ended_at=0.0), 1140.0) == 49.0


# --- in the simulated world


def test_process_has_its_stages_with_moments() -> None:
    rollout = a_rollout(World(3))
    for member in rollout.members:
        assert stages(member) == WAY
        moments = [step.at for step in member.steps]
        assert moments == sorted(moments)


def test_times_metrics_bars_and_words_agree() -> None:
    world = World(3, min_ready_seconds=1.0)
    for process in world.processes.values():
        process.startsecs, process.stop_takes = 2.0, 0.8  # warm after 0.3 s, and STARTING for long after that
    rollout = a_rollout(world)
    counted = group_metrics((begun(rollout), None), (rollout, None), Observation(world.now, {}), 0).stage_seconds
    shown = read(struct_of(rollout_view(rollout, world.now, Detail.COURSE)))["processes"]
    for number, (member, process) in enumerate(zip(rollout.members, shown)):
        took = {stage.value: end - at for stage, at, end in stays(member.steps)}
        assert list(took) == [stage.value for stage in WAY[:-1]]
        assert took["warming"] == pytest.approx(2.0, abs=0.1)
        timing = member.timing
        known = [timing.drained, timing.stopped + timing.started, timing.warmed, timing.ready]
        assert known == pytest.approx(list(took.values()), abs=0.002)
        assert counted[4 * number : 4 * number + 4] == tuple(took.items())
        bars = {span.stage: span.seconds for span in process["spans"] if span.stage != "open"}
        assert bars == pytest.approx(took, abs=0.002)
        printed = re.findall(r"(\w+) (\d+(?:\.\d)?) s", words(process, "done"))
        assert [word for word, _ in printed] == ["drained", "stopped", "warmed", "ready"]
        assert [float(seconds) for _, seconds in printed] == pytest.approx(list(took.values()), abs=0.051)


def begun(rollout: Rollout) -> Rollout:
    """The rollout before any member left OPEN."""
    return replace(rollout, members=tuple(replace(member, steps=()) for member in rollout.members))


def test_level_is_one_less_while_each_restarts() -> None:
    rollout = a_rollout(World(3))
    assert [level.available for level in rollout.levels] == [3, 2, 3]  # the next one leaves when the last is back
    assert min(level.available for level in rollout.levels) == rollout.min_available == 2


def test_next_listener_continues_the_timeline() -> None:
    world = World(3)
    world.kill_after = 60
    rollout = a_rollout(world)
    assert "KILLED" in world.log
    assert [stages(member)[-1] for member in rollout.members] == [Stage.OPEN] * 3
    assert all(len(stages(member)) >= len(WAY) for member in rollout.members)


def test_resumed_rollout_keeps_times_and_marks_rest() -> None:
    world = World(3)
    world.processes["app-2"].deploy = {"warms": "failed"}
    first = a_rollout(world)
    assert stages(first.members[1]) == [*WAY[:3], Stage.FAILED]
    world.processes["app-2"].deploy = {"warms": "warm"}
    world.pass_time(100.0)
    second = a_rollout(world, kind="resume")
    (rest,) = second.interruptions
    assert (rest.begin, rest.why) == (first.ended_at, first.why)
    assert rest.end - rest.begin >= 100.0
    assert (second.began, second.started_at) == (first.began, first.started_at)
    assert active(second, second.ended_at) == pytest.approx(
        second.ended_at - first.started_at - (rest.end - rest.begin)
    )
    assert second.levels[: len(first.levels)] == first.levels
    assert second.members[1].steps[: len(first.members[1].steps)] == first.members[1].steps
    assert stages(second.members[0]) == WAY
    assert stages(second.members[1])[-4:] == WAY[1:]
    moments = [step.at for member in second.members for step in member.steps]
    assert not [at for at in moments if rest.begin + 0.01 < at < rest.end - 0.01]
