"""Compresses long JSON that the listener and supervisord send each other.

supervisord reads and sends 4 kB at a time, and handles all its processes in between, which takes several milliseconds
with a thousand. The result is ASCII text, as supervisord's XML-RPC accepts nothing else.
"""

from __future__ import annotations

import base64
import binascii
import zlib

MARK = "zlib:"

MAX_UNCOMPRESSED = 3000
"""Texts up to so many characters are sent as they are: they fit into one read, and stay readable in a trace."""

MAX_UNPACKED = 1 << 26
"""Bytes that are unpacked at most: a rollout of ten thousand processes has a sixth of it."""

LEVEL = 1
"""zlib's level: supervisord has one thread. JSON of many processes shrinks to a thirtieth already."""


def pack(text: str) -> str:
    """The text, which is ASCII; a long one compressed, in base64 behind ``MARK``."""
    if len(text) <= MAX_UNCOMPRESSED:
        return text
    return MARK + base64.b64encode(compressed(text)).decode("ascii")


def compressed(text: str) -> bytes:
    """The text, which is ASCII, by zlib."""
    return zlib.compress(text.encode("ascii"), LEVEL)


def unpack(text: str) -> str:
    """What was packed; text that was not is returned as it is. Raises ValueError for what cannot be unpacked."""
    if not text.startswith(MARK):
        return text
    try:
        unpacking = zlib.decompressobj()
        found = unpacking.decompress(base64.b64decode(text[len(MARK) :].encode("ascii"), validate=True), MAX_UNPACKED)
        if unpacking.unconsumed_tail or not unpacking.eof:
            raise ValueError("it is longer than it may be, or cut off")
        return found.decode("ascii")
    except (binascii.Error, zlib.error, UnicodeError) as error:
        raise ValueError(f"it cannot be unpacked: {error}") from None
