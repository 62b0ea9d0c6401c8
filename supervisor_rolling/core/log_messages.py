"""What a turn did, in sentences: the listener's log, and what a test can ask for."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor_rolling.core.lingering import count_text, left_texts
from supervisor_rolling.core.min_ready import is_settle_known
from supervisor_rolling.core.model import Member, Rollout, Stage, Status, Ward, Watch
from supervisor_rolling.core.timeline import active
from supervisor_rolling.core.warmup_replies import statuses_text


def changes(old: Rollout, new: Rollout) -> Iterator[str]:
    """One sentence for each process that came to another stage, and one for the end of the rollout."""
    for before, after in zip(old.members, new.members):
        if before.stage is not after.stage or before.why != after.why:
            yield f"{new.group}:{after.name} {_stage_text(before, after)}"
    if new.waits_long and not old.waits_long:
        yield f"{new.group} rollout {new.id} waits for {new.waits}"
    if old.status is not new.status:
        yield f"{new.group} rollout {new.id} {new.status.value}: {summary(new)}"


def guard_changes(old: Watch, new: Watch) -> Iterator[str]:
    """One sentence for each process that came to another stage in the hands of the guard, or whose gate moved."""
    before = {ward.name: ward for ward in old.wards}
    for ward in new.wards:
        was = before.get(ward.name)
        is_news = (was.stage, was.closed) != (ward.stage, ward.closed) if was else ward.stage is not Stage.OPEN
        if is_news:
            yield f"{new.group}:{ward.name} {_ward_text(ward)}"


def _ward_text(ward: Ward) -> str:
    if ward.stage in (Stage.SETTLING, Stage.OPEN):
        return f"open (guard: pid {ward.pid}, warmed {ward.requests} requests {ward.first_ms:g} to {ward.last_ms:g} ms)"
    gate = "closed" if ward.closed else "open"
    return f"{ward.stage.value}, {gate} (guard: {f'pid {ward.pid}, ' if ward.pid else ''}{ward.why})"


def standing_word(settle_known: bool) -> str:
    """What a process is that has been open for ``settle``: where that is not known to be as long as the load balancer
    passes it over, it may get no requests yet."""
    return "available" if settle_known else "open"


def summary(rollout: Rollout) -> str:
    """How a rollout ended or how far it is."""
    wanted = [member for member in rollout.members if member.wanted]
    replaced = sum(member.replaced for member in wanted)
    text = f"{replaced} of {len(wanted)} replaced"
    if rollout.status is not Status.RUNNING:
        word = standing_word(is_settle_known(rollout.policy))
        text += f" in {active(rollout, rollout.ended_at):.1f} s, at least {rollout.least_available} {word}"
    return f"{text}. {rollout.why}" if rollout.why else text


def _stage_text(before: Member, after: Member) -> str:
    if after.why and (after.stage is Stage.FAILED or not after.wanted or before.why != after.why):
        return f"{after.stage.value}: {after.why}"
    if after.stage is Stage.RESTARTING and before.stage is Stage.DRAINING:
        return f"restarting (drained {after.timing.drained:.2f} s{_left(after)})"
    if after.stage is Stage.SETTLING:
        statuses = statuses_text(after.statuses)
        warmed = f"warmed {after.requests} requests {after.first_ms:g} to {after.last_ms:g} ms"
        return f"open (pid {after.pid}, {warmed}{statuses and f', statuses {statuses}'})"
    if after.stage is Stage.OPEN and after.replaced:
        return f"done (open for {after.timing.settled:.1f} s)"
    return str(after.stage.value)


def _left(member: Member) -> str:
    left = member.connections_left
    return "; ".join([f", {count_text(left)} left", *left_texts(left, member.oldest_left)]) if left else ""
