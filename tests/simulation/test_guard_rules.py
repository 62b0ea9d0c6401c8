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
from supervisor_rolling.core.guard import FIRST_RETRY, LONGEST_OPEN_RETRY, LONGEST_RETRY, WARMED_BY_USERS
from supervisor_rolling.core.model import (
    Change,
    GatePolicy,
    GuardPolicy,
    Member,
    Policy,
    PortRule,
    Process,
    Rollout,
    Seen,
    Share,
    Stage,
    Status,
    Ward,
    Warmth,
    WarmupPolicy,
    Watch,
)
from supervisor_rolling.core.stages import CLOSED_STAGES, LATE_WORDS
from supervisor_rolling.listener.reconciler import Reconciler
from tests.simulation.world import Killed, World, fast_policy

NOW = 1000.0
HALF = Share(percent=50.0)


def a_watch(*wards: Ward, max_closed: Share = HALF, settle: float = 0.0) -> Watch:
    policy = Policy("app", PortRule(auto=True), settle=settle, guard=GuardPolicy(max_closed=max_closed))
    return Watch("app", policy, GatePolicy(), wards)


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


def ports_of(processes: Mapping[str, Process]) -> dict[str, tuple[int, ...]]:
    return {name: (8000 + int(name.split("-")[1]),) for name in processes}


def advanced(
    watch: Watch, processes: Mapping[str, Process], at: float = 0.0, rollout: Rollout | None = None, **seen: Any
):
    return guard.advance(watch, Seen(NOW + at, processes, **seen), ports_of(processes), rollout)


def standing(watch: Watch) -> dict[str, tuple[str, bool]]:
    return {ward.name: (ward.stage.value, ward.closed) for ward in watch.wards}


def a_rollout(*members: Member, status: Status = Status.RUNNING) -> Rollout:
    return Rollout(1, "app", a_watch().policy, members, 8, GatePolicy(), status=status)


# --- one process


def test_who_is_warm_is_nobodys_ward():
    assert advanced(a_watch(), a_group(3)).wards == ()


@pytest.mark.parametrize("state", ["EXITED", "BACKOFF", "FATAL", "STOPPING", "STOPPED", "UNKNOWN"])
def test_the_port_of_one_that_is_down_is_closed_for_the_next(state: str):
    pid = 100 if state == "STOPPING" else 0
    watch = advanced(a_watch(), a_group(3, Process("app-2", state, pid, warm=bool(pid))))
    assert standing(watch) == {"app-2": ("down", True)}
    assert guard.closed(watch) == {8002: "supervisor_rolling app:app-2 (guard)"}
    assert guard.jobs(watch) == {}


@pytest.mark.parametrize("state", ["STARTING", "RUNNING"])
def test_a_new_pid_is_closed_and_warmed(state: str):
    watch = advanced(a_watch(), a_group(3, cold("app-2", state=state)))
    assert standing(watch) == {"app-2": ("warming", True)}
    assert {name: (job.pid, job.ports) for name, job in guard.jobs(watch).items()} == {"app-2": (200, (8002,))}


def test_warm_and_running_it_is_open_and_its_pid_is_for_the_ledger():
    watch = advanced(a_watch(), a_group(3, cold("app-2", state="STARTING")))
    found = {"app-2": Warmth(200, "warm", 11, 730.0, 3.0)}
    assert standing(advanced(watch, a_group(3, cold("app-2", state="STARTING")), warmths=found)) == {
        "app-2": ("warming", True)
    }
    after = advanced(watch, a_group(3, cold("app-2")), 2.0, warmths=found)
    assert [(w.stage, w.closed, w.pid, w.since, w.requests, w.why) for w in after.wards] == [
        (Stage.SETTLING, False, 200, NOW + 2.0, 11, "")
    ]
    assert advanced(after, a_group(3, cold("app-2")), 2.0) == after, "until the ledger has it"
    assert advanced(after, a_group(3, replace(warm("app-2"), pid=200)), 2.0).wards == ()


def test_it_settles_as_long_as_the_balancer_may_shun_it():
    settling = Ward("app-2", (8002,), Stage.SETTLING, NOW, pid=200)
    processes = a_group(3, replace(warm("app-2"), pid=200))
    assert standing(advanced(a_watch(settling, settle=10.0), processes, 9.9)) == {"app-2": ("settling", False)}
    assert advanced(a_watch(settling, settle=10.0), processes, 10.0).wards == ()


