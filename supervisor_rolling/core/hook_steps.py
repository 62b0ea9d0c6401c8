"""The operator's hooks at the beginning and at the end of a rollout: which is to be run now, and what it decides.

A rollout touches nothing before its ``before_rollout`` has succeeded. One that has come to its end keeps its group, and
is RUNNING with a ``final_status``, until its last hooks have run; they do not change the final status. Both are
recorded in the rollout: when a listener is killed, the next one runs the hook again. ``after_warmup`` is the last step
of a warm-up.
"""

from __future__ import annotations

from dataclasses import replace

from supervisor_rolling.core.endpoint import tcp_ports, unix_paths
from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.jobs import HookJob, HookResult, WarmupJob
from supervisor_rolling.core.reason import Reason
from supervisor_rolling.core.rollout import Member, Rollout, Status

BEFORE, FAILURE, AFTER = "before_rollout", "on_failure", "after_rollout"

MAX_WHY_VARIABLE = 4000
"""Characters of ROLLING_WHY: the kernel limits an environment variable to 128 KiB, and a thousand may have failed."""


def job(rollout: Rollout) -> HookJob | None:
    """The hooks to run for a rollout now, if any."""
    if rollout.status is not Status.RUNNING or (rollout.aborting and not rollout.final_status):
        return None
    hooks = rollout.policy.hooks
    if rollout.final_status:
        failure = [(FAILURE, hooks.on_failure)] if rollout.final_status == Status.FAILED.value else []
        named = [*failure, (AFTER, hooks.after_rollout)]
    else:
        named = [] if rollout.prepared else [(BEFORE, hooks.before_rollout)]
    selected = tuple((name, hook) for name, hook in named if hook.command)
    failed = next((member for member in rollout.members if member.failed), None)
    return HookJob(selected, _variables(rollout, failed, rollout.final_status, rollout.why)) if selected else None


def prepared(rollout: Rollout, result: HookResult | None) -> Rollout:
    """The rollout once ``before_rollout`` has run, or there is none; ``why`` says how it failed."""
    if rollout.prepared or job(rollout) is None:
        return replace(rollout, prepared=True)
    if result is None or result.state == "running":
        return rollout
    return replace(rollout, prepared=True, why=result.why)


def concluded(rollout: Rollout, result: HookResult | None) -> Rollout:
    """The rollout with its final status as its status, once its hooks have run. An abort does not wait for them."""
    is_aborted_now = rollout.aborting and rollout.final_status != Status.ABORTED.value
    has_run = result is not None and result.state != "running"
    if job(rollout) is not None and not is_aborted_now and not has_run:
        return rollout
    why = "; ".join(filter(None, (rollout.why, result.why if result else "")))
    return replace(rollout, status=Status(rollout.final_status), final_status="", why=why)


def ended(rollout: Rollout, status: Status, at: float, reason: Reason) -> Rollout:
    """The rollout at its end: at once, or when its hooks have run."""
    rollout = replace(
        rollout, final_status=status.value, ended_at=at, stuck_since=0.0, why=reason.text, code=reason.code
    )
    return concluded(rollout, None)


def warmup_job(of: Rollout | GuardState, one: Member | GuardedProcess) -> WarmupJob:
    """The warm-up of a process, with ``after_warmup`` as its last step."""
    return WarmupJob(
        one.pid,
        one.endpoints,
        of.policy.warmup,
        of.gate.bypass,
        hook=of.policy.hooks.after_warmup,
        variables=_variables(of, one, "warm"),
        rank=1 if isinstance(of, GuardState) else 0,
        spawned=one.spawned,
        is_shared=of.policy.ports.shared,
    )


def _variables(
    of: Rollout | GuardState, process: Member | GuardedProcess | None, result: str, why: str = ""
) -> dict[str, str]:
    return {
        "ROLLING_GROUP": of.group,
        "ROLLING_ROLLOUT": str(of.id) if isinstance(of, Rollout) and result != "warm" else "",
        "ROLLING_PROCESS": process.name if process else "",
        "ROLLING_PORT": next(map(str, tcp_ports(process.endpoints)), "") if process else "",
        "ROLLING_SOCKET": next(iter(unix_paths(process.endpoints)), "") if process else "",
        "ROLLING_RESULT": result,
        "ROLLING_WHY": why[:MAX_WHY_VARIABLE],
    }
