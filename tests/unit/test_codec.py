"""Values as JSON and back: what is written is read as it was, and what does not fit is refused with its place."""

from __future__ import annotations

import dataclasses
import json
import re
import xmlrpc.client
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor_rolling.codec import dump, dump_changes, load, load_changes, struct_of
from supervisor_rolling.core.connections import Connection
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.nginx_config import Nginx, ProxyPass, Server, Upstream
from supervisor_rolling.core.policy import (
    BalancerPolicy,
    DrainPolicy,
    GatePolicy,
    GuardPolicy,
    Hook,
    HooksPolicy,
    Policy,
    PortRule,
    Ready,
    RestartPolicy,
    Share,
    SocketRule,
    WarmupPolicy,
    WarmupRequest,
)
from supervisor_rolling.core.preflight_report import Report
from supervisor_rolling.core.public_view import RolloutView
from supervisor_rolling.core.rollout import Interruption, Level, Member, Rollout, Stage, Status, Step, Timing
from supervisor_rolling.core.snapshot import Request, SnapshotQuery

names = st.text(max_size=8)
seconds = st.floats(0, 1e9, allow_nan=False)
pids = st.integers(0, 1 << 22)
ports = st.lists(st.integers(1, 65535), max_size=3).map(tuple)
endpoints = st.lists(st.integers(1, 65535).map(tcp), max_size=3).map(tuple)
headers = st.dictionaries(names, names, max_size=2)

requests = st.builds(
    WarmupRequest, names, names, headers, names, st.lists(st.integers(100, 599), max_size=2).map(tuple), pids
)
shares = st.builds(Share, pids, seconds)
hooks = st.builds(Hook, st.lists(names, max_size=2).map(tuple), seconds)
gates = st.builds(GatePolicy, names, names, seconds, names, names, names)
policies = st.builds(
    Policy,
    group=names,
    ports=st.builds(PortRule, names, st.dictionaries(names, ports, max_size=2), *[st.booleans()] * 3),
    sockets=st.builds(SocketRule, names, st.dictionaries(names, names, max_size=2), st.booleans()),
    max_unavailable=shares,
    canary=pids,
    max_failures=pids,
    surge=pids,
    drain=st.builds(DrainPolicy, seconds, seconds, names, names, names, names, seconds),
    restart=st.builds(RestartPolicy, seconds, names),
    warmup=st.builds(
        WarmupPolicy,
        seconds,
        st.builds(Ready, names, hooks),
        headers,
        st.lists(requests, max_size=2).map(tuple),
        st.tuples(names),
        names,
    ),
    min_ready_seconds=seconds,
    guard=st.builds(GuardPolicy, st.booleans(), shares),
    min_ready_auto=st.booleans(),
    min_ready_why=names,
    min_ready_read=st.booleans(),
    balancer=st.builds(BalancerPolicy, names, st.booleans()),
    hooks=st.builds(HooksPolicy, *[hooks] * 4),
)
connections = st.builds(Connection, names, seconds, seconds, names, names)
members = st.builds(
    Member,
    name=names,
    endpoints=endpoints,
    selected=st.booleans(),
    stage=st.sampled_from(Stage),
    since=seconds,
    attempted=st.booleans(),
    replaced=st.booleans(),
    failed=st.booleans(),
    was_closed=st.booleans(),
    old_pid=pids,
    old_spawned=seconds,
    pid=pids,
    stopped_at=seconds,
    killed=st.booleans(),
    deaths=pids,
    timing=st.builds(Timing, seconds, seconds, seconds, seconds, seconds),
    lingering_connections=pids,
    oldest_lingering=st.lists(connections, max_size=3).map(tuple),
    requests=pids,
    first_ms=seconds,
    last_ms=seconds,
    why=names,
    steps=st.lists(st.builds(Step, st.sampled_from(Stage), seconds), max_size=3).map(tuple),
    latencies=st.lists(seconds, max_size=3).map(tuple),
    statuses=st.lists(st.integers(100, 599), max_size=3).map(tuple),
    spawned=seconds,
    spare=st.booleans(),
)
rollouts = st.builds(
    Rollout,
    id=pids,
    group=names,
    policy=policies,
    members=st.lists(members, max_size=3).map(tuple),
    limit=pids,
    gate=gates,
    force=st.booleans(),
    by=names,
    status=st.sampled_from(Status),
    paused=st.booleans(),
    aborting=st.booleans(),
    started_at=seconds,
    ended_at=seconds,
    stuck_since=seconds,
    waits_for=names,
    waits_long=st.booleans(),
    min_available=pids,
    why=names,
    user=names,
    client=names,
    began=seconds,
    forecast=seconds,
    levels=st.lists(st.builds(Level, seconds, pids), max_size=3).map(tuple),
    interruptions=st.lists(st.builds(Interruption, seconds, seconds, names), max_size=2).map(tuple),
    prepared=st.booleans(),
    final_status=names,
    capacity=pids,
    to_replace=pids,
    max_unavailable=names,
    following=st.lists(names, max_size=3).map(tuple),
    next_problem=names,
)

