"""What was seen and done since it was counted last, in figures: for whoever counts."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Status
from supervisor_rolling.core.timeline import active, stays


@dataclass(frozen=True)
class Figures:
    """Of one group. ``stages``: how many processes stand in each; ``closed``: ports; ``left``: processes
    that the rollout that runs has still to replace. What has happened since: ``ended``, the status of a rollout that
    came to its end, after so many ``seconds``; ``stays``, how long processes have been in the stages that they left;
    ``warmed``, processes that the guard has warmed."""

    stages: Mapping[str, int] = field(default_factory=dict)
    closed: int = 0
    left: int = 0
    ended: str = ""
    seconds: float = 0.0
    stays: tuple[tuple[str, float], ...] = ()
    warmed: int = 0


def figures(
    old: tuple[Rollout | None, GuardState | None],
    new: tuple[Rollout | None, GuardState | None],
    observed: Observation,
    closed: int,
) -> Figures:
    """Of a group whose rollout and watch were ``old`` when it was counted last, and are ``new``."""
    was, rollout = old[0], new[0]
    is_over = was is not None and rollout is not None and was.status is Status.RUNNING is not rollout.status
    is_running = rollout is not None and rollout.status is Status.RUNNING
    return Figures(
        stages=_stages(rollout if is_running else None, new[1], observed),
        closed=closed,
        left=sum(m.selected and not m.replaced for m in rollout.members) if rollout and is_running else 0,
        ended=rollout.status.value if rollout and is_over else "",
        seconds=active(rollout, rollout.ended_at) if rollout and is_over else 0.0,
        stays=tuple(_stays(was, rollout)) if was and rollout and was.id == rollout.id else (),
        warmed=_warmed(old[1], new[1], observed),
    )


def _stages(rollout: Rollout | None, guard_state: GuardState | None, observed: Observation) -> dict[str, int]:
    guarded = {guarded.name: guarded.stage for guarded in guard_state.guarded} if guard_state else {}
    moving = {m.name: m.stage for m in rollout.members if m.stage is not Stage.OPEN} if rollout else {}
    found = collections.Counter(moving.get(name) or guarded.get(name) or Stage.OPEN for name in observed.processes)
    return {stage.value: found[stage] for stage in Stage}


def _stays(old: Rollout, new: Rollout) -> Iterator[tuple[str, float]]:
    for before, after in zip(old.members, new.members):
        yield from _stays_of(before, after)


def _stays_of(before: Member, after: Member) -> Iterator[tuple[str, float]]:
    entered = after.steps[max(0, len(before.steps) - 1) :]
    for stage, at, left_at in stays(entered):
        if stage not in (Stage.OPEN, Stage.FAILED):
            yield stage.value, left_at - at


def _warmed(old: GuardState | None, new: GuardState | None, observed: Observation) -> int:
    """Those that were being warmed, and are warm as the same incarnation."""
    if old is None or new is None:
        return 0
    now = {guarded.name: guarded for guarded in new.guarded}
    warming = [guarded for guarded in old.guarded if guarded.stage is Stage.WARMING and guarded.pid]
    return sum(_is_warm(guarded, now.get(guarded.name), observed) for guarded in warming)


def _is_warm(guarded: GuardedProcess, after: GuardedProcess | None, observed: Observation) -> bool:
    if after is not None:
        return after.incarnation == guarded.incarnation and after.stage in (Stage.READY, Stage.OPEN)
    process = observed.processes.get(guarded.name)
    return process is not None and process.incarnation == guarded.incarnation
