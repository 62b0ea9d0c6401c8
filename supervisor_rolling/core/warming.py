"""The stage WARMING: the new process answers the requests of its warm-up, behind its closed gate."""

from __future__ import annotations

from dataclasses import replace

from supervisor_rolling.core.jobs import WarmupStatus
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import WarmupPolicy
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.process_states import ALIVE, down_text, is_down_for_good, state_text
from supervisor_rolling.core.reason import Reason
from supervisor_rolling.core.restart import never_stopped, stop_within
from supervisor_rolling.core.rollout import Member, Rollout, Stage
from supervisor_rolling.core.transitions import enter_stage, fail

WARMUP_REPORT_GRACE = 0.5
"""Seconds beyond its deadline for which a warm-up is waited for. It began a moment after the stage did, ends itself,
and knows best what kept it."""

MAX_EXITS = 5
"""Exits of new processes during one warm-up. supervisord gives up one that exits within its startsecs after 4 starts
(startretries); it restarts one that exits a moment later for ever."""


def warming(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    """A WARMING member after one observation."""
    if process.is_stopped_by_other:
        return _wait_until_stopped(member, process, rollout, observed)
    if process.pid and process.incarnation != member.new and process.state in ALIVE:
        return _warm_next(member, process, observed)
    if is_down_for_good(process):
        text = f"exited during its warm-up: {down_text(member, process, observed)}"
        return fail(member, observed, Reason("warmup.exited", text))
    status = observed.warmups.get(member.name)
    if status is None or status.incarnation != process.incarnation:
        unknown = WarmupStatus(process.pid, "late", why=down_text(member, process, observed))
        return _wait_until_warm(member, rollout, observed, unknown)
    member = replace(
        member,
        requests=status.requests,
        first_ms=status.first_ms,
        last_ms=status.last_ms,
        latencies=status.latencies,
        statuses=status.statuses,
    )
    if status.state == "warm":
        return _warm(member, process, rollout, observed)
    if status.state == "failed":
        return _not_warm(member, rollout, observed, status)
    return _wait_until_warm(member, rollout, observed, replace(status, why=status.why or state_text(process)))


def not_warm(status: WarmupStatus, policy: WarmupPolicy) -> Reason:
    """What is wrong with a process: its warm-up has failed, or was not done in time."""
    if status.state == "late":
        return Reason(
            status.code or "warmup.timeout", f"is not warm after {policy.timeout:g} s (warmup.timeout): {status.why}"
        )
    return Reason(status.code or "warmup.failed", f"is not warm: {status.why}")


def _wait_until_stopped(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    """Another client stops it: whether it then starts it again is seen when it is down, which may take longer than a
    warm-up has time."""
    timeout = rollout.policy.restart.timeout
    within = rollout.policy.warmup.timeout + stop_within(process, timeout) + timeout
    if process.state == "STOPPED" or observed.at - member.since < within:
        return member
    return fail(member, observed, never_stopped(process, observed.at - member.since))


def _warm_next(member: Member, process: Process, observed: Observation) -> Member:
    """Another incarnation is warmed instead. It has the time that is left or, when another client has restarted it, all
    of it."""
    member = replace(member, pid=process.pid, spawned=process.spawned)
    if process.stopped_on_request:
        return enter_stage(member, Stage.WARMING, observed)
    member = replace(member, deaths=member.deaths + 1)
    if member.deaths < MAX_EXITS:
        return member
    return fail(member, observed, Reason("warmup.exited", f"exited {MAX_EXITS} times during its warm-up"))


def _warm(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    if process.state == "RUNNING":
        timing = replace(member.timing, warmed=observed.at - member.since)
        return replace(enter_stage(member, Stage.READY, observed), timing=timing)
    timeout = rollout.policy.restart.timeout
    if observed.at - member.since >= timeout:
        text = f"is warm, but not RUNNING after {timeout:g} s (restart.timeout)"
        return fail(
            member, observed, Reason("restart.startsecs", f"{text}. Fix: raise restart.timeout above its startsecs")
        )
    return member


def _wait_until_warm(member: Member, rollout: Rollout, observed: Observation, status: WarmupStatus) -> Member:
    patience = rollout.policy.warmup.timeout + (WARMUP_REPORT_GRACE if status.state == "warming" else 0.0)
    if observed.at - member.since - status.queued < patience:
        return member
    return _not_warm(member, rollout, observed, replace(status, state="late"))


def _not_warm(member: Member, rollout: Rollout, observed: Observation, status: WarmupStatus) -> Member:
    times = "once" if member.deaths == 1 else f"{member.deaths} times"
    exits = f"; it exited {times} during its warm-up" if member.deaths else ""
    reason = not_warm(status, rollout.policy.warmup)
    return fail(member, observed, Reason(reason.code, reason.text + exits))
