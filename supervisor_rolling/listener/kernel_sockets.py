"""The ``Sockets`` of ``contracts.py``: the connections of a port or a unix socket, and where a process listens.

Only the server's end counts, the socket with the port as its local port: over loopback the kernel has both ends.
ESTABLISHED (with the accept queue), SYN_RECV and CLOSE_WAIT are connections that a process may still have to answer. A
client that closed first and only waits (FIN_WAIT, TIME_WAIT) loses nothing when the process ends.
"""

from __future__ import annotations

import heapq
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from supervisor_rolling.core.checks.processes import Wrapper
from supervisor_rolling.core.connections import GONE_CLIENT, Connection, Connections
from supervisor_rolling.core.endpoint import Endpoint, tcp, tcp_ports, unix, unix_paths
from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.core.port_use import Holder, PortUse
from supervisor_rolling.core.ports import overlap
from supervisor_rolling.core.text import printable
from supervisor_rolling.listener.system import accepting, procfs, socket_paths
from supervisor_rolling.listener.system.sock_diag import (
    ANSWERABLE,
    CLOSE_WAIT,
    CONNECTED,
    LISTEN,
    TcpSocket,
    tcp_sockets,
)
from supervisor_rolling.listener.system.unix_diag import UnixSocket, unix_sockets


