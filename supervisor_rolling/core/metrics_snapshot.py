"""The metrics of a group: how it stands, and what happened since they were taken last."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.rollout import Rollout, Stage, Status
from supervisor_rolling.core.timeline import active, stays


@dataclass(frozen=True)
class GroupMetrics:
    """Of one group."""

    stages: Mapping[str, int] = field(default_factory=dict)  # how many processes are in each
    closed_ports: int = 0
    remaining: int = 0  # processes that the running rollout has yet to replace
    # Since the last time:
    ended: str = ""  # the status of a rollout that ended
    seconds: float = 0.0  # its duration
    stage_seconds: tuple[tuple[str, float], ...] = ()  # each stage that a process left, and how long it was in it
    guard_warmups: int = 0  # processes that the guard has warmed


def group_metrics(
    old: tuple[Rollout | None, GuardState | None],
    new: tuple[Rollout | None, GuardState | None],
    observed: Observation,
    closed_ports: int,
) -> GroupMetrics:
    """Of a group with this rollout and guard: as they were the last time, and as they are."""
    was, rollout = old[0], new[0]
    found = GroupMetrics(
        stages=_stages(rollout if rollout and rollout.status is Status.RUNNING else None, new[1], observed),
        closed_ports=closed_ports,
        guard_warmups=_guard_warmups(old[1], new[1], observed),
    )
    if rollout is None:
        return found
    is_running = rollout.status is Status.RUNNING
    has_ended = was is not None and was.status is Status.RUNNING and not is_running
    return replace(
        found,
        remaining=sum(member.selected and not member.replaced for member in rollout.members) if is_running else 0,
        ended=rollout.status.value if has_ended else "",
        seconds=active(rollout, rollout.ended_at) if has_ended else 0.0,
        stage_seconds=tuple(_stage_seconds(was, rollout)) if was and was.id == rollout.id else (),
    )


def _stages(rollout: Rollout | None, guard_state: GuardState | None, observed: Observation) -> dict[str, int]:
    guarded = {guarded.name: guarded.stage for guarded in guard_state.guarded} if guard_state else {}
    moving = {m.name: m.stage for m in rollout.members if m.stage is not Stage.OPEN} if rollout else {}
    found = collections.Counter(moving.get(name) or guarded.get(name) or Stage.OPEN for name in observed.processes)
    return {stage.value: found[stage] for stage in Stage}


def _stage_seconds(old: Rollout, new: Rollout) -> Iterator[tuple[str, float]]:
    for before, after in zip(old.members, new.members):
        for stage, entered_at, left_at in stays(after.steps[max(0, len(before.steps) - 1) :]):
            if stage not in (Stage.OPEN, Stage.FAILED):
                yield stage.value, left_at - entered_at


def _guard_warmups(old: GuardState | None, new: GuardState | None, observed: Observation) -> int:
    """Processes that were being warmed, and are warm as the same incarnation."""
    if old is None or new is None:
        return 0
    now = {guarded.name: guarded for guarded in new.guarded}
    count = 0
    for guarded in [one for one in old.guarded if one.stage is Stage.WARMING and one.pid]:
        after, process = now.get(guarded.name), observed.processes.get(guarded.name)
        if after is not None:
            is_warm = after.incarnation == guarded.incarnation and after.stage in (Stage.READY, Stage.OPEN)
        else:
            is_warm = process is not None and process.incarnation == guarded.incarnation
        count += is_warm
    return count
