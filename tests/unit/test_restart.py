"""What becomes of a RESTARTING member, and what supervisord is told to do with it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from supervisor_rolling.core import machine
from supervisor_rolling.core.actions import Action, Verb
from supervisor_rolling.core.drain import GATE_TIMEOUT
from supervisor_rolling.core.endpoint import Endpoint, tcp
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import RestartPolicy
from supervisor_rolling.core.process import Incarnation, Process
from supervisor_rolling.core.process_states import MANUAL_STOP_GRACE, closed_since
from supervisor_rolling.core.restart import restart_action
from supervisor_rolling.core.rollout import Member, Stage
from tests.support.members import (
    BEGAN,
    CLOSED,
    NAME,
    NEW,
    OLD,
    PORT,
    a_member,
    a_process,
    a_rollout,
    down,
    observed,
    ordered,
    ours,
    ready,
    stepped,
    stopping,
    warming,
    warmup_status,
)


@pytest.mark.parametrize("state", ["STARTING", "RUNNING"])
def test_another_pid_is_the_new_process(state: str) -> None:
    after = stepped(a_member(Stage.RESTARTING), a_process(state, NEW), at=0.5)
    assert (after.stage, after.pid, after.since) == (Stage.WARMING, NEW, BEGAN + 0.5)
    assert (after.timing.stopped, after.stopped_at) == (0.5, BEGAN + 0.5)


def test_stopping_pid_is_not_the_new_process() -> None:
    process = a_process("STOPPING", NEW, spawned=2.0)
    assert stepped(a_member(Stage.RESTARTING), process).stage is Stage.RESTARTING


def test_stop_is_noted_once() -> None:
    down = stepped(a_member(Stage.RESTARTING), ours("STOPPED"), at=0.25)
    assert (down.stage, down.stopped_at, down.timing.stopped) == (Stage.RESTARTING, BEGAN + 0.25, 0.25)
    assert stepped(down, ours("STOPPED"), at=0.5) == down


def test_restart_time_is_stop_and_start() -> None:
    down = stepped(a_member(Stage.RESTARTING), ours("STOPPED"), at=0.25)
    timing = stepped(down, a_process("STARTING", NEW), at=0.75).timing
    assert (timing.stopped, timing.started) == (0.25, 0.5)


@pytest.mark.parametrize("state", ["RUNNING", "STOPPING"])
def test_while_it_stops_nothing_changes(state: str) -> None:
    assert stepped(a_member(Stage.RESTARTING), ours(state)) == a_member(Stage.RESTARTING)


@pytest.mark.parametrize("closed", [{}, {tcp(PORT): BEGAN + 0.5}], ids=["open", "open for a moment"])
def test_running_process_drains_again_after_open_gate(closed: dict[Endpoint, float]) -> None:
    after = stepped(a_member(Stage.RESTARTING), a_process(), closed=closed)
    assert (after.stage, after.since) == (Stage.DRAINING, BEGAN + 1.0)
    assert stepped(a_member(Stage.RESTARTING), ours("STOPPING"), closed=closed).stage is Stage.RESTARTING


def test_refused_command_fails_the_member() -> None:
    after = stepped(a_member(Stage.RESTARTING), ours("STOPPED"), refusals={NAME: "start it: NO_FILE: /srv/app"})
    assert (after.stage, after.why) == (Stage.FAILED, "supervisord refused to start it: NO_FILE: /srv/app")


def test_down_process_is_started_once_more() -> None:
    assert stepped(a_member(Stage.RESTARTING), a_process("FATAL", spawned=1.0)).stage is Stage.RESTARTING


@pytest.mark.parametrize(
    ("process", "words"),
    [
        (a_process("FATAL", spawned=2.0, spawn_error="no such file"), "FATAL: no such file"),
        (a_process("EXITED", spawned=2.0, down_for=MANUAL_STOP_GRACE), "it is EXITED"),
    ],
)
def test_process_that_does_not_start_fails(process: Process, words: str) -> None:
    after = stepped(a_member(Stage.RESTARTING), process)
    assert (after.stage, after.failed, after.why) == (Stage.FAILED, True, f"did not start: {words}")


def test_backoff_is_waited_for_until_deadline() -> None:
    process, restart = a_process("BACKOFF", spawned=2.0), RestartPolicy(timeout=20.0)
    member = stepped(a_member(Stage.RESTARTING), process, 0.5, restart=restart)
    assert stepped(member, process, 20.4, restart=restart).stage is Stage.RESTARTING
    after = stepped(member, process, 20.5, restart=restart)
    assert (after.stage, after.failed) == (Stage.FAILED, True)
    assert after.why == "did not start within 20 s (restart.timeout): it is BACKOFF"


# --- one that does not stop


UNSTOPPED = (
    "did not stop within 10 s (stopwaitsecs), so supervisord kills it. Its new process is started anyway. Fix: "
    "make it stop sooner, or raise stopwaitsecs; to accept such kills: restart: {on_kill: continue} for the group in "
    "rolling.yaml"
)


KILLED = RestartPolicy(on_kill="continue")


def test_stop_beyond_stopwaitsecs_fails() -> None:
    assert stepped(a_member(Stage.RESTARTING), stopping(9.99), 9.99) == a_member(Stage.RESTARTING)
    after = stepped(a_member(Stage.RESTARTING), stopping(10.0), 10.0)
    assert (after.stage, after.failed, after.killed, after.since) == (Stage.RESTARTING, True, False, BEGAN)
    assert after.why == UNSTOPPED
    assert stepped(after, stopping(12.0), 12.0) == after


def test_killed_process_is_replaced_and_failed() -> None:
    member = stepped(a_member(Stage.RESTARTING), stopping(10.0), 10.0)
    member = stepped(member, down(), 10.1)
    assert (member.stage, member.killed, member.timing.stopped) == (Stage.RESTARTING, True, pytest.approx(10.1))
    found = {NAME: down()}
    assert restart_action(member, Observation(BEGAN + 10.1, found, closed=CLOSED), CLOSED) == Action(
        Verb.START, NAME, Incarnation(0, 1.0)
    )
    member = stepped(member, a_process("RUNNING", NEW), 10.2)
    assert member.stage is Stage.WARMING
    member = stepped(member, a_process("RUNNING", NEW), 10.3, **warmup_status("warm"))
    assert member.stage is Stage.READY
    member = stepped(member, a_process("RUNNING", NEW), 30.0)
    assert (member.stage, member.replaced, member.failed, member.why) == (Stage.OPEN, True, True, UNSTOPPED)


def test_kill_between_observations_is_found() -> None:
    after = stepped(a_member(Stage.RESTARTING), down(10.01, down_for=0.02), 10.03)
    assert (after.killed, after.failed, after.why) == (True, True, UNSTOPPED)


@pytest.mark.parametrize("down_for", [0.01, 5.0])
def test_stop_in_time_is_no_kill(down_for: float) -> None:
    """The xtables lock may hold up a reconcile, before the command and after it."""
    after = stepped(a_member(Stage.RESTARTING), down(0.1, down_for=down_for), 12.0)
    assert (after.killed, after.failed, after.stopped_at) == (False, False, BEGAN + 12.0)
    assert not stepped(a_member(Stage.RESTARTING), stopping(0.05), 12.0).failed


def test_stop_of_new_process_is_no_kill() -> None:
    process = a_process("STOPPING", NEW, spawned=2.0, stopwaitsecs=10.0)
    assert not stepped(a_member(Stage.RESTARTING), process, 12.0).failed


@pytest.mark.parametrize(
    ("member", "policy"),
    [
        (a_member(Stage.RESTARTING), {"restart": KILLED}),
        (a_member(Stage.RESTARTING, lingering_connections=3), {}),
        (a_member(Stage.RESTARTING, was_closed=True), {}),
    ],
    ids=["on_kill: continue", "the drain ended with connections left", "it was closed for an earlier failure"],
)
def test_accepted_kill_is_noted_and_no_failure(member: Member, policy: dict[str, Any]) -> None:
    assert stepped(member, stopping(10.0), 10.0, **policy) == member
    after = stepped(member, down(), 10.1, **policy)
    assert (after.stage, after.failed, after.killed, after.why) == (Stage.RESTARTING, False, True, "")


def test_kill_of_a_worker_that_had_failed_is_a_failure() -> None:
    """It took jobs: nothing was closed."""
    member = replace(a_member(Stage.RESTARTING, was_closed=True), endpoints=())
    assert stepped(member, stopping(10.0), 10.0, closed={}).code == "restart.killed"


def test_stop_takes_as_long_as_stopwaitsecs_whatever_restart_timeout_is() -> None:
    restart, member = RestartPolicy(timeout=4.0), a_member(Stage.RESTARTING)
    assert stepped(member, stopping(3599.0, 3600.0), 3599.0, restart=restart) == member
    killed = stepped(member, stopping(3600.0, 3600.0), 3600.0, restart=restart)
    assert killed.why.startswith("did not stop within 3600 s (stopwaitsecs), so supervisord kills it. Its new process")
    after = stepped(killed, stopping(3604.0, 3600.0), 3604.0, restart=restart)
    assert after.stage is Stage.FAILED
    assert "; then is still STOPPING after 3604 s, although SIGKILL should have ended it. Fix: " in after.why


def test_start_timeout_begins_when_old_process_is_down() -> None:
    restart, process = RestartPolicy(timeout=20.0), a_process("BACKOFF", spawned=2.0)
    member = stepped(a_member(Stage.RESTARTING), down(stopwaitsecs=0.0), 25.0, restart=restart)
    assert (member.killed, member.stopped_at) == (False, BEGAN + 25.0)
    assert stepped(member, process, 44.9, restart=restart).stage is Stage.RESTARTING
    assert stepped(member, process, 45.0, restart=restart).stage is Stage.FAILED


def test_unknown_stopwaitsecs_uses_restart_timeout() -> None:
    assert not stepped(a_member(Stage.RESTARTING), stopping(59.9, 0.0), 59.9).failed
    after = stepped(a_member(Stage.RESTARTING), stopping(60.0, 0.0), 60.0)
    assert (after.stage, after.failed) == (Stage.RESTARTING, True)
    assert after.why.startswith("did not stop within 60 s (restart.timeout), ")


def test_killed_process_has_restart_timeout_to_start() -> None:
    restart = RestartPolicy(timeout=20.0, on_kill="continue")
    member = stepped(a_member(Stage.RESTARTING), down(), 10.1, restart=restart)
    process = a_process("BACKOFF", spawned=2.0)
    assert stepped(member, process, 30.0, restart=restart).stage is Stage.RESTARTING
    after = stepped(member, process, 30.2, restart=restart)
    assert (after.stage, after.why) == (Stage.FAILED, "did not start within 20 s (restart.timeout): it is BACKOFF")


def test_unkillable_process_fails_and_rollout_ends() -> None:
    member = stepped(a_member(Stage.RESTARTING), stopping(10.0), 10.0)
    assert stepped(member, stopping(69.0), 69.0).stage is Stage.RESTARTING
    after = stepped(member, stopping(70.0), 70.0)
    assert after.stage is Stage.FAILED
    assert after.why == (
        f"{UNSTOPPED}; then is still STOPPING after 70 s, although SIGKILL should have ended it. "
        "Fix: find out what its pid 100 waits for (ps, dmesg), and start the process again once that pid is gone"
    )


def test_kill_and_cold_process_are_both_told() -> None:
    member = warming(failed=True, why=UNSTOPPED)
    after = stepped(member, a_process("RUNNING", NEW), **warmup_status("failed", why="GET / answered 500"))
    assert (after.stage, after.why) == (Stage.FAILED, f"{UNSTOPPED}; then is not warm: GET / answered 500")


def test_kill_and_manual_stop_are_both_told() -> None:
    member = warming(failed=True, why=UNSTOPPED)
    after = stepped(member, a_process("STOPPED", down_for=MANUAL_STOP_GRACE))
    assert (after.stage, after.selected, after.failed) == (Stage.OPEN, False, True)
    assert after.why == f"{UNSTOPPED}; then was stopped manually, and is left stopped"
    assert stepped(after, a_process("STOPPED", down_for=MANUAL_STOP_GRACE)) == after


def test_kill_and_exit_are_both_told() -> None:
    member = ready(failed=True, killed=True, why=UNSTOPPED)
    after = stepped(member, a_process("EXITED"))
    assert (after.stage, after.failed) == (Stage.OPEN, True)
    assert after.why.startswith(f"{UNSTOPPED}; then exited 1.0 s after its port was opened: it is EX")
    assert stepped(after, a_process("EXITED")) == after


# --- commands to supervisord


def test_drained_process_is_stopped_behind_gate() -> None:
    assert ordered(a_process(), {tcp(PORT): BEGAN}) == "stop"
    assert ordered(a_process("STARTING"), {tcp(PORT): BEGAN - 5.0}) == "stop"


@pytest.mark.parametrize("closed", [{}, {tcp(PORT): BEGAN + 0.01}], ids=["open", "closed anew"])
def test_running_process_needs_closed_gate_to_stop(closed: dict[Endpoint, float]) -> None:
    assert ordered(a_process(), closed, at=1000.0) == ""


def test_open_second_port_prevents_stop() -> None:
    member = replace(a_member(Stage.RESTARTING), endpoints=(tcp(PORT), tcp(9001)))
    assert restart_action(member, observed(a_process()), {tcp(PORT): BEGAN}) is None


@pytest.mark.parametrize("state", ["STOPPED", "EXITED", "FATAL"])
def test_down_process_is_started_behind_gate(state: str) -> None:
    assert ordered(a_process(state), {tcp(PORT): BEGAN + 1.0}) == "start"
    assert ordered(a_process(state), {tcp(PORT): BEGAN + 1.1}) == ""
    assert ordered(a_process(state), {}) == ""


def test_process_is_started_without_gate_at_last() -> None:
    assert ordered(a_process("STOPPED"), {}, stopped_at=BEGAN, at=GATE_TIMEOUT - 0.1) == ""
    assert ordered(a_process("STOPPED"), {}, stopped_at=BEGAN, at=GATE_TIMEOUT) == "start"


def test_backoff_is_stopped_before_start() -> None:
    assert ordered(a_process("BACKOFF"), {}) == "stop"


@pytest.mark.parametrize("state", ["STOPPED", "EXITED", "FATAL", "BACKOFF"])
def test_started_process_gets_no_second_command(state: str) -> None:
    assert ordered(a_process(state, spawned=2.0), CLOSED) == ""


@pytest.mark.parametrize("process", [None, a_process("STOPPING"), a_process("UNKNOWN"), a_process("RUNNING", NEW)])
def test_no_command_without_startable_process(process: Process | None) -> None:
    assert ordered(process, CLOSED) == ""


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.RESTARTING])
def test_only_restarting_members_get_commands(stage: Stage) -> None:
    assert machine.actions(a_rollout(a_member(stage)), observed(a_process()), CLOSED) == ()
    restarting = a_rollout(a_member(Stage.RESTARTING))
    assert machine.actions(restarting, observed(a_process()), CLOSED) == (
        Action(Verb.STOP, NAME, Incarnation(OLD, 1.0)),
    )


def test_closed_since_counts_all_endpoints() -> None:
    assert closed_since(replace(a_member(), endpoints=()), {}) == -math.inf
    assert closed_since(a_member(), {}) == math.inf
