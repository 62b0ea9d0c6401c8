"""Lines on a terminal: broken where it ends, with colours. In a pipe or a file they stay whole, for grep."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

RED, GREEN, YELLOW = "31", "32", "33"

_COLOURS: Sequence[tuple[re.Pattern[str], str]] = (
    (re.compile(r"^ERROR:|\bFAILED:|^error:"), RED),
    (re.compile(r"\bABORTED:|^warning:|^skipped:"), YELLOW),
    (re.compile(r"(?<=: )no finding(?=\.)|(?<=[·,] )open$"), GREEN),
    (re.compile(r"(?<=  )failed(?=  )"), RED),  # the cells of a table
    (re.compile(r"(?<=  )(?:aborted|closed|down|draining|restarting|warming|ready)(?=  |$)"), YELLOW),
    (re.compile(r"(?<=  )done(?=  )"), GREEN),
)
"""Each pattern and its colour."""

HANGING = "  "


def is_capable(environment: Mapping[str, str]) -> bool:
    """Whether a terminal can do more than print one line after another."""
    return environment.get("TERM", "") not in ("", "dumb")


def is_coloured(environment: Mapping[str, str]) -> bool:
    """Whether to use colours, see https://no-color.org."""
    return is_capable(environment) and not environment.get("NO_COLOR")


def fitted(lines: Iterable[str], columns: int) -> list[str]:
    """The lines, broken between words at so many columns, with the rest indented. A longer word, such as a path to
    copy, stays whole."""
    return [part for line in lines for part in _broken(line, columns)]


def _broken(line: str, columns: int) -> list[str]:
    if len(line) <= columns:
        return [line]
    indent = line[: len(line) - len(line.lstrip())] + HANGING
    broken = textwrap.wrap(
        line, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )
    return broken or [line]


def painted(line: str) -> str:
    """The line with colours."""
    for pattern, colour in _COLOURS:
        line = pattern.sub(f"\x1b[{colour}m\\g<0>\x1b[0m", line)
    return line
