"""Ways of restarting eight processes, each under the same load: what fails, what is cold, what it does to latency.

``python -m tests.benchmarks.rolls`` (as root) prints a table and writes ``tests/benchmarks/results/rolls.json``;
``--ways each,post-1s`` runs those, ``--quick`` takes fewer processes and shorter windows. Every way has a network
namespace and a stack of its own, so that none inherits another's firewall (a nat rule starts the kernel's connection
tracking for good). The window is the whole load: a lead, the way itself, a tail.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.benchmarks import ours
from tests.lab import ways
from tests.lab.load import Load, Plan, Report
from tests.lab.netns import enter_private_network
from tests.lab.stack import LabError, Setup, Stack

RESULTS = Path(__file__).parent / "results" / "rolls.json"

NOISY = 0.05
"""Seconds. A generator that sends later than this was kept from the processor, and so were the servers."""

OLD, NEW = "old", "new"
"""The releases before and after; a way that leaves an old process behind has not done its work."""


# --- the ways: add one here


def nothing(_stack: Stack) -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Way:
    """A way of restarting. ``prepare`` runs before the processes are warmed and the load starts, ``run`` under load.

    ``run`` may return figures of its own. ``setup`` holds what the stack needs for it (more sections of supervisord's
    configuration, the address to bind). ``deploys``: whether every process must be of the new release afterwards.
    ``posts``: the share of POSTs in the load.
    """

    name: str
    about: str
    run: Callable[[Stack], dict[str, float] | None]
    setup: Setup = Setup()  # noqa: RUF009  (frozen)
    prepare: Callable[[Stack], None] = nothing
    deploys: bool = True
    posts: float = 0.05


EVERYWHERE = Setup(address="0.0.0.0")
HAPROXY = Setup(balancer="haproxy")


def all_ways(quick: bool) -> list[Way]:
    """In the order of the table."""
    return [
        Way("steady", "no restart", functools.partial(_stay, 6.0 if quick else 20.0), deploys=False),
        Way("all", "supervisorctl restart app:*", ways.restart_all),
        Way("each", "one supervisorctl restart after another", ways.restart_each),
        Way("post-1s", "the post's steps, 1 s wait", functools.partial(ways.by_the_post, wait=1.0), EVERYWHERE),
        Way("post-5s", "the post's steps, 5 s wait", functools.partial(ways.by_the_post, wait=5.0), EVERYWHERE),
        Way("ours-1", "rolling_restart, 1 at a time", functools.partial(ours.roll, at_a_time=1), ours.SETUP),
        Way("ours-2", "rolling_restart, 2 at a time", functools.partial(ours.roll, at_a_time=2), ours.SETUP),
        Way("each-gets", "one restart after another, GETs alone", ways.restart_each, posts=0.0),
        Way(
            "ours-gets", "rolling_restart, GETs alone", functools.partial(ours.roll, at_a_time=1), ours.SETUP, posts=0.0
        ),
        Way("haproxy-each", "behind HAProxy, keepalive: one restart after another", ways.restart_each, HAPROXY),
        Way(
            "haproxy-ours",
            "behind HAProxy, keepalive: rolling_restart, 1 at a time",
            functools.partial(ours.roll, at_a_time=1),
            ours.BEHIND_HAPROXY,
        ),
    ]


def _stay(seconds: float, _stack: Stack) -> None:
    time.sleep(seconds)


# --- the run


@dataclass(frozen=True)
class Measure:
    """How each way is measured; ``lead`` and ``tail`` are the seconds of load before and after it."""

    processes: int = 8
    rate: float = 100.0
    lead: float = 3.0
    tail: float = 3.0


@dataclass(frozen=True)
class Result:
    """``seconds``: what the way itself took. ``old``: answers of the old release after it was done."""

    way: str
    about: str
    seconds: float
    old: int
    report: Report
    load: dict[str, float]
    own: dict[str, float]


def measure(way: Way, how: Measure) -> Result:
    """Run one way in a new network namespace and a new stack."""
    enter_private_network()
    with tempfile.TemporaryDirectory(prefix="rolls-") as directory:
        setup = replace(way.setup, processes=how.processes)
        stack = Stack(Path(directory), setup)
        stack.release(OLD)
        with stack:
            way.prepare(stack)
            stack.warm()
            return _under_load(way, how, stack)


def _under_load(way: Way, how: Measure, stack: Stack) -> Result:
    stack.release(NEW)
    with Load(Plan(stack.url, rate=how.rate, posts=way.posts), stack.directory / "load.jsonl") as load:
        time.sleep(how.lead)
        began = time.monotonic()
        own = way.run(stack) or {}
        done = time.monotonic()
        time.sleep(how.tail)
    old = sum(answer.release == OLD and answer.scheduled >= done for answer in load.answers())
    if way.deploys and old:
        raise LabError(f"{way.name}: {old} answers of the old release after it was done")
    return Result(way.name, way.about, done - began, old, load.report(), load.cost, own)


# --- the table

COLUMNS = ("way", "requests", "failed GET", "failed POST", "cold GETs", "p50 ms", "p99 ms", "max ms", "seconds")


def row(result: Result) -> tuple[str, ...]:
    report = result.report
    counts = (report.requests, report.gets_failed, report.posts_failed, report.cold)
    latencies = (report.p50, report.p99, report.max)
    return (
        result.about,
        *(str(count) for count in counts),
        *(f"{1000 * latency:.0f}" for latency in latencies),
        f"{result.seconds:.1f}",
    )


def aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Lines: the first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    for first, *others in rows:
        numbers = (cell.rjust(width) for cell, width in zip(others, widths[1:]))
        yield "  ".join([first.ljust(widths[0]), *numbers])


def machine() -> dict[str, object]:
    """Where the numbers come from."""
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True, timeout=10, check=False).stderr.strip()
    haproxy = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, timeout=10, check=False).stdout
    versions = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "nginx": nginx,
        "haproxy": haproxy.partition("\n")[0],
    }
    return {**versions, "cpus": os.cpu_count(), "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the stack is stopped
    arguments = _parser().parse_args()
    how = Measure(processes=4, lead=2.0, tail=2.0) if arguments.quick else Measure()
    results = []
    for way in _chosen(all_ways(arguments.quick), arguments.ways):
        print(f"{way.name}: {way.about} …", file=sys.stderr, flush=True)
        results.append(measure(way, how))
        _say_noise(results[-1].report)
    print("\n".join(aligned([COLUMNS, *(row(result) for result in results)])))
    print("\n".join(f"{result.about}: {ours.figures(result.own)}" for result in results if result.own))
    found = {"machine": machine(), "measure": asdict(how), "results": [asdict(result) for result in results]}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _say_noise(report: Report) -> None:
    if report.late > NOISY:
        print(
            f"  the load itself was up to {1000 * report.late:.0f} ms late: something else keeps the machine busy",
            file=sys.stderr,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare ways of restarting under load. Needs root.")
    parser.add_argument(
        "--ways", default="", metavar="A,B", help="only these: " + ", ".join(w.name for w in all_ways(True))
    )
    parser.add_argument("--quick", action="store_true", help="4 processes and shorter windows")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the JSON file (default: %(default)s)")
    return parser


def _chosen(known: list[Way], names: str) -> list[Way]:
    wanted = names.split(",") if names else [way.name for way in known]
    unknown = set(wanted) - {way.name for way in known}
    if unknown:
        sys.exit(f"no such way: {', '.join(sorted(unknown))}; there are {', '.join(way.name for way in known)}")
    return [way for way in known if way.name in wanted]


if __name__ == "__main__":
    main()
