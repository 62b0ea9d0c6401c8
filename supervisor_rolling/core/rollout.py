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
    """Where a process stands; the diagrams are in ``core/machine.py`` and, for DOWN, in ``core/guard.py``."""

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


class Rest(NamedTuple):
    """A time in which a rollout lay still: it had ended, and was resumed later. ``why``: it had ended."""

    begin: float
    end: float
    why: str


@dataclass(frozen=True)
class Timing:
    """How long each stage of one process took, in seconds; 0.0 until it is over. RESTARTING has two parts: ``stopped``,
    until the old process was down, and ``started``, from then until there was a new one. It is warmed from then on, and
    at least for its startsecs. See ``core/timeline.py`` for when a stage begins and ends."""

    drained: float = 0.0
    stopped: float = 0.0
    started: float = 0.0
    warmed: float = 0.0
    ready: float = 0.0


@dataclass(frozen=True)
class Member:
    """One process of a group in a rollout.

    ``selected``: this rollout is to replace it. ``attempted``: it has left OPEN for that. ``replaced``: it came back
    new. ``failed``: the rollout failed on it; its stage says whether it is kept closed (FAILED), is on its way back, or
    serves all the same. ``was_closed``: it was kept closed before it left, so it must not be reopened as it is.
    ``old_pid`` and ``old_spawned`` name the incarnation that is to be replaced (pid 0 where none ran), ``pid`` and
    ``spawned`` the new. ``killed``: the old one did not stop, so that supervisord killed it; ``deaths``: new ones that
    died while they were warmed up. ``oldest_lingering`` are the oldest few of the ``lingering_connections`` at the
    drain's deadline. ``steps``: each stage that it entered, from the first that is not OPEN on. ``latencies``: of the
    first requests of its warm-up, in ms."""

    name: str
    endpoints: tuple[Endpoint, ...]
    selected: bool = True
    stage: Stage = Stage.OPEN
    since: float = 0.0
    attempted: bool = False
    replaced: bool = False
    failed: bool = False
    was_closed: bool = False
    old_pid: int = 0
    old_spawned: float = 0.0
    pid: int = 0
    stopped_at: float = 0.0
    killed: bool = False
    deaths: int = 0
    timing: Timing = Timing()
    lingering_connections: int = 0
    oldest_lingering: tuple[Connection, ...] = ()
    requests: int = 0
    first_ms: float = 0.0
    last_ms: float = 0.0
    why: str = ""
    steps: tuple[Step, ...] = ()
    latencies: tuple[float, ...] = ()
    statuses: tuple[int, ...] = ()  # of the same requests as the latencies
    spawned: float = 0.0

    @property
    def ports(self) -> tuple[int, ...]:
        """The numbers of its TCP ports."""
        return tcp_ports(self.endpoints)

    @property
    def old(self) -> Incarnation:
        """The incarnation that is to be replaced."""
        return Incarnation(self.old_pid, self.old_spawned)

    @property
    def new(self) -> Incarnation:
        """The one that replaces it."""
        return Incarnation(self.pid, self.spawned)


@dataclass(frozen=True)
class Rollout:
    """One rolling restart of a group: everything that a new listener needs to go on with it.

    ``by``: who asks, as they say. ``user`` and ``client``: as their connection tells; empty where it does not.
    ``began``: when it was asked for, by the wall clock, in Unix seconds. ``forecast``: how many seconds it was expected
    to take; 0.0 where nobody could know. ``levels``: how many were available, whenever that changed. ``prepared``:
    the command before it has succeeded. ``verdict``: the status that it will have when those after it have run.
    """

    id: int
    group: str
    policy: Policy
    members: tuple[Member, ...]
    limit: int  # processes that may be unavailable at a time
    gate: GatePolicy
    force: bool = False
    by: str = ""
    status: Status = Status.RUNNING
    paused: bool = False
    aborting: bool = False
    started_at: float = 0.0
    ended_at: float = 0.0
    stuck_since: float = 0.0  # nothing under way and no room for the next; 0.0 while it moves
    least_available: int = 0
    why: str = ""
    user: str = ""
    client: str = ""
    began: float = 0.0
    forecast: float = 0.0
    levels: tuple[Level, ...] = ()
    prepared: bool = False
    verdict: str = ""
    waits_for: str = ""  # the reason why nothing moves; empty: it moves
    waits_long: bool = False  # for some seconds already, so that it is worth a line
    rests: tuple[Rest, ...] = ()  # its other times are real ones; what counts as its own is ``chronicle.active``
