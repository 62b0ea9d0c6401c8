"""What a rollout does to whoever is served meanwhile, by how busy the host is; and what a pace buys where it is
busiest.

``python -m tests.benchmarks.pace`` (as root) first looks for the rate at which this machine saturates, then rollouts
the demo application under shares of that rate, so many processes at a time; under the highest share also with paces. It
prints a table and writes ``tests/benchmarks/results/pace.json`` after each rollout. ``--loads 85 --limits 1,2`` takes
some; ``--resume`` goes on where one was ended, with its rate.

All is on one machine: what sends the requests and nginx take their part of the processors, steady or not. *Steady* is
the time right before each rollout. A rollout that takes longer spreads what it costs over more requests, which lowers
its p99 by itself; so those that took longer than SLOW are counted, too."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from supervisor_rolling.listener.cpu_pressure import Reading, read
from tests.benchmarks.measuring import NOISY
from tests.benchmarks.results import aligned
from tests.benchmarks.versions import machine
from tests.support import look, plugin
from tests.support.load import Answer, Load, Plan, summarise
from tests.support.netns import enter_private_network
from tests.support.site import PATHS
from tests.support.stack import LabError, Setup, Stack

RESULTS = Path(__file__).parent / "results" / "pace.json"

POLICY = "rolling.yaml"
ROLLOUT_WITHIN = 600.0
TAIL = 1.0  # seconds of load after a rollout
REST = 3.0  # seconds without a load before the next one

SLOW = 0.25
"""Seconds. A user waits for longer than that."""

SATURATED = 0.1
"""Seconds that the median answer takes where a queue grows; with a processor to spare it takes a few milliseconds."""

FIRST_RATE, FACTOR, HALVINGS, STEP = 40.0, 1.4, 3, 4.0
"""Of the search: requests a second, by how much more each time, how often the gap is halved, seconds for each."""


@dataclass(frozen=True)
class Case:
    """``load``: percent of the rate that saturates; ``limit``: processes at a time; ``pressure``: that of the pace, in
    percent, 0: none."""

    load: int
    limit: int
    pressure: float


@dataclass(frozen=True)
class How:
    """``lead``: seconds of steady load before each rollout; ``patience``: that of a pace."""

    processes: int
    lead: float
    patience: float


@dataclass(frozen=True)
class Side:
    """A window: steady, or the rollout. Latencies of the GETs in seconds; ``slow``: GETs of SLOW and more;
    ``pressure``: of the CPU, in percent."""

    seconds: float
    requests: int
    failed: int
    cold: int
    p50: float
    p99: float
    max: float
    slow: int
    pressure: float


@dataclass(frozen=True)
class Result:
    """``rate``: requests a second; ``late``: seconds by which the generator itself sent too late, at worst."""

    case: Case
    rate: float
    steady: Side
    rollout: Side
    late: float


# --- the rate that saturates


def saturating(stack: Stack) -> float:
    """Requests a second, the most that are answered without a queue that grows."""
    good, bad = 0.0, FIRST_RATE
    while not _is_saturated(stack, bad):
        good, bad = bad, bad * FACTOR
    if not good:
        raise LabError(f"this machine is saturated by {bad:g} requests a second: something else keeps it busy")
    for _ in range(HALVINGS):
        middle = (good + bad) / 2
        good, bad = (good, middle) if _is_saturated(stack, middle) else (middle, bad)
    return good


def _is_saturated(stack: Stack, rate: float) -> bool:
    with Load(Plan(stack.url, rate=rate), stack.directory / "load.jsonl") as load:
        time.sleep(STEP)
    found = load.report(load.began + STEP / 4, load.began + STEP)
    print(f"  {rate:.0f}/s: p50 {1000 * found.p50:.0f} ms, p99 {1000 * found.p99:.0f} ms", file=sys.stderr, flush=True)
    time.sleep(1.0)
    return found.p50 > SATURATED or bool(found.failures)


# --- a rollout


class RolloutError(Exception):
    """A rollout has failed, so that there is nothing to measure."""


def measure(case: Case, rate: float, how: How, stack: Stack) -> Result:
    """Raises RolloutError where the rollout fails: then the machine was too busy with something else for any figure."""
    _write_policy(stack, case, how)
    with Load(Plan(stack.url, rate=rate), stack.directory / "load.jsonl") as load:
        time.sleep(1.0)
        marks = [_mark()]
        time.sleep(how.lead)
        marks.append(_mark())
        done = stack.ctl(
            "rolling_restart", "app", "--json", "--max-unavailable", str(case.limit), timeout=ROLLOUT_WITHIN
        )
        marks.append(_mark())
        time.sleep(TAIL)
    if done.returncode:
        raise RolloutError(json.loads(done.stdout).get("why") or done.stdout)
    answers = load.answers()
    steady, rollout = (_side(answers, first, last) for first, last in zip(marks, marks[1:]))
    return Result(case, rate, steady, rollout, max(answer.late for answer in answers))


def _write_policy(stack: Stack, case: Case, how: How) -> None:
    pace = {"cpu_pressure": f"{case.pressure:g}%" if case.pressure else "", "patience": how.patience}
    warmup = {
        "timeout": ROLLOUT_WITHIN / 4,
        "ready": "/health",
        "requests": list(PATHS),
    }  # a busy machine takes its time
    (stack.directory / POLICY).write_text(plugin.policy(pace=pace, warmup=warmup), encoding="utf-8")


def _mark() -> Reading:
    return read(time.monotonic())


def _side(answers: Sequence[Answer], first: Reading, last: Reading) -> Side:
    report = summarise(answers, first.at, last.at)
    seconds = last.at - first.at
    return Side(
        seconds=seconds,
        requests=report.requests,
        failed=report.gets_failed + report.posts_failed,
        cold=report.cold,
        p50=report.p50,
        p99=report.p99,
        max=report.max,
        slow=sum(a.method == "GET" and a.latency >= SLOW for a in answers if first.at <= a.scheduled < last.at),
        pressure=(last.total - first.total) / seconds / 1e4,
    )


# --- the table

COLUMNS = (
    *("load", "at a time", "pace", "seconds", "failed", "cold", "p50 ms", "p99 ms", "p99 steady", "max ms"),
    *("slow", "pressure", "steady"),
)


def row(result: Result) -> tuple[str, ...]:
    case, steady, rollout = result.case, result.steady, result.rollout
    return (
        f"{case.load} % ({result.rate:.0f}/s)",
        str(case.limit),
        f"{case.pressure:g}%" if case.pressure else "-",
        f"{rollout.seconds:.1f}",
        str(rollout.failed),
        str(rollout.cold),
        *(f"{1000 * latency:.0f}" for latency in (rollout.p50, rollout.p99, steady.p99, rollout.max)),
        str(rollout.slow),
        *(f"{side.pressure:.0f}%" for side in (rollout, steady)),
    )


def cases(loads: Sequence[int], limits: Sequence[int], pressures: Sequence[float]) -> Iterator[Case]:
    """With paces under the highest load alone, each right after the rollout without."""
    for load in loads:
        for limit in limits:
            yield Case(load, limit, 0.0)
            yield from (Case(load, limit, pressure) for pressure in pressures if load == max(loads))


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the stack is stopped
    arguments = _parser().parse_args()
    how = How(arguments.processes, arguments.lead, arguments.patience)
    selected = list(cases(arguments.loads, arguments.limits, arguments.pressures))
    before = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.resume else {}
    if before and before["how"] != asdict(how):
        sys.exit(f"{arguments.out} was measured with {before['how']}, not {asdict(how)}")
    results = [_loaded(one) for one in before.get("results", [])]
    known = {result.case for result in results}
    enter_private_network()
    with tempfile.TemporaryDirectory(prefix="pace-") as directory:
        setup = Setup(
            processes=how.processes,
            supervisor=plugin.sections(Path("%(here)s") / POLICY),
            files={POLICY: plugin.policy()},
        )
        with Stack(Path(directory), setup) as stack:
            look.wait_open(stack)
            stack.warm()
            most = arguments.rate or before.get("rate") or saturating(stack)
            print(f"{most:.0f} requests a second saturate this machine", file=sys.stderr, flush=True)
            for case in (case for case in selected if case not in known):
                print(f"{case} …", file=sys.stderr, flush=True)
                look.wait_open(stack)
                time.sleep(REST)
                try:
                    results.append(measure(case, most * case.load / 100, how, stack))
                except RolloutError as error:
                    print(f"  left out, for --resume: {error}", file=sys.stderr, flush=True)
                    continue
                _say_noise(results[-1])
                _save(arguments.out, most, how, results)
    print("\n".join(aligned([COLUMNS, *(row(result) for result in results)])))


def _loaded(found: dict) -> Result:
    sides = {name: Side(**found[name]) for name in ("steady", "rollout")}
    return Result(Case(**found["case"]), found["rate"], late=found["late"], **sides)


def _save(path: Path, rate: float, how: How, results: Sequence[Result]) -> None:
    found = {"machine": machine(), "rate": rate, "how": asdict(how), "results": [asdict(one) for one in results]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _say_noise(result: Result) -> None:
    if result.late > NOISY:
        print(f"  the load itself was up to {1000 * result.late:.0f} ms late", file=sys.stderr, flush=True)


def _whole(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _percents(text: str) -> list[float]:
    return [float(word.rstrip("%")) for word in text.split(",") if word]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Rollout under load, with and without a pace. Needs root.")
    parser.add_argument("--loads", type=_whole, default=[40, 60, 85], help="percent of what saturates (40,60,85)")
    parser.add_argument("--limits", type=_whole, default=[1, 2, 4], help="processes at a time (1,2,4)")
    parser.add_argument(
        "--pressures", type=_percents, default=[20.0, 60.0], help="paces under the highest load (20%%,60%%); '': none"
    )
    parser.add_argument("--patience", type=float, default=5.0, help="seconds, of the paces (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=8, help="of the group (default: %(default)s)")
    parser.add_argument("--lead", type=float, default=8.0, help="seconds of steady load (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=0.0, help="what saturates, where that is known")
    parser.add_argument("--resume", action="store_true", help="keep what the JSON file has, and its rate")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the JSON file (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main()