class KernelSockets:
    """The sockets of this network namespace. Keeps nothing between calls; each has a deadline of seconds, and raises
    SocketsError where the kernel does not answer or /proc hides a process."""

    def connections(self, endpoints: Collection[Endpoint], oldest: int = 0) -> Mapping[Endpoint, Connections]:
        """See ``Sockets.connections``."""
        return {**self._of_ports(tcp_ports(endpoints), oldest), **self._of_paths(unix_paths(endpoints))}

    def _of_ports(self, ports: Collection[int], oldest: int) -> dict[Endpoint, Connections]:
        connected: dict[int, list[TcpSocket]] = {port: [] for port in ports}
        if ports:
            for one in tcp_sockets(ANSWERABLE, ports, with_traffic=oldest > 0):
                connected[one.port].append(one)
        return {
            tcp(port): Connections(
                peers=frozenset(one.peer for one in those),
                oldest=tuple(map(_connection, heapq.nlargest(oldest, those, key=lambda one: one.traffic.age))),
                idle_for=min(map(_idle_for, those), default=math.inf) if oldest else 0.0,
            )
            for port, those in connected.items()
        }

    def _of_paths(self, paths: Collection[str]) -> dict[Endpoint, Connections]:
        """Of unix sockets the kernel shows neither the age of a connection nor when bytes moved. A connection is known
        by its client's end; where that is closed, only how many there are."""
        every = unix_sockets() if paths else []
        found: dict[Endpoint, Connections] = {}
        for path in paths:
            own = _bound_at(path, every)
            clients = [client for one in own for client in (one.waiting if one.is_listening else (one.peer,))]
            gone = [f"{GONE_CLIENT} {number}" for number in range(1, 1 + clients.count(0))]
            found[unix(path)] = Connections(frozenset([*(f"client {one}" for one in clients if one), *gone]))
        return found

    def listeners(self, ports: Collection[int]) -> Mapping[int, tuple[str, ...]]:
        """See ``Sockets.listeners``."""
        found: dict[int, set[str]] = {port: set() for port in ports}
        for one in tcp_sockets((LISTEN,), ports) if ports else ():
            found[one.port].add(one.address)
        return {port: tuple(sorted(addresses)) for port, addresses in found.items()}

    def ports_of(self, pids: Collection[int]) -> Mapping[int, tuple[int, ...]]:
        """See ``Sockets.ports_of``."""
        held = procfs.inodes_of(pids)
        port_of = {one.inode: one.port for one in tcp_sockets((LISTEN,))} if any(held.values()) else {}
        return {pid: tuple(sorted({port_of[inode] for inode in held[pid] & port_of.keys()})) for pid in pids}

    def unix_of(self, pids: Collection[int]) -> Mapping[int, tuple[str, ...]]:
        """See ``Sockets.unix_of``."""
        children = procfs.children_of_all()
        listening = {one.inode: one.name for one in unix_sockets() if one.is_listening}
        families = {pid: list(procfs.family_of(pid, children)) for pid in pids}
        return {pid: tuple(sorted({*_paths_of(family, listening)})) for pid, family in families.items()}

    def listens_at(self, path: str, pid: int) -> bool:
        """See ``Sockets.listens_at``."""
        found = {one.inode for one in _bound_at(path, unix_sockets()) if one.is_listening}
        if not found or not found.isdisjoint(procfs.own_inodes(pid)):
            return bool(found)
        return not found.isdisjoint(procfs.inodes_of([pid])[pid])

    def accepts(self, pid: int) -> bool:
        """See ``Sockets.accepts``."""
        family = list(procfs.family_of(pid))
        held = frozenset().union(*map(procfs.own_inodes, family))
        tcp_listening = [one for one in tcp_sockets((LISTEN,)) if one.inode]
        ports = {one.port for one in tcp_listening if one.inode not in held}
        unix_listening = (one.inode for one in unix_sockets() if one.is_listening)
        listening = held & {*(one.inode for one in tcp_listening), *unix_listening}
        inherited = listening & procfs.own_inodes(procfs.parent_of(pid)) if listening else listening
        beside_others = {one.inode for one in tcp_listening if one.inode in held and one.port in ports}
        try:
            return accepting.accepts(family, inherited or beside_others or listening)
        except PermissionError as error:
            raise SocketsError(f"Cannot see whether process {pid} accepts connections: {error}") from error

    def reuseport_of(self, pids: Collection[int]) -> Sequence[int]:
        """See ``Sockets.reuseport_of``."""
        held = procfs.inodes_of(pids)
        found: dict[int, Counter[int]] = {}
        for one in tcp_sockets((LISTEN,)):
            holders = [pid for pid, inodes in held.items() if one.inode in inodes]
            if len(holders) == 1:  # what several hold was inherited
                found.setdefault(one.port, Counter()).update(holders)
        return sorted(port for port, holders in found.items() if len(holders) > 1)

    def memory_files_of(self, pid: int) -> Sequence[str]:
        """See ``Sockets.memory_files_of``."""
        return procfs.memory_files_of(pid)

    def wrappers_of(self, ports: Mapping[int, Collection[int]]) -> Mapping[int, Wrapper]:
        """See ``Sockets.wrappers_of``."""
        children = procfs.children_of_all()
        parents = [pid for pid in ports if children.get(pid)]
        listening = list(tcp_sockets((LISTEN,), {port for pid in parents for port in ports[pid]}))
        inodes = {pid: {one.inode for one in listening if one.port in ports[pid]} for pid in parents}
        chains = {pid: procfs.above(pid, inodes[pid], children) for pid in parents}
        return {pid: _wrapper(chain) for pid, chain in chains.items() if chain}

    def families_of(self, pids: Collection[int]) -> Mapping[int, Wrapper]:
        """See ``Sockets.families_of``."""
        children = procfs.children_of_all() if pids else {}
        return {pid: _wrapper(list(procfs.family_of(pid, children))) for pid in pids}

    def listening(self, port: int, pid: int) -> PortUse:
        """See ``Sockets.listening``."""
        found = tcp_sockets((LISTEN,), [port])
        addresses, family = _addresses(found), [pid]
        try:
            held = procfs.own_inodes(pid) if found else frozenset()
            if any(one.inode not in held for one in found):
                family = list(procfs.family_of(pid))
                held = frozenset().union(*map(procfs.own_inodes, family))
        except SocketsError:  # it is hidden which sockets are its own
            return PortUse(addresses, None)
        own = _addresses(one for one in found if one.inode in held)
        others = [one for one in found if one.inode not in held]
        rivals = {one.inode for one in others if not own or any(overlap(one.address, address) for address in own)}
        return PortUse(addresses, own, procfs.others(rivals, family) if rivals else ())

    def holders_of(self, ports: Collection[int]) -> Mapping[int, Holder]:
        """See ``Sockets.holders_of``."""
        listening = {one.inode: one.port for one in tcp_sockets((LISTEN,), ports)} if ports else {}
        held = procfs.holders(listening) if listening else {}
        return {**held, **_clients(set(ports).difference(listening.values()))}


