"""What refuses a rollout before anything is touched."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor_rolling.core import machine
from supervisor_rolling.core.admission import begin, check_not_last_serving, kept_closed
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.errors import ConfigError, RefusedError
from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.jobs import WarmupStatus
from supervisor_rolling.core.log_messages import changes
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import GatePolicy, Policy, PortRule
from supervisor_rolling.core.preflight_report import ProcessSettings, Settings
from supervisor_rolling.core.reason import Reason
from supervisor_rolling.core.rollout import Rollout, Stage, Status
from supervisor_rolling.core.wait_reasons import LONG
from tests.support.members import (
    BEGAN,
    NAME,
    NEW,
    a_guarded,
    a_member,
    a_process,
    a_rollout,
    all_open,
    guarded_name,
    left,
    look,
    members,
    observed_with,
    warming,
)


def test_port_of_two_processes_is_refused() -> None:
    policy = Policy("app", PortRule(pattern=r"app-(\d+)"))
    with pytest.raises(ConfigError) as refused:
        begin(1, policy, GatePolicy(), look("RUNNING", "RUNNING"), dict.fromkeys(["app-1", "app-2"], (tcp(8000),)), {})
    assert str(refused.value) == (
        "groups.app.ports gives port 8000 to app-1 and to app-2. Fix: correct groups.app.ports in rolling.yaml"
    )


# --- what is kept closed when a rollout begins


COLD = Reason("warmup.answer", "is cold")


def begun(observed: Observation, failed: dict[str, Reason]) -> Rollout:
    endpoints = {name: (tcp(8000 + n),) for n, name in enumerate(sorted(observed.processes), 1)}
    return begin(2, Policy("app", PortRule(pattern=r"app-(\d+)")), GatePolicy(), observed, endpoints, failed)


def test_kept_closed_process_begins_failed() -> None:
    rollout = begun(look("RUNNING", "RUNNING"), {"app-2": COLD})
    assert [(m.stage, m.since, m.why) for m in rollout.members] == [
        (Stage.OPEN, 0.0, ""),
        (Stage.FAILED, BEGAN, "is cold"),
    ]
    assert (rollout.started_at, rollout.min_available) == (BEGAN, 1)


def test_group_without_ports_begins_with_none() -> None:
    facts = look("RUNNING", "RUNNING")
    rollout = begin(2, Policy("app", PortRule(none=True)), GatePolicy(), facts, {}, {})
    assert [(member.selected, member.endpoints) for member in rollout.members] == [(True, ()), (True, ())]
    with pytest.raises(ConfigError, match="or none, where no load balancer sends to them"):
        begin(2, Policy("app", PortRule(auto=True)), GatePolicy(), facts, {}, {})


def test_only_worker_of_a_group_may_be_stopped() -> None:
    facts, policy = look("RUNNING"), Policy("app", PortRule(none=True))
    check_not_last_serving(begin(2, policy, GatePolicy(), facts, {}, {}), facts.processes, Settings())


def refusal(states: tuple[str, ...], server: str = "") -> list[str]:
    facts, policy = look(*states), Policy("app", PortRule(auto=True))
    endpoints = {f"app-{number}": (tcp(8000 + number),) for number in range(1, 4)}
    settings = Settings((ProcessSettings("app-1", server=server),))
    with pytest.raises(RefusedError) as caught:
        check_not_last_serving(begin(2, policy, GatePolicy(), facts, endpoints, {}), facts.processes, settings)
    return str(caught.value).splitlines()


def test_group_of_one_is_shown_how_to_get_a_spare() -> None:
    assert refusal(("RUNNING",), "gunicorn") == [
        "app:app-1 is the only process of app that serves: requests would fail while it restarts. Fix, one of:",
        "a spare process, by these lines in supervisord.conf and rolling.yaml, and a port or socket for both:",
        "    numprocs = 2",
        "    process_name = %(program_name)s-%(process_num)d",
        "    groups: {app: {surge: 1}}",
        "the reload of gunicorn itself: supervisorctl signal HUP app:app-1",
        "an outage: supervisorctl rolling_restart app --force",
    ]
    assert not any("HUP" in line for line in refusal(("RUNNING",))), "not every program reloads"


def test_last_of_several_is_to_get_another_one() -> None:
    lines = refusal(("RUNNING", "STOPPED", "STOPPED"))
    assert lines[1:] == [
        "another one: supervisorctl start app:app-2 app:app-3",
        "an outage: supervisorctl rolling_restart app --force",
    ]


@pytest.mark.parametrize(("is_closed", "least"), [(True, 1), (False, 2)])
def test_open_guarded_process_counts_as_available(is_closed: bool, least: int) -> None:
    guarded = a_guarded(Stage.WARMING, number=2, closed=is_closed)
    assert begun(observed_with("RUNNING", "RUNNING", guarded=guarded), {}).min_available == least


def test_rollout_says_it_waits_for_guard() -> None:
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
def test_rollout_names_holder_of_port_in_backoff(stage: Stage) -> None:
    members = (a_member(stage, old_spawned=1.0, pid=NEW), *all_open(3)[1:])
    facts = replace(
        look("BACKOFF", "RUNNING", "RUNNING"), at=BEGAN + LONG, held={NAME: "port 8001 is held by process 41"}
    )
    rollout = machine.advance(a_rollout(*members), facts)
    assert (rollout.waits_for, rollout.waits_long) == (f"{NAME} to be warm: port 8001 is held by process 41", True)


def test_rollout_says_what_a_warm_up_waits_for() -> None:
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


def test_kept_closed_by_last_rollout_without_guard() -> None:
    first, second = members(Stage.FAILED, Stage.OPEN, why=COLD.text, code=COLD.code)
    assert kept_closed(a_rollout(first, second, status=Status.FAILED), None) == {"app-1": COLD}
    assert kept_closed(None, None) == {}


@pytest.mark.parametrize(
    ("guarded", "expected"),
    [
        ([], {}),
        ([a_guarded(Stage.WARMING, closed=True, number=1)], {"app-1": Reason("warmup.path", "left cold")}),
        ([a_guarded(Stage.WARMING, closed=False, number=1)], {}),
        ([a_guarded(Stage.FAILED, closed=True, tries=2, number=1, problem=COLD.text, code=COLD.code)], {"app-1": COLD}),
        ([a_guarded(Stage.FAILED, closed=True, tries=2, number=2, problem=COLD.text, code=COLD.code)], {"app-2": COLD}),
        ([a_guarded(Stage.FAILED, closed=False, tries=2, number=2, problem="is cold")], {}),
        ([a_guarded(Stage.WARMING, closed=True, number=2)], {}),
        ([a_guarded(Stage.DOWN, closed=True, number=2)], {}),
    ],
    ids=lambda value: " ".join(f"{w.name} {guarded_name(w)}" for w in value) if isinstance(value, list) else "",
)
def test_kept_closed_follows_the_guard(guarded: list[GuardedProcess], expected: dict[str, Reason]) -> None:
    previous = a_rollout(*members(Stage.FAILED, Stage.OPEN, why="left cold", code="warmup.path"), status=Status.FAILED)
    assert kept_closed(previous, a_watch(*guarded)) == expected


def test_kept_closed_by_guard_without_rollout() -> None:
    failed = a_guarded(Stage.FAILED, closed=True, tries=1, problem=COLD.text, code=COLD.code)
    assert kept_closed(None, a_watch(failed)) == {"app-3": COLD}
