"""What the kernel shows of the connections to a port."""

from __future__ import annotations

from dataclasses import dataclass

GONE_CLIENT = "a client that is gone"
"""In place of the peer of a connection to a unix socket of which the client has closed its end. What waits for its
answer had another one before."""


@dataclass(frozen=True)
class Connection:
    """One connection of a process, as far as the kernel shows it."""

    peer: str  # address:port
    age: float = 0.0  # seconds for which it has been open, at least: the kernel does not show its start
    idle: float = 0.0  # seconds since the last byte
    last: str = ""  # "sent" or "received" by the process: that byte; empty: there was none
    state: str = ""  # "not accepted" by the process yet, "half-closed" by the client, "stuck": the client takes no data


@dataclass(frozen=True)
class Connections:
    """The connections of one port, both address families."""

    peers: frozenset[str] = frozenset()  # address:port, or what a unix socket has for it, of each to be answered
    oldest: tuple[Connection, ...] = ()  # the oldest few, oldest first, where they were asked for
    idle_for: float = 0.0  # seconds without a byte on any, where asked for; 0.0: one awaits its answer; infinity: none


@dataclass(frozen=True)
class Arrival:
    """An HTTP request that came to a port."""

    port: int
    peer: str  # address:port
    answered: int  # another number once the process has sent anything on that connection since


@dataclass(frozen=True)
class KeepaliveReuse:
    """Requests over connections that were used again behind a closed gate."""

    requests: int = 0
    connections: int = 0
    most: int = 0  # requests over one connection
    peer: str = ""  # of that connection
    seconds: float = 0.0  # within which they came
    program: str = ""  # of this host, that the peer is; empty: not known


def peer_of(address: str, port: int) -> str:
    """A peer as everything writes it, so that peers can be compared: ``10.0.0.1:4711``, ``[::1]:4711``."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
