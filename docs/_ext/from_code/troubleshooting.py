"""The entries that ``supervisor_rolling help CODE`` prints: each file of ``supervisor_rolling/help`` is a section."""

from __future__ import annotations

import re
from importlib.resources import files

from from_code.rst import joined

_TITLE = re.compile(r"^(\S+)\n(-{4,})$", re.MULTILINE)


def entries() -> str:
    """All files, in the order of their names. Each entry has its code as a label: other pages link to it by
    ``:ref:`nginx.max_fails```."""
    parts = [part for part in files("supervisor_rolling.help").iterdir() if part.name.endswith(".rst")]
    text = joined(*(part.read_text(encoding="utf-8") for part in sorted(parts, key=lambda part: part.name)))
    return _TITLE.sub(r".. _\1:\n\n\1\n\2", text)