def test_the_warmth_of_another_pid_counts_for_nothing():
    watch = advanced(a_watch(), a_group(3, cold("app-2")))
    found = {"app-2": Warmth(100, "warm")}
    assert standing(advanced(watch, a_group(3, cold("app-2")), warmths=found)) == {"app-2": ("warming", True)}


def test_a_warm_up_that_failed_is_tried_again_after_growing_pauses():
    watch, at, pauses = advanced(a_watch(), a_group(3, cold("app-2"))), 0.0, []
    for _ in range(6):
        failed = {"app-2": Warmth(200, "failed", why="GET / answered 500")}
        watch = advanced(watch, a_group(3, cold("app-2")), at, warmths=failed)
        (ward,) = watch.wards
        assert (ward.stage, ward.closed, ward.why) == (Stage.FAILED, True, "is not warm: GET / answered 500")
        pauses.append(ward.retry_at - NOW - at)
        assert advanced(watch, a_group(3, cold("app-2")), ward.retry_at - NOW - 0.1) == watch
        assert guard.jobs(watch) == {}, "it is over, so that it can begin anew"
        at = ward.retry_at - NOW
        watch = advanced(watch, a_group(3, cold("app-2")), at)
        assert standing(watch) == {"app-2": ("warming", True)}
        assert watch.wards[0].why == "tried again, it is not warm: GET / answered 500"
    assert pauses == [FIRST_RETRY, 10.0, 20.0, 40.0, LONGEST_RETRY, LONGEST_RETRY]


def failed_open(*pids: int, retry_in: float = 0.0) -> list[Ward]:
    """Of app-1 on: open, and their warm-ups failed before. The first is to be tried again first."""
    return [
        Ward(
            f"app-{n}", (8000 + n,), Stage.FAILED, NOW, False, pid, 1, NOW + retry_in + n / 10, problem="is not warm: x"
        )
        for n, pid in enumerate(pids, 1)
    ]


def all_cold(size: int) -> dict[str, Process]:
    return {f"app-{n}": cold(f"app-{n}", pid=200 + n) for n in range(1, size + 1)}


def test_open_process_is_tried_again_seldom():
    (ward,) = failed_open(201)
    watch, processes, pauses = a_watch(ward), all_cold(1), []
    for _ in range(7):
        at = watch.wards[0].retry_at - NOW
        watch = advanced(watch, processes, at)
        assert standing(watch) == {"app-1": ("warming", False)}
        watch = advanced(watch, processes, at, warmths={"app-1": Warmth(201, "failed", why="x")})
        pauses.append(round(watch.wards[0].retry_at - NOW - at, 6))
    assert pauses == [20.0, 40.0, 80.0, 160.0, LONGEST_OPEN_RETRY, LONGEST_OPEN_RETRY, LONGEST_OPEN_RETRY]


def test_open_processes_are_tried_again_one_at_a_time():
    watch, processes = a_watch(*failed_open(201, 202, 203)), all_cold(3)
    watch = advanced(watch, processes, 5.0)
    assert standing(watch) == {"app-1": ("warming", False), "app-2": ("failed", False), "app-3": ("failed", False)}
    watch = advanced(watch, processes, 6.0)
    assert list(guard.jobs(watch)) == ["app-1"]
    watch = advanced(watch, processes, 7.0, warmths={"app-1": Warmth(201, "failed", why="x")})
    assert list(guard.jobs(watch)) == ["app-2"]


def test_open_process_that_is_closed_now_is_tried_as_soon_as_any():
    (ward,) = failed_open(201, retry_in=200.0)
    watch = advanced(a_watch(ward), a_group(3, cold("app-1", pid=201)), 1.0)
    assert standing(watch) == {"app-1": ("failed", True)}
    assert watch.wards[0].retry_at == NOW + 1.0 + FIRST_RETRY


