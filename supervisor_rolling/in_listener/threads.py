"""The threads beside that of the turns: at which priority they run, and how many of them at once."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading


def at_usual_priority() -> None:
    """Give this thread the usual priority. The listener's own is higher, so that gates close at once; what only waits
    for processes, or sends requests to them, must not take the CPU from them."""
    with contextlib.suppress(OSError):  # it is a little quicker then than it should be
        thread = threading.get_native_id()
        if os.getpriority(os.PRIO_PROCESS, thread) < 0:
            os.setpriority(os.PRIO_PROCESS, thread, 0)


class Slots:
    """Lets at most ``number`` threads in at once: those of a lower rank first, then first come, first served."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._changed = threading.Condition()
        self._inside: set[threading.Thread] = set()
        self._waiting: dict[threading.Thread, tuple[int, int]] = {}
        self._count = itertools.count()

    def enter(self, rank: int, left: threading.Event) -> None:
        """Wait until this thread is inside, or has ``left`` (see ``leave``)."""
        me = threading.current_thread()
        with self._changed:
            self._waiting[me] = (rank, next(self._count))
            while not left.is_set() and not self._is_next(me):
                self._changed.wait()
            del self._waiting[me]
            if not left.is_set():
                self._inside.add(me)
            self._changed.notify_all()

    def leave(self, thread: threading.Thread) -> None:
        """Count a thread as inside no longer, and wake it if it waits."""
        with self._changed:
            self._inside.discard(thread)
            self._changed.notify_all()

    def _is_next(self, thread: threading.Thread) -> bool:
        return len(self._inside) < self.number and min(self._waiting, key=self._waiting.__getitem__) is thread
