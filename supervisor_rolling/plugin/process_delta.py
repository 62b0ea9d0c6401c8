"""The process table as the listener last got it, so that a look brings only what has changed since.

A crash among a thousand processes is one row and not a thousand, in a supervisord that has one thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Keys = Mapping[str, Mapping[str, tuple[Any, ...]]]  # by group and name: what has to differ for a row to be news


class Table:
    """For one listener; a second one, or one that lost an answer, gets everything anew."""

    def __init__(self) -> None:
        self._number = 0
        self._told: Keys = {}

    def news(self, known: int, keys: Keys) -> tuple[int, dict[str, tuple[bool, list[str]]]]:
        """What a listener must be told that has had the answer ``known`` (0: none).

        Returns this answer's number and, for each group, whether it is told as a whole, and the names of those to tell.
        """
        told = self._told if known == self._number else {}
        self._number += 1
        self._told = keys
        return self._number, {group: _news(told.get(group), names) for group, names in keys.items()}


def _news(told: Mapping[str, Any] | None, keys: Mapping[str, Any]) -> tuple[bool, list[str]]:
    if told is None or told.keys() - keys.keys():
        return True, list(keys)
    return False, [name for name, key in keys.items() if told.get(name) != key]
