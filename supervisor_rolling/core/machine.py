"""What a rollout does next: pure functions from a rollout and an observation to the next state of the rollout.

Every process of the group is a member, with a stage (``stages.py``)::

    OPEN ─▶ DRAINING ─▶ RESTARTING ─▶ WARMING ─▶ READY ─▶ OPEN

    OPEN       ─▶ DRAINING    it is selected, there is room, and it runs
               ─▶ RESTARTING  it is selected, and is down: there is nothing to drain
               ─▶ WARMING     it was replaced, and another client restarts it
               ─▶ OPEN        it was replaced, and exits: the rollout has failed on it
    DRAINING   ─▶ RESTARTING  no connection is left, the drain times out, or it exits
               ─▶ OPEN        abort, stopped manually, or not to be stopped (leak, keep-alive pool, no gate, on_timeout)
               ─▶ FAILED      the same, where an earlier failure kept it closed
    RESTARTING ─▶ WARMING     the new process has a pid
               ─▶ DRAINING    it still runs and its port was open meanwhile; or another client stopped it first
               ─▶ FAILED      it does not stop, or does not start
               ─▶ OPEN        it was stopped manually, is gone from supervisord's configuration, or is a spare now
    WARMING    ─▶ READY       it is warm, and RUNNING
               ─▶ WARMING     another client restarts it
               ─▶ FAILED      it does not become warm, or exits for good
               ─▶ OPEN        it was stopped manually, is gone from supervisord's configuration, or an aborted spare
    READY      ─▶ OPEN        it was ready for min_ready_seconds; it exits; or it was stopped manually
               ─▶ WARMING     another client restarts it
    FAILED     ─▶ DRAINING    the next rollout replaces it, and it runs
               ─▶ RESTARTING  the next rollout replaces it, and it is down
               ─▶ OPEN        it is gone from supervisord's configuration; or another client restarts it (guard: false)

DRAINING, RESTARTING, WARMING and FAILED are *closed*; READY and OPEN are open. All but OPEN and FAILED are *under way*.

The rollout decides only which members leave OPEN, and when. With ``limit`` 2 of 8 processes, one of them crashed:

    available    7   a process is available when it is OPEN and RUNNING, and the crash guard has not still to warm it
    unavailable  1   8 - 7; those that an operator stopped count for neither
    room         1   limit - unavailable: one may leave OPEN; the crashed one may be replaced too, it takes no room

* The first ``canary`` processes go alone; those that are down first, then in natural order (web_2 before web_10).
* The next leaves as soon as there is room: a sliding window, not waves.
* After more failures than ``max_failures`` (0) no further member leaves OPEN. Those under way are finished; then the
  rollout ends.
* The last process that serves is not closed unless the rollout is forced. Of processes without a port each may be
  stopped: their jobs wait.
* A process that exits after the rollout has opened it fails the rollout. The crash guard (``guard.py``) closes and
  warms it, as any other. When the rollout is over, the guard takes over what it has left FAILED, too. One without a
  port may exit after a minute, as workers do after so many jobs, if supervisord starts it again.
* What an operator stops stays stopped, at whatever stage; what the rollout itself stopped is started again. What an
  operator restarts after it was replaced is warmed once more.
* A process that does not stop is killed by supervisord after its stopwaitsecs. That fails the rollout, unless it was
  accepted (``restart.on_kill``, ``drain.on_timeout``); the new process is opened anyway.
* A draining process is notified by ``drain.signal`` or ``drain.request``, if set, as soon as its gate is closed. It
  keeps serving: it is only asked to end its keep-alive connections. One without a port is asked to finish its job and
  exit; an abort waits for it.
* Every wait has a deadline. Deadlines are extended by the time in which no listener was running. All state is in the
  rollout: a new listener continues from it.

Decisions follow from the present state, never from remembered events; a lost event costs a delay. ``observed.at`` is
the time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from supervisor_rolling.core import hook_steps, spares
from supervisor_rolling.core.actions import Action
from supervisor_rolling.core.availability import (
    available,
    in_service,
    is_available,
    is_counted,
    is_left_stopped,
    is_serving,
    state_of,
)
from supervisor_rolling.core.drain import can_be_notified, drain_signal
from supervisor_rolling.core.endpoint import Endpoint
from supervisor_rolling.core.jobs import NotificationJob, WarmupJob
from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.process_states import ALIVE, CLOSED_STAGES, NOT_UP, UNDER_WAY, closed_since, still_runs
from supervisor_rolling.core.reason import Reason
from supervisor_rolling.core.restart import restart_action
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Status, Timing
from supervisor_rolling.core.stages import step
from supervisor_rolling.core.timeline import last_started_at, noted, with_availability
from supervisor_rolling.core.transitions import enter_stage
from supervisor_rolling.core.wait_reasons import stuck_text, wait_reason, waiting_for

# --- the questions that the reconciler asks


def advance(rollout: Rollout, observed: Observation) -> Rollout:
    """The rollout after one observation. One that has ended stays as it is; without a crash guard, a process that it
    left failed is released when another client restarts it."""
    at = observed.at
    if rollout.status is not Status.RUNNING:
        return rollout if rollout.policy.is_guarded else _without_restarted(rollout, observed)
    if rollout.final_status:
        return waiting_for(hook_steps.concluded(rollout, observed.hook), "its hooks", rollout.ended_at, at)
    if not rollout.prepared:
        rollout = hook_steps.prepared(rollout, observed.hook)
        if not rollout.prepared:
            return waiting_for(rollout, f"its {hook_steps.BEFORE} hook", last_started_at(rollout), at)
        if rollout.why:
            return waiting_for(hook_steps.ended(rollout, Status.FAILED, at, Reason("hooks", rollout.why)), "", at, at)
    before = rollout.members
    rollout = _extend_deadlines(rollout, observed)
    rollout = replace(rollout, members=tuple(step(member, rollout, observed) for member in rollout.members))
    rollout = _admit(rollout, observed)
    rollout = replace(rollout, members=tuple(map(partial(noted, at=at), before, rollout.members)))
    rollout = with_availability(rollout, in_service(rollout, observed), at)
    rollout = _finish(rollout, observed)
    return waiting_for(rollout, *wait_reason(rollout, observed), at)


def closed(rollout: Rollout) -> dict[Endpoint, str]:
    """The endpoints that must be closed, each with a comment for a list of the rules. An ended rollout has some, too:
    what failed stays closed, unless the crash guard takes it over."""
    return {
        endpoint: f"supervisor_rolling {rollout.group}:{member.name}"
        for member in rollout.members
        if member.stage in CLOSED_STAGES
        for endpoint in member.endpoints
    }


def actions(rollout: Rollout, observed: Observation, closed: Mapping[Endpoint, float]) -> tuple[Action, ...]:
    """The commands for supervisord now; ``closed`` is what the gate said after the rollout was recorded."""
    draining = [member for member in rollout.members if member.stage is Stage.DRAINING]
    restarting = [member for member in rollout.members if member.stage is Stage.RESTARTING]
    failed_spares = [member for member in rollout.members if spares.is_to_stop(member, rollout, observed)]
    found = (
        *(drain_signal(member, rollout, observed, closed) for member in draining),
        *(restart_action(member, observed, closed) for member in restarting if member not in failed_spares),
        *(spares.stop_action(member, observed) for member in failed_spares),
    )
    return tuple(action for action in found if action)


def jobs(rollout: Rollout) -> dict[str, WarmupJob]:
    """The processes to warm now, by name."""
    return {
        member.name: hook_steps.warmup_job(rollout, member)
        for member in rollout.members
        if member.stage is Stage.WARMING and member.pid
    }


def notifications(
    rollout: Rollout, processes: Mapping[str, Process], closed: Mapping[Endpoint, float]
) -> dict[str, NotificationJob]:
    """The processes to send ``drain.request`` to now, by name; each once while it is among them."""
    request, headers = rollout.policy.drain.request, rollout.policy.warmup.headers
    return {
        member.name: NotificationJob(
            member.old_pid, member.endpoints, request, headers, rollout.gate.bypass, member.old_spawned
        )
        for member in rollout.members
        if request and member.stage is Stage.DRAINING and member.endpoints
        if can_be_notified(member, processes.get(member.name), closed)
    }


def leaving(rollout: Rollout, closed: Mapping[Endpoint, float]) -> list[Member]:
    """The members with an old process that drains or stops, behind a gate that is known to be closed. ``closed`` is
    what the gate said after the rollout was recorded."""
    is_running = rollout.status is Status.RUNNING
    leaving = [m for m in rollout.members if is_running and m.stage in (Stage.DRAINING, Stage.RESTARTING)]
    return [member for member in leaving if closed_since(member, closed) < math.inf]


def planned(rollout: Rollout, observed: Observation) -> Rollout:
    """The answer to a dry run: the rollout with its members in the order in which they would be replaced, those that
    are left alone last."""
    queue = _candidates(rollout, observed)
    rest = tuple(member for member in rollout.members if member not in queue)
    return replace(rollout, members=(*queue, *rest), status=Status.PLANNED, ended_at=rollout.started_at)


# --- deadlines


def _extend_deadlines(rollout: Rollout, observed: Observation) -> Rollout:
    """Extend every deadline by the time without an observation: no process fails because no listener was running."""
    if not observed.gap:
        return rollout
    members = tuple(
        _extend_deadline(member, observed) if member.stage in UNDER_WAY else member for member in rollout.members
    )
    stuck_since = rollout.stuck_since + observed.gap if rollout.stuck_since else 0.0
    return replace(rollout, members=members, stuck_since=stuck_since)


def _extend_deadline(member: Member, observed: Observation) -> Member:
    """One that was found drained and still runs is drained again: with a later ``since``, a gate that was open
    meanwhile would seem to have been closed all the time."""
    process = observed.processes.get(member.name)
    if member.stage is Stage.RESTARTING and process and still_runs(member, process):
        return enter_stage(member, Stage.DRAINING, observed)
    stopped_at = member.stopped_at + observed.gap if member.stopped_at else 0.0
    return replace(member, since=member.since + observed.gap, stopped_at=stopped_at)


# --- which members leave OPEN


def _admit(rollout: Rollout, observed: Observation) -> Rollout:
    """Let members leave OPEN as long as there is room, the next one first."""
    replaced = sum(member.replaced for member in rollout.members)
    places = (1 if replaced < rollout.policy.canary else rollout.limit) - _under_way(rollout, observed)
    if rollout.paused or places <= 0 or _is_stopping(rollout):
        return rollout
    serving, counted = available(rollout, observed), sum(is_counted(member, observed) for member in rollout.members)
    leaving: dict[str, Member] = {}
    for member in _candidates(rollout, observed):
        has_room = counted - serving < rollout.limit and (serving > 1 or rollout.may_stop_all)
        if rollout.capacity:
            has_room = serving > rollout.capacity
        if len(leaving) >= places or (is_serving(member, observed) and not has_room):
            break
        leaving[member.name] = _leave(member, observed)
        serving -= is_available(member, observed)
        counted += not is_counted(member, observed)
    if not leaving:
        return rollout
    return replace(rollout, members=tuple(leaving.get(member.name, member) for member in rollout.members))


def _leave(member: Member, observed: Observation) -> Member:
    """The member at the start of its replacement, without the results of an earlier attempt."""
    process = observed.processes[member.name]
    return replace(
        enter_stage(member, Stage.DRAINING if process.state in ALIVE else Stage.RESTARTING, observed),
        attempted=True,
        was_closed=member.stage is Stage.FAILED,
        old_pid=process.pid,
        old_spawned=process.spawned,
        pid=0,
        spawned=0.0,
        stopped_at=0.0,
        killed=False,
        deaths=0,
        timing=member.timing if member.spare else Timing(),
        lingering_connections=0,
        oldest_lingering=(),
        requests=0,
        latencies=(),
        statuses=(),
        why="",
        code="",
    )


def _candidates(rollout: Rollout, observed: Observation) -> list[Member]:
    """The members that are still to be replaced and can be, the next one first."""
    waiting = [member for member in _waiting(rollout) if _can_leave(member, observed)]
    waiting += spares.to_start(rollout, observed)
    return sorted(waiting, key=lambda member: (is_serving(member, observed), natural(member.name)))


def _waiting(rollout: Rollout) -> list[Member]:
    return [member for member in rollout.members if member.selected and not member.attempted]


def _can_leave(member: Member, observed: Observation) -> bool:
    """A stopped process is left so, unless it is down because an earlier rollout failed on it. One that has exited may
    have been stopped: supervisord will say."""
    state = state_of(member, observed)
    if member.name in observed.dead:
        return False
    return state not in NOT_UP or (state == "STOPPED" and member.stage is Stage.FAILED)


# --- the end of a rollout


def _finish(rollout: Rollout, observed: Observation) -> Rollout:
    if _under_way(rollout, observed):
        return replace(rollout, stuck_since=0.0)
    waiting = [m for m in (*_waiting(rollout), *_being_stopped(rollout, observed)) if not is_left_stopped(m, observed)]
    if _is_stopping(rollout) or not waiting:
        return _end(rollout, observed)
    if rollout.paused:
        return replace(rollout, stuck_since=0.0)
    stuck_since = observed.at if _is_any_stopping(observed) else rollout.stuck_since or observed.at
    timeout = _stuck_timeout(rollout, observed)
    if observed.at - stuck_since >= timeout:
        reason = Reason("rollout.stuck", stuck_text(rollout, observed, timeout))
        return hook_steps.ended(_without_stopped(rollout, observed), Status.FAILED, observed.at, reason)
    return replace(rollout, stuck_since=stuck_since)


def _end(rollout: Rollout, observed: Observation) -> Rollout:
    rollout = _without_stopped(rollout, observed)
    failed = [member for member in rollout.members if member.failed]
    reason = Reason(failed[0].code if failed else "", "; ".join(f"{rollout.group}:{m.name} {m.why}" for m in failed))
    status = Status.FAILED if failed else Status.DONE
    if not failed and all(is_left_stopped(member, observed) for member in rollout.members if member.selected):
        status = Status.ABORTED  # "done" would tell a deploy that the new code serves
        text = "all processes to replace were stopped manually, so none of them runs the new code"
        reason = Reason("rollout.stopped", text)
    status = Status.ABORTED if rollout.aborting else status
    return hook_steps.ended(rollout, status, observed.at, reason)


def _without_stopped(rollout: Rollout, observed: Observation) -> Rollout:
    """The rollout, in which those that an operator stopped in time are not selected any more."""
    why = "was stopped manually, and is left stopped"
    members = (
        replace(member, selected=False, why=why)
        if member.selected and not member.attempted and is_left_stopped(member, observed)
        else member
        for member in rollout.members
    )
    return replace(rollout, members=tuple(members))


def _being_stopped(rollout: Rollout, observed: Observation) -> list[Member]:
    """Replaced members that another client stops or restarts: the next observations show which."""
    return [
        m for m in rollout.members if m.selected and m.replaced and state_of(m, observed) in ("STOPPING", "STOPPED")
    ]


def _stuck_timeout(rollout: Rollout, observed: Observation) -> float:
    """Seconds to wait for room: as long as the crash guard takes to warm a process up."""
    is_coming = any(guarded.stage in (Stage.WARMING, Stage.READY) for guarded in observed.guarded.values())
    policy = rollout.policy
    return policy.restart.timeout + (policy.warmup.timeout + policy.min_ready_seconds if is_coming else 0.0)


def _is_any_stopping(observed: Observation) -> bool:
    """Whether another client stops a process, which has its stopwaitsecs for that: a worker finishes its job first."""
    return any(one.state == "STOPPING" and one.stop_took < one.stopwaitsecs for one in observed.processes.values())


def _is_stopping(rollout: Rollout) -> bool:
    """Whether no further member may leave OPEN, ever."""
    return rollout.aborting or sum(member.failed for member in rollout.members) > rollout.policy.max_failures


def _under_way(rollout: Rollout, observed: Observation) -> int:
    return sum(member.stage in UNDER_WAY or spares.is_to_stop(member, rollout, observed) for member in rollout.members)


# --- after the end


def _without_restarted(rollout: Rollout, observed: Observation) -> Rollout:
    """An ended rollout without a crash guard: it opens the ports of failed processes that another client restarts."""
    members = tuple(_released(member, observed) for member in rollout.members)
    if members == rollout.members:
        return rollout
    return replace(rollout, members=tuple(map(partial(noted, at=observed.at), rollout.members, members)))


def _released(member: Member, observed: Observation) -> Member:
    process = observed.processes.get(member.name)
    if member.stage is not Stage.FAILED or process is None or process.state not in ALIVE or not process.pid:
        return member
    if process.started_by_other_at <= max(member.old_spawned, member.spawned):
        return member  # it is what failed, or what supervisord itself has started again after it
    state = "so its port is open (guard: false: it is not warmed up)" if member.endpoints else "and is not warmed up"
    why = f"{member.why}; then it was restarted manually, {state}"
    return replace(enter_stage(member, Stage.OPEN, observed), why=why)
