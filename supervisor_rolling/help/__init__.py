"""The entries of the documentation's page "Troubleshooting", by their codes, as plain text.

The files beside this one are parts of that page. An entry is a section underlined with ``-``; its title is its code.
They are read here without docutils, which a host that runs supervisord does not have.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files

ALL = "codes"
"""What lists the codes, in place of a code."""

MAX_SUGGESTED = 5

_ROLE = re.compile(r":[\w:]+:`([^`<]+?)(?:\s*<[^`>]*>)?`")
_LINK = re.compile(r"`([^`<]+?)\s*<([^`>]+)>`__?")
_MARKED = re.compile(r"``(.+?)``|\*\*(.+?)\*\*|(?<![\w*])\*(?![\s*])(.+?)\*(?!\w)")
_DIRECTIVE = re.compile(r"\.\. ([\w-]+):: ?(.*)")
_ITEM = re.compile(r"(?:[-*]|\d+\.|#\.) +")
_CODE = ("code-block", "sourcecode", "parsed-literal")


class UnknownCodeError(Exception):
    """There is no such entry; the text has those that are like it."""


def page(code: str) -> list[str]:
    """The lines of an entry, or of the list of all. Paragraphs are one line each. Raises UnknownCodeError."""
    code = code.lower()
    if code == ALL:
        width = max(map(len, entries()))
        return [f"{one:<{width}}  {_first_line(entry)}" for one, entry in sorted(entries().items())]
    if code not in entries():
        raise UnknownCodeError(f"there is no entry {code}{_similar(code)}")
    return [code, "", *_plain(entries()[code])]


def is_code(word: str) -> bool:
    """Whether a word is meant as a code: it has a dot in it, is the first part of one, or stands for all."""
    return "." in word or word.lower() in {ALL, *(code.partition(".")[0] for code in entries())}


@functools.cache
def entries() -> Mapping[str, Sequence[str]]:
    """The source lines of each entry, without its title."""
    found: dict[str, list[str]] = {}
    parts = [part for part in files(__package__).iterdir() if part.name.endswith(".rst")]
    for part in sorted(parts, key=lambda part: part.name):
        lines = part.read_text(encoding="utf-8").splitlines()
        titles = [n for n, line in enumerate(lines[1:]) if lines[n] and set(line) == {"-"} and len(line) >= 4]
        for begin, end in zip(titles, [*titles[1:], len(lines)]):
            found[lines[begin].strip("` ")] = lines[begin + 2 : end]
    return found


def _similar(code: str) -> str:
    known = list(entries())
    inside = [one for one in known if one.startswith(code) or code in one.split(".")]
    close = inside or (difflib.get_close_matches(code, known, n=MAX_SUGGESTED, cutoff=0.5))
    return f" (did you mean {', '.join(close)}?)" if close else f" (all of them: supervisor_rolling help {ALL})"


def _first_line(entry: Sequence[str]) -> str:
    """The message, without its indentation."""
    return next((line.strip() for line in _plain(entry) if line.strip()), "")


def _plain(entry: Sequence[str]) -> list[str]:
    """The entry without markup, one blank line between two blocks."""
    lines: list[str] = []
    for block in _blocks(entry):
        lines += ["", *block] if lines and not (_is_item(block) and _is_item(lines[-1:])) else block
    return lines


def _is_item(block: Sequence[str]) -> bool:
    return bool(block) and _ITEM.match(block[0].lstrip()) is not None


def _blocks(entry: Sequence[str]) -> Iterator[list[str]]:
    """Paragraphs and items of lists as one line each; what is literal as it stands."""
    literal_beyond: int | None = None  # the indentation of what introduced a literal block
    for lines in _paragraphs(entry):
        indent = len(lines[0]) - len(lines[0].lstrip())
        if literal_beyond is not None and indent > literal_beyond:
            yield lines
            continue
        literal_beyond = None
        directive = _DIRECTIVE.match(lines[0].strip())
        if directive and directive[1] in _CODE:
            literal_beyond = indent
            continue
        if lines[0].lstrip().startswith(".. ") and not directive:  # a comment, a label
            continue
        if directive:
            lines = [f"{directive[1].capitalize()}: {directive[2]}", *lines[1:]]
        text = " ".join(line.strip() for line in lines)
        if text.endswith("::"):
            literal_beyond, text = indent, text[:-1] if text != "::" else ""
        if text:
            yield [" " * indent + _without_markup(text)]


def _paragraphs(entry: Sequence[str]) -> Iterator[list[str]]:
    """The lines between blank ones; an item of a list begins a new one, too."""
    lines: list[str] = []
    for line in [*entry, ""]:
        if lines and (not line.strip() or (_ITEM.match(line.lstrip()) and not lines[0].startswith(" "))):
            yield lines
            lines = []
        if line.strip():
            lines.append(line.rstrip())


def _without_markup(text: str) -> str:
    text = _LINK.sub(r"\1 (\2)", _ROLE.sub(lambda role: role[1].rpartition("/")[2], text))
    return _MARKED.sub(lambda found: next(filter(None, found.groups())), text)
