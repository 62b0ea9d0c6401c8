"""What the crash guard does about each process of a group that is not warm."""

from __future__ import annotations

from dataclasses import dataclass

from supervisor_rolling.core.endpoint import Endpoint
from supervisor_rolling.core.policy import GatePolicy, Policy
from supervisor_rolling.core.process import Incarnation
from supervisor_rolling.core.rollout import Stage


@dataclass(frozen=True)
class GuardedProcess:
    """A process that is not warm, and what the crash guard does about it."""

    name: str
    endpoints: tuple[Endpoint, ...]
    stage: Stage
    since: float  # when it entered the stage
    closed: bool = False  # its endpoints are to be closed; not those of all, because the group must keep serving
    pid: int = 0  # with spawned: the incarnation that is warmed; 0 while it is down
    tries: int = 0  # warm-ups that failed
    retry_at: float = 0.0  # when the next warm-up begins
    requests: int = 0
    first_ms: float = 0.0
    last_ms: float = 0.0
    problem: str = ""  # why the last warm-up failed
    code: str = ""  # of the problem
    why: str = ""  # the sentence for rolling_status
    spawned: float = 0.0
    spare: bool = False  # it is beyond the capacity of a group with ``surge``: closed, not warmed, and soon stopped

    @property
    def incarnation(self) -> Incarnation:
        """The incarnation that is warmed."""
        return Incarnation(self.pid, self.spawned)


@dataclass(frozen=True)
class GuardState:
    """The crash guard of a group: its processes that are not warm. The warm ones are in the ledger."""

    group: str
    policy: Policy
    gate: GatePolicy
    guarded: tuple[GuardedProcess, ...] = ()
