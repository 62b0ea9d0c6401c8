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
        self._ended: dict[str, dict[str, tuple[float, bool]]] = {}  # when, and whether it was told to

    def hear(self, event: ProcessStateEvent) -> None:
        """Note what an event says."""
        if event.process.group is None:
            return
        group, name = event.process.group.config.name, event.process.config.name
        if isinstance(event, ProcessStateStartingEvent):
            self._started.setdefault(group, {})[name] = self._clock()
        elif isinstance(event, WENT_DOWN):
            told = isinstance(event, ProcessStateStoppedEvent)
            self._ended.setdefault(group, {})[name] = (self._clock(), told)

    def forget(self, group: str) -> None:
        """Its processes are gone, and others will have their names."""
        self._started.pop(group, None)
        self._ended.pop(group, None)

    def attempt(self, group: str, name: str, process: Any) -> float:
        """A number that tells one attempt to start the process from another."""
        return self._started.get(group, {}).get(name) or float(process.laststart)

    def up_for(self, group: str, name: str, process: Any) -> float:
        """Seconds since the last attempt to start it."""
        return self._since(self._started.get(group, {}).get(name), process.laststart)

    def down_for(self, group: str, name: str, process: Any) -> float:
        """Seconds since it last went down; 0.0: it never did."""
        heard, _ = self._ended.get(group, {}).get(name, (None, False))
        return self._since(heard, process.laststop) if heard or process.laststop else 0.0

    def told_to_stop(self, group: str, name: str) -> bool:
        """Whether it last went down because somebody ordered it. False where no event has told."""
        return self._ended.get(group, {}).get(name, (0.0, False))[1]

    def _since(self, heard: float | None, wall: float) -> float:
        return max(0.0, self._clock() - heard if heard else self._wall() - wall)
