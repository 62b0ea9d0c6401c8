"""Commands of the operator's at the beginning and at the end of a roll: which is to be run now, and what it decides.

A roll whose ``before_roll`` has not succeeded touches nothing. One that has come to its end keeps its group, and is
RUNNING with a ``verdict``, until what is to be told of it has been told; that changes the verdict no more. Both stand
in the roll, so a listener that is killed leaves the command to the next one, which runs it again.

``after_warmup`` is no part of this: it is the last step of a warm-up.
"""

from __future__ import annotations

from dataclasses import replace

from supervisor_rolling.core.model import HookJob, HookResult, Member, Roll, Status, Ward, WarmupJob, Watch

BEFORE, FAILURE, AFTER = "before_roll", "on_failure", "after_roll"

LONGEST = 4000
"""Characters of a reason: the kernel takes no longer string than 128 KiB, and a thousand may have failed."""


def job(roll: Roll) -> HookJob | None:
    """What is to be run for a roll now, if anything."""
    if roll.status is not Status.RUNNING or (roll.aborting and not roll.verdict):
        return None
    hooks = roll.policy.hooks
    if roll.verdict:
        named = [(AFTER, hooks.after_roll)]
        if roll.verdict == Status.FAILED.value:
            named.insert(0, (FAILURE, hooks.on_failure))
    else:
        named = [] if roll.prepared else [(BEFORE, hooks.before_roll)]
    wanted = tuple((name, hook) for name, hook in named if hook.command)
    return HookJob(wanted, _variables(roll)) if wanted else None


def prepared(roll: Roll, result: HookResult | None) -> Roll:
    """The roll, when ``before_roll`` has succeeded or there is none; ``why`` tells where it has failed."""
    if roll.prepared or job(roll) is None:
        return replace(roll, prepared=True)
    if result is None or result.state == "running":
        return roll
    return replace(roll, prepared=True, why=result.why)


def concluded(roll: Roll, result: HookResult | None) -> Roll:
    """The roll with its verdict as its status, when there is nothing left to run. Whoever aborts one that has come to
    its end already waits no longer."""
    is_tired = roll.aborting and roll.verdict != Status.ABORTED.value
    is_over = result is not None and result.state != "running"
    if job(roll) is not None and not is_tired and not is_over:
        return roll
    told = "; ".join(filter(None, (roll.why, result.why if result else "")))
    return replace(roll, status=Status(roll.verdict), verdict="", why=told)


def ended(roll: Roll, status: Status, at: float, why: str) -> Roll:
    """The roll at its end: at once, or when its last commands have run."""
    roll = replace(roll, verdict=status.value, ended_at=at, stuck_since=0.0, why=why)
    return concluded(roll, None)


def warmup_job(of: Roll | Watch, one: Member | Ward) -> WarmupJob:
    """The warm-up of a process, with ``after_warmup`` as its last step."""
    variables = {
        "ROLLING_GROUP": of.group,
        "ROLLING_PROCESS": one.name,
        "ROLLING_PORT": str(one.ports[0]) if one.ports else "",
        "ROLLING_RESULT": "warm",
        "ROLLING_ROLL": "",
        "ROLLING_WHY": "",
    }
    return WarmupJob(
        one.pid,
        one.ports,
        of.policy.warmup,
        of.gate.bypass,
        hook=of.policy.hooks.after_warmup,
        variables=variables,
        rank=1 if isinstance(of, Watch) else 0,
        spawned=one.spawned,
    )


def _variables(roll: Roll) -> dict[str, str]:
    failed: list[Member] = [member for member in roll.members if member.failed]
    first = failed[0] if failed else None
    return {
        "ROLLING_GROUP": roll.group,
        "ROLLING_ROLL": str(roll.id),
        "ROLLING_PROCESS": first.name if first else "",
        "ROLLING_PORT": str(first.ports[0]) if first and first.ports else "",
        "ROLLING_RESULT": roll.verdict,
        "ROLLING_WHY": roll.why[:LONGEST],
    }
