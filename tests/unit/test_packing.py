"""JSON that is packed for its way to supervisord, and from it."""

from __future__ import annotations

import base64
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_rolling import packing
from supervisor_rolling.packing import MARK, MAX_UNCOMPRESSED, pack, unpack

LONG = json.dumps([{"name": f"app-{number}", "stage": "open"} for number in range(1000)])


@given(st.text(st.characters(max_codepoint=127), max_size=9000))
def test_packed_text_is_unpacked_as_it_was(text: str) -> None:
    if not text.startswith(MARK):  # which no JSON does
        assert unpack(pack(text)) == text


def test_only_long_text_is_packed() -> None:
    assert len(pack(LONG)) < len(LONG) / 5
    assert pack("x" * MAX_UNCOMPRESSED) == "x" * MAX_UNCOMPRESSED


@pytest.mark.parametrize(
    "text", [MARK, MARK + "é", MARK + "AAAA", pack(LONG)[:-9], MARK + base64.b64encode(zlib.compress(b"\xff")).decode()]
)
def test_invalid_packed_text_is_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="it "):
        unpack(text)


def test_unpacked_size_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MAX_UNPACKED", len(LONG) - 1)
    with pytest.raises(ValueError, match="longer than it may be"):
        unpack(pack(LONG))
