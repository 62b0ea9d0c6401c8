"""Waiting for an event: each polls until a deadline, so that no test sleeps for a fixed time and hopes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

WITHIN = 10.0
POLL = 0.01
"""Seconds: the usual deadline, and from one poll to the next."""


def eventually(true: Callable[[], object], within: float = WITHIN, every: float = POLL) -> bool:
    """Whether it becomes true before the deadline."""
    deadline = time.monotonic() + within
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def wait_until(true: Callable[[], object], what: str, within: float = WITHIN, every: float = POLL) -> float:
    """The seconds until it became true; raises TimeoutError at the deadline."""
    began = time.monotonic()
    if not eventually(true, within, every):
        raise TimeoutError(f"waited {within:g} s until {what}")
    return time.monotonic() - began


def poll(read: Callable[[], Found], accept: Callable[[Found], object], within: float = WITHIN) -> Found:
    """The first value that is accepted; raises TimeoutError with the last one at the deadline."""
    found = read()

    def is_accepted() -> bool:
        nonlocal found
        found = read()
        return bool(accept(found))

    if not accept(found) and not eventually(is_accepted, within):
        raise TimeoutError(f"after {within:g} s the last value is {found}")
    return found


def stays(true: Callable[[], object], seconds: float, every: float = 0.05) -> bool:
    """Whether it is true now, and all the time until then: for what must not happen."""
    return not eventually(lambda: not true(), seconds, every)