guarded = st.builds(
    GuardedProcess,
    name=names,
    endpoints=endpoints,
    stage=st.sampled_from(Stage),
    since=seconds,
    closed=st.booleans(),
    pid=pids,
    tries=pids,
    retry_at=seconds,
    requests=pids,
    first_ms=seconds,
    last_ms=seconds,
    problem=names,
    why=names,
    spawned=seconds,
    spare=st.booleans(),
)
guard_states = st.builds(
    GuardState,
    group=names,
    policy=policies,
    gate=gates,
    guarded=st.lists(guarded, max_size=3).map(tuple),
)

KINDS = st.one_of(rollouts.map(lambda one: (Rollout, one)), guard_states.map(lambda one: (GuardState, one)))

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


@given(KINDS)
@settings(deadline=None, max_examples=60)
def test_value_is_read_as_it_was_written(found: tuple[Any, Any]) -> None:
    kind, value = found
    assert load(kind, json.loads(dump(value))) == value
    assert load(kind, struct_of(value)) == value


@given(KINDS)
@settings(deadline=None, max_examples=20)
def test_json_is_ascii_and_survives_xmlrpc(found: tuple[Any, Any]) -> None:
    kind, value = found
    text = dump(value)
    assert text.isascii()
    ((sent,), _) = xmlrpc.client.loads(xmlrpc.client.dumps((text,)))
    assert load(kind, json.loads(str(sent))) == value


@pytest.mark.parametrize(
    ("kind", "number"), [(Rollout, 32), (Member, 28), (GuardState, 4), (GuardedProcess, 16), (Policy, 17), (Timing, 5)]
)
def test_new_field_is_drawn_in_the_round_trip(kind: Any, number: int) -> None:
    """Draw it above, then count it here."""
    assert len(dataclasses.fields(kind)) == number


# --- what does not fit


def changed(path: list[Any], value: Any) -> Any:
    """The rollout as JSON data, with another value there."""
    data = json.loads(dump(ROLLOUT))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (["id"], None, "id: 'None' is not a whole number"),
        (["id"], 2**31, "id: '2147483648' is not a whole number"),
        (["id"], True, "id: 'True' is not a whole number"),
        (["id"], 1.0, "id: '1.0' is not a whole number"),
        (["status"], "ended", "status: 'ended' is not one of running, done, failed, aborted, planned, lost"),
        (["status"], [], "status: '[]' is not one of"),
        (["started_at"], float("nan"), "started_at: 'nan' is not a number"),
        (["ended_at"], float("inf"), "ended_at: 'inf' is not a number"),
        (["forecast"], 10**400, "forecast: '1000000000"),
        (["force"], 1, "force: '1' is not true or false"),
        (["members"], {}, "members: '{}' is not a list"),
        (["members"], [[]], "members[0]: '[]' is not an object"),
        (["members", 1, "endpoints"], [["tcp", 8003]], "members[1].endpoints[0][1]: '8003' is not a text"),
        (["members", 1, "endpoints"], [["tcp", "80a"]], "members[1].endpoints[0]: '80a' is not a TCP port"),
        (["members", 1, "endpoints"], [["tcp", "65536"]], "members[1].endpoints[0]: '65536' is not a TCP port"),
        (["members", 0, "pid"], -1, "members[0].pid: '-1' is not a whole number"),
        (["members", 1, "pid"], "7", "members[1].pid: '7' is not a whole number"),
        (["members", 0, "stage"], "nowhere", "members[0].stage: 'nowhere' is not one of open, down"),
        (["members", 0, "timing", "drained"], "1", "members[0].timing.drained: '1' is not a number"),
        (["members", 0, "steps"], [["open", 1.0, 2.0]], "members[0].steps[0]: "),
        (["members", 0, "steps"], [["open", "x"]], "members[0].steps[0][1]: 'x' is not a number"),
        (["members", 0, "oldest_lingering"], [{}], "members[0].oldest_lingering[0].peer: is missing"),
        (["policy", "guard"], None, "policy.guard: 'None' is not an object"),
        (["policy", "warmup", "headers"], {"Host": 5}, "policy.warmup.headers.Host: '5' is not a text"),
        (["gate"], "iptables", "gate: 'iptables' is not an object"),
    ],
)
def test_misfit_is_refused_with_its_place(path: list[Any], value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(problem)):
        load(Rollout, changed(path, value))


def test_place_begins_with_the_given_path() -> None:
    with pytest.raises(ValueError, match=r"^actions\[1\]: '3' is not an object"):
        load(tuple[Member, ...], [json.loads(dump(ROLLOUT.members[0])), 3], "actions")


