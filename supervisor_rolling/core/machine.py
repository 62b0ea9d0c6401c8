"""What a rollout does next: pure functions from what is known and what was seen to what shall be.

One machine per process, whoever restarted it::

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
               ─▶ OPEN        it was stopped manually, or is gone from supervisord's configuration
    WARMING    ─▶ READY       it is warm, and RUNNING
               ─▶ WARMING     another client restarts it
               ─▶ FAILED      it does not become warm, or exits for good
               ─▶ OPEN        it was stopped manually, or is gone from supervisord's configuration
    READY      ─▶ OPEN        it was ready for min_ready_seconds; it exits; or it was stopped manually
               ─▶ WARMING     another client restarts it
    FAILED     ─▶ DRAINING    the next rollout replaces it, and it runs
               ─▶ RESTARTING  the next rollout replaces it, and it is down
               ─▶ OPEN        it is gone from supervisord's configuration; or another client restarts it (guard: false)

A process that is down (BACKOFF, FATAL, EXITED) goes to RESTARTING at once: there is nothing to drain. One that an
earlier failure kept closed has drained since then. DRAINING, RESTARTING, WARMING and FAILED are *closed*; READY and
OPEN are open.

The rollout decides only who leaves OPEN, and when. With ``limit`` 2 of 8 processes, one of them crashed:

    available    7   a process is available when it is OPEN and RUNNING, and the guard has not still to warm it
    unavailable  1   8 - 7; those that an operator stopped count for neither
    room         1   limit - unavailable: one may leave OPEN; the crashed one may be replaced too, it takes no room

* The first ``canary`` processes go alone; down before serving, then in natural order (web_2 before web_10).
* The next leaves as soon as there is room: a sliding window, not waves.
* More failures than ``max_failures`` (0): nobody leaves OPEN any more; who left is brought to an end; then the rollout
  ends.
* The last process that serves is not closed unless the rollout is forced.
* One that dies after the rollout had opened it: the rollout has failed on it. The guard (``guard.py``) closes and warms it,
  as any that dies. When the rollout is over the guard has in hand, too, what the rollout left FAILED.
* What an operator stops is left stopped, at whatever stage; what the rollout itself stopped is started again. What an
  operator restarts after the rollout had replaced it is warmed once more, and replaced when it is warm.
* One that does not stop is killed by supervisord after its stopwaitsecs. The rollout has failed on it, unless that was
  accepted (``restart.on_kill``, ``drain.on_timeout``); it comes back new and is opened all the same.
* Who drains is told so, where the policy says how (``drain.signal``, ``drain.request``), as soon as its gate is
  closed. It goes on serving: to tell is no more than to ask it to end the connections that it keeps.
* Deadlines run only while somebody looks: a listener that was away fails nobody.
* Every wait has a deadline. Nothing is remembered but what stands in the rollout: a new listener goes on from there.

Answers come from the present, never from remembered events; a lost event costs a delay. ``observed.at`` is the time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from supervisor_rolling.core import hook_steps
from supervisor_rolling.core.actions import Action
from supervisor_rolling.core.drain import can_be_notified, drain_signal
from supervisor_rolling.core.endpoint import Endpoint
from supervisor_rolling.core.guard_state import GuardedProcess
from supervisor_rolling.core.jobs import NotificationJob, WarmupJob
from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.process_states import (
    ALIVE,
    CLOSED_STAGES,
    MANUAL_STOP_GRACE,
    NOT_UP,
    UNDER_WAY,
    closed_since,
    still_runs,
)
from supervisor_rolling.core.restart import restart_action
from supervisor_rolling.core.rollout import Member, Rest, Rollout, Stage, Status, Timing
from supervisor_rolling.core.stages import step
from supervisor_rolling.core.timeline import begun_at, levelled, noted
from supervisor_rolling.core.transitions import to
from supervisor_rolling.core.wait_reasons import MAX_NAMED, for_the_guard, for_warm_ups, waiting_for

# --- the four questions that the reconciler asks


def advance(rollout: Rollout, observed: Observation) -> Rollout:
    """The rollout after one look. One that has ended is left as it is, but for what another client starts again."""
    if rollout.status is not Status.RUNNING:
        return rollout if rollout.policy.guard.enabled else _released(rollout, observed)
    if rollout.verdict:
        return waiting_for(
            hook_steps.concluded(rollout, observed.hook), "its last commands", rollout.ended_at, observed.at
        )
    if not rollout.prepared:
        rollout = hook_steps.prepared(rollout, observed.hook)
        if not rollout.prepared:
            return waiting_for(rollout, hook_steps.BEFORE, begun_at(rollout), observed.at)
        if rollout.why:
            return waiting_for(
                hook_steps.ended(rollout, Status.FAILED, observed.at, rollout.why), "", observed.at, observed.at
            )
    before = rollout.members
    rollout = _extend_deadlines(rollout, observed)
    rollout = replace(rollout, members=tuple(step(member, rollout, observed) for member in rollout.members))
    rollout = _admit(rollout, observed)
    rollout = replace(rollout, members=tuple(map(partial(noted, at=observed.at), before, rollout.members)))
    rollout = levelled(rollout, in_service(rollout, observed), observed.at)
    rollout = _finish(rollout, observed)
    return waiting_for(rollout, *_wait_of(rollout, observed), observed.at)


def _released(rollout: Rollout, observed: Observation) -> Rollout:
    """An ended rollout without a guard: what it left failed, and another client has started again, is no longer its."""
    members = tuple(_released_one(member, observed) for member in rollout.members)
    if members == rollout.members:
        return rollout
    return replace(rollout, members=tuple(map(partial(noted, at=observed.at), rollout.members, members)))


def _released_one(member: Member, observed: Observation) -> Member:
    process = observed.processes.get(member.name)
    if member.stage is not Stage.FAILED or process is None or process.state not in ALIVE or not process.pid:
        return member
    if process.started_by_other <= max(member.old_spawned, member.spawned):
        return member  # it is what failed, or what supervisord itself has started again after it
    why = f"{member.why}; then it was restarted by hand, so its port is open (guard: false: it is not warmed up)"
    return replace(to(member, Stage.OPEN, observed), why=why)


def closed(rollout: Rollout) -> dict[Endpoint, str]:
    """The endpoints that must be closed, each with a comment for whoever lists the rules. Holds for ended rollouts too:
    what failed stays closed, unless the guard takes it over."""
    return {
        endpoint: f"supervisor_rolling {rollout.group}:{member.name}"
        for member in rollout.members
        if member.stage in CLOSED_STAGES
        for endpoint in member.endpoints
    }


def actions(rollout: Rollout, observed: Observation, closed_since: Mapping[Endpoint, float]) -> tuple[Action, ...]:
    """What supervisord must be told now; ``closed_since`` is what the gate said after the rollout was recorded."""
    told = (
        drain_signal(member, rollout, observed, closed_since)
        for member in rollout.members
        if member.stage is Stage.DRAINING
    )
    found = (
        restart_action(member, observed, closed_since) for member in rollout.members if member.stage is Stage.RESTARTING
    )
    return tuple(one for one in (*told, *found) if one)


def jobs(rollout: Rollout) -> dict[str, WarmupJob]:
    """The processes that must be warmed now, by name."""
    return {
        member.name: hook_steps.warmup_job(rollout, member)
        for member in rollout.members
        if member.stage is Stage.WARMING and member.pid
    }


def notifications(
    rollout: Rollout, processes: Mapping[str, Process], closed_since: Mapping[Endpoint, float]
) -> dict[str, NotificationJob]:
    """The processes that must be told now by a request that they drain, by name; each once while it is among them."""
    request, headers = rollout.policy.drain.request, rollout.policy.warmup.headers
    return {
        member.name: NotificationJob(
            member.old_pid, member.endpoints, request, headers, rollout.gate.bypass, member.old_spawned
        )
        for member in rollout.members
        if request and member.stage is Stage.DRAINING and member.endpoints
        if can_be_notified(member, processes.get(member.name), closed_since)
    }


def leaving(rollout: Rollout, closed: Mapping[Endpoint, float]) -> list[Member]:
    """Those whose gate is closed, so that an old one is drained or on its way out: what still asks them shall
    not come again. ``closed`` is what the gate said after the rollout was recorded."""
    is_running = rollout.status is Status.RUNNING
    leaving = [m for m in rollout.members if is_running and m.stage in (Stage.DRAINING, Stage.RESTARTING)]
    return [member for member in leaving if closed_since(member, closed) < math.inf]


def available(rollout: Rollout, observed: Observation) -> int:
    """How many processes of the group serve, warm and settled."""
    return sum(_is_available(member, observed) for member in rollout.members)


def in_service(rollout: Rollout, observed: Observation) -> int:
    """How many processes of the group take new connections, settled: those too that are open while they are warmed. A
    rollout waits for these, but users have them."""
    return sum(_is_available(member, observed) or _is_open_and_cold(member, observed) for member in rollout.members)


def resumed(rollout: Rollout, previous: Rollout, processes: Mapping[str, Process]) -> Rollout:
    """A fresh rollout that goes on where a failed or aborted one stopped: what is new already is not replaced again.

    The time that it lay still does not count as its own.
    """
    rests = (*previous.rests, Rest(previous.ended_at, rollout.started_at, previous.why))
    before = {member.name: member for member in previous.members}
    members = tuple(_carried(member, before.get(member.name), processes) for member in rollout.members)
    least = min(rollout.least_available, previous.least_available)
    rollout = replace(rollout, id=previous.id, force=previous.force, by=previous.by, limit=previous.limit)
    rollout = replace(rollout, user=previous.user, client=previous.client, began=previous.began)
    levels = (*previous.levels, *rollout.levels)
    rollout = replace(rollout, started_at=previous.started_at, rests=rests)
    return replace(rollout, members=members, least_available=least, levels=levels)


def planned(rollout: Rollout, observed: Observation) -> Rollout:
    """The answer to a dry run: the rollout with its members in the order in which they would go, those left alone
    last."""
    queue = _candidates(rollout, observed)
    rest = tuple(member for member in rollout.members if member not in queue)
    return replace(rollout, members=(*queue, *rest), status=Status.PLANNED, ended_at=rollout.started_at)


def _carried(member: Member, before: Member | None, processes: Mapping[str, Process]) -> Member:
    if before is None:
        return member
    process = processes[member.name]
    if before.replaced and before.stage is Stage.OPEN and process.state in ALIVE:
        # Another incarnation was started by another client, and is not known to be warm.
        warmed = before.pid if before.new == process.incarnation else 0
        return replace(before, pid=warmed, endpoints=member.endpoints, failed=False, why="")
    was_asked_for = before.selected or before.attempted or bool(before.why)
    return replace(member, selected=member.selected and was_asked_for, steps=(*before.steps, *member.steps))


# --- the group


def _extend_deadlines(rollout: Rollout, observed: Observation) -> Rollout:
    """Deadlines do not run while nobody could act: a listener that was away must not fail what did nothing wrong."""
    if not observed.gap:
        return rollout
    members = tuple(
        _extend_deadline(member, observed) if member.stage in UNDER_WAY else member for member in rollout.members
    )
    stuck_since = rollout.stuck_since + observed.gap if rollout.stuck_since else 0.0
    return replace(rollout, members=members, stuck_since=stuck_since)


def _extend_deadline(member: Member, observed: Observation) -> Member:
    """One that was found drained and runs still is drained again: with a later ``since`` a gate that was open meanwhile
    would seem to have been closed all the time."""
    process = observed.processes.get(member.name)
    if member.stage is Stage.RESTARTING and process and still_runs(member, process):
        return to(member, Stage.DRAINING, observed)
    stopped_at = member.stopped_at + observed.gap if member.stopped_at else 0.0
    return replace(member, since=member.since + observed.gap, stopped_at=stopped_at)


def _admit(rollout: Rollout, observed: Observation) -> Rollout:
    """Let those leave OPEN that may now, the next one first."""
    replaced = sum(member.replaced for member in rollout.members)
    places = (1 if replaced < rollout.policy.canary else rollout.limit) - _count(rollout, UNDER_WAY)
    if rollout.paused or places <= 0 or _is_stopping(rollout):
        return rollout
    serving, counted = available(rollout, observed), sum(_counts(member, observed) for member in rollout.members)
    leaving: dict[str, Member] = {}
    for member in _candidates(rollout, observed):
        has_room = counted - serving < rollout.limit and (serving > 1 or rollout.force)
        if len(leaving) >= places or (_serves(member, observed) and not has_room):
            break
        leaving[member.name] = _leave(member, observed)
        serving -= _is_available(member, observed)
        counted += not _counts(member, observed)
    if not leaving:
        return rollout
    return replace(rollout, members=tuple(leaving.get(member.name, member) for member in rollout.members))


def _counts(member: Member, observed: Observation) -> bool:
    """Whether it is one of the group at all: those that an operator stopped are not."""
    return _state(member, observed) not in NOT_UP or member.stage is not Stage.OPEN


def _leave(member: Member, observed: Observation) -> Member:
    process = observed.processes[member.name]
    stage = Stage.DRAINING if process.state in ALIVE else Stage.RESTARTING
    was_closed = member.stage is Stage.FAILED
    member = replace(
        to(member, stage, observed),
        attempted=True,
        was_closed=was_closed,
        old_pid=process.pid,
        old_spawned=process.spawned,
    )
    member = replace(member, pid=0, spawned=0.0, stopped_at=0.0, killed=False, deaths=0, timing=Timing())
    return replace(member, lingering_connections=0, oldest_lingering=(), requests=0, latencies=(), statuses=(), why="")


def _candidates(rollout: Rollout, observed: Observation) -> list[Member]:
    """Who has still to be replaced and can be, the next one first."""
    waiting = [member for member in _waiting(rollout) if _can_go(member, observed)]
    return sorted(waiting, key=lambda member: (_serves(member, observed), natural(member.name)))


def _waiting(rollout: Rollout) -> list[Member]:
    return [member for member in rollout.members if member.selected and not member.attempted]


def _being_stopped(rollout: Rollout, observed: Observation) -> list[Member]:
    """Those that are replaced and that somebody stops, or restarts: a moment will tell."""
    return [m for m in rollout.members if m.selected and m.replaced and _state(m, observed) in ("STOPPING", "STOPPED")]


def _can_go(member: Member, observed: Observation) -> bool:
    """A stopped process is left so, unless it is down because an earlier try failed on it. One that has died may have
    been stopped."""
    state = _state(member, observed)
    if member.name in observed.dead:
        return False
    return state not in NOT_UP or (state == "STOPPED" and member.stage is Stage.FAILED)


def _finish(rollout: Rollout, observed: Observation) -> Rollout:
    if _count(rollout, UNDER_WAY):
        return replace(rollout, stuck_since=0.0)
    stopping, waiting = _is_stopping(rollout), [*_waiting(rollout), *_being_stopped(rollout, observed)]
    if stopping or not [member for member in waiting if not _is_left_stopped(member, observed)]:
        return _end(rollout, observed)
    if rollout.paused:
        return replace(rollout, stuck_since=0.0)
    stuck_since = rollout.stuck_since or observed.at
    if observed.at - stuck_since >= _patience(rollout, observed):
        return hook_steps.ended(
            _accounted(rollout, observed), Status.FAILED, observed.at, _stuck_text(rollout, observed)
        )
    return replace(rollout, stuck_since=stuck_since)


def _end(rollout: Rollout, observed: Observation) -> Rollout:
    rollout = _accounted(rollout, observed)
    failed = [member for member in rollout.members if member.failed]
    why = "; ".join(f"{rollout.group}:{member.name} {member.why}" for member in failed)
    status = Status.FAILED if failed else Status.DONE
    if _is_nobody_left(rollout, observed):  # "done" would tell a deploy that the new code serves
        status, why = Status.ABORTED, "all that it was to replace were stopped by hand: the new code serves nobody"
    status = Status.ABORTED if rollout.aborting else status
    return hook_steps.ended(rollout, status, observed.at, why)


def _accounted(rollout: Rollout, observed: Observation) -> Rollout:
    return replace(rollout, members=tuple(_accounted_for(member, observed) for member in rollout.members))


def _is_nobody_left(rollout: Rollout, observed: Observation) -> bool:
    selected = [member for member in rollout.members if member.selected]
    return not any(m.failed for m in rollout.members) and all(_is_left_stopped(member, observed) for member in selected)


def _accounted_for(member: Member, observed: Observation) -> Member:
    if not member.selected or member.attempted or not _is_left_stopped(member, observed):
        return member
    return replace(member, selected=False, why="was stopped manually, and is left stopped")


def _wait_of(rollout: Rollout, observed: Observation) -> tuple[str, float]:
    """For what the rollout waits, and since when."""
    if rollout.status is not Status.RUNNING or rollout.verdict or rollout.paused:
        return "", 0.0
    if _count(rollout, UNDER_WAY):
        return for_warm_ups(rollout, observed)
    if not rollout.stuck_since:
        return "", 0.0
    awaited = [member.name for member in rollout.members if _is_awaited(observed.guarded.get(member.name))]
    down = [
        f"{member.name} is {_standing(member, observed)}"
        for member in rollout.members
        if not _is_available(member, observed)
    ]
    return for_the_guard(awaited, observed) if awaited else f"room: {'; '.join(down[:MAX_NAMED])}", rollout.stuck_since


def _stuck_text(rollout: Rollout, observed: Observation) -> str:
    down = [
        f"{member.name} is {_standing(member, observed)}"
        for member in rollout.members
        if not _is_available(member, observed)
    ]
    reason = f"no room under the limit of {rollout.limit}" if down else "only one process serves (--force takes it too)"
    return f"waited {_patience(rollout, observed):g} s and could not go on: {reason}. {'; '.join(down)}".rstrip()


def _patience(rollout: Rollout, observed: Observation) -> float:
    """Seconds to wait for room: as long as a process takes that the guard brings back."""
    is_coming = any(guarded.stage in (Stage.WARMING, Stage.READY) for guarded in observed.guarded.values())
    policy = rollout.policy
    return policy.restart.timeout + (policy.warmup.timeout + policy.min_ready_seconds if is_coming else 0.0)


def _is_stopping(rollout: Rollout) -> bool:
    return rollout.aborting or sum(member.failed for member in rollout.members) > rollout.policy.max_failures


def _standing(member: Member, observed: Observation) -> str:
    state, guarded = _state(member, observed), observed.guarded.get(member.name)
    if member.stage is not Stage.OPEN:
        return str(member.stage.value)
    return str(guarded.stage.value) if guarded and state == "RUNNING" else state


def _is_available(member: Member, observed: Observation) -> bool:
    is_open = member.stage is Stage.OPEN and not _is_awaited(observed.guarded.get(member.name))
    return is_open and _state(member, observed) == "RUNNING"


def _is_awaited(guarded: GuardedProcess | None) -> bool:
    """Whether the guard is about to bring a process back into service. One that is open although its warm-up failed
    serves as well as it can: to wait for it would be to wait for the repair that the rollout may bring."""
    if guarded is None or guarded.stage is Stage.OPEN:
        return False
    return guarded.closed or guarded.stage in (Stage.DOWN, Stage.READY) or not guarded.tries


def _is_open_and_cold(member: Member, observed: Observation) -> bool:
    guarded = observed.guarded.get(member.name)
    is_cold = guarded is not None and guarded.stage in (Stage.WARMING, Stage.FAILED) and not guarded.closed
    return is_cold and member.stage is Stage.OPEN and _state(member, observed) == "RUNNING"


def _serves(member: Member, observed: Observation) -> bool:
    """Whether somebody would miss it. One that the guard keeps closed because its warm-up failed serves nobody; one
    that it only warms soon will."""
    guarded = observed.guarded.get(member.name)
    is_shut = guarded is not None and guarded.closed and bool(guarded.tries)
    return member.stage is Stage.OPEN and not is_shut and _state(member, observed) in ALIVE


def _is_left_stopped(member: Member, observed: Observation) -> bool:
    process = observed.processes.get(member.name)
    stopped = process is None or (process.state == "STOPPED" and process.down_for >= MANUAL_STOP_GRACE)
    return stopped and member.stage is Stage.OPEN


def _state(member: Member, observed: Observation) -> str:
    process = observed.processes.get(member.name)
    return process.state if process else "STOPPED"


def _count(rollout: Rollout, stages: frozenset[Stage]) -> int:
    return sum(member.stage in stages for member in rollout.members)
