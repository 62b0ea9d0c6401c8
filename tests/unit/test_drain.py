"""What becomes of a DRAINING member, and how it is told that it drains."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from supervisor_rolling.core import machine
from supervisor_rolling.core.actions import Action, Verb
from supervisor_rolling.core.connections import Connection, KeepaliveReuse
from supervisor_rolling.core.drain import GATE_TIMEOUT, MIN_DRAIN, REUSE_GRACE, REUSE_TIMES, drain_signal
from supervisor_rolling.core.endpoint import Endpoint, tcp
from supervisor_rolling.core.jobs import NotificationJob
from supervisor_rolling.core.policy import DrainPolicy, GatePolicy, WarmupPolicy
from supervisor_rolling.core.process import Incarnation, Process
from supervisor_rolling.core.process_states import MANUAL_STOP_GRACE
from supervisor_rolling.core.rollout import Member, Stage
from tests.support.members import (
    BEGAN,
    CLOSED,
    DRAIN,
    NAME,
    NEW,
    OLD,
    PORT,
    a_member,
    a_process,
    a_rollout,
    observed,
    stepped,
)


def test_drain_ends_when_no_connection_is_left() -> None:
    after = stepped(a_member(Stage.DRAINING), a_process(), at=1.5)
    assert (after.stage, after.since, after.timing.drained) == (Stage.RESTARTING, BEGAN + 1.5, 1.5)


@pytest.mark.parametrize(
    ("why", "facts"),
    [
        ("a connection is left", {"connections": {NAME: 2}}),
        ("the gate closed after the observation", {"closed": {tcp(PORT): BEGAN + 1.1}}),
        ("the gate is open", {"closed": {}}),
        ("the connections are not known", {"connections": {}}),
    ],
)
def test_a_drain_goes_on_while(why: str, facts: dict[str, Any]) -> None:
    assert stepped(a_member(Stage.DRAINING), a_process(), **facts).stage is Stage.DRAINING


def test_drain_needs_all_endpoints_closed() -> None:
    member = replace(a_member(Stage.DRAINING), endpoints=(tcp(PORT), tcp(9001)))
    assert stepped(member, a_process(), closed=CLOSED).stage is Stage.DRAINING
    assert stepped(member, a_process(), closed={**CLOSED, tcp(9001): BEGAN}).stage is Stage.RESTARTING


# --- without a port


def without_port(**changes: Any) -> Member:
    return replace(a_member(Stage.DRAINING, **changes), endpoints=())


FINISHING = {"drain": DrainPolicy(timeout=30.0, signal="USR1"), "closed": {}}


def test_process_without_port_has_nothing_to_drain() -> None:
    after = stepped(without_port(), a_process(), closed={})
    assert (after.stage, after.failed) == (Stage.RESTARTING, False)


def test_worker_that_is_asked_to_finish_has_the_time_of_the_drain() -> None:
    member, facts = without_port(), {**FINISHING, "signalled": frozenset({NAME})}
    assert stepped(member, a_process(), 29.9, **facts).stage is Stage.DRAINING
    assert stepped(member, a_process(), 30.0, **facts).stage is Stage.RESTARTING
    assert drain_signal(member, a_rollout(member, drain=FINISHING["drain"]), observed(a_process(), closed={}), {})


@pytest.mark.parametrize("process", [a_process("EXITED"), a_process(pid=NEW, spawned=2.0)], ids=["down", "back"])
def test_worker_that_finishes_by_itself_is_replaced(process: Process) -> None:
    after = stepped(without_port(), process, 5.0, **FINISHING, signalled=frozenset({NAME}))
    assert (after.stage, after.failed, after.timing.drained) == (Stage.RESTARTING, False, 5.0)


def test_failed_worker_is_asked_to_finish_like_any() -> None:
    """Nothing kept it from its queue."""
    member = without_port(was_closed=True)
    rollout = a_rollout(member, drain=FINISHING["drain"])
    assert stepped(member, a_process(), 29.9, **FINISHING).stage is Stage.DRAINING
    assert drain_signal(member, rollout, observed(a_process(), closed={}), {})


def test_on_timeout_fail_leaves_worker_to_its_job() -> None:
    drain = DrainPolicy(timeout=5.0, signal="USR1", on_timeout="fail")
    assert stepped(without_port(), a_process(), 4.9, closed={}, drain=drain).stage is Stage.DRAINING
    after = stepped(without_port(), a_process(), 5.0, closed={}, drain=drain)
    assert (after.stage, after.failed, after.code) == (Stage.OPEN, True, "drain.timeout")
    assert after.why.startswith("has not exited 5 s after SIGUSR1 (drain.signal), so it was not stopped")


@pytest.mark.parametrize(
    ("signal", "state", "stage"),
    [("USR1", "RUNNING", Stage.DRAINING), ("USR1", "STARTING", Stage.OPEN), ("", "RUNNING", Stage.OPEN)],
)
def test_abort_waits_for_worker_that_was_asked_to_finish(signal: str, state: str, stage: Stage) -> None:
    """It exits anyway, and where autorestart does not start it again it would be missing."""
    drain = DrainPolicy(timeout=30.0, signal=signal)
    assert stepped(without_port(), a_process(state), aborting=True, closed={}, drain=drain).stage is stage


def test_lingering_connections_are_counted() -> None:
    assert stepped(a_member(Stage.DRAINING), a_process(), connections={NAME: 7}).lingering_connections == 7


def test_drain_lasts_min_seconds() -> None:
    drain = DrainPolicy(min_seconds=2.0)
    assert stepped(a_member(Stage.DRAINING), a_process(), 1.9, drain=drain).stage is Stage.DRAINING
    assert stepped(a_member(Stage.DRAINING), a_process(), 2.0, drain=drain).stage is Stage.RESTARTING


def test_drain_takes_two_observations() -> None:
    """The first observation cannot tell what came through the closed gate."""
    drain = DrainPolicy(min_seconds=0.0)
    assert stepped(a_member(Stage.DRAINING), a_process(), MIN_DRAIN / 2, drain=drain).stage is Stage.DRAINING
    assert stepped(a_member(Stage.DRAINING), a_process(), MIN_DRAIN * 1.1, drain=drain).stage is Stage.RESTARTING


@pytest.mark.parametrize("wish", [{"aborting": True}, {"leaks": {NAME: "10.0.0.9:4711"}}])
def test_failed_process_stays_closed_after_drain(wish: dict[str, Any]) -> None:
    assert stepped(a_member(Stage.DRAINING, was_closed=True), a_process(), **wish).stage is Stage.FAILED
    assert stepped(a_member(Stage.DRAINING, was_closed=False), a_process(), **wish).stage is Stage.OPEN


def test_drain_timeout_restarts_with_lingering_connections() -> None:
    busy = {NAME: 3}
    assert stepped(a_member(Stage.DRAINING), a_process(), 29.9, connections=busy).stage is Stage.DRAINING
    after = stepped(a_member(Stage.DRAINING), a_process(), 30.0, connections=busy)
    assert (after.stage, after.lingering_connections) == (Stage.RESTARTING, 3)


def test_on_timeout_fail_reopens_port() -> None:
    drain = DrainPolicy(timeout=5.0, on_timeout="fail")
    after = stepped(a_member(Stage.DRAINING), a_process(), 5.0, drain=drain, connections={NAME: 3})
    assert (after.stage, after.failed) == (Stage.OPEN, True)
    assert after.why == (
        "still had 3 connections to port 8001 after 5 s of drain, so it was not stopped and keeps serving traffic "
        "(drain.on_timeout: fail). Fix: wait until they end, close them at the client, or raise drain.timeout"
    )


UPLOAD = Connection("10.0.0.7:51322", age=61.0, idle=0.6, last="received")


SOCKET = Connection("10.0.0.9:4711", age=2.0, idle=2.0, last="sent")


def test_on_timeout_fail_names_oldest_connections() -> None:
    drain = DrainPolicy(timeout=5.0, on_timeout="fail")
    facts: dict[str, Any] = {"connections": {NAME: 3}, "oldest": {NAME: (UPLOAD, SOCKET)}}
    after = stepped(a_member(Stage.DRAINING), a_process(), 5.0, drain=drain, **facts)
    assert after.oldest_lingering == (UPLOAD, replace(SOCKET, age=5.0))
    assert after.lingering_connections == 3
    assert (
        "of drain (10.0.0.7:51322 open at least 61 s, last byte received 0.6 s ago; 10.0.0.9:4711 open at least 5 s, "
        "last byte sent 2 s ago; and 1 more), so it was not stopped"
    ) in after.why


def test_lingering_connections_are_as_old_as_gate() -> None:
    facts: dict[str, Any] = {"connections": {NAME: 2}, "oldest": {NAME: (UPLOAD, SOCKET)}}
    after = stepped(a_member(Stage.DRAINING), a_process(), 32.0, **facts)
    assert (after.stage, after.oldest_lingering) == (Stage.RESTARTING, (UPLOAD, replace(SOCKET, age=32.0)))
    late = stepped(a_member(Stage.DRAINING), a_process(), 50.0, closed={tcp(PORT): BEGAN + 20.0}, **facts)
    assert late.oldest_lingering == (UPLOAD, replace(SOCKET, age=30.0))  # by the gate that closed last


def test_lingering_connections_are_named_at_deadline_only() -> None:
    facts: dict[str, Any] = {"connections": {NAME: 1}, "oldest": {NAME: (UPLOAD,)}}
    assert stepped(a_member(Stage.DRAINING), a_process(), 29.0, **facts).oldest_lingering == ()


def test_empty_drain_forgets_lingering_connections() -> None:
    member = a_member(Stage.DRAINING, lingering_connections=1, oldest_lingering=(UPLOAD,))
    after = stepped(member, a_process(), 1.0)
    assert (after.stage, after.lingering_connections, after.oldest_lingering) == (Stage.RESTARTING, 0, ())


@pytest.mark.parametrize("on_timeout", ["continue", "fail"])
@pytest.mark.parametrize("left", [0, 1])
def test_zero_timeout_waits_for_second_observation(on_timeout: str, left: int) -> None:
    """The first observation cannot tell what came through the closed gate; 0 connections fail no member."""
    drain, facts = DrainPolicy(timeout=0.0, on_timeout=on_timeout), {"connections": {NAME: left}}
    early = stepped(a_member(Stage.DRAINING), a_process(), MIN_DRAIN / 2, drain=drain, **facts)
    assert early.stage is Stage.DRAINING
    after = stepped(a_member(Stage.DRAINING), a_process(), MIN_DRAIN * 1.1, drain=drain, **facts)
    assert after.failed is (left > 0 and on_timeout == "fail")


NGINX = DrainPolicy(keepalive="nginx", idle_after=4.0)


@pytest.mark.parametrize(
    ("waited", "idle_for", "stage"),
    [
        (3.9, 60.0, Stage.DRAINING),  # idle before the gate closed: nginx may still pick it
        (9.0, 3.9, Stage.DRAINING),
        (4.0, 4.0, Stage.RESTARTING),
    ],
)
def test_silent_pool_is_idle_after_idle_after(waited: float, idle_for: float, stage: Stage) -> None:
    facts: dict[str, Any] = {"connections": {NAME: 2}, "idle_for": {NAME: idle_for}}
    after = stepped(a_member(Stage.DRAINING), a_process(), waited, drain=NGINX, **facts)
    assert (after.stage, after.lingering_connections) == (stage, 2), "what the restart ends is counted"
    other = replace(NGINX, keepalive="ignore")
    assert stepped(a_member(Stage.DRAINING), a_process(), waited, drain=other, **facts).stage is Stage.DRAINING


def test_idle_after_does_not_shorten_min_seconds() -> None:
    facts: dict[str, Any] = {
        "connections": {NAME: 2},
        "idle_for": {NAME: 60.0},
        "drain": replace(NGINX, min_seconds=6.0),
    }
    assert stepped(a_member(Stage.DRAINING), a_process(), 5.9, **facts).stage is Stage.DRAINING
    assert stepped(a_member(Stage.DRAINING), a_process(), 6.0, **facts).stage is Stage.RESTARTING


def test_silence_counts_with_keepalive_nginx_only() -> None:
    facts: dict[str, Any] = {"connections": {NAME: 2}, "drain": NGINX}
    assert stepped(a_member(Stage.DRAINING), a_process(), 29.0, **facts).stage is Stage.DRAINING


def test_opaque_pool_fails_with_fix() -> None:
    facts: dict[str, Any] = {"connections": {NAME: 2}, "opaque": frozenset({NAME}), "drain": NGINX}
    assert stepped(a_member(Stage.DRAINING), a_process(), 2.9, **facts).stage is Stage.DRAINING
    after = stepped(a_member(Stage.DRAINING), a_process(), 3.0, **facts)
    assert (after.stage, after.failed) == (Stage.OPEN, True)
    assert after.why == (
        "has TLS or HTTP/2 on connections opened before its port was closed (port 8001), and drain.keepalive: nginx "
        "cannot close these, so it was not stopped and keeps serving traffic. Fix: in nginx's upstream, remove "
        "the keepalive line (nginx 1.29.7 or later: keepalive 0;); or proxy_pass to it in plain HTTP"
    )


def test_failed_process_drains_since_it_was_closed() -> None:
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
    assert stepped(cold, a_process(), MIN_DRAIN / 2, closed=long_ago, **facts).stage is Stage.DRAINING
    after = stepped(cold, a_process(), MIN_DRAIN * 1.1, closed=long_ago, **facts)
    assert (after.stage, after.lingering_connections) == (Stage.RESTARTING, 1)


def test_open_gate_restarts_drain_timeout() -> None:
    late, busy = {tcp(PORT): BEGAN + 20.0}, {NAME: 3}
    assert stepped(a_member(Stage.DRAINING), a_process(), 40.0, closed=late, connections=busy).stage is Stage.DRAINING
    assert stepped(a_member(Stage.DRAINING), a_process(), 50.0, closed=late, connections=busy).stage is Stage.RESTARTING


@pytest.mark.parametrize(
    ("problem", "words"), [("table locked", "table locked"), ("", "the kernel does not show the rule")]
)
def test_gate_that_does_not_close_fails_the_member(problem: str, words: str) -> None:
    facts = {"closed": {}, "gate_problem": problem, "unclosed": {NAME: BEGAN}}
    assert stepped(a_member(Stage.DRAINING), a_process(), GATE_TIMEOUT - 0.1, **facts).stage is Stage.DRAINING
    after = stepped(a_member(Stage.DRAINING), a_process(), GATE_TIMEOUT, **facts)
    assert (after.stage, after.failed) == (Stage.OPEN, True)
    assert after.why == f"its port could not be closed within 10 s, so it was not stopped: {words}"


def test_short_gate_failure_does_not_end_drain() -> None:
    """Somebody holds the lock: what was closed is closed under its lease."""
    at = GATE_TIMEOUT + 5.0
    facts = {"closed": {}, "gate_problem": "the lock is held", "unclosed": {NAME: BEGAN + at - 0.1}}
    assert stepped(a_member(Stage.DRAINING), a_process(), at, **facts).stage is Stage.DRAINING


def test_a_leak_past_haproxy_names_its_backend() -> None:
    after = stepped(a_member(Stage.DRAINING), a_process(), gate=GatePolicy("haproxy"), leaks={NAME: "10.0.0.9:4711"})
    assert (after.stage, after.failed) == (Stage.OPEN, True)
    assert after.why.startswith("still receives requests that HAProxy's backend does not count (from 10.0.0.9:4711 to")


def test_exit_after_drain_signal_fails() -> None:
    drain = DrainPolicy(signal="USR1")
    died = a_process("EXITED", 0)
    after = stepped(a_member(Stage.DRAINING), died, signalled=frozenset({NAME}), drain=drain)
    assert (after.stage, after.failed) == (Stage.RESTARTING, True)
    assert after.why.startswith("exited after SIGUSR1 (drain.signal): requests in flight were lost")
    for process, signalled in ((died, frozenset()), (replace(died, stopped_on_request=True), frozenset({NAME}))):
        assert not stepped(a_member(Stage.DRAINING), process, drain=drain, signalled=signalled).failed


def test_leak_names_peer_and_reopens_port() -> None:
    after = stepped(a_member(Stage.DRAINING), a_process(), leaks={NAME: "10.0.0.9:4711"})
    assert (after.stage, after.failed) == (Stage.OPEN, True)
    assert "(from 10.0.0.9:4711 to port 8001), so it was not stopped" in after.why


POOL = KeepaliveReuse(41, 3, REUSE_TIMES, "10.0.0.9:4711", REUSE_GRACE)


def drained_behind(reuse: KeepaliveReuse, at: float, keepalive: str = "refuse", timeout: float = 5.0) -> Member:
    facts = {"reuses": {NAME: reuse}, "connections": {NAME: 3}}
    drain = DrainPolicy(timeout=timeout, keepalive=keepalive)
    return stepped(a_member(Stage.DRAINING), a_process(), at, drain=drain, **facts)


def test_reused_pool_fails_with_fixes() -> None:
    after = drained_behind(POOL, REUSE_GRACE)
    assert (after.stage, after.failed) == (Stage.OPEN, True)
    assert "(41 in 1.0 s over 3 connections, from 10.0.0.9:4711 to port 8001), so it was not stopped" in after.why
    ways_out = ("keepalive 0;", "supervisor_rolling.wsgi or .asgi", "{keepalive: nginx}", "drain: {keepalive: ignore}")
    for way_out in ways_out:
        assert way_out in after.why


def test_pool_may_run_dry_until_drain_ends() -> None:
    seldom = replace(POOL, most=REUSE_TIMES - 1)
    assert drained_behind(POOL, REUSE_GRACE - 0.1).stage is Stage.DRAINING
    assert drained_behind(seldom, 4.9).stage is Stage.DRAINING
    assert drained_behind(seldom, 5.0).failed
    assert drained_behind(POOL, 0.5, timeout=0.5).failed


def test_ignored_pool_is_waited_for() -> None:
    assert drained_behind(POOL, 4.9, "ignore").stage is Stage.DRAINING
    after = drained_behind(POOL, 5.0, "ignore")
    assert (after.stage, after.failed, after.lingering_connections) == (Stage.RESTARTING, False, 3)


def test_stop_while_draining_is_left_stopped() -> None:
    after = stepped(a_member(Stage.DRAINING), a_process("STOPPED", down_for=MANUAL_STOP_GRACE))
    assert (after.stage, after.selected, after.failed) == (Stage.OPEN, False, False)
    assert after.why == "was stopped manually, and is left stopped"


@pytest.mark.parametrize(
    "process",
    [a_process("STOPPED", down_for=MANUAL_STOP_GRACE - 0.1), a_process("STOPPING")],
    ids=["stopped", "stopping"],
)
def test_drain_waits_during_manual_restart(process: Process) -> None:
    assert stepped(a_member(Stage.DRAINING), process).stage is Stage.DRAINING


@pytest.mark.parametrize(
    "process", [a_process("RUNNING", NEW), a_process("STARTING", NEW), *map(a_process, ("BACKOFF", "FATAL", "EXITED"))]
)
def test_exited_process_needs_no_drain(process: Process) -> None:
    assert stepped(a_member(Stage.DRAINING), process, connections={NAME: 9}).stage is Stage.RESTARTING


def test_abort_while_draining_reopens_port() -> None:
    after = stepped(a_member(Stage.DRAINING), a_process(), aborting=True)
    assert (after.stage, after.attempted, after.failed) == (Stage.OPEN, False, False)


# --- drain notifications


MAX_SHOWN = DrainPolicy(signal="USR1")


SIGNAL = Action(Verb.SIGNAL, NAME, Incarnation(OLD, 1.0), "USR1")


def orders_while_draining(
    process: Process | None, closed: dict[Endpoint, float] = CLOSED, **changes: Any
) -> tuple[Action, ...]:
    of_member = {key: changes.pop(key) for key in list(changes) if key in Member.__dataclass_fields__}
    rollout = a_rollout(a_member(Stage.DRAINING, **of_member), drain=changes.pop("drain", MAX_SHOWN))
    return machine.actions(rollout, observed(process, **changes), closed)


def test_drain_signal_follows_closed_gate() -> None:
    assert orders_while_draining(a_process(), {}) == ()
    assert orders_while_draining(a_process(), {tcp(PORT): BEGAN + 1.5}) == (SIGNAL,)  # closed since this observation


def test_drain_signal_is_sent_once() -> None:
    assert orders_while_draining(a_process(), signalled=frozenset({NAME})) == ()
    assert orders_while_draining(a_process(), signalled=frozenset({"app-2"})) == (SIGNAL,)
    assert orders_while_draining(a_process(), drain=DRAIN) == ()


@pytest.mark.parametrize("state", ["STARTING", "STOPPING", "STOPPED", "EXITED", "BACKOFF", "FATAL"])
def test_drain_signal_needs_running_process(state: str) -> None:
    assert orders_while_draining(a_process(state)) == ()


def test_drain_signal_needs_the_old_process() -> None:
    assert orders_while_draining(a_process(), dead=frozenset({NAME})) == ()
    assert orders_while_draining(a_process(pid=NEW)) == ()
    assert orders_while_draining(None) == ()
    assert orders_while_draining(a_process(), was_closed=True) == ()


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.DRAINING])
def test_drain_signal_is_for_draining_members(stage: Stage) -> None:
    rollout = a_rollout(a_member(stage), drain=MAX_SHOWN)
    assert SIGNAL not in machine.actions(rollout, observed(a_process()), CLOSED)


def test_drain_request_has_warm_up_headers() -> None:
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
