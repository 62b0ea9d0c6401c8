"""Rollouts as JSON and back: between this version, an older and a newer one."""

from __future__ import annotations

import dataclasses
import json
import xmlrpc.client
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor_rolling.codec import dump, load_rollout, load_watch
from supervisor_rolling.core.connections import Connection
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.policy import (
    BalancerPolicy,
    DrainPolicy,
    GatePolicy,
    GuardPolicy,
    Hook,
    HooksPolicy,
    Policy,
    PortRule,
    RestartPolicy,
    Share,
    WarmupPolicy,
    WarmupRequest,
)
from supervisor_rolling.core.rollout import Level, Member, Rest, Rollout, Stage, Status, Step, Timing

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
gates = st.builds(GatePolicy, names, names, seconds, names, names, names)
policies = st.builds(
    Policy,
    names,
    st.builds(PortRule, names, st.dictionaries(names, ports, max_size=2), st.booleans()),
    shares,
    pids,
    pids,
    st.builds(DrainPolicy, seconds, seconds, names, names, names, names, seconds),
    st.builds(RestartPolicy, seconds, names),
    st.builds(WarmupPolicy, seconds, names, headers, st.lists(requests, max_size=2).map(tuple), st.tuples(names)),
    seconds,
    st.builds(GuardPolicy, st.booleans(), shares),
    st.builds(BalancerPolicy, names, st.booleans()),
    st.builds(HooksPolicy, *[st.builds(Hook, st.lists(names, max_size=2).map(tuple), seconds)] * 4),
    st.booleans(),
    st.booleans(),
    names,
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
    waits=names,
    waits_long=st.booleans(),
    least_available=pids,
    why=names,
    user=names,
    client=names,
    began=seconds,
    forecast=seconds,
    levels=st.lists(st.builds(Level, seconds, pids), max_size=3).map(tuple),
    rests=st.lists(st.builds(Rest, seconds, seconds, names), max_size=2).map(tuple),
    prepared=st.booleans(),
    verdict=names,
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
)
guard_states = st.builds(
    GuardState,
    group=names,
    policy=policies,
    gate=gates,
    guarded=st.lists(guarded, max_size=3).map(tuple),
)

SMALLEST: dict[str, Any] = {
    "id": 3,
    "group": "app",
    "policy": {"group": "app", "ports": {"pattern": "x"}},
    "members": [{"name": "app-1", "endpoints": [["tcp", "8001"]]}],
    "limit": 2,
    "gate": {},
}


SMALLEST_WATCH: dict[str, Any] = {
    "group": "app",
    "policy": {"group": "app", "ports": {"pattern": "x"}},
    "gate": {},
    "guarded": [{"name": "app-1", "endpoints": [["tcp", "8001"]], "stage": "down", "since": 1000.0}],
}


