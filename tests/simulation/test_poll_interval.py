"""How long the reconciler waits until it observes again."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.core.poll_interval import (
    DRAIN_POLL,
    DRAIN_SHARE,
    GATE_POLL,
    IDLE_POLL,
    LOCK_POLL,
    MARGIN,
    MAX_DRAIN_POLL,
    RESTART_POLL,
    WAIT_POLL,
    WARMUP_POLL,
    gate_interval,
    poll_interval,
)
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Status
from tests.simulation.world import GROUP, fast_policy

NOW = 100.0


def a_rollout(*stages: Stage, age: float = 0.0, least: float = 0.0) -> Rollout:
    """``age``: seconds for which each has been in its stage; ``least``: that it must drain."""
    policy = fast_policy()
    policy = replace(policy, min_ready_seconds=10.0, drain=replace(policy.drain, timeout=30.0, min_seconds=least))
    members = [Member(f"app-{n}", (tcp(8000 + n),), stage=stage, since=NOW - age) for n, stage in enumerate(stages)]
    return Rollout(1, GROUP, policy, tuple(members), 1, GatePolicy())


def paused(rollout: Rollout, *processes: Process, closed_for: float = 1000.0) -> float:
    """``closed_for``: seconds since which all gates are closed."""
    closed = {one: NOW - closed_for for member in rollout.members for one in member.endpoints}
    return poll_interval(
        rollout, None, Observation(NOW, {process.name: process for process in processes}, closed=closed)
    )


@pytest.mark.parametrize(
    ("age", "seconds"),
    [
        (0.0, DRAIN_POLL),
        (DRAIN_POLL / DRAIN_SHARE, DRAIN_POLL),
        (0.2, 0.2 * DRAIN_SHARE),
        (1.0, MAX_DRAIN_POLL),
        (25.0, MAX_DRAIN_POLL),
        (29.95, 0.05),
        (29.99, DRAIN_POLL),
        (31.0, MAX_DRAIN_POLL),
    ],
)
def test_drain_poll_grows_until_timeout(age: float, seconds: float):
    assert paused(a_rollout(Stage.OPEN, Stage.DRAINING, age=age)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("age", "seconds"), [(4.0, MAX_DRAIN_POLL), (4.95, 0.05), (4.99, DRAIN_POLL), (6.0, MAX_DRAIN_POLL)]
)
def test_drain_poll_meets_min_seconds(age: float, seconds: float):
    assert paused(a_rollout(Stage.DRAINING, age=age, least=5.0)) == pytest.approx(seconds)


def test_drain_poll_counts_from_closed_gate():
    old = a_rollout(Stage.DRAINING, age=20.0)
    assert paused(old, closed_for=0.2) == pytest.approx(0.2 * DRAIN_SHARE)
    assert poll_interval(old, None, Observation(NOW, {})) == DRAIN_POLL  # it is not known to be closed


def test_poll_meets_end_of_min_ready_seconds():
    assert paused(a_rollout(Stage.READY, age=9.9)) == pytest.approx(0.1 + MARGIN)
    assert paused(a_rollout(Stage.READY, age=9.0)) == WAIT_POLL
    assert paused(a_rollout(Stage.READY, age=11.0)) == WAIT_POLL  # it waits for something else


def test_shortest_interval_counts():
    old = a_rollout(Stage.DRAINING, Stage.RESTARTING, Stage.WARMING, Stage.READY, age=20.0)
    old = replace(old, policy=replace(old.policy, drain=replace(old.policy.drain, timeout=0.5)))
    young = replace(old.members[1], since=NOW)
    assert paused(replace(old, members=(old.members[0], young, *old.members[2:]))) == RESTART_POLL
    young = replace(old.members[0], since=NOW)
    assert paused(replace(old, members=(young, *old.members[1:]))) == DRAIN_POLL
    assert paused(replace(old, members=old.members[2:])) == WARMUP_POLL
    assert paused(replace(old, members=old.members[3:])) == WAIT_POLL


@pytest.mark.parametrize(
    ("age", "seconds"), [(0.0, RESTART_POLL), (2.0, RESTART_POLL), (10.0, 0.2), (3000.0, WAIT_POLL)]
)
def test_restart_poll_grows_while_a_process_stops(age: float, seconds: float):
    assert paused(a_rollout(Stage.RESTARTING, age=age)) == pytest.approx(seconds)


def test_new_process_has_the_shortest_restart_poll():
    old = a_rollout(Stage.RESTARTING, age=3000.0)
    started = replace(old.members[0], stopped_at=NOW - 0.1)
    assert paused(replace(old, members=(started,))) == RESTART_POLL


@pytest.mark.parametrize(
    ("age", "seconds"), [(0.0, DRAIN_POLL), (1.0, 0.25), (20.0, WAIT_POLL), (29.8, 0.2), (31.0, WAIT_POLL)]
)
def test_poll_of_worker_that_finishes_grows_until_timeout(age: float, seconds: float):
    old = a_rollout(Stage.DRAINING, age=age)
    without_port = replace(old.members[0], endpoints=())
    assert paused(replace(old, members=(without_port,))) == pytest.approx(seconds)


def test_poll_meets_end_of_startsecs():
    starting = Process("app-0", "STARTING", 7, running_in=0.03)
    assert paused(a_rollout(Stage.WARMING), starting) == pytest.approx(0.03 + MARGIN)
    assert paused(a_rollout(Stage.DRAINING, age=25.0), starting) == MAX_DRAIN_POLL  # of no interest to that one
    guard_state = GuardState(
        GROUP, fast_policy(), GatePolicy(), (GuardedProcess("app-0", (tcp(8000),), Stage.WARMING, NOW),)
    )
    assert poll_interval(None, guard_state, Observation(NOW, {"app-0": starting})) == pytest.approx(0.03 + MARGIN)
    assert (
        poll_interval(None, guard_state, Observation(NOW, {"app-0": replace(starting, running_in=9.0)})) == WARMUP_POLL
    )
    assert (
        poll_interval(None, guard_state, Observation(NOW, {"app-0": replace(starting, state="RUNNING")})) == WAIT_POLL
    )


def test_overdue_retry_does_not_shorten_poll():
    overdue = GuardedProcess("app-1", (tcp(8001),), Stage.FAILED, NOW - 20.0, pid=1, tries=1, retry_at=NOW - 1.0)
    soon = replace(overdue, name="app-2", retry_at=NOW + 2.0)
    guard_state = GuardState(GROUP, fast_policy(), GatePolicy(), (overdue,))
    assert poll_interval(None, guard_state, Observation(NOW, {})) == IDLE_POLL
    assert poll_interval(None, replace(guard_state, guarded=(overdue, soon)), Observation(NOW, {})) == 2.0


def test_ended_rollout_polls_gate_only():
    done = replace(a_rollout(Stage.OPEN, Stage.FAILED), status=Status.FAILED)
    assert paused(done) == IDLE_POLL
    assert (gate_interval(True, False), gate_interval(False, False)) == (GATE_POLL, math.inf)
    assert gate_interval(False, True) == LOCK_POLL
