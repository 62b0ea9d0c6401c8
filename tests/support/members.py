"""Members, processes, rollouts and observations for the tests of the machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from supervisor_rolling.core.endpoint import Endpoint, tcp
from supervisor_rolling.core.guard_state import GuardedProcess
from supervisor_rolling.core.jobs import WarmupStatus
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import (
    DrainPolicy,
    GatePolicy,
    Policy,
    PortRule,
)
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.restart import restart_action
from supervisor_rolling.core.rollout import Member, Rollout, Stage
from supervisor_rolling.core.stages import step

NAME, PORT = "app-1", 8001
OLD, NEW = 100, 200  # pids
BEGAN = 1000.0  # when the stage began
DRAIN = DrainPolicy(timeout=30.0)
CLOSED = {tcp(PORT): BEGAN}


def a_member(stage: Stage = Stage.OPEN, **changes: Any) -> Member:
    attempted = stage is not Stage.OPEN
    identity = {"old_pid": OLD, "old_spawned": 1.0, "spawned": 1.0}
    values = {"stage": stage, "since": BEGAN, "attempted": attempted, **identity, **changes}
    return Member(NAME, (tcp(PORT),), **values)


def a_process(state: str = "RUNNING", pid: int = OLD, **changes: Any) -> Process:
    down = state in ("STOPPED", "EXITED", "FATAL", "BACKOFF")
    return Process(NAME, state, 0 if down else pid, **{"spawned": 1.0, **changes})


def ours(state: str, **changes: Any) -> Process:
    """One that the rollout stops, or has stopped."""
    return a_process(state, **{"stopped_by_rollout": True, **changes})


def a_rollout(*members: Member, **changes: Any) -> Rollout:
    policy = Policy("app", PortRule(pattern=r"app-(\d+)"), drain=DRAIN, min_ready_seconds=10.0)
    of_policy = {key: changes.pop(key) for key in list(changes) if key in Policy.__dataclass_fields__}
    values = {"limit": 1, "gate": GatePolicy(), "started_at": BEGAN, "min_available": 99, **changes}
    return Rollout(1, "app", replace(policy, **of_policy), members, **values)


def observed(process: Process | None, at: float = BEGAN + 1.0, **changes: Any) -> Observation:
    found = {process.name: process} if process else {}
    return Observation(at, found, **{"closed": CLOSED, "connections": {NAME: 0}, **changes})


def stepped(member: Member, process: Process | None, at: float = 1.0, **changes: Any) -> Member:
    """The member after an observation ``at`` seconds into its stage. ``changes`` go where they belong."""
    of_seen = {key: changes.pop(key) for key in list(changes) if key in Observation.__dataclass_fields__}
    return step(member, a_rollout(member, **changes), observed(process, BEGAN + at, **of_seen))


def stopping(took: float, stopwaitsecs: float = 10.0) -> Process:
    return ours("STOPPING", stop_took=took, stopwaitsecs=stopwaitsecs)


def down(took: float = 10.0, **changes: Any) -> Process:
    return ours("STOPPED", **{"stop_took": took, "stopwaitsecs": 10.0, **changes})


def warming(**changes: Any) -> Member:
    return a_member(Stage.WARMING, pid=NEW, **changes)


def warmup_status(state: str, pid: int = NEW, why: str = "") -> dict[str, Any]:
    return {"warmups": {NAME: WarmupStatus(pid, state, 11, 730.0, 3.0, why, spawned=1.0)}}


def ready(**changes: Any) -> Member:
    return a_member(Stage.READY, pid=NEW, **changes)


def ordered(process: Process | None, closed: dict[Endpoint, float], stopped_at: float = 0.0, at: float = 1.0) -> str:
    given = restart_action(a_member(Stage.RESTARTING, stopped_at=stopped_at), observed(process, BEGAN + at), closed)
    assert given is None or given.name == NAME
    return given.verb.value if given else ""


def members(*stages: Stage, **changes: Any) -> tuple[Member, ...]:
    return tuple(Member(f"app-{n}", (tcp(8000 + n),), stage=stage, **changes) for n, stage in enumerate(stages, 1))


def look(*states: str, at: float = BEGAN, **changes: Any) -> Observation:
    table = {f"app-{n}": Process(f"app-{n}", state, 100 + n) for n, state in enumerate(states, 1)}
    return Observation(at, table, **changes)


def all_open(count: int) -> tuple[Member, ...]:
    return members(*[Stage.OPEN] * count)


def left(rollout: Rollout) -> list[str]:
    return [member.name for member in rollout.members if member.stage in (Stage.DRAINING, Stage.RESTARTING)]


def a_guarded(stage: Stage, closed: bool = False, tries: int = 0, number: int = 3, **changes: Any) -> GuardedProcess:
    return GuardedProcess(f"app-{number}", (tcp(8000 + number),), stage, BEGAN, closed=closed, tries=tries, **changes)


def observed_with(*states: str, guarded: GuardedProcess, **facts: Any) -> Observation:
    return look(*states, guarded={guarded.name: guarded}, **facts)


def guarded_name(guarded: GuardedProcess) -> str:
    return f"{guarded.stage.value} {'closed' if guarded.closed else 'open'} {guarded.tries}"
