"""What supervisord.conf says of a group and of our listener, for a preflight check."""

from __future__ import annotations

import signal
from typing import Any

from supervisor.datatypes import RestartUnconditionally
from supervisor.events import EventTypes, getEventNameByType

from supervisor_rolling.core.preflight_report import ListenerSettings, ProcessSettings, Settings
from supervisor_rolling.plugin.events import RollingRequestEvent

NEEDED = (RollingRequestEvent, EventTypes.PROCESS_STATE, EventTypes.PROCESS_GROUP, EventTypes.TICK_5)
"""The events that our listener needs; ``events=`` may name a parent of each."""


RELOADING = ("gunicorn", "uwsgi")
"""Servers that replace their workers at SIGHUP."""


def settings_of(supervisord: Any, group: str) -> Settings:
    """The settings of one group, and of every event listener that gets the doorbell."""
    groups = supervisord.process_groups
    return Settings(
        tuple(_process(process.config) for process in groups[group].processes.values()),
        tuple(_listener(name, found) for name, found in groups.items() if gets_doorbell(found)),
        sum(len(found.processes) for found in groups.values()),
        hasattr(groups[group].config, "socket_config"),
    )


def gets_doorbell(group: Any) -> bool:
    """Whether a group is a pool of event listeners that our own event reaches."""
    return _gets(group, RollingRequestEvent)


def _gets(group: Any, event: Any) -> bool:
    return any(issubclass(event, kind) for kind in getattr(group.config, "pool_events", ()))


def _process(config: Any) -> ProcessSettings:
    return ProcessSettings(
        config.name,
        config.startsecs,
        config.stopwaitsecs,
        _autorestart(config.autorestart),
        bool(config.stopasgroup),
        _signal(config.stopsignal),
        _server(config.command),
    )


def _server(command: str) -> str:
    """The server that a command runs, of those that can reload themselves."""
    programs = [word.rpartition("/")[2] for word in command.split()]
    return next((name for name in RELOADING if name in programs), "")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name[len("SIG") :]
    except ValueError:  # supervisor accepts some numbers that are not signals
        return str(number)


def _autorestart(value: Any) -> str:
    if not value:
        return "false"
    return "true" if value is RestartUnconditionally else "unexpected"


def _listener(name: str, group: Any) -> ListenerSettings:
    configs = [process.config for process in group.processes.values()]
    return ListenerSettings(
        name,
        len(configs),
        group.config.buffer_size,
        max((config.startsecs for config in configs), default=0),
        tuple(getEventNameByType(event) for event in NEEDED if not _gets(group, event)),
    )
