"""Puts what was measured into the README: the picture, the table, and the files that both come from.

``python -m tests.benchmarks.publish`` copies the results of ``make bench`` to ``docs/benchmark`` and writes the part of
the README between the comments ``.. benchmark: begin`` and ``.. benchmark: end``. ``--results`` names another folder.
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

README = ROOT / "README.rst"
FOLDER = ROOT / "docs" / "benchmark"
BEGIN, END = ".. benchmark: begin\n", ".. benchmark: end\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Put the results of the benchmark into the README.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder (default: %(default)s)")
    results: Path = parser.parse_args().results
    others = [found for found in load(results / NAME) if found.rate != Measure.rate]
    if others:
        sys.exit(
            f"{results / NAME}: {others[0].way} was measured with {others[0].rate:g} requests a second: run it again"
        )
    FOLDER.mkdir(parents=True, exist_ok=True)
    for ending in (".json", ".txt", ".svg"):
        shutil.copy((results / NAME).with_suffix(ending), FOLDER)
    text = README.read_text(encoding="utf-8")
    README.write_text(published(text, table_of(FOLDER)), encoding="utf-8")


def table_of(folder: Path) -> str:
    return (folder / NAME).with_suffix(".txt").read_text(encoding="utf-8")


def published(readme: str, table: str) -> str:
    """The README with the picture and this table. Raises ValueError where it has no place for them."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{README} needs the lines {BEGIN.strip()!r} and {END.strip()!r}")
    picture = (FOLDER / NAME).with_suffix(".svg").relative_to(ROOT)
    shown = "".join(f"    {line}".rstrip() + "\n" for line in table.splitlines())
    image = (
        f".. image:: {picture}\n   :alt: How long each way takes, and what users meet: the table below has the same\n"
    )
    return f"{before}{begin}\n{image}\n::\n\n{shown}\n{end}{after}"


if __name__ == "__main__":
    main()
