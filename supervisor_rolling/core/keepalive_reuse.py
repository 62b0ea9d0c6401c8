"""Connections that carry request after request behind a closed gate: a load balancer's keep-alive pool.

A connection that is older than the closed gate may bring a request after it, and be answered: that is one request in
flight. A second one, after that answer, is a connection that is used again. Uploads, streams and WebSockets bring none.
Where the application closes its connections while it drains, each carries one more request, or two: an answer that
began before the process was notified has no ``Connection: close``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from supervisor_rolling.core.connections import Arrival, KeepaliveReuse

_Requests = dict[tuple[int, str], tuple[int, int]]
"""By port and peer: the last ``Arrival.answered``, and how many requests came."""


class KeepaliveReuses:
    """Remembers what each connection carried; a new object counts anew."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, float], _Requests] = {}

    def find(
        self,
        arrived: Mapping[str, Sequence[Arrival]],
        peers: Mapping[str, Collection[str]],
        closed_since: Mapping[str, float],
        at: float,
    ) -> dict[str, KeepaliveReuse]:
        """The reuse of each process that has any, of the connections that it still has (``peers``).

        ``arrived``: the requests since the last call. ``closed_since``: the moment since when all endpoints of a
        process are closed, for those of which it is known. A gate that closes anew begins anew."""
        keys = {name: (name, since) for name, since in closed_since.items() if name in peers and since <= at}
        self._requests = {key: self._requests.get(key, {}) for key in keys.values()}
        for name, key in keys.items():
            _note(self._requests[key], arrived.get(name, ()))
        found = {name: _reuse(self._requests[key], peers[name], at - key[1]) for name, key in keys.items()}
        return {name: reuse for name, reuse in found.items() if reuse.most > 1}


def _note(requests: _Requests, arrived: Sequence[Arrival]) -> None:
    """Count each request. A segment that was sent twice, or a piece of an upload that looks like a request, comes
    before anything was answered, and is not counted."""
    for one in arrived:
        answered, times = requests.get((one.port, one.peer), (-1, 0))
        if answered != one.answered:
            requests[one.port, one.peer] = (one.answered, times + 1)


def _reuse(requests: _Requests, peers: Collection[str], seconds: float) -> KeepaliveReuse:
    again = {peer: times for (_, peer), (_, times) in requests.items() if times > 1 and peer in peers}
    if not again:
        return KeepaliveReuse()
    most, peer = max((times, peer) for peer, times in again.items())
    return KeepaliveReuse(sum(again.values()), len(again), most, peer, seconds)
