"""Connections that came through a closed gate.

The first observation behind a closed gate finds the connections that were open before. One that is not among them came
later, although new connections are refused: another firewall rule may accept it first. A process that still receives
connections must not be stopped.
"""

from __future__ import annotations

from collections.abc import Mapping


class GateLeaks:
    """Remembers the connections that were found first; a new object finds a leak one observation later."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, float], frozenset[str]] = {}

    def find(self, peers: Mapping[str, frozenset[str]], closed_since: Mapping[str, float], at: float) -> dict[str, str]:
        """A newcomer for each process that has one.

        ``peers``: the connections of each process, read after ``at``. ``closed_since``: the moment since when all its
        endpoints are closed, for those of which it is known. A gate that closes anew begins anew.
        """
        keys = {name: (name, since) for name, since in closed_since.items() if name in peers and since <= at}
        self._before = {key: self._before.get(key, peers[name]) for name, key in keys.items()}
        newcomers = {name: peers[name] - self._before[key] for name, key in keys.items()}
        return {name: min(found) for name, found in newcomers.items() if found}
