"""The words of a report: durations, numbers, what a process has been through, and how it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supervisor_rolling.core.lingering import count_text
from supervisor_rolling.core.records import LOST
from supervisor_rolling.core.warmup_replies import statuses_text
from supervisor_rolling.ctl.quantities import counted, from_to, lasting, ms
from supervisor_rolling.ctl.report_record import times

View = Mapping[str, Any]

PAST = {"draining": "drained", "restarting": "restarted", "warming": "warmed", "ready": "ready"}
"""What is said of a stage that a process came through."""

NOTABLE = 0.05
"""Seconds; what took less is left out of a sentence."""


def requests_text(process: View) -> str:
    """The warm-up in numbers: ``11 requests, 894 → 12 ms``."""
    number, known = process["requests"], process["latencies_ms"]
    if not number:
        return ""
    if not known:
        return counted(number, "request")
    cut = f", the first {len(known)}" if len(known) < number else ""
    took = from_to(known[0], known[-1]) if len(known) > 1 else f"{ms(known[0])} ms"
    statuses = statuses_text(process.get("statuses", ()))
    return f"{counted(number, 'request')}{cut}, {took}{statuses and f', statuses {statuses}'}"


def words(process: View, status: str) -> str:
    """What a process has been through, stage by stage as its bars have it, and where it stands."""
    parts = [*_past(process, status), standing(process, status)]
    if process["deaths"]:
        parts.insert(-1, f"died {counted(process['deaths'], 'time')}")
    return " · ".join(parts)


def _past(process: View, status: str) -> list[str]:
    """Each stage with how long it took. The one that a process did not come through goes by its own name, unless that
    is told as how it stands."""
    moved = [span for span in process["spans"] if span.stage in PAST]
    last = moved.pop() if moved and not process["replaced"] else None
    past = {**PAST, "warming": "warmed" if process["requests"] else "ready"}
    told = [
        _stage_text(past[stage], stage, took, process) for stage, took in times(moved).items() if _is_told(stage, took)
    ]
    if last is None or (status == "running" and process["stage"] == last.stage):
        return told
    return [*told, _stage_text(last.stage, last.stage, last.seconds, process)]


def _is_told(stage: str, seconds: float) -> bool:
    return stage != "ready" or seconds >= NOTABLE


def _stage_text(word: str, stage: str, seconds: float, process: View) -> str:
    text = f"{word} {lasting(seconds)}"
    if stage == "draining" and process["lingering_connections"]:
        return f"{text} ({count_text(process['lingering_connections'])} left)"
    if stage == "restarting" and (process["killed"] or process["stopped"] >= NOTABLE):
        return f"{text} (stopped in {lasting(process['stopped'])}{', killed' if process['killed'] else ''})"
    return text


def standing(process: View, status: str) -> str:
    """How a process stands at the end of a rollout of that status, or now."""
    if process["failed"] or process["stage"] == "failed":
        return f"FAILED: {process['why'] or 'no reason is told'}"
    if process["stage"] != "open":
        return f"{process['stage']} for {lasting(process['spans'][-1].seconds)}" if status == "running" else "not open"
    if process["why"] or process["replaced"]:
        return str(process["why"] or "open")
    if not process["selected"]:
        return "was not asked for"
    return {"running": "still to come", LOST: "not known to be replaced"}.get(status, "not replaced")


def forecast_text(rollout: View) -> str:
    """How long the rollout was expected to take, and how far off that was."""
    forecast, off = rollout["forecast"], rollout["seconds"] - rollout["forecast"]
    if forecast <= 0:
        return "there was no forecast"
    if rollout["status"] != "done":
        left = f", about {lasting(-off)} left" if rollout["status"] == "running" and off < 0 else ""
        return f"forecast {lasting(forecast)}{left}"
    if abs(off) < NOTABLE:
        return f"forecast {lasting(forecast)}, and so it was"
    more = "longer" if off > 0 else "less"
    return f"forecast {lasting(forecast)}: {lasting(abs(off))} {more} ({abs(off) / forecast:.0%})"
