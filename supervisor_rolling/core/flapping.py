"""Which processes flap, that is exit again and again: the reconciler does not wake up for each exit of those."""

from __future__ import annotations

from collections.abc import Iterable

FLAP_WINDOW = 1.0
"""A process flaps after two exits within this many seconds, and until as many have passed since the last one."""


class Flapping:
    """The processes that flap, by any key. For one thread."""

    def __init__(self) -> None:
        self._exits: dict[str, tuple[float, bool]] = {}  # when each exited last, and whether soon after the one before

    def exited(self, keys: Iterable[str], at: float) -> None:
        """Note an exit of each. ``at``: now."""
        self._exits = {key: found for key, found in self._exits.items() if at - found[0] < FLAP_WINDOW}
        self._exits.update({key: (at, key in self._exits) for key in keys})

    def has(self, key: str, at: float) -> bool:
        """Whether a process flaps."""
        last, flaps = self._exits.get(key, (0.0, False))
        return flaps and at - last < FLAP_WINDOW
