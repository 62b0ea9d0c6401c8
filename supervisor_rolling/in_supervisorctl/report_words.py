"""The words of a report: durations, numbers, what a process has been through, and how it stands."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from supervisor_rolling.pure.lasting import count_text

View = Mapping[str, Any]

SLOW = 10000
"""Milliseconds; what took longer is told in seconds."""

NOTABLE = 0.05
"""Seconds; what took less is left out of a sentence."""


def lasting(seconds: float) -> str:
    """``14.3 s``, ``3 min 5 s``, ``2 h 3 min``."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def ms(value: float) -> str:
    """Milliseconds, whole from one on."""
    return f"{value:.0f}" if value >= 1 or not value else f"{value:.1f}"


def from_to(first: float, last: float) -> str:
    """``894 → 12 ms``, ``43.5 s → 9 ms``."""
    slow = f"{first / 1000:.1f} s" if first >= SLOW else ms(first)
    return f"{slow} → {last / 1000:.1f} s" if last >= SLOW else f"{slow} → {ms(last)} ms"


def counted(number: float, noun: str, plural: str = "s") -> str:
    """``1 request``, ``2 requests``."""
    return f"{number:.0f} {noun}{'' if number == 1 else plural}"


def requests_text(process: View) -> str:
    """The warm-up in numbers: ``11 requests, 894 → 12 ms``."""
    number, known = process["requests"], process["latencies_ms"]
    if not number:
        return ""
    if not known:
        return counted(number, "request")
    cut = f", the first {len(known)}" if len(known) < number else ""
    took = from_to(known[0], known[-1]) if len(known) > 1 else f"{ms(known[0])} ms"
    return f"{counted(number, 'request')}{cut}, {took}"


def words(process: View, status: str) -> str:
    """What a process has been through, and where it stands, as ``rolling_restart`` tells it."""
    left = f" ({count_text(process['connections_left'])} left)" if process["connections_left"] else ""
    killed = " (killed)" if process["killed"] else ""
    ready = "warmed" if process["requests"] else "ready"
    parts = [
        f"drained {lasting(process['drained'])}{left}" if process["drained"] or left else "",
        f"stopped {lasting(process['stopped'])}{killed}" if process["stopped"] >= NOTABLE or killed else "",
        f"started {lasting(process['started'])}" if process["started"] else "",
        f"{ready} {lasting(process['warmed'])}" if process["warmed"] else "",
        f"settled {lasting(process['settled'])}" if process["settled"] >= NOTABLE else "",
        f"died {counted(process['deaths'], 'time')}" if process["deaths"] else "",
        standing(process, status),
    ]
    return " · ".join(filter(None, parts))


def standing(process: View, status: str) -> str:
    """How a process stands at the end of a roll of that status, or now."""
    if process["failed"] or process["stage"] == "failed":
        return f"FAILED: {process['why'] or 'no reason is told'}"
    if process["stage"] != "open":
        return f"{process['stage']} for {lasting(process['spans'][-1].seconds)}" if status == "running" else "not open"
    if process["why"] or process["replaced"]:
        return str(process["why"] or "open")
    if not process["wanted"]:
        return "was not asked for"
    return "still to come" if status == "running" else "not replaced"


def forecast_text(roll: View) -> str:
    """How long the roll was expected to take, and how far off that was."""
    forecast, off = roll["forecast"], roll["seconds"] - roll["forecast"]
    if forecast <= 0:
        return "there was no forecast"
    if roll["status"] != "done":
        left = f", about {lasting(-off)} left" if roll["status"] == "running" and off < 0 else ""
        return f"forecast {lasting(forecast)}{left}"
    if abs(off) < NOTABLE:
        return f"forecast {lasting(forecast)}, and so it was"
    more = "longer" if off > 0 else "less"
    return f"forecast {lasting(forecast)}: {lasting(abs(off))} {more} ({abs(off) / forecast:.0%})"


def utc(at: float) -> datetime | None:
    """A point in time; None where a record does not tell, or tells a year that has not four digits."""
    return datetime.fromtimestamp(at, timezone.utc) if 0 < at < 2.5e11 else None


def clock(when: datetime) -> str:
    """The time of day."""
    return f"{when:%H:%M:%S} UTC"
