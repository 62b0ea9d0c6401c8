"""Runs slow calls in threads: the ``Background`` of ``contracts.py``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable
from typing import Any, TypeVar, cast

from supervisor_rolling.listener.system.threads import at_usual_priority

T = TypeVar("T")

MAX_RUNNING = 8
"""Threads of one object at the same time. A call beyond that starts in a later reconcile."""


class Threads:
    """A thread for each call. ``on_change`` is called, from that thread, when a call has ended."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._on_change = on_change
        self._calls: dict[Hashable, _Call] = {}
        self._running: set[_Call] = set()

    def run(self, key: Hashable, call: Callable[[], T]) -> T | None:
        """See ``contracts.Background``."""
        if key not in self._calls:
            self._running = {one for one in self._running if one.is_alive()}
            if len(self._running) >= MAX_RUNNING:
                return None
            self._calls[key] = _Call(call, self._on_change)
            self._running.add(self._calls[key])
        found = self._calls[key]
        if found.error is not None:
            del self._calls[key]
            raise found.error
        return cast("T | None", found.value)

    def keep(self, keys: Collection[Hashable]) -> None:
        """See ``contracts.Background``."""
        self._calls = {key: call for key, call in self._calls.items() if key in keys}


class _Call(threading.Thread):
    def __init__(self, call: Callable[[], object], on_change: Callable[[], None]) -> None:
        super().__init__(name="background", daemon=True)
        self._call = call
        self._on_change = on_change
        self.value: Any = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        """The call; ``value`` or ``error`` is what came of it."""
        at_usual_priority()
        try:
            self.value = self._call()
        except Exception as error:  # noqa: BLE001 - raised in the loop's thread
            self.error = error
        self._on_change()
