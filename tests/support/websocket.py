"""As much of RFC 6455 as it takes to keep a WebSocket open and to see that it works: short text frames, both ways."""

from __future__ import annotations

import base64
import hashlib
import os

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT = 0x81  # the last frame of a message, a text
_MASKED = 0x80
LONGEST = 125
"""The most bytes of a payload with its length in the first two bytes of the frame."""

HEAD = 2
"""Bytes with which a frame begins."""


def accept_of(key: str) -> str:
    """The ``Sec-WebSocket-Accept`` that answers a ``Sec-WebSocket-Key``."""
    return base64.b64encode(hashlib.sha1((key + _MAGIC).encode()).digest()).decode()


def text_frame(payload: bytes, is_masked: bool) -> bytes:
    """A text in one frame; a client's is masked."""
    assert len(payload) <= LONGEST
    if not is_masked:
        return bytes([_TEXT, len(payload)]) + payload
    mask = os.urandom(4)
    return bytes([_TEXT, len(payload) | _MASKED]) + mask + unmasked(mask + payload, is_masked)


def rest_of(head: bytes) -> tuple[int, bool]:
    """How many bytes follow the first two of a frame, and whether they begin with a mask of four."""
    is_masked = bool(head[1] & _MASKED)
    return (head[1] & ~_MASKED) + (4 if is_masked else 0), is_masked


def unmasked(rest: bytes, is_masked: bool) -> bytes:
    """The payload of a frame, of what follows its first two bytes. Masking is the same again."""
    if not is_masked:
        return rest
    mask, payload = rest[:4], rest[4:]
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
