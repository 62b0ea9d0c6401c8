"""Connections that carry request after request although the gate is closed: a load balancer's keepalive pool.

What was accepted before the gate closed may send a request after it, and be answered: that is one request in flight. A
second one, after that answer, is a connection that is used again. Uploads, streams and WebSockets send none; a pool
that runs dry, because the application closes its connections, sends one on each and sometimes two: an answer that began
before the process knew that it drains could not say so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from supervisor_rolling.core.connections import Arrival, KeepaliveReuse

_Used = dict[tuple[int, str], tuple[int, int]]


class Reuses:
    """Remembers what each connection carried; a new object forgets, and counts anew."""

    def __init__(self) -> None:
        self._used: dict[tuple[str, float], _Used] = {}

    def find(
        self,
        request_sniffer: Mapping[str, Sequence[Arrival]],
        peers: Mapping[str, Collection[str]],
        closed_since: Mapping[str, float],
        at: float,
    ) -> dict[str, KeepaliveReuse]:
        """The reuse of each process that has any, of the connections that it still has (``peers``).

        ``request_sniffer`` are the requests that came since the last call; ``closed_since`` is the moment since when
        all ports of a process are closed, for those of which it is known. A gate that closes anew begins anew."""
        keys = {name: (name, since) for name, since in closed_since.items() if name in peers and since <= at}
        self._used = {key: self._used.get(key, {}) for key in keys.values()}
        for name, key in keys.items():
            _note(self._used[key], request_sniffer.get(name, ()))
        found = {name: _reuse(self._used[key], peers[name], at - key[1]) for name, key in keys.items()}
        return {name: reuse for name, reuse in found.items() if reuse.most > 1}


def _note(used: _Used, request_sniffer: Sequence[Arrival]) -> None:
    """What is sent twice, or begins in the middle of an upload like a request, comes while nothing was answered."""
    for one in request_sniffer:
        answered, times = used.get((one.port, one.peer), (-1, 0))
        if answered != one.answered:
            used[one.port, one.peer] = (one.answered, times + 1)


def _reuse(used: _Used, peers: Collection[str], seconds: float) -> KeepaliveReuse:
    again = {peer: times for (_, peer), (_, times) in used.items() if times > 1 and peer in peers}
    if not again:
        return KeepaliveReuse()
    most, peer = max((times, peer) for peer, times in again.items())
    return KeepaliveReuse(sum(again.values()), len(again), most, peer, seconds)
