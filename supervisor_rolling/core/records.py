"""A roll as a record of the history: what a line of its file and ``rolling.getRecord`` have.

Times are seconds since the roll began; ``began`` is by the wall clock, in Unix seconds. ``seconds`` are those that it
took, without ``rested``: those for which it lay still until it was resumed. ``rests``: from, to, and why it had ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supervisor_rolling.core.min_ready import is_settle_known
from supervisor_rolling.core.model import Member, Roll, Status
from supervisor_rolling.core.timeline import active, rested

LOST = "lost"
"""The status of a roll that ended with supervisord."""

LOST_TEXT = "supervisord ended in the middle of it"

_HEAD: Mapping[str, Any] = {
    **dict.fromkeys(("group", "status", "by", "user", "client", "why"), ""),
    **dict.fromkeys(("id", "limit", "total", "replaced", "least_available", "size"), 0),
    **dict.fromkeys(("began", "seconds", "rested", "forecast"), 0.0),
    "force": False,
    "settle_known": True,
}
"""The keys of a record without its course, with what stands for one that is missing."""

MOST = 1 << 31
"""Above every whole number that XML-RPC has."""

MOST_SECONDS = 1e15
"""Above what any clock shows; supervisord hands on no more."""


def record(roll: Roll, now: float) -> dict[str, Any]:
    """All of a roll, at ``now`` (CLOCK_MONOTONIC): see README, Commands, for the shape."""
    return {
        **head(roll, now),
        "availability": [[_since(level.at, roll), level.available] for level in roll.levels],
        "rests": [[_since(rest.begin, roll), _since(rest.end, roll), rest.why] for rest in roll.rests],
        "processes": [_process(member, roll) for member in roll.members],
    }


def head(roll: Roll, now: float) -> dict[str, Any]:
    """A roll without its course. ``size``: the processes of the group."""
    wanted = [member for member in roll.members if member.wanted]
    same = ("id", "group", "by", "user", "client", "limit", "force", "why", "least_available")
    return {
        **{key: getattr(roll, key) for key in same},
        "status": roll.status.value,
        "began": round(roll.began, 3),
        "seconds": round(active(roll, now), 3),
        "rested": round(rested(roll), 3),
        "forecast": round(roll.forecast, 3),
        "total": len(wanted),
        "replaced": sum(member.replaced for member in wanted),
        "settle_known": is_settle_known(roll.policy),
        "size": len(roll.members),
    }


def head_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """The head of a record that was read from a file: whole, whoever has written it."""
    return {key: _fit(found.get(key), default) for key, default in _HEAD.items()}


def lost(begun: Mapping[str, Any]) -> dict[str, Any]:
    """What becomes of the record of a roll that ran when supervisord ended."""
    return {**begun, "status": LOST, "why": LOST_TEXT}


def is_running(found: Mapping[str, Any]) -> bool:
    """Whether a record is of a roll that had not ended."""
    return bool(found.get("status") == Status.RUNNING.value)


def _process(member: Member, roll: Roll) -> dict[str, Any]:
    same = ("name", "ports", "wanted", "replaced", "failed", "killed", "deaths", "why", "old_pid", "pid")
    return {
        **{key: getattr(member, key) for key in same},
        "connections_left": member.connections_left,
        "requests": member.requests,
        "latencies_ms": list(member.latencies),
        "statuses": list(member.statuses),
        "stages": [[step.stage.value, _since(step.at, roll)] for step in member.steps],
        **{key: round(seconds, 3) for key, seconds in vars(member.timing).items()},
    }


def _since(at: float, roll: Roll) -> float:
    return round(max(0.0, at - roll.started_at), 3)


def _fit(value: Any, default: Any) -> Any:
    """A value of the default's kind, or the default."""
    if isinstance(default, float) and type(value) in (int, float):
        return float(value) if abs(value) < MOST_SECONDS else default
    is_large = isinstance(value, int) and not 0 <= value < MOST
    return value if type(value) is type(default) and not is_large else default
