"""Makes nginx's keepalive pools run dry: the ``KeepaliveCloser`` of ``contracts.py``, in nftables.

    table inet supervisor-rolling-answers-1f2e3d4c
      tcp sport @drains jump answers
      ip saddr . tcp sport . ip daddr . tcp dport @old4  @ih,0,64 "HTTP/1.1"  @ih,64,8 " "  @ih,72,8 != "1"
          delete @old4 { this connection }  add @hit { tcp sport }  @ih,48,16 set ".0"

nginx closes a connection to an upstream after an answer whose status line says HTTP/1.0, and tells its client nothing
of it. So the version in the status line of a port's answers is rewritten on their way out: two bytes, the length stays.

* Each connection is hit at most once, since the rule deletes it from its set on the hit; and only those of the moment
  in which the port was taken up are in the set. So a body that holds a status line at the beginning of a segment is
  safe: its own head was hit before. (But for one whose head had left already when the port was taken up.) 1xx is
  passed over: the answer itself follows.
* The lease is that of the port in ``drains``: without it nothing is looked at. Connections have none of their own,
  since to renew one is to add it, and the rule may have deleted it meanwhile.
* ``hit`` and ``sealed`` tell what a port has answered with: HTTP/1.1, or records of TLS and frames of HTTP/2.
* A new object goes on with what it finds in the kernel; the table is removed when no port is left.

Needs Linux 5.16 or later, which can look into what TCP carries. For one thread.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

from supervisor_rolling.core.errors import GateError, GatePermissionError
from supervisor_rolling.core.peers import peer_of
from supervisor_rolling.listener.system.libnftables import AbsentError, Command, Nftables, UnreadableError
from supervisor_rolling.listener.system.nftables_tables import entire, inside, leases, removal
from supervisor_rolling.listener.system.rule_names import mark_of


class Socket(Protocol):
    """One end of a connection, of which the local port is that of a process."""

    @property
    def address(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def peer_address(self) -> str: ...
    @property
    def peer_port(self) -> int: ...


_SETS = {"drains", "hit", "sealed", "old4", "old6"}
_FAMILIES = {"ip": ("old4", "ipv4_addr"), "ip6": ("old6", "ipv6_addr")}
_MOST = 65535  # elements of a set, as nft has it by default; ports that are not taken up drain until their deadline

_CHANGED_BY_RULES = ["timeout"]
"""The flags of a set that a rule may write to. ``dynamic`` would say just that: the JSON of 1.0.6 does not know it."""

_TRY_WITHIN = 2.0
"""Seconds for each part of the trial; it is over in a millisecond."""

_NEEDS = "it needs Linux 5.16 or later, libnftables 1.0.1 or later and CAP_NET_ADMIN; or use another drain.keepalive"


class StatusLineRewriter:
    """``owner`` tells this supervisord from others on the host; ``connections`` gives the connections of ports."""

    def __init__(self, owner: str, connections: Callable[[Collection[int]], Iterable[Socket]]) -> None:
        self._table = table_of(owner)
        self._connections = connections
        self._library: Nftables | None = None
        self._is_clean = False
        self.waiting: frozenset[str] = frozenset()

    def hold(self, ports: Collection[int], lease: float) -> Mapping[int, str]:
        """See ``KeepaliveCloser.hold``."""
        if not ports:
            self.waiting = frozenset()
            self._remove()
            return {}
        self._is_clean = False
        left, answered = self._look(ports)
        commands = self._frame() if left is None else []
        left = left or {}
        commands += self._let_go([port for port in left if port not in ports])
        commands += self._taken_up([port for port in ports if port not in left], lease)
        commands += self._renewed([port for port in ports if not _is_fresh(left.get(port, lease), lease)], lease)
        if commands:
            self._nft().run(commands)
        return answered

    def check(self) -> None:
        """See ``KeepaliveCloser.check``."""
        try:
            _try(StatusLineRewriter(f"trial of {self._table}", self._connections))
        except (GateError, OSError) as error:
            raise GatePermissionError(f"drain.keepalive: nginx cannot work here: {error}; {_NEEDS}") from error

    # --- the kernel's side

    def _nft(self) -> Nftables:
        if self._library is None:
            self._library = Nftables()
        return self._library

    def _remove(self) -> None:
        """Once is enough, until a port comes. Without the library there is nothing to remove."""
        if self._is_clean:
            return
        self._is_clean = True
        try:
            self._nft().run(removal(self._table))
        except GatePermissionError:
            return
        except GateError:
            self._is_clean = False

    def _look(self, ports: Collection[int]) -> tuple[dict[int, float] | None, dict[int, str]]:
        """Seconds that each port has left of its lease, and what the ports have answered; None where there is no
        table, or was one that is not as we make it."""
        try:
            found = self._nft().run([{"list": {"table": entire(self._table)}}])
        except AbsentError:
            return None, dict.fromkeys(ports, "")
        except UnreadableError:
            found = []
        sets = {one["set"]["name"]: one["set"] for one in found if "set" in one}
        is_dormant = any(one["table"].get("flags") for one in found if "table" in one)
        if is_dormant or not sets.keys() >= _SETS:
            self._nft().run(removal(self._table))
            return None, dict.fromkeys(ports, "")
        self.waiting = frozenset(_peers(sets["old4"], sets["old6"]))
        hit, sealed = ({port for port, _ in leases(sets[name])} for name in ("hit", "sealed"))
        left = dict(leases(sets["drains"]))
        return left, {port: "http" if port in hit else "sealed" if port in sealed else "" for port in ports}

    def _taken_up(self, ports: list[int], lease: float) -> list[Command]:
        """What stands in the sets already is not there twice."""
        if not ports:
            return []
        found: dict[str, list[Any]] = {"old4": [], "old6": []}
        for one in self._connections(ports):
            ends = [one.address, one.port, one.peer_address, one.peer_port]
            found["old6" if ":" in one.address else "old4"].append({"concat": ends})
        self.waiting |= set(_peers(*({"elem": elements} for elements in found.values())))
        added = [self._change("add", name, elements) for name, elements in found.items() if elements]
        return [*added, self._change("add", "drains", [_leased(port, lease) for port in ports])]

    def _let_go(self, ports: list[int]) -> list[Command]:
        """Its time may end meanwhile, and what is not there cannot be deleted: so add, delete."""
        elements = [_leased(port, 1) for port in ports]
        return [self._change(verb, "drains", elements) for verb in ("add", "delete")] if ports else []

    def _renewed(self, ports: list[int], lease: float) -> list[Command]:
        """One that is there keeps its time, and one that has just gone cannot be deleted: so add, delete, add."""
        elements = [_leased(port, lease) for port in ports]
        return [self._change(verb, "drains", elements) for verb in ("add", "delete", "add")] if ports else []

    def _named(self, name: str) -> dict[str, Any]:
        return inside(self._table, name=name)

    def _change(self, verb: str, name: str, elements: list[Any]) -> Command:
        return {verb: {"element": {**self._named(name), "elem": elements}}}

    def _frame(self) -> list[Command]:
        """The table with all that is in it, but for elements."""
        hook = {"type": "filter", "hook": "output", "prio": 0}
        return [
            {"add": {"table": entire(self._table)}},
            self._set("drains", "inet_service", ["timeout"]),
            self._set("hit", "inet_service", _CHANGED_BY_RULES),
            self._set("sealed", "inet_service", _CHANGED_BY_RULES),
            *(self._set(name, [kind, "inet_service"] * 2, _CHANGED_BY_RULES) for name, kind in _FAMILIES.values()),
            {"add": {"chain": {**self._named("output"), **hook}}},
            {"add": {"chain": self._named("answers")}},
            self._rule("output", _is(_SPORT, "@drains"), {"jump": {"target": "answers"}}),
            *(self._mending(family) for family in _FAMILIES),
            self._rule("answers", _is(_bits(0, 16), 0x1703), _noted("sealed")),  # a record of TLS with data
            self._rule("answers", _is(_bits(0, 8), 0), _is(_bits(24, 8), 1), _noted("sealed")),  # a head of HTTP/2
        ]

    def _mending(self, family: str) -> Command:
        name, _ = _FAMILIES[family]
        ends = [_field(family, "saddr"), _SPORT, _field(family, "daddr"), _field("tcp", "dport")]
        connection = {"concat": ends}
        return self._rule(
            "answers",
            _is(connection, f"@{name}"),
            _is(_bits(0, 64), int.from_bytes(b"HTTP/1.1", "big")),
            _is(_bits(64, 8), ord(" ")),
            _is(_bits(72, 8), ord("1"), "!="),
            {"set": {"op": "delete", "elem": connection, "set": f"@{name}"}},
            _noted("hit"),
            {"mangle": {"key": _bits(48, 16), "value": int.from_bytes(b".0", "big")}},
        )

    def _set(self, name: str, kind: Any, flags: list[str]) -> Command:
        return {"add": {"set": {**self._named(name), "type": kind, "flags": flags, "size": _MOST}}}

    def _rule(self, chain: str, *expressions: Mapping[str, Any]) -> Command:
        return {"add": {"rule": inside(self._table, chain=chain, expr=list(expressions))}}


def table_of(owner: str) -> str:
    """The table of one supervisord: two on a host keep apart, a new listener finds what its predecessor left."""
    return f"supervisor-rolling-answers-{mark_of(owner)}"


def _peers(*sets: Mapping[str, Any]) -> Iterable[str]:
    """The peers of the connections in these sets."""
    for one in (one for found in sets for one in found.get("elem", ())):
        _, _, address, port = one["concat"]
        yield peer_of(address, port)


def _field(protocol: str, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


def _bits(offset: int, length: int) -> dict[str, Any]:
    """So many bits of what TCP carries."""
    return {"payload": {"base": "ih", "offset": offset, "len": length}}


def _is(left: Mapping[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def _noted(name: str) -> dict[str, Any]:
    return {"set": {"op": "add", "elem": _SPORT, "set": f"@{name}"}}


def _is_fresh(left: float, lease: float) -> bool:
    """One that somebody added without a timeout would stay for ever."""
    return lease * 2 / 3 <= left < math.inf


def _leased(port: int, lease: float) -> dict[str, Any]:
    return {"elem": {"val": port, "timeout": math.ceil(lease)}}


_SPORT = _field("tcp", "sport")


# --- the trial


def _try(lines: StatusLineRewriter) -> None:
    """Two answers on a connection of our own: the first is mended, the second not. Raises GateError or OSError."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(_TRY_WITHIN)
        with socket.create_connection(listener.getsockname(), _TRY_WITHIN) as client:
            server, _ = listener.accept()
            with server:
                try:
                    lines.hold([listener.getsockname()[1]], _TRY_WITHIN)
                    found = [_carried(server, client) for _ in range(2)]
                finally:
                    lines.hold((), 0.0)
    if found != [b"HTTP/1.0 200 OK", b"HTTP/1.1 200 OK"]:
        raise GateError(f"of two answers on one connection, the status lines came out as {found}")


def _carried(server: socket.socket, client: socket.socket) -> bytes:
    server.sendall(b"HTTP/1.1 200 OK")
    return client.recv(64)
