"""Spare processes (``surge``): stopped between rollouts, so that a rollout starts a new one before it stops an old one.

A rollout starts a spare with the new code, and only when that is warm and open, an old one drains and stops, and is the
next spare. So capacity never falls below what it was, and a deploy that does not become warm costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from supervisor_rolling.core.actions import Action, Verb
from supervisor_rolling.core.availability import state_of
from supervisor_rolling.core.drain import MIN_DRAIN
from supervisor_rolling.core.endpoint import Endpoint, Endpoints
from supervisor_rolling.core.guard_state import GuardedProcess
from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import Policy
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.process_states import ALIVE, NOT_UP
from supervisor_rolling.core.rollout import Member, Rollout, Stage
from supervisor_rolling.core.transitions import enter_stage

Closed = Mapping[Endpoint, float]
"""The endpoints that the gate says are closed, each with the moment since when."""

AT_REST = ("STOPPED", "FATAL", "EXITED")
"""The states of a process that can be a spare, the likeliest first."""

WHY = "is the spare (surge)"

WILL_REST = "is to be the spare (surge): it is stopped when it has finished its requests"

SPAWN_TAKES = 0.2
"""Seconds after which a new process gets a signal for certain: one that comes between fork and exec may be lost."""


def with_spares(rollout: Rollout, processes: Mapping[str, Process]) -> Rollout:
    """A new rollout with its spares, and the capacity that it keeps."""
    surge = rollout.policy.surge
    if not surge:
        return rollout
    resting = [member for member in rollout.members if processes[member.name].state in AT_REST]
    resting.sort(key=lambda member: AT_REST.index(processes[member.name].state))
    names = {member.name for member in resting[:surge]}
    members = tuple(
        replace(member, spare=True, selected=False, why=WHY) if member.name in names else member
        for member in rollout.members
    )
    up = sum(processes[member.name].state not in (*NOT_UP, *AT_REST) for member in members)
    capacity = max(1, min(up, len(members) - surge))
    number = sum(member.selected for member in members)
    return replace(rollout, members=members, capacity=capacity, limit=surge, to_replace=number)


def to_start(rollout: Rollout, observed: Observation) -> list[Member]:
    """The spares that are to be started: one for each old process that is still to be replaced, beyond those that
    serve or soon will in addition to the capacity."""
    old = sum(member.selected and not member.attempted for member in rollout.members)
    coming = sum(_serves_or_will(member, observed) for member in rollout.members)
    number = max(0, old - (coming - rollout.capacity))
    spares = [m for m in rollout.members if m.spare and not m.failed and m.stage in (Stage.OPEN, Stage.FAILED)]
    return [member for member in spares if state_of(member, observed) in AT_REST][:number]


def returned(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member | None:
    """A spare that an abort sends back, after one observation; None where the rollout goes on with it."""
    if not (rollout.aborting and member.spare and member.stage in (Stage.RESTARTING, Stage.WARMING)):
        return None
    if process.state not in AT_REST:
        return member
    return replace(enter_stage(member, Stage.OPEN, observed), attempted=False, why=WHY)


def rested(member: Member, observed: Observation) -> Member:
    """An old process that has stopped: it is the next spare."""
    return replace(
        enter_stage(member, Stage.OPEN, observed), spare=True, selected=False, attempted=False, why=member.why or WHY
    )


def opened(member: Member) -> Member:
    """A spare that has been opened is one of the group's processes."""
    return replace(member, spare=False, selected=True, why="") if member.spare else member


def is_to_stop(member: Member, rollout: Rollout, observed: Observation) -> bool:
    """Whether a spare that runs is to be stopped: it has failed, or the rollout is aborted before it is open."""
    if not member.spare or state_of(member, observed) in (*AT_REST, "UNKNOWN"):
        return False
    is_sent_back = rollout.aborting and member.stage in (Stage.RESTARTING, Stage.WARMING)
    return is_sent_back or (member.stage is Stage.FAILED and member.failed)


def stop_action(member: Member, observed: Observation) -> Action | None:
    """The command to stop such a spare, where it has not been given yet."""
    process = observed.processes[member.name]
    if process.state == "STOPPING" or member.name in observed.dead:
        return None
    return Action(Verb.STOP, member.name, process.incarnation)


def to_rest(policy: Policy, guarded: Iterable[GuardedProcess], observed: Observation) -> list[str]:
    """The processes beyond the group's capacity, as after a boot, which starts them all. Only what supervisord started
    by itself, and what serves least: not warm, chosen before, STARTING, the youngest, the last by name."""
    up = [p for p in observed.processes.values() if p.state in ALIVE and p.started_by_other_at != p.spawned]
    extra = len(up) - max(1, len(observed.processes) - policy.surge)
    if not policy.surge or extra <= 0:
        return []
    chosen = {one.name for one in guarded if one.spare}
    up.sort(key=lambda process: natural(process.name), reverse=True)
    up.sort(key=lambda p: (p.warm, p.name not in chosen, p.state != "STARTING", p.up_for))
    return [process.name for process in up[:extra]]


def surplus(
    policy: Policy, guarded: Iterable[GuardedProcess], observed: Observation, endpoints: Endpoints, closed: Closed
) -> list[Action]:
    """The commands to stop those ``to_rest`` that no user misses: it boots, or it was closed and has drained, or it has
    no port of its own, and its stop is its drain. What is left running becomes a spare in the next rollout.
    ``endpoints``: of those of which they are known."""
    ours = {one.name: one for one in guarded}

    def is_missed(process: Process) -> bool:
        one = ours.get(process.name)
        has_none = process.name in endpoints and not endpoints[process.name]
        is_unreachable = process.state == "STARTING" or has_none
        return not is_unreachable and not (one and _is_drained(one, policy, observed, closed))

    found = [observed.processes[name] for name in to_rest(policy, ours.values(), observed)]
    return [
        Action(Verb.STOP, process.name, process.incarnation)
        for process in found
        if process.name not in observed.dead and process.up_for >= SPAWN_TAKES and not is_missed(process)
    ]


def _is_drained(one: GuardedProcess, policy: Policy, observed: Observation, closed: Closed) -> bool:
    """Whether a spare that the guard has closed has no connection left, or has had the time of a drain for it."""
    if not one.closed or not one.endpoints or not closed.keys() >= set(one.endpoints):
        return False
    waited = observed.at - max(closed[endpoint] for endpoint in one.endpoints)
    is_left = observed.connections.get(one.name, 1)
    return waited >= policy.drain.timeout or (waited >= MIN_DRAIN and not is_left)


def _serves_or_will(member: Member, observed: Observation) -> bool:
    if member.stage is Stage.OPEN:
        return state_of(member, observed) not in (*NOT_UP, *AT_REST)
    return member.stage in (Stage.WARMING, Stage.READY) or (member.spare and member.stage is Stage.RESTARTING)
