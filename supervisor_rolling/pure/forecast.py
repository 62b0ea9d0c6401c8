"""How long a roll will take, from how long the processes of the group took the last times.

The rolls before are what a forecast needs to know of drains, boots and warm-ups; how many go at once and how long each
settles is known of the roll itself. So that one odd roll does not count, the middle of the last few does.
"""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor_rolling.model import Roll
from supervisor_rolling.pure.names import natural

ROLLS = 5
"""The last rolls of a group that count."""

Cycles = Mapping[str, float]
"""For each process how many seconds it was away in one roll, its settling left out."""


def cycles(record: Mapping[str, Any]) -> Cycles:
    """Those of a record: of the processes that came back without a failure."""
    found = {process["name"]: _away(process) for process in record.get("processes", ())}
    return {name: seconds for name, seconds in found.items() if seconds > 0.0}


def _away(process: Mapping[str, Any]) -> float:
    """Seconds between leaving and being open for good; 0.0 where it did not come back, or not at the first try."""
    stages = process.get("stages", ())
    if process.get("failed") or not process.get("replaced") or len(stages) < 2 or stages[-1][0] != "open":
        return 0.0
    went_once = sum(stage == "open" for stage, _ in stages) == 1 and stages[0][0] != "failed"
    return float(max(0.0, stages[-1][1] - stages[0][1] - process.get("settled", 0.0))) if went_once else 0.0


def forecast(roll: Roll, before: Sequence[Cycles]) -> float:
    """Seconds that a roll will take; 0.0 where nothing is known of its group. ``before``: of the last rolls."""
    known: dict[str, list[float]] = {}
    for found in before[-ROLLS:]:
        for name, seconds in found.items():
            known.setdefault(name, []).append(seconds)
    if not known:
        return 0.0
    usual = statistics.median(seconds for found in known.values() for seconds in found)
    names = sorted((member.name for member in roll.members if member.wanted), key=natural)
    times = [(statistics.median(known[name]) if name in known else usual) + roll.policy.settle for name in names]
    return _makespan(times, roll.policy.canary, max(1, roll.limit))


def _makespan(times: Sequence[float], alone: int, limit: int) -> float:
    """Seconds until all are done, where the first few go one by one and then so many at a time."""
    first = sum(times[:alone])
    busy = [first] * min(limit, max(1, len(times[alone:])))
    for seconds in times[alone:]:
        heapq.heapreplace(busy, busy[0] + seconds)
    return max(busy)
