"""The stages of a process, as the tables have them that the code enforces."""

from __future__ import annotations

import textwrap

from from_code.rst import joined
from supervisor_rolling.core.transitions import GUARDED, MEMBER, Table, diagram


def rollout_stages() -> str:
    """Those of a process in a rollout."""
    return _transitions(MEMBER)


def guard_stages() -> str:
    """Those of a process that the crash guard looks after."""
    return _transitions(GUARDED)


def _transitions(table: Table) -> str:
    """The usual way, then for each stage those that can follow, and when: unlike ``diagram``, it fits on a phone."""
    way, _, *rows = diagram(table).splitlines()
    stages: dict[str, list[str]] = {}
    for row in rows:
        stage, following, when = row[:10].strip(), row[14:24].strip(), row[26:]
        stages.setdefault(stage or list(stages)[-1], []).append(f"* → ``{following}``: {when}")
    usual = " → ".join(f"``{stage}``" for stage in way.split(" ─▶ "))
    after = (f"``{stage}``\n{textwrap.indent(chr(10).join(found), '    ')}" for stage, found in stages.items())
    return joined(usual, *after)
