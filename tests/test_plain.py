"""Text that comes from others, as it stands in a line of ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_rolling.plain import printable


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("as it is, ä → ü", "as it is, ä → ü"),
        ("two\nlines\r\n", "two\\nlines\\r\\n"),
        ("\x1b[2J\x07red", "\\x1b[2J\\x07red"),
        ("right\u202eto left\u2028", "right\\u202eto left\\u2028"),
        ("x" * 400, "x" * 299 + "…"),
    ],
)
def test_what_others_send_is_one_line_without_escapes(text: str, line: str) -> None:
    assert printable(text) == line


@given(st.text(max_size=50), st.integers(1, 60))
def test_a_line_is_printable_and_short(text: str, most: int) -> None:
    line = printable(text, most)
    assert line.isprintable()
    assert len(line) <= most
