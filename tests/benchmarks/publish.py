"""Publishes what was measured: ``python -m tests.benchmarks.publish`` copies the results of ``make bench`` to
``docs/benchmark``, where the README and the documentation show them. ``--results`` names another folder.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from tests.benchmarks.measuring import Measure
from tests.benchmarks.results import load
from tests.benchmarks.rollouts import NAME, RESULTS
from tests.support.stack import ROOT

FOLDER = ROOT / "docs" / "benchmark"


def main() -> None:
    parser = argparse.ArgumentParser(description="Publish the results of the benchmark in docs/benchmark.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder (default: %(default)s)")
    results: Path = parser.parse_args().results
    others = [found for found in load(results / NAME) if found.rate != Measure.rate]
    if others:
        sys.exit(
            f"{results / NAME}: {others[0].way} was measured with {others[0].rate:g} requests a second: run it again"
        )
    for ending in (".json", ".txt", ".svg"):
        shutil.copy((results / NAME).with_suffix(ending), FOLDER)


if __name__ == "__main__":
    main()
