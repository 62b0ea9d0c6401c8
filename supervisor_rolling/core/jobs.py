"""Slow work outside the reconcile loop: warm-ups, hooks, drain notifications. Each has a job and a status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisor_rolling.core.endpoint import Endpoint
from supervisor_rolling.core.policy import Hook, WarmupPolicy
from supervisor_rolling.core.process import Incarnation


@dataclass(frozen=True)
class WarmupJob:
    """One process to warm up, by the first of its endpoints."""

    pid: int
    endpoints: tuple[Endpoint, ...]
    policy: WarmupPolicy
    bypass: str  # how it passes the closed gate: mark, address, or none: nothing refuses it
    hook: Hook = Hook()  # the last step
    variables: Mapping[str, str] = field(default_factory=dict)  # of the hook's environment
    rank: int = 0  # where not all can be warmed at once, a lower one goes first
    spawned: float = 0.0

    @property
    def incarnation(self) -> Incarnation:
        """The one that is to be warmed."""
        return Incarnation(self.pid, self.spawned)


@dataclass(frozen=True)
class WarmupStatus:
    """How far the warm-up of one incarnation got: ``state`` is warming, warm, failed, or late: not warm at its
    deadline. ``latencies``: of the first requests, in ms. ``queued``: the seconds for which it waited for other
    warm-ups; they do not count for its deadline."""

    pid: int
    state: str
    requests: int = 0
    first_ms: float = 0.0
    last_ms: float = 0.0
    why: str = ""
    latencies: tuple[float, ...] = ()
    queued: float = 0.0
    statuses: tuple[int, ...] = ()  # of the same requests as the latencies
    spawned: float = 0.0

    @property
    def incarnation(self) -> Incarnation:
        """The one that is warmed."""
        return Incarnation(self.pid, self.spawned)


@dataclass(frozen=True)
class HookJob:
    """Commands to run for a rollout, one after another, each with the name of its key; ``variables``: of their
    environment, besides the listener's own."""

    hooks: tuple[tuple[str, Hook], ...]
    variables: Mapping[str, str]


@dataclass(frozen=True)
class HookResult:
    """How far they got: ``state`` is running or over; ``why``: what went wrong."""

    state: str
    why: str = ""


@dataclass(frozen=True)
class NotificationJob:
    """One process to be told that it drains, at the first of its endpoints. ``request``: method and path."""

    pid: int
    endpoints: tuple[Endpoint, ...]
    request: str
    headers: Mapping[str, str]
    bypass: str
    spawned: float = 0.0

    @property
    def incarnation(self) -> Incarnation:
        """The one that is to be told."""
        return Incarnation(self.pid, self.spawned)


@dataclass(frozen=True)
class NotificationStatus:
    """How far that got. ``peer``: the ``address:port`` that the process sees; empty until there is one."""

    pid: int
    peer: str = ""
    is_over: bool = False
