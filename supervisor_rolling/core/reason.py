"""Why something failed: a sentence, and the code under which ``supervisor_rolling help`` says more."""

from __future__ import annotations

from typing import NamedTuple

SEE = "See: supervisor_rolling help"
"""In front of the code at the end of a message."""


class Reason(NamedTuple):
    """Why a process or a rollout failed."""

    code: str  # names the entry in supervisor_rolling/help
    text: str


def see(code: str) -> str:
    """The sentence that names the entry of a code."""
    return f"{SEE} {code}"


def with_see(text: str, code: str) -> str:
    """A message, and where more is said about it, unless it says that already."""
    if not code or SEE in text:
        return text
    return f"{text}{'' if text.endswith(('.', '?', '!')) else '.'} {see(code)}"
