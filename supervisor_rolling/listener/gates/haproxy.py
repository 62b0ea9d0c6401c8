"""The ``Gate`` and ``RequestCounter`` that close ports in HAProxy, by its runtime API: without a firewall or root.

A port belongs to a server in HAProxy's backend, or to several; of several, those with an address of this host count.
It is closed by the state of its servers and opened by ``state ready``:

* ``drain`` while its process drains: HAProxy sends it no request, but those of users that a cookie or a stick table
  leads back to it.
* ``maint`` as soon as nothing is in flight, or after STICKY_GRACE seconds in which such users kept coming, and wherever
  no drain is waited for: HAProxy sends it nothing, and those users to other servers. What is in flight finishes (unless
  the server has ``on-marked-down shutdown-sessions``).

Beyond the contract of ``Gate``:

* HAProxy keeps a state for ever. So each is written to a state file before HAProxy gets it: a new listener finds there
  what the last one closed, and opens what is not to be closed any more.
* Only what this gate has closed is ever set ready. A server that an operator has drained or put into maintenance counts
  as closed and stays so; one that we drained and that is found in maintenance is the operator's from then on.
* Only what is read back counts. A reload of HAProxy forgets states (without a server-state-file): what it has opened is
  closed again, and its "since" begins anew.
* A port without a server, or a server that does not obey, is a PartlyClosedError, after all others are held.

What is left on a port are HAProxy's requests in flight to its servers or, if that is more, the kernel's connections
less those that HAProxy keeps idle: requests of the HAProxy process before a reload, of another backend, of another
client. Nothing is left only where nothing was in flight behind ``maint``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from supervisor_rolling.core.connections import Connections
from supervisor_rolling.core.endpoint import TCP, Endpoint, by_endpoint, by_port, tcp
from supervisor_rolling.core.errors import PartlyClosedError
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.core.preflight_report import Finding, Severity
from supervisor_rolling.listener.gates.haproxy_api import DRAIN, MAINT, RuntimeApi, Server, ServerLoad
from supervisor_rolling.listener.gates.state_file import StateFile
from supervisor_rolling.listener.system.own_addresses import is_own

MAINT_GRACE = 0.05
"""Seconds in maintenance before a port counts as empty: a thread of HAProxy may have chosen the server just before, and
not counted the request yet."""

STICKY_GRACE = 2.0
"""Seconds of a drain after which users that keep coming to the server are moved: the drain would never end."""

_FIX_SERVER = "correct the server lines in haproxy.cfg, or gate.backend_name or ports in rolling.yaml"


class HaproxyGate:
    """The haproxy backend. ``clock`` gives CLOCK_MONOTONIC seconds; ``directory`` is where the state file is kept."""

    name = description = "haproxy"
    closes = frozenset({TCP})

    def __init__(
        self, policy: GatePolicy, owner: str, clock: Callable[[], float], directory: Path | None = None
    ) -> None:
        self._api = RuntimeApi(policy.socket, policy.backend_name)
        self._file = StateFile((owner, policy.socket, policy.backend_name), directory)
        self._clock = clock
        self._servers: Mapping[int, Sequence[Server]] = {}  # of each port to close
        self._since: dict[int, float] = {}
        self._maint_since: dict[int, float] = {}  # of ports that get not even the users of a cookie
        self._requests_at_drain: dict[int, int] = {}  # how many a port had ever had when its drain began

    def hold(self, closed: Mapping[Endpoint, str], drained: Collection[Endpoint] = ()) -> Mapping[Endpoint, float]:
        """Make exactly these ports closed; see ``Gate.hold``."""
        ports = by_port(closed)
        servers = self._look(ports)
        ours = self._ours(servers)
        asked = {
            s.name: MAINT if tcp(port) in drained else DRAIN for port, those in self._servers.items() for s in those
        }
        close = {
            s.name: asked[s.name]
            for s in servers
            if s.name in asked and (not s.is_closed or (s.name in ours and s.is_drained and asked[s.name] == MAINT))
        }
        self._change(ours, close, [s for s in servers if s.name in ours.keys() - asked.keys()])
        without = [str(port) for port in ports if not self._servers[port]]
        if without:
            there = ", ".join(f"{server.name} ({server.address}:{server.port})" for server in servers) or "none"
            raise PartlyClosedError(
                f"HAProxy's backend {self._api.backend} has no server of this host with port {', '.join(without)}, "
                f"only: {there}. Fix: {_FIX_SERVER}",
                by_endpoint(self._since),
            )
        return by_endpoint(self._since)

    def check(self) -> None:
        """Raise where the socket, its level, the backend or the state file's directory do not suffice; see
        ``Gate.check``."""
        self._api.require_admin()
        self._api.servers()
        self._file.prepare()

    def inspect(self, endpoints: Mapping[Endpoint, str]) -> Sequence[Finding]:
        """What in HAProxy's configuration and states harms a rollout; see ``Gate.inspect``."""
        ports, servers = by_port(endpoints), self._api.servers()
        foreign = [s for s in servers if s.port in ports and s.is_closed and s.name not in self._ours(servers)]
        return list(_findings(self._api.backend, ports, servers, foreign, self._api.persistence()))

    def in_flight(self, found: Mapping[Endpoint, Connections]) -> Mapping[Endpoint, int]:
        """How much each port still has to answer; see ``RequestCounter.in_flight``. Puts a port into maintenance where
        that is nothing, or where sticky users keep coming: only a later call that finds nothing then returns 0."""
        connections = by_port(found)
        traffic, now = self._traffic(connections), self._clock()
        numbers = {port: max(one.in_flight, len(connections[port].peers) - one.idle) for port, one in traffic.items()}
        drained = [port for port in numbers if self._is_drain_over(port, numbers[port], traffic[port].ever, now)]
        if drained:
            ours, servers = self._file.states, [server for port in drained for server in self._servers[port]]
            self._change(ours, {s.name: MAINT for s in servers if s.is_drained and s.name in ours})
        uncertain = [port for port in numbers if now - self._maint_since.get(port, now) < MAINT_GRACE]
        return {tcp(port): max(number, int(port in uncertain)) for port, number in numbers.items()}

    def bypassed(self, found: Mapping[Endpoint, Connections]) -> frozenset[Endpoint]:
        """The ports with more connections than HAProxy has to their servers; see ``RequestCounter.bypassed``."""
        traffic = by_endpoint(self._traffic(by_port(found)))
        return frozenset(e for e, one in traffic.items() if len(found[e].peers) > one.in_flight + one.idle)

    def _traffic(self, ports: Collection[int]) -> dict[int, ServerLoad]:
        """What the servers of each port have to do, together."""
        by_name = self._api.traffic()
        found = {port: [by_name[s.name] for s in self._servers.get(port, ()) if s.name in by_name] for port in ports}
        return {port: ServerLoad(*map(sum, zip(ServerLoad(), *those))) for port, those in found.items()}

    def _is_drain_over(self, port: int, in_flight: int, ever: int, now: float) -> bool:
        """Whether to put a port from drain into maintenance; ``ever``: its requests since HAProxy started."""
        if port not in self._since or port in self._maint_since:
            return False
        drained_for = now - self._since[port]
        if drained_for >= MAINT_GRACE:
            self._requests_at_drain.setdefault(port, ever)
        return in_flight == 0 or (drained_for >= STICKY_GRACE and ever > self._requests_at_drain[port])

    def _ours(self, servers: Sequence[Server]) -> dict[str, str]:
        """The recorded states of the servers that this gate has closed and no operator has changed since. One that is
        recorded in maintenance may be in drain still: the listener may have been killed in between."""
        found = {server.name: server for server in servers}
        return {
            name: state
            for name, state in self._file.states.items()
            if name in found and (found[name].is_drained or (state == MAINT and found[name].is_in_maintenance))
        }

    def _look(self, ports: Collection[int]) -> list[Server]:
        """Read all servers, and note since when each of these ports is closed. The clock is read afterwards."""
        servers = self._api.servers()
        self._servers = {port: _of_port(servers, port) for port in ports}
        shut = sorted(port for port, those in self._servers.items() if those and all(s.is_closed for s in those))
        ours, now = self._ours(servers), self._clock()
        in_maint = [port for port in shut if not any(s.is_drained and s.name in ours for s in self._servers[port])]
        self._since = {port: self._since.get(port, now) for port in shut}
        self._maint_since = {port: self._maint_since.get(port, now) for port in in_maint}
        self._requests_at_drain = {port: ever for port, ever in self._requests_at_drain.items() if port in shut}
        return servers

    def _change(self, ours: Mapping[str, str], close: Mapping[str, str], ready: Sequence[Server] = ()) -> None:
        """Write down, then close, then open: never is more open than asked. Raises PartlyClosedError where the servers
        read back do not have the states that were set."""
        self._file.write({**ours, **close})
        if not close and not ready:
            return
        answers = [self._api.close(close), self._api.ready(ready)]
        servers = self._look(self._servers)
        ours = self._ours(servers)
        self._file.write(ours)
        done = {s.name for s in servers if s.is_closed and not (s.is_drained and close.get(s.name) == MAINT)}
        undone = (close.keys() - done) | ({server.name for server in ready} & ours.keys())
        if undone:
            reason = "; ".join(filter(None, answers)) or "it gives no reason"
            raise PartlyClosedError(
                f"HAProxy did not change the state of {', '.join(sorted(undone))}: {reason}. It will be tried again",
                by_endpoint(self._since),
            )


