"""What a process holds: memory, open files and threads, by the kernel's count and, on request, Python's."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LOOK_EVERY = 0.05
QUIET_FOR = 0.5
"""Seconds without a change after which nothing is under way: supervisord closes a connection when it comes round to
it."""


@dataclass(frozen=True)
class Footprint:
    """What a process holds at a moment; memory is in kB."""

    rss: int  # resident
    pss: int  # with its share of shared pages
    uss: int  # its own pages; grows, too, when another process that used the same libraries ends
    anonymous: int  # its own pages without a file behind them
    files: Mapping[str, int]  # how many are open, by kind
    threads: int
    python: Mapping[str, int] = field(default_factory=dict)  # see ``memory_report.memory``


@dataclass(frozen=True)
class Slack:
    """What may come to a process however long it lives, in the units of ``Footprint``: noise, which does not add up."""

    anonymous: int
    python: Mapping[str, int]


def take(pid: int, python: Mapping[str, int], within: float = 10.0) -> Footprint:
    """Of a process, when its files and threads have not changed for a moment. Raises TimeoutError where they go on."""
    files, threads = _quiet(pid, within)
    sizes = _sizes(pid)
    alone = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return Footprint(sizes["Rss"], sizes["Pss"], alone, sizes["Anonymous"], files, threads, python)


def proportional(pid: int) -> int:
    """Its memory in kB, of what it shares with others its part (PSS): a sum over processes counts no page twice. 0 for
    one that is gone."""
    try:
        return _sizes(pid).get("Pss", 0)  # a zombie has none
    except OSError:
        return 0


def kilobytes(pid: int, key: str) -> int:
    """What /proc/PID/status says: VmRSS, resident now; VmHWM, at most until now."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))


def growth(first: Footprint, last: Footprint, slack: Slack) -> Sequence[str]:
    """What the last has more than the first, or otherwise, and more than ``slack`` allows; a clause each."""
    numbers = {"kB of memory of its own": (first.anonymous, last.anonymous, slack.anonymous)}
    numbers.update({name: (first.python[name], last.python[name], slack.python[name]) for name in first.python})
    grown = [
        f"{after - before} more {what} ({before}, then {after}); {allowed} are allowed"
        for what, (before, after, allowed) in numbers.items()
        if after - before > allowed
    ]
    other = [
        f"other {what}: {before}, then {after}"
        for what, before, after in (("open files", first.files, last.files), ("threads", first.threads, last.threads))
        if before != after
    ]
    return [*other, *grown]


def _quiet(pid: int, within: float) -> tuple[Mapping[str, int], int]:
    deadline = time.monotonic() + within
    found, since = (_files(pid), _threads(pid)), time.monotonic()
    while time.monotonic() - since < QUIET_FOR:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} goes on opening and closing: {found} a moment ago")
        time.sleep(LOOK_EVERY)
        now = (_files(pid), _threads(pid))
        if now != found:
            found, since = now, time.monotonic()
    return found


def _files(pid: int) -> dict[str, int]:
    """``socket:[123]`` and ``anon_inode:[pidfd]`` are a socket and a pidfd; a file counts as one."""
    found: Counter[str] = Counter()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            kind, _, number = os.readlink(f"/proc/{pid}/fd/{entry}").partition(":")
            found["file" if kind.startswith("/") else number.strip("[]") if kind == "anon_inode" else kind] += 1
    return dict(sorted(found.items()))


def _threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def _sizes(pid: int) -> dict[str, int]:
    """In kB, by the kernel's names."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    return {name: int(size.split()[0]) for name, _, size in (line.partition(":") for line in lines)}
