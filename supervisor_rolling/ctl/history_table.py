"""What ``rolling_history`` prints: a line for each rollout, the newest last."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor_rolling.core.records import LOST
from supervisor_rolling.ctl.report_words import lasting
from supervisor_rolling.ctl.text_table import table

COLUMNS = ("ROLLOUT", "GROUP", "BEGAN", "STATUS", "REPLACED", "TOOK", "BY", "WHY")

UNIX = "unix socket"  # what supervisord tells of a client on this host


def history_lines(group: str, rollouts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The structs of ``rolling.getHistory``, for people; the time is that of this host's zone."""
    if not rollouts:
        return [f"No rollout{f' of {group}' if group else ''} is known."]
    return table([COLUMNS, *map(_row, rollouts)])


def _row(rollout: Mapping[str, Any]) -> tuple[str, ...]:
    is_unknown = rollout["status"] == LOST and not rollout["seconds"]  # the listener was killed, too
    return (
        str(rollout["id"]),
        rollout["group"],
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(rollout["began"])),
        rollout["status"],
        f"{'?' if is_unknown else rollout['replaced']}/{rollout['total']}",
        "?" if is_unknown else _took(rollout),
        by_text(rollout),
        rollout["why"],
    )


def _took(rollout: Mapping[str, Any]) -> str:
    """What the rollout took; after a plus what it lay still, until it was resumed."""
    took = f"{rollout['seconds']:.1f} s"
    rested = rollout.get("rested", 0.0)  # an older supervisord does not tell
    return f"{took} + {lasting(rested)} still" if rested else took


def by_text(rollout: Mapping[str, Any]) -> str:
    """Who asked: as they said, and what their connection tells besides."""
    said, user, client = rollout["by"], rollout["user"], rollout["client"]
    parts = [said or user or "-"]
    if said and user and user != said.partition("@")[0]:
        parts.append(f"as {user}")
    if client and client != UNIX:
        parts.append(f"from {client}")
    return " ".join(parts)
