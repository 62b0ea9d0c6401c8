"""Which ports a process has, by its name."""

from __future__ import annotations

import re

from supervisor_rolling.model import PortRule

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