def test_warm_up_of_the_guard_has_a_deadline():
    processes = a_group(3, cold("app-2"))
    watch = advanced(a_watch(), processes)
    timeout = watch.policy.warmup.timeout
    trickles = {"app-2": Warmth(200, "warming", why="GET /health: nothing", queued=7.0)}
    late = timeout + 7.0 + LATE_WORDS
    assert advanced(watch, processes, late - 0.1, warmths=trickles).wards[0].stage is Stage.WARMING
    (ward,) = advanced(watch, processes, late, warmths=trickles).wards
    assert (ward.stage, ward.closed, ward.tries) == (Stage.FAILED, True, 1)
    assert ward.why == "is not warm after 60 s (warmup.timeout): GET /health: nothing"
    (ward,) = advanced(watch, processes, late, warmths=trickles, gap=10.0).wards
    assert (ward.stage, ward.since) == (Stage.WARMING, NOW + late), "the listener was away, and begins anew"


def test_another_policy_begins_warm_ups_anew():
    processes = a_group(4, cold("app-2"), cold("app-3", pid=300))
    failed = Ward("app-3", (8003,), Stage.FAILED, NOW, True, 300, 5, NOW + 60.0, problem="is not warm: 404")
    watch = advanced(a_watch(failed), processes)
    same = guard.by_policy(watch, replace(watch.policy, settle=3.0), watch.gate, NOW + 9.0)
    assert same.wards == watch.wards
    other = replace(watch.policy, warmup=WarmupPolicy(ready="/right"))
    watch = advanced(guard.by_policy(watch, other, watch.gate, NOW + 9.0), processes, 9.0)
    assert {(ward.name, ward.stage, ward.since) for ward in watch.wards} == {
        ("app-2", Stage.WARMING, NOW + 9.0),
        ("app-3", Stage.WARMING, NOW + 9.0),
    }
    assert all(job.policy.ready == "/right" for job in guard.jobs(watch).values())


def test_when_it_crashes_and_comes_back_it_is_tried_at_once():
    failed = Ward("app-2", (8002,), Stage.FAILED, NOW, True, 200, 3, NOW + 60.0, problem="is not warm: 500")
    watch = advanced(a_watch(failed), a_group(3, cold("app-2", pid=300)), 1.0)
    assert [(w.stage, w.closed, w.pid, w.tries, w.since) for w in watch.wards] == [
        (Stage.WARMING, True, 300, 0, NOW + 1.0)
    ]


def test_a_boot_loop_stays_closed_from_one_attempt_to_the_next():
    watch = a_watch()
    for n in range(5):
        watch = advanced(watch, a_group(3, Process("app-2", "BACKOFF")), n)
        assert standing(watch) == {"app-2": ("down", True)}
        watch = advanced(watch, a_group(3, cold("app-2", pid=200 + n, state="STARTING")), n + 0.5)
        assert standing(watch) == {"app-2": ("warming", True)}


def test_what_a_process_is_down_for_is_told():
    watch = advanced(a_watch(), a_group(3, Process("app-2", "FATAL", spawn_error="Exited too quickly")))
    assert watch.wards[0].why == "FATAL: Exited too quickly: the next one is to be kept closed until it is warm"


def test_of_a_group_that_is_down_as_a_whole_it_is_told_that_the_next_one_serves_cold():
    watch = advanced(a_watch(), {f"app-{n}": Process(f"app-{n}", "FATAL") for n in range(1, 4)})
    assert guard.closed(watch) == {}
    assert {ward.why for ward in watch.wards} == {
        "it is FATAL: the next one serves before it is warm, because none of the group is warm and open"
    }


def test_holder_of_the_port_is_named_while_the_process_is_down():
    held = {"app-2": "port 8002 is held by process 41 (python3). Fix: kill 41"}
    watch = advanced(a_watch(), a_group(3, Process("app-2", "BACKOFF")), held=held)
    assert watch.wards[0].why == (
        "it is BACKOFF: the next one is to be kept closed until it is warm; "
        "port 8002 is held by process 41 (python3). Fix: kill 41"
    )


def test_long_warmup_says_what_it_waits_for():
    warmths = {"app-2": Warmth(200, "warming", why="port 8002 is held by process 41 (python3)")}
    watch = advanced(a_watch(), a_group(3, cold("app-2")), warmths=warmths)
    assert watch.wards[0].why == "a new process, not warm yet"
    watch = advanced(watch, a_group(3, cold("app-2")), at=guard.SHOWN_AFTER, warmths=warmths)
    assert watch.wards[0].why == "a new process, not warm yet: port 8002 is held by process 41 (python3)"


