"""The guard: the worked example of its header, what must hold of any group, and crashes in the simulated world."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor_rolling.core import guard
from supervisor_rolling.core.endpoint import Endpoints, tcp
from supervisor_rolling.core.guard import ASSUMED_WARM_AFTER, MAX_OPEN_RETRY, MAX_RETRY, MIN_RETRY
from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.jobs import WarmupStatus
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import (
    GatePolicy,
    GuardPolicy,
    Policy,
    PortRule,
    Ready,
    Share,
    WarmupPolicy,
)
from supervisor_rolling.core.process import Change, Process
from supervisor_rolling.core.process_states import CLOSED_STAGES, after_event
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Status
from supervisor_rolling.core.warming import WARMUP_REPORT_GRACE
from supervisor_rolling.listener.reconciler import Reconciler
from tests.simulation.world import Killed, World, fast_policy

NOW = 1000.0
HALF = Share(percent=50.0)


def a_watch(*guarded: GuardedProcess, max_closed: Share = HALF, min_ready_seconds: float = 0.0) -> GuardState:
    policy = Policy(
        "app", PortRule(auto=True), min_ready_seconds=min_ready_seconds, guard=GuardPolicy(max_closed=max_closed)
    )
    return GuardState("app", policy, GatePolicy(), guarded)


def warm(name: str, pid: int = 100) -> Process:
    return Process(name, "RUNNING", pid, warm=True, up_for=3600.0)


def crashed(name: str) -> Process:
    return Process(name, "EXITED")


def cold(name: str, pid: int = 200, state: str = "RUNNING") -> Process:
    return Process(name, state, pid)


def a_group(size: int, *others: Process) -> dict[str, Process]:
    """Processes that are warm, but for the others."""
    processes = [warm(f"app-{n}") for n in range(1, size + 1)]
    return {process.name: process for process in (*processes, *others)}


def endpoints_of(processes: Mapping[str, Process]) -> Endpoints:
    return {name: (tcp(8000 + int(name.split("-")[1])),) for name in processes}


def advanced(
    guard_state: GuardState,
    processes: Mapping[str, Process],
    at: float = 0.0,
    rollout: Rollout | None = None,
    **observed: Any,
):
    return guard.advance(guard_state, Observation(NOW + at, processes, **observed), endpoints_of(processes), rollout)


def standing(guard_state: GuardState) -> dict[str, tuple[str, bool]]:
    return {guarded.name: (guarded.stage.value, guarded.closed) for guarded in guard_state.guarded}


def a_rollout(*members: Member, status: Status = Status.RUNNING) -> Rollout:
    return Rollout(1, "app", a_watch().policy, members, 8, GatePolicy(), status=status)


# --- one process


def test_warm_process_is_not_guarded():
    assert advanced(a_watch(), a_group(3)).guarded == ()


@pytest.mark.parametrize("state", ["EXITED", "BACKOFF", "FATAL", "STOPPING", "STOPPED", "UNKNOWN"])
def test_port_of_down_process_is_closed(state: str):
    pid = 100 if state == "STOPPING" else 0
    guard_state = advanced(a_watch(), a_group(3, Process("app-2", state, pid, warm=bool(pid))))
    assert standing(guard_state) == {"app-2": ("down", True)}
    assert guard.closed(guard_state) == {tcp(8002): "supervisor_rolling app:app-2 (guard)"}
    assert guard.jobs(guard_state) == {}


@pytest.mark.parametrize("state", ["STARTING", "RUNNING"])
def test_new_pid_is_closed_and_warmed(state: str):
    guard_state = advanced(a_watch(), a_group(3, cold("app-2", state=state)))
    assert standing(guard_state) == {"app-2": ("warming", True)}
    assert {name: (job.pid, job.endpoints) for name, job in guard.jobs(guard_state).items()} == {
        "app-2": (200, (tcp(8002),))
    }


@pytest.mark.parametrize("stage", [Stage.READY, Stage.OPEN])
def test_new_pid_between_observations_is_warmed(stage: Stage):
    found = GuardedProcess("app-2", (tcp(8002),), stage, NOW - 1.0, pid=150)
    assert standing(advanced(a_watch(found), a_group(3, cold("app-2")))) == {"app-2": ("warming", True)}


@pytest.mark.parametrize("stage", [Stage.READY, Stage.OPEN])
def test_exit_before_ledger_entry_closes_port(stage: Stage):
    found = GuardedProcess("app-2", (tcp(8002),), stage, NOW - 1.0, pid=150)
    assert standing(advanced(a_watch(found), a_group(3, crashed("app-2")))) == {"app-2": ("down", True)}


def test_warm_running_process_is_open():
    guard_state = advanced(a_watch(), a_group(3, cold("app-2", state="STARTING")))
    found = {"app-2": WarmupStatus(200, "warm", 11, 730.0, 3.0)}
    assert standing(advanced(guard_state, a_group(3, cold("app-2", state="STARTING")), warmups=found)) == {
        "app-2": ("warming", True)
    }
    after = advanced(guard_state, a_group(3, cold("app-2")), 2.0, warmups=found)
    assert [(w.stage, w.closed, w.pid, w.since, w.requests, w.why) for w in after.guarded] == [
        (Stage.READY, False, 200, NOW + 2.0, 11, "")
    ]
    assert advanced(after, a_group(3, cold("app-2")), 2.0) == after, "until the ledger has it"
    assert advanced(after, a_group(3, replace(warm("app-2"), pid=200)), 2.0).guarded == ()


def test_warm_process_is_ready_for_min_ready_seconds():
    ready = GuardedProcess("app-2", (tcp(8002),), Stage.READY, NOW, pid=200)
    processes = a_group(3, replace(warm("app-2"), pid=200))
    assert standing(advanced(a_watch(ready, min_ready_seconds=10.0), processes, 9.9)) == {"app-2": ("ready", False)}
    assert advanced(a_watch(ready, min_ready_seconds=10.0), processes, 10.0).guarded == ()


def test_warm_up_of_other_pid_is_ignored():
    guard_state = advanced(a_watch(), a_group(3, cold("app-2")))
    found = {"app-2": WarmupStatus(100, "warm")}
    assert standing(advanced(guard_state, a_group(3, cold("app-2")), warmups=found)) == {"app-2": ("warming", True)}


def test_failed_warm_up_is_retried_after_growing_pauses():
    guard_state, at, pauses = advanced(a_watch(), a_group(3, cold("app-2"))), 0.0, []
    for _ in range(6):
        failed = {"app-2": WarmupStatus(200, "failed", why="GET / answered 500")}
        guard_state = advanced(guard_state, a_group(3, cold("app-2")), at, warmups=failed)
        (guarded,) = guard_state.guarded
        assert (guarded.stage, guarded.closed, guarded.why) == (Stage.FAILED, True, "is not warm: GET / answered 500")
        pauses.append(guarded.retry_at - NOW - at)
        assert advanced(guard_state, a_group(3, cold("app-2")), guarded.retry_at - NOW - 0.1) == guard_state
        assert guard.jobs(guard_state) == {}, "it is over, so that it can begin anew"
        at = guarded.retry_at - NOW
        guard_state = advanced(guard_state, a_group(3, cold("app-2")), at)
        assert standing(guard_state) == {"app-2": ("warming", True)}
        assert guard_state.guarded[0].why == "is being warmed up again, because it is not warm: GET / answered 500"
    assert pauses == [MIN_RETRY, 10.0, 20.0, 40.0, MAX_RETRY, MAX_RETRY]


def failed_open(*pids: int, retry_in: float = 0.0) -> list[GuardedProcess]:
    """Of app-1 on: open, and their warm-ups failed before. The first is to be tried again first."""
    return [
        GuardedProcess(
            f"app-{n}",
            (tcp(8000 + n),),
            Stage.FAILED,
            NOW,
            False,
            pid,
            1,
            NOW + retry_in + n / 10,
            problem="is not warm: x",
        )
        for n, pid in enumerate(pids, 1)
    ]


def all_cold(size: int) -> dict[str, Process]:
    return {f"app-{n}": cold(f"app-{n}", pid=200 + n) for n in range(1, size + 1)}


def test_open_process_is_tried_again_seldom():
    (guarded,) = failed_open(201)
    guard_state, processes, pauses = a_watch(guarded), all_cold(1), []
    for _ in range(7):
        at = guard_state.guarded[0].retry_at - NOW
        guard_state = advanced(guard_state, processes, at)
        assert standing(guard_state) == {"app-1": ("warming", False)}
        guard_state = advanced(guard_state, processes, at, warmups={"app-1": WarmupStatus(201, "failed", why="x")})
        pauses.append(round(guard_state.guarded[0].retry_at - NOW - at, 6))
    assert pauses == [20.0, 40.0, 80.0, 160.0, MAX_OPEN_RETRY, MAX_OPEN_RETRY, MAX_OPEN_RETRY]


def test_open_processes_are_retried_one_at_a_time():
    guard_state, processes = a_watch(*failed_open(201, 202, 203)), all_cold(3)
    guard_state = advanced(guard_state, processes, 5.0)
    assert standing(guard_state) == {
        "app-1": ("warming", False),
        "app-2": ("failed", False),
        "app-3": ("failed", False),
    }
    guard_state = advanced(guard_state, processes, 6.0)
    assert list(guard.jobs(guard_state)) == ["app-1"]
    guard_state = advanced(guard_state, processes, 7.0, warmups={"app-1": WarmupStatus(201, "failed", why="x")})
    assert list(guard.jobs(guard_state)) == ["app-2"]


def test_open_process_closed_later_is_retried_sooner():
    (guarded,) = failed_open(201, retry_in=200.0)
    guard_state = advanced(a_watch(guarded), a_group(3, cold("app-1", pid=201)), 1.0)
    assert standing(guard_state) == {"app-1": ("failed", True)}
    assert guard_state.guarded[0].retry_at == NOW + 1.0 + MIN_RETRY


def test_warm_up_of_the_guard_has_a_deadline():
    processes = a_group(3, cold("app-2"))
    guard_state = advanced(a_watch(), processes)
    timeout = guard_state.policy.warmup.timeout
    trickles = {"app-2": WarmupStatus(200, "warming", why="GET /health: nothing", queued=7.0)}
    late = timeout + 7.0 + WARMUP_REPORT_GRACE
    assert advanced(guard_state, processes, late - 0.1, warmups=trickles).guarded[0].stage is Stage.WARMING
    (guarded,) = advanced(guard_state, processes, late, warmups=trickles).guarded
    assert (guarded.stage, guarded.closed, guarded.tries) == (Stage.FAILED, True, 1)
    assert guarded.why == "is not warm after 60 s (warmup.timeout): GET /health: nothing"
    (guarded,) = advanced(guard_state, processes, late, warmups=trickles, gap=10.0).guarded
    assert (guarded.stage, guarded.since) == (Stage.WARMING, NOW + late), "the listener was away, and begins anew"


def test_other_policy_restarts_warm_ups():
    processes = a_group(4, cold("app-2"), cold("app-3", pid=300))
    failed = GuardedProcess(
        "app-3", (tcp(8003),), Stage.FAILED, NOW, True, 300, 5, NOW + 60.0, problem="is not warm: 404"
    )
    guard_state = advanced(a_watch(failed), processes)
    same = guard.with_policy(
        guard_state, replace(guard_state.policy, min_ready_seconds=3.0), guard_state.gate, NOW + 9.0
    )
    assert same.guarded == guard_state.guarded
    other = replace(guard_state.policy, warmup=WarmupPolicy(ready=Ready("/right")))
    guard_state = advanced(guard.with_policy(guard_state, other, guard_state.gate, NOW + 9.0), processes, 9.0)
    assert {(guarded.name, guarded.stage, guarded.since) for guarded in guard_state.guarded} == {
        ("app-2", Stage.WARMING, NOW + 9.0),
        ("app-3", Stage.WARMING, NOW + 9.0),
    }
    assert all(job.policy.ready.path == "/right" for job in guard.jobs(guard_state).values())


def test_new_pid_after_failure_is_warmed_at_once():
    failed = GuardedProcess(
        "app-2", (tcp(8002),), Stage.FAILED, NOW, True, 200, 3, NOW + 60.0, problem="is not warm: 500"
    )
    guard_state = advanced(a_watch(failed), a_group(3, cold("app-2", pid=300)), 1.0)
    assert [(w.stage, w.closed, w.pid, w.tries, w.since) for w in guard_state.guarded] == [
        (Stage.WARMING, True, 300, 0, NOW + 1.0)
    ]


def test_boot_loop_stays_closed():
    guard_state = a_watch()
    for n in range(5):
        guard_state = advanced(guard_state, a_group(3, Process("app-2", "BACKOFF")), n)
        assert standing(guard_state) == {"app-2": ("down", True)}
        guard_state = advanced(guard_state, a_group(3, cold("app-2", pid=200 + n, state="STARTING")), n + 0.5)
        assert standing(guard_state) == {"app-2": ("warming", True)}


def test_down_process_says_why():
    guard_state = advanced(a_watch(), a_group(3, Process("app-2", "FATAL", spawn_error="Exited too quickly")))
    assert guard_state.guarded[0].why == "FATAL: Exited too quickly: its next process is kept closed until it is warm"


def test_down_group_says_next_serves_cold():
    guard_state = advanced(a_watch(), {f"app-{n}": Process(f"app-{n}", "FATAL") for n in range(1, 4)})
    assert guard.closed(guard_state) == {}
    assert {guarded.why for guarded in guard_state.guarded} == {
        "it is FATAL: its next process accepts traffic before it is warm, because no process of the group is warm and "
        "open"
    }


def test_holder_of_port_is_named_while_down():
    held = {"app-2": "port 8002 is held by process 41 (python3). Fix: kill 41"}
    guard_state = advanced(a_watch(), a_group(3, Process("app-2", "BACKOFF")), held=held)
    assert guard_state.guarded[0].why == (
        "it is BACKOFF: its next process is kept closed until it is warm; "
        "port 8002 is held by process 41 (python3). Fix: kill 41"
    )


def test_long_warmup_says_what_it_waits_for():
    warmups = {"app-2": WarmupStatus(200, "warming", why="port 8002 is held by process 41 (python3)")}
    guard_state = advanced(a_watch(), a_group(3, cold("app-2")), warmups=warmups)
    assert guard_state.guarded[0].why == "a new process, not warm yet"
    guard_state = advanced(guard_state, a_group(3, cold("app-2")), at=guard.SHOWN_AFTER, warmups=warmups)
    assert guard_state.guarded[0].why == "a new process, not warm yet: port 8002 is held by process 41 (python3)"


def test_max_closed_says_next_serves_cold():
    guard_state = advanced(a_watch(), a_group(4, *(Process(f"app-{n}", "BACKOFF") for n in range(1, 4))))
    assert len(guard.closed(guard_state)) == 2
    assert guard_state.guarded[2].why == (
        "it is BACKOFF: its next process accepts traffic before it is warm, because no more may be closed "
        "(guard.max_closed: 50%)"
    )


def test_process_without_endpoints_is_not_guarded():
    processes = a_group(2, cold("app-2"))
    assert (
        guard.advance(a_watch(), Observation(NOW, processes), {"app-1": (tcp(8001),), "app-2": ()}, None).guarded == ()
    )


def test_gate_problem_is_told():
    guard_state = advanced(a_watch(), a_group(2, cold("app-2")), gate_problem="no CAP_NET_ADMIN")
    assert guard_state.guarded[0].why == "a new process, not warm yet; its port is not closed yet: no CAP_NET_ADMIN"


# --- never too much: the worked example of guard.py


@pytest.mark.parametrize(("down", "closed"), [(1, 1), (4, 4), (5, 4), (8, 0)])
def test_the_worked_example(down: int, closed: int):
    guard_state = advanced(a_watch(), a_group(8, *(crashed(f"app-{n}") for n in range(1, down + 1))))
    assert len(guard_state.guarded) == down
    assert len(guard.closed(guard_state)) == closed


def test_process_beyond_max_closed_is_warmed_open():
    guard_state = advanced(a_watch(), a_group(8, *(cold(f"app-{n}") for n in range(1, 6))))
    assert standing(guard_state)["app-5"] == ("warming", False)
    assert "app-5" in guard.jobs(guard_state)
    assert guard_state.guarded[4].why.endswith(
        "it accepts traffic anyway, because no more may be closed (guard.max_closed: 50%)"
    )


def test_first_warm_process_closes_the_others():
    processes = a_group(8, *(cold(f"app-{n}") for n in range(1, 9)))
    guard_state = advanced(a_watch(), processes)
    assert guard.closed(guard_state) == {}
    assert guard_state.guarded[0].why.endswith(
        "it accepts traffic anyway, because no process of the group is warm and open"
    )
    after = advanced(guard_state, processes, warmups={"app-3": WarmupStatus(200, "warm")})
    assert standing(after)["app-3"] == ("open", False), "it was never closed, so it need not be ready for a time"
    assert len(guard.closed(after)) == 4


def test_ready_process_does_not_count_as_open():
    ready = GuardedProcess("app-1", (tcp(8001),), Stage.READY, NOW, pid=200)
    processes = a_group(0, replace(warm("app-1"), pid=200), cold("app-2"))
    assert guard.closed(advanced(a_watch(ready, min_ready_seconds=10.0), processes, 1.0)) == {}, "nginx may shun it"


def test_lost_ledger_entry_is_written_again():
    ready = GuardedProcess("app-2", (tcp(8002),), Stage.READY, NOW, pid=200)
    after = advanced(a_watch(ready, min_ready_seconds=5.0), a_group(3, cold("app-2")), 1.0)
    assert [(guarded.stage, guarded.since) for guarded in after.guarded] == [(Stage.READY, NOW + 1.0)]


def test_max_closed_counts_startable_processes():
    stopped = [Process(f"app-{n}", "STOPPED") for n in range(1, 9)]
    guard_state = advanced(a_watch(), a_group(16, *stopped, *(crashed(f"app-{n}") for n in range(9, 16))))
    assert len(guard.closed(guard_state)) == 8 + 4


def test_next_warm_process_makes_room():
    guard_state = advanced(a_watch(), a_group(8, *(cold(f"app-{n}") for n in range(1, 6))))
    guard_state = advanced(guard_state, a_group(8, *(cold(f"app-{n}") for n in range(2, 6))))
    assert standing(guard_state) == {f"app-{n}": ("warming", True) for n in range(2, 6)}


def test_closed_by_rollout_count_and_open_none():
    members = tuple(Member(f"app-{n}", (tcp(8000 + n),), stage=Stage.RESTARTING) for n in (1, 2, 3))
    rollout = a_rollout(*members)
    guard_state = advanced(a_watch(), a_group(8, cold("app-7"), cold("app-8")), rollout=rollout)
    assert standing(guard_state) == {"app-7": ("warming", True), "app-8": ("warming", False)}
    more = a_rollout(*members, Member("app-4", (tcp(8004),), stage=Stage.DRAINING))
    after = advanced(guard_state, a_group(8, cold("app-7"), cold("app-8")), rollout=more)
    assert standing(after) == standing(guard_state)


def test_stopped_processes_are_closed_and_not_counted():
    stopped = [Process(f"app-{n}", "STOPPED") for n in range(1, 6)]
    guard_state = advanced(a_watch(), a_group(10, *stopped, cold("app-6"), crashed("app-7")))
    assert len(guard.closed(guard_state)) == 7
    started = [cold(f"app-{n}", state="STARTING") for n in range(1, 6)]
    after = advanced(guard_state, a_group(10, *started, cold("app-6"), crashed("app-7")), 5.0)
    assert {"app-6", "app-7"} <= {guarded.name for guarded in after.guarded if guarded.closed}, "the longest first"
    assert len(guard.closed(after)) == 5


@pytest.mark.parametrize("down_for", [0.0, 10.0])
def test_process_exited_for_good_is_not_counted(down_for: float):
    gone = [Process(f"app-{n}", "EXITED", down_for=down_for) for n in range(1, 6)]
    assert len(guard.closed(advanced(a_watch(), a_group(8, *gone)))) == (5 if down_for else 4), down_for


def test_only_process_is_never_closed():
    assert guard.closed(advanced(a_watch(), a_group(1, cold("app-1")))) == {}


def test_max_closed_may_be_a_number():
    guard_state = advanced(a_watch(max_closed=Share(number=1)), a_group(8, cold("app-1"), cold("app-2")))
    assert len(guard.closed(guard_state)) == 1
    assert guard_state.guarded[1].why.endswith("(guard.max_closed: 1)")


# --- what a rollout has in hand


@pytest.mark.parametrize("stage", sorted(set(CLOSED_STAGES)))
def test_member_under_way_is_left_to_rollout(stage: Stage):
    rollout = a_rollout(Member("app-2", (tcp(8002),), stage=stage, pid=200))
    assert advanced(a_watch(), a_group(3, cold("app-2")), rollout=rollout).guarded == ()


def test_ready_member_is_guarded_when_it_exits():
    rollout = a_rollout(Member("app-2", (tcp(8002),), stage=Stage.READY, pid=200))
    assert advanced(a_watch(), a_group(3, cold("app-2")), rollout=rollout).guarded == ()
    assert standing(advanced(a_watch(), a_group(3, crashed("app-2")), rollout=rollout)) == {"app-2": ("down", True)}
    assert standing(advanced(a_watch(), a_group(3, cold("app-2", 300)), rollout=rollout)) == {
        "app-2": ("warming", True)
    }


def test_failed_member_stays_closed_after_rollout():
    rollout = a_rollout(
        Member("app-2", (tcp(8002),), stage=Stage.FAILED, pid=200, why="is not warm: 500"), status=Status.FAILED
    )
    guard_state = advanced(a_watch(), a_group(3, cold("app-2")), rollout=rollout)
    (guarded,) = guard_state.guarded
    assert (guarded.stage, guarded.closed, guarded.why, guarded.retry_at) == (
        Stage.FAILED,
        True,
        "is not warm: 500",
        NOW + MIN_RETRY,
    )
    again = advanced(a_watch(), a_group(3, cold("app-2", 300)), rollout=rollout)
    assert standing(again) == {"app-2": ("warming", True)}, "it was started since"
    assert advanced(a_watch(), a_group(3, replace(warm("app-2"), pid=200)), rollout=rollout).guarded == ()


# --- the ledger, and a group that was not guarded before


def test_long_running_process_counts_as_warm():
    old = replace(cold("app-1"), up_for=ASSUMED_WARM_AFTER)
    young = replace(cold("app-2"), up_for=ASSUMED_WARM_AFTER - 1)
    processes = {process.name: process for process in (old, young)}
    begun = guard.begin(a_watch(), processes, endpoints_of(processes), NOW)
    guard_state = advanced(begun, processes)
    assert standing(guard_state) == {"app-1": ("open", False), "app-2": ("warming", True)}
    assert guard_state.guarded[0].pid == 200, "for the ledger"
    processes["app-1"] = replace(old, warm=True)
    assert standing(advanced(guard_state, processes)) == {"app-2": ("warming", True)}


def test_warm_process_reaches_ledger_despite_rollout():
    processes = {"app-1": replace(cold("app-1"), up_for=3600.0)}
    rollout = a_rollout(Member("app-1", (tcp(8001),), stage=Stage.DRAINING))
    guard_state = advanced(guard.begin(a_watch(), processes, endpoints_of(processes), NOW), processes, rollout=rollout)
    assert [(guarded.stage, guarded.pid) for guarded in guard_state.guarded] == [(Stage.OPEN, 200)]


# --- events


def test_event_changes_the_process():
    running = warm("app-1")
    exited = after_event(running, Change("app", "app-1", "EXITED", "RUNNING", 100))
    assert (exited.state, exited.pid, exited.warm) == ("EXITED", 0, False)
    starting = after_event(exited, Change("app", "app-1", "STARTING", "EXITED"))
    assert (starting.state, starting.pid) == ("STARTING", 0)
    stopping = after_event(running, Change("app", "app-1", "STOPPING", "RUNNING", 100))
    assert (stopping.state, stopping.pid, stopping.warm) == ("STOPPING", 100, True)


@pytest.mark.parametrize(
    "change",
    [
        Change("app", "app-1", "EXITED", "RUNNING", 99),
        Change("app", "app-1", "STARTING", "EXITED"),
        Change("app", "app-1", "BACKOFF", "STARTING"),
    ],
)
def test_an_old_event_changes_nothing(change: Change):
    assert after_event(warm("app-1"), change) == warm("app-1")


# --- what must hold, whatever the group

states = st.sampled_from(["STOPPED", "STARTING", "RUNNING", "BACKOFF", "STOPPING", "EXITED", "FATAL", "UNKNOWN"])


@st.composite
def tables(draw: st.DrawFn, size: int) -> dict[str, Process]:
    found = {}
    for n in range(1, size + 1):
        state = draw(st.one_of(st.just("RUNNING"), states))
        pid = draw(st.integers(1, 4)) if state in ("STARTING", "RUNNING", "STOPPING") else 0
        down_for = draw(st.sampled_from([0.0, 10.0]))
        is_warm = bool(pid) and draw(st.booleans())
        found[f"app-{n}"] = Process(f"app-{n}", state, pid, down_for=down_for, warm=is_warm)
    return found


@st.composite
def rollouts(draw: st.DrawFn, size: int) -> Rollout | None:
    if draw(st.booleans()):
        return None
    stages = st.sampled_from([Stage.OPEN, Stage.OPEN, *CLOSED_STAGES, Stage.READY])
    pids = st.integers(0, 4)
    members = [Member(f"app-{n}", (tcp(8000 + n),), stage=draw(stages), pid=draw(pids)) for n in range(1, size + 1)]
    return a_rollout(*members, status=draw(st.sampled_from(Status)))


@st.composite
def lives(draw: st.DrawFn) -> tuple[GuardState, list[Any]]:
    """A guard, and observations of its group: a table, a rollout, and how far the warm-ups are."""
    size = draw(st.integers(1, 9))
    numbers = st.integers(1, 9).map(lambda n: Share(number=n))
    share = draw(st.one_of(numbers, st.just(HALF), st.just(Share(percent=10.0))))
    warmups = st.dictionaries(
        st.integers(1, size).map(lambda n: f"app-{n}"),
        st.builds(WarmupStatus, st.integers(1, 4), st.sampled_from(["warming", "warm", "failed"])),
    )
    observations = draw(st.lists(st.tuples(tables(size), rollouts(size), warmups), min_size=1, max_size=5))
    return a_watch(max_closed=share, min_ready_seconds=draw(st.sampled_from([0.0, 5.0]))), observations


@settings(deadline=None, max_examples=300)
@given(lives(), st.sampled_from([0.0, 4.0, 70.0]))
def test_cold_process_is_open_beyond_max_closed_only(life: Any, between: float):
    guard_state, observations = life
    for number, (processes, rollout, warmups) in enumerate(observations):
        at = number * between
        before, guard_state = guard_state, advanced(guard_state, processes, at, rollout=rollout, warmups=warmups)
        runs = rollout is not None and rollout.status is Status.RUNNING
        members = {member.name: member for member in rollout.members} if rollout is not None and runs else {}
        held = {name for name, member in members.items() if member.stage in CLOSED_STAGES}
        ready = {name for name, member in members.items() if member.stage is Stage.READY}
        share = guard_state.policy.guard.max_closed
        there = sum(not _will_not_come(process) for process in processes.values())
        limit = share.number or max(1, int(share.percent * there / 100))
        guarded = {guarded.name: guarded for guarded in guard_state.guarded}
        cold_ones = {name for name, guarded in guarded.items() if guarded.stage not in (Stage.READY, Stage.OPEN)}
        shut = {name for name, guarded in guarded.items() if guarded.closed}
        gone = {name for name in guarded if _will_not_come(processes[name])}
        counted = shut - gone
        was_shut = {guarded.name for guarded in before.guarded if guarded.closed}
        serving = {
            name
            for name, process in processes.items()
            if process.warm and process.state == "RUNNING" and name not in {*held, *ready, *guarded}
        }
        serving |= {name for name, guarded in guarded.items() if guarded.stage is Stage.OPEN and name not in held}
        assert shut <= cold_ones, "warm is open"
        assert not guarded.keys() & held, "what a rollout has in hand is left to it"
        assert len(counted) <= limit
        assert not counted - was_shut or len(counted) + len(held) <= max(limit, len(was_shut) + len(held))
        if not serving and not ready:
            assert not shut
        elif serving and len(counted) + len(held) < limit:
            assert cold_ones <= shut, "there was room for all"
        assert all(guarded[name].why for name in cold_ones)
        assert advanced(guard_state, processes, at, rollout=rollout) == guard_state, "one observation has one answer"


def _will_not_come(process: Process) -> bool:
    return process.state in ("STOPPED", "FATAL", "UNKNOWN") or (process.state == "EXITED" and process.down_for > 3.0)


# --- whole lives in the simulated world


def guarded(size: int = 8, **changes: Any) -> tuple[World, Reconciler]:
    """A world in which everything has been warm for long, under guard."""
    world = World(size, fast_policy(**changes))
    reconciler = world.live(world.reconciler(), 0.2)
    world.cold = world.lost = 0
    return world, reconciler


def all_open_and_warm(world: World) -> bool:
    warmed = (world.mailbox.is_warm("app", p.name, p.incarnation) for p in world.processes.values())
    return all(warmed) and not world.gate.closed_until and world.guard_state().guarded == ()


@pytest.fixture(params=[False, True], ids=["with events", "without any event"])
def is_deaf(request: pytest.FixtureRequest) -> Iterator[bool]:
    return request.param


def test_crashed_process_serves_when_warm():
    world, reconciler = guarded()
    world.crash("app-3")
    reconciler = world.live(reconciler, 0.05)
    assert set(world.gate.closed_until) == {8003}
    world.live(reconciler, 2.0)
    assert all_open_and_warm(world)
    assert world.cold == 0
    assert [len(p.releases) for p in world.processes.values()] == [0, 0, 1, 0, 0, 0, 0, 0]


def test_exit_closes_port_before_observation():
    world, reconciler = guarded()
    world.crash("app-3")
    reconciler.on_deaths()
    assert set(world.gate.closed_until) == {8003}


def test_event_closes_port_before_observation():
    world, reconciler = guarded()
    pid = world.processes["app-3"].pid
    stopping = Change("app", "app-3", "STOPPING", "RUNNING", pid)
    assert reconciler.on_events([stopping]) == 0.0
    assert set(world.gate.closed_until) == {8003}
    assert 0.0 < reconciler.on_events([Change("app", "app-4", "RUNNING", "STARTING", 1)]) < 1.0, "old, or one was lost"
    assert reconciler.on_events([Change("other", "x", "EXITED", "RUNNING", 1)]) == float("inf")


def test_flapping_process_wakes_no_reconciler():
    world, reconciler = guarded()
    world.crash("app-3")
    assert reconciler.on_deaths() == 0.0
    reconciler.on_events([Change("app", "app-3", "EXITED", "RUNNING", 1)])
    assert reconciler.on_events([Change("app", "app-3", "STARTING", "EXITED")]) == 0.0, "its first exit"
    reconciler.on_events([Change("app", "app-3", "EXITED", "RUNNING", 2)])
    assert reconciler.on_events([Change("app", "app-3", "STARTING", "EXITED")]) > 0.0
    world.crash("app-4")
    assert reconciler.on_deaths() == 0.0, "another process"
    assert set(world.gate.closed_until) == {8003, 8004}


def test_two_hundred_crashes_reach_no_user(is_deaf: bool):
    chance = random.Random(3)
    world, reconciler = guarded()
    world.is_deaf = is_deaf
    for process in world.processes.values():
        process.boot_takes = 0.1 if is_deaf else 0.01  # without events the listener observes every five seconds
    for _ in range(200):
        alive = [name for name, process in world.processes.items() if process.state == "RUNNING"]
        if len(alive) > 4:
            world.crash(chance.choice(alive))
        if is_deaf:
            reconciler.reconcile()
        reconciler = world.live(reconciler, chance.random())
    world.live(reconciler, 10.0)
    assert all_open_and_warm(world)
    assert world.cold == 0


def test_crash_of_whole_group_serves_again_soon():
    world, reconciler = guarded()
    for name in world.processes:
        world.crash(name)
    world.least_serving = 8
    reconciler = world.live(reconciler, 0.15)  # a boot takes 0.1
    assert world.gate.closed_until == {}
    assert sum(bool(process.connections) for process in world.processes.values()) == 8
    world.live(reconciler, 3.0)
    assert all_open_and_warm(world)


def test_first_warm_process_takes_over_at_boot():
    world = World(8)
    for number, process in enumerate(world.processes.values()):
        process.spawned, process.state, process.warm_takes = world.now, "STARTING", 0.2 + 0.3 * number
    reconciler = world.live(world.reconciler(), 0.45)
    assert len(world.gate.closed_until) == 4
    world.live(reconciler, 5.0)
    assert all_open_and_warm(world)


def test_manually_restarted_process_is_warmed():
    world, reconciler = guarded()
    world.restart_by_hand("app-2")
    world.live(reconciler, 3.0)
    assert all_open_and_warm(world)
    assert world.cold == 0


def test_stopped_process_is_closed_when_started():
    world, reconciler = guarded()
    world.stop("app-2")
    reconciler = world.live(reconciler, 10.0)
    assert set(world.gate.closed_until) == {8002}
    world.processes["app-2"].boot_takes = 0.0
    world.start("app-2")
    world.pass_time(0.1)
    assert world.cold == 0
    world.live(reconciler, 3.0)
    assert all_open_and_warm(world)


def test_new_listener_leaves_warm_processes():
    world, _ = guarded()
    world.log.clear()
    world.live(world.reconciler(), 10.0)
    assert all_open_and_warm(world)
    assert not world.warmups.warmed
    assert "guard" not in world.log


def test_guard_survives_kill_at_any_operation():
    def crash_and_live(kill_after: int) -> World:
        world, reconciler = guarded(3)
        world.kill_after = world.operations + kill_after if kill_after else 0
        world.crash("app-2")
        world.live(reconciler, 4.0)
        return world

    begun = guarded(3)[0].operations
    for kill_after in range(crash_and_live(0).operations - begun):
        world = crash_and_live(kill_after)
        assert (all_open_and_warm(world), world.cold) == (True, 0), kill_after
        assert len(world.processes["app-2"].releases) == 1


def test_guard_false_closes_and_warms_nothing():
    world = World(4, fast_policy(guard=GuardPolicy(enabled=False)))
    reconciler = world.live(world.reconciler(), 0.2)
    world.crash("app-2")
    world.live(reconciler, 3.0)
    assert (list(world.mailbox.guard_states), world.gate.closed_until, world.warmups.warmed) == ([], {}, set())


def test_disabled_guard_opens_its_ports():
    world, reconciler = guarded(4)
    world.processes["app-2"].warms = "GET / answered 500"
    world.crash("app-2")
    reconciler = world.live(reconciler, 2.0)
    assert set(world.gate.closed_until) == {8002}
    world.policy = replace(world.policy, guard=GuardPolicy(enabled=False))
    world.live(reconciler, 20.0)
    assert (list(world.mailbox.guard_states), world.gate.closed_until) == ([], {})


def test_ports_none_opens_what_the_guard_had_closed():
    world, reconciler = guarded(4)
    with_ports = world.policy
    world.processes["app-2"].warms = "GET / answered 500"
    world.crash("app-2")
    reconciler = world.live(reconciler, 2.0)
    assert set(world.gate.closed_until) == {8002}
    world.policy = replace(with_ports, ports=PortRule(none=True))
    reconciler = world.live(reconciler, 20.0)
    assert (list(world.mailbox.guard_states), world.gate.closed_until) == ([], {})
    world.policy = with_ports
    world.crash("app-2")
    world.live(reconciler, 2.0)
    assert set(world.gate.closed_until) == {8002}, "and with ports again it is closed"


def test_unreadable_policy_uses_the_last_one():
    world, _ = guarded(4)
    reconciler = world.reconciler(latest_config=lambda: None)
    world.crash("app-2")
    reconciler = world.live(reconciler, 0.05)
    assert set(world.gate.closed_until) == {8002}
    world.live(reconciler, 3.0)
    assert all_open_and_warm(world)


def test_failing_warm_up_is_repeated():
    world, reconciler = guarded(4)
    world.processes["app-2"].warms = "GET / answered 500"
    world.crash("app-2")
    reconciler = world.live(reconciler, 4.0)
    assert standing(world.guard_state()) == {"app-2": ("failed", True)}
    world.processes["app-2"].warms = "warm"
    world.live(reconciler, MIN_RETRY)
    assert all_open_and_warm(world)
    assert world.cold == 0


# --- with a rollout


def rolling(world: World, reconciler: Reconciler, replaced: int) -> Reconciler:
    """A rollout that has got so far."""
    world.ask()

    def is_so_far() -> bool:
        rollout = world.rollout_or_none()
        return rollout is not None and sum(member.replaced for member in rollout.members) >= replaced

    return world.live(reconciler, 60.0, is_so_far)


def test_rollout_waits_for_crashed_process():
    world, reconciler = guarded(6)
    reconciler = rolling(world, reconciler, 2)
    world.processes["app-6"].warm_takes = 3.0
    world.crash("app-6")
    reconciler = world.live(reconciler, 2.0)
    stages = [member.stage for member in world.rollout().members]
    assert standing(world.guard_state()) == {"app-6": ("warming", True)}
    assert stages.count(Stage.OPEN) == 6, "those under way are back, and no other leaves"
    world.least_serving = 6
    world.run(reconciler)
    assert world.rollout().status is Status.DONE
    assert (world.least_serving, world.cold) == (5, 0)


def test_failing_warm_up_does_not_hold_rollout():
    world, reconciler = guarded(4)
    world.processes["app-3"].warms = "GET / answered 500"
    world.crash("app-3")
    reconciler = world.live(reconciler, 4.0)
    for process in world.processes.values():
        process.deploy = {"warms": "warm"}
    world.ask()
    world.run(reconciler)
    assert world.rollout().status is Status.DONE
    assert (world.least_serving, world.cold) == (3, 0)
    world.live(reconciler, 0.1)
    assert all_open_and_warm(world)


def test_failed_member_opens_after_manual_repair():
    world, reconciler = guarded(4)
    world.processes["app-1"].deploy = {"warms": "GET / answered 500"}
    world.ask()
    reconciler = world.run(reconciler)
    assert world.rollout().status is Status.FAILED
    reconciler = world.live(reconciler, 1.0)
    assert standing(world.guard_state()) == {"app-1": ("failed", True)}
    assert set(world.gate.closed_until) == {8001}
    world.processes["app-1"].deploy = {"warms": "warm"}
    world.restart_by_hand("app-1")
    world.live(reconciler, 2.0)
    assert all_open_and_warm(world)
    assert world.cold == 0


def test_rollout_and_guard_survive_any_kill():
    def crash_in_a_rollout(kill_after: int) -> World:
        world, reconciler = guarded(4)
        reconciler = rolling(world, reconciler, 1)
        world.kill_after = world.operations + kill_after if kill_after else 0
        world.crash("app-3")
        reconciler = world.run(reconciler)
        world.kill_after = 0
        world.live(reconciler, 1.0)
        return world

    for kill_after in range(60):
        world = crash_in_a_rollout(kill_after)
        assert (world.rollout().status, all_open_and_warm(world), world.cold) == (Status.DONE, True, 0), kill_after


def test_killed_reconciler_breaks_no_rule():
    """The kill of these tests is one."""
    world, reconciler = guarded(3)
    world.kill_after = world.operations + 1
    with pytest.raises(Killed):
        reconciler.reconcile()
