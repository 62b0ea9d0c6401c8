"""Text from other programs becomes part of a message or of the log, and controls neither a terminal nor a log."""

from __future__ import annotations

import ctypes
import io
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_rolling.core.text import printable, printable_lines
from supervisor_rolling.listener.main import PlainFormatter
from supervisor_rolling.listener.system.procfs import name_of

PR_SET_NAME = 15


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("fine", "fine"),
        ("größer → 日本", "größer → 日本"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\r\nb", "a\\r\\nb"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp", "\\u202egnp"),
        ("\udcff", "\\udcff"),
        (b"\x00", "b'\\x00'"),
        ("right\u202eto left\u2028", "right\\u202eto left\\u2028"),
        ("x" * 400, "x" * 299 + "…"),
    ],
)
def test_control_characters_are_escaped_and_letters_stay(text: object, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(max_size=50), st.integers(1, 60))
def test_a_line_is_printable_and_short(text: str, most: int) -> None:
    line = printable(text, most)
    assert line.isprintable()
    assert len(line) <= most


@given(st.text())
def test_lines_stay_lines(text: str) -> None:
    lines = printable_lines(text).split("\n")
    assert len(lines) == len(text.split("\n"))
    assert all(map(str.isprintable, lines))


def logged(text: str, error: Exception | None = None, **extra: str) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainFormatter("%(levelname)s %(message)s"))
    exc_info = (type(error), error, None) if error else None
    record = logging.LogRecord("x", logging.WARNING, "x", 1, "%s", (text,), exc_info)
    vars(record).update(extra)
    handler.handle(record)
    return stream.getvalue()


def test_log_escapes_control_characters_in_messages() -> None:
    assert logged("app\x1b]0;owned\x07\r") == "WARNING app\\x1b]0;owned\\x07\\r\n"


def test_log_indents_every_line_after_the_first() -> None:
    assert logged("two faults\nINFO app: done") == "WARNING two faults\n    INFO app: done\n"
    assert logged("failed", ValueError("\x1b[1m\nINFO forged")).splitlines() == [
        "WARNING failed. See: supervisor_rolling help bug",
        "    ValueError: \\x1b[1m",
        "    INFO forged",
    ]


def test_log_names_what_explains_a_message() -> None:
    assert logged("no metrics", code="metrics") == "WARNING no metrics. See: supervisor_rolling help metrics\n"


def test_the_name_that_a_process_gives_itself_is_printable() -> None:
    libc = ctypes.CDLL(None)
    with open("/proc/self/comm", encoding="utf-8") as comm:
        own = comm.read().strip()
    libc.prctl(PR_SET_NAME, b"x\x1b[31m\ny")
    try:
        assert name_of(ctypes.CDLL(None).getpid()) == "x\\x1b[31m\\ny"
    finally:
        libc.prctl(PR_SET_NAME, own.encode())
