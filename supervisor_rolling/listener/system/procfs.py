"""Processes as /proc shows them: their sockets, descendants, names and signals, and which process holds a port.

A process may end at any line; that is no error, it then holds nothing. Calls for many processes read /proc once: to
read it for each of a thousand would take twenty seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Iterator, Mapping, Sequence

from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.core.port_use import Holder
from supervisor_rolling.core.text import printable

GONE = (FileNotFoundError, ProcessLookupError)


def inodes_of(pids: Collection[int]) -> dict[int, frozenset[int]]:
    """The inodes of the sockets that each of these processes or a descendant of it holds open.

    Raises SocketsError where /proc hides them.
    """
    children = children_of_all()
    return {pid: frozenset().union(*map(own_inodes, family_of(pid, children))) for pid in pids}


def own_inodes(pid: int) -> frozenset[int]:
    """The inodes of the sockets that this process itself holds open. Raises SocketsError where /proc hides them."""
    try:
        links = open_files(pid).values()
    except PermissionError as error:
        if has_ended(pid):
            return frozenset()
        raise SocketsError(
            f"Cannot see which ports process {pid} listens on: {error}. Fix: run the listener as root or give it "
            "CAP_SYS_PTRACE, or name the ports in rolling.yaml instead of `ports: auto`"
        ) from error
    return frozenset(int(link[len("socket:[") : -1]) for link in links if link.startswith("socket:["))


def open_files(pid: int) -> dict[int, str]:
    """What the descriptors of this process itself refer to, such as ``socket:[4711]``; empty where the process is gone.
    Raises PermissionError where /proc hides them."""
    found: dict[int, str] = {}
    with contextlib.suppress(*GONE):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(*GONE):  # closed in between
                found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def memory_files_of(pid: int) -> list[str]:
    """The names of the memory files (memfd_create) that a process or a descendant of it holds open, as far as /proc
    shows them."""
    files: list[str] = []
    for one in family_of(pid):
        with contextlib.suppress(PermissionError):
            files += open_files(one).values()
    return [file[len("/memfd:") :].removesuffix(" (deleted)") for file in files if file.startswith("/memfd:")]


def directory_of(pid: int) -> str:
    """The working directory of a process; ``/`` where that is hidden, or the process gone."""
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except (*GONE, PermissionError):
        return "/"


def name_of(pid: int) -> str:
    """The name of a process (comm), made printable, since a process can choose it. Empty where the process is gone."""
    return printable(_read(pid, "comm").strip())


def program_of(pid: int) -> str:
    """The name of the file that a process runs, for a script that of its interpreter; empty where it is hidden."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).removesuffix(" (deleted)")
    except (*GONE, PermissionError):
        return ""


def user_of(pid: int) -> int:
    """The effective user of a process; -1 where the process is gone or hidden."""
    fields = dict(line.partition(":")[::2] for line in _read(pid, "status").splitlines())
    return int((fields.get("Uid") or "-1 -1").split()[1])


def signals_of(pid: int) -> tuple[frozenset[str], frozenset[str]]:
    """The signals that a process handles or waits for (blocked), and those that it ignores, by their names without SIG;
    none where the process is gone."""
    fields = dict(line.partition(":")[::2] for line in _read(pid, "status").splitlines())
    caught, ignored, blocked = (int(fields.get(name, "0"), 16) for name in ("SigCgt", "SigIgn", "SigBlk"))
    return _signals_in(caught | blocked), _signals_in(ignored)


def above(pid: int, inodes: Collection[int], children: Mapping[int, list[int]]) -> list[int]:
    """A process and those between it and the nearest descendant that holds one of these sockets; empty where it holds
    one itself, or no descendant does. Raises SocketsError where /proc hides it."""
    paths = [[pid]]
    for path in paths:  # grows: all of one generation before the next
        if not own_inodes(path[-1]).isdisjoint(inodes):
            return path[:-1]
        paths += [[*path, child] for child in children.get(path[-1], [])]
    return []


