"""The threads beside the loop's: at which priority they run, and how many of them at once."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from typing import NamedTuple


def at_usual_priority() -> None:
    """Give this thread the usual priority. The listener's own is higher, so that gates close at once; what only waits
    for processes, or sends requests to them, must not take the CPU from them."""
    with contextlib.suppress(OSError):  # it is a little quicker then than it should be
        thread = threading.get_native_id()
        if os.getpriority(os.PRIO_PROCESS, thread) < 0:
            os.setpriority(os.PRIO_PROCESS, thread, 0)


class Slots:
    """Lets at most ``number`` threads in at once: those of a lower rank first, then first come, first served. A free
    slot wakes the thread that gets it, and no other: a thousand may wait."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._lock = threading.Lock()
        self._inside: set[threading.Thread] = set()
        self._waiting: dict[threading.Thread, _Place] = {}
        self._count = itertools.count()

    def enter(self, rank: int, left: threading.Event) -> None:
        """Wait until this thread is inside, or has ``left`` (see ``leave``)."""
        with self._lock:
            if left.is_set():
                return
            place = _Place(rank, next(self._count), threading.Event())
            self._waiting[threading.current_thread()] = place
            self._fill()
        place.is_over.wait()

    def leave(self, thread: threading.Thread) -> None:
        """Count a thread as inside no longer, and wake it if it waits."""
        with self._lock:
            self._inside.discard(thread)
            place = self._waiting.pop(thread, None)
            if place:
                place.is_over.set()
            self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._inside) < self.number:
            thread = min(self._waiting, key=self._waiting.__getitem__)
            self._inside.add(thread)
            self._waiting.pop(thread).is_over.set()


class _Place(NamedTuple):
    """In the queue; ``number`` is another one for each, so that no further field is compared."""

    rank: int
    number: int
    is_over: threading.Event
