"""reStructuredText from values, and the comments of the code."""

from __future__ import annotations

import functools
import re
import textwrap
from collections.abc import Mapping
from types import ModuleType

from sphinx.pycode import ModuleAnalyzer


@functools.cache
def comments(module: ModuleType) -> Mapping[tuple[str, str], str]:
    """What the ``#:`` comments of a module say, each in one line, by (class, field); the class is empty for a constant
    of the module."""
    found = ModuleAnalyzer.for_module(module.__name__).find_attr_docs()
    return {place: " ".join(lines).strip() for place, lines in found.items()}


def escaped(text: str) -> str:
    """Plain text, in which no character is markup."""
    return re.sub(r"([*`|_\\])", r"\\\1", text)


def section(title: str, *blocks: str, line: str = "-") -> str:
    """A section; ``line`` is what its title is underlined with."""
    return joined(f"{title}\n{line * len(title)}", *blocks)


def joined(*blocks: str) -> str:
    """Blocks with an empty line after each, those that are not empty."""
    return "\n\n".join(block for block in blocks if block) + "\n"


def literal(text: str) -> str:
    """A literal block."""
    return f"::\n\n{textwrap.indent(text, '    ')}"


def definitions(found: Mapping[str, str]) -> str:
    """A definition list: each term with its text of one paragraph."""
    return joined(*(f"{term}\n    {text}" for term, text in found.items()))


def directive(name: str, argument: str, *blocks: str) -> str:
    """A directive and its content."""
    return joined(f".. {name}:: {argument}", textwrap.indent(joined(*blocks), "   ")).rstrip()
