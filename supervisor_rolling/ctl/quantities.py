"""Numbers, durations and points in time as text."""

from __future__ import annotations

from datetime import datetime, timezone

SLOW = 10000
"""Milliseconds; a longer time is written in seconds."""


def counted(number: float, noun: str, plural: str = "s") -> str:
    """``1 request``, ``2 requests``."""
    return f"{number:.0f} {noun}{'' if number == 1 else plural}"


def duration_text(seconds: float) -> str:
    """``14.3 s``, ``3 min 5 s``, ``2 h 3 min``."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def ms(value: float) -> str:
    """Milliseconds, without decimals from 1 ms on."""
    return f"{value:.0f}" if value >= 1 or not value else f"{value:.1f}"


def from_to(first: float, last: float) -> str:
    """``894 → 12 ms``, ``43.5 s → 9 ms``."""
    slow = f"{first / 1000:.1f} s" if first >= SLOW else ms(first)
    return f"{slow} → {last / 1000:.1f} s" if last >= SLOW else f"{slow} → {ms(last)} ms"


def utc(at: float) -> datetime | None:
    """A point in time from Unix seconds; None if unknown (0), or if its year has not four digits."""
    return datetime.fromtimestamp(at, timezone.utc) if 0 < at < 2.5e11 else None


def clock(when: datetime) -> str:
    """The time of day."""
    return f"{when:%H:%M:%S} UTC"
