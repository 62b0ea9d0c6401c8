"""Hostile input to a real supervisord and a real listener, and our own defects in a real supervisord.

The clients here may talk to supervisord's socket, and so may stop and start what they like. What they must not be able
to do: command the listener, which is root; end the listener or supervisord by what they send; learn the key.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import select
import shlex
import signal
import socket
import sys
import xmlrpc.client
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from supervisor_rolling.codec import dump, dump_changes
from supervisor_rolling.core.errors import Fault
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.policy import (
    GatePolicy,
    Policy,
    PortRule,
    Ready,
    WarmupPolicy,
)
from supervisor_rolling.core.preflight_report import Finding, Report
from supervisor_rolling.packing import unpack
from tests.support import plugin
from tests.support.look import listener_log, listener_pid, rules, wait_open
from tests.support.sabotage import ERRORS, targets
from tests.support.stack import ROOT, Setup, Stack
from tests.unit.test_fault_barrier import KNOWN, WATCH
from tests.unit.test_rpcinterface import a_rollout

RECORD = "record"
ACCENT = "wéb"  # more bytes than characters

SABOTAGE = (
    "[rpcinterface:sabotage]\nsupervisor.rpcinterface_factory = tests.support.sabotage:make_sabotage_rpcinterface\n"
)


def recorder(name: str, events: str) -> str:
    command = f"{shlex.quote(sys.executable)} -m tests.support.recorder %(here)s/{RECORD}"
    return (
        f"[eventlistener:{name}]\ncommand={command}\ndirectory={ROOT}\nevents={events}\nstartsecs=0\nbuffer_size=999\n"
    )


def accent(port: int) -> str:
    command = f"{shlex.quote(sys.executable)} -m tests.support.light_app --port {port}"
    return f"[program:{ACCENT}]\ncommand={command}\ndirectory={ROOT}\nprocess_name={ACCENT}-{port}\nstartsecs=0\n"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two light processes and one with an accent, guarded; a recorder of every event; the log has all levels."""
    directory = tmp_path_factory.mktemp("h")
    policy = yaml.safe_load(plugin.policy(warm_all=False, max_unavailable=1))
    policy["groups"][ACCENT] = {**policy["groups"]["app"], "ports": r".*-(\d+)"}
    ours = plugin.sections(directory / "rolling.yaml").replace("--config", "--loglevel debug --config")
    setup = Setup(
        processes=2,
        application="tests.support.light_app",
        startsecs=0,
        loglevel="trace",
        supervisor=f"{SABOTAGE}\n{ours}\n{recorder('everything', 'EVENT')}\n{accent(8100)}",
        files={"rolling.yaml": yaml.safe_dump(policy, allow_unicode=True)},
    )
    with Stack(directory, setup) as stack:
        wait_open(stack)
        yield stack
    assert rules() == []


@contextlib.contextmanager
def nothing_dies(stack: Stack) -> Iterator[None]:
    """supervisord and the listener are the same processes afterwards, and a rollout works."""
    before = stack.supervisord_pid, listener_pid(stack)
    yield
    assert (stack.supervisord_pid, listener_pid(stack)) == before
    done = stack.ctl("rolling_restart", "app")
    assert done.returncode == 0, done.stdout + listener_log(stack)


def key_of(stack: Stack) -> str:
    key: Any = stack.rpc().sabotage.key()
    assert len(key) == 64
    return str(key)


def fault_of(call: Callable[..., object], *arguments: Any) -> int:
    with pytest.raises(xmlrpc.client.Fault) as caught:
        call(*arguments)
    return caught.value.faultCode


# --- control of the listener


def test_only_the_listener_may_record(stack: Stack) -> None:
    evil = Policy("app", PortRule(by_name={"app-8000": (8080,)}), warmup=WarmupPolicy(ready=Ready("/shutdown")))
    rollout, guard_state = dump(replace(a_rollout(9), policy=evil)), dump(GuardState("app", evil, GatePolicy()))
    rolling: Any = stack.rpc().rolling
    with nothing_dies(stack):
        before = rolling.getAllRollouts()
        for key in ("", "0" * 64, "key"):
            for method, arguments in {
                "listenerObserve": (KNOWN,),
                "listenerRecord": ("app", 0, rollout, 0),
                "listenerGuard": ("app", guard_state),
                "listenerAnswer": (1, 0, "", rollout),
            }.items():
                assert fault_of(getattr(rolling, method), key, *arguments) == Fault.LISTENER_ONLY
        assert rolling.getAllRollouts() == before


