"""Whose sockets they are, by /proc: what a process and its descendants hold open, and who else holds a port.

A process may be gone at any line: that is no error, it then holds nothing. All of a look is read once, however many
processes are asked for: to read /proc for each of a thousand would take twenty seconds.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from supervisor_rolling.errors import SocketsError

_GONE = (FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True)
class Holder:
    """A process that holds a socket: its pid, and its name as the kernel has it."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.pid} ({self.name})"


def inodes_of(pids: Collection[int]) -> dict[int, frozenset[int]]:
    """The inodes of the sockets that each of these processes or a descendant of it holds open.

    Raises SocketsError where /proc does not show them.
    """
    children = _children()
    return {pid: frozenset(inode for one in family_of(pid, children) for inode in _socket_inodes(one)) for pid in pids}


def elder_holder(inodes: Collection[int], pid: int) -> Holder | None:
    """A process that holds one of these sockets and is older than ``pid``; of several, the oldest.

    Those whose sockets /proc does not show are left out.
    """
    born, found = _born(pid), []
    for one in _pids():
        with contextlib.suppress(*_GONE, SocketsError):
            if _born(one) < born and not frozenset(_socket_inodes(one)).isdisjoint(inodes):
                found.append((_born(one), one))
    return _holder(min(found)[1]) if found else None


def family_of(pid: int, children: Mapping[int, list[int]] | None = None) -> Iterator[int]:
    """A process and all that descend from it. One whose parent died belongs to init, and to this family no more."""
    children = _children() if children is None else children
    waiting = [pid]
    while waiting:
        process = waiting.pop()
        yield process
        waiting += children.get(process, [])


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _children() -> dict[int, list[int]]:
    # /proc/PID/task/*/children would be less to read, but leaves some out when processes end meanwhile.
    children: dict[int, list[int]] = {}
    for pid in _pids():
        with contextlib.suppress(*_GONE):
            children.setdefault(int(_stat(pid)[1]), []).append(pid)
    return children


def _born(pid: int) -> int:
    """When a process was started, in the kernel's ticks since boot; now, where it is gone."""
    try:
        return int(_stat(pid)[19])
    except _GONE:
        return 2**63


def _stat(pid: int) -> list[bytes]:
    """The fields after the name, which stands in brackets and may hold any: state, ppid, …; see proc(5)."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        return stat.read().rpartition(b")")[2].split()


def _holder(pid: int) -> Holder:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return Holder(pid, comm.read().strip())
    except _GONE:
        return Holder(pid, "gone")


def _socket_inodes(pid: int) -> Iterator[int]:
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            link = _link(f"/proc/{pid}/fd/{name}")
            if link.startswith("socket:["):
                yield int(link[len("socket:[") : -1])
    except _GONE:
        return
    except PermissionError as error:
        raise SocketsError(
            f"Cannot see which ports process {pid} listens on: {error}. Run the listener as root or give it "
            "CAP_SYS_PTRACE, or name the ports in the YAML instead of `ports: auto`."
        ) from error


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except _GONE:  # this one was closed meanwhile
        return ""
