"""Whatever comes over XML-RPC: an answer that can be sent, or a fault that says what; nothing else is touched.

On supervisor's own dummies; ``test_hostile_end_to_end.py`` has a real supervisord.
"""

from __future__ import annotations

import contextlib
import datetime
import inspect
import json
import types
import xmlrpc.client
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from supervisor import events
from supervisor.http import NOT_DONE_YET
from supervisor.process import EventListenerPool
from supervisor.tests.base import DummyOptions, DummyPGroupConfig, DummySupervisor
from supervisor.xmlrpc import Faults, RPCError, traverse, xmlrpc_marshal

from supervisor_rolling.codec import dump
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.errors import Fault
from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.policy import GatePolicy, Policy, PortRule
from supervisor_rolling.core.rollout import Member, Stage, Status
from supervisor_rolling.core.snapshot import Request
from supervisor_rolling.core.text import plain, readable, shown
from supervisor_rolling.plugin import events as our_events
from supervisor_rolling.plugin import rpc
from supervisor_rolling.plugin.arguments import ANSWER_TIMEOUT, Options
from supervisor_rolling.plugin.listener_api import ListenerMethods
from supervisor_rolling.plugin.rpc import make_rolling_rpcinterface
from tests.unit.test_rpcinterface import Clock, a_rollout, make_supervisord, observe

OPTIONS = [field.name for field in fields(Options)]
METHODS = sorted(
    name
    for kind in (rpc.RollingNamespaceRPCInterface, ListenerMethods)
    for name, method in vars(kind).items()
    if isinstance(method, types.FunctionType) and not name.startswith("_")
)
LISTENERS = [name for name in METHODS if name.startswith("listener") and name != "listenerHello"]


class Root:
    """What supervisord's handler looks methods up in."""

    def __init__(self, rolling: Any) -> None:
        self.rolling = rolling


@pytest.fixture(autouse=True)
def no_subscriptions() -> Iterator[None]:
    events.clear()
    yield
    events.clear()


@pytest.fixture
def supervisord() -> DummySupervisor:
    return make_supervisord()


@pytest.fixture
def rolling(supervisord: DummySupervisor) -> Any:
    return looking(supervisord)


def looking(supervisord: DummySupervisor) -> Any:
    """The namespace, with a listener that has looked."""
    interface = make_rolling_rpcinterface(supervisord, wakeup="false")
    interface.clock = Clock()
    observe(interface)
    return interface


def rolled(supervisord: DummySupervisor, name: str = "app") -> Any:
    """The same, with a rollout under way, and the guard of the group has a process in hand."""
    rolling = looking(supervisord)
    members = (Member("web_1", (tcp(8001),), stage=Stage.DRAINING, since=1000.0), Member("web_2", (tcp(8002),)))
    rollout = dump(a_rollout(7, members=members, by="ann@host")).replace('"app"', json.dumps(name))
    rolling.listenerRecord(rolling.mailbox.key, name, 0, rollout, 0)
    guard_state = GuardState(
        name,
        Policy(name, PortRule(auto=True)),
        GatePolicy(),
        (GuardedProcess("web_2", (tcp(8002),), Stage.WARMING, 1000.0),),
    )
    rolling.listenerGuard(rolling.mailbox.key, name, dump(guard_state))
    return rolling


def called(rolling: Any, method: str, *arguments: Any) -> Any:
    """What supervisord sends for a call; a deferred answer is asked for twice, the second time after its patience.

    Raises whatever supervisord would answer with HTTP 500.
    """
    try:
        answer = traverse(Root(rolling), f"rolling.{method}", arguments)
        if isinstance(answer, types.FunctionType):
            deferred, answer = answer, answer()
            rolling.clock.now += ANSWER_TIMEOUT + 1
            answer = deferred() if answer is NOT_DONE_YET else answer
    except RPCError as error:
        answer = xmlrpc.client.Fault(error.code, error.text)
    body = xmlrpc_marshal("never" if answer is NOT_DONE_YET else answer)
    body.encode("ascii")
    try:
        return xmlrpc.client.loads(body)[0][0]
    except xmlrpc.client.Fault as fault:
        return fault


def kept(rolling: Any) -> Any:
    """All that stands in the mailbox but the requests."""
    box = rolling.mailbox
    return dump([box.rollouts.news({}), box.guard_states.news({}), box.ledger, box.key])


# --- whatever the arguments are