def test_key_is_in_no_log_and_no_event(stack: Stack) -> None:
    key = key_of(stack)
    rolling: Any = stack.rpc().rolling
    rolling.listenerHello()
    fault_of(rolling.listenerGuard, "wrong", "app", "")
    assert stack.ctl("rolling_restart", "app").returncode == 0
    found = {path.name: path.read_bytes() for path in stack.directory.iterdir() if path.is_file()}
    recorded = found[RECORD]
    assert b"eventname:ROLLING_FINISHED" in recorded
    assert b"eventname:PROCESS_STATE_RUNNING" in recorded
    assert b"ROLLING_REQUEST" not in recorded
    assert [name for name, text in found.items() if key.encode() in text] == []
    assert "listenerObserve" in found["supervisord.log"].decode(), "supervisord does not log its calls"


# --- garbage


def garbage(chance: random.Random) -> bytes:
    """What a client sends that is no call, or nearly one."""
    value = chance.choice(
        [
            "<int>99999999999999999999</int>",
            "<int>x</int>",
            "<base64>////</base64>",
            "<dateTime.iso8601>20250101T00:00:00</dateTime.iso8601>",
            "<struct><member><name>by</name><value><nil/></value></member></struct>",
            "<array><data>" * 300 + "</data></array>" * 300,
            "<string>\x00\x1b</string>",
            "<double>nan</double>",
            "é" * 1000,
        ]
    )
    method = chance.choice(
        ["rolling.restart", "rolling.getRollout", "rolling.listenerObserve", "rolling.__init__", "", "x" * 999]
    )
    value = f"<params><param><value>{value}</value></param></params>"
    good = f"<methodCall><methodName>{method}</methodName>{value}</methodCall>"
    text = bytearray(good.encode())
    for _ in range(chance.choice([0, 0, 3])):
        text[chance.randrange(len(text))] = chance.randrange(256)
    return bytes(text[: chance.choice([len(text), len(text), len(text) // 2])])


def posted(stack: Stack, body: bytes) -> int:
    """The status of the answer; 0: the connection was closed without one."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10.0)
        connection.connect(str(stack.socket))
        connection.sendall(b"POST /RPC2 HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        answer = http.client.HTTPResponse(connection)
        try:
            answer.begin()
        except http.client.HTTPException:
            return 0
        return answer.status


def test_garbage_on_the_socket_ends_nothing(stack: Stack) -> None:
    chance = random.Random(11)
    with nothing_dies(stack):
        statuses = [posted(stack, garbage(chance)) for _ in range(300)]
        assert set(statuses) <= {200, 400, 0}, "0: supervisord closes the connection over what is not UTF-8"
        assert min(statuses.count(200), statuses.count(400)) > 30
    assert "a bug in supervisor_rolling" not in (stack.directory / "supervisord.log").read_text(errors="replace")


def frame(name: str, payload: str, length: int = -1) -> str:
    size = len(payload) if length < 0 else length
    return f"ver:3.0 server:supervisor serial:1 pool:rolling poolserial:1 eventname:{name} len:{size}\n{payload}"


def restart_listener(stack: Stack) -> None:
    """Another, to which supervisord is not deaf."""
    rpc: Any = stack.rpc()
    rpc.supervisor.stopProcess("rolling")
    rpc.supervisor.startProcess("rolling", False)


STATE = "processname:app-8000 groupname:app from_state:RUNNING expected:0 pid:1"


@pytest.mark.parametrize(
    "text",
    [
        "\n\n\x00hello é\n" * 100,
        "x" * 50_000,  # more than a pipe holds (64 KB) at once ends supervisord 4.3 itself, with any listener
        frame("PROCESS_STATE_EXITED", STATE) * 3,
        frame("PROCESS_STATE_EXITED", "processname:\x1b[2J groupname:app from_state: pid:9" + "9" * 5000),
        frame("TICK_5", "when:1", length=3) + frame("TICK_5", "when:1", length=10**8),
        frame("ROLLING_REQUEST", "key:" + "0" * 64) + frame("ROLLING_REQUEST", "key:é"),
        frame("TICK_5", "", length=5000),
    ],
    ids=["lines", "no line", "deaths", "ugly", "wrong lengths", "a key", "an event that never ends"],
)
def test_garbage_on_listener_stdin_ends_nothing(stack: Stack, text: str) -> None:
    restart_listener(stack)
    wait_open(stack)
    with nothing_dies(stack):
        assert stack.rpc().supervisor.sendProcessStdin("rolling", xmlrpc.client.Binary(text.encode()))
    assert "Traceback" not in listener_log(stack)
    assert key_of(stack) not in listener_log(stack)


def test_listener_with_wrong_key_gets_the_right_one(stack: Stack) -> None:
    restart_listener(stack)
    stack.rpc().supervisor.sendProcessStdin("rolling", frame("ROLLING_REQUEST", "key:" + "0" * 64))
    wait_open(stack)
    with nothing_dies(stack):
        pass


# --- names


def test_non_ascii_group_name_works(stack: Stack) -> None:
    with nothing_dies(stack):
        done = stack.ctl("rolling_restart", ACCENT, "--force")
        assert done.returncode == 0, done.stdout + done.stderr + listener_log(stack)
        assert "1 of 1 replaced" in done.stdout
        assert stack.ctl("rolling_status", ACCENT).returncode == 0


@pytest.mark.parametrize(
    "argument", ["\x1b[2J", "é", "\udcff\udcfe", "a\x01b", "%s{0}", "--x", "x" * 10_000, "app:\x07"]
)
def test_any_argument_gets_sentence_and_exit_status(stack: Stack, argument: str) -> None:
    for command in ("rolling_restart", "rolling_status"):
        done = stack.ctl(command, argument)
        assert done.returncode != 0
        assert "Traceback" not in done.stdout + done.stderr
        assert all(c.isprintable() or c == "\n" for c in done.stdout)
        assert done.stdout.startswith("ERROR: ")


# --- rolling.yaml


def test_policy_writable_by_others_is_refused(stack: Stack) -> None:
    path = stack.directory / "rolling.yaml"
    path.chmod(0o666)
    refused = stack.ctl("rolling_restart", "app")
    assert refused.returncode == 6
    assert f"chmod go-w {path}" in refused.stdout
    path.chmod(0o644)
    with nothing_dies(stack):
        pass


# --- defects of our own


OURS = plugin.sections(Path("none")).split("[eventlistener")[0]


@pytest.fixture(scope="module")
def sabotaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A supervisord with the test as its listener."""
    setup = Setup(
        processes=1,
        application="tests.support.light_app",
        first_port=8300,
        nginx_port=8380,
        startsecs=0,
        supervisor="\n".join([SABOTAGE, OURS, recorder("rolling", "ROLLING_REQUEST,ROLLING,PROCESS_STATE")]),
    )
    with Stack(tmp_path_factory.mktemp("d"), setup) as stack:
        yield stack


REPORT = dump(Report("app", (Finding("a", "b", "c", "d"),)))


class Listener:
    """The test as the listener: every method once, and what a rollout goes through."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.key = key_of(stack)
        self.defects = 0

    def call(self, method: str, *arguments: Any) -> Any:
        """The answer; None where it is a fault. Raises for anything that is neither."""
        try:
            return getattr(self.stack.rpc(), method)(*arguments)
        except xmlrpc.client.Fault as fault:
            self.defects += fault.faultCode == Fault.INTERNAL_ERROR
            return None

    def drill(self) -> None:
        answer = self.call("rolling.listenerObserve", self.key, KNOWN)
        news = json.loads(unpack(answer)) if answer else {"rollouts": {}}
        version = news["rollouts"].get("app", [0])[0]
        version = self.call("rolling.listenerRecord", self.key, "app", version, dump(a_rollout(1)), 0) or version
        paused = dump_changes(replace(a_rollout(1), paused=True), a_rollout(1))
        self.call("rolling.listenerRecord", self.key, "app", version, paused, 0)
        for method in ("pause", "resume", "abort", "getRollout", "getProcesses"):
            self.call(f"rolling.{method}", "app")
        for method in ("getAPIVersion", "getAllRollouts", "getListener", "listenerHello"):
            self.call(f"rolling.{method}")
        self.call("rolling.listenerGuard", self.key, "app", WATCH)
        self.call("rolling.listenerGuard", self.key, "app", "x")
        action = {"verb": "stop", "name": "app-8300", "signal": "", "incarnation": [1, 1.0]}
        self.call("rolling.listenerAct", self.key, "app", [action])
        self.call("supervisor.stopProcess", "app:*", False)
        self.call("supervisor.startProcess", "app:*", False)
        self.call("rolling.getRollout", "missing")
        self.call("rolling.callPacked", "getRollout", ["missing"])
        self.call("rolling.callPacked", "getAllRollouts", [])
        options = {"force": True, "max_unavailable": "10%"}
        self.answered("rolling.callPacked", ("restart", ["app", False, options]), (Fault.REFUSED, "no", ""))
        self.answered("rolling.getRecord", ("app", 1), (0, "", "{}"))
        self.answered("rolling.check", ("app",), (0, "", REPORT))

    def answered(self, method: str, arguments: tuple[Any, ...], answer: tuple[int, str, str]) -> None:
        """A request with a deferred answer, which the listener gives."""
        with contextlib.closing(Asked(self.stack, method, arguments)) as asked:
            observed = self.call("rolling.listenerObserve", self.key, KNOWN)
            requests = json.loads(unpack(observed))["requests"] if observed else []
            for request in requests:
                self.call("rolling.listenerAnswer", self.key, request["id"], *answer)
            if requests:
                asked.answer()


class Asked:
    """A request on a connection of its own, without waiting for the answer."""

    def __init__(self, stack: Stack, method: str, arguments: tuple[Any, ...]) -> None:
        self._stack = stack
        body = xmlrpc.client.dumps(arguments, method).encode()
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(5.0)
        self._connection.connect(str(stack.socket))
        self._connection.sendall(b"POST /RPC2 HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        stack.rpc().supervisor.getState()  # it has read the request by now

    def answer(self) -> None:
        """supervisord asks a deferred answer again after 0.05 s, but only when something wakes it."""
        for _ in range(100):
            if select.select([self._connection], [], [], 0.06)[0]:
                break
            self._stack.rpc().supervisor.getState()
        response = http.client.HTTPResponse(self._connection)
        response.begin()
        assert response.status == 200

    def close(self) -> None:
        self._connection.close()


@pytest.mark.parametrize("number", [30, pytest.param(None, marks=pytest.mark.soak)], ids=["sample", "all"])
def test_plugin_exception_leaves_supervisord_working(sabotaged: Stack, number: int | None) -> None:
    """tests/unit/test_fault_barrier.py has every function and error; here a sample, always the same by its seed."""
    stack, chance = sabotaged, random.Random(5)
    rpc: Any = stack.rpc()
    listener, pid, hits = Listener(stack), rpc.supervisor.getPID(), 0
    sample = chance.sample(targets(), number or len(targets()))
    for target in sample:
        rpc.sabotage.arm(target, chance.choice(ERRORS))
        listener.drill()
        hits += rpc.sabotage.disarm() > 0
        assert rpc.supervisor.getPID() == pid
        assert rpc.rolling.getAPIVersion() == "1.0"
        assert isinstance(rpc.rolling.getAllRollouts(), list)
    assert hits > len(sample) // 2, "the drill does not call most of what it arms"
    assert listener.defects > hits / 2
    said = (stack.directory / "supervisord.log").read_text()
    assert said.count("a bug in supervisor_rolling in") > hits / 4
    assert "sabotage" in said


def reload(stack: Stack) -> None:
    """``supervisorctl reload``, until all runs again."""
    assert stack.ctl("reload").returncode == 0
    stack.wait_until(lambda: state_of(stack) == "RUNNING", 20.0, "supervisord runs again")


def test_wakeup_exception_leaves_supervisord_working(sabotaged: Stack) -> None:
    reload(sabotaged)
    rpc: Any = sabotaged.rpc()
    pid = rpc.supervisor.getPID()
    rpc.sabotage.arm("plugin.wakeup:WakeUp.handle_read_event", "RuntimeError")

    def raised() -> bool:
        """An old connection can take the pipe away after a reload, until the next tick."""
        crash(sabotaged)
        return bool(rpc.sabotage.hits())

    sabotaged.wait_until(raised, 20.0, "the wake-up raises")
    for _ in range(3):
        crash(sabotaged)
    assert rpc.sabotage.disarm() == 1, "it is left alone after the first time"
    assert rpc.supervisor.getPID() == pid


def crash(stack: Stack) -> None:
    """Kill a process, and wait until supervisord has started another."""
    victim = stack.processes()[0].pid
    assert victim
    os.kill(victim, signal.SIGKILL)
    stack.wait_until(lambda: stack.processes()[0].pid not in (0, victim), 20.0, "another runs")


def test_exception_in_reload_leaves_supervisord_working(sabotaged: Stack) -> None:
    reload(sabotaged)  # with a wake-up
    rpc: Any = sabotaged.rpc()
    pid = rpc.supervisor.getPID()
    for target in (
        "wakeup:_put_back",
        "wakeup:WakeUp._close_pipe",
        "event_subscriptions:subscribe_events",
        "mailbox:Mailbox.__init__",
    ):
        rpc.sabotage.arm(f"plugin.{target}", "OSError")
        reload(sabotaged)
        assert rpc.sabotage.disarm() > 0
        assert sabotaged.rpc().supervisor.getPID() == pid
    assert sabotaged.ctl("rolling_status").returncode == 3, "there is no namespace, and that is said"
    reload(sabotaged)
    assert sabotaged.ctl("rolling_status").returncode == 0


def state_of(stack: Stack) -> str:
    try:
        state: Any = stack.rpc(timeout=2.0).supervisor.getState()
    except (OSError, http.client.HTTPException, xmlrpc.client.Error):
        return ""
    return str(state["statename"])
