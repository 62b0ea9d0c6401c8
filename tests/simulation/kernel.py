"""The kernel of the simulated world: sockets, the gate, deaths."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from supervisor_rolling.core.checks.processes import Wrapper
from supervisor_rolling.core.connections import Connection, Connections
from supervisor_rolling.core.endpoint import TCP, Endpoint
from supervisor_rolling.core.errors import GateError, SocketsError
from supervisor_rolling.core.port_use import Holder, PortUse
from supervisor_rolling.core.preflight_report import Finding
from supervisor_rolling.core.process import Incarnation

if TYPE_CHECKING:
    from tests.simulation.world import World


class FakeSockets:
    """The ``Sockets`` of the world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.holders: dict[int, Holder] = {}
        self.holders_asked: list[list[int]] = []
        self.is_blind = False  # /proc hides what a process listens on

    def connections(self, endpoints: Collection[Endpoint], oldest: int = 0) -> dict[Endpoint, Connections]:
        """This kernel knows no age and so gives any; the newest, of which it is easiest to say too much."""
        found = {endpoint: self._world.peers_of(number_of(endpoint)) for endpoint in endpoints}
        return {
            endpoint: Connections(
                frozenset(peers),
                tuple(map(Connection, peers[::-1][:oldest])),
                self._idle_for(number_of(endpoint)) if oldest else 0.0,
            )
            for endpoint, peers in found.items()
        }

    def listeners(self, ports: Collection[int]) -> dict[int, tuple[str, ...]]:
        return dict.fromkeys(ports, ("127.0.0.1",))

    def ports_of(self, pids: Collection[int]) -> dict[int, tuple[int, ...]]:
        if self.is_blind:
            raise SocketsError("hidden")
        return {pid: tuple(p.port for p in self._world.processes.values() if p.pid == pid) for pid in pids}

    def unix_of(self, pids: Collection[int]) -> dict[int, tuple[str, ...]]:
        return dict.fromkeys(pids, ())

    def listens_at(self, path: str, pid: int) -> bool:
        return any(p.pid == pid and path == f"/run/{p.port}" for p in self._world.processes.values())

    def accepts(self, pid: int) -> bool:
        return True

    def reuseport_of(self, pids: Collection[int]) -> list[int]:
        return []

    def memory_files_of(self, pid: int) -> list[str]:
        return []

    def wrappers_of(self, ports: Mapping[int, Collection[int]]) -> dict[int, Wrapper]:
        return {}

    def families_of(self, pids: Collection[int]) -> dict[int, Wrapper]:
        return {}

    def listening(self, port: int, pid: int) -> PortUse:
        return PortUse()

    def holders_of(self, ports: Collection[int]) -> dict[int, Holder]:
        self.holders_asked.append(list(ports))
        return {port: self.holders[port] for port in ports if port in self.holders}

    def _idle_for(self, port: int) -> float:
        is_busy = any(p.connections for p in self._world.processes.values() if p.port == port)
        return 0.0 if is_busy else self._world.keepalive_closer.idle_for(port)


def number_of(endpoint: Endpoint) -> int:
    """The number of a port, or that in the path of a unix socket: ``/run/8001``."""
    return int(endpoint.address.removeprefix("/run/"))


class FakeGate:
    """netfilter, or the file system, and the ``Gate`` that one listener has to it. ``problem``: why it cannot close;
    ``leaks``: the ports through which connections come all the same."""

    name = description = "world"

    def __init__(self, world: World, kind: str = TCP) -> None:
        self._world = world
        self._kind = kind
        self.closes = frozenset({kind})
        self.closed_until: dict[int, float] = {}
        self.problem = ""
        self.leaks: set[int] = set()
        self._since: dict[int, float] = {}

    def restart(self) -> None:
        """The kernel keeps its rules, and a new listener does not know since when."""
        self._since = {}

    def is_closed(self, port: int) -> bool:
        return self.closed_until.get(port, 0.0) > self._world.now and port not in self.leaks

    def check(self) -> None:
        if self.problem:
            raise GateError(self.problem)

    def inspect(self, endpoints: Mapping[Endpoint, str]) -> list[Finding]:
        return []

    def hold(self, closed: Mapping[Endpoint, str], drained: Collection[Endpoint] = ()) -> Mapping[Endpoint, float]:
        if self.problem:
            raise GateError(self.problem)
        now, by_number = self._world.now, {number_of(endpoint): endpoint for endpoint in closed}
        for port in by_number:
            if self.closed_until.get(port, 0.0) <= now:
                self._since.pop(port, None)
        lease = self._world.gate_policy.lease if self._kind == TCP else math.inf  # a name is kept for ever
        self.closed_until = dict.fromkeys(by_number, now + lease)
        self._since = {port: self._since.get(port, now) for port in by_number}
        if self._kind == TCP or closed:
            self._world.operation("hold")
        return {by_number[port]: since for port, since in self._since.items()}


class FakeDeathWatch:
    """The kernel's side of a pidfd."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._watched: set[Incarnation] = set()

    def restart(self) -> None:
        self._watched = set()

    def watch(self, processes: Collection[Incarnation]) -> None:
        self._watched = set(processes)

    def take(self) -> Collection[Incarnation]:
        alive = {process.incarnation for process in self._world.processes.values()}
        return set() if self._world.is_deaf else self._watched - alive