def _signals_in(mask: int) -> frozenset[str]:
    return frozenset(one.name[len("SIG") :] for one in signal.Signals if mask >> (one - 1) & 1)


def holders(ports: Mapping[int, int]) -> dict[int, Holder]:
    """The processes that hold sockets, by port, as far as /proc shows them; ``ports`` maps an inode to its port."""
    found: dict[int, list[int]] = {}
    for inode, pids in _holding(ports, ()).items():
        found.setdefault(ports[inode], []).extend(pids)
    return {port: _holder(pids) for port, pids in found.items()}


def others(inodes: Collection[int], family: Collection[int]) -> tuple[Holder, ...]:
    """The processes outside of ``family`` that hold one of these sockets, as far as /proc shows them: one Holder for
    each program and each name under which supervisord started it. Reads the open files of every process of the host."""
    found: dict[tuple[str, str], list[int]] = {}
    for pid in sorted({pid for pids in _holding(inodes, family).values() for pid in pids}):
        if name := name_of(pid):  # else it has ended
            found.setdefault((name, started_as(pid)), []).append(pid)
    return tuple(Holder(tuple(pids), name, started) for (name, started), pids in found.items())


def _holding(inodes: Collection[int], family: Collection[int]) -> dict[int, list[int]]:
    """The processes outside of ``family`` that hold each of these sockets, by inode."""
    found: dict[int, list[int]] = {}
    for pid in set(all_pids()).difference(family):
        with contextlib.suppress(SocketsError):  # of another user, and hidden
            for inode in own_inodes(pid).intersection(inodes):
                found.setdefault(inode, []).append(pid)
    return found


def started_as(pid: int) -> str:
    """The name, ``group:process``, under which supervisord started a process or its ancestor; empty where it did not,
    or where that is hidden."""
    variables = dict(one.partition("=")[::2] for one in _read(pid, "environ").split("\0"))
    names = [variables.get(name, "") for name in ("SUPERVISOR_GROUP_NAME", "SUPERVISOR_PROCESS_NAME")]
    return printable(":".join(names)) if all(names) else ""


def _holder(pids: Sequence[int]) -> Holder:
    return Holder(tuple(sorted(pids)), name_of(min(pids)) or "gone", started_as(min(pids)))


def family_of(pid: int, children: Mapping[int, list[int]] | None = None) -> Iterator[int]:
    """A process and its descendants, without those that init adopted because their parent died."""
    children = children_of_all() if children is None else children
    waiting = [pid]
    while waiting:
        process = waiting.pop()
        yield process
        waiting += children.get(process, [])


def all_pids() -> list[int]:
    """The processes that /proc shows."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def children_of_all() -> dict[int, list[int]]:
    """The children of each process of the host that has any."""
    # /proc/PID/task/*/children would be less to read, but misses some while processes end.
    children: dict[int, list[int]] = {}
    for pid in all_pids():
        with contextlib.suppress(*GONE, PermissionError):  # hidepid: a hidden process has no parent here
            children.setdefault(parent_of(pid), []).append(pid)
    return children


def parent_of(pid: int) -> int:
    """The parent of a process, or 1 where that has ended. Raises OSError where the process is gone."""
    return int(_stat(pid)[1])


def has_ended(pid: int) -> bool:
    """Whether a process is gone or a zombie: it then holds nothing, and only root may read its files."""
    try:
        return _stat(pid)[0] in (b"Z", b"X")
    except GONE:
        return True
    except PermissionError:  # hidepid
        return False


def _stat(pid: int) -> list[bytes]:
    """The fields of proc(5)'s stat behind the name, which may hold any character: state, parent, ..."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        return stat.read().rpartition(b")")[2].split()


def _read(pid: int, name: str) -> str:
    """A file of a process in /proc; empty where the process is gone or hidden."""
    try:
        with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="replace") as file:
            return file.read()
    except (*GONE, PermissionError):
        return ""
