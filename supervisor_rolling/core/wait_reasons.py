"""What a rollout waits for, in words without numbers that run: each change of them is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Status

LONG = 5.0
"""Seconds of waiting that are worth a line in the log, and in the output of supervisorctl."""

MAX_NAMED = 3


def waiting_for(rollout: Rollout, text: str, since: float, at: float) -> Rollout:
    """The rollout with what it waits for since then; empty: for nothing."""
    text = text if rollout.status is Status.RUNNING else ""
    is_long = bool(text) and at - since >= LONG
    return (
        replace(rollout, waits=text, waits_long=is_long)
        if (rollout.waits, rollout.waits_long) != (text, is_long)
        else rollout
    )


def for_warm_ups(rollout: Rollout, observed: Observation) -> tuple[str, float]:
    """The warm-up that lasts longest, where that is long, and since when."""
    under_way = [m for m in rollout.members if m.stage in (Stage.RESTARTING, Stage.WARMING)]
    told = [(m.since, m.name, _hindrance(m, observed)) for m in under_way if observed.at - m.since >= LONG]
    since, name, why = min([one for one in told if one[2]], default=(0.0, "", ""))
    return (f"{name} to be warm: {why}", since) if name else ("", 0.0)


def _hindrance(member: Member, observed: Observation) -> str:
    """What keeps a new process from being warm, as far as that is known: another one that has its port, above all."""
    warmup_status = observed.warmups.get(member.name) if member.stage is Stage.WARMING else None
    return observed.held.get(member.name) or (warmup_status.why if warmup_status else "")


def for_the_guard(names: Sequence[str], observed: Observation) -> str:
    """Processes that the guard has still to bring back."""
    named = [f"{name} ({observed.guarded[name].stage.value})" for name in names[:MAX_NAMED]]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"the guard to finish {', '.join(named)}{more}"
