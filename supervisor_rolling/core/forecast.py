"""How long a rollout will take, from how long the processes of the group took the last times.

The new rollout is simulated with the durations of each of the last few rollouts; the forecast is the median, so that
one outlier does not count. How many processes boot at once changes how long they take, so rollouts with the same limit
are preferred."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.core.public_view import MemberView, RolloutView
from supervisor_rolling.core.rollout import Rollout, Stage

MAX_ROLLOUTS = 10
"""The last rollouts of a group that are kept for it."""

MAX_COUNTED = 5
"""The last of these that count: older code may have been slower, or quicker."""

LONGEST = 7 * 86400.0
"""Seconds that a process may have been away in a record: what is longer was not written by this program."""


@dataclass(frozen=True)
class Cycles:
    """How long the processes of a group were away in one rollout."""

    limit: int  # how many were away at once
    away: Mapping[str, float]  # seconds of each process, without its min_ready_seconds


def cycles(record: RolloutView) -> Cycles:
    """Those of a record, of the processes that were replaced without a failure."""
    found = {process.name: _away(process) for process in record.processes}
    return Cycles(record.limit, {name: away for name, away in found.items() if 0.0 < away < LONGEST})


def _away(process: MemberView) -> float:
    """Seconds between leaving and being open for good; 0.0 where it was not replaced, or not at the first attempt."""
    stages = [stage for stage, _ in process.stages]
    if process.failed or not process.replaced or len(stages) < 2 or stages[-1] is not Stage.OPEN:
        return 0.0
    went_once = stages.count(Stage.OPEN) == 1 and Stage.FAILED not in stages
    return max(0.0, process.stages[-1].at - process.stages[0].at - process.ready) if went_once else 0.0


def forecast(rollout: Rollout, before: Sequence[Cycles]) -> float:
    """Seconds that a rollout will take; 0.0 where nothing is known of its group. ``before``: of the last rollouts."""
    known = [one for one in before if one.away]
    alike = [one for one in known if one.limit == rollout.limit]
    simulated = [_simulated(rollout, one) for one in (alike or known)[-MAX_COUNTED:]]
    return statistics.median(simulated) if simulated else 0.0


def _simulated(rollout: Rollout, before: Cycles) -> float:
    """Seconds that it would take as the one before went. A process that was not in that one takes their average."""
    names = sorted((member.name for member in rollout.members if member.selected), key=natural)
    average = statistics.mean(before.away.values())
    times = [before.away.get(name, average) + rollout.policy.min_ready_seconds for name in names]
    return _makespan(times, rollout.policy.canary, max(1, rollout.limit))


def _makespan(times: Sequence[float], alone: int, limit: int) -> float:
    """Seconds until all are done, where the first few go one by one and then so many at a time."""
    first = sum(times[:alone])
    busy = [first] * min(limit, max(1, len(times[alone:])))
    for seconds in times[alone:]:
        heapq.heapreplace(busy, busy[0] + seconds)
    return max(busy)
