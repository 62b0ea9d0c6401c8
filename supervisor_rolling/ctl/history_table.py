"""What ``rolling_history`` prints: a line for each roll, the newest last."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor_rolling.core.records import LOST
from supervisor_rolling.ctl.report_words import lasting
from supervisor_rolling.ctl.text_table import table

COLUMNS = ("ROLL", "GROUP", "BEGAN", "STATUS", "REPLACED", "TOOK", "BY", "WHY")

UNIX = "unix socket"  # what supervisord tells of a client on this host


def history_lines(group: str, rolls: Sequence[Mapping[str, Any]]) -> list[str]:
    """The structs of ``rolling.getHistory``, for people; the time is that of this host's zone."""
    if not rolls:
        return [f"No roll{f' of {group}' if group else ''} is known."]
    return table([COLUMNS, *map(_row, rolls)])


def _row(roll: Mapping[str, Any]) -> tuple[str, ...]:
    is_unknown = roll["status"] == LOST and not roll["seconds"]  # the listener was killed, too
    return (
        str(roll["id"]),
        roll["group"],
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(roll["began"])),
        roll["status"],
        f"{'?' if is_unknown else roll['replaced']}/{roll['total']}",
        "?" if is_unknown else _took(roll),
        by_text(roll),
        roll["why"],
    )


def _took(roll: Mapping[str, Any]) -> str:
    """What the roll took; after a plus what it lay still, until it was resumed."""
    took = f"{roll['seconds']:.1f} s"
    rested = roll.get("rested", 0.0)  # an older supervisord does not tell
    return f"{took} + {lasting(rested)} still" if rested else took


def by_text(roll: Mapping[str, Any]) -> str:
    """Who asked: as they said, and what their connection tells besides."""
    said, user, client = roll["by"], roll["user"], roll["client"]
    parts = [said or user or "-"]
    if said and user and user != said.partition("@")[0]:
        parts.append(f"as {user}")
    if client and client != UNIX:
        parts.append(f"from {client}")
    return " ".join(parts)
