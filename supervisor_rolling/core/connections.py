"""What the kernel shows of the connections to a port."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Connection:
    """One connection of a process, as far as the kernel tells.

    ``peer``: ``address:port``. ``age``: seconds for which it has been open at least; since when, nobody can ask.
    ``idle``: seconds since the last byte, and ``last`` whether the process ``sent`` or ``received`` it; empty where
    none has moved. ``state`` says what is unusual: ``not accepted`` by the process yet, ``half-closed`` by the client,
    or ``stuck``: the client does not take what it is sent.
    """

    peer: str
    age: float = 0.0
    idle: float = 0.0
    last: str = ""
    state: str = ""


@dataclass(frozen=True)
class Connections:
    """The connections of one port, both families.

    ``peers``: one string (``address:port``) for each that is ESTABLISHED, SYN_RECV or CLOSE_WAIT, those that wait in
    the accept queue among them. ``oldest``: the oldest few of the connections, the oldest first, where they were asked
    for; ``silent`` then is for how many seconds no byte has moved on any of them: 0.0 where one waits for its answer,
    infinity where there is none.
    """

    peers: frozenset[str] = frozenset()
    oldest: tuple[Connection, ...] = ()
    silent: float = 0.0


@dataclass(frozen=True)
class Arrival:
    """An HTTP request that came to a port. ``peer``: ``address:port``. ``answered``: a number that is another when the
    process has sent anything on that connection since."""

    port: int
    peer: str
    answered: int


@dataclass(frozen=True)
class KeepaliveReuse:
    """Requests that came over connections that were used again behind a closed gate: how many, over how many, the most
    over one and whose that is, within how many seconds. ``program``: of this host, that the peer is; empty where it is
    not known."""

    requests: int = 0
    connections: int = 0
    most: int = 0
    peer: str = ""
    seconds: float = 0.0
    program: str = ""
