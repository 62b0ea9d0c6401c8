"""The course of a roll, for whoever wants to see it afterwards: who was in which stage when, how many were available.

Nothing is decided by it.

A process is in a stage from the look that found it there to the look that found it in the next. So one that supervisord
still calls STARTING is WARMING: its warm-up runs since there was a pid, and it is not opened before its startsecs are
over. The times of a process (``Timing``), the figures for Prometheus, and the bars and words of a report all mean this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from supervisor_rolling.core.model import Level, Member, Roll, Step

MOST_STEPS = 50
"""Of one process. A roll that is paused, or drained anew, a hundred times is no picture any more, and still a roll."""

MOST_LEVELS = 5000
"""Of one roll: two for each of a thousand processes, and what crashes meanwhile."""

DIGITS = 3
"""Of a second: a look takes longer."""


StageName = TypeVar("StageName", bound=str)


def stays(steps: Sequence[tuple[StageName, float]]) -> Iterator[tuple[StageName, float, float]]:
    """Each stage that was entered and left, in order, with both moments."""
    for (stage, at), (_, left_at) in zip(steps, steps[1:]):
        yield stage, at, left_at


def noted(before: Member, after: Member, at: float) -> Member:
    """The member after a look, with the stage that it has entered."""
    if after.stage is before.stage or len(after.steps) >= MOST_STEPS:
        return after
    return replace(after, steps=(*after.steps, Step(after.stage, round(at, DIGITS))))


def levelled(roll: Roll, available: int, at: float) -> Roll:
    """The roll after a look that has found so many available."""
    roll = replace(roll, least_available=min(roll.least_available, available))
    if (roll.levels and roll.levels[-1].available == available) or len(roll.levels) >= MOST_LEVELS:
        return roll
    return replace(roll, levels=(*roll.levels, Level(round(at, DIGITS), available)))


def rested(roll: Roll) -> float:
    """Seconds for which the roll lay still between an end and ``rolling_resume``."""
    return sum(rest.end - rest.begin for rest in roll.rests)


def begun_at(roll: Roll) -> float:
    """When the roll began or, if it was resumed, when that was last."""
    return roll.rests[-1].end if roll.rests else roll.started_at


def active(roll: Roll, now: float) -> float:
    """Seconds that the roll has taken, without those for which it lay still."""
    return (roll.ended_at or now) - roll.started_at - rested(roll)
