"""When each process was last started, and when and by whose order it last went down, on CLOCK_MONOTONIC.

supervisord keeps both times by the wall clock. A wall clock that is set forward by an hour, in the middle of a rollout,
would make a process that has just been stopped look as if it had been down for that hour, and so as if an operator had
meant it. Heard from supervisord's own events; of a process that none has told of, supervisord's times have to do.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from supervisor.datatypes import RestartUnconditionally
from supervisor.events import (
    ProcessStateBackoffEvent,
    ProcessStateEvent,
    ProcessStateExitedEvent,
    ProcessStateFatalEvent,
    ProcessStateStartingEvent,
    ProcessStateStoppedEvent,
    ProcessStateStoppingEvent,
)


@dataclass(eq=False, repr=False)
class _Life:
    """What the events have told of one process. A time of 0.0: none has."""

    started: float = 0.0
    ended: float = 0.0
    was_told: bool = False  # it went down because it was ordered to
    stopping_since: float = 0.0  # and it is not down yet
    stop_took: float = 0.0
    comes_back: bool = False  # supervisord starts it again by itself
    started_by_other: float = 0.0  # when another client than a rollout last ordered to start it
    is_by_rollout: bool = False  # the order for which it stops, or went down


UNKNOWN = _Life()


class ProcessTimes:
    """One per supervisord. ``clock`` gives CLOCK_MONOTONIC seconds, ``wall`` seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall = wall
        self._lives: dict[str, dict[str, _Life]] = {}  # by group and name
        self._ordered: Any = None

    @contextlib.contextmanager
    def ordered_by_rollout(self, process: Any) -> Iterator[None]:
        """What happens to this process while the block runs was ordered by a rollout."""
        self._ordered = process
        try:
            yield
        finally:
            self._ordered = None

    def hear(self, event: ProcessStateEvent) -> None:
        """Note what an event says."""
        process = event.process
        if process.group is None:
            return
        life = self._lives.setdefault(process.group.config.name, {}).setdefault(process.config.name, _Life())
        is_ours = process is self._ordered
        if isinstance(event, ProcessStateStartingEvent):
            life.started, life.stopping_since = self._clock(), 0.0
            if not is_ours and not life.comes_back:
                life.started_by_other = life.started
        elif isinstance(event, ProcessStateStoppingEvent):
            life.stopping_since, life.is_by_rollout = self._clock(), is_ours
        elif isinstance(event, ProcessStateStoppedEvent):
            # From BACKOFF it is STOPPED at once. Another's order may end while one of ours is carried out.
            life.is_by_rollout = life.is_by_rollout if life.stopping_since else is_ours
            life.stop_took, life.comes_back = self._stopping_for(life), False
            life.ended, life.was_told, life.stopping_since = self._clock(), True, 0.0
        elif isinstance(event, (ProcessStateBackoffEvent, ProcessStateExitedEvent)):
            life.ended, life.was_told, life.is_by_rollout, life.stop_took = self._clock(), False, False, 0.0
            life.comes_back = isinstance(event, ProcessStateBackoffEvent) or _is_restarted(event)
        elif isinstance(event, ProcessStateFatalEvent):
            life.comes_back = False

    def forget(self, group: str) -> None:
        """Its processes are gone, and others will have their names."""
        self._lives.pop(group, None)

    def attempt(self, group: str, name: str, process: Any) -> float:
        """A number that tells one attempt to start the process from another."""
        return self._of(group, name).started or float(process.laststart)

    def up_for(self, group: str, name: str, process: Any) -> float:
        """Seconds since the last attempt to start it."""
        return self._since(self._of(group, name).started, process.laststart)

    def down_for(self, group: str, name: str, process: Any) -> float:
        """Seconds since it last went down; 0.0: it never did."""
        heard = self._of(group, name).ended
        return self._since(heard, process.laststop) if heard or process.laststop else 0.0

    def told_to_stop(self, group: str, name: str) -> bool:
        """Whether it last went down because somebody ordered it. False where no event has told."""
        return self._of(group, name).was_told

    def stays_down(self, group: str, name: str) -> bool:
        """Whether it went down and supervisord does not start it again by itself. False where no event has told."""
        life = self._of(group, name)
        return bool(life.ended) and not life.comes_back

    def stopped_by_rollout(self, group: str, name: str) -> bool:
        """Whether the order for which it stops, or last went down, was a rollout's."""
        return self._of(group, name).is_by_rollout

    def started_by_other(self, group: str, name: str) -> float:
        """The last ``attempt`` that another client than a rollout ordered; 0.0: none. A restart by supervisord itself
        is no order."""
        return self._of(group, name).started_by_other

    def stop_took(self, group: str, name: str) -> float:
        """Seconds from the last order to stop until it was down, or until now; 0.0: it ended by itself."""
        life = self._of(group, name)
        return self._stopping_for(life) if life.stopping_since else life.stop_took

    def _stopping_for(self, life: _Life) -> float:
        return self._clock() - life.stopping_since if life.stopping_since else 0.0

    def _of(self, group: str, name: str) -> _Life:
        return self._lives.get(group, {}).get(name, UNKNOWN)

    def _since(self, heard: float, wall: float) -> float:
        return max(0.0, self._clock() - heard if heard else self._wall() - wall)


def _is_restarted(event: ProcessStateExitedEvent) -> bool:
    """Whether supervisord starts a process again that has exited."""
    autorestart = getattr(event.process.config, "autorestart", False)
    return autorestart is RestartUnconditionally or bool(autorestart and not event.expected)
