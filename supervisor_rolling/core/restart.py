"""The stage RESTARTING: supervisord stops the old process, and starts the new one.

``restart_action`` is the command to send to supervisord, ``restarting`` the member after an observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from supervisor_rolling.core.actions import Action, Verb
from supervisor_rolling.core.drain import GATE_TIMEOUT
from supervisor_rolling.core.endpoint import Endpoint
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import Policy
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.process_states import (
    ALIVE,
    STARTABLE,
    closed_since,
    down_text,
    is_down_for_good,
    still_runs,
)
from supervisor_rolling.core.reason import Reason
from supervisor_rolling.core.rollout import Member, Rollout, Stage
from supervisor_rolling.core.spares import rested
from supervisor_rolling.core.transitions import enter_stage, fail, with_failure


def restarting(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    """A RESTARTING member after one observation."""
    if process.pid and process.incarnation != member.old and process.state in ALIVE:
        return _to_warming(member, process, observed)
    if still_runs(member, process) and closed_since(member, observed.closed) > member.since:
        return enter_stage(
            member, Stage.DRAINING, observed
        )  # open meanwhile, or a new listener cannot know: drain again
    if _was_stopped_by_other(member, process):
        return enter_stage(member, Stage.DRAINING, observed)
    refusal = observed.refusals.get(member.name)
    if refusal:
        return fail(member, observed, Reason("restart.refused", f"supervisord refused to {refusal}"))
    if process.state == "STOPPING" and process.incarnation == member.old:
        return _stopping(member, process, rollout, observed)
    member = _stopped(member, process, rollout, observed)
    if rollout.capacity and not member.spare and process.state == "STOPPED":
        return rested(member, observed)
    return _starting(member, process, rollout, observed)


def restart_action(member: Member, observed: Observation, closed: Mapping[Endpoint, float]) -> Action | None:
    """The command to send to supervisord now for a RESTARTING member, if any.

    ``closed`` is what the gate said after the rollout was recorded. A process that runs is stopped only if its gate has
    been closed since before the observation that found it drained. One that is down is started behind a closed gate,
    but also when the gate has not closed after GATE_TIMEOUT, so that it does not stay down. One that has exited is
    started only when supervisord reports it as down: a client may be stopping it, and would wait for ever.
    """
    process = observed.processes.get(member.name)
    if process is None or member.name in observed.dead:
        return None
    since = closed_since(member, closed)
    if still_runs(member, process):
        return Action(Verb.STOP, member.name, process.incarnation) if since <= member.since else None
    if process.spawned != member.old_spawned:
        return None  # started again already
    if process.state == "BACKOFF":
        return Action(Verb.STOP, member.name, process.incarnation)
    if process.state in STARTABLE:
        waited_long = member.stopped_at and observed.at - member.stopped_at >= GATE_TIMEOUT
        return Action(Verb.START, member.name, process.incarnation) if since <= observed.at or waited_long else None
    return None


def stop_within(process: Process, timeout: float) -> float:
    """Seconds after which supervisord kills it: its stopwaitsecs, and restart.timeout where an older supervisord does
    not tell that."""
    return process.stopwaitsecs or timeout


def never_stopped(process: Process, waited: float) -> Reason:
    """What is wrong with a process that has not stopped long after it should have."""
    killed = ", although SIGKILL should have ended it" if 0 < process.stopwaitsecs <= waited else ""
    return Reason(
        "restart.stopping",
        f"is still STOPPING after {waited:.0f} s{killed}. Fix: find out what its pid {process.pid} waits for (ps, "
        "dmesg), and start the process again once that pid is gone",
    )


def _was_stopped_by_other(member: Member, process: Process) -> bool:
    """Whether another client stopped the old one before the rollout did, and may wait for that: the rollout must not
    start it. What an earlier failure has left STOPPED was so before it left."""
    was_left_stopped = (member.was_closed or member.spare) and not member.old_pid
    return process.is_stopped_by_other and process.spawned == member.old_spawned and not was_left_stopped


def _stopping(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    """A process that does not stop is killed by supervisord, and then started as any."""
    waited, timeout = process.stop_took, rollout.policy.restart.timeout
    within = stop_within(process, timeout)
    if waited >= within + timeout:
        return fail(member, observed, never_stopped(process, waited))
    return _killed(member, process, rollout) if waited >= within else member


def _killed(member: Member, process: Process, rollout: Rollout) -> Member:
    """One that has to be killed: the rollout has failed on it, unless that was accepted."""
    if member.failed or _is_kill_accepted(member, rollout.policy):
        return member
    return with_failure(member, Reason("restart.killed", _killed_text(process, rollout.policy.restart.timeout)))


def _is_kill_accepted(member: Member, policy: Policy) -> bool:
    """Whether the policy accepts that requests are lost with it, or there are none: one that was kept closed has no
    users, and what an idle pool leaves is no request."""
    is_idle = policy.drain.keepalive == "nginx" and member.timing.drained < policy.drain.timeout
    is_cut = member.lingering_connections > 0 and not is_idle
    return policy.restart.on_kill == "continue" or is_cut or member.is_unused


def _stopped(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    """The old process, if it is down. supervisord does not tell of a kill: it is known by how long the stop took."""
    if member.stopped_at or process.state in ALIVE or process.state == "STOPPING":
        return member
    took = observed.at - member.since
    killed = 0 < process.stopwaitsecs <= process.stop_took and not member.spare  # a spare was stopped long before
    member = replace(member, stopped_at=observed.at, killed=killed, timing=replace(member.timing, stopped=took))
    return _killed(member, process, rollout) if killed else member


def _starting(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    spawned_again = process.spawned != member.old_spawned
    if spawned_again and is_down_for_good(process):
        return fail(member, observed, Reason("restart.start", f"did not start: {down_text(member, process, observed)}"))
    is_due = not spawned_again and process.state in STARTABLE and member.name not in observed.dead
    began = member.stopped_at or member.since  # the new process has its own time, however long the old one took
    if not is_due and observed.at - began >= rollout.policy.restart.timeout:
        within = f"{rollout.policy.restart.timeout:g} s (restart.timeout)"
        text = f"did not start within {within}: {down_text(member, process, observed)}"
        return fail(member, observed, Reason("restart.start", text))
    return member


def _to_warming(member: Member, process: Process, observed: Observation) -> Member:
    down_at = member.stopped_at or observed.at
    stopped = member.timing.stopped or observed.at - member.since
    timing = replace(member.timing, stopped=stopped, started=observed.at - down_at)
    new = replace(member, pid=process.pid, spawned=process.spawned, stopped_at=down_at, timing=timing)
    return enter_stage(new, Stage.WARMING, observed)


def _killed_text(process: Process, timeout: float) -> str:
    waits = process.stopwaitsecs
    late = f"{timeout:g} s (restart.timeout), so supervisord kills it after its stopwaitsecs"
    how = f"{waits:g} s (stopwaitsecs), so supervisord kills it" if waits else late
    return (
        f"did not stop within {how}. Its new process is started anyway. Fix: make it stop sooner, or raise "
        "stopwaitsecs; to accept such kills: restart: {on_kill: continue} for the group in rolling.yaml"
    )
