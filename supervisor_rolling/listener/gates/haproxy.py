"""Keeps new requests from processes by HAProxy's runtime API, without a firewall and without root: the ``Gate`` of
``contracts.py``, and its ``Counting``.

A port is closed by the state of the server with this port, in two steps, and opened by ``state ready``:

* ``drain`` while its process drains. HAProxy sends it no request, except those of users that a cookie or a stick table
  sends back to it.
* ``maint`` from the moment when nothing is in flight, or when such users have kept coming for STICKY_FOR seconds, and
  wherever no drain is waited for. HAProxy sends it nothing and moves those users to another server. What is in flight
  ends as it would have (unless the server says ``on-marked-down shutdown-sessions``).

A port that several servers of the backend have is that of those whose address is this host's own.

The contract beyond that of ``Gate``:

* HAProxy keeps a state for ever, so what this gate closes is recorded (``record.py``) before it is. A new object finds
  there what the one before it left closed, and sets ready what it is not to hold.
* Only what this gate has closed is ever set ready. A server that an operator has put into drain or maint counts as
  closed, and stays so; one that we have drained, and that is found in maint, is the operator's from then on.
* Nothing is believed but what is read back. HAProxy forgets at a reload (without a server-state-file): what a look
  finds ready is closed anew, and its "since" begins anew.
* A port that no server has, or a server that does not obey, is a PartlyHeldError, after the others have been held.

What is left on a port is what HAProxy has in flight for its server, or, if that is more, the kernel's connections less
those that HAProxy keeps idle. The second counts what this HAProxy does not know of: the requests of the process before
a reload, of another backend, of another client. Nothing is left only when nothing was in flight behind ``maint``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from supervisor_rolling.core.connections import Connections
from supervisor_rolling.core.errors import PartlyHeldError
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.core.preflight_report import Finding, Severity
from supervisor_rolling.listener.gates.haproxy_api import DRAIN, MAINT, RuntimeApi, Server, Traffic
from supervisor_rolling.listener.gates.state_file import Record
from supervisor_rolling.listener.system.own_addresses import is_own

IN_BETWEEN = 0.05
"""Seconds in maintenance for which nothing counts as idle: a thread of HAProxy may have chosen this server just before,
and not counted the request yet."""

STICKY_FOR = 2.0
"""Seconds of a drain after which users that keep coming to a drained server are moved: it would never end."""

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
        self._turned_away: dict[int, float] = {}  # since when a port has not even the users of a cookie
        self._came: dict[int, int] = {}  # how many requests a draining port had ever had when its drain began
        self._chosen: Chosen = {}

    def hold(self, closed: Mapping[int, str], drained: Collection[int] = ()) -> Mapping[int, float]:
        """Make exactly these ports closed; see ``Gate.hold``."""
        servers = self._look(closed)
        states = self._ours(servers)
        selected = {s.name: MAINT if port in drained else DRAIN for port, found in self._chosen.items() for s in found}
        new = {s.name: selected[s.name] for s in servers if s.name in selected and not s.is_closed}
        over = {s.name: MAINT for s in servers if s.name in states and s.is_drained and selected.get(s.name) == MAINT}
        ready = [server for server in servers if server.name in states.keys() - selected.keys()]
        self._record.write({**states, **new, **over})
        if new or over or ready:
            self._change({**new, **over}, ready, closed)
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
        ours = self._ours(servers)
        where = f"HAProxy's backend {self._api.backend}"
        without = [f"{name} (port {port})" for port, name in sorted(ports.items()) if not _of_port(servers, port)]
        return [
            *([_absent(where, without)] if without else []),
            *([_lone(where, servers[0])] if len(servers) == 1 else []),
            *([_persistent(where, f"cookie {cookie}")] if cookie else []),
            *([_persistent(where, "a stick-table")] if self._api.has_stick_table() else []),
            *(_by_hand(where, s) for s in servers if s.port in ports and s.is_closed and s.name not in ours),
        ]

    def left(self, found: Mapping[int, Connections]) -> Mapping[int, int]:
        """What is still to be answered; see ``Counting.left``. Puts into maintenance where that is nothing, and where
        sticky users keep coming: only what a later call finds behind that is believed."""
        traffic, now = self._api.traffic(), self._clock()
        left = {port: self._left(port, len(those.peers), traffic) for port, those in found.items()}
        over = [port for port in left if self._is_over(port, left[port], traffic, now)]
        if over:
            self._turn_away(over)
        fresh = [port for port in left if now - self._turned_away.get(port, now) < IN_BETWEEN]
        return {port: max(number, int(port in fresh)) for port, number in left.items()}

    def strangers(self, found: Mapping[int, Connections]) -> frozenset[int]:
        """Where there are more connections than HAProxy has for its server; see ``Counting.strangers``."""
        traffic = self._api.traffic()
        own = {port: sum(one.in_flight + one.idle for one in self._of(port, traffic)) for port in found}
        return frozenset(port for port, those in found.items() if len(those.peers) > own[port])

    def _of(self, port: int, traffic: Mapping[str, Traffic]) -> list[Traffic]:
        """What the servers that were chosen for a port have to do."""
        return [traffic[server.name] for server in self._chosen.get(port, ()) if server.name in traffic]

    def _left(self, port: int, connected: int, traffic: Mapping[str, Traffic]) -> int:
        those = self._of(port, traffic)
        return max(sum(one.in_flight for one in those), connected - sum(one.idle for one in those))

    def _is_over(self, port: int, left: int, traffic: Mapping[str, Traffic], now: float) -> bool:
        """Whether a port that is drained is to be put into maintenance."""
        if port not in self._since or port in self._turned_away:
            return False
        drained_for = now - self._since[port]
        ever = sum(one.ever for one in self._of(port, traffic))
        if drained_for >= IN_BETWEEN:
            self._came.setdefault(port, ever)
        return left == 0 or (drained_for >= STICKY_FOR and ever > self._came[port])

    def _turn_away(self, ports: Collection[int]) -> None:
        """Put the drained servers of these ports into maintenance."""
        ours = self._record.states
        over = {s.name: MAINT for port in ports for s in self._chosen[port] if s.is_drained and s.name in ours}
        self._record.write({**ours, **over})
        self._change(over, (), self._chosen)

    def _ours(self, servers: Sequence[Server]) -> dict[str, str]:
        """The servers that this gate has closed and no operator has changed since, with the recorded state. One that is
        recorded in maintenance may be in drain still: the listener may have been killed in between."""
        found = {server.name: server for server in servers}
        return {
            name: state
            for name, state in self._record.states.items()
            if name in found and (found[name].is_drained or (state == MAINT and found[name].is_in_maintenance))
        }

    def _look(self, closed: Collection[int]) -> list[Server]:
        """Read all. Forget the ports that are found open; what is found closed for the first time is so since now."""
        servers = self._api.servers()
        self._chosen = {port: _of_port(servers, port) for port in closed}
        shut = [port for port, found in self._chosen.items() if found and all(server.is_closed for server in found)]
        ours, now = self._ours(servers), self._clock()
        self._came = {port: ever for port, ever in self._came.items() if port in shut}
        self._since = {port: self._since.get(port, now) for port in sorted(shut)}
        turned = [port for port in shut if not any(s.is_drained and s.name in ours for s in self._chosen[port])]
        self._turned_away = {port: self._turned_away.get(port, now) for port in turned}
        return servers

    def _change(self, close: Mapping[str, str], ready: Sequence[Server], closed: Collection[int]) -> None:
        """Close first: there must never be more open than asked. Believe what is read back."""
        said = [self._api.close(close), self._api.ready(ready)]
        servers = self._look(closed)
        left = self._ours(servers)
        self._record.write(left)
        shut = {s.name for s in servers if s.is_closed and not (s.is_drained and close.get(s.name) == MAINT)}
        undone = (close.keys() - shut) | ({one.name for one in ready} & left.keys())
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
        severity=Severity.ERROR,
    )


def _lone(where: str, server: Server) -> Finding:
    return Finding(
        "haproxy.lone",
        where,
        f"has the server {server.name} alone: while that is drained its requests wait, and fail",
        "give it a server line for each process of the group",
        severity=Severity.ERROR,
    )


def _persistent(where: str, how: str) -> Finding:
    return Finding(
        "haproxy.persistence",
        where,
        f"has {how}: users that have a server are moved to another one when it is replaced, and what the process kept "
        "for them in its memory is lost",
        "keep sessions outside the processes, or accept it",
    )


def _by_hand(where: str, server: Server) -> Finding:
    return Finding(
        "haproxy.down",
        where,
        f"has {server.name} in maintenance, or somebody drained it: its process serves nobody, and a rollout leaves it so",
        f"say on HAProxy's stats socket: set server {where.rpartition(' ')[2]}/{server.name} state ready",
    )


def _of_port(servers: Sequence[Server], port: int) -> list[Server]:
    """The servers that this host's process on a port can be: the only one, whatever its address (that of a bridge,
    say), or of several those whose address is this host's."""
    found = [server for server in servers if server.port == port]
    return found if len(found) < 2 else [server for server in found if is_own(server.address)]
