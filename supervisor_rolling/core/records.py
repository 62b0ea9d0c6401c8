"""A rollout as a record of the history: what a line of its file and ``rolling.getRecord`` have.

Times are seconds since the rollout began; ``began`` is by the wall clock, in Unix seconds. ``seconds`` are those that
it took, without ``rested``: those for which it lay still until it was resumed. ``rests``: from, to, and why it had
ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supervisor_rolling.core.min_ready import is_min_ready_known
from supervisor_rolling.core.rollout import Member, Rollout, Status
from supervisor_rolling.core.timeline import active, rested

LOST = "lost"
"""The status of a rollout that ended with supervisord."""

LOST_TEXT = "supervisord ended in the middle of it"

_HEAD: Mapping[str, Any] = {
    **dict.fromkeys(("group", "status", "by", "user", "client", "why"), ""),
    **dict.fromkeys(("id", "limit", "total", "replaced", "least_available", "size"), 0),
    **dict.fromkeys(("began", "seconds", "rested", "forecast"), 0.0),
    "force": False,
    "min_ready_known": True,
}
"""The keys of a record without its course, with what stands for one that is missing."""

MOST = 1 << 31
"""Above every whole number that XML-RPC has."""

MAX_SECONDS = 1e15
"""Above what any clock shows; supervisord hands on no more."""


def record(rollout: Rollout, now: float) -> dict[str, Any]:
    """All of a rollout, at ``now`` (CLOCK_MONOTONIC): see README, Commands, for the shape."""
    return {
        **head(rollout, now),
        "availability": [[_since(level.at, rollout), level.available] for level in rollout.levels],
        "rests": [[_since(rest.begin, rollout), _since(rest.end, rollout), rest.why] for rest in rollout.rests],
        "processes": [_process(member, rollout) for member in rollout.members],
    }


def head(rollout: Rollout, now: float) -> dict[str, Any]:
    """A rollout without its course. ``size``: the processes of the group."""
    selected = [member for member in rollout.members if member.selected]
    same = ("id", "group", "by", "user", "client", "limit", "force", "why", "least_available")
    return {
        **{key: getattr(rollout, key) for key in same},
        "status": rollout.status.value,
        "began": round(rollout.began, 3),
        "seconds": round(active(rollout, now), 3),
        "rested": round(rested(rollout), 3),
        "forecast": round(rollout.forecast, 3),
        "total": len(selected),
        "replaced": sum(member.replaced for member in selected),
        "min_ready_known": is_min_ready_known(rollout.policy),
        "size": len(rollout.members),
    }


def head_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """The head of a record that was read from a file: whole, whoever has written it."""
    return {key: _fit(found.get(key), default) for key, default in _HEAD.items()}


def lost(begun: Mapping[str, Any]) -> dict[str, Any]:
    """What becomes of the record of a rollout that ran when supervisord ended."""
    return {**begun, "status": LOST, "why": LOST_TEXT}


def is_running(found: Mapping[str, Any]) -> bool:
    """Whether a record is of a rollout that had not ended."""
    return bool(found.get("status") == Status.RUNNING.value)


def _process(member: Member, rollout: Rollout) -> dict[str, Any]:
    same = ("name", "ports", "selected", "replaced", "failed", "killed", "deaths", "why", "old_pid", "pid")
    return {
        **{key: getattr(member, key) for key in same},
        "lingering_connections": member.lingering_connections,
        "requests": member.requests,
        "latencies_ms": list(member.latencies),
        "statuses": list(member.statuses),
        "stages": [[step.stage.value, _since(step.at, rollout)] for step in member.steps],
        **{key: round(seconds, 3) for key, seconds in vars(member.timing).items()},
    }


def _since(at: float, rollout: Rollout) -> float:
    return round(max(0.0, at - rollout.started_at), 3)


def _fit(value: Any, default: Any) -> Any:
    """A value of the default's kind, or the default."""
    if isinstance(default, float) and type(value) in (int, float):
        return float(value) if abs(value) < MAX_SECONDS else default
    is_large = isinstance(value, int) and not 0 <= value < MOST
    return value if type(value) is type(default) and not is_large else default
