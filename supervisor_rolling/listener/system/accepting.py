"""Whether a process waits for connections on a listening socket, as the kernel shows it in /proc.

A listening socket alone does not tell: an ``[fcgi-program]`` has one before its application is loaded. A server that
waits has it in an epoll set (``tfd:`` in fdinfo), or sleeps in select, poll or accept for it (``syscall``, and the
process's memory for what select and poll were given).
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from collections.abc import Collection, Iterator

from supervisor_rolling.listener.system.procfs import GONE, open_files

_MACHINE = os.uname().machine
_CALLS = {
    "x86_64": {23: "select", 270: "select", 7: "poll", 271: "poll", 43: "accept", 288: "accept"},
    "aarch64": {72: "select", 73: "poll", 202: "accept", 242: "accept"},
}.get(_MACHINE, {})
"""The system calls that wait for a socket, by their numbers."""

_TARGET = re.compile(rb"^tfd:\s*(\d+)", re.MULTILINE)
_POLL = struct.Struct("ihh")
MAX_POLLED = 4096
"""Descriptors of one select or poll that are looked at."""


def accepts(pids: Collection[int], inodes: Collection[int]) -> bool:
    """Whether one of these processes waits for connections on one of these sockets. Raises PermissionError where that
    cannot be seen."""
    return any(_accepts(pid, inodes) for pid in pids)


def _accepts(pid: int, inodes: Collection[int]) -> bool:
    files, wanted = open_files(pid), {f"socket:[{inode}]" for inode in inodes}
    sockets = {fd for fd, file in files.items() if file in wanted}
    if not sockets:
        return False
    polled = (_targets(pid, fd) for fd, file in files.items() if file == "anon_inode:[eventpoll]")
    if any(not sockets.isdisjoint(targets) for targets in polled):
        return True
    with contextlib.suppress(*GONE):
        return any(not sockets.isdisjoint(_awaited(pid, task)) for task in os.listdir(f"/proc/{pid}/task"))
    return False


def _targets(pid: int, fd: int) -> set[int]:
    """The descriptors in an epoll set."""
    with contextlib.suppress(*GONE):
        return set(map(int, _TARGET.findall(_read(f"/proc/{pid}/fdinfo/{fd}"))))
    return set()


def _awaited(pid: int, task: str) -> Iterator[int]:
    """The descriptors for which a thread sleeps in select, poll or accept."""
    with contextlib.suppress(*GONE):
        number, *words = _read(f"/proc/{pid}/task/{task}/syscall").split()
        call = _CALLS.get(int(number), "") if number.isdigit() else ""  # else it is running
        arguments = [int(word, 16) for word in words]
        if call == "accept":
            yield arguments[0]
        elif call == "select" and arguments[1]:
            bits = int.from_bytes(_memory(pid, arguments[1], (min(arguments[0], MAX_POLLED) + 7) // 8), "little")
            yield from (fd for fd in range(min(arguments[0], MAX_POLLED)) if bits >> fd & 1)
        elif call == "poll" and arguments[0]:
            entries = _memory(pid, arguments[0], min(arguments[1], MAX_POLLED) * _POLL.size)
            yield from (fd for fd, _, _ in _POLL.iter_unpack(entries))


def _memory(pid: int, address: int, size: int) -> bytes:
    """So many bytes of a process; none where they are not there any more."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        try:
            found = os.pread(memory.fileno(), size, address)
        except (OSError, OverflowError):
            return b""
    return found if len(found) == size else b""


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
