"""Text from other programs, made safe for XML-RPC, for a terminal and for a message.

supervisord sends nothing but ASCII in a deferred answer, XML has hardly a control character (a client's parser fails
on one), and a terminal obeys some.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

MAX_LISTED = 3
"""Things that a message names one by one: enough to see which they are; there may be a thousand."""

_ESCAPE = r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"
_NOT_ASCII = re.compile(r"[^\n -~]")
_NOT_PLAIN = re.compile(rf"{_NOT_ASCII.pattern}|\\(?={_ESCAPE[2:]})")
_ESCAPED = re.compile(_ESCAPE)


def ascii_only(text: str) -> str:
    """Printable ASCII and line breaks: for a text, such as JSON, that has its own escapes and keeps them."""
    return _NOT_ASCII.sub(_escape, text)


def plain(text: object) -> str:
    """Printable ASCII and line breaks; the rest as Python writes it: ``\\x1b``, ``\\xe9``, ``\\u2192``. A backslash of
    a text that only looks like one of these becomes ``\\x5c``, so that ``readable`` can tell them apart."""
    text = str(text)
    is_plain = text.isascii() and text.isprintable() and "\\" not in text  # nearly always, and much quicker to see
    return text if is_plain else _NOT_PLAIN.sub(_escape, text)


def readable(text: str, encoding: str) -> str:
    """What ``plain`` was given, as far as a terminal of this encoding shows it and does not obey it."""
    return _ESCAPED.sub(lambda found: _unescaped(found[0], encoding), text) if "\\" in text else text


def printable(text: object, most: int = 300) -> str:
    """One line of at most so many characters: control characters and line breaks are written as ``\\x1b`` and ``\\n``,
    letters of any language stay, and what is longer ends in ``…``. For text that a process, a command or a load
    balancer sent, before it becomes part of a message."""
    line = _without_controls(str(text)[: most + 1])
    return line if len(line) <= most else f"{line[: most - 1]}…"


def printable_lines(text: str) -> str:
    """The same lines without control characters."""
    return "\n".join(map(_without_controls, text.split("\n")))


def shown(text: str, encoding: str) -> str:
    """What a terminal of this encoding shows of a text and does not obey."""
    return printable_lines(text).encode(encoding, "backslashreplace").decode(encoding)


def listed(names: Iterable[str], most: int = MAX_LISTED) -> str:
    """``a, b, c and 2 more``."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _without_controls(line: str) -> str:
    return "".join(c if c.isprintable() else _escaped(c) for c in line)


def _escape(found: re.Match[str]) -> str:
    return "\\x5c" if found[0] == "\\" else _escaped(found[0])


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _unescaped(escape: str, encoding: str) -> str:
    number = int(escape[2:], 16)
    character = chr(number) if number <= sys.maxunicode else ""
    return character if character.isprintable() and shown(character, encoding) == character else escape
