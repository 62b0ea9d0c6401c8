"""Sorting names with numbers in them."""

from __future__ import annotations

import functools
import re


@functools.lru_cache(maxsize=4096)
def natural(name: str) -> tuple[tuple[int, str], ...]:
    """A key that sorts web_2 before web_10."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part)
