"""Asks supervisord for its state all the while: how long others wait for its one thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def asking_for_the_state(proxy: Any, every: float) -> Iterator[list[float]]:
    """The seconds until each ``supervisor.getState`` was answered, one due every so many seconds for as long as the
    block lasts; one that has to wait for the one before it is late from when it was due. What ends the asking is raised
    at the end. ``proxy`` is for it alone."""
    latencies: list[float] = []
    failures: list[Exception] = []
    over = threading.Event()

    def ask() -> None:
        due = time.monotonic() + every
        try:
            while not over.wait(max(0.0, due - time.monotonic())):
                proxy.supervisor.getState()
                latencies.append(time.monotonic() - due)
                due += every
        except Exception as error:  # noqa: BLE001 - a thread has no caller to raise to; the block has
            failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield latencies
    finally:
        over.set()
        asking.join()
    if failures:
        raise failures[0]
