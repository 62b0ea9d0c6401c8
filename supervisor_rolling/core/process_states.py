"""supervisord's states of a process, grouped by what they mean for a rollout, and questions that every stage asks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from supervisor_rolling.core.endpoint import Endpoint
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.process import Change, Process
from supervisor_rolling.core.rollout import Member, Stage

ALIVE = frozenset({"STARTING", "RUNNING"})
STARTABLE = frozenset({"STOPPED", "EXITED", "FATAL"})
DOWN = frozenset({"BACKOFF", "FATAL", "EXITED"})  # down, though no command stopped it
NOT_UP = frozenset({"STOPPED", "STOPPING", "UNKNOWN"})  # down because it was stopped, or not known

CLOSED_STAGES = frozenset({Stage.DRAINING, Stage.RESTARTING, Stage.WARMING, Stage.FAILED})
UNDER_WAY = frozenset({Stage.DRAINING, Stage.RESTARTING, Stage.WARMING, Stage.READY})

MANUAL_STOP_GRACE = 3.0
"""Seconds after which a process that another client has stopped counts as stopped for good; before, it may be in the
middle of a ``supervisorctl restart``."""


def closed_since(member: Member, closed: Mapping[Endpoint, float]) -> float:
    """Since when all endpoints of a process have been closed without a gap; infinity where one is open."""
    return max((closed.get(endpoint, math.inf) for endpoint in member.endpoints), default=-math.inf)


def still_runs(member: Member, process: Process) -> bool:
    """Whether the incarnation that is to be replaced is up, and has not been told to stop."""
    return bool(process.pid) and process.incarnation == member.old and process.state in ALIVE


def is_down_for_good(process: Process) -> bool:
    """Whether supervisord will not start it again by itself."""
    is_long = process.state in ("EXITED", "STOPPED") and process.down_for >= MANUAL_STOP_GRACE
    return process.state == "FATAL" or is_long


def is_kept_down(process: Process) -> bool:
    """Whether it fails to start, or will not be started again."""
    return process.state == "BACKOFF" or is_down_for_good(process)


def after_event(process: Process, change: Change) -> Process:
    """The process after an event. It is unchanged where the event does not follow from the state that is known: then
    the event is old, or one before it was lost. The next observation corrects that, and brings the pid of a new one."""
    follows = change.pid == process.pid if change.pid and process.pid else change.from_state == process.state
    if not follows or change.state == process.state:
        return process
    lives = change.state in ("RUNNING", "STOPPING")
    return replace(
        process,
        state=change.state,
        pid=(change.pid or process.pid) if lives else 0,
        spawned=0.0 if change.state == "STARTING" else process.spawned,
        warm=process.warm and lives,
        down_for=0.0,
        up_for=0.0,
    )


def exited(process: Process) -> Process:
    """The process once it is known to be dead and supervisord has not said why yet. No client has stopped this one."""
    return replace(process, state="EXITED", pid=0, warm=False, down_for=0.0, up_for=0.0, stopped_on_request=False)


def state_text(process: Process) -> str:
    """supervisord's state of a process, with the error of its last start."""
    return f"{process.state}: {process.spawn_error}" if process.spawn_error else f"it is {process.state}"


def down_text(member: Member, process: Process, observed: Observation) -> str:
    """``state_text``, and what holds the process's port."""
    held = observed.held.get(member.name)
    return f"{state_text(process)}; {held}" if held else state_text(process)
