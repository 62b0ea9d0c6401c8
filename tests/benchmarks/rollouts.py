"""Ways of restarting a group, each under the same load: what fails, what is cold, how long it takes, what it costs.

``python -m tests.benchmarks.rollouts`` (as root) measures groups of eight and of forty processes, in about 45 minutes.
After each way it writes ``rollouts.json``, ``rollouts.txt`` (the table) and ``rollouts.svg`` (a picture) to
``tests/benchmarks/results``. ``--sizes 8`` and ``--ways serial,uwsgi`` measure a part, which takes its place among what
the file has; ``--missing`` measures what the file has not; ``--show`` measures nothing. Every way has a network
namespace and a stack of its own, so that none inherits another's firewall (a nat rule starts the kernel's connection
tracking for good).

Exit status: 0 all was measured; 1 a way did not do its work.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.benchmarks import bound, goals, picture, results
from tests.benchmarks.catalogue import Way, all_ways
from tests.benchmarks.measuring import NOISY, QUICK, Measure, measure
from tests.benchmarks.results import Result

RESULTS = Path(__file__).parent / "results"
QUICK_RESULTS = RESULTS / "quick"
NAME = "rollouts.json"
SIZES, QUICK_SIZES = "8,40", "4"


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the stack is stopped
    options = _parser().parse_args()
    options.out = options.out or (QUICK_RESULTS if options.quick else RESULTS)
    how = QUICK if options.quick else Measure()
    how = replace(how, rate=options.rate or how.rate)
    known, failed = results.load(options.out / NAME), False
    for size, way in [] if options.show else list(_chosen(options, how, known)):
        print(f"{size} processes, {way.name}: {way.about} …", file=sys.stderr, flush=True)
        try:
            result = measure(way, size, how)
        except Exception as error:  # noqa: BLE001 - what breaks one way must not cost the others theirs
            print(f"  not measured: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            failed = True
            continue
        known = results.merged(known, result, [one.name for one in all_ways(size, how.steady)])
        _write(options.out, known)
        _say(result)
    print(results.table(known), "\n".join(goals.missed(known)), sep="\n")
    _write(options.out, known)
    return int(failed)


def _chosen(options: argparse.Namespace, how: Measure, known: list[Result]) -> Iterator[tuple[int, Way]]:
    """What is to be measured, one size after the other."""
    names = options.ways.split(",") if options.ways else []
    done = {(result.size, result.way) for result in known} if options.missing else set()
    for size in map(int, (options.sizes or (QUICK_SIZES if options.quick else SIZES)).split(",")):
        ways = all_ways(size, how.steady)
        unknown = set(names) - {way.name for way in ways}
        if unknown:
            sys.exit(f"no such way: {', '.join(sorted(unknown))}; there are {', '.join(way.name for way in ways)}")
        for way in ways:
            is_wanted = way.name in names if names else way.side != "extra"
            if is_wanted and (size, way.name) not in done:
                yield size, way


def _write(folder: Path, known: list[Result]) -> None:
    results.save(folder / NAME, known)
    (folder / NAME).with_suffix(".txt").write_text(results.table(known), encoding="utf-8")
    (folder / NAME).with_suffix(".svg").write_text(picture.drawn(known), encoding="utf-8")


def _say(result: Result) -> None:
    """What is worth to be known of one way before all are done."""
    lines = [
        f"{result.seconds:.1f} s, {result.failed} failed, {result.cold} cold, {result.slower:.2f} of the p99 before"
    ]
    lines += [f"failed: {result.failures}"] if result.failures else []
    lines += bound.lines(result.rollout) if result.rollout else []
    if result.late > NOISY:
        lines.append(f"the load was up to {1000 * result.late:.0f} ms late: something else keeps the machine busy")
    print("\n".join(f"  {line}" for line in lines), file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare ways of restarting under load. Needs root.")
    names = ", ".join(way.name for way in all_ways(8, 0.0))
    parser.add_argument("--ways", default="", metavar="A,B", help=f"only these: {names}")
    parser.add_argument("--sizes", default="", metavar="N,M", help=f"processes in the group (default: {SIZES})")
    parser.add_argument("--missing", action="store_true", help="only what the file does not have")
    parser.add_argument("--show", action="store_true", help="measure nothing; table and picture of what the file has")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SIZES} processes, shorter windows")
    parser.add_argument("--rate", type=float, default=0.0, help=f"requests a second (default: {Measure.rate:g})")
    parser.add_argument(
        "--out", type=Path, help=f"the folder of the results (default: {RESULTS}; with --quick {QUICK_RESULTS})"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
