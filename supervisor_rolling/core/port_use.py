"""Which processes listen on a port, and which programs connect to it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Holder:
    """Processes that listen on a port, or have an outgoing connection from it."""

    pids: tuple[int, ...]
    name: str  # that the kernel has for the first of them
    started: str = ""  # as which supervisord started it or its ancestor (group:process); empty: it did not, or hidden
    peer: str = ""  # they do not listen: the port is the local one of their connection to this address and port


@dataclass(frozen=True)
class PortUse:
    """What listens on one port, seen from one process and its descendants.

    An empty ``own`` and no ``others`` where something listens: its holder cannot be seen, as in another pid namespace.
    """

    addresses: tuple[str, ...] = ()  # of every socket that listens there
    own: tuple[str, ...] | None = ()  # of the process's own sockets; None: which are its own cannot be seen
    others: tuple[Holder, ...] = ()  # other processes that listen in its place, or beside it at the same address


@dataclass(frozen=True)
class Client:
    """A program on this host, or another host, that connects to the ports of a group."""

    name: str  # of the program; empty: on another host, or it cannot be seen
    pid: int = 0
    address: str = ""  # of the other end of one of its connections; empty: none is open now
    is_local: bool = True
    files: tuple[tuple[str, str], ...] = ()  # its configuration: path and text, the main file first
