"""Processes by their identity: a pid and when it started, so that a reused pid is never taken for the old process."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import eventually

PROC = Path("/proc")

TICKS = os.sysconf("SC_CLK_TCK")
"""In a second, of the kernel's clock for processor time."""


@dataclass(frozen=True)
class Identity:
    """``started``: clock ticks since boot."""

    pid: int
    started: int


def identity(pid: int) -> Identity | None:
    """None for one that is gone, or a zombie: it no longer holds anything, and waits for its parent."""
    found = _stat(pid)
    return None if found is None or found[0] == "Z" else Identity(pid, found[2])


def alive(process: Identity) -> bool:
    return identity(process.pid) == process


def descendants(pid: int) -> set[Identity]:
    """The process and everything that descends from it."""
    parents = {child: stat[1] for child in _pids() if (stat := _stat(child)) is not None}
    family, grown = {pid}, True
    while grown:
        children = {child for child, parent in parents.items() if parent in family}
        grown = not children <= family
        family |= children
    return {found for member in family if (found := identity(member)) is not None}


def carrying(variable: str) -> set[Identity]:
    """All processes with ``variable`` ("NAME=value") in their environment, orphans too, but not this one."""
    selected = variable.encode()
    holders = {pid for pid in _pids() if pid != os.getpid() and selected in _environment(pid)}
    return {found for pid in holders if (found := identity(pid)) is not None}


def wait_gone(processes: Iterable[Identity], timeout: float) -> set[Identity]:
    """Wait until they are gone, at most ``timeout`` seconds; gives those that are not."""
    known = set(processes)
    eventually(lambda: not any(map(alive, known)), timeout)
    return set(filter(alive, known))


def end(processes: Iterable[Identity], grace: float = 2.0) -> set[Identity]:
    """SIGTERM, after ``grace`` seconds SIGKILL; gives those that outlived even that."""
    left = set(processes)
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        for process in left:
            _signal(process, number)
        left = wait_gone(left, patience)
    return left


def cpu_seconds(pid: int) -> float:
    """Processor time that it has used itself, its children not among it; 0.0 for one that is gone."""
    try:
        fields = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def command(process: Identity) -> str:
    """Its command line, for messages."""
    try:
        return (PROC / str(process.pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "gone"


def _signal(process: Identity, number: int) -> None:
    if alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir(PROC) if entry.isdigit()]


def _stat(pid: int) -> tuple[str, int, int] | None:
    """State, parent, start."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[19])


def _environment(pid: int) -> list[bytes]:
    try:
        return (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []
