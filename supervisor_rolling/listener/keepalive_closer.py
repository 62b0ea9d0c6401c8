"""The ``KeepaliveCloser`` of ``contracts.py``: makes nginx close its kept upstream connections, with nftables.

nginx closes an upstream connection after an answer with HTTP/1.0 in its status line, and its clients see no difference.
So the version in the status line of a port's answers is rewritten on their way out: two bytes, at the same length.

* Each connection is rewritten once at most: the rule deletes it from its set. Only the connections of the moment in
  which a port was added are in the sets. So a body segment that begins like a status line is safe, since the head
  before it was rewritten (unless that head had left before the port was added). 1xx answers pass: the final one
  follows.
* The lease is that of the port in ``draining``; without it no packet is looked at. Connections have none of their own:
  to renew one is to add it, and the rule may have deleted it meanwhile.
* A new object continues with what it finds in the kernel; the table is removed when no port is left.

Needs Linux 5.16 or later, which can match the payload of TCP. For one thread.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Collection, Mapping
from typing import Any

from supervisor_rolling.core.connections import peer_of
from supervisor_rolling.core.errors import GateError, GatePermissionError
from supervisor_rolling.core.gate_choice import OUR_TABLES
from supervisor_rolling.listener.system.libnftables import AbsentError, Nftables, UnreadableAnswerError, leases, removal
from supervisor_rolling.listener.system.rule_names import mark_of
from supervisor_rolling.listener.system.sock_diag import ANSWERABLE, tcp_sockets

_REWRITE = """\
ip saddr . tcp sport . ip daddr . tcp dport @connections4 @ih,0,64 0x485454502f312e31 @ih,64,8 0x20 @ih,72,8 != 0x31 \
delete @connections4 { ip saddr . tcp sport . ip daddr . tcp dport } add @http { tcp sport } @ih,48,16 set 0x2e30"""
"""``HTTP/1.1``, a blank, no ``1``: then the connection leaves the set and ``.0`` replaces the minor version."""

_TABLE = f"""
table inet %s {{
    set draining {{ type inet_service; flags timeout; }}
    set connections4 {{ type ipv4_addr . inet_service . ipv4_addr . inet_service; flags dynamic; size 65535; }}
    set connections6 {{ type ipv6_addr . inet_service . ipv6_addr . inet_service; flags dynamic; size 65535; }}
    set http {{ type inet_service; flags dynamic; size 65535; }}     # ports that answered in HTTP/1.1
    set opaque {{ type inet_service; flags dynamic; size 65535; }}  # ports that answered in TLS or HTTP/2
    chain output {{
        type filter hook output priority 0;
        tcp sport @draining jump answers
    }}
    chain answers {{
        {_REWRITE}
        {_REWRITE.replace("ip ", "ip6 ").replace("@connections4", "@connections6")}
        @ih,0,16 0x1703 add @opaque {{ tcp sport }}         # a TLS record with data
        @ih,0,8 0 @ih,24,8 1 add @opaque {{ tcp sport }}    # the head of an HTTP/2 answer
    }}
}}"""
_SETS = {"draining", "connections4", "connections6", "http", "opaque"}

_PROBE_TIMEOUT = 2.0
"""Seconds for each step of the probe, which takes a millisecond."""


class StatusLineRewriter:
    """``owner`` tells this supervisord from others on the host."""

    def __init__(self, owner: str) -> None:
        self._table = table_of(owner)
        self._library: Nftables | None = None
        self._is_removed = False
        self.waiting: frozenset[str] = frozenset()

    def hold(self, ports: Collection[int], lease: float) -> Mapping[int, str]:
        """See ``KeepaliveCloser.hold``."""
        if not ports:
            self.waiting = frozenset()
            self._remove()
            return {}
        self._is_removed = False
        sets = self._look()
        left = dict(leases(sets["draining"])) if sets else {}
        new = [port for port in ports if port not in left]
        old = [port for port in ports if port in left and not lease * 2 / 3 <= left[port] < math.inf]  # inf: no lease
        gone = [port for port in left if port not in ports]
        changes = [
            *([] if sets else [_TABLE % self._table]),
            # Added first: to delete a port that has just expired would fail. Adding alone renews nothing.
            *self._ports("add", [*gone, *old], lease),
            *self._ports("delete", [*gone, *old], lease),
            *(self._add_connections(new) if new else []),
            *self._ports("add", [*old, *new], lease),
        ]
        if changes:
            self._nft().run(*changes)
        return {port: _answered(port, sets) for port in ports}

    def check(self) -> None:
        """See ``KeepaliveCloser.check``."""
        try:
            _probe(StatusLineRewriter(f"probe of {self._table}"))
        except (GateError, OSError) as error:
            raise GatePermissionError(
                f"drain.keepalive: nginx cannot work on this host: {error}. It needs Linux 5.16, libnftables 1.0.1 and "
                "CAP_NET_ADMIN. Fix: choose another drain.keepalive"
            ) from error

    def _nft(self) -> Nftables:
        if self._library is None:
            self._library = Nftables()
        return self._library

    def _remove(self) -> None:
        """Remove the table, once. Without the library there is none."""
        if self._is_removed:
            return
        self._is_removed = True
        try:
            self._nft().run(*removal(self._table))
        except GatePermissionError:
            return
        except GateError:
            self._is_removed = False

    def _look(self) -> Mapping[str, Any]:
        """The sets of the table by name; empty where there is no table, or there was one that is not ours any more."""
        try:
            found = self._nft().run(f"list table inet {self._table}")
        except AbsentError:
            return {}
        except UnreadableAnswerError:
            found = []
        sets = {one["set"]["name"]: one["set"] for one in found if "set" in one}
        is_dormant = any(one["table"].get("flags") for one in found if "table" in one)
        if is_dormant or not sets.keys() >= _SETS:
            self._nft().run(*removal(self._table))
            return {}
        ends = [one["concat"] for name in ("connections4", "connections6") for one in sets[name].get("elem", ())]
        self.waiting = frozenset(peer_of(address, port) for _, _, address, port in ends)
        return sets

    def _add_connections(self, ports: Collection[int]) -> list[str]:
        """The commands that add the connections of these ports to their sets."""
        found: dict[str, list[str]] = {"connections4": [], "connections6": []}
        for one in tcp_sockets(ANSWERABLE, ports):
            element = f"{one.address} . {one.port} . {one.peer_address} . {one.peer_port}"
            found["connections6" if ":" in one.address else "connections4"].append(element)
            self.waiting |= {one.peer}
        return [
            f"add element inet {self._table} {name} {{ {', '.join(ends)} }}" for name, ends in found.items() if ends
        ]

    def _ports(self, verb: str, ports: Collection[int], lease: float) -> list[str]:
        elements = ", ".join(f"{port} timeout {math.ceil(lease)}s" for port in ports)
        return [f"{verb} element inet {self._table} draining {{ {elements} }}"] if ports else []


def table_of(owner: str) -> str:
    """The name of the table of one supervisord: two on a host have different ones."""
    return f"{OUR_TABLES}keepalive-{mark_of(owner)}"


def _answered(port: int, sets: Mapping[str, Any]) -> str:
    """What a port has answered with: ``http``, ``opaque``, or nothing yet (empty)."""
    return next((kind for kind in ("http", "opaque") if sets and port in dict(leases(sets[kind]))), "")


def _probe(closer: StatusLineRewriter) -> None:
    """Send two answers on a connection of our own: the first must be rewritten, the second not. Raises GateError or
    OSError."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(_PROBE_TIMEOUT)
        with socket.create_connection(listener.getsockname(), _PROBE_TIMEOUT) as client:
            server, _ = listener.accept()
            with server:
                try:
                    closer.hold([listener.getsockname()[1]], _PROBE_TIMEOUT)
                    found = [_carried(server, client) for _ in range(2)]
                finally:
                    closer.hold((), 0.0)
    if found != [b"HTTP/1.0 200 OK", b"HTTP/1.1 200 OK"]:
        raise GateError(f"of two answers on one connection, the status lines came out as {found}")


def _carried(server: socket.socket, client: socket.socket) -> bytes:
    server.sendall(b"HTTP/1.1 200 OK")
    return client.recv(64)
