"""The stages of a process, as the tables have them that the code enforces."""

from __future__ import annotations

from from_code.rst import literal
from supervisor_rolling.core.transitions import GUARDED, MEMBER, diagram


def rollout_stages() -> str:
    """Those of a process in a rollout."""
    return literal(diagram(MEMBER))


def guard_stages() -> str:
    """Those of a process that the crash guard looks after."""
    return literal(diagram(GUARDED))
