"""Everything that one reconcile pass decides from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisor_rolling.core.connections import Connection, KeepaliveReuse
from supervisor_rolling.core.endpoint import Endpoint
from supervisor_rolling.core.guard_state import GuardedProcess
from supervisor_rolling.core.jobs import HookResult, WarmupStatus
from supervisor_rolling.core.process import Process


@dataclass(frozen=True)
class Observation:
    """What one look found.

    ``at`` was read before the connections were, so that an endpoint closed since ``t <= at`` had its connections looked at
    behind a closed gate. ``gap``: seconds before it in which nobody looked.

    ``closed`` maps an endpoint to the moment since when it has been closed without a gap; ``unclosed`` has since when a
    process that drains has been seen with a gate that is not known to be closed. ``connections`` holds the number of
    connections left for a process that drains, ``oldest`` the oldest few of them where its time is over, ``leaks`` the
    peer that got through a closed gate, ``reuses`` what was asked over old connections. ``refusals`` are the orders
    that supervisord refused for good, by process. ``told`` are the draining processes that have been sent the signal of
    their drain, ``telling`` those that are being asked its request. ``dead`` says since when those have been known to
    be dead to which supervisord has not come round: whether they crashed or were stopped, only it can tell. ``hook``:
    how far the commands of the rollout got. ``guarded`` are the processes in the hands of the guard. ``held``: who has
    the port of one that does not come up, in words. Of those whose pools are made to run dry (``drain.keepalive:
    nginx``), ``silent`` has for how many seconds no byte has moved on any connection that is left, and ``sealed`` are
    those that answer in something else than plain HTTP/1.1."""

    at: float
    processes: Mapping[str, Process]
    gap: float = 0.0
    closed: Mapping[Endpoint, float] = field(default_factory=dict)
    gate_problem: str = ""
    unclosed: Mapping[str, float] = field(default_factory=dict)
    connections: Mapping[str, int] = field(default_factory=dict)
    oldest: Mapping[str, tuple[Connection, ...]] = field(default_factory=dict)
    leaks: Mapping[str, str] = field(default_factory=dict)
    reuses: Mapping[str, KeepaliveReuse] = field(default_factory=dict)
    warmups: Mapping[str, WarmupStatus] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)
    dead: Mapping[str, float] = field(default_factory=dict)
    told: frozenset[str] = frozenset()
    telling: frozenset[str] = frozenset()
    guarded: Mapping[str, GuardedProcess] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
    hook: HookResult | None = None
    silent: Mapping[str, float] = field(default_factory=dict)
    sealed: frozenset[str] = frozenset()
