"""One rolling restart of a group, from the request to its end, with a ``Member`` for each process of the group.

Points in time are seconds on CLOCK_MONOTONIC, which every program of a host shares, so that a rollout outlives the
listener that started it; 0.0 stands for "not yet". Durations are seconds, ``*_ms`` are milliseconds. ``codec.py`` turns
rollouts into JSON and back.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from supervisor_rolling.core.connections import Connection
from supervisor_rolling.core.endpoint import Endpoint, tcp_ports
from supervisor_rolling.core.policy import GatePolicy, Policy
from supervisor_rolling.core.process import Incarnation


class Stage(str, enum.Enum):
    """The stage of a process in a rollout (diagram: ``core/machine.py``) or in the crash guard (``core/guard.py``)."""

    OPEN = "open"
    DOWN = "down"
    DRAINING = "draining"
    RESTARTING = "restarting"
    WARMING = "warming"
    READY = "ready"
    FAILED = "failed"


class Status(str, enum.Enum):
    """Where a rollout stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"
    PLANNED = "planned"  # the end of a dry run
    LOST = "lost"  # it was running when supervisord ended; in the history only


class Step(NamedTuple):
    """A stage that a process entered, and when."""

    stage: Stage
    at: float


class Level(NamedTuple):
    """How many processes of a group were available from a moment on."""

    at: float
    available: int


class Interruption(NamedTuple):
    """The time between an end of a rollout and its resume."""

    begin: float
    end: float
    why: str  # it had ended


@dataclass(frozen=True)
class Timing:
    """How many seconds each stage of one process took; 0.0 until it is over. ``core/timeline.py`` says when a stage
    begins and ends. The new process is warmed from its start on, and at least for its startsecs."""

    drained: float = 0.0
    stopped: float = 0.0  # of RESTARTING, until the old process was down
    started: float = 0.0  # of RESTARTING, from then until there was a new one
    warmed: float = 0.0
    ready: float = 0.0


@dataclass(frozen=True)
class Member:
    """One process of a group in a rollout."""

    name: str
    endpoints: tuple[Endpoint, ...]
    selected: bool = True  # this rollout is to replace it
    stage: Stage = Stage.OPEN
    since: float = 0.0  # when it entered the stage
    attempted: bool = False  # it has left OPEN to be replaced
    replaced: bool = False  # it is back as a new process
    failed: bool = False  # the rollout failed on it; its stage says whether it is kept closed (FAILED) or not
    was_closed: bool = False  # it was kept closed before it left, so it must not be reopened as it is
    old_pid: int = 0  # with old_spawned: the incarnation to replace; 0: none ran
    old_spawned: float = 0.0
    pid: int = 0  # with spawned: the new incarnation; 0: none yet
    stopped_at: float = 0.0
    killed: bool = False  # the old process did not stop, so that supervisord killed it
    deaths: int = 0  # new processes that exited during their warm-up
    timing: Timing = Timing()
    lingering_connections: int = 0  # at the deadline of its drain
    oldest_lingering: tuple[Connection, ...] = ()  # the oldest few of them
    requests: int = 0  # of its warm-up
    first_ms: float = 0.0
    last_ms: float = 0.0
    why: str = ""
    code: str = ""  # of why, if the rollout failed on it
    steps: tuple[Step, ...] = ()  # each stage that it entered, from the first after OPEN on
    latencies: tuple[float, ...] = ()  # of the first requests of its warm-up, in ms
    statuses: tuple[int, ...] = ()  # of the same requests
    spawned: float = 0.0
    spare: bool = False  # it is stopped, or is started as one more than served before (surge)

    @property
    def ports(self) -> tuple[int, ...]:
        """The numbers of its TCP ports."""
        return tcp_ports(self.endpoints)

    @property
    def old(self) -> Incarnation:
        """The incarnation that is to be replaced."""
        return Incarnation(self.old_pid, self.old_spawned)

    @property
    def is_unused(self) -> bool:
        """Whether the old process has no request and no job: it was kept closed. Without a port nothing is closed: a
        worker that a rollout failed on takes jobs all the same."""
        return self.was_closed and bool(self.endpoints)

    @property
    def new(self) -> Incarnation:
        """The one that replaces it."""
        return Incarnation(self.pid, self.spawned)


@dataclass(frozen=True)
class Rollout:
    """One rolling restart of a group: everything that a new listener needs to continue it."""

    id: int
    group: str
    policy: Policy
    members: tuple[Member, ...]
    limit: int  # processes that may be unavailable at a time
    gate: GatePolicy
    force: bool = False
    by: str = ""  # the client, as it names itself
    status: Status = Status.RUNNING
    paused: bool = False
    aborting: bool = False
    started_at: float = 0.0
    ended_at: float = 0.0
    stuck_since: float = 0.0  # nothing is under way, and there is no room for the next process; 0.0: it moves
    min_available: int = 0
    why: str = ""
    code: str = ""  # of why, if it failed
    user: str = ""  # the client's user, as its connection tells; empty: unknown
    client: str = ""  # the client's address, likewise
    began: float = 0.0  # when it was requested, in Unix seconds
    forecast: float = 0.0  # seconds that it was expected to take; 0.0: unknown
    levels: tuple[Level, ...] = ()  # how many were available, whenever that changed
    prepared: bool = False  # before_rollout has succeeded
    final_status: str = ""  # the status that it gets when its last hooks have run
    waits_for: str = ""  # the reason why nothing moves; empty: it moves
    waits_long: bool = False  # for some seconds already, so that it is worth a line
    interruptions: tuple[Interruption, ...] = ()  # other times are real ones; ``timeline.active`` leaves these out
    capacity: int = 0  # with spares: never fewer serve, as long as none dies; 0: without
    to_replace: int = 0  # with spares: the processes that were selected when it began
    max_unavailable: str = ""  # as the client wants it, also for the groups that follow; empty: as the policy says
    following: tuple[str, ...] = ()  # the groups that are to be restarted after this one, when it is done
    next_problem: str = ""  # why the first of them was not; empty: nothing

    @property
    def total(self) -> int:
        """The processes to replace. While a spare runs beside the old ones, more are selected."""
        return self.to_replace or sum(member.selected for member in self.members)

    @property
    def may_stop_all(self) -> bool:
        """Whether the last process that serves may be stopped: no request fails where none is sent."""
        return self.force or self.policy.ports.none
