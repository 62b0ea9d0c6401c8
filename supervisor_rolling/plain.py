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


def shown(text: str, encoding: str) -> str:
    """What a terminal of this encoding shows of a text and does not obey."""
    readable = "".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return readable.encode(encoding, "backslashreplace").decode(encoding)


def printable(text: str, most: int = 300) -> str:
    """One line of at most so many characters, without what a terminal or a log obeys: line breaks, control characters,
    escapes. Such characters stand there as Python writes them; what is longer ends in ``…``."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: most + 1])
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
