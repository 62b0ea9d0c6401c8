"""A thousand rollouts in one supervisord: what it and the listener hold at the end is what they held after the first
ten.

``make endurance`` (``ARGS="--rollouts 100"`` for fewer) starts two processes of the light application under load and
restarts them over XML-RPC, again and again. Between the rollouts that succeed, others fail and are resumed, are
aborted, paused, dry runs, left by their client, and processes crash. The listener is not killed: the next one would be
another process.

A row has what both held while no rollout was running: memory (see ``footprint``), open files, threads, and what Python
counts. ``--trace`` counts every byte that Python allocates, takes half as long again, and lists at the end the lines of
code that hold more than at the beginning.

Exit status: 0 both hold what they held, and no request failed except in crashes; 1 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import signal
import sys
import tempfile
import time
import tracemalloc
import xmlrpc.client
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from supervisor_rolling.core.errors import Fault
from tests.support import footprint, memory_report, plugin
from tests.support.footprint import Footprint, Slack
from tests.support.load import Answer, Load, Plan
from tests.support.look import listener_pid, rolling, standing, wait_ended
from tests.support.netns import NoNamespaceError, enter_private_network
from tests.support.stack import GROUP, Setup, Stack, StackError

FIRST = 10
"""Rollouts before the first row: each kind has been once, and what is made once (caches, connections) has been made."""

RATE = 20.0
"""New connections a second: some are always under way, and most of the machine is left to the rollouts."""

OVER_WITHIN = 30.0
"""Seconds for a rollout, or for the guard to warm what has crashed; they take about one."""

ANSWER_TIMEOUT = 10.0

FRAMES_ARE_KEPT = sys.version_info < (3, 11)
"""Python kept the frame of each function, some hundred bytes, from its first call until then."""

SLACK = Slack(
    anonymous=512,
    python={"objects": 20, "blocks": 1000, "traced": 150_000}
    if FRAMES_ARE_KEPT
    else {"objects": 20, "blocks": 100, "traced": 4000},
)
"""What noise there is: a number that has a digit more, a connection that was made a moment later. It is the same after
1000 rollouts as after 50, so that little more than a byte for each rollout is seen."""

LINE_SLACK = 8000
"""Bytes that one line of code may hold more at the end than at the beginning: about half of 1 kB for each rollout,
even of the test's fifteen, and on every Python."""

TRACING_TAKES = 16_384
"""kB for the snapshots of a trace, while they are made."""

LINES = 8
"""How many lines of code are named that hold more than before."""


# --- the rollouts


