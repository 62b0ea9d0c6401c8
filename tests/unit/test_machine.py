"""Which members leave OPEN, and how a rollout ends. Whole rollouts are in test_reconciler.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from supervisor_rolling.core import machine
from supervisor_rolling.core.admission import begin, narrowed, resumed
from supervisor_rolling.core.availability import available
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.guard_state import GuardedProcess
from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import GatePolicy, Policy, PortRule, RestartPolicy, Share
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.process_states import MANUAL_STOP_GRACE
from supervisor_rolling.core.reason import Reason
from supervisor_rolling.core.rollout import Interruption, Rollout, Stage, Status
from tests.support.members import (
    BEGAN,
    CLOSED,
    NEW,
    OLD,
    PORT,
    a_guarded,
    a_member,
    a_process,
    a_rollout,
    all_open,
    guarded_name,
    left,
    look,
    members,
    observed,
    observed_with,
    ours,
    stopping,
)

CLOSED_STAGES = (Stage.DRAINING, Stage.RESTARTING, Stage.WARMING, Stage.FAILED)


def test_ended_rollout_is_unchanged() -> None:
    for status in (Status.DONE, Status.FAILED, Status.ABORTED, Status.PLANNED):
        rollout = a_rollout(*members(Stage.FAILED, Stage.OPEN), status=status)
        assert machine.advance(rollout, look("FATAL")) == rollout


def test_canary_goes_alone_then_the_limit() -> None:
    rollout = a_rollout(*all_open(5), limit=3, canary=1)
    assert left(machine.advance(rollout, look(*["RUNNING"] * 5))) == ["app-1"]
    done = replace(rollout.members[0], replaced=True, attempted=True, pid=101)
    after = machine.advance(replace(rollout, members=(done, *rollout.members[1:])), look(*["RUNNING"] * 5))
    assert left(after) == ["app-2", "app-3", "app-4"]


def test_crashed_process_uses_a_slot() -> None:
    states = ["RUNNING"] * 3
    rollout = a_rollout(*all_open(4), limit=2, canary=0)
    assert left(machine.advance(rollout, look(*states, "BACKOFF"))) == ["app-1", "app-4"]
    other = replace(rollout, members=tuple(replace(m, selected=m.name != "app-4") for m in rollout.members))
    assert left(machine.advance(other, look(*states, "BACKOFF"))) == ["app-1"]
    assert left(machine.advance(other, look(*states, "STARTING"))) == ["app-1"]


def test_dead_process_waits_for_supervisord() -> None:
    rollout = a_rollout(*all_open(3), limit=1, canary=0)
    dead = look("EXITED", "RUNNING", "RUNNING", dead={"app-1": BEGAN})
    assert left(machine.advance(rollout, dead)) == []
    assert left(machine.advance(rollout, replace(dead, dead={}))) == ["app-1"]


def test_failed_start_of_only_process_is_no_abort() -> None:
    (failed,) = members(Stage.FAILED, failed=True, why="supervisord refused to start it")
    after = machine.advance(a_rollout(failed), look("STOPPED"))
    assert (after.status, "refused to start it" in after.why) == (Status.FAILED, True)


def test_stopped_processes_use_no_slot() -> None:
    stopped = replace(all_open(4)[3], selected=False)
    rollout = a_rollout(*all_open(3), stopped, limit=2, canary=0)
    assert left(machine.advance(rollout, look("RUNNING", "RUNNING", "RUNNING", "STOPPED"))) == ["app-1", "app-2"]


@pytest.mark.parametrize("state", ["RUNNING", "STOPPING", "STOPPED"])
def test_restarting_process_uses_a_slot(state: str) -> None:
    first, *others = members(Stage.RESTARTING, *[Stage.OPEN] * 3, old_pid=101, since=BEGAN)
    down = replace(others[2], selected=False)
    rollout = a_rollout(replace(first, attempted=True), others[0], others[1], down, limit=2, canary=0)
    after = machine.advance(rollout, look(state, "RUNNING", "RUNNING", "BACKOFF", closed={tcp(8001): 0.0}))
    assert left(after) == ["app-1"]


def test_closed_failed_process_uses_a_slot() -> None:
    rollout = a_rollout(*members(Stage.OPEN, Stage.OPEN, Stage.FAILED, attempted=False), limit=1, canary=0)
    kept = replace(rollout, members=tuple(replace(m, selected=m.name != "app-3") for m in rollout.members))
    assert left(machine.advance(kept, look(*["RUNNING"] * 3))) == []


def test_last_serving_process_needs_force() -> None:
    rollout = a_rollout(*all_open(2), limit=2, canary=0)
    assert left(machine.advance(rollout, look("RUNNING", "RUNNING"))) == ["app-1"]
    assert left(machine.advance(replace(rollout, force=True), look("RUNNING", "RUNNING"))) == ["app-1", "app-2"]


@pytest.mark.parametrize("wish", [{"paused": True}, {"aborting": True}])
def test_pause_and_abort_admit_none(wish: dict[str, bool]) -> None:
    assert left(machine.advance(a_rollout(*all_open(2), **wish), look("RUNNING", "RUNNING"))) == []


def test_max_failures_ends_rollout() -> None:
    first, *others = all_open(3)
    rollout = a_rollout(
        replace(first, failed=True, attempted=True, why="is not warm"), *others, limit=3, max_failures=0
    )
    after = machine.advance(rollout, look(*["RUNNING"] * 3))
    assert (after.status, after.why, left(after)) == (Status.FAILED, "app:app-1 is not warm", [])
    assert left(
        machine.advance(replace(rollout, policy=replace(rollout.policy, max_failures=1)), look(*["RUNNING"] * 3))
    )


def test_failed_member_leaves_as_was_closed() -> None:
    first, second = members(Stage.FAILED, Stage.OPEN)
    rollout = machine.advance(a_rollout(first, second, limit=2, canary=0), look("RUNNING", "RUNNING"))
    assert (rollout.members[0].stage, rollout.members[0].was_closed) == (Stage.DRAINING, True)
    rollout = machine.advance(a_rollout(*all_open(2)), look("RUNNING", "RUNNING"))
    assert (rollout.members[0].stage, rollout.members[0].was_closed) == (Stage.DRAINING, False)


@pytest.mark.parametrize("limit", [1, 9])
@pytest.mark.parametrize("state", ["STARTING", "RUNNING", "BACKOFF", "FATAL", "EXITED"])
def test_exited_replaced_process_is_left_to_guard(state: str, limit: int) -> None:
    first, *others = members(*[Stage.OPEN] * 3, attempted=True, pid=1)
    rollout = a_rollout(replace(first, replaced=True), *others, limit=limit, max_failures=9)
    after = machine.advance(rollout, look(state, "RUNNING", "RUNNING"))
    assert (after.members[0].stage, after.members[0].pid, after.members[0].failed) == (Stage.OPEN, 1, True)
    assert (machine.closed(after), machine.jobs(after)) == ({}, {})


def test_stopped_selected_process_is_deselected_at_end() -> None:
    first, second = all_open(2)
    table = {
        "app-1": Process("app-1", "RUNNING", 101),
        "app-2": Process("app-2", "STOPPED", down_for=MANUAL_STOP_GRACE),
    }
    rollout = a_rollout(replace(first, attempted=True, replaced=True, pid=101), second)
    after = machine.advance(rollout, Observation(BEGAN, table))
    assert (after.status, after.members[1].selected) == (Status.DONE, False)
    assert after.members[1].why == "was stopped manually, and is left stopped"


@pytest.mark.parametrize(
    ("stage", "process"),
    [
        (Stage.DRAINING, a_process()),
        (Stage.RESTARTING, ours("STOPPED")),
        (Stage.WARMING, a_process("RUNNING", NEW)),
        (Stage.READY, a_process("RUNNING", NEW)),
    ],
)
def test_absent_listener_extends_deadlines(stage: Stage, process: Process) -> None:
    rollout = a_rollout(a_member(stage, pid=NEW), replace(a_member(), name="app-2"))
    away = machine.advance(rollout, observed(process, at=BEGAN + 500.0, gap=499.5, closed={}))
    assert (away.members[0].stage, away.members[0].failed, away.members[0].since) == (stage, False, BEGAN + 499.5)


def test_absent_listener_drains_again() -> None:
    """The lease may have ended and begun again meanwhile: that it is closed now says nothing of what came in."""
    rollout = a_rollout(a_member(Stage.RESTARTING))
    reopened = {tcp(PORT): BEGAN + 499.0}
    away = observed(a_process(), at=BEGAN + 500.0, gap=499.5, closed=reopened, connections={})
    after = machine.advance(rollout, away)
    assert (after.members[0].stage, after.members[0].since) == (Stage.DRAINING, BEGAN + 500.0)
    assert machine.actions(after, away, reopened) == ()


def test_absent_listener_extends_start_timeout() -> None:
    process = a_process("BACKOFF", spawned=2.0)
    rollout = a_rollout(
        a_member(Stage.RESTARTING, stopped_at=BEGAN + 5.0, killed=True), restart=RestartPolicy(timeout=20.0)
    )
    away = machine.advance(rollout, observed(process, at=BEGAN + 500.0, gap=490.0))
    assert (away.members[0].stage, away.members[0].stopped_at) == (Stage.RESTARTING, BEGAN + 495.0)
    assert machine.advance(away, observed(process, at=BEGAN + 515.0)).members[0].stage is Stage.FAILED


def test_absent_listener_notes_no_stop() -> None:
    rollout = a_rollout(a_member(Stage.RESTARTING))
    away = machine.advance(rollout, observed(stopping(1.0), at=BEGAN + 500.0, gap=499.0))
    assert (away.members[0].stage, away.members[0].stopped_at) == (Stage.RESTARTING, 0.0)


def test_absent_listener_ends_no_stuck_rollout() -> None:
    kept = replace(all_open(3)[2], selected=False)
    rollout = a_rollout(*all_open(2), kept, stuck_since=BEGAN)
    after = machine.advance(rollout, look("RUNNING", "RUNNING", "BACKOFF", at=BEGAN + 500.0, gap=499.0))
    assert (after.status, after.stuck_since) == (Status.RUNNING, BEGAN + 499.0)


def test_rollout_ends_when_none_is_under_way() -> None:
    for stage in (Stage.DRAINING, Stage.RESTARTING, Stage.WARMING, Stage.READY):
        rollout = a_rollout(a_member(stage, pid=OLD), aborting=stage is not Stage.DRAINING)
        assert machine.advance(rollout, observed(a_process(), closed={})).status is Status.RUNNING


def test_stopped_selected_process_is_not_waited_for() -> None:
    first, second = all_open(2)
    rollout = a_rollout(replace(first, attempted=True, replaced=True, pid=101), second)
    down = Process("app-2", "STOPPED", down_for=MANUAL_STOP_GRACE - 0.1)
    table = {"app-1": Process("app-1", "RUNNING", 101), "app-2": down}
    assert machine.advance(rollout, Observation(BEGAN, table)).status is Status.RUNNING
    table["app-2"] = replace(down, down_for=MANUAL_STOP_GRACE)
    assert machine.advance(rollout, Observation(BEGAN, table)).status is Status.DONE


def stuck(rollout: Rollout, *states: str, **facts: Any) -> Rollout:
    """The rollout at the deadline of one that cannot go on."""
    waiting = machine.advance(rollout, look(*states, **facts))
    assert (waiting.status, waiting.stuck_since) == (Status.RUNNING, BEGAN)
    is_awaited = any(guarded.stage is Stage.WARMING for guarded in facts.get("guarded", {}).values())
    patience = 60.0 + (rollout.policy.warmup.timeout + rollout.policy.min_ready_seconds if is_awaited else 0.0)
    almost = machine.advance(waiting, look(*states, at=BEGAN + patience - 0.1, **facts))
    assert almost.status is Status.RUNNING
    return machine.advance(almost, look(*states, at=BEGAN + patience, **facts))


def test_stuck_rollout_fails_and_names_unavailable() -> None:
    kept = replace(all_open(3)[2], selected=False)
    after = stuck(a_rollout(*all_open(2), kept), "RUNNING", "RUNNING", "BACKOFF")
    assert after.status is Status.FAILED
    assert after.why == (
        "no process could be restarted for 60 s, because only 1 may be unavailable (max_unavailable), and app-3 is "
        "BACKOFF. Fix: repair the processes that are not available"
    )


def test_stuck_rollout_names_closed_processes() -> None:
    kept = replace(members(Stage.FAILED, Stage.FAILED, Stage.FAILED)[2], selected=False)
    after = stuck(a_rollout(*all_open(2), kept), "RUNNING", "RUNNING", "RUNNING")
    assert "and app-3 is failed. Fix: " in after.why


def test_stuck_on_last_process_suggests_force() -> None:
    after = stuck(a_rollout(*all_open(1), limit=2), "RUNNING")
    assert after.why == (
        "no process could be restarted for 60 s, because only one process serves. Fix: start another one, or accept an "
        "outage with --force"
    )


def test_rollout_that_moves_is_not_stuck() -> None:
    rollout = a_rollout(*all_open(2), stuck_since=BEGAN - 59.0)
    assert machine.advance(rollout, look("RUNNING", "RUNNING")).stuck_since == 0.0


def test_a_paused_rollout_is_never_stuck() -> None:
    rollout = a_rollout(*all_open(2), paused=True, stuck_since=BEGAN - 1000.0)
    after = machine.advance(rollout, look("RUNNING", "RUNNING"))
    assert (after.status, after.stuck_since) == (Status.RUNNING, 0.0)


@pytest.mark.parametrize("status", [Status.RUNNING, Status.DONE, Status.FAILED, Status.ABORTED])
def test_ended_rollout_keeps_failed_closed(status: Status) -> None:
    rollout = a_rollout(*members(*Stage), status=status)
    expected = {m.endpoints[0]: f"supervisor_rolling app:{m.name}" for m in rollout.members if m.stage in CLOSED_STAGES}
    assert machine.closed(rollout) == expected
    assert len(expected) == 4


def test_all_ports_of_a_process_are_closed() -> None:
    member = replace(a_member(Stage.FAILED), endpoints=(tcp(1), tcp(2), tcp(3)))
    assert list(machine.closed(a_rollout(member))) == [tcp(1), tcp(2), tcp(3)]


def test_warming_member_with_pid_is_a_job() -> None:
    one, two = members(Stage.WARMING, Stage.WARMING, pid=NEW)
    rollout = a_rollout(one, replace(two, pid=0), a_member(Stage.READY, pid=NEW))
    (job,) = machine.jobs(rollout).values()
    assert (list(machine.jobs(rollout)), job.pid, job.endpoints, job.bypass) == (["app-1"], NEW, (tcp(8001),), "mark")


def test_available_counts_open_running_processes() -> None:
    rollout = a_rollout(*members(Stage.OPEN, Stage.OPEN, Stage.READY, Stage.DRAINING, Stage.OPEN))
    assert available(rollout, look("RUNNING", "STARTING", "RUNNING", "RUNNING")) == 1


def test_least_available_is_remembered() -> None:
    rollout = a_rollout(*all_open(3), paused=True)
    after = machine.advance(rollout, look("RUNNING", "FATAL", "FATAL"))
    assert after.min_available == 1
    assert machine.advance(after, look("RUNNING", "RUNNING", "RUNNING")).min_available == 1


def test_resume_keeps_replaced_and_forgets_failures() -> None:
    done = a_member(replaced=True, attempted=True, failed=True, pid=NEW, why="died after it was replaced")
    closed = replace(done, name="app-2", stage=Stage.FAILED)
    waiting = replace(a_member(), name="app-3", failed=True, attempted=True, why="still receives new connections")
    previous = a_rollout(
        done, closed, waiting, status=Status.FAILED, aborting=True, started_at=BEGAN, ended_at=BEGAN + 5.0
    )
    fresh = a_rollout(a_member(), replace(a_member(Stage.FAILED), name="app-2"), replace(a_member(), name="app-3"))
    untried = tuple(replace(member, attempted=False) for member in fresh.members)
    fresh = replace(fresh, members=untried, started_at=BEGAN + 100.0)
    after = resumed(fresh, previous, look("RUNNING", "RUNNING", "RUNNING").processes)
    assert [(m.attempted, m.replaced, m.failed, m.why) for m in after.members] == [
        (True, True, False, ""),
        (False, False, False, ""),
        (False, False, False, ""),
    ]
    assert [m.stage for m in after.members] == [Stage.OPEN, Stage.FAILED, Stage.OPEN]
    assert after.members[0].pid == 0, "another client started it: it is not known to be warm"
    assert (after.status, after.aborting, after.ended_at, after.started_at) == (
        Status.RUNNING,
        False,
        0.0,
        BEGAN,
    )
    assert after.interruptions == (Interruption(BEGAN + 5.0, BEGAN + 100.0, previous.why),)


def test_plan_lists_unselected_last() -> None:
    first, second, third = all_open(3)
    rollout = a_rollout(replace(first, selected=False), second, third)
    plan = machine.planned(rollout, look("STOPPED", "RUNNING", "FATAL"))
    assert [member.name for member in plan.members] == ["app-3", "app-2", "app-1"]
    assert (plan.status, plan.ended_at) == (Status.PLANNED, BEGAN)


@pytest.mark.parametrize(
    "names", [["web_2", "web_10"], ["a", "b1", "b2"], ["2", "10"], ["x1y9", "x1y10", "x2"], ["1²", "2"]]
)
def test_natural_order_sorts_numbers(names: list[str]) -> None:
    backwards = names[::-1]
    assert sorted(backwards, key=natural) == names


def test_named_failed_process_is_drained_again() -> None:
    processes = {p.name: p for p in (a_process(), replace(a_process(), name="app-2", pid=102))}
    endpoints = {"app-1": (tcp(8001),), "app-2": (tcp(8002),)}
    policy = Policy("app", PortRule(pattern=r"app-(\d+)"), max_unavailable=Share(number=1))
    rollout = narrowed(
        begin(
            2,
            policy,
            GatePolicy(),
            Observation(BEGAN, processes),
            endpoints,
            {"app-1": Reason("warmup.answer", "is cold")},
        ),
        ("app-1",),
    )
    assert [(m.selected, m.stage) for m in rollout.members] == [(True, Stage.FAILED), (False, Stage.OPEN)]
    after = machine.advance(rollout, Observation(BEGAN + 1.0, processes, closed=CLOSED))
    assert (after.members[0].stage, machine.closed(after).keys()) == (Stage.DRAINING, {tcp(8001)})


# --- guarded processes


CRASHED = [
    a_guarded(Stage.WARMING),
    a_guarded(Stage.WARMING, closed=True),
    a_guarded(Stage.WARMING, closed=True, tries=2),
    a_guarded(Stage.READY),
    a_guarded(Stage.READY, tries=2),
    a_guarded(Stage.DOWN),
    a_guarded(Stage.DOWN, closed=True),
    a_guarded(Stage.FAILED, closed=True, tries=1),
]


SERVES_AS_IT_CAN = [a_guarded(Stage.OPEN), a_guarded(Stage.FAILED, tries=1), a_guarded(Stage.WARMING, tries=1)]


@pytest.mark.parametrize("guarded", CRASHED, ids=guarded_name)
def test_guarded_process_is_not_available(guarded: GuardedProcess) -> None:
    rollout, facts = a_rollout(*all_open(3), min_available=3), observed_with(*["RUNNING"] * 3, guarded=guarded)
    assert available(rollout, facts) == 2
    is_open = guarded.stage is Stage.WARMING and not guarded.closed  # users have it, although the rollout waits for it
    assert machine.advance(replace(rollout, paused=True), facts).min_available == (3 if is_open else 2)


@pytest.mark.parametrize("guarded", SERVES_AS_IT_CAN, ids=guarded_name)
def test_open_unwarmed_process_is_available(guarded: GuardedProcess) -> None:
    assert available(a_rollout(*all_open(3)), observed_with(*["RUNNING"] * 3, guarded=guarded)) == 3


@pytest.mark.parametrize("guarded", SERVES_AS_IT_CAN, ids=guarded_name)
def test_open_unwarmed_process_is_not_awaited(guarded: GuardedProcess) -> None:
    rollout = a_rollout(*all_open(3), limit=1, canary=0)
    assert left(machine.advance(rollout, observed_with(*["RUNNING"] * 3, guarded=guarded))) == ["app-1"]


@pytest.mark.parametrize("first", [a_guarded(Stage.WARMING, closed=True), a_guarded(Stage.WARMING)], ids=guarded_name)
def test_rollout_waits_for_guard_to_warm_crashed(
    first: GuardedProcess,
) -> None:
    rollout = a_rollout(*all_open(3), limit=1, canary=0)
    for guarded in (first, a_guarded(Stage.READY)):
        rollout = machine.advance(rollout, observed_with(*["RUNNING"] * 3, guarded=guarded))
        assert (left(rollout), rollout.status, rollout.stuck_since) == ([], Status.RUNNING, BEGAN)
    rollout = machine.advance(rollout, look(*["RUNNING"] * 3))
    assert (left(rollout), rollout.stuck_since) == (["app-1"], 0.0)


@pytest.mark.parametrize("stage", [Stage.FAILED, Stage.WARMING])
def test_unwarmed_closed_process_is_replaced_first(
    stage: Stage,
) -> None:
    guarded = a_guarded(stage, closed=True, tries=1)
    rollout = a_rollout(*all_open(3), limit=1, canary=0)
    assert left(machine.advance(rollout, observed_with(*["RUNNING"] * 3, guarded=guarded))) == ["app-3"]
    plan = machine.planned(rollout, observed_with(*["RUNNING"] * 3, guarded=guarded))
    assert [member.name for member in plan.members] == ["app-3", "app-1", "app-2"]


def test_down_process_is_replaced_first() -> None:
    rollout = a_rollout(*all_open(3), limit=1, canary=0)
    guarded = a_guarded(Stage.DOWN, closed=True)
    assert left(machine.advance(rollout, observed_with("RUNNING", "RUNNING", "BACKOFF", guarded=guarded))) == ["app-3"]


def test_last_warm_process_stays_open() -> None:
    rollout = a_rollout(*all_open(2), limit=2, canary=0)
    guarded = a_guarded(Stage.WARMING, closed=True, number=2)
    assert left(machine.advance(rollout, observed_with("RUNNING", "RUNNING", guarded=guarded))) == []


@pytest.mark.parametrize(
    ("state", "guarded", "words"),
    [
        ("RUNNING", a_guarded(Stage.WARMING, closed=True), "app-3 is warming"),
        ("RUNNING", a_guarded(Stage.FAILED, closed=True, tries=1), "app-3 is failed"),
        ("BACKOFF", a_guarded(Stage.DOWN, closed=True), "app-3 is BACKOFF"),
    ],
)
def test_stuck_rollout_says_what_guard_does(state: str, guarded: GuardedProcess, words: str) -> None:
    kept = replace(all_open(3)[2], selected=False)
    after = stuck(a_rollout(*all_open(2), kept), "RUNNING", "RUNNING", state, guarded={guarded.name: guarded})
    waited = "130" if guarded.stage is Stage.WARMING else "60"
    assert after.why == (
        f"no process could be restarted for {waited} s, because only 1 may be unavailable (max_unavailable), and "
        f"{words}. Fix: repair the processes that are not available"
    )
