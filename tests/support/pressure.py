"""A pressure of the CPU that a test says: a file over /proc/pressure/cpu, in the mount namespace of the tests alone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor_rolling.listener.cpu_pressure import FILE
from tests.support.netns import MNT_DETACH, MS_BIND, require

WRITTEN_EVERY = 0.05  # seconds


@dataclass
class Said:
    """``percent`` may be changed at any time."""

    percent: float


@contextlib.contextmanager
def said(percent: float, directory: Path) -> Iterator[Said]:
    """What every process that is started from now on reads as the pressure of the CPU."""
    libc = ctypes.CDLL(None, use_errno=True)
    wish, over, path = Said(percent), threading.Event(), directory / "pressure"
    _write(path, 0.0, percent)
    require(libc.mount(str(path).encode(), FILE.encode(), None, MS_BIND, None))
    writing = threading.Thread(target=_go_on, args=(path, wish, over))
    writing.start()
    try:
        yield wish
    finally:
        over.set()
        writing.join()
        require(libc.umount2(FILE.encode(), MNT_DETACH))


def _go_on(path: Path, wish: Said, over: threading.Event) -> None:
    total, before = 0.0, time.monotonic()
    while not over.wait(WRITTEN_EVERY):
        now = time.monotonic()
        total, before = total + (now - before) * 1e4 * wish.percent, now
        _write(path, total, wish.percent)


def _write(path: Path, total: float, percent: float) -> None:
    """In place, and every time as long: who reads meanwhile reads a whole line."""
    line = f"some avg10={percent:06.2f} avg60=000.00 avg300=000.00 total={int(total):020}\n"
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(file, line.encode(), 0)
    finally:
        os.close(file)
