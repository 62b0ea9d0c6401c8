"""What one reconcile pass did, in sentences: the listener's log, and what a test can ask for."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.lingering import count_text, left_texts
from supervisor_rolling.core.min_ready import is_min_ready_known
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Status
from supervisor_rolling.core.timeline import active
from supervisor_rolling.core.warmup_replies import statuses_text


def changes(old: Rollout, new: Rollout) -> Iterator[str]:
    """A sentence for each process that has come to another stage, and one for the end of the rollout."""
    for before, after in zip(old.members, new.members):
        if before.stage is not after.stage or before.why != after.why:
            yield f"{new.group}:{after.name} {_stage_text(before, after)}"
    if new.waits_long and not old.waits_long:
        yield f"{new.group} rollout {new.id} waits for {new.waits_for}"
    if old.status is not new.status:
        yield f"{new.group} rollout {new.id} {new.status.value}: {summary(new)}"


def guard_changes(old: GuardState, new: GuardState) -> Iterator[str]:
    """A sentence for each guarded process that has come to another stage, or was closed or opened."""
    before = {guarded.name: guarded for guarded in old.guarded}
    for guarded in new.guarded:
        was = before.get(guarded.name)
        is_news = (was.stage, was.closed) != (guarded.stage, guarded.closed) if was else guarded.stage is not Stage.OPEN
        if is_news:
            yield f"{new.group}:{guarded.name} {_guarded_text(guarded)}"


def standing_word(min_ready_known: bool) -> str:
    """What a process is that has been open for ``min_ready_seconds``: where that may be shorter than the load balancer
    waits, it may get no requests yet."""
    return "available" if min_ready_known else "open"


def summary(rollout: Rollout) -> str:
    """How a rollout has ended, or how far it is."""
    selected = [member for member in rollout.members if member.selected]
    text = f"{sum(member.replaced for member in selected)} of {rollout.total} replaced"
    if rollout.status is not Status.RUNNING:
        word = standing_word(is_min_ready_known(rollout.policy))
        text += f" in {active(rollout, rollout.ended_at):.1f} s, at least {rollout.min_available} {word}"
    return f"{text}. {rollout.why}" if rollout.why else text


def _guarded_text(guarded: GuardedProcess) -> str:
    if guarded.stage in (Stage.READY, Stage.OPEN):
        return f"open (guard: pid {guarded.pid}, {_warmed_text(guarded)})"
    gate = "closed" if guarded.closed else "open"
    return f"{guarded.stage.value}, {gate} (guard: {f'pid {guarded.pid}, ' if guarded.pid else ''}{guarded.why})"


def _stage_text(before: Member, after: Member) -> str:
    if after.why and (after.stage is Stage.FAILED or not after.selected or before.why != after.why):
        return f"{after.stage.value}: {after.why}"
    if after.stage is Stage.RESTARTING and before.stage is Stage.DRAINING:
        return f"restarting (drained {after.timing.drained:.2f} s{_left_text(after)})"
    if after.stage is Stage.READY and not after.endpoints:
        return f"ready (pid {after.pid})"
    if after.stage is Stage.READY:
        statuses = statuses_text(after.statuses)
        return f"open (pid {after.pid}, {_warmed_text(after)}{statuses and f', statuses {statuses}'})"
    if after.stage is Stage.OPEN and after.replaced and not after.endpoints:
        return f"done (ready for {after.timing.ready:.1f} s)"
    if after.stage is Stage.OPEN and after.replaced:
        return f"done (open for {after.timing.ready:.1f} s)"
    return str(after.stage.value)


def _warmed_text(one: Member | GuardedProcess) -> str:
    return f"warmed {one.requests} request{'s' * (one.requests != 1)} {one.first_ms:g} to {one.last_ms:g} ms"


def _left_text(member: Member) -> str:
    left = member.lingering_connections
    return "; ".join([f", {count_text(left)} left", *left_texts(left, member.oldest_lingering)]) if left else ""
