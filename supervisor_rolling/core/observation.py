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
    """What one observation of a group found. Mappings are by the name of a process; one without a value is missing."""

    at: float  # read before the connections were: an endpoint closed since then had them read behind a closed gate
    processes: Mapping[str, Process]
    gap: float = 0.0  # seconds before ``at`` without an observation, as no listener was running
    closed: Mapping[Endpoint, float] = field(default_factory=dict)  # since when each has been closed without a gap
    gate_problem: str = ""
    unclosed: Mapping[str, float] = field(default_factory=dict)  # since when a draining one's gate is not known closed
    connections: Mapping[str, int] = field(default_factory=dict)  # left, of draining ones
    oldest: Mapping[str, tuple[Connection, ...]] = field(
        default_factory=dict
    )  # a few of these, once a drain is overdue
    leaks: Mapping[str, str] = field(default_factory=dict)  # the peer that came through a closed gate
    reuses: Mapping[str, KeepaliveReuse] = field(default_factory=dict)  # requests on connections older than the gate
    warmups: Mapping[str, WarmupStatus] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)  # commands that supervisord has refused for good
    dead: Mapping[str, float] = field(default_factory=dict)  # since when, before supervisord says whether it crashed
    signalled: frozenset[str] = frozenset()  # draining ones that drain.signal was sent to
    being_notified: frozenset[str] = frozenset()  # draining ones that drain.request is sent to just now
    guarded: Mapping[str, GuardedProcess] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)  # what else holds the port of one that does not start
    hook: HookResult | None = None  # how far the rollout's hook has got
    # With drain.keepalive: nginx, for how many seconds no byte has moved on any connection that is left; and those that
    # answer in something else than plain HTTP/1.1.
    idle_for: Mapping[str, float] = field(default_factory=dict)
    opaque: frozenset[str] = frozenset()
