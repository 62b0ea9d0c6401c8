"""Which ports a process has, by its name; and words for those who have one in its place."""

from __future__ import annotations

import re

from supervisor_rolling.model import Holder, PortRule

LAST_PORT = 65535


def ports_for(rule: PortRule, process_name: str) -> tuple[int, ...]:
    """The ports of a process (its name without the group), none where the rule does not tell.

    A rule that is ``auto`` never tells: the kernel knows what the process listens on.
    """
    if not rule.pattern:
        return tuple(rule.by_name.get(process_name, ()))
    match = re.fullmatch(rule.pattern, process_name)
    return _port(match.group(1) or "") if match else ()


def _port(digits: str) -> tuple[int, ...]:
    if not re.fullmatch("[0-9]{1,10}", digits):
        return ()
    port = int(digits)
    return (port,) if 1 <= port <= LAST_PORT else ()


def holder_text(port: int, holder: Holder, own: str) -> str:
    """Who listens on a port in place of the process ``own`` (``group:process``)."""
    number = "process" if len(holder.pids) == 1 else "processes"
    started = f", started as {holder.started}" if holder.started else ""
    left = f", left of an earlier {own}" if holder.started == own else started
    return f"port {port} is held by {number} {', '.join(map(str, holder.pids))} ({holder.name}){left}"


def ending_text(holder: Holder) -> str:
    """What ends who listens there."""
    return f"kill {' '.join(map(str, holder.pids))}"


def held_text(port: int, holder: Holder, own: str) -> str:
    """The former, and what to do now about what an earlier process has left. Anybody else may have good reasons."""
    text = holder_text(port, holder, own)
    return f"{text}: {ending_text(holder)}" if holder.started == own else text
