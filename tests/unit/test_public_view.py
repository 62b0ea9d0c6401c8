"""The public views: real output fits the shipped JSON Schemas, and whatever is kept can be shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib import resources
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supervisor.xmlrpc import xmlrpc_marshal

from supervisor_rolling.codec import dump, dump_changes, load, struct_of
from supervisor_rolling.core.connections import Connection
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.policy import GatePolicy, Policy, PortRule
from supervisor_rolling.core.preflight_report import Finding, Report, Severity
from supervisor_rolling.core.public_view import Detail, RolloutView, lost, report_view, rollout_view, summary_of
from supervisor_rolling.core.rollout import Interruption, Level, Member, Rollout, Stage, Status
from supervisor_rolling.plugin.events import events_between
from supervisor_rolling.plugin.listener_api import _parsed, _rollout
from supervisor_rolling.plugin.mailbox import Mailbox
from supervisor_rolling.plugin.views import ProcessViews, struct
from supervisor_rolling.schema.generate import FILES, text_of
from tests.simulation.world import World
from tests.support.json_schemas import check_schema
from tests.unit.test_codec import OTHER, ROLLOUT
from tests.unit.test_rpcinterface import make_process

POLICY = Policy("app", PortRule(by_name={"web_1": (8001,)}))
GUARDED = GuardedProcess("web_1", (tcp(8001),), Stage.WARMING, 1000.0)
STATE = GuardState("app", POLICY, GatePolicy(), (GUARDED,))


@pytest.mark.parametrize(("name", "kind"), FILES.items())
def test_shipped_schema_is_that_of_the_dataclasses(name: str, kind: Any) -> None:
    """Where this fails: ``python -m supervisor_rolling.schema.generate``."""
    assert resources.files("supervisor_rolling.schema").joinpath(name).read_text(encoding="utf-8") == text_of(kind)


@pytest.mark.parametrize(("name", "kind"), FILES.items())
def test_every_public_field_says_its_type(name: str, kind: Any) -> None:
    schema = json.loads(text_of(kind))
    assert schema["required"] == [field.name for field in fields(kind)]
    assert all("type" in one or "$ref" in one for one in schema["properties"].values())


@pytest.mark.parametrize("detail", Detail)
@pytest.mark.parametrize("problem", ["", "failed"])
def test_view_of_a_simulated_rollout_fits_the_schema(detail: Detail, problem: str) -> None:
    world = World(3)
    if problem:
        world.processes["app-2"].deploy = {"warms": problem}
    world.ask(by="ann@host")
    reconciler = world.reconciler()
    for _ in range(3):
        world.live(reconciler, 0.5)
        check_schema("rollout.json", struct(rollout_view(world.rollout(), world.now, detail)))
    world.run(reconciler)
    view = rollout_view(world.rollout(), world.now, detail)
    check_schema("rollout.json", struct(view))
    check_schema("rollout.json", struct(lost(view)))
    assert load(RolloutView, json.loads(dump(view))) == view
    assert bool(view.processes) is (detail is not Detail.SUMMARY)
    assert bool(view.availability) is (detail is Detail.COURSE)
    assert summary_of(view) == rollout_view(world.rollout(), world.now, Detail.SUMMARY)


def test_view_with_every_field_fits_the_schema() -> None:
    member = replace(ROLLOUT.members[0], oldest_lingering=(Connection("10.0.0.1:5", 1.23456),), statuses=(200, 404))
    rollout = replace(
        ROLLOUT, members=(member,), levels=(Level(1.0, 2),), interruptions=(Interruption(1.0, 2.0, "failed"),)
    )
    view = struct_of(rollout_view(rollout, 1000.0, Detail.COURSE))
    check_schema("rollout.json", view)
    (process,) = view["processes"]
    assert (process["oldest_lingering"][0]["age"], process["statuses"]) == (1.235, [200, 404])


def test_report_and_processes_fit_their_schemas() -> None:
    report = Report("app", (Finding("a.b", "nginx.conf:3", "is wrong", "remove it", Severity.ERROR),), ("x",), ("y",))
    check_schema("report.json", struct(report_view(report)))
    assert (report_view(report).ok, report_view(Report("app")).ok) == (False, True)
    mailbox = Mailbox()
    for guard_state in (STATE, None):
        mailbox.guard("app", guard_state, 5.0)
        views = ProcessViews(mailbox, "app", 1000.0, "closed")
        check_schema("process.json", struct(views.of("web_1", make_process("web_1", 100))))


def test_statuses_are_empty_where_all_are_200() -> None:
    member = Member("web_1", (tcp(8001),), statuses=(200, 200))
    (view,) = rollout_view(replace(ROLLOUT, members=(member,)), 1000.0).processes
    assert view.statuses == ()


@pytest.mark.parametrize(("status", "shown"), [(Status.RUNNING, "room"), (Status.DONE, "")])
def test_only_a_running_rollout_waits(status: Status, shown: str) -> None:
    view = rollout_view(replace(ROLLOUT, status=status, waits_for="room", waits_long=True), 1000.0)
    assert (view.waits_for, view.waits_long) == (shown, bool(shown))


# --- whatever is kept can be shown

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["open", "running"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def mutated(data: st.DataObject, text: str) -> Any:
    """This JSON with one value, anywhere, that is any other, or is gone."""
    found = json.loads(text)
    place: Any = found
    key: Any = data.draw(st.sampled_from(sorted(place)))
    while isinstance(place[key], (dict, list)) and place[key] and data.draw(st.integers(0, 4)):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, Mapping) else range(len(place))))
    if data.draw(st.booleans()):
        place[key] = data.draw(VALUES)
    else:
        del place[key]
    return found


def can_be_shown(mailbox: Mailbox) -> None:
    views = ProcessViews(mailbox, "app", 1000.0, "closed")
    for name in ("web_1", "web_2"):
        xmlrpc_marshal(struct(views.of(name, make_process(name, 100))))


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_any_kept_rollout_can_be_shown_and_read(data: st.DataObject) -> None:
    old = data.draw(st.sampled_from([None, ROLLOUT]))
    found = mutated(data, data.draw(st.sampled_from([dump(ROLLOUT), dump_changes(OTHER, ROLLOUT)])))
    try:
        rollout = _rollout(_parsed(json.dumps(found)), old)
    except ValueError:
        return
    mailbox = Mailbox()
    mailbox.record("app", 0, rollout, 5.0)
    xmlrpc_marshal(struct(rollout_view(rollout, 1000.0))).encode("utf-8", "backslashreplace")
    can_be_shown(mailbox)
    for event in events_between(old, rollout, 1000.0):
        event.payload().encode("ascii")
    assert load(Rollout, json.loads(dump(mailbox.rollouts.news({})))["app"][1]) == rollout


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_any_kept_guard_state_can_be_shown_and_read(data: st.DataObject) -> None:
    try:
        guard_state = load(GuardState, mutated(data, dump(STATE)))
    except ValueError:
        return
    mailbox = Mailbox()
    mailbox.guard("app", guard_state, 5.0)
    can_be_shown(mailbox)
    assert load(GuardState, json.loads(dump(mailbox.guard_states.news({})))["app"][1]) == guard_state


@pytest.mark.parametrize("text", ["", "x", "[]", "null", "3", "{}", "[" * 100_000, "9" * 5000, '{"group": "app"}'])
def test_what_is_no_rollout_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        _rollout(_parsed(text), None)
