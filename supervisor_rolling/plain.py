"""Text that comes from others, for whoever is to read it.

supervisord sends nothing but ASCII in a deferred answer, XML knows hardly a control character (a client's parser ends
on one), and a terminal obeys some.
"""

from __future__ import annotations

import re

_NOT_PLAIN = re.compile(r"[^\n -~]")


def plain(text: object) -> str:
    """Printable ASCII and line breaks; the rest as Python writes it: ``\\x1b``, ``\\xe9``, ``\\u2192``."""
    return _NOT_PLAIN.sub(_escape, str(text))


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


def _without_controls(line: str) -> str:
    return "".join(c if c.isprintable() else _escaped(c) for c in line)


def _escape(found: re.Match[str]) -> str:
    return _escaped(found[0])


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
