"""A ``Background`` that runs each call at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import TypeVar

T = TypeVar("T")


class AtOnce:
    """For tests of what uses the background."""

    def run(self, key: Hashable, call: Callable[[], T]) -> T | None:
        return call()

    def keep(self, keys: Collection[Hashable]) -> None:
        """Nothing is remembered."""
