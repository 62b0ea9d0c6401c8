"""What supervisord knows and hands to the listener: rollouts, guard states, requests, processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.preflight_report import Settings
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.rollout import Rollout


@dataclass(frozen=True)
class Request:
    """What a client asked over XML-RPC."""

    id: int
    kind: str  # restart, plan, resume, check, history or record
    group: str
    processes: tuple[str, ...] = ()  # empty: all of the group
    max_unavailable: str = ""  # empty: as the policy says
    force: bool = False
    by: str = ""  # the client, as it names itself
    settings: Settings = field(default_factory=Settings)  # of a restart, a plan and a check
    user: str = ""  # the client's user, as its connection tells
    client: str = ""  # the client's address, likewise
    began: float = 0.0  # Unix time
    number: int = 0  # of a history: the last so many rollouts, of all groups where ``group`` is empty
    rollout: str = ""  # of a record: the number of the rollout; empty: the last one
    following: tuple[str, ...] = ()  # of a restart: the groups that are to be restarted after this one


@dataclass(frozen=True)
class SnapshotQuery:
    """What the listener has of supervisord's memory already, and what it wants besides."""

    rollouts: Mapping[str, int] = field(default_factory=dict)  # the version of each group's rollout
    guard_states: Mapping[str, int] = field(default_factory=dict)  # likewise
    table: int = 0  # the number of the last process table that it got
    guarded: tuple[str, ...] = ()  # groups that it wants the processes of
    problem: str = ""  # what is wrong with rolling.yaml, for getListener
    groups: tuple[str, ...] = ()  # those of rolling.yaml, in its order, likewise


@dataclass(frozen=True)
class Snapshot:
    """All that supervisord knows at one moment."""

    rollouts: Mapping[str, tuple[int, Rollout]]  # by group, each with its version
    requests: tuple[Request, ...]  # without an answer yet
    processes: Mapping[str, Mapping[str, Process]]  # by group and name, of the groups concerned
    idle: float = 0.0  # seconds since the listener asked last; 0.0: never
    guard_states: Mapping[str, GuardState] = field(default_factory=dict)
