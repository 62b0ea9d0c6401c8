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
    """What somebody asks: ``kind`` is restart, plan, resume, check, history or record; an empty ``max_unavailable``
    leaves it to the policy. ``settings`` come with a check. ``by``, ``user``, ``client`` and ``began`` are those of a
    ``Rollout``. A history is of the last ``number`` rollouts, of all groups where ``group`` is empty; a record of
    ``rollout``: a number, or empty for the last one."""

    id: int
    kind: str
    group: str
    processes: tuple[str, ...] = ()
    max_unavailable: str = ""
    force: bool = False
    by: str = ""
    settings: Settings = Settings()
    user: str = ""
    client: str = ""
    began: float = 0.0
    number: int = 0
    rollout: str = ""


@dataclass(frozen=True)
class Snapshot:
    """What supervisord knows: each group's rollout with its version, what is asked, the processes of the groups that
    are rolled, asked for or guarded, by group and name, how many seconds before this look the last one was (0.0: none),
    and each group's watch."""

    rollouts: Mapping[str, tuple[int, Rollout]]
    requests: tuple[Request, ...]
    processes: Mapping[str, Mapping[str, Process]]
    idle: float = 0.0
    guard_states: Mapping[str, GuardState] = field(default_factory=dict)
