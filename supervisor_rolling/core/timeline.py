"""The course of a rollout, to be seen afterwards: which process was in which stage when, how many were available.

Nothing is decided by it. A process is in a stage from the observation that found it there to the one that found it in
the next. So one that supervisord still calls STARTING is WARMING: its warm-up runs since there was a pid, and it is not
opened before its startsecs are over. ``Timing``, the metrics, and the bars and words of a report all mean this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from supervisor_rolling.core.rollout import Level, Member, Rollout, Step

MAX_STEPS = 50
"""Stages of one process that are recorded: a report of more would not be readable."""

MAX_LEVELS = 5000
"""Changes of availability of one rollout that are recorded: two for each of a thousand processes, and some crashes."""

DIGITS = 3
"""Decimal places of a second; one observation takes longer than a millisecond."""

StageName = TypeVar("StageName", bound=str)


def stays(steps: Sequence[tuple[StageName, float]]) -> Iterator[tuple[StageName, float, float]]:
    """Each stage that was entered and left, in order, with both moments."""
    for (stage, at), (_, left_at) in zip(steps, steps[1:]):
        yield stage, at, left_at


def noted(before: Member, after: Member, at: float) -> Member:
    """The member after an observation, with the stage that it has entered."""
    if after.stage is before.stage or len(after.steps) >= MAX_STEPS:
        return after
    return replace(after, steps=(*after.steps, Step(after.stage, round(at, DIGITS))))


def with_availability(rollout: Rollout, available: int, at: float) -> Rollout:
    """The rollout after an observation that has found so many available."""
    rollout = replace(rollout, min_available=min(rollout.min_available, available))
    if (rollout.levels and rollout.levels[-1].available == available) or len(rollout.levels) >= MAX_LEVELS:
        return rollout
    return replace(rollout, levels=(*rollout.levels, Level(round(at, DIGITS), available)))


def interrupted_for(rollout: Rollout) -> float:
    """Seconds between the ends of the rollout and its ``rolling_resume``."""
    return sum(rest.end - rest.begin for rest in rollout.interruptions)


def last_started_at(rollout: Rollout) -> float:
    """When the rollout began or, if it was resumed, when that was last."""
    return rollout.interruptions[-1].end if rollout.interruptions else rollout.started_at


def active(rollout: Rollout, now: float) -> float:
    """Seconds that the rollout has run, without those between an end and ``rolling_resume``."""
    return (rollout.ended_at or now) - rollout.started_at - interrupted_for(rollout)