def test_where_no_more_may_be_closed_the_next_one_serves_cold_too():
    watch = advanced(a_watch(), a_group(4, *(Process(f"app-{n}", "BACKOFF") for n in range(1, 4))))
    assert len(guard.closed(watch)) == 2
    assert watch.wards[2].why == (
        "it is BACKOFF: the next one serves before it is warm, because no more may be closed (guard.max_closed: 50%)"
    )


def test_a_process_whose_ports_nobody_knows_is_not_guarded():
    processes = a_group(2, cold("app-2"))
    assert guard.advance(a_watch(), Seen(NOW, processes), {"app-1": (8001,), "app-2": ()}, None).wards == ()


def test_a_gate_that_does_not_close_is_told():
    watch = advanced(a_watch(), a_group(2, cold("app-2")), gate_problem="no CAP_NET_ADMIN")
    assert watch.wards[0].why == "a new process, not warm yet; its port is not closed yet: no CAP_NET_ADMIN"


# --- never too much: the worked example of guard.py


@pytest.mark.parametrize(("down", "closed"), [(1, 1), (4, 4), (5, 4), (8, 0)])
def test_the_worked_example(down: int, closed: int):
    watch = advanced(a_watch(), a_group(8, *(crashed(f"app-{n}") for n in range(1, down + 1))))
    assert len(watch.wards) == down
    assert len(guard.closed(watch)) == closed


def test_the_one_too_many_serves_cold_while_it_is_warmed_and_says_why():
    watch = advanced(a_watch(), a_group(8, *(cold(f"app-{n}") for n in range(1, 6))))
    assert standing(watch)["app-5"] == ("warming", False)
    assert "app-5" in guard.jobs(watch)
    assert watch.wards[4].why.endswith("open all the same, because no more may be closed (guard.max_closed: 50%)")


def test_when_the_first_of_a_cold_group_is_warm_the_others_are_closed():
    processes = a_group(8, *(cold(f"app-{n}") for n in range(1, 9)))
    watch = advanced(a_watch(), processes)
    assert guard.closed(watch) == {}
    assert watch.wards[0].why.endswith("open all the same, because none of the group is warm and open")
    after = advanced(watch, processes, warmths={"app-3": Warmth(200, "warm")})
    assert standing(after)["app-3"] == ("open", False), "it was never closed: there is nothing to settle"
    assert len(guard.closed(after)) == 4


def test_one_that_settles_is_not_counted_on():
    settling = Ward("app-1", (8001,), Stage.SETTLING, NOW, pid=200)
    processes = a_group(0, replace(warm("app-1"), pid=200), cold("app-2"))
    assert guard.closed(advanced(a_watch(settling, settle=10.0), processes, 1.0)) == {}, "nginx may shun it"


def test_what_the_ledger_did_not_get_is_written_again():
    settling = Ward("app-2", (8002,), Stage.SETTLING, NOW, pid=200)
    after = advanced(a_watch(settling, settle=5.0), a_group(3, cold("app-2")), 1.0)
    assert [(ward.stage, ward.since) for ward in after.wards] == [(Stage.SETTLING, NOW + 1.0)]


def test_half_of_a_group_is_half_of_those_that_are_there():
    stopped = [Process(f"app-{n}", "STOPPED") for n in range(1, 9)]
    watch = advanced(a_watch(), a_group(16, *stopped, *(crashed(f"app-{n}") for n in range(9, 16))))
    assert len(guard.closed(watch)) == 8 + 4


def test_who_is_warm_next_makes_room_for_one_more():
    watch = advanced(a_watch(), a_group(8, *(cold(f"app-{n}") for n in range(1, 6))))
    watch = advanced(watch, a_group(8, *(cold(f"app-{n}") for n in range(2, 6))))
    assert standing(watch) == {f"app-{n}": ("warming", True) for n in range(2, 6)}


def test_the_closed_of_a_rollout_count_and_open_none():
    members = tuple(Member(f"app-{n}", (8000 + n,), stage=Stage.RESTARTING) for n in (1, 2, 3))
    rollout = a_rollout(*members)
    watch = advanced(a_watch(), a_group(8, cold("app-7"), cold("app-8")), rollout=rollout)
    assert standing(watch) == {"app-7": ("warming", True), "app-8": ("warming", False)}
    more = a_rollout(*members, Member("app-4", (8004,), stage=Stage.DRAINING))
    after = advanced(watch, a_group(8, cold("app-7"), cold("app-8")), rollout=more)
    assert standing(after) == standing(watch)


