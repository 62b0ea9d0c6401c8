"""How lines look on a terminal: broken where it ends, with colours where it has some."""

from __future__ import annotations

import io
import os
import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_rolling.ctl.output import Output
from supervisor_rolling.ctl.terminal import fitted, painted

XTERM = {"TERM": "xterm-256color"}
RED, GREEN, YELLOW = "\x1b[31m", "\x1b[32m", "\x1b[33m"
FAILED = "app-1  drained 0.0 s · started 1.0 s · FAILED: is not warm: GET /health answered 500, expected 2xx"


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def told(stream: io.StringIO, environment: dict[str, str], lines: list[str]) -> str:
    """What is written."""
    Output(stream, environment).print(lines)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((80, 24)))


def test_long_line_is_broken_between_words() -> None:
    assert fitted([FAILED], 80) == [
        "app-1  drained 0.0 s · started 1.0 s · FAILED: is not warm: GET /health answered",
        "  500, expected 2xx",
    ]


def test_rest_of_an_indented_line_is_indented_more() -> None:
    assert fitted(["    one two three"], 11) == ["    one two", "      three"]


def test_long_path_stays_whole() -> None:
    path = "/very/long" * 10
    assert fitted([f"see {path} there"], 40) == ["see", f"  {path}", "  there"]


@given(st.lists(st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=200)), st.integers(20, 120))
def test_breaking_loses_no_word(lines: list[str], columns: int) -> None:
    assert " ".join(fitted(lines, columns)).split() == " ".join(lines).split()


def test_lines_in_a_pipe_are_whole_and_plain() -> None:
    assert told(io.StringIO(), XTERM, [FAILED]) == FAILED + "\n"


def test_lines_fit_the_width_of_the_terminal() -> None:
    text = told(Terminal(), {**XTERM, "NO_COLOR": "1"}, [FAILED])
    assert [len(line) <= 80 for line in text.splitlines()] == [True, True]


@pytest.mark.parametrize("environment", [{}, {"TERM": "dumb"}, {**XTERM, "NO_COLOR": "1"}])
def test_no_color_and_dumb_terminals_get_no_colours(environment: dict[str, str]) -> None:
    assert "\x1b" not in told(Terminal(), environment, [FAILED])


def test_empty_no_color_keeps_colours() -> None:
    assert "\x1b" in told(Terminal(), {**XTERM, "NO_COLOR": ""}, [FAILED])


@pytest.mark.parametrize(
    ("line", "coloured"),
    [
        (FAILED, [(RED, "FAILED:")]),
        ("app-1  drained 0.0 s · open", [(GREEN, "open")]),
        ("ERROR: rolling.yaml is FAILED", [(RED, "ERROR:")]),
        ("app: ABORTED: 3 of 8 replaced", [(YELLOW, "ABORTED:")]),
        ("error: nginx.max_fails: x", [(RED, "error:")]),
        ("warning: nginx.down: x", [(YELLOW, "warning:")]),
        ("skipped: nginx: there is none", [(YELLOW, "skipped:")]),
        ("app: no finding. Checked: 8 processes", [(GREEN, "no finding")]),
        ("app-1  RUNNING  12  failed   3 s  -  closed  why", [(RED, "failed"), (YELLOW, "closed")]),
        ("app-1  RUNNING  12  open     3 s  warm  open", []),
        ("app-1  ready, and closed", []),
    ],
)
def test_failures_and_warnings_are_coloured(line: str, coloured: list[tuple[str, str]]) -> None:
    found = painted(line)
    assert [(start, text) for start, text in re.findall(r"(\x1b\[\d+m)(.*?)\x1b\[0m", found)] == coloured
    assert re.sub(r"\x1b\[\d+m", "", found) == line