def _of_port(servers: Sequence[Server], port: int) -> list[Server]:
    """The servers of this host's process on a port: the only one of that port, whatever its address (that of a bridge,
    say), or of several those with an address of this host."""
    found = [server for server in servers if server.port == port]
    return found if len(found) < 2 else [server for server in found if is_own(server.address)]


def _findings(
    backend: str, ports: Mapping[int, str], servers: Sequence[Server], foreign: Sequence[Server], keeps: Sequence[str]
) -> Iterator[Finding]:
    """``foreign``: servers that this gate has not closed; ``keeps``: what leads a user back to the same server."""
    where = f"HAProxy's backend {backend}"
    without = [f"{name} (port {port})" for port, name in sorted(ports.items()) if not _of_port(servers, port)]
    if without:
        more = " and others" if len(without) > 3 else ""
        text = f"has no server of this host for {', '.join(without[:3])}{more}, so it cannot be drained"
        yield Finding("haproxy.server", where, text, _FIX_SERVER, Severity.ERROR)
    if len(servers) == 1:
        text = f"has only the server {servers[0].name}: requests fail while it is drained"
        yield Finding("haproxy.lone", where, text, "add a server line for each process of the group", Severity.ERROR)
    for how in keeps:
        text = (
            f"has {how}: when a process is restarted its users are moved to another one, and lose what it kept in "
            "memory for them"
        )
        yield Finding("haproxy.persistence", where, text, "keep sessions outside the processes (a database, Redis)")
    for server in foreign:
        text = f"has {server.name} in maintenance or drained, not by a rollout: its process gets no requests"
        fix = f"send to HAProxy's stats socket: set server {backend}/{server.name} state ready"
        yield Finding("haproxy.down", where, text, fix)
