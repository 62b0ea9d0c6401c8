"""Asks supervisord for its state all the while: how long others wait for its one thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def asking_for_the_state(proxy: Any, every: float) -> Iterator[list[float]]:
    """The seconds that each ``supervisor.getState`` took, one every so many seconds for as long as the block lasts.
    ``proxy`` is for it alone."""
    latencies: list[float] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(every):
            began = time.monotonic()
            proxy.supervisor.getState()
            latencies.append(time.monotonic() - began)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield latencies
    finally:
        over.set()
        asking.join()
