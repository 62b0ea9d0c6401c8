"""Processes that crash under load, with the guard and with stock supervisord: what users notice.

``python -m tests.benchmarks.crashes`` (as root) prints three parts, ``--parts many,one,all`` some of them:

* many: 200 SIGKILLs at random moments in a guarded group of eight.
* one: a SIGKILL now and then, guarded and stock: when the new process answers its first user, who meets it cold, and
  how long the slowest GET takes.
* all: all eight at once, guarded and stock: when the group answers again.

Every part has the same application, nginx before it with ``least_conn`` (``fair`` leaves one that failed aside for up
to ten seconds), and an open-loop load.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tests.benchmarks import ours
from tests.support.load import Answer, Load, Plan, summarise
from tests.support.netns import enter_private_network
from tests.support.stack import GROUP, Setup, Stack, StackError

T = TypeVar("T")

BALANCE = "least_conn;"
GUARDED, STOCK = replace(ours.SETUP, balance=BALANCE), Setup(balance=BALANCE)
SIDES = (("guarded", GUARDED), ("stock", STOCK), ("guarded", GUARDED), ("stock", STOCK))
RATE = 60.0
PACE = (0.8, 3.0)  # seconds from one SIGKILL to the next: the group is to have half of it left
QUIET = 5.0  # seconds after a crash in which everybody is back, and warm
LONG_QUIET = 10.0  # the same, when all have crashed at once
OPEN_WITHIN = 60.0


def under_load(setup: Setup, act: Callable[[Stack], T]) -> tuple[T, list[Answer]]:
    """What ``act`` returns, on a warm stack in a network namespace of its own, and what became of all requests."""
    enter_private_network()
    with tempfile.TemporaryDirectory(prefix="crashes-") as directory, Stack(Path(directory), setup) as stack:
        stack.warm()
        with Load(Plan(stack.url, rate=RATE), stack.directory / "load.jsonl") as load:
            time.sleep(3.0)
            found = act(stack)
            time.sleep(1.0)
        return found, load.answers()


def kill(stack: Stack, names: Sequence[str]) -> dict[str, int]:
    """SIGKILL to each; their pids."""
    pids = {process.name: process.pid for process in stack.processes() if process.name in names and process.pid}
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    return pids


# --- many


def many(kills: int) -> str:
    opened, answers = under_load(GUARDED, lambda stack: _kill_many(stack, kills))
    report = summarise(answers)
    return (
        f"{kills} SIGKILLs: {report.requests} requests, {report.gets_failed} GETs failed, {report.cold} GETs answered "
        f"cold, {report.posts_failed} POSTs died with their process; GETs p50 {1000 * report.p50:.0f}, p99 "
        f"{1000 * report.p99:.0f}, max {1000 * report.max:.0f} ms; all open and warm {opened:.1f} s after the last"
    )


def _kill_many(stack: Stack, kills: int) -> float:
    """Seconds after the last until everybody is open and warm."""
    chance = random.Random(kills)
    done = 0
    while done < kills:
        time.sleep(chance.uniform(*PACE))
        done += len(kill(stack, [chance.choice([process.name for process in stack.processes()])]))
    began = time.monotonic()
    time.sleep(1.0)  # supervisord has noticed the last
    stack.wait_until(lambda: _is_all_open(stack), OPEN_WITHIN, "every gate is open")
    return time.monotonic() - began


def _is_all_open(stack: Stack) -> bool:
    found: Any = stack.rpc().rolling.getProcesses(GROUP)
    return all(process["warm"] and process["gate"] == "open" for process in found)


# --- one


@dataclass(frozen=True)
class Return:
    """``back``: seconds from the crash to the first user's answer by the new process. ``cold``: GETs that it answered
    cold; ``slowest``: seconds of the slowest GET meanwhile; ``failed`` GETs."""

    back: float
    cold: int
    slowest: float
    failed: int


def one(setup: Setup, crashes: int) -> list[Return]:
    killed, answers = under_load(setup, lambda stack: [_kill_one(stack, number) for number in range(crashes)])
    return [_returned(answers, at, old) for at, old in killed]


def _kill_one(stack: Stack, number: int) -> tuple[float, set[str]]:
    """When, and the pids that there were."""
    processes = stack.processes()
    at = time.monotonic()
    kill(stack, [processes[number % len(processes)].name])
    time.sleep(QUIET)
    return at, {str(process.pid) for process in processes}


def _returned(answers: Sequence[Answer], at: float, old: set[str]) -> Return:
    meanwhile = [a for a in answers if at <= a.scheduled < at + QUIET and a.method == "GET"]
    new = [answer for answer in meanwhile if answer.pid and answer.pid not in old]
    if not new:
        raise StackError(f"no user was answered by the new process within {QUIET:g} s")
    return Return(
        min(a.scheduled + a.latency for a in new) - at,
        sum(a.cold for a in new),
        max(a.latency for a in meanwhile),
        sum(a.failed for a in meanwhile),
    )


# --- all


def all_at_once(setup: Setup, rounds: int) -> list[tuple[float, int]]:
    """Seconds until a GET that came after the crash is answered, and how many failed until then and after."""
    killed, answers = under_load(setup, lambda stack: [_kill_all(stack) for _ in range(rounds)])
    return [_answered([answer for answer in answers if answer.method == "GET"], at) for at in killed]


def _kill_all(stack: Stack) -> float:
    kill(stack, [process.name for process in stack.processes()])
    at = time.monotonic()
    time.sleep(LONG_QUIET)
    return at


def _answered(answers: Sequence[Answer], at: float) -> tuple[float, int]:
    later = [answer for answer in answers if at <= answer.scheduled < at + LONG_QUIET]
    good = [answer.scheduled + answer.latency - at for answer in later if not answer.failed]
    return min(good, default=float("inf")), sum(answer.failed for answer in later)


# --- the output


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def part_many(kills: int) -> None:
    print(many(kills), flush=True)


def part_one(crashes: int = 12) -> None:
    print(f"{'one crash, ' + str(crashes) + ' times':28}  first answer  slowest GET      cold    failed")
    for name, setup in SIDES:
        found = one(setup, crashes)
        back, slowest = _middle([f.back for f in found]), _middle([f.slowest for f in found])
        cold, failed = sum(f.cold for f in found), sum(f.failed for f in found)
        print(f"{name:28}  {back:10.2f} s {1000 * slowest:9.0f} ms {cold:9d} {failed:9d}", flush=True)


def part_all(rounds: int = 4) -> None:
    print(f"{'all at once, ' + str(rounds) + ' times':28}  answers again: median, worst    failed GETs")
    for name, setup in SIDES:
        found = all_at_once(setup, rounds)
        times = [seconds for seconds, _ in found]
        failed = sum(failed for _, failed in found)
        print(f"{name:28}  {_middle(times):17.2f} s {max(times):8.2f} s {failed:13d}", flush=True)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the stack is stopped
    parser = argparse.ArgumentParser(description="Crashes under load, guarded and stock. Needs root.")
    parser.add_argument("--parts", default="many,one,all", help="default: %(default)s")
    parser.add_argument("--kills", type=int, default=200, help="of the part many (default: %(default)s)")
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], None]] = {
        "many": lambda: part_many(arguments.kills),
        "one": part_one,
        "all": part_all,
    }
    for name in arguments.parts.split(","):
        if name not in parts:
            sys.exit(f"no such part: {name}; there are {', '.join(parts)}")
        parts[name]()


if __name__ == "__main__":
    main()
