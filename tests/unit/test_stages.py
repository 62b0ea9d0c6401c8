"""What a look makes of a member that is open or ready, or not there: the moves of ``core/stages.py``."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor_rolling.core.process_states import MANUAL_STOP_GRACE, exited
from supervisor_rolling.core.restart import restart_action
from supervisor_rolling.core.rollout import Stage
from supervisor_rolling.core.stages import SOON
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


@pytest.mark.parametrize("stage", [Stage.OPEN, Stage.READY])
@pytest.mark.parametrize("state", ["STARTING", "RUNNING"])
<<<<<<< HEAD
def test_restarted_replaced_process_is_warmed_again(stage: Stage, state: str) -> None:
    after = stepped(a_member(stage, replaced=True, pid=NEW), a_process(state, 300, told_to_stop=True))
=======
def test_a_replaced_process_that_somebody_restarts_is_warmed_once_more(stage: Stage, state: str) -> None:
    after = stepped(a_member(stage, replaced=True, pid=NEW), a_process(state, 300, stopped_by_order=True))
>>>>>>> 5891a15 (Values: a comment at each field instead of lists in the docstrings; stopped_by_order instead of told_to_stop)
    assert (after.stage, after.replaced, after.failed, after.why) == (Stage.WARMING, False, False, "")
    assert after.pid == 300
    warm = stepped(after, a_process("RUNNING", 300, stopped_by_order=True), **warmup_status("warm", pid=300))
    assert (warm.stage, warm.pid) == (Stage.READY, 300)


def test_late_exit_suggests_no_startsecs() -> None:
    after = stepped(a_member(replaced=True, pid=NEW), a_process("EXITED"), at=SOON)
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


<<<<<<< HEAD
def test_lost_crash_is_no_manual_stop() -> None:
    dead = exited(a_process("RUNNING", NEW, told_to_stop=True))  # the rollout told the one before
=======
def test_a_crash_that_supervisord_lost_track_of_is_not_taken_for_a_stop_by_hand() -> None:
    dead = exited(a_process("RUNNING", NEW, stopped_by_order=True))  # the rollout told the one before
>>>>>>> 5891a15 (Values: a comment at each field instead of lists in the docstrings; stopped_by_order instead of told_to_stop)
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


<<<<<<< HEAD
=======
# --- draining


def test_a_drain_is_over_when_the_gate_was_closed_before_the_look_and_nobody_is_left() -> None:
    after = stepped(a_member(Stage.DRAINING), a_process(), at=1.5)
    assert (after.stage, after.since, after.timing.drained) == (Stage.RESTARTING, BEGAN + 1.5, 1.5)


@pytest.mark.parametrize(
    ("why", "facts"),
    [
        ("a connection is left", {"connections": {NAME: 2}}),
        ("the gate closed after the look", {"closed": {tcp(PORT): BEGAN + 1.1}}),
        ("the gate is open", {"closed": {}}),
        ("nobody looked at the connections", {"connections": {}}),
    ],
)
def test_a_drain_goes_on_while(why: str, facts: dict[str, Any]) -> None:
    assert stepped(a_member(Stage.DRAINING), a_process(), **facts).stage is Stage.DRAINING


def test_all_ports_of_a_process_have_to_be_closed() -> None:
    member = replace(a_member(Stage.DRAINING), endpoints=(tcp(PORT), tcp(9001)))
    assert stepped(member, a_process(), closed=CLOSED).stage is Stage.DRAINING
    assert stepped(member, a_process(), closed={**CLOSED, tcp(9001): BEGAN}).stage is Stage.RESTARTING


def test_the_connections_that_are_left_are_told() -> None:
    assert stepped(a_member(Stage.DRAINING), a_process(), connections={NAME: 7}).lingering_connections == 7


def test_min_is_waited_for_although_nobody_is_left() -> None:
    drain = DrainPolicy(min_seconds=2.0)
    assert stepped(a_member(Stage.DRAINING), a_process(), 1.9, drain=drain).stage is Stage.DRAINING
    assert stepped(a_member(Stage.DRAINING), a_process(), 2.0, drain=drain).stage is Stage.RESTARTING


def test_nobody_is_stopped_after_a_single_look_behind_the_gate() -> None:
    """The first look cannot tell who came through the closed gate."""
    drain = DrainPolicy(min_seconds=0.0)
    assert stepped(a_member(Stage.DRAINING), a_process(), LEAST_DRAIN / 2, drain=drain).stage is Stage.DRAINING
    assert stepped(a_member(Stage.DRAINING), a_process(), LEAST_DRAIN * 1.1, drain=drain).stage is Stage.RESTARTING


@pytest.mark.parametrize("wish", [{"aborting": True}, {"leaks": {NAME: "10.0.0.9:4711"}}])
def test_one_that_was_kept_closed_is_not_opened_as_it_is_when_its_drain_ends_otherwise(wish: dict[str, Any]) -> None:
    assert stepped(a_member(Stage.DRAINING, was_closed=True), a_process(), **wish).stage is Stage.FAILED
    assert stepped(a_member(Stage.DRAINING, was_closed=False), a_process(), **wish).stage is Stage.OPEN


def test_at_the_deadline_the_process_goes_with_what_is_left() -> None:
    busy = {NAME: 3}
    assert stepped(a_member(Stage.DRAINING), a_process(), 29.9, connections=busy).stage is Stage.DRAINING
    after = stepped(a_member(Stage.DRAINING), a_process(), 30.0, connections=busy)
    assert (after.stage, after.lingering_connections) == (Stage.RESTARTING, 3)


def test_with_on_timeout_fail_it_serves_on_and_says_how_many_were_left() -> None:
    drain = DrainPolicy(timeout=5.0, on_timeout="fail")
    after = stepped(a_member(Stage.DRAINING), a_process(), 5.0, drain=drain, connections={NAME: 3})
    assert (after.stage, after.failed) == (Stage.OPEN, True)
    assert after.why == (
        "still had 3 connections to port 8001 after 5 s of drain, so it was not stopped and keeps serving traffic "
        "(drain.on_timeout: fail). Fix: wait until they end, close them at the client, or raise drain.timeout"
    )


UPLOAD = Connection("10.0.0.7:51322", age=61.0, idle=0.6, last="received")
SOCKET = Connection("10.0.0.9:4711", age=2.0, idle=2.0, last="sent")


def test_with_on_timeout_fail_it_says_who_they_are_and_how_old() -> None:
    drain = DrainPolicy(timeout=5.0, on_timeout="fail")
    facts: dict[str, Any] = {"connections": {NAME: 3}, "oldest": {NAME: (UPLOAD, SOCKET)}}
    after = stepped(a_member(Stage.DRAINING), a_process(), 5.0, drain=drain, **facts)
    assert after.oldest_lingering == (UPLOAD, replace(SOCKET, age=5.0))
    assert after.lingering_connections == 3
    assert (
        "of drain (10.0.0.7:51322 open at least 61 s, last byte received 0.6 s ago; 10.0.0.9:4711 open at least 5 s, "
        "last byte sent 2 s ago; and 1 more), so it was not stopped"
    ) in after.why


def test_whoever_is_left_at_the_deadline_has_been_there_since_the_gate_closed() -> None:
    facts: dict[str, Any] = {"connections": {NAME: 2}, "oldest": {NAME: (UPLOAD, SOCKET)}}
    after = stepped(a_member(Stage.DRAINING), a_process(), 32.0, **facts)
    assert (after.stage, after.oldest_lingering) == (Stage.RESTARTING, (UPLOAD, replace(SOCKET, age=32.0)))
    late = stepped(a_member(Stage.DRAINING), a_process(), 50.0, closed={tcp(PORT): BEGAN + 20.0}, **facts)
    assert late.oldest_lingering == (UPLOAD, replace(SOCKET, age=30.0))  # by the gate that closed last


def test_before_the_deadline_nobody_is_told_by_name() -> None:
    facts: dict[str, Any] = {"connections": {NAME: 1}, "oldest": {NAME: (UPLOAD,)}}
    assert stepped(a_member(Stage.DRAINING), a_process(), 29.0, **facts).oldest_lingering == ()


def test_those_of_an_earlier_drain_are_forgotten_by_one_that_empties_the_process() -> None:
    member = a_member(Stage.DRAINING, lingering_connections=1, oldest_lingering=(UPLOAD,))
    after = stepped(member, a_process(), 1.0)
    assert (after.stage, after.lingering_connections, after.oldest_lingering) == (Stage.RESTARTING, 0, ())


@pytest.mark.parametrize("on_timeout", ["continue", "fail"])
@pytest.mark.parametrize("left", [0, 1])
def test_a_timeout_of_nothing_waits_for_the_second_look_all_the_same(on_timeout: str, left: int) -> None:
    """The first look cannot tell who came through the closed gate; and nobody fails for 0 connections."""
    drain, facts = DrainPolicy(timeout=0.0, on_timeout=on_timeout), {"connections": {NAME: left}}
    early = stepped(a_member(Stage.DRAINING), a_process(), LEAST_DRAIN / 2, drain=drain, **facts)
    assert early.stage is Stage.DRAINING
    after = stepped(a_member(Stage.DRAINING), a_process(), LEAST_DRAIN * 1.1, drain=drain, **facts)
    assert after.failed is (left > 0 and on_timeout == "fail")


NGINX = DrainPolicy(keepalive="nginx", idle_after=4.0)


@pytest.mark.parametrize(
    ("waited", "silent", "stage"),
    [
        (3.9, 60.0, Stage.DRAINING),  # idle before the gate closed: nginx may still pick it
        (9.0, 3.9, Stage.DRAINING),
        (4.0, 4.0, Stage.RESTARTING),
    ],
)
def test_what_stays_in_a_pool_is_idle_when_nothing_moved_for_quiet_behind_the_gate(
    waited: float, silent: float, stage: Stage
) -> None:
    facts: dict[str, Any] = {"connections": {NAME: 2}, "silent": {NAME: silent}}
    after = stepped(a_member(Stage.DRAINING), a_process(), waited, drain=NGINX, **facts)
    assert (after.stage, after.lingering_connections) == (stage, 2), "what the restart ends is told"
    other = replace(NGINX, keepalive="ignore")
    assert stepped(a_member(Stage.DRAINING), a_process(), waited, drain=other, **facts).stage is Stage.DRAINING


def test_quiet_does_not_cut_min_short() -> None:
    facts: dict[str, Any] = {"connections": {NAME: 2}, "silent": {NAME: 60.0}, "drain": replace(NGINX, min_seconds=6.0)}
    assert stepped(a_member(Stage.DRAINING), a_process(), 5.9, **facts).stage is Stage.DRAINING
    assert stepped(a_member(Stage.DRAINING), a_process(), 6.0, **facts).stage is Stage.RESTARTING


def test_where_nobody_makes_the_pool_run_dry_silence_means_nothing() -> None:
    facts: dict[str, Any] = {"connections": {NAME: 2}, "drain": NGINX}
    assert stepped(a_member(Stage.DRAINING), a_process(), 29.0, **facts).stage is Stage.DRAINING


def test_a_pool_that_speaks_tls_stops_the_rollout_and_says_what_to_do() -> None:
    facts: dict[str, Any] = {"connections": {NAME: 2}, "sealed": frozenset({NAME}), "drain": NGINX}
    assert stepped(a_member(Stage.DRAINING), a_process(), 2.9, **facts).stage is Stage.DRAINING
    after = stepped(a_member(Stage.DRAINING), a_process(), 3.0, **facts)
    assert (after.stage, after.failed) == (Stage.OPEN, True)
    assert after.why == (
        "answers on old connections to port 8001 in TLS or HTTP/2, where nginx cannot be told to close them "
        "(drain.keepalive: nginx), so it was not stopped and keeps serving traffic. Fix: in nginx's upstream, remove "
        "the keepalive line (nginx 1.29.7 or later: keepalive 0;); or proxy_pass to it in plain HTTP"
    )


def test_one_that_was_kept_closed_has_drained_since_it_was_closed_whatever_on_timeout_says() -> None:
    """What is left is mostly the warm-up that it never answered; and there is nothing to go on serving."""
    cold, busy, drain = (
        a_member(Stage.DRAINING, was_closed=True),
        {NAME: 1},
        DrainPolicy(timeout=30.0, on_timeout="fail"),
    )
    facts = {"drain": drain, "connections": busy}
    early = {tcp(PORT): BEGAN - 28.9}
    assert stepped(cold, a_process(), 1.0, closed=early, **facts).stage is Stage.DRAINING
    assert stepped(cold, a_process(), 1.2, closed=early, **facts).stage is Stage.RESTARTING
    long_ago = {tcp(PORT): BEGAN - 99.0}
    assert stepped(cold, a_process(), LEAST_DRAIN / 2, closed=long_ago, **facts).stage is Stage.DRAINING
    after = stepped(cold, a_process(), LEAST_DRAIN * 1.1, closed=long_ago, **facts)
    assert (after.stage, after.lingering_connections) == (Stage.RESTARTING, 1)


def test_a_gate_that_was_open_meanwhile_lets_the_wait_begin_anew() -> None:
    late, busy = {tcp(PORT): BEGAN + 20.0}, {NAME: 3}
    assert stepped(a_member(Stage.DRAINING), a_process(), 40.0, closed=late, connections=busy).stage is Stage.DRAINING
    assert stepped(a_member(Stage.DRAINING), a_process(), 50.0, closed=late, connections=busy).stage is Stage.RESTARTING


@pytest.mark.parametrize(
    ("problem", "words"), [("table locked", "table locked"), ("", "the kernel does not show the rule")]
)
def test_a_gate_that_does_not_close_in_time_fails_and_the_process_serves_on(problem: str, words: str) -> None:
    facts = {"closed": {}, "gate_problem": problem, "unclosed": {NAME: BEGAN}}
    assert stepped(a_member(Stage.DRAINING), a_process(), GATE_PATIENCE - 0.1, **facts).stage is Stage.DRAINING
    after = stepped(a_member(Stage.DRAINING), a_process(), GATE_PATIENCE, **facts)
    assert (after.stage, after.failed) == (Stage.OPEN, True)
    assert after.why == f"its gate could not be closed within 10 s, so it was not stopped: {words}"


def test_a_gate_that_fails_for_a_moment_late_in_a_drain_does_not_end_it() -> None:
    """Somebody holds the lock: what was closed is closed under its lease."""
    at = GATE_PATIENCE + 5.0
    facts = {"closed": {}, "gate_problem": "the lock is held", "unclosed": {NAME: BEGAN + at - 0.1}}
    assert stepped(a_member(Stage.DRAINING), a_process(), at, **facts).stage is Stage.DRAINING


def test_a_leak_past_haproxy_names_its_backend() -> None:
    after = stepped(a_member(Stage.DRAINING), a_process(), gate=GatePolicy("haproxy"), leaks={NAME: "10.0.0.9:4711"})
    assert (after.stage, after.failed) == (Stage.OPEN, True)
    assert after.why.startswith("still receives requests that HAProxy's backend does not count (from 10.0.0.9:4711 to")


def test_one_that_dies_of_the_signal_that_tells_it_is_brought_back_and_the_rollout_has_failed_on_it() -> None:
    drain = DrainPolicy(signal="USR1")
    died = a_process("EXITED", 0)
    after = stepped(a_member(Stage.DRAINING), died, signalled=frozenset({NAME}), drain=drain)
    assert (after.stage, after.failed) == (Stage.RESTARTING, True)
    assert after.why.startswith("exited after SIGUSR1 (drain.signal): requests in flight were lost")
    for process, told in ((died, frozenset()), (replace(died, stopped_by_order=True), frozenset({NAME}))):
        assert not stepped(a_member(Stage.DRAINING), process, drain=drain, signalled=told).failed


def test_a_leak_is_told_with_the_peer_and_the_port_and_the_process_serves_on() -> None:
    after = stepped(a_member(Stage.DRAINING), a_process(), leaks={NAME: "10.0.0.9:4711"})
    assert (after.stage, after.failed) == (Stage.OPEN, True)
    assert "(from 10.0.0.9:4711 to port 8001), so it was not stopped" in after.why


POOL = KeepaliveReuse(41, 3, REUSE_TIMES, "10.0.0.9:4711", REUSE_PATIENCE)


def drained_behind(reuse: KeepaliveReuse, at: float, keepalive: str = "refuse", timeout: float = 5.0) -> Member:
    facts = {"reuses": {NAME: reuse}, "connections": {NAME: 3}}
    drain = DrainPolicy(timeout=timeout, keepalive=keepalive)
    return stepped(a_member(Stage.DRAINING), a_process(), at, drain=drain, **facts)


def test_a_pool_that_is_used_on_and_on_is_told_with_the_ways_out_and_the_process_serves_on() -> None:
    after = drained_behind(POOL, REUSE_PATIENCE)
    assert (after.stage, after.failed) == (Stage.OPEN, True)
    assert "(41 in 1.0 s over 3 connections, from 10.0.0.9:4711 to port 8001), so it was not stopped" in after.why
    ways_out = ("keepalive 0;", "supervisor_rolling.wsgi or .asgi", "{keepalive: nginx}", "drain: {keepalive: ignore}")
    for way_out in ways_out:
        assert way_out in after.why


def test_a_pool_that_may_yet_run_dry_is_waited_for_until_the_drain_is_over() -> None:
    seldom = replace(POOL, most=REUSE_TIMES - 1)
    assert drained_behind(POOL, REUSE_PATIENCE - 0.1).stage is Stage.DRAINING
    assert drained_behind(seldom, 4.9).stage is Stage.DRAINING
    assert drained_behind(seldom, 5.0).failed
    assert drained_behind(POOL, 0.5, timeout=0.5).failed


def test_a_pool_is_waited_for_like_any_connection_where_that_is_accepted() -> None:
    assert drained_behind(POOL, 4.9, "ignore").stage is Stage.DRAINING
    after = drained_behind(POOL, 5.0, "ignore")
    assert (after.stage, after.failed, after.lingering_connections) == (Stage.RESTARTING, False, 3)


def test_a_process_that_an_operator_stops_while_it_drains_is_left_stopped() -> None:
    after = stepped(a_member(Stage.DRAINING), a_process("STOPPED", down_for=MANUAL_STOP_GRACE))
    assert (after.stage, after.selected, after.failed) == (Stage.OPEN, False, False)
    assert after.why == "was stopped manually, and is left stopped"


@pytest.mark.parametrize(
    "process",
    [a_process("STOPPED", down_for=MANUAL_STOP_GRACE - 0.1), a_process("STOPPING")],
    ids=["stopped", "stopping"],
)
def test_in_the_middle_of_a_restart_by_hand_a_drain_waits(process: Process) -> None:
    assert stepped(a_member(Stage.DRAINING), process).stage is Stage.DRAINING


@pytest.mark.parametrize(
    "process", [a_process("RUNNING", NEW), a_process("STARTING", NEW), *map(a_process, ("BACKOFF", "FATAL", "EXITED"))]
)
def test_where_the_old_process_is_gone_there_is_nothing_to_drain(process: Process) -> None:
    assert stepped(a_member(Stage.DRAINING), process, connections={NAME: 9}).stage is Stage.RESTARTING


def test_an_abort_while_it_drains_brings_it_back_untouched() -> None:
    after = stepped(a_member(Stage.DRAINING), a_process(), aborting=True)
    assert (after.stage, after.attempted, after.failed) == (Stage.OPEN, False, False)


# --- restarting


@pytest.mark.parametrize("state", ["STARTING", "RUNNING"])
def test_another_pid_is_the_new_process(state: str) -> None:
    after = stepped(a_member(Stage.RESTARTING), a_process(state, NEW), at=0.5)
    assert (after.stage, after.pid, after.since) == (Stage.WARMING, NEW, BEGAN + 0.5)
    assert (after.timing.stopped, after.stopped_at) == (0.5, BEGAN + 0.5)


def test_another_pid_that_is_being_stopped_is_not_the_new_process_yet() -> None:
    process = a_process("STOPPING", NEW, spawned=2.0)
    assert stepped(a_member(Stage.RESTARTING), process).stage is Stage.RESTARTING


def test_when_it_was_down_is_noted_once() -> None:
    down = stepped(a_member(Stage.RESTARTING), ours("STOPPED"), at=0.25)
    assert (down.stage, down.stopped_at, down.timing.stopped) == (Stage.RESTARTING, BEGAN + 0.25, 0.25)
    assert stepped(down, ours("STOPPED"), at=0.5) == down


def test_a_restart_is_the_time_to_stop_and_the_time_until_there_is_a_new_pid() -> None:
    down = stepped(a_member(Stage.RESTARTING), ours("STOPPED"), at=0.25)
    timing = stepped(down, a_process("STARTING", NEW), at=0.75).timing
    assert (timing.stopped, timing.started) == (0.25, 0.5)


@pytest.mark.parametrize("state", ["RUNNING", "STOPPING"])
def test_while_it_stops_nothing_changes(state: str) -> None:
    assert stepped(a_member(Stage.RESTARTING), ours(state)) == a_member(Stage.RESTARTING)


@pytest.mark.parametrize("closed", [{}, {tcp(PORT): BEGAN + 0.5}], ids=["open", "open for a moment"])
def test_a_gate_that_was_open_lets_one_that_still_runs_drain_again(closed: dict[Endpoint, float]) -> None:
    after = stepped(a_member(Stage.RESTARTING), a_process(), closed=closed)
    assert (after.stage, after.since) == (Stage.DRAINING, BEGAN + 1.0)
    assert stepped(a_member(Stage.RESTARTING), ours("STOPPING"), closed=closed).stage is Stage.RESTARTING


def test_an_order_that_supervisord_refuses_for_good_fails() -> None:
    after = stepped(a_member(Stage.RESTARTING), ours("STOPPED"), refusals={NAME: "start it: NO_FILE: /srv/app"})
    assert (after.stage, after.why) == (Stage.FAILED, "supervisord refused to start it: NO_FILE: /srv/app")


def test_one_that_was_dead_before_is_given_its_chance() -> None:
    assert stepped(a_member(Stage.RESTARTING), a_process("FATAL", spawned=1.0)).stage is Stage.RESTARTING


@pytest.mark.parametrize(
    ("process", "words"),
    [
        (a_process("FATAL", spawned=2.0, spawn_error="no such file"), "FATAL: no such file"),
        (a_process("EXITED", spawned=2.0, down_for=MANUAL_STOP_GRACE), "it is EXITED"),
    ],
)
def test_one_that_does_not_come_up_has_failed_and_says_why(process: Process, words: str) -> None:
    after = stepped(a_member(Stage.RESTARTING), process)
    assert (after.stage, after.failed, after.why) == (Stage.FAILED, True, f"did not start: {words}")


def test_one_that_supervisord_tries_again_is_waited_for_until_the_deadline() -> None:
    process, restart = a_process("BACKOFF", spawned=2.0), RestartPolicy(timeout=20.0)
    member = stepped(a_member(Stage.RESTARTING), process, 0.5, restart=restart)
    assert stepped(member, process, 20.4, restart=restart).stage is Stage.RESTARTING
    after = stepped(member, process, 20.5, restart=restart)
    assert (after.stage, after.failed) == (Stage.FAILED, True)
    assert after.why == "did not start within 20 s (restart.timeout): it is BACKOFF"


# --- one that does not stop

UNSTOPPED = (
    "did not stop within 10 s (stopwaitsecs), so supervisord kills it. Its new process is started all the same. Fix: "
    "make it stop sooner, or raise stopwaitsecs; to accept such kills: restart: {on_kill: continue} in its policy"
)
KILLED = RestartPolicy(on_kill="continue")


def stopping(took: float, stopwaitsecs: float = 10.0) -> Process:
    return ours("STOPPING", stop_took=took, stopwaitsecs=stopwaitsecs)


def down(took: float = 10.0, **changes: Any) -> Process:
    return ours("STOPPED", **{"stop_took": took, "stopwaitsecs": 10.0, **changes})


def test_the_rollout_fails_on_one_that_does_not_stop_before_supervisord_kills_it_and_goes_on_with_it() -> None:
    assert stepped(a_member(Stage.RESTARTING), stopping(9.99), 9.99) == a_member(Stage.RESTARTING)
    after = stepped(a_member(Stage.RESTARTING), stopping(10.0), 10.0)
    assert (after.stage, after.failed, after.killed, after.since) == (Stage.RESTARTING, True, False, BEGAN)
    assert after.why == UNSTOPPED
    assert stepped(after, stopping(12.0), 12.0) == after


def test_one_that_was_killed_is_started_warmed_and_opened_and_stays_a_failure() -> None:
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


def test_a_kill_that_came_between_two_looks_is_known_by_its_moment() -> None:
    after = stepped(a_member(Stage.RESTARTING), down(10.01, down_for=0.02), 10.03)
    assert (after.killed, after.failed, after.why) == (True, True, UNSTOPPED)


@pytest.mark.parametrize("down_for", [0.01, 5.0])
def test_one_that_stopped_in_time_was_not_killed_however_late_it_was_told_or_seen(down_for: float) -> None:
    """A turn may be held up by the lock of xtables, before the order and after it."""
    after = stepped(a_member(Stage.RESTARTING), down(0.1, down_for=down_for), 12.0)
    assert (after.killed, after.failed, after.stopped_at) == (False, False, BEGAN + 12.0)
    assert not stepped(a_member(Stage.RESTARTING), stopping(0.05), 12.0).failed


def test_a_new_process_that_somebody_else_stops_is_not_one_that_did_not_stop_for_us() -> None:
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
def test_a_kill_that_was_accepted_is_no_failure_but_is_noted(member: Member, policy: dict[str, Any]) -> None:
    assert stepped(member, stopping(10.0), 10.0, **policy) == member
    after = stepped(member, down(), 10.1, **policy)
    assert (after.stage, after.failed, after.killed, after.why) == (Stage.RESTARTING, False, True, "")


LATE = "did not stop within 4 s (restart.timeout), so supervisord kills it after its stopwaitsecs. Its new process is"


def test_where_restart_timeout_is_below_stopwaitsecs_it_is_the_deadline_and_nothing_is_left_stopped() -> None:
    """No rollout begins so, but stopwaitsecs may be raised while one runs."""
    restart = RestartPolicy(timeout=4.0)
    assert not stepped(a_member(Stage.RESTARTING), stopping(3.9), 3.9, restart=restart).failed
    member = stepped(a_member(Stage.RESTARTING), stopping(4.0), 4.0, restart=restart)
    assert (member.stage, member.failed) == (Stage.RESTARTING, True)
    assert member.why.startswith(LATE)
    assert stepped(member, stopping(7.9), 7.9, restart=restart) == member
    killed = stepped(member, down(7.0, stopwaitsecs=7.0), 7.1, restart=restart)
    assert (killed.stage, killed.killed) == (Stage.RESTARTING, True)
    assert stepped(killed, a_process("STARTING", NEW), 7.2, restart=restart).stage is Stage.WARMING


@pytest.mark.parametrize("stopwaitsecs", [0.0, 3600.0])
def test_no_rollout_waits_for_longer_than_its_own_deadlines_whatever_stopwaitsecs_is(stopwaitsecs: float) -> None:
    restart = RestartPolicy(timeout=4.0)
    member = stepped(a_member(Stage.RESTARTING), stopping(4.0, stopwaitsecs), 4.0, restart=restart)
    assert stepped(member, stopping(7.9, stopwaitsecs), 7.9, restart=restart).stage is Stage.RESTARTING
    after = stepped(member, stopping(8.0, stopwaitsecs), 8.0, restart=restart)
    assert after.stage is Stage.FAILED
    assert after.why.startswith(LATE)
    assert after.why.endswith(
        "; then is still STOPPING after 8 s. Fix: find out what its pid 100 waits for (ps, dmesg), and start it "
        "when that is gone"
    ), "nobody has killed it yet"


def test_a_new_process_has_its_own_patience_however_long_the_old_one_took_and_whoever_ended_it() -> None:
    restart, process = RestartPolicy(timeout=20.0), a_process("BACKOFF", spawned=2.0)
    member = stepped(a_member(Stage.RESTARTING), down(stopwaitsecs=0.0), 25.0, restart=restart)
    assert (member.killed, member.stopped_at) == (False, BEGAN + 25.0)
    assert stepped(member, process, 44.9, restart=restart).stage is Stage.RESTARTING
    assert stepped(member, process, 45.0, restart=restart).stage is Stage.FAILED


def test_where_supervisord_does_not_tell_its_stopwaitsecs_restart_timeout_is_the_deadline() -> None:
    assert not stepped(a_member(Stage.RESTARTING), stopping(59.9, 0.0), 59.9).failed
    after = stepped(a_member(Stage.RESTARTING), stopping(60.0, 0.0), 60.0)
    assert (after.stage, after.failed) == (Stage.RESTARTING, True)
    assert after.why.startswith("did not stop within 60 s (restart.timeout), ")


def test_a_killed_one_has_restart_timeout_from_its_end_to_come_up() -> None:
    restart = RestartPolicy(timeout=20.0, on_kill="continue")
    member = stepped(a_member(Stage.RESTARTING), down(), 10.1, restart=restart)
    process = a_process("BACKOFF", spawned=2.0)
    assert stepped(member, process, 30.0, restart=restart).stage is Stage.RESTARTING
    after = stepped(member, process, 30.2, restart=restart)
    assert (after.stage, after.why) == (Stage.FAILED, "did not start within 20 s (restart.timeout): it is BACKOFF")


def test_one_that_even_sigkill_does_not_end_is_given_up_and_the_rollout_can_end() -> None:
    member = stepped(a_member(Stage.RESTARTING), stopping(10.0), 10.0)
    assert stepped(member, stopping(69.0), 69.0).stage is Stage.RESTARTING
    after = stepped(member, stopping(70.0), 70.0)
    assert after.stage is Stage.FAILED
    assert after.why == (
        f"{UNSTOPPED}; then is still STOPPING after 70 s, and SIGKILL should have ended it. "
        "Fix: find out what its pid 100 waits for (ps, dmesg), and start it when that is gone"
    )


def test_one_that_was_killed_and_then_is_not_warm_says_both() -> None:
    member = warming(failed=True, why=UNSTOPPED)
    after = stepped(member, a_process("RUNNING", NEW), **warmup_status("failed", why="GET / answered 500"))
    assert (after.stage, after.why) == (Stage.FAILED, f"{UNSTOPPED}; then is not warm: GET / answered 500")


def test_one_that_did_not_stop_and_is_then_stopped_by_hand_still_says_so() -> None:
    member = warming(failed=True, why=UNSTOPPED)
    after = stepped(member, a_process("STOPPED", down_for=MANUAL_STOP_GRACE))
    assert (after.stage, after.selected, after.failed) == (Stage.OPEN, False, True)
    assert after.why == f"{UNSTOPPED}; then was stopped manually, and is left stopped"
    assert stepped(after, a_process("STOPPED", down_for=MANUAL_STOP_GRACE)) == after


def test_one_that_did_not_stop_and_whose_new_process_dies_says_both_once() -> None:
    member = ready(failed=True, killed=True, why=UNSTOPPED)
    after = stepped(member, a_process("EXITED"))
    assert (after.stage, after.failed) == (Stage.OPEN, True)
    assert after.why.startswith(f"{UNSTOPPED}; then exited 1.0 s after its port was opened: it is EX")
    assert stepped(after, a_process("EXITED")) == after


# --- warming


def warming(**changes: Any) -> Member:
    return a_member(Stage.WARMING, pid=NEW, **changes)


def warmup_status(state: str, pid: int = NEW, why: str = "") -> dict[str, Any]:
    return {"warmups": {NAME: WarmupStatus(pid, state, 11, 730.0, 3.0, why, spawned=1.0)}}


def test_warm_and_running_it_is_opened_and_settles() -> None:
    after = stepped(warming(), a_process("RUNNING", NEW), at=1.0, **warmup_status("warm"))
    assert (after.stage, after.since, after.failed) == (Stage.READY, BEGAN + 1.0, False)
    assert (after.requests, after.first_ms, after.last_ms) == (11, 730.0, 3.0)
    assert after.timing.warmed == 1.0


def test_warm_before_startsecs_are_over_it_stays_closed_and_that_counts_as_warming() -> None:
    starting = stepped(warming(), a_process("STARTING", NEW), at=0.5, **warmup_status("warm"))
    assert (starting.stage, starting.timing.warmed) == (Stage.WARMING, 0.0)
    running = stepped(starting, a_process("RUNNING", NEW), at=2.0, **warmup_status("warm"))
    assert (running.stage, running.timing.warmed, running.timing.started) == (Stage.READY, 2.0, 0.0)


def test_startsecs_above_restart_timeout_fail_with_words_that_say_so() -> None:
    restart = RestartPolicy(timeout=20.0)
    process = a_process("STARTING", NEW)
    assert stepped(warming(), process, 19.9, restart=restart, **warmup_status("warm")).stage is Stage.WARMING
    after = stepped(warming(), process, 20.0, restart=restart, **warmup_status("warm"))
    assert (after.stage, after.failed) == (Stage.FAILED, True)
    assert after.why == (
        "is warm, but not RUNNING after 20 s (restart.timeout). Fix: raise restart.timeout above its startsecs"
    )


def test_what_the_warm_up_found_is_told_at_once() -> None:
    after = stepped(warming(), a_process("RUNNING", NEW), **warmup_status("failed", why="GET / answered 500"))
    assert (after.stage, after.failed, after.why) == (Stage.FAILED, True, "is not warm: GET / answered 500")


def test_one_that_came_back_with_another_pid_is_warmed_under_the_same_deadline() -> None:
    after = stepped(warming(), a_process("STARTING", 300), at=5.0, **warmup_status("warm"))
    assert (after.stage, after.pid, after.since) == (Stage.WARMING, 300, BEGAN)


def test_the_warmth_of_another_pid_does_not_count() -> None:
    after = stepped(warming(), a_process("RUNNING", NEW), **warmup_status("warm", pid=300))
    assert (after.stage, after.requests) == (Stage.WARMING, 0)


def test_the_warmth_of_one_that_is_down_does_not_count() -> None:
    assert stepped(warming(), a_process("BACKOFF"), **warmup_status("warm")).stage is Stage.WARMING


@pytest.mark.parametrize(
    ("process", "words"),
    [
        (a_process("FATAL", spawn_error="exited too quickly"), "FATAL: exited too quickly"),
        (a_process("EXITED", down_for=MANUAL_STOP_GRACE), "it is EXITED"),
    ],
)
def test_one_that_stays_down_while_it_is_warmed_has_failed(process: Process, words: str) -> None:
    after = stepped(warming(), process, **warmup_status("warming"))
    assert (after.stage, after.why) == (Stage.FAILED, f"exited during its warm-up: {words}")


def test_who_holds_the_port_of_one_that_does_not_come_up_is_told() -> None:
    held = {NAME: "port 8001 is held by process 41 (python3)"}
    for member in (warming(), a_member(Stage.RESTARTING, old_spawned=1.0)):
        after = stepped(member, a_process("FATAL", spawn_error="exited too quickly", spawned=2.0), held=held)
        assert (after.stage, after.why.partition(": ")[2]) == (
            Stage.FAILED,
            "FATAL: exited too quickly; port 8001 is held by process 41 (python3)",
        )


def test_holder_of_the_port_is_named_when_backoff_lasts() -> None:
    held = {NAME: "port 8001 is held by process 41 (python3)"}
    starting = a_member(Stage.RESTARTING, old_spawned=1.0, stopped_at=BEGAN)
    for member in (warming(), starting):
        after = stepped(member, a_process("BACKOFF", spawned=2.0), at=999.0, held=held)
        assert after.stage is Stage.FAILED
        assert after.why.endswith(": it is BACKOFF; port 8001 is held by process 41 (python3)")


@pytest.mark.parametrize("state", ["EXITED", "STOPPED"])
def test_one_that_was_down_for_a_moment_is_waited_for(state: str) -> None:
    process = a_process(state, down_for=MANUAL_STOP_GRACE - 0.1)
    assert stepped(warming(), process, **warmup_status("warming")).stage is Stage.WARMING


@pytest.mark.parametrize(
    ("facts", "sooner"),
    [
        (warmup_status("warming", why="nothing listens on port 8001"), 0.0),
        (warmup_status("warming", pid=300, why="nothing listens on port 8001"), WARMUP_REPORT_GRACE),
        ({}, WARMUP_REPORT_GRACE),
    ],
    ids=["its warm-up is about to say more", "nobody warms it", "nobody says anything"],
)
def test_one_that_is_never_warm_fails_at_the_deadline(facts: dict[str, Any], sooner: float) -> None:
    warmup, process, deadline = (
        WarmupPolicy(timeout=15.0),
        a_process("RUNNING", NEW),
        15.0 + WARMUP_REPORT_GRACE - sooner,
    )
    assert stepped(warming(), process, deadline - 0.1, warmup=warmup, **facts).stage is Stage.WARMING
    after = stepped(warming(), process, deadline, warmup=warmup, **facts)
    words = "it is RUNNING" if sooner else "nothing listens on port 8001"
    assert (after.stage, after.why) == (Stage.FAILED, f"is not warm after 15 s (warmup.timeout): {words}")


def test_time_in_the_queue_does_not_count_for_the_deadline() -> None:
    process, warmup = a_process("RUNNING", NEW), WarmupPolicy(timeout=15.0)
    queued = {"warmups": {NAME: WarmupStatus(NEW, "warming", why="waits for a slot", queued=40.0, spawned=1.0)}}
    assert stepped(warming(), process, 55.0, warmup=warmup, **queued).stage is Stage.WARMING
    after = stepped(warming(), process, 55.0 + WARMUP_REPORT_GRACE, warmup=warmup, **queued)
    assert after.why == "is not warm after 15 s (warmup.timeout): waits for a slot"


def test_a_warm_up_that_is_late_has_failed_with_what_it_waited_for() -> None:
    process, warmup = a_process("RUNNING", NEW), WarmupPolicy(timeout=15.0)
    after = stepped(warming(), process, 15.01, warmup=warmup, **warmup_status("late", why="GET / did not answer"))
    assert (after.stage, after.failed) == (Stage.FAILED, True)
    assert after.why == "is not warm after 15 s (warmup.timeout): GET / did not answer"


def test_one_whose_youngest_warm_up_has_nothing_to_tell_yet_at_the_deadline_says_where_it_stands() -> None:
    warmup = WarmupPolicy(timeout=15.0)
    after = stepped(
        warming(deaths=1), a_process(pid=NEW), 15.0 + WARMUP_REPORT_GRACE, warmup=warmup, **warmup_status("warming")
    )
    assert after.why == "is not warm after 15 s (warmup.timeout): it is RUNNING; it exited once during its warm-up"


def test_one_that_is_restarted_by_hand_while_it_is_warmed_has_not_died() -> None:
    after = stepped(warming(), a_process("STARTING", 300, stopped_by_order=True))
    assert (after.stage, after.pid, after.deaths) == (Stage.WARMING, 300, 0)


@pytest.mark.parametrize(("deaths", "times"), [(1, "once"), (3, "3 times")])
def test_one_that_died_again_and_again_until_the_deadline_says_so(deaths: int, times: str) -> None:
    member, warmup = warming(), WarmupPolicy(timeout=15.0)
    for n in range(1, deaths + 1):
        member = stepped(member, a_process("STARTING", NEW + n), at=n)
    assert member.deaths == deaths
    after = stepped(member, a_process("EXITED"), 15.0, warmup=warmup)
    assert after.why == f"is not warm after 15 s (warmup.timeout): it is EXITED; it exited {times} during its warm-up"


>>>>>>> 5891a15 (Values: a comment at each field instead of lists in the docstrings; stopped_by_order instead of told_to_stop)
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
<<<<<<< HEAD
=======


# --- stopped by another client while it is warmed up


def test_one_that_is_being_stopped_is_waited_for_beyond_the_time_of_its_warm_up() -> None:
    """A SIGTERM between fork and exec is lost, and then a stop takes stopwaitsecs."""
    stopping, warmup = a_process("STOPPING", NEW, stopwaitsecs=10.0), WarmupPolicy(timeout=10.0)
    assert stepped(warming(), stopping, 10.5, warmup=warmup) == warming()
    assert stepped(warming(), a_process("STOPPED", down_for=0.5), 11.0, warmup=warmup) == warming()
    after = stepped(warming(), a_process("STOPPED", down_for=MANUAL_STOP_GRACE), 14.0, warmup=warmup)
    assert (after.selected, after.why) == (False, "was stopped manually, and is left stopped")


def test_one_whose_stop_never_ends_is_given_up() -> None:
    stopping, warmup = a_process("STOPPING", NEW, stopwaitsecs=10.0), WarmupPolicy(timeout=10.0)
    assert stepped(warming(), stopping, 79.9, warmup=warmup).stage is Stage.WARMING
    after = stepped(warming(), stopping, 80.0, warmup=warmup)
    assert (after.stage, "is still STOPPING after 80 s" in after.why) == (Stage.FAILED, True)


def test_one_that_is_restarted_by_hand_has_all_the_time_of_a_warm_up() -> None:
    again = a_process("RUNNING", 300, spawned=2.0, stopped_by_order=True)
    after = stepped(warming(), again, 9.0)
    assert (after.stage, after.since, after.new, after.deaths) == (Stage.WARMING, BEGAN + 9.0, again.incarnation, 0)


def test_one_that_failed_stays_as_it_is() -> None:
    member = a_member(Stage.FAILED, failed=True, why="is not warm")
    assert stepped(member, a_process("RUNNING", NEW), 1000.0, **warmup_status("warm")) == member


# --- orders


def ordered(process: Process | None, closed: dict[Endpoint, float], stopped_at: float = 0.0, at: float = 1.0) -> str:
    given = restart_action(a_member(Stage.RESTARTING, stopped_at=stopped_at), observed(process, BEGAN + at), closed)
    assert given is None or given.name == NAME
    return given.verb.value if given else ""


def test_one_that_runs_is_stopped_behind_a_gate_that_was_closed_before_it_was_found_drained() -> None:
    assert ordered(a_process(), {tcp(PORT): BEGAN}) == "stop"
    assert ordered(a_process("STARTING"), {tcp(PORT): BEGAN - 5.0}) == "stop"


@pytest.mark.parametrize("closed", [{}, {tcp(PORT): BEGAN + 0.01}], ids=["open", "closed anew"])
def test_one_that_runs_is_never_stopped_while_its_gate_is_not_known_closed(closed: dict[Endpoint, float]) -> None:
    assert ordered(a_process(), closed, at=1000.0) == ""


def test_a_second_port_that_is_open_keeps_it_from_being_stopped() -> None:
    member = replace(a_member(Stage.RESTARTING), endpoints=(tcp(PORT), tcp(9001)))
    assert restart_action(member, observed(a_process()), {tcp(PORT): BEGAN}) is None


@pytest.mark.parametrize("state", ["STOPPED", "EXITED", "FATAL"])
def test_one_that_is_down_is_started_behind_a_closed_gate(state: str) -> None:
    assert ordered(a_process(state), {tcp(PORT): BEGAN + 1.0}) == "start"
    assert ordered(a_process(state), {tcp(PORT): BEGAN + 1.1}) == ""
    assert ordered(a_process(state), {}) == ""


def test_one_that_is_down_is_not_left_down_for_ever_where_the_gate_does_not_work() -> None:
    assert ordered(a_process("STOPPED"), {}, stopped_at=BEGAN, at=GATE_PATIENCE - 0.1) == ""
    assert ordered(a_process("STOPPED"), {}, stopped_at=BEGAN, at=GATE_PATIENCE) == "start"


def test_one_in_backoff_is_stopped_first_whatever_the_gate() -> None:
    assert ordered(a_process("BACKOFF"), {}) == "stop"


@pytest.mark.parametrize("state", ["STOPPED", "EXITED", "FATAL", "BACKOFF"])
def test_one_that_was_started_again_gets_no_second_order(state: str) -> None:
    assert ordered(a_process(state, spawned=2.0), CLOSED) == ""


@pytest.mark.parametrize("process", [None, a_process("STOPPING"), a_process("UNKNOWN"), a_process("RUNNING", NEW)])
def test_there_is_nothing_to_order_for(process: Process | None) -> None:
    assert ordered(process, CLOSED) == ""


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.RESTARTING])
def test_only_who_restarts_gets_orders(stage: Stage) -> None:
    assert machine.actions(a_rollout(a_member(stage)), observed(a_process()), CLOSED) == ()
    restarting = a_rollout(a_member(Stage.RESTARTING))
    assert machine.actions(restarting, observed(a_process()), CLOSED) == (
        Action(Verb.STOP, NAME, Incarnation(OLD, 1.0)),
    )


def test_a_process_without_ports_is_always_closed_and_one_with_an_open_port_never() -> None:
    assert closed_since(replace(a_member(), endpoints=()), {}) == -math.inf
    assert closed_since(a_member(), {}) == math.inf


# --- the group


def members(*stages: Stage, **changes: Any) -> tuple[Member, ...]:
    return tuple(Member(f"app-{n}", (tcp(8000 + n),), stage=stage, **changes) for n, stage in enumerate(stages, 1))


def look(*states: str, at: float = BEGAN, **changes: Any) -> Observation:
    table = {f"app-{n}": Process(f"app-{n}", state, 100 + n) for n, state in enumerate(states, 1)}
    return Observation(at, table, **changes)


def all_open(count: int) -> tuple[Member, ...]:
    return members(*[Stage.OPEN] * count)


def left(rollout: Rollout) -> list[str]:
    return [member.name for member in rollout.members if member.stage in (Stage.DRAINING, Stage.RESTARTING)]


def test_a_rollout_that_has_ended_is_never_touched_again() -> None:
    for status in (Status.DONE, Status.FAILED, Status.ABORTED, Status.PLANNED):
        rollout = a_rollout(*members(Stage.FAILED, Stage.OPEN), status=status)
        assert machine.advance(rollout, look("FATAL")) == rollout


def test_the_first_goes_alone_and_then_as_many_as_the_limit() -> None:
    rollout = a_rollout(*all_open(5), limit=3, canary=1)
    assert left(machine.advance(rollout, look(*["RUNNING"] * 5))) == ["app-1"]
    done = replace(rollout.members[0], replaced=True, attempted=True, pid=101)
    after = machine.advance(replace(rollout, members=(done, *rollout.members[1:])), look(*["RUNNING"] * 5))
    assert left(after) == ["app-2", "app-3", "app-4"]


def test_one_that_crashed_takes_the_room_of_one_that_serves() -> None:
    states = ["RUNNING"] * 3
    rollout = a_rollout(*all_open(4), limit=2, canary=0)
    assert left(machine.advance(rollout, look(*states, "BACKOFF"))) == ["app-1", "app-4"]
    other = replace(rollout, members=tuple(replace(m, selected=m.name != "app-4") for m in rollout.members))
    assert left(machine.advance(other, look(*states, "BACKOFF"))) == ["app-1"]
    assert left(machine.advance(other, look(*states, "STARTING"))) == ["app-1"]


def test_one_that_has_died_leaves_only_when_supervisord_says_why() -> None:
    rollout = a_rollout(*all_open(3), limit=1, canary=0)
    dead = look("EXITED", "RUNNING", "RUNNING", dead={"app-1": BEGAN})
    assert left(machine.advance(rollout, dead)) == []
    assert left(machine.advance(rollout, replace(dead, dead={}))) == ["app-1"]


def test_a_rollout_that_could_not_start_its_only_process_has_failed_and_was_not_stopped_by_hand() -> None:
    (failed,) = members(Stage.FAILED, failed=True, why="supervisord refused to start it")
    after = machine.advance(a_rollout(failed), look("STOPPED"))
    assert (after.status, "refused to start it" in after.why) == (Status.FAILED, True)


def test_those_that_an_operator_stopped_take_no_room() -> None:
    stopped = replace(all_open(4)[3], selected=False)
    rollout = a_rollout(*all_open(3), stopped, limit=2, canary=0)
    assert left(machine.advance(rollout, look("RUNNING", "RUNNING", "RUNNING", "STOPPED"))) == ["app-1", "app-2"]


@pytest.mark.parametrize("state", ["RUNNING", "STOPPING", "STOPPED"])
def test_one_that_this_rollout_restarts_takes_room_beside_one_that_is_down(state: str) -> None:
    first, *others = members(Stage.RESTARTING, *[Stage.OPEN] * 3, old_pid=101, since=BEGAN)
    down = replace(others[2], selected=False)
    rollout = a_rollout(replace(first, attempted=True), others[0], others[1], down, limit=2, canary=0)
    after = machine.advance(rollout, look(state, "RUNNING", "RUNNING", "BACKOFF", closed={tcp(8001): 0.0}))
    assert left(after) == ["app-1"]


def test_one_that_is_kept_closed_takes_room() -> None:
    rollout = a_rollout(*members(Stage.OPEN, Stage.OPEN, Stage.FAILED, attempted=False), limit=1, canary=0)
    kept = replace(rollout, members=tuple(replace(m, selected=m.name != "app-3") for m in rollout.members))
    assert left(machine.advance(kept, look(*["RUNNING"] * 3))) == []


def test_the_last_that_serves_is_closed_only_by_force() -> None:
    rollout = a_rollout(*all_open(2), limit=2, canary=0)
    assert left(machine.advance(rollout, look("RUNNING", "RUNNING"))) == ["app-1"]
    assert left(machine.advance(replace(rollout, force=True), look("RUNNING", "RUNNING"))) == ["app-1", "app-2"]


@pytest.mark.parametrize("wish", [{"paused": True}, {"aborting": True}])
def test_a_wish_lets_nobody_leave(wish: dict[str, bool]) -> None:
    assert left(machine.advance(a_rollout(*all_open(2), **wish), look("RUNNING", "RUNNING"))) == []


def test_more_failures_than_allowed_let_nobody_leave_and_end_the_rollout() -> None:
    first, *others = all_open(3)
    rollout = a_rollout(
        replace(first, failed=True, attempted=True, why="is not warm"), *others, limit=3, max_failures=0
    )
    after = machine.advance(rollout, look(*["RUNNING"] * 3))
    assert (after.status, after.why, left(after)) == (Status.FAILED, "app:app-1 is not warm", [])
    assert left(
        machine.advance(replace(rollout, policy=replace(rollout.policy, max_failures=1)), look(*["RUNNING"] * 3))
    )


def test_whoever_was_kept_closed_leaves_with_a_note_of_it() -> None:
    first, second = members(Stage.FAILED, Stage.OPEN)
    rollout = machine.advance(a_rollout(first, second, limit=2, canary=0), look("RUNNING", "RUNNING"))
    assert (rollout.members[0].stage, rollout.members[0].was_closed) == (Stage.DRAINING, True)
    rollout = machine.advance(a_rollout(*all_open(2)), look("RUNNING", "RUNNING"))
    assert (rollout.members[0].stage, rollout.members[0].was_closed) == (Stage.DRAINING, False)


@pytest.mark.parametrize("limit", [1, 9])
@pytest.mark.parametrize("state", ["STARTING", "RUNNING", "BACKOFF", "FATAL", "EXITED"])
def test_one_that_died_after_it_was_opened_stays_open_whatever_the_room_because_the_guard_closes_it(
    state: str, limit: int
) -> None:
    first, *others = members(*[Stage.OPEN] * 3, attempted=True, pid=1)
    rollout = a_rollout(replace(first, replaced=True), *others, limit=limit, max_failures=9)
    after = machine.advance(rollout, look(state, "RUNNING", "RUNNING"))
    assert (after.members[0].stage, after.members[0].pid, after.members[0].failed) == (Stage.OPEN, 1, True)
    assert (machine.closed(after), machine.jobs(after)) == ({}, {})


def test_what_an_operator_stopped_before_its_turn_is_accounted_for_at_the_end() -> None:
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
def test_the_time_in_which_nobody_looked_counts_for_no_deadline(stage: Stage, process: Process) -> None:
    rollout = a_rollout(a_member(stage, pid=NEW), replace(a_member(), name="app-2"))
    away = machine.advance(rollout, observed(process, at=BEGAN + 500.0, gap=499.5, closed={}))
    assert (away.members[0].stage, away.members[0].failed, away.members[0].since) == (stage, False, BEGAN + 499.5)


def test_one_that_was_drained_and_runs_still_is_drained_again_when_nobody_looked_for_long() -> None:
    """The lease may have ended and begun again meanwhile: that it is closed now says nothing of who came in."""
    rollout = a_rollout(a_member(Stage.RESTARTING))
    reopened = {tcp(PORT): BEGAN + 499.0}
    away = observed(a_process(), at=BEGAN + 500.0, gap=499.5, closed=reopened, connections={})
    after = machine.advance(rollout, away)
    assert (after.members[0].stage, after.members[0].since) == (Stage.DRAINING, BEGAN + 500.0)
    assert machine.actions(after, away, reopened) == ()


def test_one_that_was_down_when_nobody_looked_has_its_patience_left_to_come_up() -> None:
    process = a_process("BACKOFF", spawned=2.0)
    rollout = a_rollout(
        a_member(Stage.RESTARTING, stopped_at=BEGAN + 5.0, killed=True), restart=RestartPolicy(timeout=20.0)
    )
    away = machine.advance(rollout, observed(process, at=BEGAN + 500.0, gap=490.0))
    assert (away.members[0].stage, away.members[0].stopped_at) == (Stage.RESTARTING, BEGAN + 495.0)
    assert machine.advance(away, observed(process, at=BEGAN + 515.0)).members[0].stage is Stage.FAILED


def test_one_that_is_not_down_yet_is_not_noted_as_down_because_nobody_looked() -> None:
    rollout = a_rollout(a_member(Stage.RESTARTING))
    away = machine.advance(rollout, observed(stopping(1.0), at=BEGAN + 500.0, gap=499.0))
    assert (away.members[0].stage, away.members[0].stopped_at) == (Stage.RESTARTING, 0.0)


def test_a_stuck_rollout_is_not_ended_for_the_time_in_which_nobody_looked() -> None:
    kept = replace(all_open(3)[2], selected=False)
    rollout = a_rollout(*all_open(2), kept, stuck_since=BEGAN)
    after = machine.advance(rollout, look("RUNNING", "RUNNING", "BACKOFF", at=BEGAN + 500.0, gap=499.0))
    assert (after.status, after.stuck_since) == (Status.RUNNING, BEGAN + 499.0)


def test_a_rollout_ends_only_when_nobody_is_under_way() -> None:
    for stage in (Stage.DRAINING, Stage.RESTARTING, Stage.WARMING, Stage.READY):
        rollout = a_rollout(a_member(stage, pid=OLD), aborting=stage is not Stage.DRAINING)
        assert machine.advance(rollout, observed(a_process(), closed={})).status is Status.RUNNING


def test_what_an_operator_stops_while_it_waits_for_its_turn_is_not_waited_for() -> None:
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


def test_a_rollout_that_finds_no_room_until_the_deadline_fails_and_names_who_is_down() -> None:
    kept = replace(all_open(3)[2], selected=False)
    after = stuck(a_rollout(*all_open(2), kept), "RUNNING", "RUNNING", "BACKOFF")
    assert after.status is Status.FAILED
    assert after.why == (
        "no process could be restarted for 60 s, because only 1 may be unavailable (max_unavailable), and app-3 is "
        "BACKOFF. Fix: repair what is not available"
    )


def test_the_text_names_also_who_is_kept_closed() -> None:
    kept = replace(members(Stage.FAILED, Stage.FAILED, Stage.FAILED)[2], selected=False)
    after = stuck(a_rollout(*all_open(2), kept), "RUNNING", "RUNNING", "RUNNING")
    assert "and app-3 is failed. Fix: " in after.why


def test_where_only_one_serves_the_text_says_what_takes_it_too() -> None:
    after = stuck(a_rollout(*all_open(1), limit=2), "RUNNING")
    assert after.why == (
        "no process could be restarted for 60 s, because only one process serves. Fix: start another one, or accept an "
        "outage with --force"
    )


def test_a_rollout_that_moves_again_is_not_stuck_any_more() -> None:
    rollout = a_rollout(*all_open(2), stuck_since=BEGAN - 59.0)
    assert machine.advance(rollout, look("RUNNING", "RUNNING")).stuck_since == 0.0


def test_a_paused_rollout_is_never_stuck() -> None:
    rollout = a_rollout(*all_open(2), paused=True, stuck_since=BEGAN - 1000.0)
    after = machine.advance(rollout, look("RUNNING", "RUNNING"))
    assert (after.status, after.stuck_since) == (Status.RUNNING, 0.0)


@pytest.mark.parametrize("status", [Status.RUNNING, Status.DONE, Status.FAILED, Status.ABORTED])
def test_what_is_closed_is_told_by_the_stages_also_of_rollouts_that_have_ended(status: Status) -> None:
    rollout = a_rollout(*members(*Stage), status=status)
    expected = {m.endpoints[0]: f"supervisor_rolling app:{m.name}" for m in rollout.members if m.stage in CLOSED_STAGES}
    assert machine.closed(rollout) == expected
    assert len(expected) == 4


def test_all_ports_of_a_process_are_closed() -> None:
    member = replace(a_member(Stage.FAILED), endpoints=(tcp(1), tcp(2), tcp(3)))
    assert list(machine.closed(a_rollout(member))) == [tcp(1), tcp(2), tcp(3)]


def test_only_what_warms_and_has_a_pid_is_a_job() -> None:
    one, two = members(Stage.WARMING, Stage.WARMING, pid=NEW)
    rollout = a_rollout(one, replace(two, pid=0), a_member(Stage.READY, pid=NEW))
    (job,) = machine.jobs(rollout).values()
    assert (list(machine.jobs(rollout)), job.pid, job.endpoints, job.bypass) == (["app-1"], NEW, (tcp(8001),), "mark")


def test_available_is_who_is_open_and_running() -> None:
    rollout = a_rollout(*members(Stage.OPEN, Stage.OPEN, Stage.READY, Stage.DRAINING, Stage.OPEN))
    assert available(rollout, look("RUNNING", "STARTING", "RUNNING", "RUNNING")) == 1


def test_the_least_that_was_available_is_remembered() -> None:
    rollout = a_rollout(*all_open(3), paused=True)
    after = machine.advance(rollout, look("RUNNING", "FATAL", "FATAL"))
    assert after.least_available == 1
    assert machine.advance(after, look("RUNNING", "RUNNING", "RUNNING")).least_available == 1


def test_resume_forgets_failures_and_keeps_what_is_new_but_vouches_for_no_pid_of_others() -> None:
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
    assert after.members[0].pid == 0, "somebody else started it: it is not known warm"
    assert (after.status, after.aborting, after.ended_at, after.started_at) == (
        Status.RUNNING,
        False,
        0.0,
        BEGAN,
    )
    assert after.rests == (Rest(BEGAN + 5.0, BEGAN + 100.0, previous.why),)


def test_a_plan_has_those_that_are_left_alone_last() -> None:
    first, second, third = all_open(3)
    rollout = a_rollout(replace(first, selected=False), second, third)
    plan = machine.planned(rollout, look("STOPPED", "RUNNING", "FATAL"))
    assert [member.name for member in plan.members] == ["app-3", "app-2", "app-1"]
    assert (plan.status, plan.ended_at) == (Status.PLANNED, BEGAN)


@pytest.mark.parametrize(
    "names", [["web_2", "web_10"], ["a", "b1", "b2"], ["2", "10"], ["x1y9", "x1y10", "x2"], ["1²", "2"]]
)
def test_names_are_sorted_as_people_do(names: list[str]) -> None:
    backwards = names[::-1]
    assert sorted(backwards, key=natural) == names


def test_a_process_that_somebody_names_and_an_earlier_rollout_left_closed_is_drained_and_replaced() -> None:
    processes = {p.name: p for p in (a_process(), replace(a_process(), name="app-2", pid=102))}
    endpoints = {"app-1": (tcp(8001),), "app-2": (tcp(8002),)}
    policy = Policy("app", PortRule(pattern=r"app-(\d+)"), max_unavailable=Share(number=1))
    rollout = narrowed(
        begin(2, policy, GatePolicy(), Observation(BEGAN, processes), endpoints, {"app-1": "is cold"}), ("app-1",)
    )
    assert [(m.selected, m.stage) for m in rollout.members] == [(True, Stage.FAILED), (False, Stage.OPEN)]
    after = machine.advance(rollout, Observation(BEGAN + 1.0, processes, closed=CLOSED))
    assert (after.members[0].stage, machine.closed(after).keys()) == (Stage.DRAINING, {tcp(8001)})


# --- who is in the hands of the guard


def a_guarded(stage: Stage, closed: bool = False, tries: int = 0, number: int = 3, **changes: Any) -> GuardedProcess:
    return GuardedProcess(f"app-{number}", (tcp(8000 + number),), stage, BEGAN, closed=closed, tries=tries, **changes)


def observed_with(*states: str, guarded: GuardedProcess, **facts: Any) -> Observation:
    return look(*states, guarded={guarded.name: guarded}, **facts)


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


def guarded_name(guarded: GuardedProcess) -> str:
    return f"{guarded.stage.value} {'closed' if guarded.closed else 'open'} {guarded.tries}"


@pytest.mark.parametrize("guarded", CRASHED, ids=guarded_name)
def test_one_that_the_guard_has_still_to_warm_is_not_available(guarded: GuardedProcess) -> None:
    rollout, facts = a_rollout(*all_open(3), least_available=3), observed_with(*["RUNNING"] * 3, guarded=guarded)
    assert available(rollout, facts) == 2
    is_open = guarded.stage is Stage.WARMING and not guarded.closed  # users have it, although the rollout waits for it
    assert machine.advance(replace(rollout, paused=True), facts).least_available == (3 if is_open else 2)


@pytest.mark.parametrize("guarded", SERVES_AS_IT_CAN, ids=guarded_name)
def test_one_that_serves_although_it_could_not_be_warmed_is_available(guarded: GuardedProcess) -> None:
    assert available(a_rollout(*all_open(3)), observed_with(*["RUNNING"] * 3, guarded=guarded)) == 3


@pytest.mark.parametrize("guarded", SERVES_AS_IT_CAN, ids=guarded_name)
def test_a_rollout_does_not_wait_for_one_that_serves_although_it_could_not_be_warmed(guarded: GuardedProcess) -> None:
    rollout = a_rollout(*all_open(3), limit=1, canary=0)
    assert left(machine.advance(rollout, observed_with(*["RUNNING"] * 3, guarded=guarded))) == ["app-1"]


@pytest.mark.parametrize("first", [a_guarded(Stage.WARMING, closed=True), a_guarded(Stage.WARMING)], ids=guarded_name)
def test_a_rollout_waits_while_one_that_crashed_is_warmed_and_goes_on_when_it_has_settled(
    first: GuardedProcess,
) -> None:
    rollout = a_rollout(*all_open(3), limit=1, canary=0)
    for guarded in (first, a_guarded(Stage.READY)):
        rollout = machine.advance(rollout, observed_with(*["RUNNING"] * 3, guarded=guarded))
        assert (left(rollout), rollout.status, rollout.stuck_since) == ([], Status.RUNNING, BEGAN)
    rollout = machine.advance(rollout, look(*["RUNNING"] * 3))
    assert (left(rollout), rollout.stuck_since) == (["app-1"], 0.0)


@pytest.mark.parametrize("stage", [Stage.FAILED, Stage.WARMING])
def test_one_that_is_kept_closed_because_it_could_not_be_warmed_is_replaced_first_and_takes_no_room(
    stage: Stage,
) -> None:
    guarded = a_guarded(stage, closed=True, tries=1)
    rollout = a_rollout(*all_open(3), limit=1, canary=0)
    assert left(machine.advance(rollout, observed_with(*["RUNNING"] * 3, guarded=guarded))) == ["app-3"]
    plan = machine.planned(rollout, observed_with(*["RUNNING"] * 3, guarded=guarded))
    assert [member.name for member in plan.members] == ["app-3", "app-1", "app-2"]


def test_one_that_is_down_is_replaced_first_whatever_the_guard_does() -> None:
    rollout = a_rollout(*all_open(3), limit=1, canary=0)
    guarded = a_guarded(Stage.DOWN, closed=True)
    assert left(machine.advance(rollout, observed_with("RUNNING", "RUNNING", "BACKOFF", guarded=guarded))) == ["app-3"]


def test_the_last_that_is_warm_is_not_closed_while_the_guard_warms_the_other() -> None:
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
def test_a_rollout_that_is_stuck_tells_what_the_guard_does(state: str, guarded: GuardedProcess, words: str) -> None:
    kept = replace(all_open(3)[2], selected=False)
    after = stuck(a_rollout(*all_open(2), kept), "RUNNING", "RUNNING", state, guarded={guarded.name: guarded})
    waited = "130" if guarded.stage is Stage.WARMING else "60"
    assert after.why == (
        f"no process could be restarted for {waited} s, because only 1 may be unavailable (max_unavailable), and {words}"
        ". Fix: repair what is not available"
    )


# --- what was kept closed when a rollout begins


def slow_to_stop(*stopwaitsecs: float, **changes: Any) -> Rollout:
    """A rollout of processes that may take so long, where restart.timeout is 60; refused if need be."""
    processes = {
        name: replace(process, stopwaitsecs=wait)
        for wait, (name, process) in zip(stopwaitsecs, look(*["RUNNING"] * len(stopwaitsecs)).processes.items())
    }
    rollout = a_rollout(*(replace(member, **changes) for member in all_open(len(stopwaitsecs))))
    check_stop_timeout(rollout, processes)
    return rollout


@pytest.mark.parametrize("stopwaitsecs", [0.0, 10.0, 60.0])
def test_a_process_that_stops_within_restart_timeout_or_does_not_tell_may_be_rolled(stopwaitsecs: float) -> None:
    slow_to_stop(10.0, stopwaitsecs)


@pytest.mark.parametrize(
    ("stopwaitsecs", "words"),
    [
        ([10.0, 61.0], "app:app-2 may take 61 s"),
        ([3600.0, 0.0, 3600.0], "app:app-1, app:app-3 may take 3600 s"),
        ([90.0, 3600.0, 90.0, 90.0, 90.0], "app:app-1, app:app-2, app:app-3 and 2 more may take up to 3600 s"),
    ],
)
def test_one_that_may_take_longer_to_stop_than_the_rollout_waits_is_refused(
    stopwaitsecs: list[float], words: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        slow_to_stop(*stopwaitsecs)
    assert str(refused.value) == (
        f"{words} to stop (stopwaitsecs), more than restart.timeout (60 s) waits. Fix: "
        "raise groups.app.restart.timeout in rolling.yaml above it, or lower stopwaitsecs"
    )


@pytest.mark.parametrize("change", [{"selected": False}, {"attempted": True, "replaced": True}], ids=str)
def test_one_that_the_rollout_does_not_stop_may_take_as_long_as_it_likes(change: dict[str, bool]) -> None:
    slow_to_stop(3600.0, **change)


def begun(observed: Observation, failed: dict[str, str]) -> Rollout:
    endpoints = {name: (tcp(8000 + n),) for n, name in enumerate(sorted(observed.processes), 1)}
    return begin(2, Policy("app", PortRule(pattern=r"app-(\d+)")), GatePolicy(), observed, endpoints, failed)


def test_what_is_kept_closed_when_a_rollout_begins_stays_so_with_its_reason() -> None:
    rollout = begun(look("RUNNING", "RUNNING"), {"app-2": "is cold"})
    assert [(m.stage, m.since, m.why) for m in rollout.members] == [
        (Stage.OPEN, 0.0, ""),
        (Stage.FAILED, BEGAN, "is cold"),
    ]
    assert (rollout.started_at, rollout.least_available) == (BEGAN, 1)


@pytest.mark.parametrize(("is_closed", "least"), [(True, 1), (False, 2)])
def test_open_process_that_the_guard_warms_counts_as_available(is_closed: bool, least: int) -> None:
    guarded = a_guarded(Stage.WARMING, number=2, closed=is_closed)
    assert begun(observed_with("RUNNING", "RUNNING", guarded=guarded), {}).least_available == least


def test_rollout_that_waits_for_the_guard_says_so_after_five_seconds() -> None:
    facts = observed_with(*["RUNNING"] * 3, guarded=a_guarded(Stage.WARMING, number=2))
    rollout = machine.advance(a_rollout(*all_open(3), limit=1, canary=0), replace(facts, at=BEGAN))
    assert (rollout.waits_for, rollout.waits_long) == ("the crash guard to finish app-2 (warming)", False)
    later = machine.advance(rollout, replace(facts, at=BEGAN + LONG))
    assert (later.waits_for, later.waits_long) == (rollout.waits_for, True)
    assert list(changes(rollout, later)) == ["app rollout 1 waits for the crash guard to finish app-2 (warming)"]
    assert list(changes(later, later)) == []
    gone = machine.advance(later, replace(look(*["RUNNING"] * 3), at=BEGAN + LONG + 1))
    assert (left(gone), gone.waits_for, gone.waits_long) == (["app-1"], "", False)


@pytest.mark.parametrize("stage", [Stage.RESTARTING, Stage.WARMING])
def test_rollout_names_what_holds_the_port_of_a_process_in_backoff(stage: Stage) -> None:
    members = (a_member(stage, old_spawned=1.0, pid=NEW), *all_open(3)[1:])
    facts = replace(
        look("BACKOFF", "RUNNING", "RUNNING"), at=BEGAN + LONG, held={NAME: "port 8001 is held by process 41"}
    )
    rollout = machine.advance(a_rollout(*members), facts)
    assert (rollout.waits_for, rollout.waits_long) == (f"{NAME} to be warm: port 8001 is held by process 41", True)


def test_rollout_whose_warm_up_lasts_says_what_it_waits_for() -> None:
    late = a_rollout(warming(), *all_open(3)[1:])
    facts = replace(look("RUNNING", "RUNNING", "RUNNING"), at=BEGAN + LONG)
    facts = replace(facts, processes={**facts.processes, NAME: a_process("RUNNING", NEW)})
    facts = replace(
        facts, warmups={NAME: WarmupStatus(NEW, "warming", why="GET /health (ready) answers 503", spawned=1.0)}
    )
    after = machine.advance(late, facts)
    assert (after.waits_for, after.waits_long) == ("app-1 to be warm: GET /health (ready) answers 503", True)


def a_watch(*guarded: GuardedProcess) -> GuardState:
    return GuardState("app", Policy("app", PortRule()), GatePolicy(), guarded)


def test_where_nobody_guards_what_the_last_rollout_left_failed_is_kept_closed() -> None:
    first, second = members(Stage.FAILED, Stage.OPEN, why="is cold")
    assert kept_closed(a_rollout(first, second, status=Status.FAILED), None) == {"app-1": "is cold"}
    assert kept_closed(None, None) == {}


@pytest.mark.parametrize(
    ("guarded", "expected"),
    [
        ([], {}),
        ([a_guarded(Stage.WARMING, closed=True, number=1)], {"app-1": "left cold"}),
        ([a_guarded(Stage.WARMING, closed=False, number=1)], {}),
        ([a_guarded(Stage.FAILED, closed=True, tries=2, number=1, problem="is cold")], {"app-1": "is cold"}),
        ([a_guarded(Stage.FAILED, closed=True, tries=2, number=2, problem="is cold")], {"app-2": "is cold"}),
        ([a_guarded(Stage.FAILED, closed=False, tries=2, number=2, problem="is cold")], {}),
        ([a_guarded(Stage.WARMING, closed=True, number=2)], {}),
        ([a_guarded(Stage.DOWN, closed=True, number=2)], {}),
    ],
    ids=lambda value: " ".join(f"{w.name} {guarded_name(w)}" for w in value) if isinstance(value, list) else "",
)
def test_where_the_guard_is_only_what_failed_and_is_still_closed_is_kept_so(
    guarded: list[GuardedProcess], expected: dict[str, str]
) -> None:
    previous = a_rollout(*members(Stage.FAILED, Stage.OPEN, why="left cold"), status=Status.FAILED)
    assert kept_closed(previous, a_watch(*guarded)) == expected


def test_the_guard_alone_says_what_is_kept_closed_where_nothing_was_rolled() -> None:
    failed = a_guarded(Stage.FAILED, closed=True, tries=1, problem="is cold")
    assert kept_closed(None, a_watch(failed)) == {"app-3": "is cold"}


# --- who drains is told


MAX_SHOWN = DrainPolicy(signal="USR1")
SIGNAL = Action(Verb.SIGNAL, NAME, Incarnation(OLD, 1.0), "USR1")


def orders_while_draining(
    process: Process | None, closed: dict[Endpoint, float] = CLOSED, **changes: Any
) -> tuple[Action, ...]:
    of_member = {key: changes.pop(key) for key in list(changes) if key in Member.__dataclass_fields__}
    rollout = a_rollout(a_member(Stage.DRAINING, **of_member), drain=changes.pop("drain", MAX_SHOWN))
    return machine.actions(rollout, observed(process, **changes), closed)


def test_one_that_drains_is_sent_the_signal_as_soon_as_its_gate_is_closed() -> None:
    assert orders_while_draining(a_process(), {}) == ()
    assert orders_while_draining(a_process(), {tcp(PORT): BEGAN + 1.5}) == (SIGNAL,)  # closed since this look


def test_it_is_sent_once_and_only_where_the_policy_has_one() -> None:
    assert orders_while_draining(a_process(), signalled=frozenset({NAME})) == ()
    assert orders_while_draining(a_process(), signalled=frozenset({"app-2"})) == (SIGNAL,)
    assert orders_while_draining(a_process(), drain=DRAIN) == ()


@pytest.mark.parametrize("state", ["STARTING", "STOPPING", "STOPPED", "EXITED", "BACKOFF", "FATAL"])
def test_one_that_is_down_or_may_not_have_its_handler_yet_is_sent_no_signal(state: str) -> None:
    assert orders_while_draining(a_process(state)) == ()


def test_one_that_has_died_is_another_is_gone_or_has_no_users_is_sent_no_signal() -> None:
    assert orders_while_draining(a_process(), dead=frozenset({NAME})) == ()
    assert orders_while_draining(a_process(pid=NEW)) == ()
    assert orders_while_draining(None) == ()
    assert orders_while_draining(a_process(), was_closed=True) == ()


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.DRAINING])
def test_only_one_that_drains_is_sent_the_signal(stage: Stage) -> None:
    rollout = a_rollout(a_member(stage), drain=MAX_SHOWN)
    assert SIGNAL not in machine.actions(rollout, observed(a_process()), CLOSED)


def test_the_request_goes_to_the_same_ones_with_the_headers_of_the_warm_up() -> None:
    policy, warmup = DrainPolicy(request="POST /drain"), WarmupPolicy(headers={"Host": "example.org"})
    rollout = a_rollout(a_member(Stage.DRAINING), drain=policy, warmup=warmup)
    job = NotificationJob(OLD, (tcp(PORT),), "POST /drain", {"Host": "example.org"}, "mark", 1.0)
    assert machine.notifications(rollout, {NAME: a_process()}, CLOSED) == {NAME: job}
    for process, closed in [(a_process(), {}), (a_process("STARTING"), CLOSED), (a_process(pid=NEW), CLOSED)]:
        assert machine.notifications(rollout, {NAME: process}, closed) == {}
    assert machine.notifications(rollout, {}, CLOSED) == {}
    for stage in set(Stage) - {Stage.DRAINING}:
        assert machine.notifications(a_rollout(a_member(stage), drain=policy), {NAME: a_process()}, CLOSED) == {}
    assert machine.notifications(a_rollout(a_member(Stage.DRAINING)), {NAME: a_process()}, CLOSED) == {}
>>>>>>> 5891a15 (Values: a comment at each field instead of lists in the docstrings; stopped_by_order instead of told_to_stop)
