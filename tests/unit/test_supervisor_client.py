"""The listener's way to supervisord, against a small server that speaks XML-RPC and misbehaves."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import socketserver
import threading
import time
import xmlrpc.client
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from supervisor.xmlrpc import Faults

from supervisor_rolling import __version__
from supervisor_rolling.codec import dump, load
from supervisor_rolling.core.actions import Action, Outcome, Verb
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.errors import ConflictError, Fault, NoKeyError, SupervisorError
from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.policy import GatePolicy, Policy, PortRule
from supervisor_rolling.core.process import Incarnation, Process
from supervisor_rolling.core.rollout import Member, Rollout, Stage
from supervisor_rolling.core.snapshot import Request
from supervisor_rolling.core.text import plain
from supervisor_rolling.listener import supervisor_client
from supervisor_rolling.listener.supervisor_client import XmlRpcSupervisor
from supervisor_rolling.packing import unpack

DEADLINE = 20.0
NOTHING: dict[str, Any] = {
    "rollouts": {},
    "rollout_groups": [],
    "guard_states": {},
    "guarded_groups": [],
    "requests": [],
    "table": 1,
    "processes": {},
    "idle": 0.0,
}
HELLO = "rolling.listenerHello"
KNOWN: dict[str, Any] = {"rollouts": {}, "guard_states": {}, "table": 0, "guarded": [], "problem": "", "groups": []}
"""What a listener knows that has not looked yet."""


class Supervisord:
    """Answers calls with ``methods``; ``raw`` is sent instead of an answer, ``status`` instead of 200.

    ``key`` is what the listener's own methods require, ``sent`` what its events have sent.
    """

    def __init__(self, keep: ExitStack, socket_file: Path | None = None) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.methods: dict[str, Callable[..., Any]] = {
            "rolling.listenerObserve": lambda *_: json.dumps(NOTHING),
            "rolling.getListener": lambda: {"version": __version__},
        }
        self.key = self.sent = "the key"
        self.raw: bytes | None = None
        self.status = 200
        self.answers = threading.Event()
        self.answers.set()
        self._server = _listening(socket_file, _handler(self))
        self.url = f"unix://{socket_file}" if socket_file else f"http://127.0.0.1:{self._server.server_address[1]}"
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        keep.callback(self._end, thread)

    def _end(self, thread: threading.Thread) -> None:
        self.answers.set()
        self._server.shutdown()
        self._server.server_close()
        thread.join()

    def client(self, timeout: float = DEADLINE, **environment: str) -> XmlRpcSupervisor:
        return XmlRpcSupervisor({"SUPERVISOR_SERVER_URL": self.url, **environment}, lambda: self.sent, timeout)

    def looks(self, **news: Any) -> None:
        """What the next looks find."""
        self.methods["rolling.listenerObserve"] = lambda *_: json.dumps({**NOTHING, **news})

    def fails(self, method: str, code: int, text: str = "SOME_FAULT: words") -> None:
        def fail(*_: Any) -> None:
            raise xmlrpc.client.Fault(code, text)

        self.methods[method] = fail

    def answer(self, body: bytes) -> bytes:
        arguments, method = xmlrpc.client.loads(body.decode())
        try:
            arguments = self._unlocked(str(method), arguments)
            if method != "rolling.getListener":  # once for each client, before all else
                self.calls.append((str(method), arguments))
            result = self.methods.get(str(method), lambda *_: True)(*arguments)
            text = xmlrpc.client.dumps((result,), methodresponse=True)
        except xmlrpc.client.Fault as fault:
            text = xmlrpc.client.dumps(fault, methodresponse=True)
        return text.encode()

    def _unlocked(self, method: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if not method.startswith("rolling.listener") or method == HELLO:
            return arguments
        if arguments[0] != self.key:
            raise xmlrpc.client.Fault(Fault.LISTENER_ONLY, "LISTENER_ONLY: not yours")
        return arguments[1:]


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def _listening(socket_file: Path | None, handler: type[BaseHTTPRequestHandler]) -> Any:
    if socket_file is None:
        return ThreadingHTTPServer(("127.0.0.1", 0), handler)
    return _UnixServer(str(socket_file), handler)


def _handler(supervisord: Supervisord) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            supervisord.connections += 1

        def handle_one_request(self) -> None:
            with contextlib.suppress(ConnectionError):
                super().handle_one_request()

        def do_POST(self) -> None:
            supervisord.headers.append(dict(self.headers))
            answer = supervisord.answer(self.rfile.read(int(self.headers["Content-Length"])))
            supervisord.answers.wait(DEADLINE)
            if supervisord.raw is not None:
                self.wfile.write(supervisord.raw)
                self.close_connection = True
                return
            self.send_response(supervisord.status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def address_string(self) -> str:
            return "a client"

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture(params=["unix", "inet"])
def supervisord(request: pytest.FixtureRequest, keep: ExitStack, tmp_path: Path) -> Supervisord:
    return Supervisord(keep, tmp_path / "s" if request.param == "unix" else None)


@pytest.fixture
def inet(keep: ExitStack) -> Supervisord:
    return Supervisord(keep)


def a_rollout(group: str = "app", number: int = 1) -> Rollout:
    policy = Policy(group, PortRule(pattern=r"app-(\d+)"))
    return Rollout(number, group, policy, (Member("app-1", (tcp(8001),)),), 1, GatePolicy(), why="drained → café")


def a_watch(group: str = "app", *guarded: GuardedProcess) -> GuardState:
    return GuardState(group, Policy(group, PortRule(pattern=r"app-(\d+)")), GatePolicy(), guarded)


def on_wire(record: Rollout | GuardState) -> Any:
    return json.loads(dump(record))


def last_known(supervisord: Supervisord) -> Any:
    """What the last look said that the listener knows."""
    return supervisord.calls[-1][1][0]


def error_of(call: Callable[[], object]) -> SupervisorError:
    with pytest.raises(SupervisorError) as caught:
        call()
    return caught.value


# --- a look


def test_missing_socket_permission_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    client = XmlRpcSupervisor({"SUPERVISOR_SERVER_URL": "unix:///run/supervisor.sock"}, lambda: "key")
    assert "socket unix:///run/supervisor.sock. Fix: chown = root:GROUP and chmod = 0770 in [unix_http" in str(
        error_of(lambda: client.observe([]))
    )


def test_observe_sends_known_versions_and_guarded_groups(supervisord: Supervisord) -> None:
    supervisord.looks(idle=1.5)
    world = supervisord.client().observe({"web", "app"})
    assert supervisord.calls == [("rolling.listenerObserve", ({**KNOWN, "guarded": ["app", "web"]},))]
    assert (world.rollouts, world.guard_states, world.requests, world.processes, world.idle) == ({}, {}, (), {}, 1.5)


def test_observe_sends_the_policy_problem(inet: Supervisord) -> None:
    problems = ["rolling.yaml:3: \u00e4", ""]
    client = XmlRpcSupervisor(
        {"SUPERVISOR_SERVER_URL": inet.url}, lambda: inet.sent, DEADLINE, problem=lambda: problems.pop(0)
    )
    inet.looks()
    client.observe([])
    client.observe([])
    assert [known["problem"] for _, (known,) in inet.calls] == ["rolling.yaml:3: \\xe4", ""]


def test_observe_returns_values_of_the_model(inet: Supervisord) -> None:
    full = {"id": 3, "kind": "plan", "group": "app", "processes": ["app-1"], "max_unavailable": "2", "force": True}
    bare = {"id": 4, "kind": "resume", "group": "app"}
    rows = [
        ["app-1", "RUNNING", 100, 5.5, 0.0, 0.0, 60.0, "", True, 15],
        ["app-2", "FATAL", 0, 6.5, 2.0, 0.0, 4.0, "no such file", False, 10],
    ]
    inet.looks(requests=[{**full, "by": "ann@host"}, bare], processes={"app": [True, rows]})
    world = inet.client().observe([])
    assert world.requests == (
        Request(3, "plan", "app", ("app-1",), "2", True, "ann@host"),
        Request(4, "resume", "app"),
    )
    assert world.processes == {
        "app": {
            "app-1": Process("app-1", "RUNNING", 100, 5.5, up_for=60.0, warm=True, stopwaitsecs=15.0),
            "app-2": Process("app-2", "FATAL", 0, 6.5, 2.0, 0.0, 4.0, "no such file", stopwaitsecs=10.0),
        }
    }


def test_only_changed_records_are_read(inet: Supervisord) -> None:
    client = inet.client()
    one, two = a_rollout("app", 1), a_rollout("web", 2)
    inet.looks(rollouts={"app": [5, on_wire(one)], "web": [7, on_wire(two)]}, rollout_groups=["app", "web"])
    assert client.observe([]).rollouts == {"app": (5, one), "web": (7, two)}
    newer = replace(two, paused=True)
    inet.looks(rollouts={"web": [8, on_wire(newer)]}, rollout_groups=["app", "web"])
    assert client.observe([]).rollouts == {"app": (5, one), "web": (8, newer)}
    client.observe([])
    known = [arguments[0]["rollouts"] for _, arguments in inet.calls]
    assert known == [{}, {"app": 5, "web": 7}, {"app": 5, "web": 8}]


def test_a_group_that_is_gone_is_forgotten(inet: Supervisord) -> None:
    client = inet.client()
    inet.looks(rollouts={"app": [5, on_wire(a_rollout())]}, rollout_groups=["app"])
    client.observe([])
    inet.looks(rollout_groups=[])
    assert client.observe([]).rollouts == {}
    client.observe([])
    assert last_known(inet)["rollouts"] == {}


def test_earlier_snapshot_stays_unchanged(inet: Supervisord) -> None:
    client = inet.client()
    before = client.observe([])
    inet.looks(rollouts={"app": [5, on_wire(a_rollout())]}, rollout_groups=["app"])
    client.observe([])
    assert before.rollouts == {}


def test_only_changed_guard_states_are_read(inet: Supervisord) -> None:
    client = inet.client()
    one, two = a_watch("app"), a_watch("web")
    inet.looks(guard_states={"app": [5, on_wire(one)], "web": [7, on_wire(two)]}, guarded_groups=["app", "web"])
    assert client.observe([]).guard_states == {"app": one, "web": two}
    newer = a_watch("web", GuardedProcess("web-1", (tcp(8001),), Stage.WARMING, 1000.0, pid=100))
    inet.looks(guard_states={"web": [8, on_wire(newer)]}, guarded_groups=["app", "web"])
    assert client.observe([]).guard_states == {"app": one, "web": newer}
    inet.looks(guarded_groups=["web"])
    assert client.observe([]).guard_states == {"web": newer}
    client.observe([])
    known = [arguments[0]["guard_states"] for _, arguments in inet.calls]
    assert known == [{}, {"app": 5, "web": 7}, {"app": 5, "web": 8}, {"web": 8}]


def test_rollout_and_guard_state_are_separate(inet: Supervisord) -> None:
    client, rollout, guard_state = inet.client(), a_rollout(), a_watch()
    inet.looks(
        rollouts={"app": [5, on_wire(rollout)]},
        rollout_groups=["app"],
        guard_states={"app": [6, on_wire(guard_state)]},
        guarded_groups=["app"],
    )
    world = client.observe([])
    assert (world.rollouts, world.guard_states) == ({"app": (5, rollout)}, {"app": guard_state})
    client.observe([])
    assert (last_known(inet)["rollouts"], last_known(inet)["guard_states"]) == ({"app": 5}, {"app": 6})


# --- the process table


def a_row(name: str, state: str = "RUNNING", pid: int = 100, **changes: Any) -> list[Any]:
    """The fields of a process as they come: this fails where the model has one more than the plugin tells."""
    return list(vars(replace(Process(name, state, pid, 5.5), **changes)).values())


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(supervisor_client, "time", found)
    return found


def test_unchanged_rows_are_kept(inet: Supervisord) -> None:
    client = inet.client()
    inet.looks(table=4, processes={"app": [True, [a_row("app-1"), a_row("app-2")]]})
    client.observe([])
    inet.looks(table=5, processes={"app": [False, [a_row("app-2", pid=555, warm=True)]]})
    table = client.observe([]).processes["app"]
    assert table == {
        "app-1": Process("app-1", "RUNNING", 100, 5.5),
        "app-2": Process("app-2", "RUNNING", 555, 5.5, warm=True),
    }
    client.observe([])
    assert [arguments[0]["table"] for _, arguments in inet.calls] == [0, 4, 5]


def test_new_process_in_a_group_is_added(inet: Supervisord) -> None:
    client = inet.client()
    inet.looks(processes={"app": [True, [a_row("app-1")]]})
    client.observe([])
    inet.looks(processes={"app": [False, [a_row("app-2")]]})
    assert set(client.observe([]).processes["app"]) == {"app-1", "app-2"}


def test_whole_group_replaces_all_rows(inet: Supervisord, clock: Clock) -> None:
    client = inet.client()
    inet.looks(processes={"app": [True, [a_row("app-1"), a_row("app-2", "FATAL", 0)]]})
    client.observe([])
    inet.looks(processes={"app": [True, [a_row("app-1")]]})
    assert set(client.observe([]).processes["app"]) == {"app-1"}
    inet.looks(processes={"app": [False, []]})
    assert set(client.observe([]).processes["app"]) == {"app-1"}


def test_group_without_concern_is_forgotten(inet: Supervisord) -> None:
    client = inet.client()
    inet.looks(processes={"app": [True, [a_row("app-1")]], "web": [True, [a_row("web-1")]]})
    client.observe([])
    inet.looks(processes={"web": [False, []]})
    assert set(client.observe([]).processes) == {"web"}


def test_a_world_that_was_given_keeps_its_table(inet: Supervisord, clock: Clock) -> None:
    client = inet.client()
    inet.looks(processes={"app": [True, [a_row("app-1"), a_row("app-2", "FATAL", 0, down_for=2.0)]]})
    before = client.observe([])
    clock.now += 10.0
    inet.looks(processes={"app": [False, [a_row("app-1", pid=555)]]})
    client.observe([])
    assert (before.processes["app"]["app-1"].pid, before.processes["app"]["app-2"].down_for) == (100, 2.0)


def test_stopped_process_ages_without_a_new_row(inet: Supervisord, clock: Clock) -> None:
    client = inet.client()
    down, starting = a_row("app-1", "EXITED", 0, down_for=2.0), a_row("app-2", "STARTING", running_in=3.0, up_for=1.0)
    inet.looks(processes={"app": [True, [down, starting, a_row("app-3", up_for=60.0)]]})
    client.observe([])
    inet.looks(processes={"app": [False, []]})
    for later, down_for, running_in, up_for in ((2.0, 4.0, 1.0, 3.0), (4.0, 6.0, 0.0, 5.0)):
        clock.now = 1000.0 + later
        table = client.observe([]).processes["app"]
        assert (table["app-1"].down_for, table["app-2"].running_in, table["app-2"].up_for) == (
            down_for,
            running_in,
            up_for,
        )
        assert table["app-3"] == Process("app-3", "RUNNING", 100, 5.5, up_for=60.0)


def test_never_stopped_process_has_no_down_time(inet: Supervisord, clock: Clock) -> None:
    client = inet.client()
    inet.looks(processes={"app": [True, [a_row("app-1", "STARTING", down_for=0.0)]]})
    client.observe([])
    inet.looks(processes={"app": [False, []]})
    clock.now += 10.0
    assert client.observe([]).processes["app"]["app-1"].down_for == 0.0


def test_new_row_ages_only_while_not_running(inet: Supervisord, clock: Clock) -> None:
    client = inet.client()
    inet.looks(processes={"app": [True, [a_row("app-1", "EXITED", 0, down_for=2.0)]]})
    client.observe([])
    clock.now += 10.0
    inet.looks(processes={"app": [False, [a_row("app-1", "FATAL", 0, down_for=1.0)]]})
    assert client.observe([]).processes["app"]["app-1"].down_for == 1.0
    inet.looks(processes={"app": [False, []]})
    clock.now += 1.0
    assert client.observe([]).processes["app"]["app-1"].down_for == 2.0
    inet.looks(processes={"app": [False, [a_row("app-1", up_for=1.0)]]})
    client.observe([])
    inet.looks(processes={"app": [False, []]})
    clock.now += 1.0
    assert client.observe([]).processes["app"]["app-1"] == Process("app-1", "RUNNING", 100, 5.5, up_for=1.0)


def test_unreadable_answer_keeps_the_table_number(inet: Supervisord) -> None:
    client = inet.client()
    inet.looks(table=4, processes={"app": [True, [a_row("app-1")]]})
    client.observe([])
    inet.status = 500
    error_of(lambda: client.observe([]))
    inet.status = 200
    inet.looks(table=6, processes={"app": [True, [a_row("app-1", pid=555)]]})
    assert client.observe([]).processes["app"]["app-1"].pid == 555
    assert [arguments[0]["table"] for _, arguments in inet.calls] == [0, 4, 4]


@pytest.mark.parametrize(
    ("told", "text"),
    [({"version": "0.0.9"}, "supervisord has version 0.0.9 of the plugin loaded"), ({}, "has an older version")],
)
def test_other_version_of_the_plugin_is_not_observed(inet: Supervisord, told: dict[str, str], text: str) -> None:
    client, inet.methods["rolling.getListener"] = inet.client(), lambda: told
    with pytest.raises(SupervisorError, match=text) as caught:
        client.observe([])
    assert (caught.value.code, "stop supervisord and start it" in str(caught.value)) == ("plugin.version", True)
    assert inet.calls == [], "so that supervisord does not take this listener for one that runs"


def test_version_of_the_plugin_is_asked_once(inet: Supervisord) -> None:
    client = inet.client()
    client.observe([])
    inet.fails("rolling.getListener", Fault.INTERNAL_ERROR)
    assert client.observe([]).rollouts == {}


# --- the key


def test_listener_without_key_asks_for_it(inet: Supervisord) -> None:
    client, inet.sent = inet.client(), ""
    with pytest.raises(NoKeyError):
        client.observe([])
    assert inet.calls == [(HELLO, ())]
    inet.sent = inet.key
    assert client.observe([]).rollouts == {}
    assert [method for method, _ in inet.calls] == [HELLO, "rolling.listenerObserve"]


def test_refused_key_is_asked_for_again(inet: Supervisord) -> None:
    client, inet.key = inet.client(), "that of another supervisord"
    for _ in range(3):
        with pytest.raises(NoKeyError):
            client.observe([])
    assert [method for method, _ in inet.calls] == [HELLO, HELLO]
    inet.sent = inet.key
    assert client.observe([]).rollouts == {}


def test_working_key_is_kept(inet: Supervisord) -> None:
    client = inet.client()
    client.observe([])
    inet.sent = "of another program that writes where events come from"
    client.observe([])
    assert HELLO not in [method for method, _ in inet.calls]


def test_right_key_replaces_an_earlier_wrong_one(inet: Supervisord) -> None:
    client, inet.sent = inet.client(), "another program's"
    for _ in range(2):
        with pytest.raises(NoKeyError):
            client.observe([])
    inet.sent = inet.key
    assert client.observe([]).rollouts == {}


def test_missing_key_names_the_fix(inet: Supervisord) -> None:
    client, inet.sent = inet.client(), ""
    for _ in range(supervisor_client.HELLOS):
        assert isinstance(error_of(lambda: client.observe([])), NoKeyError)
    error = error_of(lambda: client.observe([]))
    assert not isinstance(error, NoKeyError)
    assert "ROLLING_REQUEST" in str(error)
    inet.sent = inet.key
    assert client.observe([]).rollouts == {}


def test_every_method_of_the_listener_carries_the_key(inet: Supervisord) -> None:
    client, inet.key = inet.client(), "another"
    calls: list[Callable[[], object]] = [
        lambda: client.observe([]),
        lambda: client.record(a_rollout(), 0),
        lambda: client.guard(a_watch()),
        lambda: client.unguard("app"),
        lambda: client.refuse(1, Fault.REFUSED, "no"),
        lambda: client.plan(1, a_rollout()),
    ]
    for number, call in enumerate(calls):
        inet.sent = f"wrong {number}"
        with pytest.raises(NoKeyError):
            call()
    assert inet.calls == []


# --- writing


def test_record_sends_rollout_and_learns_its_version(inet: Supervisord) -> None:
    client, rollout = inet.client(), a_rollout()
    inet.methods["rolling.listenerRecord"] = lambda *_: 6
    client.record(rollout, 5, request=9)
    ((_, (group, version, text, request)),) = inet.calls
    assert (group, version, request) == ("app", 5, 9)
    assert load(Rollout, json.loads(text)) == rollout
    inet.looks(rollout_groups=["app"])
    assert client.observe([]).rollouts == {"app": (6, rollout)}
    assert last_known(inet)["rollouts"] == {"app": 6}


def test_known_rollout_is_written_as_its_changes(inet: Supervisord) -> None:
    inet.methods["rolling.listenerRecord"] = lambda *_: 6
    client, paused = inet.client(), replace(a_rollout(), paused=True)
    for rollout, version in ((a_rollout(), 5), (paused, 6), (paused, 7)):
        client.record(rollout, version)
    assert ["values" in json.loads(unpack(text)) for _, (_, _, text, _) in inet.calls] == [False, True, False]


def test_conflicting_rollout_is_not_remembered(inet: Supervisord) -> None:
    client = inet.client()
    inet.fails("rolling.listenerRecord", Fault.CONFLICT, "CONFLICT: changed meanwhile")
    with pytest.raises(ConflictError, match="changed meanwhile"):
        client.record(a_rollout(), 5)
    client.observe([])
    assert last_known(inet)["rollouts"] == {}


def test_guard_state_is_written_with_its_version(inet: Supervisord) -> None:
    client, guard_state = (
        inet.client(),
        a_watch("app", GuardedProcess("app-1", (tcp(8001),), Stage.FAILED, 1000.0, why="drained → café")),
    )
    inet.methods["rolling.listenerGuard"] = lambda *_: 6
    client.guard(guard_state)
    ((method, (group, text)),) = inet.calls
    assert (method, group, text.isascii(), load(GuardState, json.loads(text))) == (
        "rolling.listenerGuard",
        "app",
        True,
        guard_state,
    )
    inet.looks(guarded_groups=["app"])
    assert client.observe([]).guard_states == {"app": guard_state}
    assert last_known(inet)["guard_states"] == {"app": 6}


def test_failed_guard_state_is_not_remembered(inet: Supervisord) -> None:
    client = inet.client()
    inet.fails("rolling.listenerGuard", Faults.SHUTDOWN_STATE)
    error_of(lambda: client.guard(a_watch()))
    client.observe([])
    assert last_known(inet)["guard_states"] == {}


def test_unguarded_group_has_no_guard_state(inet: Supervisord) -> None:
    client = inet.client()
    inet.methods["rolling.listenerGuard"] = lambda *_: 6
    client.guard(a_watch())
    client.unguard("app")
    assert inet.calls[-1] == ("rolling.listenerGuard", ("app", ""))
    client.observe([])
    assert last_known(inet)["guard_states"] == {}
    client.unguard("never guarded")


def test_refusal_is_sent_with_code_in_ascii(inet: Supervisord) -> None:
    inet.client().refuse(3, Fault.REFUSED, "café → no")
    assert inet.calls == [("rolling.listenerAnswer", (3, Fault.REFUSED, "caf\\xe9 \\u2192 no", ""))]


def test_a_plan_is_sent_as_a_rollout(inet: Supervisord) -> None:
    inet.client().plan(3, a_rollout())
    ((method, (request, code, text, plan)),) = inet.calls
    assert (method, request, code, text) == ("rolling.listenerAnswer", 3, 0, "")
    assert load(Rollout, json.loads(plan)) == a_rollout()


# --- orders


STOP = Action(Verb.STOP, "app-1", Incarnation(7, 1000.25))
START = Action(Verb.START, "app-1", Incarnation(0, 1000.25))
SIGNAL = Action(Verb.SIGNAL, "app-1", Incarnation(7, 1000.25), "USR1")
DONE = {"code": 0, "text": ""}


def test_actions_go_in_one_call_with_incarnations(inet: Supervisord) -> None:
    inet.methods["rolling.listenerAct"] = lambda *_: [DONE] * 3
    assert inet.client().action("app", [STOP, START, SIGNAL]) == [Outcome()] * 3
    running = {"name": "app-1", "incarnation": [7, 1000.25]}
    assert inet.calls == [
        (
            "rolling.listenerAct",
            (
                "app",
                [
                    {"verb": "stop", "signal": "", **running},
                    {"verb": "start", "signal": "", **running, "incarnation": [0, 1000.25]},
                    {"verb": "signal", "signal": "USR1", **running},
                ],
            ),
        )
    ]


@pytest.mark.parametrize("code", [Faults.ALREADY_STARTED, Faults.SPAWN_ERROR, Faults.ABNORMAL_TERMINATION])
def test_late_action_is_no_refusal(inet: Supervisord, code: int) -> None:
    inet.methods["rolling.listenerAct"] = lambda *_: [{"code": code, "text": "ALREADY_STARTED: app:app-1"}] * 2
    assert inet.client().action("app", [STOP, START]) == [Outcome()] * 2


@pytest.mark.parametrize(
    "code", [Faults.NO_FILE, Faults.NOT_EXECUTABLE, Faults.BAD_NAME, Faults.FAILED, Faults.BAD_SIGNAL]
)
def test_refused_action_leaves_the_others(inet: Supervisord, code: int) -> None:
    refused = {"code": code, "text": plain("NO_FILE: /srv/café")}
    inet.methods["rolling.listenerAct"] = lambda *_: [DONE, refused, DONE]
    assert inet.client().action("app", [STOP, START, STOP]) == [Outcome(), Outcome("NO_FILE: /srv/café"), Outcome()]


def test_action_for_old_incarnation_is_already_stopped(inet: Supervisord) -> None:
    gone = {"code": Faults.NOT_RUNNING, "text": "NOT_RUNNING: app:app-1"}
    inet.methods["rolling.listenerAct"] = lambda *_: [gone]
    assert inet.client().action("app", [STOP]) == [Outcome("NOT_RUNNING: app:app-1", already_stopped=True)]


def test_action_during_shutdown_is_an_error(inet: Supervisord) -> None:
    inet.fails("rolling.listenerAct", Faults.SHUTDOWN_STATE)
    error_of(lambda: inet.client().action("app", [STOP]))


def test_unanswered_action_is_an_error(inet: Supervisord) -> None:
    inet.status = 500
    error_of(lambda: inet.client().action("app", [STOP]))


# --- faults


def test_missing_plugin_names_the_fix(inet: Supervisord) -> None:
    inet.fails("rolling.listenerObserve", Faults.UNKNOWN_METHOD, "UNKNOWN_METHOD")
    inet.fails(HELLO, Faults.UNKNOWN_METHOD, "UNKNOWN_METHOD")
    assert "add [rpcinterface:rolling] to its configuration" in str(error_of(lambda: inet.client().observe([])))
    inet.sent = ""
    assert "or an older version" in str(error_of(lambda: inet.client().observe([])))


def test_other_fault_is_an_error_with_its_text(inet: Supervisord) -> None:
    inet.fails("rolling.listenerObserve", Faults.FAILED, "FAILED: out of luck")
    error = error_of(lambda: inet.client().observe([]))
    assert str(error) == "FAILED: out of luck"
    assert not isinstance(error, ConflictError)


def test_a_supervisord_that_shuts_down_is_said_to(inet: Supervisord) -> None:
    inet.fails("rolling.listenerObserve", Faults.SHUTDOWN_STATE, "SHUTDOWN_STATE")
    assert str(error_of(lambda: inet.client().observe([]))) == "supervisord is shutting down"


def test_a_fault_leaves_the_connection_as_it_is(inet: Supervisord) -> None:
    client = inet.client()
    inet.fails("rolling.listenerObserve", Faults.FAILED)
    error_of(lambda: client.observe([]))
    inet.looks()
    client.observe([])
    assert inet.connections == 1


# --- users and passwords


def test_user_and_password_are_sent(supervisord: Supervisord) -> None:
    supervisord.client(SUPERVISOR_USERNAME="ann", SUPERVISOR_PASSWORD="p:w" * 40).observe([])
    kind, _, text = supervisord.headers[0]["Authorization"].partition(" ")
    assert (kind, base64.b64decode(text).decode()) == ("Basic", "ann:" + "p:w" * 40)


def test_wrong_password_names_the_variables(supervisord: Supervisord) -> None:
    supervisord.status = 401
    text = str(error_of(lambda: supervisord.client().observe([])))
    assert 'SUPERVISOR_USERNAME="…",SUPERVISOR_PASSWORD="…" to the section of the listener' in text


# --- no answer


def test_call_after_a_timeout_works(supervisord: Supervisord) -> None:
    client = supervisord.client(timeout=0.2)
    supervisord.answers.clear()
    began = time.monotonic()
    text = str(error_of(lambda: client.observe([])))
    assert time.monotonic() - began < DEADLINE / 2
    assert text == f"supervisord does not answer at {supervisord.url}: timed out"
    supervisord.answers.set()
    assert client.observe([]).rollouts == {}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n<?xml version='1.0'?>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<methodRespon",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<a></b",
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n<a></b>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\xff\xfe\xfd\xfc",
        b"hello\r\n\r\n",
    ],
    ids=["nothing", "half", "no XML", "empty", "half XML", "bad end", "wrong end", "no text", "no HTTP"],
)
def test_call_after_a_broken_connection_works(supervisord: Supervisord, raw: bytes) -> None:
    client = supervisord.client()
    client.observe([])
    supervisord.raw = raw
    assert str(error_of(lambda: client.observe([]))).startswith(f"supervisord does not answer at {supervisord.url}: ")
    supervisord.raw = None
    assert client.observe([]).rollouts == {}


def test_call_after_an_http_error_works(supervisord: Supervisord) -> None:
    client = supervisord.client()
    supervisord.status = 500
    assert (
        str(error_of(lambda: client.observe([]))) == "supervisord answered HTTP 500 Internal Server Error: see its log"
    )
    supervisord.status = 200
    assert client.observe([]).rollouts == {}


def test_calls_that_succeed_share_a_connection(supervisord: Supervisord) -> None:
    client = supervisord.client()
    for _ in range(5):
        client.observe([])
    assert supervisord.connections == 1


@pytest.mark.parametrize("url", ["unix:///nowhere/supervisor.sock", "http://127.0.0.1:1", "ftp://localhost"])
def test_unanswered_address_is_in_the_error(url: str) -> None:
    client = XmlRpcSupervisor({"SUPERVISOR_SERVER_URL": url}, lambda: "the key", 5.0)
    for _ in range(2):
        assert str(error_of(lambda: client.observe([]))).startswith(f"supervisord does not answer at {url}: ")
