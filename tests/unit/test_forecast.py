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


def test_first_rollout_has_no_forecast() -> None:
    assert forecast(a_rollout(), []) == 0.0


def test_forecast_of_one_by_one_is_sum() -> None:
    assert forecast(a_rollout(), [took(1.0, 2.0, 3.0, 4.0)]) == 10.0


def test_forecast_is_the_median() -> None:
    assert forecast(a_rollout(2), [took(1.0, 2.0), took(30.0, 2.0), took(1.2, 2.0)]) == pytest.approx(3.2)


def test_rollouts_with_same_limit_count_first() -> None:
    before = [took(1.0, 1.0, 1.0), took(1.0, 1.0, 1.0), took(4.0, 2.0, 2.0, limit=2)]
    assert forecast(a_rollout(3, limit=2), before) == 4.0 + 2.0
    assert forecast(a_rollout(3, limit=3), before) == pytest.approx(2.0), "where there is none like it, all count"


def test_forecast_knows_limit_and_canary() -> None:
    assert forecast(a_rollout(5, limit=2), [took(3.0, 2.0, 2.0, 2.0, 2.0)]) == 3.0 + 4.0
    assert forecast(a_rollout(4, limit=2, canary=0), [took(2.0, 2.0, 2.0, 2.0)]) == 4.0
    assert forecast(a_rollout(2, limit=9, canary=9), [took(1.0, 2.0)]) == 3.0


def test_new_process_takes_the_average() -> None:
    assert forecast(a_rollout(4), [took(1.0, 2.0, 3.0)]) == 8.0


def test_forecast_uses_present_min_ready_seconds() -> None:
    assert forecast(a_rollout(2, min_ready_seconds=10.0), [took(1.0, 2.0)]) == 23.0


def a_record(limit: int = 1, **changes: Any) -> RolloutView:
    way = [["draining", 1.0], ["restarting", 1.5], ["warming", 2.0], ["ready", 3.0], ["open", 13.0]]
    process = {**a_process(1, 0.0, random.Random(1)), "name": "app-1", "stages": way, "ready": 10.0, **changes}
    return load(RolloutView, a_record_of(limit=limit, processes=[process]))


def test_cycle_is_time_away_without_ready() -> None:
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
def test_failed_or_repeated_process_is_ignored(changes: dict[str, Any]) -> None:
    assert cycles(a_record(limit=2, **changes)) == Cycles(2, {})


@pytest.mark.parametrize("away", [1e14, -1e14, -3.0])
def test_impossible_times_are_ignored(away: float) -> None:
    way = [["draining", 1.0], ["warming", 2.0], ["open", 1.0 + away]]
    assert forecast(a_rollout(2), [cycles(a_record(stages=way, ready=0.0))]) == 0.0
