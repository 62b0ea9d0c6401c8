"""The process table as the listener last got it, so that an answer brings only the rows that have changed since.

A crash among a thousand processes is one row and not a thousand, in a supervisord that has one thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Keys = Mapping[str, Mapping[str, tuple[Any, ...]]]  # by group and name: a row is sent again when this differs


class Table:
    """For one listener; a second one, or one that lost an answer, gets everything anew."""

    def __init__(self) -> None:
        self._number = 0
        self._sent: Keys = {}

    def news(self, known: int, keys: Keys) -> tuple[int, dict[str, tuple[bool, list[str]]]]:
        """What to send to a listener that got the answer ``known`` last (0: none): the number of this answer and, for
        each group, whether it is sent as a whole, and the names of the rows."""
        sent = self._sent if known == self._number else {}
        self._number += 1
        self._sent = keys
        return self._number, {group: _news(sent.get(group), names) for group, names in keys.items()}


def _news(sent: Mapping[str, Any] | None, keys: Mapping[str, Any]) -> tuple[bool, list[str]]:
    if sent is None or sent.keys() - keys.keys():
        return True, list(keys)
    return False, [name for name, key in keys.items() if sent.get(name) != key]