def test_those_that_nobody_will_start_are_closed_and_not_counted():
    stopped = [Process(f"app-{n}", "STOPPED") for n in range(1, 6)]
    watch = advanced(a_watch(), a_group(10, *stopped, cold("app-6"), crashed("app-7")))
    assert len(guard.closed(watch)) == 7
    started = [cold(f"app-{n}", state="STARTING") for n in range(1, 6)]
    after = advanced(watch, a_group(10, *started, cold("app-6"), crashed("app-7")), 5.0)
    assert {"app-6", "app-7"} <= {ward.name for ward in after.wards if ward.closed}, "the longest first"
    assert len(guard.closed(after)) == 5


@pytest.mark.parametrize("down_for", [0.0, 10.0])
def test_one_that_exited_for_good_is_not_counted(down_for: float):
    gone = [Process(f"app-{n}", "EXITED", down_for=down_for) for n in range(1, 6)]
    assert len(guard.closed(advanced(a_watch(), a_group(8, *gone)))) == (5 if down_for else 4), down_for


def test_the_only_process_of_a_group_is_never_closed():
    assert guard.closed(advanced(a_watch(), a_group(1, cold("app-1")))) == {}


def test_max_closed_may_be_a_number():
    watch = advanced(a_watch(max_closed=Share(number=1)), a_group(8, cold("app-1"), cold("app-2")))
    assert len(guard.closed(watch)) == 1
    assert watch.wards[1].why.endswith("(guard.max_closed: 1)")


# --- what a rollout has in hand


@pytest.mark.parametrize("stage", sorted(set(CLOSED_STAGES)))
def test_what_a_rollout_has_in_hand_is_left_to_it(stage: Stage):
    rollout = a_rollout(Member("app-2", (8002,), stage=stage, pid=200))
    assert advanced(a_watch(), a_group(3, cold("app-2")), rollout=rollout).wards == ()


def test_what_settles_in_a_rollout_is_left_to_it_until_it_dies():
    rollout = a_rollout(Member("app-2", (8002,), stage=Stage.SETTLING, pid=200))
    assert advanced(a_watch(), a_group(3, cold("app-2")), rollout=rollout).wards == ()
    assert standing(advanced(a_watch(), a_group(3, crashed("app-2")), rollout=rollout)) == {"app-2": ("down", True)}
    assert standing(advanced(a_watch(), a_group(3, cold("app-2", 300)), rollout=rollout)) == {
        "app-2": ("warming", True)
    }


def test_what_a_rollout_left_failed_stays_closed_and_is_tried_again_later():
    rollout = a_rollout(
        Member("app-2", (8002,), stage=Stage.FAILED, pid=200, why="is not warm: 500"), status=Status.FAILED
    )
    watch = advanced(a_watch(), a_group(3, cold("app-2")), rollout=rollout)
    (ward,) = watch.wards
    assert (ward.stage, ward.closed, ward.why, ward.retry_at) == (
        Stage.FAILED,
        True,
        "is not warm: 500",
        NOW + FIRST_RETRY,
    )
    again = advanced(a_watch(), a_group(3, cold("app-2", 300)), rollout=rollout)
    assert standing(again) == {"app-2": ("warming", True)}, "somebody has started it since"
    assert advanced(a_watch(), a_group(3, replace(warm("app-2"), pid=200)), rollout=rollout).wards == ()


# --- the ledger, and a group that nobody guarded before


def test_what_has_run_for_long_when_a_group_comes_under_guard_is_taken_for_warm():
    old = replace(cold("app-1"), up_for=WARMED_BY_USERS)
    young = replace(cold("app-2"), up_for=WARMED_BY_USERS - 1)
    processes = {process.name: process for process in (old, young)}
    begun = guard.begin(a_watch(), processes, ports_of(processes), NOW)
    watch = advanced(begun, processes)
    assert standing(watch) == {"app-1": ("open", False), "app-2": ("warming", True)}
    assert watch.wards[0].pid == 200, "for the ledger"
    processes["app-1"] = replace(old, warm=True)
    assert standing(advanced(watch, processes)) == {"app-2": ("warming", True)}


