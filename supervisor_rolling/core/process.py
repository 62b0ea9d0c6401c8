"""A process as supervisord knows it, and the identity of one run of it: pid and ``spawned``, never the pid alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Incarnation(NamedTuple):
    """One run of a process, or (``pid`` 0) the attempt to start it after which it is down.

    The kernel uses a pid again, and a process may live for 50 ms: only both numbers together name one run. ``spawned``
    is that of ``Process``.
    """

    pid: int = 0
    spawned: float = 0.0


@dataclass(frozen=True)
class Process:
    """A process as supervisord's table has it.

    ``state`` is supervisord's word (RUNNING, BACKOFF, …); ``spawned`` a number that tells one attempt to start it from
    another; ``down_for`` seconds since it went down, ``running_in`` seconds until a STARTING one will be RUNNING,
    ``up_for`` seconds since it was started; ``warm``: this incarnation is in the ledger; ``stopwaitsecs``: seconds from
    the order to stop until supervisord kills it, 0.0 where nobody knows; ``told_to_stop``: it went down the last time
    because somebody ordered it, and not by itself; ``stopped_by_rollout``: the order that it is STOPPING for, or went
    down for the last time, was a rollout's.

    supervisord sends the fields in this order. An older one sends fewer, so a new field comes last, with a default.
    """

    name: str
    state: str
    pid: int = 0
    spawned: float = 0.0
    down_for: float = 0.0
    running_in: float = 0.0
    up_for: float = 0.0
    spawn_error: str = ""
    warm: bool = False
    stopwaitsecs: float = 0.0
    told_to_stop: bool = False
    stopped_by_rollout: bool = False
    stop_took: float = 0.0  # seconds from the last order to stop until it was down, or until now; 0.0: no such order
    started_by_other: float = 0.0  # ``spawned`` of the last start that another client than a rollout ordered; 0.0: none

    @property
    def incarnation(self) -> Incarnation:
        """The one that runs, or after which it is down."""
        return Incarnation(self.pid, self.spawned)

    @property
    def is_stopped_by_other(self) -> bool:
        """Whether an order that was no rollout's stops it, or has stopped it."""
        return self.state in ("STOPPING", "STOPPED") and not self.stopped_by_rollout


@dataclass(frozen=True)
class Change:
    """What a PROCESS_STATE event says: the process came from one of supervisord's states to another. ``pid``: 0 where
    the event does not tell."""

    group: str
    name: str
    state: str
    from_state: str
    pid: int = 0
