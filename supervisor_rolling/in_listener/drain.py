"""What is left of a port's connections, and which ports a process listens on: the ``Sockets`` of ``contracts.py``.

Only the server's side counts, that is, sockets whose local port is the one asked for: over loopback the kernel has
both ends. ESTABLISHED, SYN_RECV and CLOSE_WAIT are connections that a process may still have to answer; what waits in
the accept queue is ESTABLISHED for the kernel and so is among them. Whoever closed first and only waits (FIN_WAIT,
TIME_WAIT) loses nothing when the process ends.
"""

from __future__ import annotations

import contextlib
import heapq
import os
from collections.abc import Collection, Iterator, Mapping

from supervisor_rolling.errors import SocketsError
from supervisor_rolling.in_listener.sock_diag import (
    CLOSE_WAIT,
    ESTABLISHED,
    LISTEN,
    SYN_RECV,
    TcpSocket,
    Traffic,
    tcp_sockets,
)
from supervisor_rolling.model import Connection, Connections


class KernelSockets:
    """Looks at this network namespace. Keeps nothing between calls; each has a deadline of seconds, and raises
    SocketsError where the kernel does not answer."""

    def connections(self, ports: Collection[int], oldest: int = 0) -> Mapping[int, Connections]:
        """The connections and listeners of each of these ports; see ``Sockets.connections``."""
        connected: dict[int, list[TcpSocket]] = {port: [] for port in ports}
        listeners: dict[int, set[str]] = {port: set() for port in ports}
        if ports:
            for one in tcp_sockets((ESTABLISHED, SYN_RECV, CLOSE_WAIT, LISTEN), ports, with_traffic=oldest > 0):
                if one.state == LISTEN:
                    listeners[one.port].add(one.address)
                else:
                    connected[one.port].append(one)
        return {
            port: Connections(
                peers=frozenset(map(_peer, connected[port])),
                listeners=tuple(sorted(listeners[port])),
                oldest=tuple(map(_connection, heapq.nlargest(oldest, connected[port], key=_age_ms))),
            )
            for port in ports
        }

    def ports_of(self, pid: int) -> tuple[int, ...]:
        """The TCP ports that a process or a descendant of it listens on, ascending; empty where there is none.

        Raises SocketsError where /proc does not show whose sockets they are.
        """
        inodes = {inode for process in family_of(pid) for inode in _socket_inodes(process)}
        return tuple(sorted({one.port for one in tcp_sockets((LISTEN,)) if one.inode in inodes})) if inodes else ()


def _peer(one: TcpSocket) -> str:
    address = f"[{one.peer_address}]" if ":" in one.peer_address else one.peer_address
    return f"{address}:{one.peer_port}"


def _age_ms(one: TcpSocket) -> int:
    return one.traffic.age if one.traffic else 0


def _connection(one: TcpSocket) -> Connection:
    age, idle, last, _ = one.traffic or Traffic()
    return Connection(_peer(one), age / 1000, idle / 1000, last, _state(one))


def _state(one: TcpSocket) -> str:
    if not one.inode:
        return "not accepted"
    if one.traffic and one.traffic.is_stuck:
        return "stuck"
    return "half-closed" if one.state == CLOSE_WAIT else ""


# --- /proc. A process may be gone at any line: that is no error, it then listens on nothing.

_GONE = (FileNotFoundError, ProcessLookupError)


def family_of(pid: int) -> Iterator[int]:
    """A process and all that descend from it. One whose parent died belongs to init, and to this family no more."""
    children = _children()
    waiting = [pid]
    while waiting:
        process = waiting.pop()
        yield process
        waiting += children.get(process, [])


def _children() -> dict[int, list[int]]:
    # /proc/PID/task/*/children would be less to read, but leaves some out when processes end meanwhile.
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(*_GONE):
            children.setdefault(_parent(name), []).append(int(name))
    return children


def _parent(pid: str) -> int:
    with open(f"/proc/{pid}/stat", "rb") as stat:
        return int(stat.read().rpartition(b")")[2].split()[1])  # the name stands in brackets, and may hold any


def _socket_inodes(pid: int) -> Iterator[int]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except _GONE:
        return
    except PermissionError as error:
        raise SocketsError(
            f"Cannot see which ports process {pid} listens on: {error}. Run the listener as root or give it "
            "CAP_SYS_PTRACE, or name the ports in the YAML instead of `ports: auto`."
        ) from error
    for name in names:
        with contextlib.suppress(*_GONE):
            link = os.readlink(f"/proc/{pid}/fd/{name}")
            if link.startswith("socket:["):
                yield int(link[len("socket:[") : -1])
