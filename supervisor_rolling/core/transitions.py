"""Which stage can follow which, and when: tables that are enforced, and that the diagrams are made from.

MEMBER is the table of a rollout's members, GUARDED that of the crash guard's processes. ``diagram`` makes the diagrams
of the documentation, and those in ``machine.py`` and ``guard.py``, which a test compares. The first entry of each row
is the next stage when nothing goes wrong. None stands for a process that is not guarded: it is warm and open, or in a
rollout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Optional

from supervisor_rolling.core.guard_state import GuardedProcess
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.reason import Reason
from supervisor_rolling.core.rollout import Member, Stage

Table = Mapping[Optional[Stage], Mapping[Optional[Stage], str]]
"""For each stage those that can follow, and when."""

MEMBER: Table = {
    Stage.OPEN: {
        Stage.DRAINING: "it is selected, there is room, and it runs",
        Stage.RESTARTING: "it is selected, and is down: there is nothing to drain",
        Stage.WARMING: "it was replaced, and another client restarts it",
        Stage.OPEN: "it was replaced, and exits: the rollout has failed on it",
    },
    Stage.DRAINING: {
        Stage.RESTARTING: "no connection is left, the drain times out, or it exits",
        Stage.OPEN: "abort, stopped manually, or not to be stopped (leak, keep-alive pool, no gate, on_timeout)",
        Stage.FAILED: "the same, where an earlier failure kept it closed",
    },
    Stage.RESTARTING: {
        Stage.WARMING: "the new process has a pid",
        Stage.DRAINING: "it still runs and its port was open meanwhile; or another client stopped it first",
        Stage.FAILED: "it does not stop, or does not start",
        Stage.OPEN: "it was stopped manually, is gone from supervisord's configuration, or is a spare now",
    },
    Stage.WARMING: {
        Stage.READY: "it is warm, and RUNNING",
        Stage.WARMING: "another client restarts it",
        Stage.FAILED: "it does not become warm, or exits for good",
        Stage.OPEN: "it was stopped manually, is gone from supervisord's configuration, or an aborted spare",
    },
    Stage.READY: {
        Stage.OPEN: "it was ready for min_ready_seconds; it exits; or it was stopped manually",
        Stage.WARMING: "another client restarts it",
    },
    Stage.FAILED: {
        Stage.DRAINING: "the next rollout replaces it, and it runs",
        Stage.RESTARTING: "the next rollout replaces it, and it is down",
        Stage.OPEN: "it is gone from supervisord's configuration; or another client restarts it (guard: false)",
    },
}

GUARDED: Table = {
    None: {
        Stage.DOWN: "it exits",
        Stage.WARMING: "it runs and is not warm",
        Stage.FAILED: "a rollout that has ended failed to warm it",
    },
    Stage.DOWN: {
        Stage.WARMING: "it has a new pid",
        None: "a rollout takes it over, or it is warm",
    },
    Stage.WARMING: {
        Stage.READY: "it is warm, and RUNNING",
        Stage.OPEN: "the same, where its port was never closed",
        Stage.FAILED: "its warm-up fails or times out",
        Stage.DOWN: "it exits",
        None: "a rollout takes it over, or has warmed it",
    },
    Stage.READY: {
        None: "it was ready for min_ready_seconds",
        Stage.DOWN: "it exits",
        Stage.WARMING: "it has a new pid",
    },
    Stage.OPEN: {
        None: "supervisord has noted that it is warm",
        Stage.DOWN: "it exits",
        Stage.WARMING: "it has a new pid",
    },
    Stage.FAILED: {
        Stage.WARMING: "the next try is due, or it has a new pid",
        Stage.DOWN: "it exits",
        None: "a rollout takes it over",
    },
}


class TransitionError(Exception):
    """A bug: a process would enter a stage that its table does not allow."""


def enter_stage(member: Member, stage: Stage, observed: Observation) -> Member:
    """The member at the beginning of a stage. Raises TransitionError where the table does not have it."""
    if stage not in MEMBER[member.stage]:
        raise TransitionError(f"{member.name}: {_word(member.stage)} cannot become {_word(stage)}")
    return replace(member, stage=stage, since=observed.at)


def fail(member: Member, observed: Observation, reason: Reason) -> Member:
    """The member that the rollout has failed on, kept closed."""
    return with_failure(enter_stage(member, Stage.FAILED, observed), reason)


def put_back(member: Member, observed: Observation) -> Member:
    """The member where it was before it left: one that was kept closed is not opened as it is."""
    return enter_stage(member, Stage.FAILED if member.was_closed else Stage.OPEN, observed)


def fail_and_put_back(member: Member, observed: Observation, reason: Reason) -> Member:
    """The member that the rollout has failed on before it was stopped."""
    return with_failure(put_back(member, observed), reason)


def with_failure(member: Member, reason: Reason) -> Member:
    """The member that the rollout has failed on, in the stage that it is in. The first reason keeps its code."""
    code = member.code if member.failed else reason.code
    return replace(member, failed=True, why=reason_after(member, reason.text), code=code)


def reason_after(member: Member, why: str) -> str:
    """The reason, behind the one for which the rollout has failed on this member already, if there is one."""
    return f"{member.why}; then {why}" if member.failed else why


def check_guarded(before: Mapping[str, GuardedProcess], after: Mapping[str, GuardedProcess]) -> None:
    """Raise TransitionError where a process of a group has made a move that the guard's table does not have."""
    for name in before.keys() | after.keys():
        old, new = (found[name].stage if name in found else None for found in (before, after))
        if old is not new and new not in GUARDED[old]:
            raise TransitionError(f"{name}: {_word(old)} cannot become {_word(new)} in the crash guard")


def diagram(table: Table) -> str:
    """The table as text: the usual way, then a line for each transition."""
    way = [next(iter(table))]
    while len(way) == 1 or way[-1] is not way[0]:
        way.append(next(iter(table[way[-1]])))
    rows = [
        f"{_word(stage) if not number else '':<10} ─▶ {_word(following):<10}  {when}"
        for stage, follow in table.items()
        for number, (following, when) in enumerate(follow.items())
    ]
    return "\n".join([" ─▶ ".join(map(_word, way)), "", *rows])


def _word(stage: Stage | None) -> str:
    return stage.name if stage else "(warm)"