def test_what_was_found_warm_comes_into_the_ledger_though_a_rollout_takes_it_at_once():
    processes = {"app-1": replace(cold("app-1"), up_for=3600.0)}
    rollout = a_rollout(Member("app-1", (8001,), stage=Stage.DRAINING))
    watch = advanced(guard.begin(a_watch(), processes, ports_of(processes), NOW), processes, rollout=rollout)
    assert [(ward.stage, ward.pid) for ward in watch.wards] == [(Stage.OPEN, 200)]


# --- events


def test_an_event_is_taken_for_what_it_says():
    running = warm("app-1")
    exited = guard.heard(running, Change("app", "app-1", "EXITED", "RUNNING", 100))
    assert (exited.state, exited.pid, exited.warm) == ("EXITED", 0, False)
    starting = guard.heard(exited, Change("app", "app-1", "STARTING", "EXITED"))
    assert (starting.state, starting.pid) == ("STARTING", 0)
    stopping = guard.heard(running, Change("app", "app-1", "STOPPING", "RUNNING", 100))
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
    assert guard.heard(warm("app-1"), change) == warm("app-1")


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
    stages = st.sampled_from([Stage.OPEN, Stage.OPEN, *CLOSED_STAGES, Stage.SETTLING])
    pids = st.integers(0, 4)
    members = [Member(f"app-{n}", (8000 + n,), stage=draw(stages), pid=draw(pids)) for n in range(1, size + 1)]
    return a_rollout(*members, status=draw(st.sampled_from(Status)))


@st.composite
def lives(draw: st.DrawFn) -> tuple[Watch, list[Any]]:
    """A watch, and looks at its group: a table, a rollout, and how far the warm-ups are."""
    size = draw(st.integers(1, 9))
    numbers = st.integers(1, 9).map(lambda n: Share(number=n))
    share = draw(st.one_of(numbers, st.just(HALF), st.just(Share(percent=10.0))))
    warmths = st.dictionaries(
        st.integers(1, size).map(lambda n: f"app-{n}"),
        st.builds(Warmth, st.integers(1, 4), st.sampled_from(["warming", "warm", "failed"])),
    )
    looks = draw(st.lists(st.tuples(tables(size), rollouts(size), warmths), min_size=1, max_size=5))
    return a_watch(max_closed=share, settle=draw(st.sampled_from([0.0, 5.0]))), looks


@settings(deadline=None, max_examples=300)
@given(lives(), st.sampled_from([0.0, 4.0, 70.0]))
def test_no_cold_process_is_open_but_where_closing_it_would_be_too_much(life: Any, between: float):
    watch, looks = life
    for number, (processes, rollout, warmths) in enumerate(looks):
        at = number * between
        before, watch = watch, advanced(watch, processes, at, rollout=rollout, warmths=warmths)
        runs = rollout is not None and rollout.status is Status.RUNNING
        members = {member.name: member for member in rollout.members} if rollout is not None and runs else {}
        held = {name for name, member in members.items() if member.stage in CLOSED_STAGES}
        settling = {name for name, member in members.items() if member.stage is Stage.SETTLING}
        share = watch.policy.guard.max_closed
        there = sum(not _will_not_come(process) for process in processes.values())
        limit = share.number or max(1, int(share.percent * there / 100))
        wards = {ward.name: ward for ward in watch.wards}
        cold_ones = {name for name, ward in wards.items() if ward.stage not in (Stage.SETTLING, Stage.OPEN)}
        shut = {name for name, ward in wards.items() if ward.closed}
        gone = {name for name in wards if _will_not_come(processes[name])}
        counted = shut - gone
        was_shut = {ward.name for ward in before.wards if ward.closed}
        serving = {
            name
            for name, process in processes.items()
            if process.warm and process.state == "RUNNING" and name not in {*held, *settling, *wards}
        }
        serving |= {name for name, ward in wards.items() if ward.stage is Stage.OPEN and name not in held}
        assert shut <= cold_ones, "warm is open"
        assert not wards.keys() & held, "what a rollout has in hand is left to it"
        assert len(counted) <= limit
        assert not counted - was_shut or len(counted) + len(held) <= max(limit, len(was_shut) + len(held))
        if not serving and not settling:
            assert not shut
        elif serving and len(counted) + len(held) < limit:
            assert cold_ones <= shut, "there was room for all"
        assert all(wards[name].why for name in cold_ones)
        assert advanced(watch, processes, at, rollout=rollout) == watch, "one look has one answer"


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
    warmed = (world.mailbox.is_warm("app", p.name, *p.incarnation) for p in world.processes.values())
    return all(warmed) and not world.closed_until and world.watch().wards == ()


