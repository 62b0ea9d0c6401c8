"""What the listener may write into supervisord's memory: whatever is kept can be looked at, shown and read again."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import typing
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supervisor.xmlrpc import xmlrpc_marshal

from supervisor_rolling.codec import dump, dump_changes, load_rollout, load_watch
from supervisor_rolling.core.connections import Connection
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.policy import GatePolicy, Policy, PortRule, WarmupPolicy, WarmupRequest
from supervisor_rolling.core.rollout import Level, Member, Rollout, Stage, Status
from supervisor_rolling.plugin import shapes
from supervisor_rolling.plugin.events import events_between
from supervisor_rolling.plugin.mailbox import Mailbox
from supervisor_rolling.plugin.views import rollout_view, standings_of

POLICY = Policy(
    "app",
    PortRule(by_name={"web_1": (8001,)}),
    warmup=WarmupPolicy(headers={"Host": "example.org"}, requests=(WarmupRequest(expect=(200,)),)),
)
ROLLOUT = Rollout(
    1,
    "app",
    POLICY,
    (Member("web_1", (tcp(8001),), pid=7, oldest_lingering=(Connection("10.0.0.1:5"),)), Member("web_2", (tcp(8002),))),
    1,
    GatePolicy(),
)
WATCH = GuardState("app", POLICY, GatePolicy(), (GuardedProcess("web_1", (tcp(8001),), Stage.WARMING, 1000.0),))

SCALARS: dict[Any, shapes.Shape] = {
    str: shapes.TEXT,
    bool: shapes.TRUTH,
    int: shapes.WHOLE,
    float: shapes.NUMBER,
    Stage: shapes.STAGES,
    Status: shapes.STATUSES,
}


def shape_of(hint: Any) -> Any:
    """The shape of what ``wire.dump`` makes of a value of the model."""
    if dataclasses.is_dataclass(hint):
        return {name: shape_of(kind) for name, kind in typing.get_type_hints(hint).items()}
    if isinstance(hint, type) and issubclass(hint, tuple):
        return ("row", *(shape_of(kind) for kind in typing.get_type_hints(hint).values()))
    if typing.get_origin(hint) is tuple:
        return ("list", shape_of(typing.get_args(hint)[0]))
    if typing.get_origin(hint) is Mapping:
        return ("table", shape_of(typing.get_args(hint)[1]))
    return SCALARS[hint]


def comparable(shape: shapes.Shape) -> Any:
    if isinstance(shape, shapes.Added):
        return comparable(shape.shape)
    if isinstance(shape, shapes.ListOf):
        return ("list", comparable(shape.items))
    if isinstance(shape, shapes.RowOf):
        return ("row", *map(comparable, shape.items))
    if isinstance(shape, shapes.TableOf):
        return ("table", comparable(shape.values))
    return {key: comparable(inner) for key, inner in shape.items()} if isinstance(shape, Mapping) else shape


# --- the shapes are those of the model


def test_the_shapes_are_those_of_the_model() -> None:
    assert comparable(shapes.POLICY) == shape_of(Policy)
    assert comparable(shapes.GATE) == shape_of(GatePolicy)
    assert comparable(shapes.MEMBER) == shape_of(Member)
    assert comparable(shapes.WARD) == shape_of(GuardedProcess)
    apart = {"policy", "gate", "members"}
    assert comparable(shapes.ROLLOUT) == {key: shape for key, shape in shape_of(Rollout).items() if key not in apart}
    assert {field.name for field in dataclasses.fields(GuardState)} == {"group", "policy", "gate", "guarded"}


@pytest.mark.parametrize(("words", "kind"), [(shapes.STAGES, Stage), (shapes.STATUSES, Status)])
def test_the_words_are_those_of_the_model(words: frozenset[str], kind: type[enum.Enum]) -> None:
    assert words == {word.value for word in kind}


def test_what_the_listener_writes_fits() -> None:
    assert shapes.read_rollout(dump(ROLLOUT), "app", None) == json.loads(dump(ROLLOUT))
    assert shapes.read_watch(dump(WATCH), "app", None) == json.loads(dump(WATCH))


def test_what_a_newer_listener_knows_more_does_no_harm() -> None:
    newer = {**json.loads(dump(ROLLOUT)), "mood": "good"}
    assert shapes.read_rollout(json.dumps(newer), "app", None) == newer


# --- what does not fit


def changed(record: Rollout | GuardState, path: list[Any], value: Any) -> str:
    """The JSON of a record with another value there."""
    data = json.loads(dump(record))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (["id"], None, "rollout.id: 'None'"),
        (["id"], 2**31, "rollout.id: '2147483648'"),
        (["id"], True, "rollout.id: 'True'"),
        (["status"], "ended", "rollout.status: 'ended'"),
        (["status"], [], "rollout.status: '[]'"),
        (["started_at"], float("nan"), "rollout.started_at: 'nan'"),
        (["forecast"], 2**31, "rollout.forecast: '2147483648'"),
        (["ended_at"], float("inf"), "rollout.ended_at: 'inf'"),
        (["group"], "web", "group: it is of another group"),
        (["members"], {}, "members: '{}'"),
        (["members"], [[]], "members[0]: '[]'"),
        (["members", 1, "endpoints"], [["tcp", 8003]], "members[1].endpoints[0][1]: '8003'"),
        (["members", 0, "pid"], -1, "members[0].pid: '-1'"),
        (["members", 0, "stage"], "nowhere", "members[0].stage: 'nowhere'"),
        (["members", 0, "timing", "drained"], "1", "members[0].timing.drained: '1'"),
        (["policy", "guard"], None, "policy.guard: 'None'"),
        (["policy", "guard", "enabled"], 1, "policy.guard.enabled: '1'"),
        (["policy", "warmup", "headers"], {"Host": 5}, "policy.warmup.headers.Host: '5'"),
        (["gate"], "iptables", "gate: 'iptables'"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(path: list[Any], value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(problem)):
        shapes.read_rollout(changed(ROLLOUT, path, value), "app", None)


@pytest.mark.parametrize(
    "text", [None, 3, {}, "", "x", "[]", "null", "{}", "[" * 100_000, "9" * 5000, '{"group": "app"}']
)
def test_what_is_no_record_is_refused(text: Any) -> None:
    for read in (shapes.read_rollout, shapes.read_watch):
        with pytest.raises(ValueError, match=r"."):
            read(text, "app", None)


def test_a_member_that_is_wrong_is_found_behind_many_that_have_not_changed() -> None:
    old = json.loads(dump(ROLLOUT))
    with pytest.raises(ValueError, match=r"members\[1\].pid"):
        shapes.read_rollout(changed(ROLLOUT, ["members", 1, "pid"], "7"), "app", old)
    with pytest.raises(ValueError, match=r"policy.min_ready_seconds"):
        shapes.read_rollout(changed(ROLLOUT, ["policy", "min_ready_seconds"], "7"), "app", old)
    longer = dataclasses.replace(ROLLOUT, members=(*ROLLOUT.members, Member("web_3", (tcp(8003),))))
    with pytest.raises(ValueError, match=r"members\[2\].name"):
        shapes.read_rollout(changed(longer, ["members", 2, "name"], 3), "app", old)


# --- only what has changed

OTHER = dataclasses.replace(
    ROLLOUT,
    paused=not ROLLOUT.paused,
    members=(*ROLLOUT.members[:-1], dataclasses.replace(ROLLOUT.members[-1], pid=4711, why="x")),
    levels=(*ROLLOUT.levels, Level(1007.0, 1)),
)


def test_of_how_many_were_available_only_what_is_new_is_written() -> None:
    before = dataclasses.replace(ROLLOUT, levels=(Level(1000.0, 2), Level(1001.0, 1)))
    after = dataclasses.replace(before, levels=(*before.levels, Level(1002.0, 2)))
    text = dump_changes(after, before)
    assert json.loads(text)["levels"] == [2, [[1002.0, 2]]]
    assert shapes.read_rollout(text, "app", json.loads(dump(before))) == json.loads(dump(after))


def test_what_has_changed_makes_the_same_rollout_as_all_of_it() -> None:
    old = json.loads(dump(ROLLOUT))
    text = dump_changes(OTHER, ROLLOUT)
    assert len(text) < len(dump(OTHER)) / 2
    assert shapes.read_rollout(text, "app", old) == json.loads(dump(OTHER))
    assert old == json.loads(dump(ROLLOUT)), "what is kept stays as it is until the new one is written"
    assert shapes.read_rollout(dump_changes(ROLLOUT, OTHER), "app", json.loads(dump(OTHER))) == old


def test_another_rollout_or_other_members_are_written_whole() -> None:
    for other in (dataclasses.replace(ROLLOUT, id=99), dataclasses.replace(ROLLOUT, members=ROLLOUT.members[1:])):
        assert dump_changes(other, ROLLOUT) == dump(other)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("changes", {"paused": 3}, "rollout.paused"),
        ("changes", {"group": "web"}, "group: it is of another group"),
        ("changes", {"policy": {}}, "policy"),
        ("changes", None, "rollout.changes"),
        ("members", [[0, {"name": 3}]], r"members\[0\]"),
        ("members", [[99, {}]], "none with the index 99"),
        ("members", [[-1, {}]], r"rollout.members\[0\]\[0\]"),
        ("levels", [0, [[1.0, "x"]]], r"rollout.levels\[1\]"),
        ("levels", None, "rollout.levels"),
    ],
)
def test_a_change_that_does_not_fit_is_refused_with_its_place(key: str, value: Any, problem: str) -> None:
    found = {**json.loads(dump_changes(OTHER, ROLLOUT)), key: value}
    with pytest.raises(ValueError, match=problem):
        shapes.read_rollout(json.dumps(found), "app", json.loads(dump(ROLLOUT)))
    with pytest.raises(ValueError, match=r"."):
        shapes.read_rollout(json.dumps(found), "app", None)


# --- whatever stands there

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


def mutated(data: st.DataObject, text: str) -> str:
    """This JSON with one value, anywhere, that is any other, or is gone."""
    found = json.loads(text)
    place: Any = found
    key: Any = data.draw(st.sampled_from(sorted(place)))
    while isinstance(place[key], (dict, list)) and place[key] and data.draw(st.integers(0, 4)):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    if data.draw(st.booleans()):
        place[key] = data.draw(VALUES)
    else:
        del place[key]
    return json.dumps(found)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_a_rollout_that_is_kept_can_be_shown_told_and_read_whatever_stands_in_it(data: st.DataObject) -> None:
    old = data.draw(st.sampled_from([None, json.loads(dump(ROLLOUT))]))
    text = mutated(data, data.draw(st.sampled_from([dump(ROLLOUT), dump_changes(OTHER, ROLLOUT)])))
    try:
        rollout = shapes.read_rollout(text, "app", old)
    except ValueError:
        return
    mailbox = Mailbox()
    mailbox.record("app", 0, rollout, 5.0)
    xmlrpc_marshal(rollout_view(rollout, 1000.0)).encode("utf-8", "backslashreplace")
    xmlrpc_marshal(standings_of(mailbox, "app", 1000.0))
    for event in events_between(old, rollout, 1000.0):
        event.payload().encode("ascii")
    assert load_rollout(json.loads(json.dumps(mailbox.rollouts.news({})))["app"][1]).group == "app"


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_a_watch_that_is_kept_can_be_shown_and_read_whatever_stands_in_it(data: st.DataObject) -> None:
    text, old = mutated(data, dump(WATCH)), data.draw(st.sampled_from([None, json.loads(dump(WATCH))]))
    try:
        guard_state = shapes.read_watch(text, "app", old)
    except ValueError:
        return
    mailbox = Mailbox()
    mailbox.guard("app", guard_state, 5.0)
    xmlrpc_marshal(standings_of(mailbox, "app", 1000.0))
    assert load_watch(json.loads(json.dumps(mailbox.guard_states.news({})))["app"][1]).group == "app"


# --- versions


def without(record: Any, *keys: str) -> Any:
    """The record as an older listener writes it."""
    if isinstance(record, dict):
        return {key: without(value, *keys) for key, value in record.items() if key not in keys}
    return [without(item, *keys) for item in record] if isinstance(record, list) else record


def test_what_an_older_listener_writes_is_kept_shown_and_read() -> None:
    newer = ("on_kill", "killed", "deaths", "oldest_lingering", "keepalive", "idle_after")
    text = json.dumps(without(json.loads(dump(ROLLOUT)), *newer))
    rollout = shapes.read_rollout(text, "app", None)
    assert rollout_view(rollout, 0.0)["processes"][0]["oldest_lingering"] == []
    members = tuple(dataclasses.replace(member, oldest_lingering=()) for member in ROLLOUT.members)
    assert load_rollout(rollout) == dataclasses.replace(ROLLOUT, members=members)


@pytest.mark.parametrize("wrong", [None, [{}], [{"peer": None, "age": 1.0, "idle": 1.0, "last": "", "state": ""}], "x"])
def test_what_came_with_a_later_version_is_checked_where_it_is(wrong: Any) -> None:
    record = json.loads(dump(ROLLOUT))
    record["members"][0]["oldest_lingering"] = wrong
    with pytest.raises(ValueError, match=r"members\[0\]\.oldest_lingering"):
        shapes.read_rollout(json.dumps(record), "app", None)
