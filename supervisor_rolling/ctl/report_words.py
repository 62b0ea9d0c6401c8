"""The words of a report: the stages of a process and how it ended, its warm-up, and the forecast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supervisor_rolling.core.rollout import Status
from supervisor_rolling.core.warmup_replies import statuses_text
from supervisor_rolling.ctl.quantities import counted, duration_text, from_to, ms
from supervisor_rolling.ctl.rollout_lines import UNICODE, is_reached, past_stages

View = Mapping[str, Any]

NOTABLE = 0.05
"""Seconds; a shorter stage is left out of a sentence."""


def requests_text(process: View) -> str:
    """The warm-up in numbers: ``11 requests, 894 → 12 ms``."""
    number, known = process["requests"], process["latencies_ms"]
    if not number:
        return ""
    text = counted(number, "request")
    if known:
        cut = f", the first {len(known)}" if len(known) < number else ""
        text += f"{cut}, {from_to(known[0], known[-1]) if len(known) > 1 else f'{ms(known[0])} ms'}"
    statuses = statuses_text(process["statuses"])
    return f"{text}{statuses and f', statuses {statuses}'}"


def words(process: View, status: str) -> str:
    """A process: its stages with durations, and how it ended. ``status``: that of the rollout."""
    deaths = [f"died {counted(process['deaths'], 'time')}"] if process["deaths"] else []
    return UNICODE.dot.join([*past_stages(process), *deaths, outcome(process, status)])


def outcome(process: View, status: str) -> str:
    """The state of a process at the end of a rollout of that status or, of a running one, now."""
    if process["failed"] or process["stage"] == "failed":
        return f"FAILED: {process['why'] or 'no reason given'}"
    if process["stage"] != "open":
        return (
            f"{process['stage']} for {duration_text(process['spans'][-1].seconds)}"
            if status == "running"
            else "not open"
        )
    if process["why"] or process["replaced"]:
        return str(process["why"] or ("open" if is_reached(process) else "running"))
    if not process["selected"]:
        return "not selected"
    return {"running": "not yet replaced", Status.LOST.value: "not known to be replaced"}.get(status, "not replaced")


def forecast_text(rollout: View) -> str:
    """The forecast, and how far off it was."""
    forecast, off = rollout["forecast"], rollout["seconds"] - rollout["forecast"]
    if forecast <= 0:
        return "no forecast"
    if rollout["status"] != "done":
        left = f", about {duration_text(-off)} left" if rollout["status"] == "running" and off < 0 else ""
        return f"forecast {duration_text(forecast)}{left}"
    if abs(off) < NOTABLE:
        return f"forecast {duration_text(forecast)}"
    more = f"{duration_text(abs(off))} {'more' if off > 0 else 'less'}"
    return f"forecast {duration_text(forecast)}: {more} ({abs(off) / forecast:.0%})"
