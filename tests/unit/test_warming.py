"""What becomes of a WARMING member."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor_rolling.core.jobs import WarmupStatus
from supervisor_rolling.core.policy import RestartPolicy, WarmupPolicy
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.process_states import MANUAL_STOP_GRACE
from supervisor_rolling.core.rollout import Stage
from supervisor_rolling.core.warming import MAX_EXITS, WARMUP_REPORT_GRACE
from tests.support.members import BEGAN, NAME, NEW, a_member, a_process, stepped, warming, warmup_status


def test_warm_running_process_is_ready() -> None:
    after = stepped(warming(), a_process("RUNNING", NEW), at=1.0, **warmup_status("warm"))
    assert (after.stage, after.since, after.failed) == (Stage.READY, BEGAN + 1.0, False)
    assert (after.requests, after.first_ms, after.last_ms) == (11, 730.0, 3.0)
    assert after.timing.warmed == 1.0


def test_warm_starting_process_stays_closed() -> None:
    starting = stepped(warming(), a_process("STARTING", NEW), at=0.5, **warmup_status("warm"))
    assert (starting.stage, starting.timing.warmed) == (Stage.WARMING, 0.0)
    running = stepped(starting, a_process("RUNNING", NEW), at=2.0, **warmup_status("warm"))
    assert (running.stage, running.timing.warmed, running.timing.started) == (Stage.READY, 2.0, 0.0)


def test_startsecs_above_restart_timeout_fail() -> None:
    restart = RestartPolicy(timeout=20.0)
    process = a_process("STARTING", NEW)
    assert stepped(warming(), process, 19.9, restart=restart, **warmup_status("warm")).stage is Stage.WARMING
    after = stepped(warming(), process, 20.0, restart=restart, **warmup_status("warm"))
    assert (after.stage, after.failed) == (Stage.FAILED, True)
    assert after.why == (
        "is warm, but not RUNNING after 20 s (restart.timeout). Fix: raise restart.timeout above its startsecs"
    )


def test_warm_up_progress_is_recorded_at_once() -> None:
    after = stepped(warming(), a_process("RUNNING", NEW), **warmup_status("failed", why="GET / answered 500"))
    assert (after.stage, after.failed, after.why) == (Stage.FAILED, True, "is not warm: GET / answered 500")


def test_crashed_process_keeps_warm_up_deadline() -> None:
    after = stepped(warming(), a_process("STARTING", 300), at=5.0, **warmup_status("warm"))
    assert (after.stage, after.pid, after.since) == (Stage.WARMING, 300, BEGAN)


def test_warm_up_of_other_pid_is_ignored() -> None:
    after = stepped(warming(), a_process("RUNNING", NEW), **warmup_status("warm", pid=300))
    assert (after.stage, after.requests) == (Stage.WARMING, 0)


def test_warm_up_of_down_process_is_ignored() -> None:
    assert stepped(warming(), a_process("BACKOFF"), **warmup_status("warm")).stage is Stage.WARMING


@pytest.mark.parametrize(
    ("process", "words"),
    [
        (a_process("FATAL", spawn_error="exited too quickly"), "FATAL: exited too quickly"),
        (a_process("EXITED", down_for=MANUAL_STOP_GRACE), "it is EXITED"),
    ],
)
def test_process_down_during_warm_up_fails(process: Process, words: str) -> None:
    after = stepped(warming(), process, **warmup_status("warming"))
    assert (after.stage, after.why) == (Stage.FAILED, f"exited during its warm-up: {words}")


def test_holder_of_port_is_named_when_start_fails() -> None:
    held = {NAME: "port 8001 is held by process 41 (python3)"}
    for member in (warming(), a_member(Stage.RESTARTING, old_spawned=1.0)):
        after = stepped(member, a_process("FATAL", spawn_error="exited too quickly", spawned=2.0), held=held)
        assert (after.stage, after.why.partition(": ")[2]) == (
            Stage.FAILED,
            "FATAL: exited too quickly; port 8001 is held by process 41 (python3)",
        )


def test_holder_of_port_is_named_in_backoff() -> None:
    held = {NAME: "port 8001 is held by process 41 (python3)"}
    starting = a_member(Stage.RESTARTING, old_spawned=1.0, stopped_at=BEGAN)
    for member in (warming(), starting):
        after = stepped(member, a_process("BACKOFF", spawned=2.0), at=999.0, held=held)
        assert after.stage is Stage.FAILED
        assert after.why.endswith(": it is BACKOFF; port 8001 is held by process 41 (python3)")


@pytest.mark.parametrize("state", ["EXITED", "STOPPED"])
def test_short_stop_during_warm_up_is_waited_for(state: str) -> None:
    process = a_process(state, down_for=MANUAL_STOP_GRACE - 0.1)
    assert stepped(warming(), process, **warmup_status("warming")).stage is Stage.WARMING


@pytest.mark.parametrize(
    ("facts", "sooner"),
    [
        (warmup_status("warming", why="nothing listens on port 8001"), 0.0),
        (warmup_status("warming", pid=300, why="nothing listens on port 8001"), WARMUP_REPORT_GRACE),
        ({}, WARMUP_REPORT_GRACE),
    ],
    ids=["its warm-up is about to say more", "it is not warmed", "nothing is known"],
)
def test_warm_up_fails_at_its_deadline(facts: dict[str, Any], sooner: float) -> None:
    warmup, process, deadline = (
        WarmupPolicy(timeout=15.0),
        a_process("RUNNING", NEW),
        15.0 + WARMUP_REPORT_GRACE - sooner,
    )
    assert stepped(warming(), process, deadline - 0.1, warmup=warmup, **facts).stage is Stage.WARMING
    after = stepped(warming(), process, deadline, warmup=warmup, **facts)
    words = "it is RUNNING" if sooner else "nothing listens on port 8001"
    assert (after.stage, after.why) == (Stage.FAILED, f"is not warm after 15 s (warmup.timeout): {words}")


def test_queued_time_extends_warm_up_deadline() -> None:
    process, warmup = a_process("RUNNING", NEW), WarmupPolicy(timeout=15.0)
    queued = {"warmups": {NAME: WarmupStatus(NEW, "warming", why="waits for a slot", queued=40.0, spawned=1.0)}}
    assert stepped(warming(), process, 55.0, warmup=warmup, **queued).stage is Stage.WARMING
    after = stepped(warming(), process, 55.0 + WARMUP_REPORT_GRACE, warmup=warmup, **queued)
    assert after.why == "is not warm after 15 s (warmup.timeout): waits for a slot"


def test_late_warm_up_fails_with_its_reason() -> None:
    process, warmup = a_process("RUNNING", NEW), WarmupPolicy(timeout=15.0)
    after = stepped(warming(), process, 15.01, warmup=warmup, **warmup_status("late", why="GET / did not answer"))
    assert (after.stage, after.failed) == (Stage.FAILED, True)
    assert after.why == "is not warm after 15 s (warmup.timeout): GET / did not answer"


def test_new_pid_at_deadline_fails_with_state() -> None:
    warmup = WarmupPolicy(timeout=15.0)
    after = stepped(
        warming(deaths=1), a_process(pid=NEW), 15.0 + WARMUP_REPORT_GRACE, warmup=warmup, **warmup_status("warming")
    )
    assert after.why == "is not warm after 15 s (warmup.timeout): it is RUNNING; it exited once during its warm-up"


def test_manual_restart_is_no_exit() -> None:
    after = stepped(warming(), a_process("STARTING", 300, stopped_on_request=True))
    assert (after.stage, after.pid, after.deaths) == (Stage.WARMING, 300, 0)


@pytest.mark.parametrize(("deaths", "times"), [(1, "once"), (3, "3 times")])
def test_exits_during_warm_up_are_counted(deaths: int, times: str) -> None:
    member, warmup = warming(), WarmupPolicy(timeout=15.0)
    for n in range(1, deaths + 1):
        member = stepped(member, a_process("STARTING", NEW + n), at=n)
    assert member.deaths == deaths
    after = stepped(member, a_process("EXITED"), 15.0, warmup=warmup)
    assert after.why == f"is not warm after 15 s (warmup.timeout): it is EXITED; it exited {times} during its warm-up"


def test_fifth_exit_during_warm_up_fails_the_member() -> None:
    member = warming(deaths=MAX_EXITS - 2)
    member = stepped(member, a_process("STARTING", 300), at=5.0)
    assert (member.stage, member.deaths) == (Stage.WARMING, MAX_EXITS - 1)
    after = stepped(member, a_process("STARTING", 301), at=6.0)
    assert (after.stage, after.why, after.code) == (
        Stage.FAILED,
        "exited 5 times during its warm-up",
        "warmup.exited",
    )


# --- stopped by another client meanwhile


def test_stopping_process_outlasts_its_warm_up() -> None:
    """A SIGTERM between fork and exec is lost, and then a stop takes stopwaitsecs."""
    stopping, warmup = a_process("STOPPING", NEW, stopwaitsecs=10.0), WarmupPolicy(timeout=10.0)
    assert stepped(warming(), stopping, 10.5, warmup=warmup) == warming()
    assert stepped(warming(), a_process("STOPPED", down_for=0.5), 11.0, warmup=warmup) == warming()
    after = stepped(warming(), a_process("STOPPED", down_for=MANUAL_STOP_GRACE), 14.0, warmup=warmup)
    assert (after.selected, after.why) == (False, "was stopped manually, and is left stopped")


def test_endless_stop_fails_the_member() -> None:
    stopping, warmup = a_process("STOPPING", NEW, stopwaitsecs=10.0), WarmupPolicy(timeout=10.0)
    assert stepped(warming(), stopping, 79.9, warmup=warmup).stage is Stage.WARMING
    after = stepped(warming(), stopping, 80.0, warmup=warmup)
    assert (after.stage, "is still STOPPING after 80 s" in after.why) == (Stage.FAILED, True)


def test_manual_restart_renews_warm_up_deadline() -> None:
    again = a_process("RUNNING", 300, spawned=2.0, stopped_on_request=True)
    after = stepped(warming(), again, 9.0)
    assert (after.stage, after.since, after.new, after.deaths) == (Stage.WARMING, BEGAN + 9.0, again.incarnation, 0)


def test_failed_member_is_unchanged() -> None:
    member = a_member(Stage.FAILED, failed=True, why="is not warm")
    assert stepped(member, a_process("RUNNING", NEW), 1000.0, **warmup_status("warm")) == member