class Rollouts:
    """Of one stack, of every kind in turn. ``crashes``: when, on CLOCK_MONOTONIC."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.done = 0
        self.crashes: list[float] = []

    def next(self) -> None:
        """One more, until all is over. Raises StackError where it is not in time."""
        kind = KINDS[self.done % len(KINDS)]
        kind(self)
        self.done += 1
        self._wait_over(f"rollout {self.done} ({kind.__name__}) is over")

    def plain(self) -> None:
        self._restart()

    def failed(self) -> None:
        """A bad deploy, and after the fix the rest of the rollout."""
        self._stack.fault("500")
        with _answered_by(Fault.ROLLOUT_FAILED):
            self._restart()
        self._stack.fault()
        self._rpc().resume(GROUP, True)

    def aborted(self) -> None:
        self._restart(wait=False)
        with _answered_by(Fault.NO_ROLLOUT_KNOWN):  # where it has ended already
            self._rpc().abort(GROUP)

    def paused(self) -> None:
        self._restart(wait=False)
        with _answered_by(Fault.NO_ROLLOUT_KNOWN):
            self._rpc().pause(GROUP)
            self._rpc().resume(GROUP, True)

    def left(self) -> None:
        """By the client, while it waits for the answer."""
        before = rolling(self._stack)["id"]
        with contextlib.suppress(OSError):
            self._stack.rpc(timeout=0.1).rolling.restart(GROUP, True, {})
        self._stack.wait_until(lambda: rolling(self._stack)["id"] != before, OVER_WITHIN, "the rollout begins")

    def planned(self) -> None:
        self._restart(dry_run=True)
        self._restart()

    def crashed(self) -> None:
        """A process crashes, the guard warms it up, and then the group is restarted."""
        victim = self._stack.processes()[self.done // len(KINDS) % 2]
        self.crashes.append(time.monotonic())
        os.kill(victim.pid, signal.SIGKILL)
        self._wait_over("the guard has warmed the crashed process")
        self._restart()

    def _restart(self, wait: bool = True, **options: Any) -> None:
        self._rpc().restart(GROUP, wait, options)

    def _rpc(self) -> Any:
        return self._stack.rpc(OVER_WITHIN).rolling

    def _wait_over(self, what: str) -> None:
        self._stack.wait_until(self._is_over, OVER_WITHIN, what)
        wait_ended(self._stack)

    def _is_over(self) -> bool:
        views = standing(self._stack).values()
        return all((view["statename"], view["warm"], view["gate"]) == ("RUNNING", True, "open") for view in views)


KINDS = (
    Rollouts.plain,
    Rollouts.failed,
    Rollouts.plain,
    Rollouts.aborted,
    Rollouts.plain,
    Rollouts.paused,
    Rollouts.left,
    Rollouts.planned,
    Rollouts.crashed,
    Rollouts.plain,
)


@contextlib.contextmanager
def _answered_by(code: int) -> Iterator[None]:
    """The block may be answered by this fault, and by no other."""
    try:
        yield
    except xmlrpc.client.Fault as fault:
        if fault.faultCode != code:
            raise


# --- what there is after so many


@dataclass(frozen=True)
class Row:
    """After so many rollouts; the requests are those since the row before."""

    rollouts: int
    seconds: float
    requests: int
    lost: int  # in a process that crashed
    failed: int  # without such a reason
    cold: int
    held: Mapping[str, Footprint]  # by supervisord and by the listener


def endure(stack: Stack, marks: Sequence[int]) -> Iterator[Row]:
    """Do rollouts, and yield a row after each number of ``marks``. Raises StackError if the listener ends."""
    rollouts, listener, began = Rollouts(stack), listener_pid(stack), time.monotonic()
    for mark in marks:
        with Load(Plan(stack.url, rate=RATE, seconds=86400.0), stack.directory / "load.jsonl") as load:
            while rollouts.done < mark:
                rollouts.next()
        gc.collect()  # connections to supervisord that our own exceptions still hold
        held = {"supervisord": _of_supervisord(stack, mark), "listener": _of_listener(stack, listener, mark)}
        if listener_pid(stack) != listener:
            raise StackError(f"the listener has ended, and another one runs:\n{stack.logs()}")
        yield _row(mark, time.monotonic() - began, load.answers(), rollouts.crashes, held)


def _row(
    rollouts: int, seconds: float, answers: Sequence[Answer], crashes: Sequence[float], held: Mapping[str, Footprint]
) -> Row:
    failed = [answer for answer in answers if answer.failed]
    lost = [a for a in failed if any(a.scheduled <= crash <= a.scheduled + a.latency for crash in crashes)]
    cold = sum(answer.cold for answer in answers if answer.method == "GET")
    return Row(rollouts, seconds, len(answers), len(lost), len(failed) - len(lost), cold, held)


def _of_supervisord(stack: Stack, mark: int) -> Footprint:
    python: Any = stack.rpc(ANSWER_TIMEOUT).lab.memory(str(snapshot(stack.directory, "supervisord", mark)))
    return footprint.take(stack.supervisord_pid, python)


def _of_listener(stack: Stack, pid: int, mark: int) -> Footprint:
    answer = stack.directory / "listener.memory"
    answer.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR2)
    stack.wait_until(answer.exists, ANSWER_TIMEOUT, "the listener says what it has in memory")
    with contextlib.suppress(FileNotFoundError):  # there is none without a trace
        Path(f"{answer}.snapshot").rename(snapshot(stack.directory, "listener", mark))
    return footprint.take(pid, json.loads(answer.read_text(encoding="utf-8")))


def snapshot(directory: Path, name: str, mark: int) -> Path:
    return directory / f"{name}.{mark}.snapshot"


# --- the verdict


def complaints(rows: Sequence[Row], trace: bool) -> list[str]:
    """What has grown, and what failed: a sentence each."""
    first, last = rows[0], rows[-1]
    slack = replace(SLACK, anonymous=TRACING_TAKES) if trace else SLACK
    grown = [
        f"{name}: after {last.rollouts} rollouts {clause}"
        for name in last.held
        for clause in footprint.growth(first.held[name], last.held[name], slack)
    ]
    noticed = [
        f"{row.failed} of {row.requests} requests failed, {row.cold} met a cold process before rollout {row.rollouts}"
        for row in rows
        if row.failed or row.cold
    ]
    return [*grown, *noticed]


def growing_lines(directory: Path, name: str, first: int, last: int, by: int = 0) -> list[str]:
    """The lines of code that hold so many bytes more after the last than after the first, the worst first. Needs a
    trace."""
    before, after = (tracemalloc.Snapshot.load(str(snapshot(directory, name, mark))) for mark in (first, last))
    return [f"{name}: {found}" for found in after.compare_to(before, "lineno") if found.size_diff > by][:LINES]


# --- the program


@contextlib.contextmanager
def running(directory: Path, trace: bool) -> Iterator[Stack]:
    """Two light processes, warm, and the window in supervisord and in the listener."""
    policy_file = directory / "rolling.yaml"
    policy_file.write_text(plugin.policy(), encoding="utf-8")
    sections = plugin.sections(policy_file, module=memory_report.__name__) + memory_report.SECTION
    stack = Stack(
        directory, Setup(processes=2, application="tests.support.light_app", startsecs=0, supervisor=sections)
    )
    stack.environment[memory_report.ANSWER] = str(directory / "listener.memory")
    if trace:
        stack.environment[memory_report.TRACE] = "1"
    with stack:
        stack.warm()
        yield stack


def lines_of(row: Row) -> Iterator[str]:
    requests = f"{row.requests} requests, {row.lost} lost in crashes, {row.failed} failed, {row.cold} cold"
    yield f"{row.rollouts} rollouts in {row.seconds:.0f} s; {requests}"
    for name, held in row.held.items():
        files = ", ".join(f"{count} {kind}" for kind, count in held.files.items())
        python = ", ".join(f"{count} {what}" for what, count in held.python.items() if count)
        memory = f"rss {held.rss}, pss {held.pss}, uss {held.uss}, anonymous {held.anonymous} kB"
        yield f"  {name:<11}  {memory}; {held.threads} thread; {files}; {python}"


def run(rollouts: int, every: int, trace: bool, directory: Path) -> int:
    """Print the rows as they come; gives the exit status."""
    marks = sorted({FIRST, *range(every, rollouts, every), rollouts})
    rows = []
    with running(directory, trace) as stack:
        for row in endure(stack, marks):
            print("\n".join(lines_of(row)), flush=True)
            rows.append(row)
    found = complaints(rows, trace)
    for name in rows[0].held if trace else ():
        print("\n".join(growing_lines(directory, name, FIRST, rollouts)))
        found += growing_lines(directory, name, FIRST, rollouts, LINE_SLACK)
    print("\n".join(found) or f"After {rollouts} rollouts both hold what they held after {FIRST}.")
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Do a thousand rollouts, and report what has grown. Needs root.")
    parser.add_argument("--rollouts", type=int, default=1000)
    parser.add_argument("--every", type=int, default=100, help="rollouts between two rows (default: %(default)s)")
    parser.add_argument("--trace", action="store_true", help="count every byte that Python allocates, and say where")
    options = parser.parse_args()
    if options.rollouts <= FIRST or options.every < 1:
        parser.error(f"--rollouts has to be more than {FIRST}, and --every at least 1")
    try:
        enter_private_network()
    except NoNamespaceError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory(prefix="rolling-") as directory:
        return run(options.rollouts, options.every, options.trace, Path(directory))


if __name__ == "__main__":
    sys.exit(main())
