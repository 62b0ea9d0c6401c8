"""When each process last started, when it last went down, and which client ordered that, on CLOCK_MONOTONIC.

supervisord keeps both times by the wall clock. When that is set forward by an hour during a rollout, a process that was
just stopped would look as if it had been down for an hour, and so as if an operator had stopped it. The times come from
supervisord's own events; for a process without an event so far, supervisord's times are used.
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
class _Times:
    """Of one process. A time of 0.0: no event so far."""

    started: float = 0.0
    ended: float = 0.0
    was_ordered: bool = False  # it went down because it was ordered to
    stopping_since: float = 0.0  # and it is not down yet
    stop_took: float = 0.0
    is_restarted: bool = False  # supervisord starts it again by itself
    started_by_other_at: float = 0.0  # when another client than a rollout last ordered its start
    is_by_rollout: bool = False  # a rollout ordered the stop


UNKNOWN = _Times()


class ProcessTimes:
    """One per supervisord. ``clock`` gives CLOCK_MONOTONIC seconds, ``wall`` seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall = wall
        self._times: dict[str, dict[str, _Times]] = {}  # by group and name
        self._ordered: Any = None

    @contextlib.contextmanager
    def caused_by_rollout(self, process: Any) -> Iterator[None]:
        """What happens to this process while the block runs was ordered by a rollout."""
        self._ordered = process
        try:
            yield
        finally:
            self._ordered = None

    def note(self, event: ProcessStateEvent) -> None:
        """Note an event."""
        process = event.process
        if process.group is None:
            return
        times = self._times.setdefault(process.group.config.name, {}).setdefault(process.config.name, _Times())
        is_ours = process is self._ordered
        if isinstance(event, ProcessStateStartingEvent):
            is_first = not times.started and not process.laststop and bool(getattr(process.config, "autostart", False))
            times.started, times.stopping_since = self._clock(), 0.0
            if not (is_ours or times.is_restarted or is_first):
                times.started_by_other_at = times.started
        elif isinstance(event, ProcessStateStoppingEvent):
            times.stopping_since, times.is_by_rollout = self._clock(), is_ours
        elif isinstance(event, ProcessStateStoppedEvent):
            # From BACKOFF it is STOPPED at once. The stop of another client may end while ours is carried out.
            times.is_by_rollout = times.is_by_rollout if times.stopping_since else is_ours
            times.stop_took, times.is_restarted = self._stopping_for(times), False
            times.ended, times.was_ordered, times.stopping_since = self._clock(), True, 0.0
        elif isinstance(event, (ProcessStateBackoffEvent, ProcessStateExitedEvent)):
            times.ended, times.was_ordered, times.is_by_rollout, times.stop_took = self._clock(), False, False, 0.0
            times.is_restarted = isinstance(event, ProcessStateBackoffEvent) or restarts(event)
        elif isinstance(event, ProcessStateFatalEvent):
            times.is_restarted = False

    def forget(self, group: str) -> None:
        """The group was removed, and new processes may get its names."""
        self._times.pop(group, None)

    def attempt(self, group: str, name: str, process: Any) -> float:
        """A number that tells one attempt to start the process from another."""
        return self._of(group, name).started or float(process.laststart)

    def up_for(self, group: str, name: str, process: Any) -> float:
        """Seconds since the last attempt to start it."""
        return self._since(self._of(group, name).started, process.laststart)

    def down_for(self, group: str, name: str, process: Any) -> float:
        """Seconds since it last went down; 0.0: it never did."""
        ended = self._of(group, name).ended
        return self._since(ended, process.laststop) if ended or process.laststop else 0.0

    def stopped_on_request(self, group: str, name: str) -> bool:
        """Whether it last went down because a client ordered it. False without an event."""
        return self._of(group, name).was_ordered

    def stays_down(self, group: str, name: str) -> bool:
        """Whether it went down and supervisord does not start it again by itself. False without an event."""
        times = self._of(group, name)
        return bool(times.ended) and not times.is_restarted

    def stopped_by_rollout(self, group: str, name: str) -> bool:
        """Whether a rollout ordered the stop that is under way, or the last one."""
        return self._of(group, name).is_by_rollout

    def started_by_other_at(self, group: str, name: str) -> float:
        """The last ``attempt`` that another client than a rollout ordered; 0.0: none. A restart by supervisord itself
        is not an order, nor is its start at boot (autostart)."""
        return self._of(group, name).started_by_other_at

    def stop_took(self, group: str, name: str) -> float:
        """Seconds from the last order to stop until it was down, or until now; 0.0: it ended by itself."""
        times = self._of(group, name)
        return self._stopping_for(times) if times.stopping_since else times.stop_took

    def _stopping_for(self, times: _Times) -> float:
        return self._clock() - times.stopping_since if times.stopping_since else 0.0

    def _of(self, group: str, name: str) -> _Times:
        return self._times.get(group, {}).get(name, UNKNOWN)

    def _since(self, at: float, wall: float) -> float:
        return max(0.0, self._clock() - at if at else self._wall() - wall)


def restarts(event: ProcessStateExitedEvent) -> bool:
    """Whether supervisord starts a process again that has exited."""
    autorestart = getattr(event.process.config, "autorestart", False)
    return autorestart is RestartUnconditionally or bool(autorestart and not event.expected)
