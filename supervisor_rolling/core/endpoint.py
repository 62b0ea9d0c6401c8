"""How traffic reaches a process: a gate closes its endpoints, a drain waits for their connections, a warm-up connects.

core does not depend on the kind of an endpoint; the adapters do: a gate says which kinds it can close, and each kind
has its own way to connect and to count connections. A process without endpoints has nothing to drain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

T = TypeVar("T")

TCP, UNIX = "tcp", "unix"
_NOUNS = {TCP: "port", UNIX: "unix socket"}

MAX_PATH = 107
"""Characters of the path of a unix socket, at most: the kernel takes so many bytes."""


class Endpoint(NamedTuple):
    """One endpoint of a process; as text ``tcp:8001`` or ``unix:/run/app/a.sock``."""

    kind: str  # tcp or unix
    address: str  # the number of a TCP port, or the full path of a unix socket

    def __str__(self) -> str:
        return f"{self.kind}:{self.address}"

    @property
    def port(self) -> int:
        """The number of a TCP port; raises ValueError for any other kind."""
        return int(self.address)

    def problem(self) -> str:
        """What is wrong with it, for the codec; empty: nothing."""
        if self.kind == UNIX:
            is_path = self.address.startswith("/") and self.address.isprintable() and len(self.address) <= MAX_PATH
            return "" if is_path else f"{self.address[:40]!r} is not the full path of a unix socket"
        is_number = self.address.isascii() and self.address.isdigit() and len(self.address) <= 5
        is_port = is_number and 0 < self.port < 1 << 16
        return "" if is_port or self.kind != TCP else f"{self.address[:40]!r} is not a TCP port"


Endpoints = Mapping[str, tuple[Endpoint, ...]]
"""The endpoints of each process of a group, by its name."""


def tcp(port: int) -> Endpoint:
    """A TCP port, at whatever address of this host."""
    return Endpoint(TCP, str(port))


def unix(path: str) -> Endpoint:
    """A unix socket, by the full path to which clients connect."""
    return Endpoint(UNIX, path)


def tcp_ports(endpoints: Iterable[Endpoint]) -> tuple[int, ...]:
    """The numbers of those endpoints that are TCP ports."""
    return tuple(endpoint.port for endpoint in endpoints if endpoint.kind == TCP)


def unix_paths(endpoints: Iterable[Endpoint]) -> tuple[str, ...]:
    """The paths of those endpoints that are unix sockets."""
    return tuple(endpoint.address for endpoint in endpoints if endpoint.kind == UNIX)


def by_port(found: Mapping[Endpoint, T]) -> dict[int, T]:
    """What is known of each TCP endpoint, by the number of its port."""
    return {endpoint.port: value for endpoint, value in found.items()}


def by_endpoint(found: Mapping[int, T]) -> dict[Endpoint, T]:
    """What is known of each TCP port, by its endpoint."""
    return {tcp(port): value for port, value in found.items()}


def endpoints_text(endpoints: Iterable[Endpoint]) -> str:
    """Endpoints in a message: ``port 8001, port 9001``."""
    return ", ".join(f"{_NOUNS[endpoint.kind]} {endpoint.address}" for endpoint in endpoints)