@pytest.fixture(params=[False, True], ids=["with events", "without any event"])
def is_deaf(request: pytest.FixtureRequest) -> Iterator[bool]:
    return request.param


def test_one_that_crashed_serves_nobody_until_it_is_warm():
    world, reconciler = guarded()
    world.crash("app-3")
    reconciler = world.live(reconciler, 0.05)
    assert set(world.closed_until) == {8003}
    world.live(reconciler, 2.0)
    assert all_open_and_warm(world)
    assert world.cold == 0
    assert [len(p.releases) for p in world.processes.values()] == [0, 0, 1, 0, 0, 0, 0, 0]


def test_a_death_closes_the_port_before_any_look():
    world, reconciler = guarded()
    world.crash("app-3")
    reconciler.notice_deaths()
    assert set(world.closed_until) == {8003}


def test_an_event_closes_the_port_before_any_look_and_asks_for_one():
    world, reconciler = guarded()
    pid = world.processes["app-3"].pid
    stopping = Change("app", "app-3", "STOPPING", "RUNNING", pid)
    assert reconciler.hear([stopping]) == 0.0
    assert set(world.closed_until) == {8003}
    assert 0.0 < reconciler.hear([Change("app", "app-4", "RUNNING", "STARTING", 1)]) < 1.0, "old, or one was lost"
    assert reconciler.hear([Change("other", "x", "EXITED", "RUNNING", 1)]) == float("inf")


def test_flapping_process_asks_for_no_turn_at_once():
    world, reconciler = guarded()
    world.crash("app-3")
    assert reconciler.notice_deaths() == 0.0
    reconciler.hear([Change("app", "app-3", "EXITED", "RUNNING", 1)])
    assert reconciler.hear([Change("app", "app-3", "STARTING", "EXITED")]) == 0.0, "its first exit"
    reconciler.hear([Change("app", "app-3", "EXITED", "RUNNING", 2)])
    assert reconciler.hear([Change("app", "app-3", "STARTING", "EXITED")]) > 0.0
    world.crash("app-4")
    assert reconciler.notice_deaths() == 0.0, "another process"
    assert set(world.closed_until) == {8003, 8004}


def test_two_hundred_crashes_meet_no_user(is_deaf: bool):
    chance = random.Random(3)
    world, reconciler = guarded()
    world.is_deaf = is_deaf
    for process in world.processes.values():
        process.boot_takes = 0.1 if is_deaf else 0.01  # who hears nothing looks every five seconds, and after a turn
    for _ in range(200):
        alive = [name for name, process in world.processes.items() if process.state == "RUNNING"]
        if len(alive) > 4:
            world.crash(chance.choice(alive))
        if is_deaf:
            reconciler.turn()
        reconciler = world.live(reconciler, chance.random())
    world.live(reconciler, 10.0)
    assert all_open_and_warm(world)
    assert world.cold == 0


def test_when_all_die_at_once_all_serve_again_as_soon_as_they_can():
    world, reconciler = guarded()
    for name in world.processes:
        world.crash(name)
    world.least_serving = 8
    reconciler = world.live(reconciler, 0.15)  # a boot takes 0.1
    assert world.closed_until == {}
    assert sum(bool(process.connections) for process in world.processes.values()) == 8
    world.live(reconciler, 3.0)
    assert all_open_and_warm(world)


def test_at_the_boot_of_the_group_the_first_that_is_warm_takes_over_from_the_cold():
    world = World(8)
    for number, process in enumerate(world.processes.values()):
        process.spawned, process.state, process.warm_takes = world.now, "STARTING", 0.2 + 0.3 * number
    reconciler = world.live(world.reconciler(), 0.45)
    assert len(world.closed_until) == 4
    world.live(reconciler, 5.0)
    assert all_open_and_warm(world)


def test_restarted_by_hand_or_by_another_listener_it_is_warmed_as_well():
    world, reconciler = guarded()
    world.restart_by_hand("app-2")
    world.live(reconciler, 3.0)
    assert all_open_and_warm(world)
    assert world.cold == 0


