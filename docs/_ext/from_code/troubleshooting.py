"""The entries that ``supervisor_rolling help CODE`` prints: each file of ``supervisor_rolling/help`` is a section."""

from __future__ import annotations

import re
from importlib.resources import files

from from_code.rst import joined

_TITLE = re.compile(r"^(\S+)\n(-{4,})$", re.MULTILINE)

_MESSAGES = re.compile(r"^-{4,}\n+::\n\n(?:(?: {3}.*)?\n)+", re.MULTILINE)
"""The literal block below a title: what the operator sees."""

_BROKEN = re.compile(r"(?<=.{85})\n {3}(?!ERROR: |For help, )(?=\S)")
"""In it, where a message goes on in the next line. In the file it is broken near the hundredth column."""


def entries() -> str:
    """All files, in the order of their names. Each entry has its code as a label: other pages link to it by
    ``:ref:`nginx.max_fails```. A message is one line, which the browser breaks."""
    parts = [part for part in files("supervisor_rolling.help").iterdir() if part.name.endswith(".rst")]
    text = joined(*(part.read_text(encoding="utf-8") for part in sorted(parts, key=lambda part: part.name)))
    text = _MESSAGES.sub(lambda block: _BROKEN.sub(" ", block[0]), text)
    return _TITLE.sub(r".. _\1:\n\n\1\n\2", text)
