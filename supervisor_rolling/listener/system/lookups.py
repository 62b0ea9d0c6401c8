"""Slow lookups, each in a thread of its own: what the last one found, and a new one on request."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from supervisor_rolling.listener.system.threads import at_usual_priority

log = logging.getLogger("supervisor_rolling")

T = TypeVar("T")


class Lookups(Generic[T]):
    """Lookups by a key, one at a time for each. Never blocks, never raises.

    ``failed`` makes what counts as found of a failure; ``within``: seconds after which a lookup has failed;
    ``clock``: CLOCK_MONOTONIC; ``on_change`` is called, from a thread, when one is over."""

    def __init__(
        self,
        name: str,
        failed: Callable[[str], T],
        within: float,
        clock: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        self._name = name
        self._failed = failed
        self._within = within
        self._clock = clock
        self._on_change = on_change
        self._lookups: dict[str, _Lookup[T]] = {}
        self._last: dict[str, T] = {}

    def fresh(self, key: str, since: float, find: Callable[[], T]) -> T | None:
        """What a lookup found that began at ``since`` or later; None while there is none: then one is begun. Where one
        hangs no other is begun, and it has failed."""
        self.last(key)
        lookup = self._lookups.get(key)
        if lookup is not None and lookup.found is None and self._clock() - lookup.began >= self._within:
            lookup.hangs = True
            lookup.found = self._failed(f"took more than {self._within:g} s")
        is_stale = lookup is None or (lookup.found is not None and lookup.began < since)
        if lookup is None or (is_stale and not (lookup.hangs and lookup.is_alive())):
            lookup = _Lookup(self._name, find, self._failed, self._clock(), self._on_change)
            self._lookups[key] = lookup
        return lookup.found

    def last(self, key: str) -> T | None:
        """What the last lookup that is over found; None where there was none."""
        lookup = self._lookups.get(key)
        if lookup is not None and lookup.found is not None:
            self._last[key] = lookup.found
        return self._last.get(key)


class _Lookup(threading.Thread, Generic[T]):
    """One lookup. ``found`` is None until it is over."""

    def __init__(
        self,
        name: str,
        find: Callable[[], T],
        failed: Callable[[str], T],
        began: float,
        on_change: Callable[[], None],
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.began = began
        self.found: T | None = None
        self.hangs = False
        self._find = find
        self._failed = failed
        self._on_change = on_change
        self.start()

    def run(self) -> None:
        """``found`` is set whatever happens: a rollout waits for it."""
        at_usual_priority()
        try:
            self.found = self._find()
        except Exception as error:  # a thread has no caller to raise to
            log.exception("a bug in supervisor_rolling: %s", self.name)
            self.found = self._failed(f"{type(error).__name__}: {error}")
        self._on_change()
