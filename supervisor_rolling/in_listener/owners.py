"""Whose sockets they are, by /proc: what a process and its descendants hold open, and who else holds a port.

A process may be gone at any line: that is no error, it then holds nothing. All of a look is read once, however many
processes are asked for: to read /proc for each of a thousand would take twenty seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from supervisor_rolling.errors import SocketsError

_GONE = (FileNotFoundError, ProcessLookupError)
_ACCEPTS, _STREAM = 0x10000, 1  # __SO_ACCEPTCON, SOCK_STREAM
_NAMES = (b"SUPERVISOR_GROUP_NAME=", b"SUPERVISOR_PROCESS_NAME=")


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


def own_inodes(pid: int) -> frozenset[int]:
    """The inodes of the sockets that this process itself holds open. Raises SocketsError likewise."""
    return frozenset(_socket_inodes(pid))


def listening_unix() -> dict[int, str]:
    """The paths of the unix stream sockets that listen in this network namespace, by inode, from /proc/net/unix."""
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as unix:
        rows = [line.split(maxsplit=7) for line in unix.readlines()[1:]]
    return {
        int(row[6]): row[7].rstrip("\n")
        for row in rows
        if len(row) == 8 and int(row[3], 16) & _ACCEPTS and int(row[4], 16) == _STREAM
    }


def name_of(pid: int) -> str:
    """The name of a process as the kernel has it; empty where it is gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return comm.read().strip()
    except _GONE:
        return ""


def signals_of(pid: int) -> tuple[frozenset[str], frozenset[str]]:
    """The signals for which a process has a handler, and those that it ignores, by their names without SIG; none where
    it is gone."""
    masks = {"SigCgt": "0", "SigIgn": "0"}
    with contextlib.suppress(*_GONE), open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
        masks.update((line[:6], line[7:]) for line in status if line.startswith(tuple(masks)))
    caught, ignored = (int(masks[key], 16) for key in ("SigCgt", "SigIgn"))
    return _signals_in(caught), _signals_in(ignored)


def _signals_in(mask: int) -> frozenset[str]:
    return frozenset(one.name[len("SIG") :] for one in signal.Signals if mask >> (one - 1) & 1)


def predecessor(inodes: Collection[int], pid: int) -> Holder | None:
    """A process that supervisord has started under the same name as ``pid``, and that holds one of these sockets: what
    a supervisord that was killed has left. None where there is no such, or its environment is not shown."""
    name = _name_of(pid)
    if name is None:
        return None
    family = set(family_of(pid))
    for one in _pids():
        with contextlib.suppress(*_GONE, SocketsError):
            if one not in family and _name_of(one) == name and not own_inodes(one).isdisjoint(inodes):
                return Holder(one, name_of(one) or "gone")
    return None


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
        with contextlib.suppress(*_GONE, PermissionError):  # hidepid: what cannot be seen is nobody's child
            children.setdefault(_parent(pid), []).append(pid)
    return children


def _parent(pid: int) -> int:
    """From proc(5)'s stat, in which the name stands in brackets and may hold any."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        return int(stat.read().rpartition(b")")[2].split()[1])


def _name_of(pid: int) -> frozenset[bytes] | None:
    """What supervisord called a process when it started it, or the one that it descends from."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ:
            found = frozenset(one for one in environ.read().split(b"\0") if one.startswith(_NAMES))
    except (*_GONE, PermissionError):
        return None
    return found if len(found) == len(_NAMES) else None


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