def test_what_is_stopped_is_closed_already_when_somebody_starts_it():
    world, reconciler = guarded()
    world.stop("app-2")
    reconciler = world.live(reconciler, 10.0)
    assert set(world.closed_until) == {8002}
    world.processes["app-2"].boot_takes = 0.0
    world.start("app-2")
    world.pass_time(0.1)
    assert world.cold == 0
    world.live(reconciler, 3.0)
    assert all_open_and_warm(world)


def test_a_new_listener_closes_and_warms_nothing_that_was_warm():
    world, _ = guarded()
    world.log.clear()
    world.live(world.reconciler(), 10.0)
    assert all_open_and_warm(world)
    assert not world.was_warmed
    assert "guard" not in world.log


def test_the_listener_may_die_after_any_operation_while_it_guards():
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


def test_with_guard_false_nothing_is_closed_and_nothing_warmed():
    world = World(4, fast_policy(guard=GuardPolicy(enabled=False)))
    reconciler = world.live(world.reconciler(), 0.2)
    world.crash("app-2")
    world.live(reconciler, 3.0)
    assert (list(world.mailbox.watches), world.closed_until, world.was_warmed) == ([], {}, set())


def test_turned_off_it_opens_what_it_had_closed():
    world, reconciler = guarded(4)
    world.processes["app-2"].warms = "GET / answered 500"
    world.crash("app-2")
    reconciler = world.live(reconciler, 2.0)
    assert set(world.closed_until) == {8002}
    world.policy = replace(world.policy, guard=GuardPolicy(enabled=False))
    world.live(reconciler, 20.0)
    assert (list(world.mailbox.watches), world.closed_until) == ([], {})


def test_without_a_policy_that_can_be_read_a_new_listener_guards_by_the_last_one():
    world, _ = guarded(4)
    reconciler = world.reconciler()
    reconciler.latest_config = lambda: None
    reconciler.__post_init__()
    world.crash("app-2")
    reconciler = world.live(reconciler, 0.05)
    assert set(world.closed_until) == {8002}
    world.live(reconciler, 3.0)
    assert all_open_and_warm(world)


def test_a_warm_up_that_fails_is_repeated_until_it_does_not():
    world, reconciler = guarded(4)
    world.processes["app-2"].warms = "GET / answered 500"
    world.crash("app-2")
    reconciler = world.live(reconciler, 4.0)
    assert standing(world.watch()) == {"app-2": ("failed", True)}
    world.processes["app-2"].warms = "warm"
    world.live(reconciler, FIRST_RETRY)
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


def test_a_crash_in_a_rollout_counts_and_the_rollout_waits_for_it():
    world, reconciler = guarded(6)
    reconciler = rolling(world, reconciler, 2)
    world.processes["app-6"].warm_takes = 3.0
    world.crash("app-6")
    reconciler = world.live(reconciler, 2.0)
    stages = [member.stage for member in world.rollout().members]
    assert standing(world.watch()) == {"app-6": ("warming", True)}
    assert stages.count(Stage.OPEN) == 6, "who was on the way is back, and nobody leaves"
    world.least_serving = 6
    world.run(reconciler)
    assert world.rollout().status is Status.DONE
    assert (world.least_serving, world.cold) == (5, 0)


def test_one_whose_warm_up_fails_does_not_hold_the_rollout_that_mends_it():
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


def test_what_a_rollout_left_failed_is_open_again_when_it_is_mended_by_hand():
    world, reconciler = guarded(4)
    world.processes["app-1"].deploy = {"warms": "GET / answered 500"}
    world.ask()
    reconciler = world.run(reconciler)
    assert world.rollout().status is Status.FAILED
    reconciler = world.live(reconciler, 1.0)
    assert standing(world.watch()) == {"app-1": ("failed", True)}
    assert set(world.closed_until) == {8001}
    world.processes["app-1"].deploy = {"warms": "warm"}
    world.restart_by_hand("app-1")
    world.live(reconciler, 2.0)
    assert all_open_and_warm(world)
    assert world.cold == 0


def test_a_rollout_and_a_guard_may_be_killed_at_any_operation():
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


def test_a_killed_roller_is_no_excuse():
    """The kill of these tests is one."""
    world, reconciler = guarded(3)
    world.kill_after = world.operations + 1
    with pytest.raises(Killed):
        reconciler.turn()
