"""Keeps new requests from processes by HAProxy's runtime API, without a firewall and without root: the ``Gate`` of
``contracts.py``, and its ``Counting``.

To close a port is ``set server BACKEND/SERVER state drain`` for the server with this port, to open it ``state ready``.
A port that several servers of the backend have is that of those whose address is this host's own.

The contract beyond that of ``Gate``:

* HAProxy keeps a server drained for ever, so what was drained is recorded (``record.py``) before it is. A new object
  finds there what the one before it left drained, and what it is not to hold it sets ready.
* Only what this gate has drained is ever set ready. A server that somebody else has put into drain or maint is closed,
  and stays so; one that is in our record, and that somebody has put into maint, is theirs from then on.
* Nothing is believed but what is read back. HAProxy forgets at a reload (without a server-state-file): what a look
  finds ready is drained anew, and its "since" begins anew.
* A port that no server has, or a server that does not obey, is a PartlyHeldError, after the others have been held.

What is left on a port is what HAProxy has in flight for its server, or, if that is more, the kernel's connections less
those that HAProxy keeps idle. The second is for whom HAProxy does not know of: the process of HAProxy before a reload,
which has its own requests still, another backend, another client.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from supervisor_rolling.errors import PartlyHeldError, SocketsError
from supervisor_rolling.in_listener.addresses import is_own
from supervisor_rolling.in_listener.gates.record import Record
from supervisor_rolling.in_listener.gates.runtime_api import RuntimeApi, Server, Traffic
from supervisor_rolling.in_listener.sock_diag import LISTEN, tcp_sockets
from supervisor_rolling.model import Connections, Finding, GatePolicy

IN_BETWEEN = 0.05
"""Seconds after a drain for which nothing counts as idle: a thread of HAProxy may have chosen this server just before,
and not counted the request yet."""

Chosen = Mapping[int, Sequence[Server]]


class HaproxyGate:
    """The haproxy backend. ``clock`` gives CLOCK_MONOTONIC seconds; ``directory`` is where the record is kept."""

    name = "haproxy"

    def __init__(
        self, policy: GatePolicy, owner: str, clock: Callable[[], float], directory: Path | None = None
    ) -> None:
        self._api = RuntimeApi(policy.socket, policy.backend_name)
        self._record = Record((owner, policy.socket, policy.backend_name), directory)
        self._clock = clock
        self._since: dict[int, float] = {}
        self._chosen: Chosen = {}

    def hold(self, closed: Mapping[int, str]) -> Mapping[int, float]:
        """Make exactly these ports closed; see ``Gate.hold``."""
        servers = self._look(closed)
        wanted = {server.name for found in self._chosen.values() for server in found}
        ours = self._record.names & {server.name for server in servers if server.is_drained}
        drain = [server.name for server in servers if server.name in wanted and not server.is_closed]
        ready = [server for server in servers if server.name in ours - wanted]
        self._record.write(ours.union(drain))
        if drain or ready:
            self._change(drain, ready, closed)
        self._require_servers(closed, servers)
        return dict(self._since)

    def check(self) -> None:
        """Try whether the socket, its level and the backend suffice; see ``Gate.check``."""
        self._api.require_admin()
        self._api.servers()
        self._record.prepare()

    def inspect(self, ports: Mapping[int, str]) -> Sequence[Finding]:
        """What HAProxy was told that would make a drain last, or a port stay; see ``Gate.inspect``."""
        servers, cookie = self._api.servers(), self._api.cookie()
        where = f"HAProxy's backend {self._api.backend}"
        without = [f"{name} (port {port})" for port, name in sorted(ports.items()) if not _of_port(servers, port)]
        return [
            *([_absent(where, without)] if without else []),
            *([_lone(where, servers[0])] if len(servers) == 1 else []),
            *([_persistent(where, f"cookie {cookie}")] if cookie else []),
            *([_persistent(where, "a stick-table")] if self._api.has_stick_table() else []),
            *(_by_hand(where, s) for s in servers if s.port in ports and s.is_closed and not s.is_drained),
        ]

    def left(self, found: Mapping[int, Connections]) -> Mapping[int, int]:
        """What is still to be answered; see ``Counting.left``."""
        traffic, now = self._api.traffic(), self._clock()
        return {port: self._left(port, len(those.peers), traffic, now) for port, those in found.items()}

    def strangers(self, found: Mapping[int, Connections]) -> frozenset[int]:
        """Where there are more connections than HAProxy has for its server; see ``Counting.strangers``."""
        traffic = self._api.traffic()
        own = {port: sum(one.in_flight + one.idle for one in self._of(port, traffic)) for port in found}
        return frozenset(port for port, those in found.items() if len(those.peers) > own[port])

    def _of(self, port: int, traffic: Mapping[str, Traffic]) -> list[Traffic]:
        """What the servers that were chosen for a port have to do."""
        return [traffic[server.name] for server in self._chosen.get(port, ()) if server.name in traffic]

    def _left(self, port: int, connected: int, traffic: Mapping[str, Traffic], now: float) -> int:
        those = self._of(port, traffic)
        least = 1 if now - self._since.get(port, now) < IN_BETWEEN else 0
        return max(least, sum(one.in_flight for one in those), connected - sum(one.idle for one in those))

    def _look(self, closed: Collection[int]) -> list[Server]:
        """Read all. Forget the ports that are found open; what is found closed for the first time is so since now."""
        servers = self._api.servers()
        self._chosen = {port: _of_port(servers, port) for port in closed}
        shut = [port for port, found in self._chosen.items() if found and all(server.is_closed for server in found)]
        now = self._clock()
        self._since = {port: self._since.get(port, now) for port in sorted(shut)}
        return servers

    def _change(self, drain: Sequence[str], ready: Sequence[Server], closed: Collection[int]) -> None:
        """Drain first: there must never be more open than asked. Believe what is read back."""
        listening = _listening([server.port for server in ready if not server.is_up])
        said = [self._api.drain(drain), self._api.ready(ready, listening)]
        servers = self._look(closed)
        left = {server.name for server in servers if server.is_drained}
        self._record.write(self._record.names & left)
        undone = {*drain} - {server.name for server in servers if server.is_closed} | {one.name for one in ready} & left
        if undone:
            reason = "; ".join(filter(None, said)) or "it gives no reason"
            raise PartlyHeldError(
                f"HAProxy did not drain, or set ready, {', '.join(sorted(undone))}: {reason}", dict(self._since)
            )

    def _require_servers(self, closed: Collection[int], servers: Sequence[Server]) -> None:
        without = [str(port) for port in closed if not self._chosen[port]]
        if without:
            there = ", ".join(f"{server.name} ({server.address}:{server.port})" for server in servers) or "none"
            raise PartlyHeldError(
                f"HAProxy's backend {self._api.backend} has no server of this host with port {', '.join(without)}; "
                f"mend haproxy.cfg, gate.backend_name or the ports in rolling.yaml. It has: {there}",
                dict(self._since),
            )


def _absent(where: str, without: Sequence[str]) -> Finding:
    return Finding(
        "haproxy.server",
        where,
        f"has no server of this host for {', '.join(without[:3])}{' and others' if len(without) > 3 else ''}: "
        "nothing to drain there",
        "mend haproxy.cfg, gate.backend_name or the ports in rolling.yaml",
        refuses=True,
    )


def _lone(where: str, server: Server) -> Finding:
    return Finding(
        "haproxy.lone",
        where,
        f"has the server {server.name} alone: while that is drained its requests wait, and fail",
        "give it a server line for each process of the group",
        refuses=True,
    )


def _persistent(where: str, how: str) -> Finding:
    return Finding(
        "haproxy.persistence",
        where,
        f"has {how}: HAProxy sends those who had a server to it while it drains, too, so a drain may last for as long "
        "as they come",
        "do without, or accept that drain.timeout ends such a drain",
    )


def _by_hand(where: str, server: Server) -> Finding:
    return Finding(
        "haproxy.down",
        where,
        f"has {server.name} in maintenance, or somebody drained it: its process serves nobody, and a roll leaves it so",
        f"say on HAProxy's stats socket: set server {where.rpartition(' ')[2]}/{server.name} state ready",
    )


def _of_port(servers: Sequence[Server], port: int) -> list[Server]:
    """The servers that this host's process on a port can be: the only one, whatever its address (that of a bridge,
    say), or of several those whose address is this host's."""
    found = [server for server in servers if server.port == port]
    return found if len(found) < 2 else [server for server in found if is_own(server.address)]


def _listening(ports: Collection[int]) -> frozenset[int]:
    """Those of these ports on which somebody listens on this host; none where the kernel does not tell."""
    with contextlib.suppress(SocketsError):
        return frozenset(one.port for one in tcp_sockets((LISTEN,), ports)) if ports else frozenset()
    return frozenset()
