"""How many processes may be unavailable: what an operator may write, and what it comes to."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisor_rolling.core import share
from supervisor_rolling.core.policy import Share
from supervisor_rolling.core.share import limit_for, parse_share


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2, Share(number=2)),
        ("2", Share(number=2)),
        ("10%", Share(percent=10.0)),
        ("100%", Share(percent=100.0)),
        ("12.5%", Share(percent=12.5)),
        (65535, Share(number=65535)),
    ],
)
def test_a_share_is_a_number_or_a_percentage(value: str | int, expected: Share) -> None:
    assert parse_share(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        0,
        "0",
        -1,
        "-1",
        65536,
        1 << 20000,
        "9" * 5000,
        1.5,
        "1.5",
        "0%",
        "0.0%",
        "100.1%",
        "200%",
        "9" * 5000 + "%",
        "nan%",
        "inf%",
        "1e1%",
        "%",
        "",
        " 2",
        "2\n",
        "٢",
        "many",
        True,
        False,
        None,
    ],
    ids=lambda value: "" if isinstance(value, int) else f"{value!r}"[:10],  # str() refuses an int of 20000 bits
)
def test_anything_else_is_no_share_and_a_sentence_says_what_to_write(value: Any) -> None:
    with pytest.raises(ValueError, match=r"write for example 2 or 10%$") as caught:
        parse_share(value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("value", "total", "expected"),
    [
        ("2", 8, 2),
        ("10%", 8, 1),
        ("10%", 19, 1),
        ("10%", 20, 2),
        ("50%", 7, 3),
        ("100%", 7, 7),
        ("33.3%", 3, 1),
        ("10%", 0, 1),
        ("0.57%", 10000, 57),
    ],
)
def test_a_percentage_is_rounded_down_and_never_less_than_one(value: str, total: int, expected: int) -> None:
    assert limit_for(parse_share(value), total) == expected


def test_supervisorctl_can_import_the_share_without_yaml() -> None:
    tree = ast.parse(Path(share.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    stdlib = getattr(sys, "stdlib_module_names", {"re", "fractions", "__future__"})
    assert {str(name) for name in imported} - set(stdlib) == {"supervisor_rolling.core.policy"}
