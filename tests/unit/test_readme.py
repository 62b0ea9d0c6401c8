"""The README is true: what it says that a test shows is shown by one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHOWN_BY = re.compile(r"\*(\w+): ([^*]+)\*")
"""``*deaths: it may be killed at any moment*`` stands for ``test_it_may_be_killed_at_any_moment`` in test_deaths.py."""


def table() -> list[tuple[str, str]]:
    """The rows of "What happens when …": the situation, and the rest."""
    section = (ROOT / "README.rst").read_text(encoding="utf-8").partition("What happens when …\n---")[2]
    rows = re.split(r"^   \* - ", section.partition("\nConfiguration\n---")[0], flags=re.MULTILINE)[1:]
    return [tuple(" ".join(cell.split()) for cell in row.split("\n     - ", 1)) for row in rows]  # type: ignore[misc]


def named_in(module: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / f"test_{module}.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_row_of_what_happens_when_names_tests_that_there_are():
    rows = table()
    assert len(rows) > 30
    for situation, rest in rows:
        named = SHOWN_BY.findall(rest)
        assert named, f"{situation!r} names no test"
        for module, sentence in named:
            assert "test_" + sentence.replace(" ", "_") in named_in(module), (situation, module, sentence)
