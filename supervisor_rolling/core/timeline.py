"""The course of a rollout, for whoever wants to see it afterwards: who was in which stage when, how many were
available.

Nothing is decided by it.

A process is in a stage from the look that found it there to the look that found it in the next. So one that supervisord
still calls STARTING is WARMING: its warm-up runs since there was a pid, and it is not opened before its startsecs are
over. The times of a process (``Timing``), the figures for Prometheus, and the bars and words of a report all mean this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from supervisor_rolling.core.rollout import Level, Member, Rollout, Step

MAX_STEPS = 50
"""Of one process. A rollout that is paused, or drained anew, a hundred times is no picture any more, and still a
rollout."""

MAX_LEVELS = 5000
"""Of one rollout: two for each of a thousand processes, and what crashes meanwhile."""

DIGITS = 3
"""Of a second: a look takes longer."""


StageName = TypeVar("StageName", bound=str)


def stays(steps: Sequence[tuple[StageName, float]]) -> Iterator[tuple[StageName, float, float]]:
    """Each stage that was entered and left, in order, with both moments."""
    for (stage, at), (_, left_at) in zip(steps, steps[1:]):
        yield stage, at, left_at


def noted(before: Member, after: Member, at: float) -> Member:
    """The member after a look, with the stage that it has entered."""
    if after.stage is before.stage or len(after.steps) >= MAX_STEPS:
        return after
    return replace(after, steps=(*after.steps, Step(after.stage, round(at, DIGITS))))


def levelled(rollout: Rollout, available: int, at: float) -> Rollout:
    """The rollout after a look that has found so many available."""
    rollout = replace(rollout, least_available=min(rollout.least_available, available))
    if (rollout.levels and rollout.levels[-1].available == available) or len(rollout.levels) >= MAX_LEVELS:
        return rollout
    return replace(rollout, levels=(*rollout.levels, Level(round(at, DIGITS), available)))


def rested(rollout: Rollout) -> float:
    """Seconds for which the rollout lay still between an end and ``rolling_resume``."""
    return sum(rest.end - rest.begin for rest in rollout.rests)


def begun_at(rollout: Rollout) -> float:
    """When the rollout began or, if it was resumed, when that was last."""
    return rollout.rests[-1].end if rollout.rests else rollout.started_at


def active(rollout: Rollout, now: float) -> float:
    """Seconds that the rollout has taken, without those for which it lay still."""
    return (rollout.ended_at or now) - rollout.started_at - rested(rollout)