NAMES = [
    "app",
    "app:*",
    "app:web_1",
    "rolling",
    "web_1",
    "é",
    "a\x00b",
    "\x1b[2J",
    "../../etc/passwd",
    "$(id)",
    ":",
    "",
]
TEXTS = st.one_of(st.sampled_from(NAMES), st.text(max_size=10), st.text(max_size=3).map(lambda text: text * 100_000))
VALUES = st.recursive(
    st.one_of(
        TEXTS,
        st.booleans(),
        st.integers(-(2**31), 2**31 - 1),
        st.floats(),
        st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 1, 1)),
        st.binary(max_size=9).map(lambda data: data.decode("latin-1")),  # supervisord decodes base64 to text
        st.sampled_from(["10%", "1", "true", 0, 1, 2]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(OPTIONS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=6,
)


def is_sound(rolling: Any) -> None:
    """Whether the next good calls work."""
    assert called(rolling, "getAPIVersion") == rpc.API_VERSION
    assert [rollout["group"] for rollout in called(rolling, "getAllRollouts")] == ["app"]
    assert len(called(rolling, "getProcesses", "app")) == 3
    assert observe(rolling)["rollout_groups"] == ["app"]


@pytest.mark.parametrize("method", METHODS)
@given(arguments=st.lists(VALUES, max_size=6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_arguments_bring_an_answer_or_a_fault(method: str, arguments: list[Any]) -> None:
    rolling = rolled(make_supervisord())
    before, number = kept(rolling), len(inspect.signature(getattr(rolling, method)).parameters)
    for given_ in (arguments, arguments[:number], ["app", *arguments][:number], ["app", False, *arguments][:number]):
        answer = called(rolling, method, *given_)
        assert getattr(answer, "faultCode", 0) != Fault.INTERNAL_ERROR, answer
    assert method in ("abort", "pause", "resume") or kept(rolling) == before
    is_sound(rolling)


@pytest.mark.parametrize("method", LISTENERS)
@given(arguments=st.lists(VALUES, max_size=5), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_listener_arguments_bring_answer_or_fault(method: str, arguments: list[Any], data: st.DataObject) -> None:
    rolling = rolled(make_supervisord())
    number = len(inspect.signature(getattr(rolling, method)).parameters) - 1
    arguments = [*arguments, *[0] * number][:number]
    if data.draw(st.booleans()):
        arguments[0] = data.draw(st.sampled_from(["app", 1, "rolling"]))
    answer = called(rolling, method, rolling.mailbox.key, *arguments)
    assert getattr(answer, "faultCode", 0) not in (Fault.INTERNAL_ERROR, Fault.LISTENER_ONLY), answer
    is_sound(rolling)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("restart", ("app", 1)),
        ("restart", ("app", "yes")),
        ("restart", ("app", False, {"force": "false"})),
        ("restart", ("app", False, {"dry_run": 1})),
        ("restart", ("app", False, {"by": {"a": "b"}})),
        ("restart", ("app", False, {"policy": {"warmup": {"ready": "/"}}})),
        ("restart", ("app", False, {"max_unavailable": ["1"]})),
        ("resume", ("app", 1)),
        ("abort", ({},)),
        ("getRollout", ()),
        ("getRollout", ("app", "web")),
        ("getProcesses", (["app"],)),
        ("getRecord", (7,)),
        ("getRecord", ("", "7")),
        ("getRecord", ("app", -1)),
    ],
)
def test_invalid_arguments_ask_nothing(rolling: Any, method: str, arguments: Any) -> None:
    answer = called(rolling, method, *arguments)
    assert answer.faultCode == Faults.INCORRECT_PARAMETERS
    assert rolling.mailbox.requests == {}


def test_wrong_name_is_repeated_short_and_plain(rolling: Any) -> None:
    assert called(rolling, "getRollout", "x" * 10_000_000).faultString == "BAD_NAME: " + "x" * 64
    assert called(rolling, "getRollout", "\x1b[2Jé").faultString == "BAD_NAME: \\x1b[2J\\xe9"
    unknown = called(rolling, "restart", "app", False, {"\x07" * 100: 1, "é": 1})
    assert len(unknown.faultString) < 500


def test_repeated_process_is_asked_once(rolling: Any) -> None:
    rolling.restart("app:web_2", False, {"processes": ["web_1", "web_2"] * 100_000})
    (request,) = observe(rolling)["requests"]
    assert request["processes"] == ["web_2", "web_1"]


# --- what comes over RPC leads to no path, address, port or shell

KEYS_OF_A_REQUEST = {field.name for field in fields(Request)}


@given(VALUES, VALUES, st.dictionaries(st.sampled_from(OPTIONS), VALUES, max_size=5))
@settings(max_examples=200, deadline=None)
def test_request_holds_only_known_names_and_bounded_values(name: Any, wait: Any, options: dict[str, Any]) -> None:
    rolling = looking(make_supervisord())
    requests: list[Any] = []
    for arguments in ((name, wait, options), ("app", False, options), ("app", False, {"by": name}), ("app", False)):
        with contextlib.suppress(RPCError):
            traverse(Root(rolling), "rolling.restart", arguments)
        requests += observe(rolling)["requests"]
        rolling.clock.now += ANSWER_TIMEOUT + 1
        observe(rolling)
    groups = rolling.supervisord.process_groups
    assert requests
    for request in requests:
        assert request.keys() == KEYS_OF_A_REQUEST
        assert set(request["processes"]) <= set(groups[request["group"]].processes)
        assert request["max_unavailable"] == "" or request["max_unavailable"].rstrip("%").replace(".", "").isdigit()
        assert isinstance(request["force"], bool)
        assert len(request["by"]) <= 64
        assert set(request["by"]) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@./:-")


EVIL = Policy("app", PortRule(by_name={"web_1": (22,)}))


def evil_calls() -> dict[str, list[tuple[Any, ...]]]:
    """Calls that would write a foreign policy into the mailbox, without the key."""
    rollout, guard_state = dump(replace(a_rollout(), policy=EVIL)), dump(GuardState("app", EVIL, GatePolicy()))
    return {
        "listenerObserve": [({"rollouts": {}, "guard_states": {}, "table": 0, "guarded": []},)],
        "listenerRecord": [("app", 0, rollout, 0), ("app", 0, rollout, 1)],
        "listenerGuard": [("app", guard_state), ("app", "")],
        "listenerAct": [("app", [{"verb": "stop", "name": "web_1", "signal": "", "incarnation": [100, 1.0]}])],
        "listenerAnswer": [(1, 0, "", rollout), (1, Fault.REFUSED, "no", "")],
    }


def test_listener_methods_need_the_key() -> None:
    assert sorted(evil_calls()) == LISTENERS


KEYS = ["", "0" * 64, "é", "\0", 0, True, 1.5, [], {}, ["key"], xmlrpc.client.DateTime(0)]


@pytest.mark.parametrize("method", LISTENERS)
@pytest.mark.parametrize("key", KEYS, ids=lambda key: repr(key).partition(" ")[0])  # a DateTime tells its address
def test_policy_cannot_be_written_without_key(rolling: Any, method: str, key: Any) -> None:
    rolling.restart("app", False, {})
    before, observed_at = kept(rolling), rolling.mailbox.observed_at
    rolling.clock.now += 1.0
    for arguments in evil_calls()[method]:
        for wrong in (key, rolling.mailbox.key[:-1], rolling.mailbox.key + "0", rolling.mailbox.key.upper() + "F"):
            answer = called(rolling, method, wrong, *arguments)
            assert (answer.faultCode, method in answer.faultString) == (Fault.LISTENER_ONLY, True)
    assert (kept(rolling), rolling.mailbox.observed_at) == (before, observed_at)
    assert rolling.mailbox.requests[1].state == "asked"


def test_same_calls_work_with_key(rolling: Any) -> None:
    for method, calls in evil_calls().items():
        assert not isinstance(called(rolling, method, rolling.mailbox.key, *calls[0]), xmlrpc.client.Fault)


def test_key_is_per_supervisord(supervisord: DummySupervisor) -> None:
    one, two = looking(supervisord), looking(supervisord)
    other = looking(make_supervisord())
    assert one.mailbox.key == two.mailbox.key != other.mailbox.key
    assert len(one.mailbox.key) == 64


# --- which listener gets the key


def a_pool(name: str, *kinds: str) -> Any:
    """supervisor's own pool of an [eventlistener] with these ``events=``; its process never runs."""
    config = DummyPGroupConfig(DummyOptions(), name)
    config.pool_events = [getattr(events.EventTypes, kind) for kind in kinds]
    config.buffer_size = 10
    return EventListenerPool(config)


def test_only_our_listener_gets_the_key(
    supervisord: DummySupervisor,
) -> None:
    rolling = looking(supervisord)
    ours, everything, rollouts = (
        a_pool("ours", "ROLLING_REQUEST", "TICK_5"),
        a_pool("all", "EVENT"),
        a_pool("r", "ROLLING"),
    )
    supervisord.process_groups = {"ours": ours, "all": everything, "r": rollouts}
    assert called(rolling, "listenerHello") is True
    (event,) = ours.event_buffer
    assert event.payload() == f"key:{rolling.mailbox.key}"
    assert everything.event_buffer == rollouts.event_buffer == []
    assert events.getEventNameByType(type(event)) == "ROLLING_REQUEST"


def test_doorbell_is_first_and_one_is_enough(supervisord: DummySupervisor) -> None:
    rolling, ours, deaf = (
        looking(supervisord),
        a_pool("ours", "ROLLING_REQUEST", "TICK_5"),
        a_pool("d", "ROLLING_REQUEST"),
    )
    ours.processes = supervisord.process_groups["rolling"].processes
    supervisord.process_groups.update(rolling=ours, deaf=deaf)
    for when in range(3):
        events.notify(events.Tick5Event(when, supervisord))
    for _ in range(20):
        rolling.listenerHello()
    names = [type(event).__name__ for event in ours.event_buffer]
    assert names == ["RollingRequestEvent", "Tick5Event", "Tick5Event", "Tick5Event"]
    ours.event_buffer.clear()
    rolling.restart("app", False, {})
    assert [type(event).__name__ for event in ours.event_buffer] == ["RollingRequestEvent"]
    assert len(deaf.event_buffer) == 1


def test_second_doorbell_drops_no_event(supervisord: DummySupervisor) -> None:
    rolling, ours = looking(supervisord), a_pool("ours", "ROLLING_REQUEST", "TICK_5")
    supervisord.process_groups = {"ours": ours}
    rolling.listenerHello()
    for when in range(9):
        events.notify(events.Tick5Event(when, supervisord))
    before = list(ours.event_buffer)
    for _ in range(20):
        rolling.listenerHello()
    assert (ours.event_buffer, len(before)) == (before, ours.config.buffer_size)


def test_no_answer_holds_the_key(supervisord: DummySupervisor) -> None:
    rolling = rolled(supervisord)
    given_ = {
        "restart": ("app",),
        "resume": ("app",),
        "pause": ("app",),
        "getProcesses": ("app",),
        "getRollout": ("app",),
    }
    for method in METHODS:
        answer = called(rolling, method, *given_.get(method, ()))
        assert rolling.mailbox.key not in repr(vars(answer) if hasattr(answer, "faultCode") else answer)


# --- what an answer may hold

UGLY = "é → \0\x1b[2J\x7f\r\u2028😀\ud800"


def test_names_and_reasons_are_made_plain(supervisord: DummySupervisor) -> None:
    group, process = "g\x1bé", "w\x07é"
    supervisord.process_groups[group] = supervisord.process_groups["app"]
    supervisord.process_groups[group].processes[process] = supervisord.process_groups["app"].processes["web_1"]
    rolling = looking(supervisord)
    member = Member(process, (tcp(8001),), stage=Stage.FAILED, since=1000.0, why=UGLY)
    rollout = replace(a_rollout(members=(member,), why=UGLY, by=UGLY, status=Status.FAILED), group=group)
    rolling.listenerRecord(rolling.mailbox.key, group, 0, dump(rollout), 0)
    answers = [
        called(rolling, "getRollout", group),
        called(rolling, "getAllRollouts"),
        called(rolling, "getProcesses", group),
        called(rolling, "restart", group, False, {}),
        called(rolling, "pause", group),
    ]
    texts = repr([vars(answer) if hasattr(answer, "faultCode") else answer for answer in answers])
    assert "\\x1b" not in texts.replace("\\\\x1b", "")
    assert answers[0]["group"] == "g\\x1b\\xe9"
    assert answers[0]["processes"][0]["name"] == "w\\x07\\xe9"
    assert answers[0]["why"].startswith("\\xe9 \\u2192 \\x00\\x1b[2J\\x7f")


def test_event_payload_is_ascii() -> None:
    event = our_events.RollingStartedEvent("wéb\x1b\n", 1, {"why": UGLY})
    assert event.payload().encode("ascii").startswith(b"group:w\\xe9b\\x1b")


@given(st.text() | st.binary() | st.none())
def test_plain_text_is_printable_ascii_and_line_breaks(text: Any) -> None:
    assert all(c == "\n" or " " <= c <= "~" for c in plain(text))


@given(st.text() | st.text("\\\\xuU0123456789abcdef").map("é{}".format))
@example("\\\\xe9 is no é")
def test_plain_text_can_be_restored(text: str) -> None:
    assert readable(plain(text), "utf-8") == shown(text, "utf-8")
    assert readable(plain(text), "ascii").isascii()


@given(st.text(), st.sampled_from(["utf-8", "ascii", "latin-1", "iso8859-15"]))
def test_shown_text_fits_the_encoding(text: str, encoding: str) -> None:
    found = shown(text, encoding)
    found.encode(encoding)
    assert all(c == "\n" or c.isprintable() for c in found)
    assert shown("é → app", "utf-8") == "é → app"
