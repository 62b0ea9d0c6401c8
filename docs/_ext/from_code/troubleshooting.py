"""The entries that ``supervisor_rolling help CODE`` prints: each file of ``supervisor_rolling/help`` is a section."""

from __future__ import annotations

from importlib.resources import files

from from_code.rst import joined


def entries() -> str:
    """All files, in the order of their names."""
    parts = [part for part in files("supervisor_rolling.help").iterdir() if part.name.endswith(".rst")]
    return joined(*(part.read_text(encoding="utf-8") for part in sorted(parts, key=lambda part: part.name)))
