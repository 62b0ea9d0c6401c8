"""Commands of the operator's at the beginning and at the end of a rollout: which is to be run now, and what it decides.

A rollout whose ``before_rollout`` has not succeeded touches nothing. One that has come to its end keeps its group, and
is RUNNING with a ``verdict``, until what is to be told of it has been told; that changes the verdict no more. Both
stand in the rollout, so a listener that is killed leaves the command to the next one, which runs it again.

``after_warmup`` is no part of this: it is the last step of a warm-up.
"""

from __future__ import annotations

from dataclasses import replace

from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.jobs import HookJob, HookResult, WarmupJob
from supervisor_rolling.core.rollout import Member, Rollout, Status

BEFORE, FAILURE, AFTER = "before_rollout", "on_failure", "after_rollout"

LONGEST = 4000
"""Characters of a reason: the kernel takes no longer string than 128 KiB, and a thousand may have failed."""


def job(rollout: Rollout) -> HookJob | None:
    """What is to be run for a rollout now, if anything."""
    if rollout.status is not Status.RUNNING or (rollout.aborting and not rollout.verdict):
        return None
    hooks = rollout.policy.hooks
    if rollout.verdict:
        named = [(AFTER, hooks.after_rollout)]
        if rollout.verdict == Status.FAILED.value:
            named.insert(0, (FAILURE, hooks.on_failure))
    else:
        named = [] if rollout.prepared else [(BEFORE, hooks.before_rollout)]
    selected = tuple((name, hook) for name, hook in named if hook.command)
    return HookJob(selected, _variables(rollout)) if selected else None


def prepared(rollout: Rollout, result: HookResult | None) -> Rollout:
    """The rollout, when ``before_rollout`` has succeeded or there is none; ``why`` tells where it has failed."""
    if rollout.prepared or job(rollout) is None:
        return replace(rollout, prepared=True)
    if result is None or result.state == "running":
        return rollout
    return replace(rollout, prepared=True, why=result.why)


def concluded(rollout: Rollout, result: HookResult | None) -> Rollout:
    """The rollout with its verdict as its status, when there is nothing left to run. Whoever aborts one that has come
    to its end already waits no longer."""
    is_tired = rollout.aborting and rollout.verdict != Status.ABORTED.value
    is_over = result is not None and result.state != "running"
    if job(rollout) is not None and not is_tired and not is_over:
        return rollout
    told = "; ".join(filter(None, (rollout.why, result.why if result else "")))
    return replace(rollout, status=Status(rollout.verdict), verdict="", why=told)


def ended(rollout: Rollout, status: Status, at: float, why: str) -> Rollout:
    """The rollout at its end: at once, or when its hooks have run."""
    rollout = replace(rollout, verdict=status.value, ended_at=at, stuck_since=0.0, why=why)
    return concluded(rollout, None)


def warmup_job(of: Rollout | GuardState, one: Member | GuardedProcess) -> WarmupJob:
    """The warm-up of a process, with ``after_warmup`` as its last step."""
    variables = {
        "ROLLING_GROUP": of.group,
        "ROLLING_PROCESS": one.name,
        "ROLLING_PORT": one.endpoints[0].address if one.endpoints else "",
        "ROLLING_RESULT": "warm",
        "ROLLING_ROLLOUT": "",
        "ROLLING_WHY": "",
    }
    return WarmupJob(
        one.pid,
        one.endpoints,
        of.policy.warmup,
        of.gate.bypass,
        hook=of.policy.hooks.after_warmup,
        variables=variables,
        rank=1 if isinstance(of, GuardState) else 0,
        spawned=one.spawned,
    )


def _variables(rollout: Rollout) -> dict[str, str]:
    failed: list[Member] = [member for member in rollout.members if member.failed]
    first = failed[0] if failed else None
    return {
        "ROLLING_GROUP": rollout.group,
        "ROLLING_ROLLOUT": str(rollout.id),
        "ROLLING_PROCESS": first.name if first else "",
        "ROLLING_PORT": first.endpoints[0].address if first and first.endpoints else "",
        "ROLLING_RESULT": rollout.verdict,
        "ROLLING_WHY": rollout.why[:LONGEST],
    }
