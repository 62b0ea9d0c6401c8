"""The tables of transitions, and the diagrams that are made from them."""

from __future__ import annotations

import textwrap

import pytest

from supervisor_rolling.core import guard, machine
from supervisor_rolling.core.guard_state import GuardedProcess
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.rollout import Member, Stage
from supervisor_rolling.core.transitions import (
    GUARDED,
    MEMBER,
    Table,
    TransitionError,
    check_guarded,
    diagram,
    enter_stage,
)

SEEN = Observation(1000.0, {})


@pytest.mark.parametrize(
    ("text", "table"),
    [(machine.__doc__, MEMBER), (guard.__doc__, GUARDED)],
    ids=["machine", "guard"],
)
def test_diagram_is_made_from_table(text: str | None, table: Table) -> None:
    assert text is not None
    assert textwrap.indent(diagram(table), "    ") in text


def test_diagram_shows_usual_way_and_each_transition() -> None:
    table: Table = {
        Stage.OPEN: {Stage.READY: "it leaves"},
        Stage.READY: {Stage.OPEN: "it is back", Stage.READY: "again"},
    }
    assert diagram(table).splitlines() == [
        "OPEN ─▶ READY ─▶ OPEN",
        "",
        "OPEN       ─▶ READY       it leaves",
        "READY      ─▶ OPEN        it is back",
        "           ─▶ READY       again",
    ]


@pytest.mark.parametrize("stage", [stage for stage in MEMBER if stage])
@pytest.mark.parametrize("following", list(Stage))
def test_member_enters_only_stages_of_its_table(stage: Stage, following: Stage) -> None:
    member = Member("app-1", (), stage=stage)
    if following in MEMBER[stage]:
        after = enter_stage(member, following, SEEN)
        assert (after.stage, after.since) == (following, 1000.0)
    else:
        with pytest.raises(TransitionError, match=f"app-1: {stage.name} cannot become {following.name}"):
            enter_stage(member, following, SEEN)


def test_guarded_process_that_skips_a_stage_is_refused() -> None:
    down, ready = (GuardedProcess("app-1", (), stage, 1.0) for stage in (Stage.DOWN, Stage.READY))
    check_guarded({"app-1": ready}, {"app-1": down})
    check_guarded({"app-1": ready}, {})
    with pytest.raises(TransitionError, match=r"^app-1: DOWN cannot become READY in the crash guard$"):
        check_guarded({"app-1": down}, {"app-1": ready})
    with pytest.raises(TransitionError, match=r"^app-1: \(warm\) cannot become READY"):
        check_guarded({}, {"app-1": ready})
