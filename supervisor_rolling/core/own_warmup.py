"""What a process tells of a warm-up of its own, before it accepted connections: the name of a memory file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

PREFIX = "supervisor_rolling warm-up: "
FAILED = "failed: "


class Result(NamedTuple):
    """What the listener reads of it."""

    requests: int = 0
    first_ms: float = 0.0
    last_ms: float = 0.0
    problem: str = ""


def result_of(memory_files: Iterable[str]) -> Result | None:
    """The result among the names of memory files, the worst where there are several; None where there is none."""
    texts = [name[len(PREFIX) :] for name in memory_files if name.startswith(PREFIX)]
    failed = [text[len(FAILED) :] for text in texts if text.startswith(FAILED)]
    if failed:
        return Result(problem=failed[0])
    found = [_parsed(text) for text in texts]
    return max(found, default=None)


def _parsed(text: str) -> Result:
    words = text.split()
    try:
        return Result(int(words[0]), float(words[2]), float(words[4]))
    except (IndexError, ValueError):  # a process can give any name
        return Result()
