"""The record of a rollout as ``report_page`` draws it: a ``public_view.RolloutView`` and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from supervisor_rolling.codec import load, struct_of
from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.core.public_view import RolloutView
from supervisor_rolling.core.rollout import Status
from supervisor_rolling.core.text import shown
from supervisor_rolling.core.timeline import stays

View = Mapping[str, Any]

LOST = Status.LOST.value


@dataclass(frozen=True)
class Span:
    """The time that a process was in a stage, in seconds since the rollout began."""

    stage: str
    begin: float
    end: float
    is_new: bool  # it is the new process

    @property
    def seconds(self) -> float:
        """How long."""
        return self.end - self.begin


def read(record: Any) -> dict[str, Any]:
    """The view as a struct; also ``span``, the seconds that the axis shows; ``is_known``, whether more than its
    beginning is; and for each process ``spans``, ``times`` (seconds by stage), ``away`` (seconds not available) and
    ``stage``, the last. The process that left first comes first. Raises ValueError for a record of another shape."""
    rollout = struct_of(load(RolloutView, record), partial(shown, encoding="utf-8"))
    for key in ("availability", "interruptions"):  # others may have written to the history
        rollout[key] = sorted(([max(0.0, row[0]), *row[1:]] for row in rollout[key]), key=lambda row: row[0])
    for process in rollout["processes"]:
        process["stages"] = sorted(([stage, max(0.0, at)] for stage, at in process["stages"]), key=lambda row: row[1])
    moments = [at for process in rollout["processes"] for _, at in process["stages"]]
    latest = max([0.0, *(row[0] for row in rollout["availability"]), *moments])
    seconds, interrupted = max(0.0, rollout["seconds"]), max(0.0, rollout["interrupted"])
    span = max(seconds + interrupted, latest, 0.1)
    processes = [{**process, **_course(process["stages"], span)} for process in rollout["processes"]]
    processes.sort(key=lambda p: (p["spans"][0].begin if p["spans"] else math.inf, natural(p["name"])))
    return {
        **rollout,
        "seconds": seconds,
        "interrupted": interrupted,
        "span": span,
        "is_known": rollout["status"] != LOST or seconds > 0,
        "limit": max(1, min(rollout["limit"], rollout["total"])),
        "processes": processes,
    }


def _course(stages: Sequence[Any], end: float) -> dict[str, Any]:
    spans = [span for span in _spans(stages, end) if span.stage != "open" or span.is_new]
    return {
        "spans": spans,
        "times": times(spans),
        "away": sum(span.seconds for span in spans if span.stage != "open"),
        "stage": stages[-1][0] if stages else "open",
    }


def times(spans: Iterable[Span]) -> dict[str, float]:
    """How long they were in all, by stage."""
    found: dict[str, float] = {}
    for span in spans:
        found[span.stage] = found.get(span.stage, 0.0) + span.seconds
    return found


def _spans(stages: Sequence[Any], end: float) -> Iterable[Span]:
    is_new = False
    for stage, begin, left_at in stays([*stages, ("", end)]):
        is_new = is_new or stage in ("restarting", "warming", "down")
        yield Span(stage, begin, left_at, is_new)
