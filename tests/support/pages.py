"""The pages that users read, and the examples in them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.rst"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.rst"))]


def examples(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(
        rf"^( *)\.\. code-block:: {language}\n(?:\1   :.*\n)*\n((?:\1 +.*\n|\n)+)", text + "\n", re.MULTILINE
    )
    return [textwrap.dedent(block).strip() + "\n" for _, block in found]


def example(page: str, language: str, word: str) -> str:
    """The only block of a page of docs/ in a language that contains a word."""
    (found,) = [block for block in examples(ROOT / "docs" / page, language) if word in block]
    return found
