"""The guard raced against the fastest binder: from a death to its gate closed, and to the bind of the new process.

``python -m tests.benchmarks.race`` (as root) kills processes of ``binder.c``, one after another, in a guarded group of
``--sizes`` processes under one supervisord. For each kill it takes three times on CLOCK_MONOTONIC: the SIGKILL, the
gate read back as closed (``timed_listener.py``), and the return of listen() in the new process. A user knocks at the
port all the while and says which process answered, and whether it was cold.

In the same run another process waits for the same death and for nothing else: what it takes to notice, the machine
takes by itself, and no guard can be faster.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import timed_listener
from tests.benchmarks.many import Many, Rig, running
from tests.support.load import quantile
from tests.support.netns import enter_private_network
from tests.support.stack import StackError, ask

PACE = 0.15  # seconds at least between two kills: one that was killed is warm again by then
KNOCK_EVERY = 0.003  # seconds: oftener, and the knocking itself takes the processor from those that race
BACK_WITHIN = 30.0


@dataclass(frozen=True)
class Crash:
    """Nanoseconds from the SIGKILL; ``cold``: a user met the new process before it was warm. ``noticed``:
    by the process that does nothing else."""

    closed: int
    bound: int
    cold: bool
    noticed: int


def gates(rig: Rig) -> dict[int, list[int]]:
    """When each port was closed."""
    found: dict[int, list[int]] = {}
    for line in _gate_file(rig).read_text(encoding="ascii").splitlines():
        at, port = map(int, line.split())
        found.setdefault(port, []).append(at)
    return found


def _gate_file(rig: Rig) -> Path:
    return rig.directory / "gate"


@contextmanager
def racing(size: int) -> Iterator[Rig]:
    """With the listener that writes down when it closes."""
    closes = Many(size, timed_listener.__name__, lambda directory: {timed_listener.FILE: str(directory / "gate")})
    with running(closes) as rig:
        yield rig


class Mourner:
    """A process that is given a pid, waits for its death, and says when it noticed."""

    PROGRAM = """
import os, select, sys, time
for line in sys.stdin.buffer:
    poll, fd = select.poll(), os.pidfd_open(int(line))
    poll.register(fd, select.POLLIN)
    print("waiting", flush=True)
    poll.poll()
    print(time.monotonic_ns(), flush=True)
    os.close(fd)
"""

    def __init__(self) -> None:
        command = [sys.executable, "-c", self.PROGRAM]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert self._process.stdin
        assert self._process.stdout
        self._asked, self._told = self._process.stdin, self._process.stdout

    def wait_for(self, pid: int) -> None:
        """Returns when it waits."""
        self._asked.write(f"{pid}\n")
        self._told.readline()

    def noticed(self) -> int:
        """Nanoseconds on CLOCK_MONOTONIC."""
        return int(self._told.readline())

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def crash(rig: Rig, pid: int, port: int, mourner: Mourner) -> Crash:
    """Kill it; knock until it answers again."""
    mourner.wait_for(pid)
    rig.stamps.read()
    killed = time.monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    cold = False
    deadline = time.monotonic() + BACK_WITHIN
    while True:
        try:
            reply = ask("127.0.0.1", port, "/", timeout=5.0)
            if int(reply.headers["x-pid"]) != pid:
                cold = reply.headers["x-cold"] == "1"
                break
        except OSError:
            if time.monotonic() > deadline:
                raise StackError(f"port {port} is not back within {BACK_WITHIN:g} s") from None
        time.sleep(KNOCK_EVERY)
    bound = rig.stamps.successor(port, killed, BACK_WITHIN).listening
    closed = next((at for at in gates(rig).get(port, []) if at > killed), 0)
    return Crash(closed - killed if closed else 0, bound - killed, cold, mourner.noticed() - killed)


def measure(size: int, kills: int) -> list[Crash]:
    enter_private_network()
    chance = random.Random(size)
    with racing(size) as rig:
        time.sleep(2.0 + size / 20)  # the events of the start are worked off
        pids = {p["name"]: p["pid"] for p in rig.standing()}
        crashes: list[Crash] = []
        mourner = Mourner()
        while len(crashes) < kills:
            time.sleep(PACE * (1 + chance.random()))
            name = chance.choice(sorted(pids))
            crashes.append(crash(rig, pids[name], int(name.split("-")[1]), mourner))
            pids[name] = rig.stamps.all[-1].pid
        mourner.end()
        rig.wait_warm()
    return crashes


def figures(size: int, crashes: Sequence[Crash]) -> str:
    closed = sorted(c.closed / 1e6 for c in crashes if c.closed)
    bound = sorted(c.bound / 1e6 for c in crashes)
    ahead = sorted((c.bound - c.closed) / 1e6 for c in crashes if c.closed)
    late = sum(1 for c in crashes if not c.closed or c.bound < c.closed)

    title = f"{size} processes, {len(crashes)} crashes; ms"

    def row(values: Sequence[float]) -> str:
        marks = (values[0], *(quantile(values, share) for share in (0.01, 0.5, 0.9, 0.99)), values[-1])
        return "".join(f"{value:9.2f}" for value in marks)

    return "\n".join(
        [
            f"{title:41}      min       p1      p50      p90      p99      max",
            f"{'from the death to its bare notice':41}{row(sorted(c.noticed / 1e6 for c in crashes))}",
            f"{'from the death to the gate closed':41}{row(closed)}",
            f"{'from the death to the bind':41}{row(bound)}",
            f"{'from the gate closed to the bind':41}{row(ahead)}",
            f"the bind came first {late} times; a user met a cold process {sum(c.cold for c in crashes)} times",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Race the guard against the fastest binder. Needs root.")
    parser.add_argument("--sizes", default="8,40,1000", help="supervised processes (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=1000, help="for each size (default: %(default)s)")
    arguments = parser.parse_args()
    for size in map(int, arguments.sizes.split(",")):
        print(figures(size, measure(size, arguments.kills)), flush=True)


if __name__ == "__main__":
    main()