def every_field_of(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


@given(rollouts)
@settings(deadline=None, max_examples=60)
def test_what_is_written_is_read_back_as_it_was(rollout: Rollout) -> None:
    again = load_rollout(json.loads(dump(rollout)))
    assert again == rollout
    assert hash(again.members[:1]) == hash(rollout.members[:1])  # tuples again, not lists


@given(rollouts)
@settings(deadline=None, max_examples=20)
def test_what_is_written_is_ascii_and_survives_the_way_to_supervisord(rollout: Rollout) -> None:
    text = dump(rollout)
    assert text.isascii()
    ((sent,), _) = xmlrpc.client.loads(xmlrpc.client.dumps((text,)))
    assert load_rollout(json.loads(str(sent))) == rollout


@given(guard_states)
@settings(deadline=None, max_examples=60)
def test_a_watch_is_read_back_as_it_was_written(guard_state: GuardState) -> None:
    again = load_watch(json.loads(dump(guard_state)))
    assert again == guard_state
    assert hash(again.guarded) == hash(guard_state.guarded)  # tuples again, not lists


@given(guard_states)
@settings(deadline=None, max_examples=20)
def test_a_watch_is_ascii_and_survives_the_way_to_supervisord(guard_state: GuardState) -> None:
    text = dump(guard_state)
    assert text.isascii()
    ((sent,), _) = xmlrpc.client.loads(xmlrpc.client.dumps((text,)))
    assert load_watch(json.loads(str(sent))) == guard_state


def test_a_watch_of_an_older_version_has_the_defaults_for_what_it_lacks() -> None:
    guard_state = load_watch(SMALLEST_WATCH)
    guarded = GuardedProcess("app-1", (tcp(8001),), Stage.DOWN, 1000.0)
    assert guard_state == GuardState("app", Policy("app", PortRule(pattern="x")), GatePolicy(), (guarded,))
    assert guard_state.guarded[0].stage is Stage.DOWN
    assert load_watch({key: value for key, value in SMALLEST_WATCH.items() if key != "guarded"}).guarded == ()


def test_what_a_newer_version_wrote_into_a_watch_is_ignored_at_every_depth() -> None:
    data = json.loads(json.dumps(SMALLEST_WATCH))
    data["policy"]["guard"] = {}
    for place in (data, data["policy"], data["policy"]["guard"], data["guarded"][0], data["gate"]):
        place["mood"] = {"of": ["the", "future"]}
    assert load_watch(data) == load_watch(SMALLEST_WATCH)


@pytest.mark.parametrize("missing", ["group", "policy", "gate"])
def test_what_a_watch_cannot_do_without_must_be_there(missing: str) -> None:
    data = {key: value for key, value in SMALLEST_WATCH.items() if key != missing}
    with pytest.raises(TypeError, match=missing):
        load_watch(data)


@pytest.mark.parametrize(
    "change", [{"guarded": 3}, {"guarded": [3]}, {"guarded": [{"stage": "flying"}]}, {"policy": "x"}]
)
def test_what_is_no_watch_is_an_error_of_those_that_are_promised(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        load_watch({**SMALLEST_WATCH, **change})


def test_stages_and_statuses_are_read_as_what_they_are() -> None:
    data = {**SMALLEST, "status": "aborted", "members": [{"name": "a", "endpoints": [], "stage": "ready"}]}
    rollout = load_rollout(data)
    assert rollout.status is Status.ABORTED
    assert rollout.members[0].stage is Stage.READY


def test_what_an_older_version_did_not_write_has_its_default() -> None:
    rollout = load_rollout(SMALLEST)
    member = Member("app-1", (tcp(8001),))
    assert rollout == Rollout(3, "app", Policy("app", PortRule(pattern="x")), (member,), 2, GatePolicy())


def test_what_a_newer_version_wrote_and_this_one_does_not_know_is_ignored_at_every_depth() -> None:
    data = json.loads(json.dumps(SMALLEST))
    for place in (data, data["policy"], data["policy"]["ports"], data["members"][0], data["gate"]):
        place["mood"] = {"of": ["the", "future"]}
    assert load_rollout(data) == load_rollout(SMALLEST)


@pytest.mark.parametrize("missing", ["id", "group", "policy", "members", "limit", "gate"])
def test_what_has_no_default_must_be_there(missing: str) -> None:
    data = {key: value for key, value in SMALLEST.items() if key != missing}
    with pytest.raises(TypeError, match=missing):
        load_rollout(data)


@pytest.mark.parametrize("change", [{"status": "flying"}, {"members": 3}, {"members": [3]}, {"policy": "x"}])
def test_what_is_no_rollout_is_an_error_of_those_that_are_promised(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        load_rollout({**SMALLEST, **change})


def test_every_field_of_the_values_is_drawn_above() -> None:
    """A field that is added to the model has to be added to the round trip."""
    drawn = {
        Rollout: 26,
        Member: 26,
        Connection: 5,
        GuardState: 4,
        GuardedProcess: 14,
        Policy: 15,
        BalancerPolicy: 2,
        HooksPolicy: 4,
        Hook: 2,
        GuardPolicy: 2,
        Timing: 5,
        GatePolicy: 6,
        DrainPolicy: 7,
        RestartPolicy: 2,
        WarmupPolicy: 5,
        WarmupRequest: 6,
        PortRule: 3,
        Share: 2,
    }
    assert {kind: len(every_field_of(kind)) for kind in drawn} == drawn
