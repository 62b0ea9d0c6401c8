"""How long a rollout will take, as its forecast says."""

from __future__ import annotations

import random
from typing import Any

import pytest

from supervisor_rolling.codec import load
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.forecast import Cycles, cycles, forecast
from supervisor_rolling.core.policy import GatePolicy, Policy, PortRule
from supervisor_rolling.core.public_view import RolloutView
from supervisor_rolling.core.rollout import Member, Rollout
from tests.support.report_records import a_process
from tests.support.report_records import a_rollout as a_record_of


def a_rollout(processes: int = 4, limit: int = 1, canary: int = 1, min_ready_seconds: float = 0.0) -> Rollout:
    members = tuple(Member(f"app-{n}", (tcp(8000 + n),)) for n in range(1, processes + 1))
    return Rollout(
        7,
        "app",
        Policy("app", PortRule(), canary=canary, min_ready_seconds=min_ready_seconds),
        members,
        limit,
        GatePolicy(),
    )


def took(*seconds: float, limit: int = 1) -> Cycles:
    return Cycles(limit, {f"app-{n}": one for n, one in enumerate(seconds, start=1)})


def test_of_a_group_that_was_never_rolled_nothing_is_foretold() -> None:
    assert forecast(a_rollout(), []) == 0.0


def test_one_after_another_takes_the_sum() -> None:
    assert forecast(a_rollout(), [took(1.0, 2.0, 3.0, 4.0)]) == 10.0


def test_of_several_rollouts_the_middle_counts_so_that_an_odd_one_does_not() -> None:
    assert forecast(a_rollout(2), [took(1.0, 2.0), took(30.0, 2.0), took(1.2, 2.0)]) == pytest.approx(3.2)


def test_rollouts_with_as_many_at_once_count_before_others() -> None:
    before = [took(1.0, 1.0, 1.0), took(1.0, 1.0, 1.0), took(4.0, 2.0, 2.0, limit=2)]
    assert forecast(a_rollout(3, limit=2), before) == 4.0 + 2.0
    assert forecast(a_rollout(3, limit=3), before) == pytest.approx(2.0), "where there is none like it, all count"


def test_several_at_a_time_share_the_work_and_the_canary_goes_alone() -> None:
    assert forecast(a_rollout(5, limit=2), [took(3.0, 2.0, 2.0, 2.0, 2.0)]) == 3.0 + 4.0
    assert forecast(a_rollout(4, limit=2, canary=0), [took(2.0, 2.0, 2.0, 2.0)]) == 4.0
    assert forecast(a_rollout(2, limit=9, canary=9), [took(1.0, 2.0)]) == 3.0


def test_whoever_is_new_takes_as_long_as_the_others_usually_do() -> None:
    assert forecast(a_rollout(4), [took(1.0, 2.0, 3.0)]) == 8.0


def test_how_long_a_process_settles_is_that_of_this_rollout() -> None:
    assert forecast(a_rollout(2, min_ready_seconds=10.0), [took(1.0, 2.0)]) == 23.0


def a_record(limit: int = 1, **changes: Any) -> RolloutView:
    way = [["draining", 1.0], ["restarting", 1.5], ["warming", 2.0], ["ready", 3.0], ["open", 13.0]]
    process = {**a_process(1, 0.0, random.Random(1)), "name": "app-1", "stages": way, "ready": 10.0, **changes}
    return load(RolloutView, a_record_of(limit=limit, processes=[process]))


def test_cycle_is_the_time_away_without_the_ready_time() -> None:
    assert cycles(a_record()) == Cycles(1, {"app-1": 2.0})


@pytest.mark.parametrize(
    "changes",
    [
        {"failed": True},
        {"replaced": False},
        {"stages": []},
        {"stages": [["draining", 1.0], ["restarting", 1.5], ["failed", 2.0]]},
        {"stages": [["failed", 0.0], ["restarting", 1.5], ["warming", 2.0], ["open", 3.0]]},
        {"stages": [["draining", 1.0], ["open", 1.5], ["draining", 9.0], ["warming", 10.0], ["open", 11.0]]},
    ],
)
def test_who_failed_or_went_twice_tells_nothing(changes: dict[str, Any]) -> None:
    assert cycles(a_record(limit=2, **changes)) == Cycles(2, {})


@pytest.mark.parametrize("away", [1e14, -1e14, -3.0])
def test_no_clock_shows_such_a_time_so_it_is_not_foretold(away: float) -> None:
    way = [["draining", 1.0], ["warming", 2.0], ["open", 1.0 + away]]
    assert forecast(a_rollout(2), [cycles(a_record(stages=way, ready=0.0))]) == 0.0
