"""The next stage of one process in a rollout, from its present stage and an observation.

``step`` makes at most one transition at a time, and every wait has a deadline. DRAINING, RESTARTING and WARMING have
modules of their own; ``transitions.py`` lists the transitions that are allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from supervisor_rolling.core.drain import draining
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.process_states import (
    ALIVE,
    MANUAL_STOP_GRACE,
    UNDER_WAY,
    is_down_for_good,
    state_text,
)
from supervisor_rolling.core.reason import Reason
from supervisor_rolling.core.restart import restarting
from supervisor_rolling.core.rollout import Member, Rollout, Stage
from supervisor_rolling.core.spares import opened, returned
from supervisor_rolling.core.transitions import enter_stage, reason_after, with_failure
from supervisor_rolling.core.warming import warming

STARTSECS_HINT_WITHIN = 60.0
"""Seconds: a process that exits later than this after it was opened would not have been caught by a larger
startsecs."""

EARLY_CRASH = ". Fix: raise startsecs, so that a process that crashes this early never receives traffic"
EARLY_CRASH_OF_WORKER = ". Fix: raise startsecs, so that a process that crashes this early is not ready"

JOBS_AFTER = 60.0
"""Seconds after which a worker may exit by itself, as many do after so many jobs or so much time; before, it has
crashed."""


def step(member: Member, rollout: Rollout, observed: Observation) -> Member:
    """The member after one observation."""
    process = observed.processes.get(member.name)
    if process is None:
        return _left_alone(member, observed, "is no longer in supervisord's configuration")
    if _was_stopped_manually(member, process):
        return _left_alone(member, observed, "was stopped manually, and is left stopped")
    if member.name in observed.dead and not _is_long_dead(member, rollout, observed):
        return member
    sent_back = returned(member, process, rollout, observed)
    if sent_back is not None:
        return sent_back
    return _STEPS[member.stage](member, process, rollout, observed)


def _was_stopped_manually(member: Member, process: Process) -> bool:
    is_new = member.stage is Stage.RESTARTING and process.spawned != member.old_spawned
    is_watched = member.stage in (Stage.DRAINING, Stage.WARMING, Stage.READY) or is_new
    is_down = process.state == "STOPPED" and process.down_for >= MANUAL_STOP_GRACE
    return is_watched and is_down and process.is_stopped_by_other


def _is_long_dead(member: Member, rollout: Rollout, observed: Observation) -> bool:
    """Whether supervisord has had the time of a restart to notice an exit, so that it has lost track of the process."""
    return member.stage in UNDER_WAY and observed.at - observed.dead[member.name] >= rollout.policy.restart.timeout


def _left_alone(member: Member, observed: Observation, why: str) -> Member:
    if not member.selected and member.stage is Stage.OPEN:
        return member
    return replace(enter_stage(member, Stage.OPEN, observed), selected=False, why=reason_after(member, why))


def _open(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    return _watch(member, process, observed) if member.replaced else member


def _ready(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    if not _is_as_opened(member, process) or observed.at - member.since < rollout.policy.min_ready_seconds:
        return _watch(member, process, observed)
    timing = replace(member.timing, ready=observed.at - member.since)
    return opened(replace(enter_stage(member, Stage.OPEN, observed), replaced=True, timing=timing))


def _watch(member: Member, process: Process, observed: Observation) -> Member:
    """A process that this rollout has opened. When it exits, the rollout has failed on it, and the crash guard closes
    and warms it; but a worker may end after its jobs. When another client restarts it, it is not replaced before that
    one is warm."""
    is_known = not member.pid or (member.failed and member.stage is Stage.OPEN)
    if is_known or _is_as_opened(member, process) or process.state in ("STOPPING", "STOPPED"):
        return member
    if process.stopped_on_request and process.pid and process.state in ALIVE:
        timing = replace(member.timing, warmed=0.0, ready=0.0)
        member = replace(member, pid=process.pid, spawned=process.spawned, replaced=False, timing=timing)
        return enter_stage(member, Stage.WARMING, observed)
    lived = observed.at - member.since + member.timing.ready
    if not member.endpoints and lived >= JOBS_AFTER and not is_down_for_good(process):
        is_back = process.pid and process.state in ALIVE
        return replace(member, pid=process.pid, spawned=process.spawned) if is_back else member
    text = _exit_text(member, process, lived)
    return with_failure(enter_stage(member, Stage.OPEN, observed), Reason("process.exited", text))


def _is_as_opened(member: Member, process: Process) -> bool:
    return process.incarnation == member.new and process.state == "RUNNING"


def _exit_text(member: Member, process: Process, lived: float) -> str:
    is_back = process.pid and process.incarnation != member.new
    now = "it was started again" if is_back else state_text(process)
    since = f"{lived:.1f} s after its port was opened" if member.endpoints else f"{lived:.1f} s after it was ready"
    fix = EARLY_CRASH if member.endpoints else EARLY_CRASH_OF_WORKER
    return f"exited {since}: {now}{fix if lived < STARTSECS_HINT_WITHIN else ''}"


def _failed(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    return member


_STEPS: Mapping[Stage, Callable[[Member, Process, Rollout, Observation], Member]] = {
    Stage.OPEN: _open,
    Stage.DRAINING: draining,
    Stage.RESTARTING: restarting,
    Stage.WARMING: warming,
    Stage.READY: _ready,
    Stage.FAILED: _failed,
}
