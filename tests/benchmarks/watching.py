"""What is seen of a group while it is restarted: how many serve, what memory it takes, what the tool costs.

``lives`` and ``least`` are arithmetic; ``Watcher`` looks at a stack for as long as a ``with`` block lasts. A process
serves from when it says that it takes requests until it says that it takes no more, or dies
(``tests.support.site.life``); one that is up and cold serves, too, and so does one with a closed port:
the way that closes it reports that itself. Points in time are seconds on CLOCK_MONOTONIC."""

from __future__ import annotations

import math
import os
import resource
import select
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support import footprint, proc
from tests.support.site import life
from tests.support.stack import MARK, Stack

WEIGH_EVERY = (0.1, 1.0)
"""Seconds at least and at most. The kernel holds up the processes that it weighs: 30 ms for forty of them."""

WEIGHING = 0.03
"""The share of the time that weighing may take."""

LOOK_EVERY = 0.05  # seconds: for those that are new


@dataclass(frozen=True)
class ProcessTime:
    """One process: ``up`` when it took requests, ``left`` when it took no more, ``gone`` when it was dead; infinity for
    what has not come yet."""

    pid: int
    started: float
    up: float
    left: float = math.inf
    gone: float = math.inf


def lives(notes: Iterable[life.Note], deaths: Mapping[int, float]) -> list[ProcessTime]:
    """By when they came up. ``deaths``: by pid."""
    known = list(notes)
    leaving = {note.pid: note.at for note in reversed(known) if note.word == life.LEAVING}
    gone = {note.pid: deaths.get(note.pid, math.inf) for note in known}
    return [
        ProcessTime(n.pid, n.started, n.at, min(leaving.get(n.pid, math.inf), gone[n.pid]), gone[n.pid])
        for n in known
        if n.word == life.UP
    ]


def serving(known: Iterable[ProcessTime], at: float) -> int:
    """How many serve at a moment."""
    return sum(one.up <= at < one.left for one in known)


def least(known: Sequence[ProcessTime], start: float, end: float) -> int:
    """How few served at any moment from ``start`` to ``end``."""
    moments = [start, *(one.left for one in known if start <= one.left <= end)]
    return min(serving(known, at) for at in moments)


def heaviest(weights: Sequence[tuple[float, float]], start: float, end: float) -> float:
    """The largest weight between two moments, and the last one before them: a short restart may lie between two
    measurements. ``weights``: pairs of a moment and MB, in order."""
    first = max((at for at, _ in weights if at <= start), default=start)
    return max((weight for at, weight in weights if first <= at <= end), default=0.0)


class Watcher:
    """See the module. ``daemons``: the pids of what the tool is, without what is started for each restart."""

    def __init__(self, stack: Stack, daemons: Mapping[str, int], is_member: Callable[[int], bool]) -> None:
        """``is_member``: whether the memory of a process of the stack counts as the group's."""
        self._stack = stack
        self._daemons = daemons
        self._is_member = is_member
        self._deaths: dict[int, float] = {}
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look, name="who lives")
        self._weighing = threading.Thread(target=self._weigh, name="memory")
        self.weights: list[tuple[float, float]] = []  # when, MB

    def __enter__(self) -> Watcher:
        self._looking.start()
        self._weighing.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._looking.join()
        self._weighing.join()

    def lives(self) -> list[ProcessTime]:
        return lives(_notes(self._stack), dict(self._deaths))

    def heaviest(self, start: float, end: float) -> float:
        """MB: the most that the group has weighed."""
        return heaviest(self.weights, start, end)

    def daemons_cost(self) -> dict[str, float]:
        """Processor seconds that each daemon has used until now."""
        return {name: proc.cpu_seconds(pid) for name, pid in self._daemons.items()}

    def script_cost(self) -> float:
        """Processor seconds until now of the commands that have ended, and of this process as far as it is no Watch:
        a script runs in it."""
        clocks = [time.pthread_getcpuclockid(t.ident) for t in (self._looking, self._weighing) if t.ident]
        watching = sum(time.clock_gettime(clock) for clock in clocks)
        commands = resource.getrusage(resource.RUSAGE_CHILDREN)
        return commands.ru_utime + commands.ru_stime + time.process_time() - watching

    # --- inside

    def _look(self) -> None:
        """Notice a death at once, even if another process waits for it."""
        poll = select.poll()
        pids: dict[int, int] = {}
        known: set[int] = set()
        while not self._over.is_set():
            for note in _notes(self._stack):
                if note.pid not in known:
                    known.add(note.pid)
                    self._follow(note.pid, pids, poll)
            for file, _ in poll.poll(LOOK_EVERY * 1000):
                self._deaths[pids.pop(file)] = time.monotonic()
                poll.unregister(file)
                os.close(file)
        for file in pids:
            os.close(file)

    def _follow(self, pid: int, pids: dict[int, int], poll: select.poll) -> None:
        try:
            file = os.pidfd_open(pid)
        except ProcessLookupError:
            self._deaths[pid] = time.monotonic()
            return
        pids[file] = pid
        poll.register(file, select.POLLIN)

    def _weigh(self) -> None:
        least, most = WEIGH_EVERY
        pause = least
        while not self._over.wait(pause):
            began = time.monotonic()
            found = proc.carrying(f"{MARK}={self._stack.directory}")
            members = [one.pid for one in found if self._is_member(one.pid)]
            self.weights.append((time.monotonic(), sum(map(footprint.proportional, members)) / 1024))
            pause = min(most, max(least, (time.monotonic() - began) / WEIGHING))


def _notes(stack: Stack) -> list[life.Note]:
    return life.read(stack.directory / "life")


def busy(before: Sequence[int], after: Sequence[int]) -> float:
    """The share of the processors' time that was not idle between two readings of ``processor_time``."""
    spent = [b - a for a, b in zip(before, after)]
    return 1 - (spent[3] + spent[4]) / max(1, sum(spent))


def processor_time() -> list[int]:
    """Ticks since the start of the machine, of all processors: user, nice, system, idle, iowait and so on."""
    return [int(ticks) for ticks in Path("/proc/stat").read_text(encoding="ascii").split("\n")[0].split()[1:9]]
