"""How busy the processors are: the ``CpuPressure`` of ``contracts.py``, from the kernel's pressure stall information.

/proc/pressure/cpu has averages over 10, 60 and 300 seconds, and a total that is current whenever it is read. A process
boots and is warm within a second or two: the average of 10 seconds would tell of it when it is over, and go on telling.
So what the total has grown by is taken, over the last second.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger("supervisor_rolling")

FILE = "/proc/pressure/cpu"

WINDOW = 1.0
"""Seconds that are told of, at least."""

STALE = 3.0
"""Seconds beyond which what is told would be of the past: nobody has asked for a while."""

READ_EVERY = 0.25
"""Seconds: while a process drains there may be fifty turns in one. The kernel also weighs the processors by their ticks
since the last read, which are too few to be weighed by when they are a handful."""

_SOME = re.compile(r"^some avg10=([0-9.]+) .*\btotal=([0-9]+)$", re.MULTILINE)


class Reading(NamedTuple):
    """``at``: seconds on CLOCK_MONOTONIC; ``total``: microseconds for which somebody has waited; ``avg10``: percent."""

    at: float
    total: int
    avg10: float


def read(at: float, path: str = FILE) -> Reading:
    """The file, now. Raises OSError or ValueError where the kernel does not tell."""
    found = _SOME.search(Path(path).read_text(encoding="ascii"))
    if found is None:
        raise ValueError(f"{path} has no line `some avg10=… total=…`")
    return Reading(at, int(found[2]), float(found[1]))


class KernelPressure:
    """Of the whole host, also in a container. For one thread."""

    def __init__(self, clock: Callable[[], float], path: str = FILE) -> None:
        self._clock = clock
        self._path = path
        self._readings: deque[Reading] = deque()
        self._found: float | None = None
        self._has_complained = False

    def cpu(self) -> float | None:
        """See ``CpuPressure.cpu``."""
        now = self._clock()
        if self._readings and now - self._readings[-1].at < READ_EVERY:
            return self._found
        try:
            self._readings.append(read(now, self._path))
        except (OSError, ValueError) as error:
            self._complain(error)
            self._readings.clear()
            self._found = None
        else:
            self._found = self._latest()
        return self._found

    def _latest(self) -> float:
        """The first second has no second before it: then the kernel's own average has to do."""
        newest = self._readings[-1]
        while len(self._readings) > 1 and self._readings[1].at <= newest.at - WINDOW:
            self._readings.popleft()
        oldest = self._readings[0]
        seconds = newest.at - oldest.at
        if not WINDOW <= seconds <= STALE:
            return newest.avg10
        return min(100.0, max(0.0, (newest.total - oldest.total) / seconds / 1e4))

    def _complain(self, error: Exception) -> None:
        if not self._has_complained:
            log.warning(
                "the pressure of the CPU cannot be read, so no rollout waits for it (pace.cpu_pressure): %s", error
            )
        self._has_complained = True
