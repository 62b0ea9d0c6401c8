"""When each process was last started, and when and why it last went down, on CLOCK_MONOTONIC.

supervisord keeps both by the wall clock. A wall clock that is set forward by an hour, in the middle of a roll, would
make a process that has just been stopped look as if it had been down for that hour, and so as if an operator had meant
it. Heard from supervisord's own events; of a process that none has told of, supervisord's times have to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from supervisor.events import (
    ProcessStateBackoffEvent,
    ProcessStateEvent,
    ProcessStateExitedEvent,
    ProcessStateStartingEvent,
    ProcessStateStoppedEvent,
)

WENT_DOWN = (ProcessStateBackoffEvent, ProcessStateExitedEvent, ProcessStateStoppedEvent)


class Lives:
    """One per supervisord. ``clock`` gives CLOCK_MONOTONIC seconds, ``wall`` seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall = wall
        self._started: dict[str, dict[str, float]] = {}  # by group and name
        self._went_down: dict[str, dict[str, float]] = {}
        self._told_to_stop: dict[str, set[str]] = {}

    def hear(self, event: ProcessStateEvent) -> None:
        """Note what an event says."""
        if isinstance(event, ProcessStateStartingEvent):
            self._note(self._started, event.process)
        elif isinstance(event, WENT_DOWN):
            self._note(self._went_down, event.process)
            self._note_why(event)

    def forget(self, group: str) -> None:
        """Its processes are gone, and others will have their names."""
        self._started.pop(group, None)
        self._went_down.pop(group, None)
        self._told_to_stop.pop(group, None)

    def attempt(self, group: str, name: str, process: Any) -> float:
        """A number that tells one attempt to start the process from another."""
        return self._started.get(group, {}).get(name) or float(process.laststart)

    def up_for(self, group: str, name: str, process: Any) -> float:
        """Seconds since the last attempt to start it."""
        return self._since(self._started.get(group, {}).get(name), process.laststart)

    def down_for(self, group: str, name: str, process: Any) -> float:
        """Seconds since it last went down; 0.0: it never did."""
        heard = self._went_down.get(group, {}).get(name)
        return self._since(heard, process.laststop) if heard or process.laststop else 0.0

    def told_to_stop(self, group: str, name: str) -> bool:
        """Whether it last went down because somebody ordered it. False where no event has told."""
        return name in self._told_to_stop.get(group, ())

    def _note_why(self, event: ProcessStateEvent) -> None:
        if event.process.group is None:
            return
        told = self._told_to_stop.setdefault(event.process.group.config.name, set())
        if isinstance(event, ProcessStateStoppedEvent):
            told.add(event.process.config.name)
        else:
            told.discard(event.process.config.name)

    def _note(self, times: dict[str, dict[str, float]], process: Any) -> None:
        if process.group is not None:
            times.setdefault(process.group.config.name, {})[process.config.name] = self._clock()

    def _since(self, heard: float | None, wall: float) -> float:
        return max(0.0, self._clock() - heard if heard else self._wall() - wall)
