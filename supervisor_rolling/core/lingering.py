"""Connections that outlast a drain: which of them are named, and in which words."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from dataclasses import replace

from supervisor_rolling.core.connections import Connection

MAX_SHOWN = 3
"""How many are named, the oldest: enough to see what they are, little enough to travel with every rollout."""

_MOMENT = 0.1
"""Seconds; what happened since then happened just now."""

_ODDITIES = {
    "not accepted": "not accepted yet",
    "half-closed": "half-closed by the client",
    "stuck": "the client does not read its answer",
}


def oldest(found: Iterable[Connection]) -> tuple[Connection, ...]:
    """Those that are named, the oldest first."""
    return tuple(heapq.nlargest(MAX_SHOWN, found, key=lambda connection: connection.age))


def aged(found: Iterable[Connection], seconds: float) -> tuple[Connection, ...]:
    """The same, which are known to have been open for at least so many seconds."""
    return tuple(replace(connection, age=max(connection.age, seconds)) for connection in found)


def text(connection: Connection) -> str:
    """One connection: its peer, its age, its last byte, and what is odd about it."""
    parts = [f"{connection.peer} open at least {span(connection.age)}", _last_byte(connection)]
    return ", ".join([*parts, *filter(None, [_ODDITIES.get(connection.state)])])


def left_texts(number: int, named: Collection[Connection]) -> list[str]:
    """Of so many that are left, the named ones, and how many more there are; nothing where none is named."""
    more = [f"and {number - len(named)} more"] if named and number > len(named) else []
    return [*map(text, named), *more]


def count_text(number: int) -> str:
    """``1 connection``, ``2 connections``."""
    return f"{number} connection{'' if number == 1 else 's'}"


def span(seconds: float) -> str:
    """A duration in its largest sensible unit, rounded down: "at least" must stay true."""
    for unit, name in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return f"{int(seconds / unit)} {name}"
    return f"{int(seconds)} s" if seconds >= 10 else f"{int(seconds * 10) / 10:g} s"


def _last_byte(connection: Connection) -> str:
    if not connection.last:
        return "no byte in or out"
    when = f"{span(connection.idle)} ago" if connection.idle >= _MOMENT else "just now"
    return f"last byte {connection.last} {when}"
