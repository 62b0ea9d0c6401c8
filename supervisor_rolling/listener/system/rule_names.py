"""What operators read in the firewall's rules: which supervisord they belong to, and why a port is closed."""

from __future__ import annotations

import functools
import hashlib


def mark_of(owner: str) -> str:
    """A mark in the names of one supervisord's rules: a new listener finds what the last one left."""
    return hashlib.sha256(owner.encode()).hexdigest()[:8]


@functools.lru_cache(maxsize=4096)
def clean_comment(text: str, most: int) -> str:
    """The comment as every tool can list it: printable ASCII without quotes, ``most`` bytes."""
    return "".join(c if c.isascii() and c.isprintable() and c not in "\"'\\" else "?" for c in text)[:most]