def _bound_at(path: str, every: Sequence[UnixSocket]) -> list[UnixSocket]:
    """Those of these sockets that clients reach at a path. Where processes have bound one relative name in several
    directories, those of the file that is there; all, where it is not known which that is."""
    name = socket_paths.bound(path)
    found = [one for one in every if socket_paths.is_named(name, one.name)]
    if len({one.file for one in found}) < 2 or all(one.name == name for one in found):
        return found
    try:
        file = os.stat(socket_paths.current(path)).st_ino
    except OSError:
        return found
    return [one for one in found if one.file == file] or found


def _paths_of(family: Iterable[int], listening: Mapping[int, str]) -> Iterator[str]:
    """The paths on which processes listen, without those of a file that is another user's: a process may bind any name
    in a file system of its own, and what is there for all would be taken for its socket."""
    for pid in family:
        user = procfs.user_of(pid)
        for inode in procfs.own_inodes(pid) & listening.keys():
            path = _full(listening[inode], pid)
            if user == 0 or _owner_of(path) in (user, None):
                yield path


def _owner_of(path: str) -> int | None:
    """The user whose socket has this name, closed or not; None: there is none."""
    try:
        return os.lstat(socket_paths.current(path)).st_uid
    except OSError:
        return None


def _full(name: str, pid: int) -> str:
    """The full path of a socket that a process has bound; of an abstract one (``@name``) its name."""
    return printable(name) if name.startswith("@") else os.path.normpath(os.path.join(procfs.directory_of(pid), name))


def _clients(ports: Collection[int]) -> dict[int, Holder]:
    """The processes that have an outgoing connection from one of these ports, where the kernel may choose it so."""
    first, last = local_ports()
    ports = [port for port in ports if first <= port <= last]
    found = {one.inode: one for one in tcp_sockets(CONNECTED, ports) if one.inode} if ports else {}
    peers = {one.port: one.peer for one in found.values()}
    held = procfs.holders({inode: one.port for inode, one in found.items()}) if found else {}
    return {port: replace(holder, peer=peers[port]) for port, holder in held.items()}


def local_ports() -> tuple[int, int]:
    """The first and the last port that the kernel chooses for outgoing connections."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as range_:
        first, last = range_.read().split()
    return int(first), int(last)


def _addresses(found: Iterable[TcpSocket]) -> tuple[str, ...]:
    return tuple(sorted({one.address for one in found}))


def _wrapper(chain: Sequence[int]) -> Wrapper:
    first, *inner = [Wrapper(procfs.name_of(pid), *procfs.signals_of(pid), procfs.program_of(pid)) for pid in chain]
    return replace(first, inner=tuple(inner))


def _idle_for(one: TcpSocket) -> float:
    """Seconds since the last byte; 0.0 where an answer may be under way: the last byte was received, bytes wait for the
    reader, or no process has accepted the connection yet."""
    is_busy = not one.inode or one.traffic.last == "received" or one.traffic.is_sending
    return 0.0 if is_busy else one.traffic.idle / 1000


def _connection(one: TcpSocket) -> Connection:
    state = "half-closed" if one.state == CLOSE_WAIT else ""
    state = "stuck" if one.traffic.is_stuck else state
    state = state if one.inode else "not accepted"
    return Connection(one.peer, one.traffic.age / 1000, one.traffic.idle / 1000, one.traffic.last, state)
