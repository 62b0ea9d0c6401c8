"""The record of a rollout as ``report`` draws it: every key is there, of the right kind, with what follows from them.

A record may be of an older version, or of a newer one, or somebody's own: what does not fit is left out, and nothing
raises.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.core.records import LOST
from supervisor_rolling.core.text import shown
from supervisor_rolling.core.timeline import stays

View = Mapping[str, Any]

STATUSES = ("done", "failed", "aborted", "running", LOST)

ROLLOUT: View = {
    "id": 0,
    "group": "",
    "status": LOST,
    "by": "",
    "user": "",
    "client": "",
    "began": 0.0,
    "seconds": -1.0,
    "forecast": 0.0,
    "limit": 0,
    "force": False,
    "why": "",
    "total": -1,
    "replaced": -1,
    "least_available": -1,
    "min_ready_known": True,
    "paused_seconds": 0.0,
    "rested": 0.0,
    "rests": [],
    "availability": [],
    "processes": [],
}
"""What a record tells, and what stands for a key that it does not have; -1: it is found otherwise, or left out."""

PROCESS: View = {
    "name": "",
    "ports": [],
    "selected": True,
    "replaced": False,
    "failed": False,
    "killed": False,
    "deaths": 0,
    "why": "",
    "old_pid": 0,
    "pid": 0,
    "lingering_connections": 0,
    "requests": 0,
    "latencies_ms": [],
    "statuses": [],
    "stages": [],
    **dict.fromkeys(("drained", "stopped", "started", "warmed", "ready"), 0.0),
}


@dataclass(frozen=True)
class Span:
    """A stage that a process was in, in seconds since the rollout began. ``is_new``: it is the new process."""

    stage: str
    begin: float
    end: float
    is_new: bool

    @property
    def seconds(self) -> float:
        """How long."""
        return self.end - self.begin


def read(record: Any) -> dict[str, Any]:
    """The record with every key, of the right kind, and what follows from them: ``span``, the seconds that the axis
    shows; ``size`` of the group; ``is_known``, whether more than its beginning is; for each process ``spans``,
    ``times`` (by stage, seconds), ``away`` (not available, seconds) and ``stage``, the last. Who left first comes
    first."""
    rollout = _kept(record, ROLLOUT)
    told = [_kept(process, PROCESS) for process in rollout["processes"]]
    rollout["availability"] = sorted(filter(_is_change, rollout["availability"]), key=lambda change: change[0])
    stages = [sorted(filter(_is_stage, process["stages"]), key=lambda stage: stage[1]) for process in told]
    rollout["rests"] = sorted(
        (begin, end, shown(why, "utf-8")) for begin, end, why in filter(_is_rest, rollout["rests"])
    )
    latest = max([0.0, *(at for at, _ in rollout["availability"]), *(at for each in stages for _, at in each)])
    rollout["rested"] = max(0.0, rollout["rested"])
    rollout["seconds"] = rollout["seconds"] if rollout["seconds"] >= 0 else max(0.0, latest - rollout["rested"])
    rollout["span"] = max(rollout["seconds"] + rollout["rested"], latest, 0.1)
    rollout["processes"] = [_process(p, each, rollout["span"]) for p, each in zip(told, stages)]
    rollout["processes"].sort(key=lambda p: (p["spans"][0].begin if p["spans"] else math.inf, natural(p["name"])))
    return {**rollout, **_counted(rollout)}


def _counted(rollout: View) -> dict[str, Any]:
    """What an older record does not tell, counted."""
    processes, numbers = rollout["processes"], [number for _, number in rollout["availability"]]
    status = rollout["status"] if rollout["status"] in STATUSES else LOST
    total = rollout["total"] if rollout["total"] >= 0 else sum(p["selected"] for p in processes)
    return {
        "total": total,
        "size": len(processes) or total,
        "replaced": rollout["replaced"] if rollout["replaced"] >= 0 else sum(p["replaced"] for p in processes),
        "least_available": rollout["least_available"] if rollout["least_available"] >= 0 else min(numbers, default=-1),
        "status": status,
        "is_known": status != LOST or rollout["seconds"] > 0,
        "limit": max(1, min(rollout["limit"], total)) if rollout["limit"] > 0 else 0,
    }


def _process(told: dict[str, Any], stages: Sequence[Any], ends: float) -> dict[str, Any]:
    spans = [span for span in _spans(stages, ends) if span.stage != "open" or span.is_new]
    numbers = [ms for ms in told["latencies_ms"] if _is_number(ms) and ms >= 0]
    return {
        **told,
        "ports": [port for port in told["ports"] if _is_number(port)],
        "latencies_ms": numbers,
        "statuses": [status for status in told["statuses"] if type(status) is int and 100 <= status < 600],
        "requests": max(told["requests"], len(numbers)),
        "spans": spans,
        "times": times(spans),
        "away": sum(span.seconds for span in spans if span.stage != "open"),
        "stage": shown(stages[-1][0], "utf-8") if stages else "open",
    }


def times(spans: Iterable[Span]) -> dict[str, float]:
    """How long they were in all, by stage."""
    found: dict[str, float] = {}
    for span in spans:
        found[span.stage] = found.get(span.stage, 0.0) + span.seconds
    return found


def _spans(stages: Sequence[Any], ends: float) -> Iterable[Span]:
    is_new = False
    for stage, begin, end in stays([*stages, ("", ends)]):
        is_new = is_new or stage in ("restarting", "warming", "down")
        yield Span(shown(stage, "utf-8"), float(begin), float(end), is_new)


def _kept(given: Any, defaults: View) -> dict[str, Any]:
    told = given if isinstance(given, Mapping) else {}
    return {key: _like(told.get(key), default) for key, default in defaults.items()}


def _like(value: Any, default: Any) -> Any:
    """The value where it is of the kind of the default, else the default; in text, characters that a screen obeys are
    shown as Python writes them."""
    if isinstance(default, list):
        return list(value) if isinstance(value, (list, tuple)) else []
    if isinstance(default, str):
        return shown(value, "utf-8") if isinstance(value, str) else default
    if isinstance(default, bool):
        return value if isinstance(value, bool) else default
    return value if _is_number(value) else default


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e15 < value < 1e15


def _is_change(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(_is_number(v) and v >= 0 for v in value)


def _is_rest(value: Any) -> bool:
    is_row = isinstance(value, (list, tuple)) and len(value) == 3 and isinstance(value[2], str)
    return is_row and all(_is_number(v) for v in value[:2]) and 0 <= value[0] <= value[1]


def _is_stage(value: Any) -> bool:
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], str)
    return is_pair and _is_number(value[1]) and value[1] >= 0
