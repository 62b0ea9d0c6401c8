"""Which processes of a group are available, and which only serve: the room for the next restart is counted from it."""

from __future__ import annotations

from supervisor_rolling.core.guard_state import GuardedProcess
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.process_states import ALIVE, MANUAL_STOP_GRACE, NOT_UP
from supervisor_rolling.core.rollout import Member, Rollout, Stage


def available(rollout: Rollout, observed: Observation) -> int:
    """How many processes of the group are open, RUNNING and warm, and have been ready for long enough."""
    return sum(is_available(member, observed) for member in rollout.members)


def in_service(rollout: Rollout, observed: Observation) -> int:
    """How many processes of the group users can reach: the available ones, and those that are open while the crash
    guard warms them. A rollout waits for these."""
    return sum(is_available(member, observed) or _is_open_and_cold(member, observed) for member in rollout.members)


def is_available(member: Member, observed: Observation) -> bool:
    """Whether a process counts as available."""
    is_open = member.stage is Stage.OPEN and not is_awaited(observed.guarded.get(member.name))
    return is_open and state_of(member, observed) == "RUNNING"


def is_awaited(guarded: GuardedProcess | None) -> bool:
    """Whether the crash guard is about to bring a process back into service. One that is open although its warm-up
    failed serves as well as it can: to wait for it would be to wait for the repair that the rollout may bring."""
    if guarded is None or guarded.stage is Stage.OPEN:
        return False
    return guarded.closed or guarded.stage in (Stage.DOWN, Stage.READY) or not guarded.tries


def is_serving(member: Member, observed: Observation) -> bool:
    """Whether users would miss it. One that the crash guard keeps closed because its warm-up failed serves no users;
    one that it only warms soon will."""
    guarded = observed.guarded.get(member.name)
    is_kept_closed = guarded is not None and guarded.closed and bool(guarded.tries)
    return member.stage is Stage.OPEN and not is_kept_closed and state_of(member, observed) in ALIVE


def is_counted(member: Member, observed: Observation) -> bool:
    """Whether it counts as one of the group: those that an operator stopped do not."""
    return state_of(member, observed) not in NOT_UP or member.stage is not Stage.OPEN


def is_left_stopped(member: Member, observed: Observation) -> bool:
    """Whether an operator has stopped it for good, or removed it, before the rollout came to it."""
    process = observed.processes.get(member.name)
    stopped = process is None or (process.state == "STOPPED" and process.down_for >= MANUAL_STOP_GRACE)
    return stopped and member.stage is Stage.OPEN


def state_of(member: Member, observed: Observation) -> str:
    """supervisord's state of it; STOPPED where supervisord does not have it any more."""
    process = observed.processes.get(member.name)
    return process.state if process else "STOPPED"


def unavailable_text(rollout: Rollout, observed: Observation, most: int | None = None) -> str:
    """The processes that are not available, each with its stage or state: ``app-2 is FATAL; app-3 is warming``."""
    found = [member for member in rollout.members if not is_available(member, observed)]
    return "; ".join(f"{member.name} is {_standing(member, observed)}" for member in found[:most])


def _standing(member: Member, observed: Observation) -> str:
    state, guarded = state_of(member, observed), observed.guarded.get(member.name)
    if member.stage is not Stage.OPEN:
        return str(member.stage.value)
    return str(guarded.stage.value) if guarded and state == "RUNNING" else state


def _is_open_and_cold(member: Member, observed: Observation) -> bool:
    guarded = observed.guarded.get(member.name)
    is_cold = guarded is not None and guarded.stage in (Stage.WARMING, Stage.FAILED) and not guarded.closed
    return is_cold and member.stage is Stage.OPEN and state_of(member, observed) == "RUNNING"
