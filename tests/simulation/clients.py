"""What connects to the processes of the simulated world: a load balancer with its pools, and what is known of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor_rolling.core.checks.conntrack import Conntrack
from supervisor_rolling.core.connections import Arrival
from supervisor_rolling.core.errors import GatePermissionError
from supervisor_rolling.core.nginx_config import Nginx
from supervisor_rolling.core.policy import BalancerPolicy, Policy
from supervisor_rolling.core.port_use import Client
from supervisor_rolling.core.preflight_report import Finding
from supervisor_rolling.listener.contracts import WhileClosed

if TYPE_CHECKING:
    from tests.simulation.world import World

STEP = 0.01  # seconds that the clock moves at a time


@dataclass
class Pooled:
    """A connection of the load balancer's pool. ``busy_until``: the end of the answer that is under way."""

    peer: str
    moved_at: float
    busy_until: float = -math.inf


class FakeKeepaliveCloser:
    """The load balancer's keep-alive pool of each port, and the rule that makes it close a connection after its answer.

    ``picks_every``: seconds from one request on a port's pool to the next; the newest idle connection is taken.
    ``is_opaque``: it speaks TLS, so that no connection is ever closed; ``is_deaf``: it is not nginx, and keeps them all
    the same. ``problem``: the kernel cannot.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.picks_every = math.inf
        self.answer_takes = 0.05
        self.is_opaque = False
        self.is_deaf = False
        self.problem = ""
        self.by_port: dict[int, list[Pooled]] = {}
        self._until: dict[int, float] = {}
        self._closing: dict[int, set[str]] = {}
        self._answered: dict[int, str] = {}
        self._picked_at: dict[int, float] = {}

    def fill(self, number: int) -> None:
        """So many idle connections to each process."""
        at = self._world.now
        for process in self._world.processes.values():
            self.by_port[process.port] = [Pooled(f"10.0.0.9:{n}", at) for n in range(number)]

    def check(self) -> None:
        if self.problem:
            raise GatePermissionError(self.problem)

    def hold(self, ports: Collection[int], lease: float) -> dict[int, str]:
        if ports and self.problem:
            raise GatePermissionError(self.problem)
        now = self._world.now
        for port in ports:
            if self._until.get(port, 0.0) <= now:
                self._closing[port] = {one.peer for one in self.by_port.get(port, [])}
        self._until = dict.fromkeys(ports, now + lease)
        return {port: self._answered.get(port, "") for port in ports}

    def pass_time(self) -> None:
        now = self._world.now
        for port, pool in self.by_port.items():
            if now - self._picked_at.get(port, -math.inf) >= self.picks_every:
                self._pick(port, pool)
            self.by_port[port] = [one for one in pool if not self._is_over(port, one)]

    def stopped(self, port: int) -> int:
        """The process stops: all are closed. Returns the requests that were lost."""
        return sum(one.busy_until > self._world.now for one in self.by_port.pop(port, []))

    def idle_for(self, port: int) -> float:
        now = self._world.now
        found = [0.0 if one.busy_until > now else now - one.moved_at for one in self.by_port.get(port, [])]
        return min(found, default=math.inf)

    def _pick(self, port: int, pool: list[Pooled]) -> None:
        idle = [one for one in pool if one.busy_until <= self._world.now]
        if idle:
            self._picked_at[port] = self._world.now
            idle[-1].moved_at = idle[-1].busy_until = self._world.now + self.answer_takes

    def _is_over(self, port: int, one: Pooled) -> bool:
        """Whether it is closed: its answer has ended and said HTTP/1.0."""
        now = self._world.now
        has_answered = math.isfinite(one.busy_until) and one.busy_until <= now
        if not has_answered or self._until.get(port, 0.0) <= now or one.peer not in self._closing[port]:
            return False
        if one.busy_until <= now - STEP * 1.5:
            return False  # answered before the rule was there
        self._answered[port] = "opaque" if self.is_opaque else "http"
        if self.is_deaf:
            self._closing[port].discard(one.peer)
            return False
        return not self.is_opaque

    @property
    def waiting(self) -> frozenset[str]:
        return frozenset(peer for peers in self._closing.values() for peer in peers)


class FakeRequestSniffer:
    """The ``RequestSniffer`` of one listener: a load balancer asks over each of its old connections every
    ``asks_every`` seconds."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.watched: Collection[int] = ()
        self.asks_every = math.inf
        self._taken_at = world.now

    def restart(self) -> None:
        self.watched, self._taken_at = (), self._world.now

    def watch(self, ports: Collection[int]) -> None:
        self.watched = ports

    def take(self) -> list[Arrival]:
        world, begun = self._world, self._taken_at
        self._taken_at = world.now
        rounds = [int(at / self.asks_every) for at in (begun, world.now)]
        return [
            Arrival(port, peer, number)
            for port in self.watched
            for peer in world.peers_of(port)
            for number in range(*rounds)
        ]


class FakeBalancers:
    """The ``Balancers`` of the world. ``nginx``: its configuration; None while it is being read."""

    def __init__(self) -> None:
        self.nginx: Nginx | None = Nginx(problem="there is no nginx in this world", is_absent=True)

    def read(self, policy: BalancerPolicy, since: float) -> Nginx | None:
        return self.nginx

    def last_read(self, policy: BalancerPolicy) -> Nginx | None:
        return self.nginx


class FakeClients:
    """The ``Clients`` of the world. ``found``: what connects to the group; None while that is not known."""

    def __init__(self) -> None:
        self.found: list[Client] | None = []

    def find(self, group: str, ports: Collection[int], since: float) -> list[Client] | None:
        return self.found

    def last_found(self, group: str) -> list[Client] | None:
        return self.found

    def program_of(self, peer: str, port: int) -> str:
        return next((one.name for one in self.found or () if one.is_local), "")


class FakeGateProbes:
    """The ``GateProbes`` of the world. ``failures``: what the gate does not do; ``unreached``: why no process can be
    connected to; ``connected``: the ports that were connected to."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.unreached = ""
        self.connected: list[int] = []

    def probe_gate(self, closed: WhileClosed, addresses: Collection[str], bypass: str) -> list[str]:
        return list(self.failures)

    def warmup_address(self, addresses: tuple[str, ...], bypass: str) -> str:
        return addresses[0]

    def connect(self, targets: Collection[tuple[str, int]], bypass: str = "none") -> dict[tuple[str, int], str]:
        self.connected += [port for _, port in targets]
        return dict.fromkeys(targets, self.unreached)

    def metrics(self, address: str) -> tuple[str, str]:
        return "", ""

    def untrusted_files(self, policy: Policy) -> Sequence[Finding]:
        return ()

    def migrates(self) -> bool | None:
        return None

    def conntrack(self) -> Conntrack | None:
        return None


class FakeDrainFlags:
    """The ``DrainFlags`` of the world. ``flagged``: the names of the processes."""

    def __init__(self) -> None:
        self.flagged: set[str] = set()

    def hold(self, draining: Collection[tuple[str, str]]) -> None:
        self.flagged = {name for _, name in draining}
