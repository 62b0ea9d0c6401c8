"""What goes wrong in one group costs the other groups nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from supervisor_rolling.core import guard, hook_steps, machine
from supervisor_rolling.core.errors import ConflictError, Fault, FaultError, GateError, SocketsError
from supervisor_rolling.core.reason import see
from supervisor_rolling.core.rollout import Stage
from supervisor_rolling.listener import reconciler as reconciler_module
from supervisor_rolling.listener import rollout_requests
from tests.simulation.clients import STEP
from tests.simulation.two_groups import TwoGroups

SKIPPED = "app: skipped, and its closed ports stay closed"


def break_for_app(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, is_broken: Callable[[], bool]) -> None:
    """Let a function raise where it is called for the group app."""
    real = getattr(module, name)

    def broken(*arguments: Any, **named: Any) -> Any:
        if is_broken() and any(getattr(one, "group", "") == "app" for one in arguments):
            raise ZeroDivisionError("a defect")
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, broken)


def drains(both: TwoGroups) -> bool:
    """Whether the first process of app is behind its closed gate."""
    rollout = both.app.rollout_or_none()
    return rollout is not None and rollout.members[0].stage is Stage.DRAINING and both.app.gate.is_closed(8001)


def is_warming(both: TwoGroups) -> bool:
    rollout = both.app.rollout_or_none()
    return rollout is not None and rollout.members[0].stage is Stage.WARMING


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(SKIPPED)]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (machine, "advance"), (machine, "actions"), (machine, "jobs"), (machine, "notifications"), (machine, "leaving"),
        (machine, "closed"), (guard, "advance"), (guard, "jobs"), (guard, "closed"), (hook_steps, "job"),
    ],
)  # fmt: skip
def test_defect_in_one_group_stops_only_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, module: Any, name: str
) -> None:
    both = TwoGroups()
    both.app.connection_takes = 1.5
    both.ask("app")
    reconciler = both.live(both.reconciler(), 10.0, lambda: drains(both))
    is_broken = [True]
    break_for_app(monkeypatch, module, name, lambda: is_broken[0])
    both.ask("web")
    both.live(reconciler, 30.0, lambda: both.web.rollout_or_none() is not None and both.status("web") != "running")
    assert both.status("web") == "done"
    assert both.web.lost == 0
    assert both.app.gate.is_closed(8001)
    assert len(logged(caplog)) == 1
    assert "ZeroDivisionError" in logged(caplog)[0]
    is_broken[0] = False
    both.live(reconciler, 60.0, lambda: both.status("app") != "running")
    assert (both.status("app"), both.app.lost) == ("done", 0)


def test_defect_in_one_pause_ends_no_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    both = TwoGroups()
    break_for_app(monkeypatch, reconciler_module, "poll_interval", lambda: True)
    both.ask("app")
    both.ask("web")
    both.live(both.reconciler(), 60.0)
    assert [both.status(group) for group in both.worlds] == ["done", "done"]


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("connections", SocketsError("the kernel does not tell")),
        ("record", FaultError("INCORRECT_PARAMETERS", 2)),
        ("action", FaultError("BAD_NAME: app", 10)),
        ("guard", FaultError("INCORRECT_PARAMETERS", 2)),
        ("tend", GateError("no thread can be started")),
        ("give", GateError("no thread can be started")),
        ("hooks", GateError("no thread can be started")),
    ],
)
def test_error_in_one_group_stops_only_it(caplog: pytest.LogCaptureFixture, method: str, error: Exception) -> None:
    both = TwoGroups()
    both.ask("app")
    reconciler = both.live(both.reconciler(), 10.0, lambda: drains(both))
    both.breaks[method, "app"] = error
    both.ask("web")
    if method == "guard":
        both.app.crash("app-3")
    both.live(reconciler, 30.0, lambda: both.web.rollout_or_none() is not None and both.status("web") != "running")
    assert both.status("web") == "done"
    assert both.app.gate.is_closed(8001)
    assert logged(caplog) == [f"{SKIPPED}: {error}"]
    both.breaks.clear()
    both.live(reconciler, 60.0, lambda: both.status("app") != "running")
    assert both.status("app") == "done"


def test_conflict_in_one_group_delays_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    both = TwoGroups()
    both.ask("app")
    reconciler = both.live(both.reconciler(), 10.0, lambda: drains(both))
    both.breaks["record", "app"] = ConflictError("changed meanwhile")
    both.ask("web")
    both.live(reconciler, 30.0, lambda: both.web.rollout_or_none() is not None and both.status("web") != "running")
    assert (both.status("web"), logged(caplog)) == ("done", [])


def test_group_failing_after_a_gap_keeps_its_deadline_extension() -> None:
    both = TwoGroups()
    both.app.processes["app-1"].deploy = {"boots": "never"}
    both.ask("app")
    reconciler = both.live(both.reconciler(), 20.0, lambda: is_warming(both))
    both.pass_time(40.0)  # the listener is stopped, for longer than the warm-up may take
    both.breaks["tend", "app"] = GateError("no thread can be started")
    reconciler.reconcile()
    both.breaks.clear()
    both.pass_time(STEP)
    reconciler.reconcile()
    both.app.processes["app-1"].boots = "up"
    both.live(reconciler, 60.0, lambda: both.status("app") != "running")
    assert both.status("app") == "done"


def test_rollouts_begun_in_one_reconcile_have_different_numbers() -> None:
    both = TwoGroups()
    both.ask("app")
    both.ask("web")
    both.reconciler().reconcile()
    assert {world.rollout().id for world in both.worlds.values()} == {1, 2}


def test_check_of_one_group_delays_no_reconcile_of_another() -> None:
    both = TwoGroups()
    both.app.background_takes = lambda key: 3.0
    both.app.connection_takes = 1.5
    reconciler = both.live(both.reconciler(), 3.0)
    both.ask("app")
    both.live(reconciler, 10.0, lambda: drains(both))
    both.reconciled_at.clear()
    check = both.ask("web", "check")
    both.live(reconciler, 20.0, lambda: check.state != "asked")
    assert check.state == "answered"
    gaps = [after - before for before, after in zip(both.reconciled_at, both.reconciled_at[1:])]
    assert sum(gaps) >= 5.9  # a draft and an inspection
    assert max(gaps) < 0.2


def test_new_listener_keeps_failing_groups_ports_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    both = TwoGroups()
    both.app.connection_takes = 1.5
    both.ask("app")
    both.live(both.reconciler(), 10.0, lambda: drains(both))
    break_for_app(monkeypatch, machine, "advance", lambda: True)
    both.live(both.reconciler(), 20.0)
    assert both.app.gate.is_closed(8001)


def test_crash_in_failing_group_closes_its_port() -> None:
    both = TwoGroups()
    reconciler = both.live(both.reconciler(), 3.0)
    both.ask("app")
    both.live(reconciler, 10.0, lambda: drains(both))
    both.breaks["connections", "app"] = SocketsError("the kernel does not tell")
    both.live(reconciler, 2.0)
    both.app.crash("app-3")
    reconciler.on_deaths()
    assert both.app.gate.is_closed(8003)
    both.live(reconciler, 2.0)
    assert both.app.gate.is_closed(8003)


def test_invalid_policy_refuses_only_its_groups_rollouts() -> None:
    both = TwoGroups()
    both.invalid = {"app": "rolling.yaml:7: groups.app.drian: unknown key"}
    asked = [both.ask("app"), both.ask("web")]
    reconciler = both.live(
        both.reconciler(), 30.0, lambda: "web" in both.app.mailbox.rollouts and both.status("web") == "done"
    )
    assert [one.state for one in asked] == ["refused", "accepted"]
    assert asked[0].text == f"{both.invalid['app']}. {see('config')}"
    both.app.crash("app-3")
    reconciler.on_deaths()
    assert both.app.gate.is_closed(8003)


def test_new_listener_guards_by_the_last_valid_policy() -> None:
    both = TwoGroups()
    both.live(both.reconciler(), 3.0)
    both.invalid = {"app": "rolling.yaml:7: groups.app.drian: unknown key"}
    reconciler = both.reconciler(latest_config=lambda: both.config)
    both.live(reconciler, 3.0)
    both.app.crash("app-3")
    reconciler.on_deaths()
    assert both.app.gate.is_closed(8003)


def test_defect_in_a_request_refuses_only_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    both = TwoGroups()
    asked = [both.ask("app"), both.ask("web")]
    reconciler = both.reconciler()

    def rollout_for(request: Any, draft: Any, group: Any) -> Any:
        if request.group == "app":
            raise ZeroDivisionError("a defect")
        return real(request, draft, group)

    real = rollout_requests.rollout_for
    monkeypatch.setattr(rollout_requests, "rollout_for", rollout_for)
    with caplog.at_level(logging.ERROR):
        reconciler.reconcile()
    assert [one.state for one in asked] == ["refused", "accepted"]
    assert asked[0].code == Fault.INTERNAL_ERROR
