"""A process as supervisord knows it, and the identity of one run of it: pid and ``spawned``, never the pid alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Incarnation(NamedTuple):
    """One run of a process, or (``pid`` 0) the attempt to start it after which it is down.

    The kernel reuses pids, and a process may live for 50 ms: only both numbers together identify one run. ``spawned``
    is that of ``Process``.
    """

    pid: int = 0
    spawned: float = 0.0


@dataclass(frozen=True)
class Process:
    """A process as supervisord's table has it. supervisord sends the fields in this order, without their names."""

    name: str
    state: str  # supervisord's word: RUNNING, BACKOFF, …
    pid: int = 0
    spawned: float = 0.0  # a number that tells one attempt to start it from another
    down_for: float = 0.0  # seconds since it went down
    running_in: float = 0.0  # seconds until a STARTING one is RUNNING
    up_for: float = 0.0  # seconds since it was started
    spawn_error: str = ""
    warm: bool = False  # this incarnation was warmed up: it is in the ledger, supervisord's list of warm processes
    stopwaitsecs: float = 0.0  # seconds after which supervisord kills it when it does not stop; 0.0: unknown
    stopped_on_request: bool = False  # it last went down because a client ordered it, and not by itself
    stopped_by_rollout: bool = False  # a rollout ordered the stop that is under way, or the last one
    stop_took: float = 0.0  # seconds from the last order to stop until it was down, or until now; 0.0: no such order
    started_by_other_at: float = (
        0.0  # ``spawned`` of the last start that another client than a rollout ordered; 0.0: none
    )

    @property
    def incarnation(self) -> Incarnation:
        """The incarnation that runs, or after which it is down."""
        return Incarnation(self.pid, self.spawned)

    @property
    def is_stopped_by_other(self) -> bool:
        """Whether another client than a rollout ordered that it stops, or has stopped."""
        return self.state in ("STOPPING", "STOPPED") and not self.stopped_by_rollout


@dataclass(frozen=True)
class Change:
    """A PROCESS_STATE event: a process came from one of supervisord's states to another."""

    group: str
    name: str
    state: str
    from_state: str
    pid: int = 0  # 0: the event does not say
