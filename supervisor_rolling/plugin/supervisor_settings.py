"""What supervisord.conf says of a group and of its listener, as far as a check wants to know: the wire form of
``preflight_report.Settings``."""

from __future__ import annotations

import signal
from typing import Any

from supervisor.datatypes import RestartUnconditionally
from supervisor.events import EventTypes, getEventNameByType

from supervisor_rolling.plugin.events import RollingAskedEvent

NEEDED = (RollingAskedEvent, EventTypes.PROCESS_STATE, EventTypes.PROCESS_GROUP, EventTypes.TICK_5)
"""What a listener has to hear; it may be named by a parent."""


def settings_of(supervisord: Any, group: str) -> dict[str, Any]:
    """Of one group, and of every event listener that hears the doorbell."""
    groups = supervisord.process_groups
    return {
        "processes": [_process(process.config) for process in groups[group].processes.values()],
        "listeners": [_listener(name, found) for name, found in groups.items() if hears_the_doorbell(found)],
        "total": sum(len(found.processes) for found in groups.values()),
    }


def hears_the_doorbell(group: Any) -> bool:
    """Whether a group is a pool of event listeners that our own event reaches."""
    return _hears(group, RollingAskedEvent)


def _hears(group: Any, event: Any) -> bool:
    return any(issubclass(event, kind) for kind in getattr(group.config, "pool_events", ()))


def _process(config: Any) -> dict[str, Any]:
    return {
        "name": config.name,
        "startsecs": config.startsecs,
        "stopwaitsecs": config.stopwaitsecs,
        "autorestart": _autorestart(config.autorestart),
        "stopasgroup": bool(config.stopasgroup),
        "stopsignal": _signal(config.stopsignal),
    }


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name[len("SIG") :]
    except ValueError:  # supervisor takes some numbers that are no signal's
        return str(number)


def _autorestart(value: Any) -> str:
    if not value:
        return "false"
    return "true" if value is RestartUnconditionally else "unexpected"


def _listener(name: str, group: Any) -> dict[str, Any]:
    configs = [process.config for process in group.processes.values()]
    return {
        "name": name,
        "processes": len(configs),
        "buffer_size": group.config.buffer_size,
        "startsecs": max((config.startsecs for config in configs), default=0),
        "lacks": [getEventNameByType(event) for event in NEEDED if not _hears(group, event)],
    }