@pytest.mark.parametrize("missing", ["id", "group", "policy", "members", "limit", "gate"])
def test_key_without_a_default_has_to_be_there(missing: str) -> None:
    data = json.loads(dump(ROLLOUT))
    del data[missing]
    with pytest.raises(ValueError, match=f"^{missing}: is missing"):
        load(Rollout, data)


def test_missing_key_takes_the_default_and_unknown_is_ignored() -> None:
    data = {"name": "web_1", "endpoints": [["tcp", "8001"]], "mood": {"of": "the future"}}
    assert load(Member, data) == Member("web_1", (tcp(8001),))


@pytest.mark.parametrize("kind", [Rollout, GuardState, Report, Nginx, RolloutView, SnapshotQuery, Request])
def test_codec_reads_every_type_that_travels(kind: Any) -> None:
    with pytest.raises(ValueError, match="is not an object"):
        load(kind, 3)


def test_nginx_configuration_is_read_as_it_was_written() -> None:
    upstream = Upstream("app", "f:1", (Server("::1", 8001, "f:2", fail_timeout=3.0),), 0, has_keepalive=True)
    nginx = Nginx((upstream,), (ProxyPass("app", "f:9"),), (1, 22, 1), own=frozenset({"a", "b"}))
    assert load(Nginx, json.loads(dump(nginx))) == nginx


# --- a new field needs nothing but the field


@dataclasses.dataclass(frozen=True)
class NewerDrainPolicy(DrainPolicy):
    colours: tuple[str, ...] = ("red",)
    shares: Mapping[str, Share] = dataclasses.field(default_factory=dict)


def test_new_field_needs_nothing_in_the_codec() -> None:
    policy = NewerDrainPolicy(colours=("blue", "green"), shares={"a": Share(percent=5.0)})
    assert load(NewerDrainPolicy, json.loads(dump(policy))) == policy
    assert load(NewerDrainPolicy, struct_of(policy)) == policy
    assert load(NewerDrainPolicy, json.loads(dump(DrainPolicy()))) == NewerDrainPolicy()
    with pytest.raises(ValueError, match=r"^colours\[0\]: '3' is not a text"):
        load(NewerDrainPolicy, {"colours": [3]})


# --- only what has changed

OTHER = dataclasses.replace(
    ROLLOUT,
    paused=not ROLLOUT.paused,
    members=(*ROLLOUT.members[:-1], dataclasses.replace(ROLLOUT.members[-1], pid=4711, why="x")),
    levels=(*ROLLOUT.levels, Level(1007.0, 1)),
)


@given(rollouts, rollouts)
@settings(deadline=None, max_examples=60)
def test_changes_make_the_same_rollout_as_all_of_it(before: Rollout, after: Rollout) -> None:
    after = dataclasses.replace(after, id=before.id, members=before.members[::-1])
    assert load_changes(before, json.loads(dump_changes(after, before))) == after


def test_changes_are_short_and_leave_the_old_rollout() -> None:
    text = dump_changes(OTHER, ROLLOUT)
    assert len(text) < len(dump(OTHER)) / 2
    assert load_changes(ROLLOUT, json.loads(text)) == OTHER
    assert ROLLOUT.members[-1].pid == 0


def test_only_new_levels_are_written() -> None:
    before = dataclasses.replace(ROLLOUT, levels=(Level(1000.0, 2), Level(1001.0, 1)))
    after = dataclasses.replace(before, levels=(*before.levels, Level(1002.0, 2)))
    assert json.loads(dump_changes(after, before))["levels"] == [2, [[1002.0, 2]]]


def test_other_rollout_or_members_are_written_whole() -> None:
    for other in (dataclasses.replace(ROLLOUT, id=99), dataclasses.replace(ROLLOUT, members=ROLLOUT.members[1:])):
        assert dump_changes(other, ROLLOUT) == dump(other)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("values", {"paused": 3}, "paused: '3' is not true or false"),
        ("values", {"policy": {}}, "policy.group: is missing"),
        ("values", None, "values: 'None' is not an object"),
        ("members", [[0, {"name": 3}]], "members[0][1].name: '3' is not a text"),
        ("members", [[99, {"name": "x", "endpoints": []}]], "members: there is none at position 99"),
        ("members", [[-1, {}]], "members[0][0]: '-1' is not a whole number"),
        ("levels", [0, [[1.0, "x"]]], "levels[1][0][1]: 'x' is not a whole number"),
        ("levels", None, "levels: 'None' is not a list of 2"),
    ],
)
def test_change_that_does_not_fit_is_refused(key: str, value: Any, problem: str) -> None:
    found = {**json.loads(dump_changes(OTHER, ROLLOUT)), key: value}
    with pytest.raises(ValueError, match="^" + re.escape(problem)):
        load_changes(ROLLOUT, found)
