"""What an observation makes of a member that is open, ready or gone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor_rolling.core.process import Process
from supervisor_rolling.core.process_states import MANUAL_STOP_GRACE, exited
from supervisor_rolling.core.restart import restart_action
from supervisor_rolling.core.rollout import Stage
from supervisor_rolling.core.stages import JOBS_AFTER, STARTSECS_HINT_WITHIN
from supervisor_rolling.core.transitions import MEMBER
from tests.support.members import (
    BEGAN,
    CLOSED,
    NAME,
    NEW,
    OLD,
    a_member,
    a_process,
    observed,
    ordered,
    ours,
    ready,
    stepped,
    warmup_status,
)

# --- open


@pytest.mark.parametrize("state", ["RUNNING", "EXITED", "FATAL", "STOPPED"])
def test_open_member_is_unchanged_before_it_leaves(state: str) -> None:
    assert stepped(a_member(), a_process(state, NEW, down_for=99.0)) == a_member()


def test_stopped_replaced_process_is_left_stopped() -> None:
    member = a_member(replaced=True, pid=NEW)
    assert stepped(member, a_process("STOPPED", down_for=99.0)) == member
    assert stepped(member, a_process("STOPPING", NEW)) == member


def test_running_replaced_process_is_unchanged() -> None:
    member = a_member(replaced=True, pid=NEW)
    assert stepped(member, a_process("RUNNING", NEW)) == member


@pytest.mark.parametrize(
    ("state", "pid"), [("STARTING", 300), ("RUNNING", 300), ("FATAL", 0), ("EXITED", 0), ("BACKOFF", 0)]
)
def test_exited_replaced_process_has_failed(state: str, pid: int) -> None:
    after = stepped(a_member(replaced=True, pid=NEW), a_process(state, pid))
    assert (after.stage, after.pid, after.failed) == (Stage.OPEN, NEW, True)
    now = "it was started again" if pid else f"it is {state}"
    assert after.why == (
        f"exited 1.0 s after its port was opened: {now}. Fix: raise startsecs, so that a process that crashes this "
        "early never receives traffic"
    )


def test_exit_of_a_replaced_worker_names_no_port() -> None:
    member = replace(a_member(replaced=True, pid=NEW), endpoints=())
    assert stepped(member, a_process("EXITED")).why == (
        "exited 1.0 s after it was ready: it is EXITED. Fix: raise startsecs, so that a process that crashes this "
        "early is not ready"
    )


def test_worker_may_end_after_its_jobs() -> None:
    member = replace(a_member(replaced=True, pid=NEW), endpoints=())
    for state in ("STARTING", "RUNNING"):
        after = stepped(member, a_process(state, 300), at=JOBS_AFTER)
        assert (after.stage, after.pid, after.replaced, after.failed) == (Stage.OPEN, 300, True, False)
    assert stepped(member, a_process("EXITED"), at=JOBS_AFTER) == member, "supervisord starts it in a moment"


@pytest.mark.parametrize(
    ("process", "at"),
    [
        (a_process("RUNNING", 300), JOBS_AFTER - 0.1),
        (a_process("EXITED", down_for=MANUAL_STOP_GRACE), JOBS_AFTER),
        (a_process("FATAL"), JOBS_AFTER),
    ],
    ids=["soon", "for good", "FATAL"],
)
def test_worker_that_crashes_has_failed(process: Process, at: float) -> None:
    member = replace(a_member(replaced=True, pid=NEW), endpoints=())
    assert stepped(member, process, at=at).failed


@pytest.mark.parametrize("stage", [Stage.OPEN, Stage.READY])
@pytest.mark.parametrize("state", ["STARTING", "RUNNING"])
def test_restarted_replaced_process_is_warmed_again(stage: Stage, state: str) -> None:
    after = stepped(a_member(stage, replaced=True, pid=NEW), a_process(state, 300, stopped_on_request=True))
    assert (after.stage, after.replaced, after.failed, after.why) == (Stage.WARMING, False, False, "")
    assert after.pid == 300
    warm = stepped(after, a_process("RUNNING", 300, stopped_on_request=True), **warmup_status("warm", pid=300))
    assert (warm.stage, warm.pid) == (Stage.READY, 300)


def test_late_exit_suggests_no_startsecs() -> None:
    after = stepped(a_member(replaced=True, pid=NEW), a_process("EXITED"), at=STARTSECS_HINT_WITHIN)
    assert after.why == "exited 60.0 s after its port was opened: it is EXITED"


def test_first_reason_of_failure_is_kept() -> None:
    after = stepped(a_member(replaced=True, pid=NEW, failed=True, why="x"), a_process("FATAL"))
    assert (after.stage, after.why) == (Stage.OPEN, "x")


# --- exited, and supervisord has not said so yet


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.DOWN])
def test_dead_process_stays_in_its_stage(stage: Stage) -> None:
    member = a_member(stage, pid=NEW, replaced=stage is Stage.OPEN)
    dead = a_process("EXITED", down_for=0.0)
    assert stepped(member, dead, dead={NAME: BEGAN}) == member
    assert restart_action(member, observed(dead, dead={NAME: BEGAN}), CLOSED) is None


def test_time_since_death_counts_not_stage_time() -> None:
    member = a_member(Stage.DRAINING)
    process = a_process("EXITED")
    assert stepped(member, process, at=70.0, dead={NAME: BEGAN + 69.9}) == member
    assert stepped(member, process, at=70.0, dead={NAME: BEGAN + 9.9}).stage is Stage.RESTARTING


def test_dead_open_process_waits_for_supervisord() -> None:
    member = a_member(replaced=True, pid=NEW)
    assert stepped(member, a_process("EXITED"), at=9999.0, dead={NAME: BEGAN + 9998.9}) == member


@pytest.mark.parametrize("stage", [Stage.DRAINING, Stage.RESTARTING, Stage.WARMING, Stage.READY])
def test_lost_process_is_waited_for_restart_timeout(stage: Stage) -> None:
    process, dead = a_process("EXITED"), {NAME: BEGAN}
    first = stepped(a_member(stage, pid=NEW), process, at=60.0, dead=dead)
    assert stepped(first, process, at=120.0, dead=dead).stage is not stage


def test_lost_crash_is_no_manual_stop() -> None:
    dead = exited(a_process("RUNNING", NEW, stopped_on_request=True))  # the command was for the one before
    member = stepped(a_member(Stage.READY, pid=NEW), dead, at=60.0, dead={NAME: BEGAN}, min_ready_seconds=100.0)
    assert (member.failed, member.why) == (True, "exited 60.0 s after its port was opened: it is EXITED")


# --- gone from the configuration


@pytest.mark.parametrize("stage", list(MEMBER))
def test_removed_process_is_opened_and_deselected(stage: Stage) -> None:
    after = stepped(a_member(stage), None)
    assert (after.stage, after.selected, after.failed) == (Stage.OPEN, False, False)
    assert after.why == "is no longer in supervisord's configuration"


def test_unselected_removed_process_is_opened() -> None:
    after = stepped(a_member(Stage.FAILED, selected=False, why="is STOPPED, and is left as it is"), None)
    assert after.stage is Stage.OPEN


def test_unselected_removed_process_is_untouched() -> None:
    member = a_member(selected=False, why="is STOPPED, and is left as it is")
    assert stepped(member, None) == member


# --- ready


def test_ready_process_is_open_after_min_ready_seconds() -> None:
    assert stepped(ready(), a_process("RUNNING", NEW), 9.9).stage is Stage.READY
    after = stepped(ready(), a_process("RUNNING", NEW), 10.0)
    assert (after.stage, after.replaced, after.timing.ready) == (Stage.OPEN, True, 10.0)


@pytest.mark.parametrize(("state", "pid"), [("STARTING", 300), ("FATAL", 0), ("EXITED", 0)])
def test_exit_while_ready_fails_the_member(state: str, pid: int) -> None:
    after = stepped(ready(), a_process(state, pid), 10.0)
    assert (after.stage, after.pid, after.failed, after.replaced) == (Stage.OPEN, NEW, True, False)


@pytest.mark.parametrize("stage", [Stage.DRAINING, Stage.WARMING, Stage.READY])
def test_manual_stop_is_kept_at_any_stage(stage: Stage) -> None:
    member = a_member(stage, pid=NEW, old_pid=100)
    assert stepped(member, a_process("STOPPED", down_for=MANUAL_STOP_GRACE - 0.1), 1.0).stage is stage
    after = stepped(member, a_process("STOPPED", down_for=MANUAL_STOP_GRACE), 1.0)
    assert (after.stage, after.selected, after.failed) == (Stage.OPEN, False, False)


def test_stop_of_new_process_is_left_stopped() -> None:
    stopped = a_process("STOPPED", spawned=2.0, down_for=MANUAL_STOP_GRACE)
    assert stepped(a_member(Stage.RESTARTING), stopped).selected is False
    assert stepped(a_member(Stage.RESTARTING), ours("STOPPED", down_for=MANUAL_STOP_GRACE)).selected is True


@pytest.mark.parametrize("state", ["STOPPING", "STOPPED"])
def test_process_stopped_by_other_is_not_started(state: str) -> None:
    process = a_process(state, down_for=0.1)
    assert stepped(a_member(Stage.RESTARTING), process).stage is Stage.DRAINING
    assert stepped(a_member(Stage.RESTARTING), replace(process, stopped_by_rollout=True)).stage is Stage.RESTARTING
    left = a_member(Stage.RESTARTING, old_pid=0, was_closed=True)
    assert stepped(left, process).stage is Stage.RESTARTING, "an earlier failure had left it STOPPED"


def test_process_stopped_by_rollout_is_started() -> None:
    assert stepped(a_member(Stage.DRAINING), ours("STOPPED", down_for=MANUAL_STOP_GRACE)).stage is Stage.RESTARTING


@pytest.mark.parametrize("state", ["STARTING", "RUNNING"])
def test_reused_pid_is_another_process(state: str) -> None:
    again = a_process(state, OLD, spawned=2.0)
    assert stepped(a_member(Stage.DRAINING), again).stage is Stage.RESTARTING
    after = stepped(a_member(Stage.RESTARTING), again)
    assert (after.stage, after.new) == (Stage.WARMING, again.incarnation)
    assert ordered(again, CLOSED) == ""
    third = stepped(after, replace(again, spawned=3.0), **warmup_status("warm", OLD))
    assert (third.stage, third.spawned, third.deaths) == (Stage.WARMING, 3.0, 1), "that warmth is of another"
