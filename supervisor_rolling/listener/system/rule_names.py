"""What others read of a gate when they list the rules: whose it is, and why a port is closed."""

from __future__ import annotations

import functools
import hashlib


def mark_of(owner: str) -> str:
    """What tells one supervisord's rules from another's: a new listener finds what its predecessor left."""
    return hashlib.sha256(owner.encode()).hexdigest()[:8]


@functools.lru_cache(maxsize=4096)
def clean_comment(text: str, most: int) -> str:
    """What the kernel keeps of a comment and every tool can list: printable ASCII, no quotes, ``most`` bytes."""
    return "".join(c if c.isascii() and c.isprintable() and c not in "\"'\\" else "?" for c in text)[:most]
