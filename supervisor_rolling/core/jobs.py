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
    hook: Hook = field(default_factory=Hook)  # the last step
    variables: Mapping[str, str] = field(default_factory=dict)  # of the hook's environment
    rank: int = 0  # where not all can be warmed at once, a lower one goes first
    spawned: float = 0.0
    is_shared: bool = False  # it accepts on a socket that others accept on, too

    @property
    def incarnation(self) -> Incarnation:
        """The incarnation to warm up."""
        return Incarnation(self.pid, self.spawned)


@dataclass(frozen=True)
class WarmupStatus:
    """How far the warm-up of one incarnation is."""

    pid: int
    state: str  # warming, warm, failed, or late: not warm at its deadline
    requests: int = 0
    first_ms: float = 0.0
    last_ms: float = 0.0
    why: str = ""
    latencies: tuple[float, ...] = ()  # of the first requests, in ms
    queued: float = 0.0  # seconds that it waited for other warm-ups; they do not count for its deadline
    statuses: tuple[int, ...] = ()  # of the same requests as the latencies
    spawned: float = 0.0
    code: str = ""  # of why, where that is known

    @property
    def incarnation(self) -> Incarnation:
        """The incarnation that is warmed up."""
        return Incarnation(self.pid, self.spawned)


@dataclass(frozen=True)
class HookJob:
    """Commands to run for a rollout, one after another."""

    hooks: tuple[tuple[str, Hook], ...]  # each with the name of its key
    variables: Mapping[str, str]  # of their environment, besides the listener's own


@dataclass(frozen=True)
class HookResult:
    """How far the commands are."""

    state: str  # running or over
    why: str = ""  # what went wrong


@dataclass(frozen=True)
class NotificationJob:
    """One process to notify that it drains, at the first of its endpoints."""

    pid: int
    endpoints: tuple[Endpoint, ...]
    request: str  # method and path
    headers: Mapping[str, str]
    bypass: str
    spawned: float = 0.0

    @property
    def incarnation(self) -> Incarnation:
        """The incarnation to notify."""
        return Incarnation(self.pid, self.spawned)


@dataclass(frozen=True)
class NotificationStatus:
    """How far the notification is."""

    pid: int
    peer: str = ""  # the ``address:port`` that the process sees; empty until there is one
    is_over: bool = False
