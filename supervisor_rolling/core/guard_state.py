"""What the crash guard does about each process of a group that is not warm."""

from __future__ import annotations

from dataclasses import dataclass

from supervisor_rolling.core.endpoint import Endpoint
from supervisor_rolling.core.policy import GatePolicy, Policy
from supervisor_rolling.core.process import Incarnation
from supervisor_rolling.core.rollout import Stage


@dataclass(frozen=True)
class GuardedProcess:
    """A process that is not warm, in the hands of the guard.

    ``closed``: its port is to be closed; not every ward's is, because a group must go on serving. ``pid`` and
    ``spawned``: the incarnation that is warmed, 0 while it is down. ``tries``: warm-ups of it that have failed;
    ``retry_at`` is when the next one begins. ``problem``: what the last one failed of; ``why``: the sentence for
    ``rolling_status``.
    """

    name: str
    endpoints: tuple[Endpoint, ...]
    stage: Stage
    since: float
    closed: bool = False
    pid: int = 0
    tries: int = 0
    retry_at: float = 0.0
    requests: int = 0
    first_ms: float = 0.0
    last_ms: float = 0.0
    problem: str = ""
    why: str = ""
    spawned: float = 0.0

    @property
    def incarnation(self) -> Incarnation:
        """The one that is warmed."""
        return Incarnation(self.pid, self.spawned)


@dataclass(frozen=True)
class GuardState:
    """What the guard of a group has in hand: a ward for each process that is not warm. The others are in the ledger."""

    group: str
    policy: Policy
    gate: GatePolicy
    guarded: tuple[GuardedProcess, ...] = ()
