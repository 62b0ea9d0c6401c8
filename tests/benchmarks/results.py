"""What was measured, its file, and its table.

The file is JSON: ``results``, a list of what ``Result`` has, one for each size and way. Another run of the same size
and way takes the place of the one before; each says on what machine it was measured, and when.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COLUMNS = (
    "way",
    *("failed", "cold", "p50", "p99", "max", "before: p50", "p99", "max", "seconds", "least", "MB", "CPU s"),
)
WIDTH = 118  # of a line that is text


@dataclass(frozen=True)
class Latencies:
    """Of GETs, failed ones among them, in seconds."""

    p50: float
    p99: float
    max: float


@dataclass(frozen=True)
class Result:
    """One way with one size of group.

    ``seconds``: from the order until it is done and every new process takes requests. ``failed`` and ``cold`` are of
    all requests that were in flight at the order, or sent until some seconds after that, ``during`` is of the GETs of
    that time, ``before`` of those in some seconds before it. ``least``: how few served at any moment, see ``watching``;
    of ours, how few were warm and open, if that is less. ``megabytes``: the most that the group and the tool took
    together (PSS). ``cpu``: processor seconds of the tool, by its parts. ``late``: of the load generator, at worst;
    ``busy``: the share of the processors that was in use, before and during. ``rollout``: the bound of a rollout of
    ours."""

    size: int
    way: str
    about: str
    side: str
    seconds: float
    requests: int
    gets_failed: int
    posts_failed: int
    cold: int
    failures: Mapping[str, int]
    before: Latencies
    during: Latencies
    least: int
    megabytes: float
    cpu: Mapping[str, float]
    late: float
    busy: tuple[float, float]
    rate: float
    machine: Mapping[str, str]
    when: str
    rollout: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        return self.gets_failed + self.posts_failed

    @property
    def slower(self) -> float:
        """p99 during, by that before."""
        return self.during.p99 / self.before.p99 if self.before.p99 else 0.0


def from_json(loaded: Mapping[str, Any]) -> Result:
    given = {**loaded, "before": Latencies(**loaded["before"]), "during": Latencies(**loaded["during"])}
    return Result(**{**given, "busy": tuple(loaded["busy"])})


def load(path: Path) -> list[Result]:
    """None, where there is no file yet."""
    return [from_json(one) for one in json.loads(path.read_text(encoding="utf-8"))["results"]] if path.exists() else []


def save(path: Path, results: Iterable[Result]) -> None:
    loaded = {"results": [_plain(vars(result)) for result in results]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(loaded, indent=1) + "\n", encoding="utf-8")


def merged(before: Iterable[Result], new: Result, action: Sequence[str]) -> list[Result]:
    """With the new one in the place of the one before, by size and in the order of the ways."""
    kept = [result for result in before if (result.size, result.way) != (new.size, new.way)]
    places = {name: place for place, name in enumerate(action)}
    return sorted([*kept, new], key=lambda one: (one.size, places.get(one.way, len(places))))


def _plain(value: Any) -> Any:
    """As JSON has it, with numbers that can be read."""
    if isinstance(value, Latencies):
        return _plain(vars(value))
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


# --- the table


def table(results: Sequence[Result]) -> str:
    """For each size a table, and what all of it was measured on."""
    parts = [_of_size(size, [r for r in results if r.size == size]) for size in sorted({r.size for r in results})]
    return "\n\n".join([*parts, *_machines(results)]) + "\n"


def _of_size(size: int, results: Sequence[Result]) -> str:
    return "\n".join([f"{size} processes", *aligned([COLUMNS, *map(row, results)])])


def row(result: Result) -> tuple[str, ...]:
    latencies = [*vars(result.during).values(), *vars(result.before).values()]
    return (
        result.about,
        str(result.failed),
        str(result.cold),
        *(f"{1000 * latency:.0f}" for latency in latencies),
        f"{result.seconds:.1f}",
        f"{result.least}",
        f"{result.megabytes:.0f}",
        f"{sum(result.cpu.values()):.1f}",
    )


def _machines(results: Iterable[Result]) -> list[str]:
    """One line, or several where results of several machines or versions stand beside each other."""
    found: dict[str, list[str]] = {}
    for result in results:
        line = ", ".join(f"{name} {value}" for name, value in result.machine.items())
        found.setdefault(line, []).append(f"{result.size} {result.way}")
    lines = [line if len(found) == 1 else f"{line}: {', '.join(names)}" for line, names in found.items()]
    return ["\n".join(textwrap.wrap(line, WIDTH)) for line in lines]


def aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Lines: the first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    for first, *others in rows:
        numbers = (cell.rjust(width) for cell, width in zip(others, widths[1:]))
        yield "  ".join([first.ljust(widths[0]), *numbers])
