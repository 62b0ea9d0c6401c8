"""Whose sockets they are, by /proc: what a process and its descendants hold open, and who else holds a port.

A process may be gone at any line: that is no error, it then holds nothing. All of a look is read once, however many
processes are asked for: to read /proc for each of a thousand would take twenty seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Iterator, Mapping, Sequence

from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.core.port_use import Holder
from supervisor_rolling.core.text import printable

_GONE = (FileNotFoundError, ProcessLookupError)
_ACCEPTS, _STREAM = 0x10000, 1  # __SO_ACCEPTCON, SOCK_STREAM
_NAMES = (b"SUPERVISOR_GROUP_NAME=", b"SUPERVISOR_PROCESS_NAME=")


def inodes_of(pids: Collection[int]) -> dict[int, frozenset[int]]:
    """The inodes of the sockets that each of these processes or a descendant of it holds open.

    Raises SocketsError where /proc does not show them.
    """
    children = children_of_all()
    return {pid: frozenset(inode for one in family_of(pid, children) for inode in _socket_inodes(one)) for pid in pids}


def own_inodes(pid: int) -> frozenset[int]:
    """The inodes of the sockets that this process itself holds open. Raises SocketsError likewise."""
    return frozenset(_socket_inodes(pid))


def listening_unix() -> dict[int, str]:
    """The paths of the unix stream sockets that listen in this network namespace, by inode, from /proc/net/unix."""
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as unix:
        rows = [line.split(maxsplit=7) for line in unix.readlines()[1:]]
    return {
        int(row[6]): printable(row[7].rstrip("\n"))
        for row in rows
        if len(row) == 8 and int(row[3], 16) & _ACCEPTS and int(row[4], 16) == _STREAM
    }


def name_of(pid: int) -> str:
    """The name of a process as the kernel has it, printable: a process can choose it. Empty where it is gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return printable(comm.read().strip())
    except _GONE:
        return ""


def program_of(pid: int) -> str:
    """The name of the file that a process runs, which is the interpreter of a script; empty where that is not shown."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).removesuffix(" (deleted)")
    except (*_GONE, PermissionError):
        return ""


def signals_of(pid: int) -> tuple[frozenset[str], frozenset[str]]:
    """The signals for which a process has a handler or that it waits for (blocked), and those that it ignores, by their
    names without SIG; none where it is gone."""
    masks = {"SigCgt": "0", "SigIgn": "0", "SigBlk": "0"}
    with contextlib.suppress(*_GONE), open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
        masks.update((line[:6], line[7:]) for line in status if line.startswith(tuple(masks)))
    caught, ignored, blocked = (int(mask, 16) for mask in masks.values())
    return _signals_in(caught | blocked), _signals_in(ignored)


def above(pid: int, inodes: Collection[int], children: Mapping[int, list[int]]) -> list[int]:
    """The processes between a process and the nearest descendant that holds one of these sockets, with the process
    itself; empty where it holds one itself, or no descendant does. Raises SocketsError where /proc does not show it."""
    ways = [[pid]]
    for way in ways:  # grows: all of one generation before the next
        if not own_inodes(way[-1]).isdisjoint(inodes):
            return way[:-1]
        ways += [[*way, child] for child in children.get(way[-1], [])]
    return []


def _signals_in(mask: int) -> frozenset[str]:
    return frozenset(one.name[len("SIG") :] for one in signal.Signals if mask >> (one - 1) & 1)


def holders(ports: Mapping[int, int]) -> dict[int, Holder]:
    """Who holds sockets, by port, as far as that is shown; ``ports`` of the sockets, by inode."""
    found: dict[int, list[int]] = {}
    for inode, pids in _holding(ports, ()).items():
        found.setdefault(ports[inode], []).extend(pids)
    return {port: _holder(pids) for port, pids in found.items()}


def others(inodes: Collection[int], family: Collection[int]) -> tuple[Holder, ...]:
    """The processes outside of ``family`` that hold one of these sockets, as far as that is shown: one Holder for each
    program, and for each name by which supervisord started it. It reads the open files of every process of the host."""
    found: dict[tuple[str, str], list[int]] = {}
    for pid in sorted({pid for pids in _holding(inodes, family).values() for pid in pids}):
        if name := name_of(pid):  # else it has ended meanwhile
            found.setdefault((name, started_as(pid)), []).append(pid)
    return tuple(Holder(tuple(pids), name, started) for (name, started), pids in found.items())


def _holding(inodes: Collection[int], family: Collection[int]) -> dict[int, list[int]]:
    """The processes that hold each of these sockets, by inode, without ``family``."""
    found: dict[int, list[int]] = {}
    for pid in set(all_pids()).difference(family):
        with contextlib.suppress(SocketsError):  # of another user: what cannot be seen is not told
            for inode in own_inodes(pid).intersection(inodes):
                found.setdefault(inode, []).append(pid)
    return found


def started_as(pid: int) -> str:
    """What supervisord called a process when it started it, or the one that it descends from: ``group:process``. Empty
    where that is nobody, or not shown."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ:
            known = dict(one.split(b"=", 1) for one in environ.read().split(b"\0") if one.startswith(_NAMES))
    except (*_GONE, PermissionError):
        return ""
    names = [known.get(name.rstrip(b"="), b"").decode(errors="replace") for name in _NAMES]
    return printable(":".join(names)) if all(names) else ""


def _holder(pids: Sequence[int]) -> Holder:
    return Holder(tuple(sorted(pids)), name_of(min(pids)) or "gone", started_as(min(pids)))


def family_of(pid: int, children: Mapping[int, list[int]] | None = None) -> Iterator[int]:
    """A process and all that descend from it. One whose parent died belongs to init, and to this family no more."""
    children = children_of_all() if children is None else children
    waiting = [pid]
    while waiting:
        process = waiting.pop()
        yield process
        waiting += children.get(process, [])


def all_pids() -> list[int]:
    """The processes that are shown."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def children_of_all() -> dict[int, list[int]]:
    """The children of each process of the host that has any."""
    # /proc/PID/task/*/children would be less to read, but leaves some out when processes end meanwhile.
    children: dict[int, list[int]] = {}
    for pid in all_pids():
        with contextlib.suppress(*_GONE, PermissionError):  # hidepid: what cannot be seen is nobody's child
            children.setdefault(parent_of(pid), []).append(pid)
    return children


def parent_of(pid: int) -> int:
    """The process that started it, or 1. Raises OSError where it is gone."""
    return int(_stat(pid)[1])


def _has_ended(pid: int) -> bool:
    """Whether it only waits for its parent to notice: then it holds nothing, and its files are shown to root alone."""
    try:
        return _stat(pid)[0] in (b"Z", b"X")
    except _GONE:
        return True
    except PermissionError:  # hidepid
        return False


def _stat(pid: int) -> list[bytes]:
    """The state of a process, its parent, and more: proc(5)'s stat behind the name, which may hold any character."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        return stat.read().rpartition(b")")[2].split()


def _socket_inodes(pid: int) -> Iterator[int]:
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            link = _link(f"/proc/{pid}/fd/{name}")
            if link.startswith("socket:["):
                yield int(link[len("socket:[") : -1])
    except _GONE:
        return
    except PermissionError as error:
        if _has_ended(pid):
            return
        raise SocketsError(
            f"Cannot see which ports process {pid} listens on: {error}. Run the listener as root or give it "
            "CAP_SYS_PTRACE, or name the ports in the YAML instead of `ports: auto`."
        ) from error


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except _GONE:  # this one was closed meanwhile
        return ""
