"""When a process of a group serves, as it says itself: if all share one socket, it cannot be seen from outside.

A process that has booted and takes requests writes ``UP``; one that takes no new ones, ``LEAVING``.
Each is a line in the file that ``LAB_LIFE_FILE`` names, if there is one. Points in time are seconds on CLOCK_MONOTONIC.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

from tests.support.site import LIFE_FILE

UP, LEAVING = "up", "leaving"


class Note(NamedTuple):
    """``started``: when the process was, to the kernel's hundredth of a second."""

    word: str
    pid: int
    started: float
    at: float


def tell(word: str) -> None:
    """A line is one write, so that those of several processes do not mix."""
    name, now = os.environ.get(LIFE_FILE), time.monotonic()
    if name:
        with open(name, "a", encoding="ascii") as out:
            out.write(f"{word} {os.getpid()} {started():.3f} {now:.3f}\n")


def read(path: Path) -> list[Note]:
    """All that was told, in its order."""
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    told = (line.split() for line in lines)
    return [Note(word, int(pid), float(started), float(at)) for word, pid, started, at in told]


def started() -> float:
    """When this process was started, as supervisord counts for startsecs: before the interpreter was there."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    asleep = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()  # the kernel counts when the machine slept, too
    return ticks / os.sysconf("SC_CLK_TCK") - asleep
