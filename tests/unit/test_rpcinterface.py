"""The mailbox in supervisord, on supervisor's own dummies."""

from __future__ import annotations

import gc
import json
import signal
import time
import zlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from supervisor import events
from supervisor.datatypes import RestartUnconditionally
from supervisor.http import NOT_DONE_YET
from supervisor.states import ProcessStates, SupervisorStates
from supervisor.tests.base import DummyOptions, DummyPConfig, DummyPGroupConfig, DummyProcess, DummySupervisor
from supervisor.xmlrpc import Faults, RPCError, SystemNamespaceRPCInterface, traverse, xmlrpc_marshal

from supervisor_rolling import __version__
from supervisor_rolling.codec import dump, dump_changes
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.errors import Fault
from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.policy import GatePolicy, GuardPolicy, Policy, PortRule
from supervisor_rolling.core.preflight_report import (
    Finding,
    ListenerSettings,
    ProcessSettings,
    Report,
    Severity,
)
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Status
from supervisor_rolling.packing import unpack
from supervisor_rolling.plugin.arguments import ANSWER_TIMEOUT
from supervisor_rolling.plugin.events import EVENTS, RollingEvent
from supervisor_rolling.plugin.listener_health import HEARTBEAT
from supervisor_rolling.plugin.mailbox import FOLLOWS_WITHIN, REQUESTS_KEPT
from supervisor_rolling.plugin.rpc import LISTENER_GONE_AFTER, make_rolling_rpcinterface
from supervisor_rolling.plugin.supervisor_settings import settings_of

LISTENER_PID = 77


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Group:
    def __init__(self, processes: dict[str, DummyProcess], pool_events: tuple[type, ...] = ()) -> None:
        self.processes = processes
        self.config = DummyPGroupConfig(DummyOptions())
        if pool_events:
            self.config.pool_events = pool_events
            self.config.buffer_size = 10


def make_process(name: str, pid: int) -> DummyProcess:
    config = DummyPConfig(DummyOptions(), name, "/bin/true", startsecs=10, stopwaitsecs=12)
    process = DummyProcess(config, ProcessStates.RUNNING)
    process.pid, process.laststart = pid, 1.0
    return process


def make_supervisord() -> DummySupervisor:
    options = DummyOptions()
    supervisord = DummySupervisor(options)
    supervisord.reap = lambda: None
    names = ["web_1", "web_2", "web_10"]
    supervisord.process_groups = {
        "app": Group({name: make_process(name, 100 + i) for i, name in enumerate(names)}),
        "rolling": Group({"rolling": make_process("rolling", LISTENER_PID)}, (EVENTS["ROLLING_REQUEST"],)),
    }
    return supervisord


@pytest.fixture(autouse=True)
def notified():
    """The events of ours that were emitted."""
    events.clear()
    observed: list[events.Event] = []
    for kind in (RollingEvent, EVENTS["ROLLING_REQUEST"]):
        events.subscribe(kind, observed.append)
    yield observed
    events.clear()


@pytest.fixture
def supervisord() -> DummySupervisor:
    return make_supervisord()


@pytest.fixture
def rolling(supervisord: DummySupervisor) -> Any:
    interface = make_rolling_rpcinterface(supervisord, wakeup="false")
    interface.clock = Clock()
    observe(interface)
    return interface


def a_rollout(number: int = 1, **changes: Any) -> Rollout:
    members = (Member("web_1", (tcp(8001),)), Member("web_2", (tcp(8002),)), Member("web_10", (tcp(8010),)))
    values = {"members": members, "limit": 1, "gate": GatePolicy(), "started_at": 1000.0, **changes}
    return Rollout(number, "app", Policy("app", PortRule(pattern=r"web_(\d+)")), **values)


def begin(rolling: Any, **options: Any) -> int:
    """Ask for a rollout as a client, and accept it as the listener. Returns the version of the rollout."""
    rolling.restart("app", False, options)
    (request,) = observe(rolling)["requests"]
    version = rolling.mailbox.rollouts.version("app")
    return rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(a_rollout(request["id"])), request["id"])


def observe(rolling: Any, **known: Any) -> Any:
    """What a listener gets that knows nothing but this."""
    return json.loads(unpack(rolling.listenerObserve(rolling.mailbox.key, known)))


def fault_of(call: Any, *arguments: Any) -> RPCError:
    with pytest.raises(RPCError) as caught:
        call(*arguments)
    return caught.value


# --- several groups


def chained(rolling: Any, end: Status, **changes: Any) -> int:
    """A rollout of app that has ended, with a group to follow."""
    first = a_rollout(7, following=("rolling", "app"), by="ann", force=True, max_unavailable="2")
    version = rolling.listenerRecord(rolling.mailbox.key, "app", 0, dump(first), 0)
    last = replace(first, status=end, **changes)
    return rolling.listenerRecord(rolling.mailbox.key, "app", version, dump_changes(last, first), 0)


def test_group_that_follows_is_asked_for_however_long_no_listener_runs(rolling: Any):
    chained(rolling, Status.DONE)
    rolling.clock.now += 10 * ANSWER_TIMEOUT
    (request,) = observe(rolling)["requests"]
    assert (request["kind"], request["group"], request["following"]) == ("restart", "rolling", ["app"])
    assert (request["by"], request["force"], request["max_unavailable"]) == ("ann", True, "2")
    assert fault_of(rolling.restart, "rolling").code == Fault.ROLLOUT_IN_PROGRESS, "its place is kept"


@pytest.mark.parametrize("end", [Status.FAILED, Status.ABORTED])
def test_nothing_follows_a_rollout_that_failed(rolling: Any, end: Status):
    chained(rolling, end)
    assert observe(rolling)["requests"] == []


def test_refusal_of_the_next_group_is_noted_where_a_client_reads_it(rolling: Any):
    chained(rolling, Status.DONE)
    (request,) = observe(rolling)["requests"]
    rolling.listenerAnswer(rolling.mailbox.key, request["id"], Fault.REFUSED, "all are stopped", "")
    assert rolling.getRollout("app")["next_problem"] == "all are stopped"


@pytest.mark.parametrize("group", ["app", "rolling"])
def test_abort_between_two_groups_ends_the_order(rolling: Any, group: str):
    chained(rolling, Status.DONE)
    assert rolling.abort(group)["next_problem"] == "it was aborted before it began"
    assert observe(rolling)["requests"] == []
    assert fault_of(rolling.abort, group).code == Fault.NO_ROLLOUT_KNOWN


def test_group_that_follows_does_not_begin_when_no_client_expects_it(rolling: Any):
    chained(rolling, Status.DONE)
    rolling.clock.now += FOLLOWS_WITHIN + 1.0
    assert observe(rolling)["requests"] == []
    assert rolling.getRollout("app")["next_problem"] == "no listener ran for 300 s"


def test_refusal_is_noted_in_no_later_rollout(rolling: Any):
    version = chained(rolling, Status.DONE)
    (request,) = observe(rolling)["requests"]
    rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(a_rollout(8)), 0)
    rolling.listenerAnswer(rolling.mailbox.key, request["id"], Fault.REFUSED, "all\nare stopped", "")
    assert rolling.getRollout("app")["next_problem"] == ""


def test_client_of_several_groups_learns_that_their_order_was_lost(rolling: Any):
    answer = rolling.restartGroups(["app", "rolling"])
    (request,) = observe(rolling)["requests"]
    first = a_rollout(7, following=("rolling",))
    version = rolling.listenerRecord(rolling.mailbox.key, "app", 0, dump(first), request["id"])
    last = replace(first, status=Status.DONE)
    version = rolling.listenerRecord(rolling.mailbox.key, "app", version, dump_changes(last, first), 0)
    assert answer() is NOT_DONE_YET
    rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(a_rollout(8)), 0)
    assert "rolling was not restarted: another rollout of the group before it" in fault_of(answer).text


def test_group_that_is_gone_or_busy_is_noted_at_once(rolling: Any, supervisord: DummySupervisor):
    rolling.restart("rolling", False, {})
    chained(rolling, Status.DONE)
    assert "a rollout of rolling is already running" in rolling.getRollout("app")["next_problem"]


@pytest.mark.parametrize("names", [[], ["app", "app"], ["app", "nothing"], "app", ["app:web_1"]])
def test_groups_are_checked_before_anything_begins(rolling: Any, names: Any):
    assert fault_of(rolling.restartGroups, names).code in (Faults.INCORRECT_PARAMETERS, Faults.BAD_NAME)
    assert observe(rolling)["requests"] == []


def test_groups_take_no_processes_and_no_plan(rolling: Any):
    for options in ({"processes": ["web_1"]}, {"dry_run": True}):
        assert fault_of(rolling.restartGroups, ["app"], True, options).code == Faults.INCORRECT_PARAMETERS


# --- requests


def test_request_rings_doorbell_and_reaches_listener(rolling: Any, notified: list[Any]):
    rolling.restart("app:*", False, {"max_unavailable": "25%", "by": "ann@host"})
    (event,) = notified
    assert events.getEventNameByType(event.__class__) == "ROLLING_REQUEST"
    (request,) = observe(rolling)["requests"]
    assert (request["kind"], request["group"], request["max_unavailable"]) == ("restart", "app", "25%")


def test_process_can_be_named_like_in_supervisor(rolling: Any):
    rolling.restart("app:web_2", False, {"processes": ["web_10"]})
    (request,) = observe(rolling)["requests"]
    assert request["processes"] == ["web_2", "web_10"]


def test_listener_gets_processes_of_concerned_groups_only(rolling: Any):
    assert observe(rolling)["processes"] == {}
    begin(rolling)
    table = observe(rolling)["processes"]
    assert list(table) == ["app"]
    is_whole, rows = table["app"]
    assert is_whole
    assert [row[:3] for row in rows] == [
        ["web_1", "RUNNING", 100],
        ["web_2", "RUNNING", 101],
        ["web_10", "RUNNING", 102],
    ]


def test_listener_gets_only_rollouts_it_lacks(rolling: Any):
    version = begin(rolling)
    assert list(observe(rolling)["rollouts"]) == ["app"]
    assert observe(rolling, rollouts={"app": version})["rollouts"] == {}


def test_deferred_answer_comes_once_listener_accepts(rolling: Any):
    answer = rolling.restart("app", False, {})
    assert answer() is NOT_DONE_YET
    rolling.listenerRecord(rolling.mailbox.key, "app", 0, dump(a_rollout()), 1)
    assert answer()["status"] == "running"


def test_with_wait_answer_comes_at_rollout_end(rolling: Any):
    answer = rolling.restart("app", True, {})
    version = rolling.listenerRecord(rolling.mailbox.key, "app", 0, dump(a_rollout()), 1)
    assert answer() is NOT_DONE_YET
    rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(a_rollout(status=Status.DONE, ended_at=1002.0)), 0)
    assert (answer()["status"], answer()["seconds"]) == ("done", 2.0)


@pytest.mark.parametrize(
    ("status", "code"), [(Status.FAILED, Fault.ROLLOUT_FAILED), (Status.ABORTED, Fault.ROLLOUT_ABORTED)]
)
def test_failed_rollout_is_fault_for_waiting_client(rolling: Any, status: Status, code: int):
    answer = rolling.restart("app", True, {})
    rolling.listenerRecord(rolling.mailbox.key, "app", 0, dump(a_rollout(status=status, why="web_1 is not warm")), 1)
    assert fault_of(answer).code == code


def test_refusal_is_fault_with_listeners_text(rolling: Any):
    answer = rolling.restart("app", False, {})
    rolling.listenerAnswer(rolling.mailbox.key, 1, Fault.NOT_CONFIGURED, "no policy for app", "")
    fault = fault_of(answer)
    assert (fault.code, fault.text) == (
        Fault.NOT_CONFIGURED,
        "NOT_CONFIGURED: no policy for app. See: supervisor_rolling help config",
    )


def test_plan_is_answered_and_not_kept(rolling: Any):
    answer = rolling.restart("app", False, {"dry_run": True})
    rolling.listenerAnswer(rolling.mailbox.key, 1, 0, "", dump(a_rollout(status=Status.PLANNED)))
    assert answer()["status"] == "planned"
    assert rolling.getAllRollouts() == []


# --- a check

REPORT = Report(
    "app",
    (Finding("nginx.lone", "/etc/nginx/ü.conf:3", "has one server only", "add one", severity=Severity.ERROR),),
    ("8 processes",),
    ("HAProxy",),
)


def test_check_request_carries_settings(rolling: Any, supervisord: DummySupervisor):
    config = supervisord.process_groups["app"].processes["web_2"].config
    config.startsecs, config.autorestart, config.stopasgroup = 0, False, True
    config.stopsignal = signal.SIGUSR1
    rolling.check("app:*")
    (request,) = observe(rolling)["requests"]
    settings = rolling.mailbox.requests[request["id"]].request.settings
    assert (request["kind"], settings.total) == ("check", 4)
    assert {one.name: one for one in settings.processes}["web_2"] == ProcessSettings(
        "web_2", 0, 12, "false", True, "USR1"
    )
    others = {(one.autorestart, one.stopsignal) for one in settings.processes if one.name != "web_2"}
    assert others == {("unexpected", "TERM")}
    lacks = ("PROCESS_STATE", "PROCESS_GROUP", "TICK_5")
    assert settings.listeners == (ListenerSettings("rolling", 1, 10, 10, lacks),)


@pytest.mark.parametrize(
    ("command", "server"),
    [
        ("/srv/venv/bin/gunicorn --bind :80 app", "gunicorn"),
        ("python -m gunicorn app", "gunicorn"),
        ("/usr/bin/env A=b uwsgi --ini app.ini", "uwsgi"),
        ("/srv/gunicorn/run", ""),
        ("", ""),
    ],
)
def test_server_that_reloads_itself_is_known_by_its_command(
    supervisord: DummySupervisor, command: str, server: str
) -> None:
    supervisord.process_groups["app"].processes["web_1"].config.command = command
    found = settings_of(supervisord, "app").processes
    assert next(one.server for one in found if one.name == "web_1") == server


def test_unnamed_stop_signal_is_its_number(supervisord: DummySupervisor):
    supervisord.process_groups["app"].processes["web_2"].config.stopsignal = 0
    assert settings_of(supervisord, "app").processes[1].stopsignal == "0"


def test_listener_of_all_events_lacks_none(rolling: Any, supervisord: DummySupervisor):
    supervisord.process_groups["rolling"].config.pool_events = (events.Event, EVENTS["ROLLING_REQUEST"])
    (listener,) = settings_of(supervisord, "app").listeners
    assert listener.lacks == ()


def test_check_is_answered_with_ascii_report(rolling: Any):
    answer = rolling.check("app")
    assert answer() is NOT_DONE_YET
    rolling.listenerAnswer(rolling.mailbox.key, 1, 0, "", dump(REPORT))
    report = answer()
    xmlrpc_marshal(report)
    assert (report["ok"], report["checked"], report["skipped"]) == (False, ["8 processes"], ["HAProxy"])
    (finding,) = report["findings"]
    assert (finding["code"], finding["severity"], finding["where"]) == (
        "nginx.lone",
        "error",
        r"/etc/nginx/\xfc.conf:3",
    )


def test_report_without_finding_is_ok(rolling: Any):
    answer = rolling.check("app")
    rolling.listenerAnswer(rolling.mailbox.key, 1, 0, "", dump(Report("app")))
    assert answer() == {"group": "app", "ok": True, "findings": [], "checked": [], "skipped": []}


@pytest.mark.parametrize("report", ["{}", "3", dump(Report("web")), dump(REPORT).replace("error", "bad")])
def test_invalid_report_is_not_kept(rolling: Any, report: str):
    answer = rolling.check("app")
    with pytest.raises(RPCError) as error:
        rolling.listenerAnswer(rolling.mailbox.key, 1, 0, "", report)
    assert error.value.code == Faults.INCORRECT_PARAMETERS
    assert answer() is NOT_DONE_YET


def test_checks_and_rollouts_do_not_block_each_other(rolling: Any):
    rolling.check("app")
    rolling.restart("app", False, {})
    rolling.check("app")
    assert [request["kind"] for request in observe(rolling)["requests"]] == ["check", "restart", "check"]


def test_check_of_unknown_group_is_fault(rolling: Any):
    with pytest.raises(RPCError) as error:
        rolling.check("web")
    assert error.value.code == Faults.BAD_NAME


def test_silent_listener_is_reported_to_client(rolling: Any):
    answer = rolling.restart("app", False, {})
    rolling.clock.now += ANSWER_TIMEOUT
    assert fault_of(answer).code == Fault.LISTENER_DOWN


def test_listener_that_exits_repeatedly_is_reported(rolling: Any, supervisord: DummySupervisor):
    rolling.restart("app", False, {})
    answer = rolling.check("app")
    rolling.clock.now += ANSWER_TIMEOUT
    process = supervisord.process_groups["rolling"].processes["rolling"]
    process.laststart = time.time() - 0.1
    text = fault_of(answer).text
    assert "; it was started 0." in text
    assert "so it exits again and again" in text


def test_unanswered_request_releases_group(rolling: Any):
    rolling.restart("app", False, {})
    assert fault_of(rolling.restart, "app", False, {}).code == Fault.ROLLOUT_IN_PROGRESS
    rolling.clock.now += ANSWER_TIMEOUT + 1
    rolling.restart("app", False, {})


def test_second_rollout_is_refused_with_progress_of_first(rolling: Any):
    version = begin(rolling, by="ann@host")
    members = (Member("web_1", (tcp(1),), replaced=True), Member("web_2", (tcp(2),)))
    rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(a_rollout(by="ann@host", members=members)), 0)
    fault = fault_of(rolling.restart, "app", False, {})
    assert fault.code == Fault.ROLLOUT_IN_PROGRESS
    assert "rollout 1 by ann@host has replaced 1 of 2" in fault.text


def listener_is(supervisord: DummySupervisor, state: int) -> None:
    listener = supervisord.process_groups["rolling"].processes["rolling"]
    listener.pid, listener.state = 0, state


@pytest.mark.parametrize("state", [ProcessStates.STOPPED, ProcessStates.FATAL, ProcessStates.UNKNOWN])
def test_rollout_without_listener_is_refused(rolling: Any, supervisord: DummySupervisor, state: int):
    listener_is(supervisord, state)
    assert fault_of(rolling.restart, "app", False, {}).code == Fault.LISTENER_DOWN


@pytest.mark.parametrize("state", [ProcessStates.EXITED, ProcessStates.BACKOFF, ProcessStates.STARTING])
def test_listener_that_just_exited_is_awaited(rolling: Any, supervisord: DummySupervisor, state: int):
    listener_is(supervisord, state)
    assert rolling.restart("app", False, {})() is NOT_DONE_YET
    rolling.clock.now += HEARTBEAT + 1
    assert fault_of(rolling.resume, "app").code == Fault.LISTENER_DOWN


FIX = "supervisorctl start rolling; if it does not start: supervisorctl status"


@pytest.mark.parametrize("state", [ProcessStates.STOPPED, ProcessStates.FATAL])
def test_dead_listener_is_reported_with_fix(rolling: Any, supervisord: DummySupervisor, state: int):
    listener_is(supervisord, state)
    assert rolling.getListener() == {
        "running": False,
        "fix": FIX,
        "problem": "",
        "version": __version__,
        "groups": [],
    }
    fault = fault_of(rolling.restart, "app", False, {})
    assert "the listener is not running: rollouts are stalled" in fault.text
    assert fault.text.endswith(f"Fix: {FIX}. See: supervisor_rolling help listener.down")
    groups = supervisord.process_groups
    groups["reconciler"] = groups.pop("rolling")
    assert "supervisorctl start reconciler:rolling;" in rolling.getListener()["fix"]
    del groups["reconciler"]
    assert "add [eventlistener:rolling]" in rolling.getListener()["fix"]


def test_hanging_listener_is_to_be_restarted(rolling: Any):
    rolling.clock.now += HEARTBEAT + 1
    assert rolling.getListener()["fix"].startswith("supervisorctl restart rolling;")


def test_request_is_refused_as_soon_as_listener_is_fatal(rolling: Any, supervisord: DummySupervisor):
    listener_is(supervisord, ProcessStates.BACKOFF)
    answer = rolling.restart("app", False, {})
    assert answer() is NOT_DONE_YET
    listener_is(supervisord, ProcessStates.FATAL)
    fault = fault_of(answer)
    assert (fault.code, fault.text.endswith(f"Fix: {FIX}. See: supervisor_rolling help listener.down")) == (
        Fault.LISTENER_DOWN,
        True,
    )
    assert observe(rolling)["requests"] == [], "nor is it carried out later"


def test_request_outlives_a_restart_of_the_listener(rolling: Any, supervisord: DummySupervisor):
    answer = rolling.restart("app", False, {})
    listener_is(supervisord, ProcessStates.STOPPED)
    assert answer() is NOT_DONE_YET
    rolling.clock.now += ANSWER_TIMEOUT
    assert "the listener is not running" in fault_of(answer).text


@pytest.mark.parametrize(("autorestart", "is_running"), [(False, False), (RestartUnconditionally, True)])
def test_listener_that_has_exited_for_good_is_not_running(
    rolling: Any, supervisord: DummySupervisor, autorestart: Any, is_running: bool
):
    listener = supervisord.process_groups["rolling"].processes["rolling"]
    listener.group, listener.config.autorestart = SimpleNamespace(config=SimpleNamespace(name="rolling")), autorestart
    events.notify(events.ProcessStateExitedEvent(listener, ProcessStates.RUNNING, expected=True))
    listener_is(supervisord, ProcessStates.EXITED)
    assert rolling.getListener()["running"] is is_running


def test_policy_problem_is_shown_until_fixed(rolling: Any):
    found = rolling.getListener()
    assert (found["running"], found["fix"], found["problem"], found["version"]) == (True, "", "", __version__)
    observe(rolling, problem="rolling.yaml:3: \u00e4: unknown key")
    assert rolling.getListener()["problem"] == "rolling.yaml:3: \\xe4: unknown key"
    observe(rolling, problem="x" * 2000)
    assert len(rolling.getListener()["problem"]) == 1000
    observe(rolling)
    assert rolling.getListener()["problem"] == ""


def test_get_listener_says_whether_it_runs(rolling: Any):
    rolling.clock.now += HEARTBEAT + 1
    assert rolling.getListener()["running"] is False


def test_listener_without_heartbeat_is_not_running(rolling: Any):
    rolling.clock.now += HEARTBEAT + 1
    assert fault_of(rolling.restart, "app", False, {}).code == Fault.LISTENER_DOWN


def test_listener_that_just_started_is_running(supervisord: DummySupervisor):
    listener = supervisord.process_groups["rolling"].processes["rolling"]
    listener.laststart = time.time()
    interface = make_rolling_rpcinterface(supervisord, wakeup="false")
    assert interface.restart("app", False, {})() is NOT_DONE_YET


def test_listener_of_rollout_events_is_not_ours(rolling: Any, supervisord: DummySupervisor):
    supervisord.process_groups["rolling"].config.pool_events = (EVENTS["ROLLING"],)
    assert fault_of(rolling.restart, "app", False, {}).code == Fault.LISTENER_DOWN


ONE_GROUP = ["pause", "abort", "resume", "check", "getRollout", "getProcesses"]


@pytest.mark.parametrize("method", [*ONE_GROUP, "getHistory", "getRecord"])
def test_only_process_stands_for_its_group(rolling: Any, supervisord: DummySupervisor, method: str) -> None:
    supervisord.process_groups["web"] = Group({"web": make_process("web", 500)})
    asked = [_answer_of(rolling, method, name) for name in ("web", "web:*", "web:web")]
    assert asked[0] == asked[1] == asked[2]


@pytest.mark.parametrize("method", ONE_GROUP)
def test_process_of_larger_group_is_refused(rolling: Any, method: str) -> None:
    fault = fault_of(getattr(rolling, method), "app:web_1")
    assert fault.code == Faults.INCORRECT_PARAMETERS
    assert fault.text.endswith("a whole group is needed, and app:web_1 is one of 3 processes of app")
    assert fault_of(getattr(rolling, method), "app:nope").code == Faults.BAD_NAME


def _answer_of(rolling: Any, method: str, name: str) -> Any:
    """What a method answers, or the fault it raises; of a deferred answer, that there is one."""
    try:
        found = getattr(rolling, method)(name)
    except RPCError as fault:
        return fault.code, fault.text
    return "deferred" if callable(found) else found


def unpacked(answer: Any) -> Any:
    return json.loads(zlib.decompress(answer.data))


def test_packed_answer_is_that_of_the_method(rolling: Any) -> None:
    begin(rolling)
    calls = [
        ("getRollout", ["app"]),
        ("getAllRollouts", []),
        ("getProcesses", ["app"]),
        ("pause", ["app"]),
        ("abort", ["app"]),
    ]
    for method, arguments in calls:
        found = unpacked(rolling.callPacked(method, arguments))
        assert found == json.loads(json.dumps(getattr(rolling, method)(*arguments))), method


@pytest.mark.parametrize("wait", [False, True])
def test_packed_restart_answers_when_the_rollout_is_there(rolling: Any, wait: bool) -> None:
    look = rolling.callPacked("restart", ["app", wait, {}])
    assert (look(), look.delay) == (NOT_DONE_YET, 0.05)
    version = rolling.listenerRecord(rolling.mailbox.key, "app", 0, dump(a_rollout()), 1)
    if wait:
        assert look() is NOT_DONE_YET
        rolling.listenerRecord(
            rolling.mailbox.key, "app", version, dump(a_rollout(status=Status.DONE, ended_at=1002.0)), 0
        )
    assert unpacked(look()) == rolling.getRollout("app")


def test_packed_restart_answers_with_the_fault_of_the_method(rolling: Any) -> None:
    look = rolling.callPacked("restart", ["app", False, {}])
    rolling.listenerAnswer(rolling.mailbox.key, 1, Fault.REFUSED, "no", "")
    assert fault_of(look).code == Fault.REFUSED
    assert fault_of(rolling.callPacked, "getRollout", ["nope"]).code == Faults.BAD_NAME


@pytest.mark.parametrize(
    ("method", "arguments"), [("listenerHello", []), ("_ask", []), ("getRollout", "app"), (3, []), ("getRollout", [])]
)
def test_only_some_methods_can_be_called_packed(rolling: Any, method: Any, arguments: Any) -> None:
    assert fault_of(rolling.callPacked, method, arguments).code == Faults.INCORRECT_PARAMETERS


def test_all_rollouts_of_a_thousand_processes_are_small_packed(rolling: Any) -> None:
    version = begin(rolling)
    members = tuple(replace(a_rollout().members[0], name=f"web_{n}") for n in range(1000))
    rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(a_rollout(members=members)), 0)
    packed = xmlrpc_marshal(rolling.callPacked("getAllRollouts", []))
    assert len(packed) < 0.05 * len(xmlrpc_marshal(rolling.getAllRollouts()))


@pytest.mark.parametrize("name", ["nope", "app:nope", "", ":", "app:*:x", "*"])
def test_unknown_name_is_bad_name(rolling: Any, name: str):
    assert fault_of(rolling.restart, name, False, {}).code == Faults.BAD_NAME


@pytest.mark.parametrize(
    "options",
    [
        {"max_unavailable": 0},
        {"max_unavailable": "200%"},
        {"max_unavailable": "-1"},
        {"max_unavailable": "many"},
        {"max_unavialable": 1},
        {"processes": "web_1"},
        {"processes": [3]},
        "force",
        [],
    ],
)
def test_bad_options_are_incorrect_parameters(rolling: Any, options: Any):
    assert fault_of(rolling.restart, "app", False, options).code == Faults.INCORRECT_PARAMETERS


def test_client_name_is_short_and_harmless(rolling: Any):
    rolling.restart("app", False, {"by": "ann; rm -rf /\n" + "é" * 500})
    by = rolling.mailbox.requests[1].request.by
    assert len(by) == 64
    assert by.startswith("ann__rm_-rf_/")


def test_listener_cannot_overwrite_unread_rollout(rolling: Any):
    version = begin(rolling)
    rolling.abort("app")
    fault = fault_of(rolling.listenerRecord, rolling.mailbox.key, "app", version, dump(a_rollout()), 0)
    assert fault.code == Fault.CONFLICT
    assert rolling.getRollout("app")["aborting"] is True


@pytest.mark.parametrize("method", ["abort", "pause", "resume"])
def test_abort_pause_resume_need_a_rollout(rolling: Any, method: str):
    assert fault_of(getattr(rolling, method), "app").code == Fault.NO_ROLLOUT_KNOWN


def test_pause_and_resume_set_the_flag_and_ring(rolling: Any, notified: list[Any]):
    begin(rolling)
    notified.clear()
    assert rolling.pause("app")["paused"] is True
    assert rolling.resume("app")["paused"] is False
    assert len(notified) == 2


def test_resume_of_unpaused_rollout_is_refused(rolling: Any, notified: list[Any]):
    begin(rolling)
    notified.clear()
    fault = fault_of(rolling.resume, "app")
    assert (fault.code, notified) == (Fault.ROLLOUT_IN_PROGRESS, [])
    assert "rollout 1 of app is running and is not paused: nothing to resume" in fault.text


def test_resume_of_done_rollout_says_none_runs(rolling: Any):
    version = begin(rolling)
    rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(a_rollout(status=Status.DONE)), 0)
    assert "no rollout of app is running: nothing to resume" in fault_of(rolling.resume, "app").text


@pytest.mark.parametrize("method", ["pause", "resume"])
def test_pause_and_resume_are_refused_while_aborting(rolling: Any, method: str):
    begin(rolling)
    rolling.pause("app")
    rolling.abort("app")
    version = rolling.mailbox.rollouts.version("app")
    fault = fault_of(getattr(rolling, method), "app")
    assert fault.code == Fault.REFUSED
    assert "app: the rollout is being aborted. Fix: wait until it has ended, then supervisorctl rolling_resume app" in (
        fault.text
    )
    assert rolling.mailbox.rollouts.version("app") == version
    assert rolling.abort("app")["aborting"] is True


def test_resume_of_failed_rollout_asks_listener(rolling: Any):
    version = begin(rolling)
    rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(a_rollout(status=Status.FAILED)), 0)
    answer = rolling.resume("app")
    assert answer() is NOT_DONE_YET
    (request,) = observe(rolling)["requests"]
    assert request["kind"] == "resume"


def test_other_listeners_get_rollout_and_process_events(rolling: Any, notified: list[Any]):
    version = begin(rolling)
    members = (Member("web_1", (tcp(8001),), stage=Stage.DRAINING, since=1000.0), Member("web_2", (tcp(8002),)))
    version = rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(a_rollout(members=members)), 0)
    rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(a_rollout(status=Status.DONE)), 0)
    names = [events.getEventNameByType(event.__class__) for event in notified]
    assert names == ["ROLLING_REQUEST", "ROLLING_STARTED", "ROLLING_PROCESS", "ROLLING_PROCESS", "ROLLING_FINISHED"]
    head, _, body = notified[2].payload().partition("\n")
    assert head == "group:app rollout:1"
    assert (json.loads(body)["name"], json.loads(body)["stage"]) == ("web_1", "draining")


def test_every_event_can_be_subscribed_by_name():
    assert {name: getattr(events.EventTypes, name) for name in EVENTS} == EVENTS


def test_ledger_knows_only_the_warmed_incarnation(rolling: Any, supervisord: DummySupervisor):
    version = begin(rolling)
    members = (
        Member("web_1", (tcp(8001),), stage=Stage.OPEN, pid=100, spawned=1.0),
        Member("web_2", (tcp(8002),), stage=Stage.WARMING, pid=101),
    )
    rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(a_rollout(members=members)), 0)
    assert {p["name"]: p["warm"] for p in rolling.getProcesses("app")} == {
        "web_1": True,
        "web_10": False,
        "web_2": False,
    }
    processes = supervisord.process_groups["app"].processes
    processes["web_1"].laststart = 2.0
    assert not any(process["warm"] for process in rolling.getProcesses("app")), "the pid was used again"
    processes["web_1"].laststart, processes["web_1"].pid = 1.0, 555
    assert not any(process["warm"] for process in rolling.getProcesses("app"))


def test_removed_group_is_forgotten(rolling: Any, supervisord: DummySupervisor):
    begin(rolling)
    del supervisord.process_groups["app"]
    assert observe(rolling)["rollout_groups"] == []
    assert rolling.getAllRollouts() == []


def test_group_added_again_can_be_rolled(rolling: Any, supervisord: DummySupervisor):
    begin(rolling)
    group = supervisord.process_groups.pop("app")
    observe(rolling)
    supervisord.process_groups["app"] = group
    answer = rolling.restart("app", False, {})
    assert rolling.listenerRecord(rolling.mailbox.key, "app", 0, dump(a_rollout(2)), 2) > 0
    assert answer()["id"] == 2


def test_request_for_removed_group_is_refused(rolling: Any, supervisord: DummySupervisor):
    answer = rolling.restart("app", False, {})
    del supervisord.process_groups["app"]
    assert observe(rolling)["requests"] == []
    assert fault_of(answer).code == Fault.REFUSED


def test_abandoned_request_starts_no_rollout(rolling: Any):
    answer = rolling.restart("app", False, {})
    rolling.clock.now += ANSWER_TIMEOUT
    assert fault_of(answer).code == Fault.LISTENER_DOWN
    assert fault_of(rolling.listenerRecord, rolling.mailbox.key, "app", 0, dump(a_rollout()), 1).code == Fault.CONFLICT
    assert rolling.getAllRollouts() == []


def test_changes_apply_only_to_the_version_read(rolling: Any):
    rolling.restart("app", False, {})
    first, second = a_rollout(), a_rollout(why="the second")
    version = rolling.listenerRecord(rolling.mailbox.key, "app", 0, dump(first), 1)
    later = rolling.listenerRecord(rolling.mailbox.key, "app", version, dump_changes(second, first), 0)
    assert (later > version, rolling.getRollout("app")["why"]) == (True, "the second")
    fault = fault_of(rolling.listenerRecord, rolling.mailbox.key, "app", version, dump_changes(first, second), 0)
    assert (fault.code, rolling.getRollout("app")["why"]) == (Fault.CONFLICT, "the second")
    stale = json.dumps({"values": {}, "members": [[99, {}]], "levels": [0, []]})  # of a rollout that is no longer kept
    assert fault_of(rolling.listenerRecord, rolling.mailbox.key, "app", version, stale, 0).code == Fault.CONFLICT


def test_waiting_client_learns_of_replaced_rollout(rolling: Any):
    answer = rolling.restart("app", True, {})
    version = rolling.listenerRecord(rolling.mailbox.key, "app", 0, dump(a_rollout()), 1)
    version = rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(a_rollout(status=Status.FAILED)), 0)
    rolling.restart("app", True, {})
    rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(a_rollout(2)), 2)
    assert fault_of(answer).code == Fault.ROLLOUT_FAILED


def test_resume_of_paused_rollout_can_wait(rolling: Any):
    version = begin(rolling)
    rolling.pause("app")
    answer = rolling.resume("app", True)
    assert answer() is NOT_DONE_YET
    version = rolling.mailbox.rollouts.version("app")
    rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(a_rollout(status=Status.DONE)), 0)
    assert answer()["status"] == "done"


def test_policy_is_never_shown(rolling: Any):
    begin(rolling)
    assert "policy" not in json.dumps(rolling.getRollout("app"))


def test_mailbox_is_per_supervisord(supervisord: DummySupervisor):
    one = make_rolling_rpcinterface(supervisord, wakeup="false")
    two = make_rolling_rpcinterface(supervisord, wakeup="false")
    other = make_rolling_rpcinterface(make_supervisord(), wakeup="false")
    assert one.mailbox is two.mailbox
    assert one.mailbox is not other.mailbox


def test_gone_supervisord_leaves_no_mailbox():
    from supervisor_rolling.plugin.rpc import _mailboxes

    before = len(_mailboxes)
    make_rolling_rpcinterface(make_supervisord(), wakeup="false")
    gc.collect()
    assert len(_mailboxes) <= before


def test_methods_fail_while_supervisord_shuts_down(rolling: Any, supervisord: DummySupervisor):
    supervisord.options.mood = SupervisorStates.SHUTDOWN
    for call in (lambda: rolling.restart("app"), rolling.getAllRollouts, lambda: rolling.abort("app")):
        assert fault_of(call).code == Faults.SHUTDOWN_STATE


def test_every_answer_can_be_marshalled(rolling: Any):
    version = begin(rolling)
    member = Member("web_1", (tcp(8001),), why="GET /é answered 500 → no", stage=Stage.FAILED, since=1000.0)
    rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(a_rollout(members=(member,), why="é")), 0)
    for answer in (
        rolling.getRollout("app"),
        rolling.getAllRollouts(),
        rolling.getProcesses("app"),
        rolling.pause("app"),
    ):
        xmlrpc_marshal(answer).encode("ascii")


def test_every_method_has_parsable_documentation(rolling: Any):
    system = SystemNamespaceRPCInterface([("rolling", rolling)])
    for method in system.listMethods():
        if method.startswith("rolling."):
            assert len(system.methodSignature(method)) >= 1


def test_wrong_number_of_arguments_is_fault(rolling: Any):
    class Root:
        pass

    root = Root()
    root.rolling = rolling  # type: ignore[attr-defined]
    assert fault_of(traverse, root, "rolling.abort", ()).code == Faults.INCORRECT_PARAMETERS
    assert fault_of(traverse, root, "rolling._flag", ("app", "")).code == Faults.UNKNOWN_METHOD


def test_answered_request_is_kept_by_client_alone(rolling: Any):
    refused, planned = (rolling.restart("app", False, {"dry_run": True}) for _ in range(2))
    rolling.listenerAnswer(rolling.mailbox.key, 1, Fault.NOT_CONFIGURED, "no policy for app", "")
    rolling.listenerAnswer(rolling.mailbox.key, 2, 0, "", dump(a_rollout(status=Status.PLANNED)))
    begin(rolling)
    assert rolling.mailbox.requests == {}
    assert fault_of(refused).code == Fault.NOT_CONFIGURED
    assert planned()["status"] == "planned"


# --- the process table


def rows_of(found: Any, group: str = "app") -> dict[str, Process]:
    return {row[0]: Process(*row) for row in found["processes"][group][1]}


def test_row_is_a_process(rolling: Any, supervisord: DummySupervisor):
    begin(rolling)
    processes, now = supervisord.process_groups["app"].processes, time.time()
    processes["web_1"].laststart = now - 100.0
    processes["web_2"].state, processes["web_2"].laststart = ProcessStates.STARTING, now - 4.0
    down = processes["web_10"]
    down.state, down.pid, down.laststop, down.spawnerr = ProcessStates.FATAL, 0, now - 50.0, "no such file"
    processes["web_2"].group = SimpleNamespace(config=SimpleNamespace(name="app"))
    rolling.mailbox.times.note(events.ProcessStateStoppedEvent(processes["web_2"], ProcessStates.STOPPING))
    rows = rows_of(observe(rolling))
    assert (rows["web_1"].state, rows["web_1"].down_for, rows["web_1"].running_in) == ("RUNNING", 0.0, 0.0)
    assert rows["web_1"].up_for == pytest.approx(100.0, abs=2.0)
    assert (rows["web_1"].spawned, rows["web_1"].spawn_error, rows["web_1"].warm) == (now - 100.0, "", False)
    assert rows["web_1"].stopwaitsecs == 12
    assert {name for name, row in rows.items() if row.stopped_on_request} == {"web_2"}
    assert rows["web_2"].running_in == pytest.approx(6.0, abs=2.0)
    assert (rows["web_10"].state, rows["web_10"].pid, rows["web_10"].spawn_error) == ("FATAL", 0, "no such file")
    assert rows["web_10"].down_for == pytest.approx(50.0, abs=2.0)


def test_guarded_group_is_sent_without_rollout(rolling: Any):
    assert list(observe(rolling, guarded=["app", "no_such_group"])["processes"]) == ["app"]


def test_group_with_guard_state_is_sent(rolling: Any):
    guard(rolling)
    assert list(observe(rolling)["processes"]) == ["app"]


def test_group_with_ended_rollout_is_not_sent(rolling: Any):
    version = begin(rolling)
    rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(a_rollout(status=Status.DONE)), 0)
    assert observe(rolling)["processes"] == {}


def test_only_changed_rows_are_sent(rolling: Any, supervisord: DummySupervisor):
    first = observe(rolling, guarded=["app"])
    second = observe(rolling, guarded=["app"], table=first["table"])
    assert second["processes"] == {"app": [False, []]}
    supervisord.process_groups["app"].processes["web_2"].pid = 555
    third = observe(rolling, guarded=["app"], table=second["table"])
    assert (third["processes"]["app"][0], [row[:3] for row in third["processes"]["app"][1]]) == (
        False,
        [["web_2", "RUNNING", 555]],
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state", ProcessStates.STOPPING),
        ("pid", 9),
        ("laststart", 9.0),
        ("laststop", 9.0),
        ("spawnerr", "no such file"),
    ],
)
def test_changed_field_makes_row_news(rolling: Any, supervisord: DummySupervisor, name: str, value: Any):
    first = observe(rolling, guarded=["app"])
    setattr(supervisord.process_groups["app"].processes["web_10"], name, value)
    assert list(rows_of(observe(rolling, guarded=["app"], table=first["table"]))) == ["web_10"]


def test_process_that_became_warm_is_news(rolling: Any):
    first = observe(rolling, guarded=["app"])
    guard(rolling, a_guarded(Stage.READY))
    rows = rows_of(observe(rolling, guarded=["app"], table=first["table"]))
    assert {name: process.warm for name, process in rows.items()} == {"web_1": True}


def test_lost_answer_brings_whole_table(rolling: Any):
    first = observe(rolling, guarded=["app"])
    observe(rolling, guarded=["app"], table=first["table"])
    is_whole, rows = observe(rolling, guarded=["app"], table=first["table"])["processes"]["app"]
    assert (is_whole, len(rows)) == (True, 3)


def test_idle_time_is_sent(rolling: Any):
    rolling.clock.now += 4.0
    assert observe(rolling)["idle"] == 4.0
    assert observe(rolling)["idle"] == 0.0


# --- a listener that is gone for good, and more requests than it can answer


@pytest.mark.parametrize("method", ["restart", "resume"])
def test_wait_ends_when_listener_is_gone(rolling: Any, supervisord: DummySupervisor, method: str):
    if method == "restart":
        waiting = rolling.restart("app", True, {})
        (request,) = observe(rolling)["requests"]
        rolling.listenerRecord(rolling.mailbox.key, "app", 0, dump(a_rollout(1)), request["id"])
    else:
        begin(rolling)
        rolling.pause("app")
        waiting = rolling.resume("app", True)
    listener_is(supervisord, ProcessStates.FATAL)
    assert waiting() is NOT_DONE_YET
    rolling.clock.now += LISTENER_GONE_AFTER - 0.1
    assert waiting() is NOT_DONE_YET
    rolling.clock.now += 0.1
    fault = fault_of(waiting)
    assert fault.code == Fault.LISTENER_DOWN
    assert (
        "rollout 1 of app is stalled, and its closed ports reopen, at the latest when their lease expires" in fault.text
    )
    assert "Fix: supervisorctl restart rolling; the rollout continues then" in fault.text


def test_hanging_listener_is_reported_with_fix(rolling: Any):
    begin(rolling)
    rolling.pause("app")
    waiting = rolling.resume("app", True)
    rolling.clock.now += LISTENER_GONE_AFTER
    assert waiting() is NOT_DONE_YET
    rolling.clock.now += LISTENER_GONE_AFTER
    assert "has not answered for 60 s" in (text := fault_of(waiting).text)
    assert "Fix: supervisorctl restart rolling" in text, "it runs, so to start it does nothing"


def test_listener_back_in_time_ends_no_wait(rolling: Any, supervisord: DummySupervisor):
    begin(rolling)
    rolling.pause("app")
    waiting, listener = rolling.resume("app", True), supervisord.process_groups["rolling"].processes["rolling"]
    for _ in range(3):
        listener_is(supervisord, ProcessStates.STOPPED)
        assert waiting() is NOT_DONE_YET
        rolling.clock.now += LISTENER_GONE_AFTER - 0.1
        listener.pid, listener.state = LISTENER_PID, ProcessStates.RUNNING
        observe(rolling)
        assert waiting() is NOT_DONE_YET
        rolling.clock.now += 1.0
    rolling.clock.now += 10 * LISTENER_GONE_AFTER
    assert waiting() is NOT_DONE_YET, "supervisord was stopped meanwhile, and the listener with it"


def test_request_beyond_limit_is_refused(rolling: Any):
    waiting = [rolling.check("app") for _ in range(REQUESTS_KEPT)]
    fault = fault_of(rolling.check, "app")
    assert (fault.code, "100 requests wait for the listener already. Fix: ask again" in fault.text) == (
        Fault.REFUSED,
        True,
    )
    assert {one() for one in waiting} == {NOT_DONE_YET}
    assert len(observe(rolling)["requests"]) == REQUESTS_KEPT
    rolling.clock.now += ANSWER_TIMEOUT + 0.1
    rolling.check("app")
    assert {fault_of(one).code for one in waiting} == {Fault.LISTENER_DOWN}, "each has its answer"


# --- orders


def ordered(rolling: Any, *actions: tuple[str, str, int, float], sent: str = "") -> list[tuple[int, str]]:
    """The outcomes of orders of verb, name, pid and spawned."""
    given = [{"verb": verb, "name": name, "signal": sent, "incarnation": [*one]} for verb, name, *one in actions]
    outcomes = rolling.listenerAct(rolling.mailbox.key, "app", given)
    assert xmlrpc_marshal(outcomes)
    return [(outcome["code"], outcome["text"]) for outcome in outcomes]


def test_actions_use_supervisors_own_methods(rolling: Any, supervisord: DummySupervisor):
    processes = supervisord.process_groups["app"].processes
    processes["web_2"].state, processes["web_2"].pid = ProcessStates.STOPPED, 0
    assert ordered(rolling, ("stop", "web_1", 100, 1.0), ("start", "web_2", 0, 1.0)) == [(0, "")] * 2
    assert (processes["web_1"].stop_called, processes["web_2"].spawned) == (True, True)
    assert ordered(rolling, ("signal", "web_10", 102, 1.0), sent="USR1") == [(0, "")]
    assert processes["web_10"].sent_signal == signal.SIGUSR1


@pytest.mark.parametrize("verb", ["stop", "start", "signal"])
@pytest.mark.parametrize(("pid", "spawned"), [(99, 1.0), (100, 0.5), (0, 1.0)])
def test_action_for_other_incarnation_does_nothing(
    rolling: Any, supervisord: DummySupervisor, verb: str, pid: int, spawned: float
):
    process = supervisord.process_groups["app"].processes["web_1"]
    ((code, text),) = ordered(rolling, (verb, "web_1", pid, spawned), sent="USR1")
    assert (code, "app:web_1 is another incarnation" in text) == (Faults.NOT_RUNNING, True)
    assert (process.stop_called, process.spawned, process.sent_signal) == (False, False, None)


def test_failed_action_does_not_stop_others(rolling: Any, supervisord: DummySupervisor):
    processes = supervisord.process_groups["app"].processes
    processes["web_10"].stop = lambda: 1 / 0
    first, gone, broken, last = ordered(
        rolling,
        ("start", "web_1", 100, 1.0),
        ("stop", "web_3", 103, 1.0),
        ("stop", "web_10", 102, 1.0),
        ("stop", "web_2", 101, 1.0),
    )
    assert first == (Faults.ALREADY_STARTED, "ALREADY_STARTED: app:web_1")
    assert gone == (Faults.BAD_NAME, "BAD_NAME: app:web_3")
    assert broken == (Faults.FAILED, "FAILED: ZeroDivisionError: division by zero")
    assert (last, processes["web_2"].stop_called) == ((0, ""), True)
    assert "ZeroDivisionError" in supervisord.options.logger.data[-1]


@pytest.mark.parametrize(
    "change", [{"verb": "kill"}, {"incarnation": [-1, 1.0]}, {"name": 3}, {"incarnation": [100, "1"]}]
)
def test_invalid_action_is_refused(rolling: Any, change: dict[str, Any]):
    action = {"verb": "stop", "name": "web_1", "signal": "", "incarnation": [100, 1.0], **change}
    error = fault_of(rolling.listenerAct, rolling.mailbox.key, "app", [action])
    assert error.code == Faults.INCORRECT_PARAMETERS


# --- the guard


def a_guarded(stage: Stage = Stage.WARMING, name: str = "web_1", pid: int = 100, **changes: Any) -> GuardedProcess:
    return GuardedProcess(name, (tcp(8001),), stage, **{"since": 1000.0, "pid": pid, "spawned": 1.0, **changes})


def guard(rolling: Any, *guarded: GuardedProcess, group: str = "app") -> int:
    """Write a watch as the listener. Returns its version."""
    return rolling.listenerGuard(
        rolling.mailbox.key,
        group,
        dump(GuardState(group, Policy(group, PortRule(pattern=r"web_(\d+)")), GatePolicy(), guarded)),
    )


def shown(rolling: Any, name: str = "web_1") -> dict[str, Any]:
    """What ``getProcesses`` says of one."""
    (found,) = (process for process in rolling.getProcesses("app") if process["name"] == name)
    return found


def test_get_processes_says_whether_guarded(rolling: Any):
    assert shown(rolling)["guarded"] is False
    guard(rolling, a_guarded())
    assert shown(rolling)["guarded"] is True


def test_listener_gets_only_guard_states_it_lacks(rolling: Any):
    version = guard(rolling, a_guarded())
    news = observe(rolling)
    assert (news["guarded_groups"], news["rollout_groups"], news["rollouts"]) == (["app"], [], {})
    ((given, guard_state),) = news["guard_states"].values()
    assert (given, guard_state["guarded"][0]["name"]) == (version, "web_1")
    assert observe(rolling, guard_states={"app": version})["guard_states"] == {}
    assert list(observe(rolling, guard_states={"app": guard(rolling) - 1})["guard_states"]) == ["app"]


def test_guard_state_is_replaced(rolling: Any):
    first, second = guard(rolling, a_guarded()), guard(rolling)
    assert second > first > 0
    assert observe(rolling)["guard_states"]["app"][1]["guarded"] == []


def test_empty_guard_state_ends_guard(rolling: Any):
    version = guard(rolling, a_guarded(closed=True))
    assert rolling.listenerGuard(rolling.mailbox.key, "app", "") == 0
    assert (observe(rolling)["guarded_groups"], shown(rolling)["gate"]) == ([], "open")
    assert guard(rolling) > version, "a version never comes again"


def test_end_of_guard_keeps_rollout_and_ledger(rolling: Any):
    begin(rolling)
    guard(rolling, a_guarded(Stage.READY))
    rolling.listenerGuard(rolling.mailbox.key, "app", "")
    assert (shown(rolling)["warm"], rolling.getRollout("app")["status"]) == (True, "running")


def test_untouched_process_stays_warm(rolling: Any):
    guard(rolling, a_guarded(Stage.READY))
    begin(rolling)
    assert shown(rolling)["warm"]


def test_guard_state_of_removed_group_is_not_kept(rolling: Any, supervisord: DummySupervisor):
    guard(rolling, a_guarded(Stage.READY))
    group = supervisord.process_groups.pop("app")
    assert observe(rolling)["guarded_groups"] == []
    assert guard(rolling, a_guarded(Stage.READY)) == 0
    supervisord.process_groups["app"] = group
    assert observe(rolling)["guarded_groups"] == []
    assert not shown(rolling)["warm"], "the ledger is of the group that is gone"


def test_removed_guarded_group_loses_its_ledger(rolling: Any, supervisord: DummySupervisor):
    guard(rolling, a_guarded(Stage.READY))
    rolling.listenerGuard(rolling.mailbox.key, "app", "")
    group = supervisord.process_groups.pop("app")
    observe(rolling)
    supervisord.process_groups["app"] = group
    assert not shown(rolling)["warm"]


@pytest.mark.parametrize(
    ("stage", "warm"),
    [
        (Stage.OPEN, True),
        (Stage.READY, True),
        (Stage.WARMING, False),
        (Stage.FAILED, False),
    ],
)
def test_process_warmed_by_guard_is_in_ledger(rolling: Any, stage: Stage, warm: bool):
    guard(rolling, a_guarded(stage))
    assert shown(rolling)["warm"] is warm
    guard(rolling)
    assert shown(rolling)["warm"] is warm


def test_process_that_is_down_is_not_warm(rolling: Any, supervisord: DummySupervisor):
    supervisord.process_groups["app"].processes["web_1"].pid = 0
    guard(rolling, a_guarded(Stage.OPEN, pid=0))
    assert not shown(rolling)["warm"]


def test_guard_state_is_shown(rolling: Any):
    rolling.clock.now = 1010.0
    why = "is not warm: GET / answered 500"
    guard(rolling, a_guarded(Stage.FAILED, closed=True, tries=2, since=1003.0, retry_at=1013.0, why=why))
    view = shown(rolling)
    assert (view["stage"], view["gate"], view["warm"], view["ports"]) == ("failed", "closed", False, [8001])
    assert (view["seconds"], view["tries"], view["retry_in"], view["why"]) == (7.0, 2, 3.0, why)
    other = shown(rolling, "web_2")
    assert (other["stage"], other["gate"], other["tries"], other["retry_in"]) == ("open", "open", 0, 0.0)


def test_due_or_running_retry_is_not_shown(rolling: Any):
    guard(rolling, a_guarded(Stage.FAILED, tries=1, retry_at=999.0))
    assert shown(rolling)["retry_in"] == 0.0
    guard(rolling, a_guarded(Stage.WARMING, tries=1, retry_at=1005.0))
    assert shown(rolling)["retry_in"] == 0.0


@pytest.mark.parametrize("stage", [Stage.DOWN, Stage.WARMING, Stage.FAILED])
def test_gate_of_guarded_process_is_its_flag(rolling: Any, stage: Stage):
    guard(rolling, a_guarded(stage, closed=True))
    assert (shown(rolling)["stage"], shown(rolling)["gate"]) == (stage.value, "closed")
    guard(rolling, a_guarded(stage, closed=False))
    assert (shown(rolling)["stage"], shown(rolling)["gate"]) == (stage.value, "open")


def test_gate_is_unknown_without_listener(rolling: Any, supervisord: DummySupervisor):
    guard(rolling, a_guarded(closed=True), a_guarded(name="web_2", closed=False))
    listener_is(supervisord, ProcessStates.STOPPED)
    assert (shown(rolling)["gate"], shown(rolling, "web_2")["gate"]) == ("unknown", "open")


def test_moving_member_is_shown_by_its_rollout(rolling: Any):
    draining = Member("web_1", (tcp(8001),), stage=Stage.DRAINING, since=1000.0)
    left = Member("web_2", (tcp(8002),))
    rolling.listenerRecord(rolling.mailbox.key, "app", begin(rolling), dump(a_rollout(members=(draining, left))), 0)
    guard(rolling, a_guarded(), a_guarded(name="web_2", closed=True, why="a new process, not warm yet"))
    assert (shown(rolling)["stage"], shown(rolling)["gate"]) == ("draining", "closed")
    other = shown(rolling, "web_2")
    assert (other["stage"], other["gate"], other["why"]) == ("warming", "closed", "a new process, not warm yet")


@pytest.mark.parametrize("is_guarded", [True, False])
def test_unguarded_failed_group_is_sent(rolling: Any, is_guarded: bool):
    failed = Member("web_1", (tcp(8001),), stage=Stage.FAILED, since=1000.0, failed=True, why="is not warm")
    over = a_rollout(members=(failed,), status=Status.FAILED)
    over = replace(over, policy=replace(over.policy, guard=GuardPolicy(enabled=is_guarded)))
    rolling.listenerRecord(rolling.mailbox.key, "app", begin(rolling), dump(over), 0)
    assert ("app" in observe(rolling)["processes"]) is not is_guarded


@pytest.mark.parametrize(("is_guarded", "gate"), [(True, "open"), (False, "closed")])
def test_failed_member_is_shown_by_guard(rolling: Any, is_guarded: bool, gate: str):
    failed = Member("web_1", (tcp(8001),), stage=Stage.FAILED, since=1000.0, failed=True, why="is not warm")
    over = a_rollout(members=(failed,), status=Status.FAILED)
    over = replace(over, policy=replace(over.policy, guard=GuardPolicy(enabled=is_guarded)))
    rolling.listenerRecord(rolling.mailbox.key, "app", begin(rolling), dump(over), 0)
    assert (shown(rolling)["stage"], shown(rolling)["gate"], shown(rolling)["why"]) == ("failed", gate, "is not warm")
    guard(rolling)
    view = shown(rolling)
    assert (view["stage"], view["gate"], view["why"], view["ports"]) == ("open", "open", "", [8001])


def test_rewritten_rollout_keeps_newer_warm_process(rolling: Any, supervisord: Any):
    member = Member("web_1", (tcp(8001),), pid=100, spawned=1.0, replaced=True)
    version = rolling.listenerRecord(rolling.mailbox.key, "app", begin(rolling), dump(a_rollout(members=(member,))), 0)
    supervisord.process_groups["app"].processes["web_1"].pid = 500
    guard(rolling, a_guarded(Stage.READY, pid=500))
    assert shown(rolling)["warm"]
    failed = replace(member, failed=True, why="died after it was replaced")
    rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(a_rollout(members=(failed,))), 0)
    assert shown(rolling)["warm"]


@pytest.mark.parametrize("guard_state", ["{}", "[]", "x", '{"wards": [{}]}'])
def test_invalid_guard_state_is_refused(rolling: Any, guard_state: str):
    with pytest.raises(RPCError) as error:
        rolling.listenerGuard(rolling.mailbox.key, "app", guard_state)
    assert error.value.code == Faults.INCORRECT_PARAMETERS
    assert observe(rolling)["guard_states"] == {}


def test_warm_time_survives_writes(rolling: Any):
    guard(rolling, a_guarded(Stage.READY))
    rolling.clock.now += 5.0
    guard(rolling, a_guarded(Stage.READY))
    guard(rolling)
    rolling.clock.now += 2.0
    assert (shown(rolling)["seconds"], shown(rolling, "web_2")["seconds"]) == (7.0, 0.0)


def test_guard_state_rings_no_doorbell(rolling: Any, notified: list[Any]):
    guard(rolling, a_guarded(closed=True))
    assert (rolling.getAllRollouts(), notified) == ([], [])


def test_guard_state_does_not_change_rollout_version(rolling: Any):
    version = begin(rolling)
    guard(rolling, a_guarded())
    assert rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(a_rollout()), 0) > version


def test_answers_of_guarded_group_can_be_marshalled(rolling: Any):
    guard(rolling, a_guarded(Stage.FAILED, closed=True, retry_at=1005.0, why="GET /é answered 500 → no"))
    xmlrpc_marshal(rolling.getProcesses("app")).encode("ascii")
    assert rolling.listenerObserve(rolling.mailbox.key, {}).isascii()


# --- supervisord's own events


def remove(supervisord: DummySupervisor, group: str = "app") -> Any:
    """As supervisord removes a group: from its table, then it tells."""
    removed = supervisord.process_groups.pop(group)
    events.notify(events.ProcessGroupRemovedEvent(group))
    return removed


def test_rollout_ends_with_its_group(rolling: Any, supervisord: DummySupervisor, notified: list[Any]):
    version = begin(rolling)
    rolling.listenerRecord(rolling.mailbox.key, "app", version, dump(rolled_to(Stage.WARMING)), 0)
    remove(supervisord)
    rollout = rolling.getRollout("app")
    assert (rollout["status"], {process["stage"] for process in rollout["processes"]}) == ("aborted", {"open"})
    assert "supervisorctl update" in rollout["why"]
    assert isinstance(notified[-1], EVENTS["ROLLING_FAILED"])
    assert "rollout 1 of app is aborted" in supervisord.options.logger.data[-1]


def rolled_to(stage: Stage) -> Rollout:
    return a_rollout(
        members=(
            Member("web_1", (tcp(8001),), stage=stage),
            Member("web_2", (tcp(8002),)),
            Member("web_10", (tcp(8010),)),
        )
    )


def test_waiting_client_learns_of_removed_group(rolling: Any, supervisord: DummySupervisor):
    rolling.clock.now = time.monotonic()  # by which supervisord tells when a group was removed
    observe(rolling)
    wait = rolling.restart("app", True, {})
    (request,) = observe(rolling)["requests"]
    rolling.listenerRecord(rolling.mailbox.key, "app", 0, dump(a_rollout(request["id"])), request["id"])
    assert wait() is NOT_DONE_YET
    remove(supervisord)
    observe(rolling)
    assert (fault_of(wait).code, "supervisorctl update" in fault_of(wait).text) == (Fault.ROLLOUT_ABORTED, True)


def test_group_added_again_does_not_continue_rollout(rolling: Any, supervisord: DummySupervisor):
    version = begin(rolling)
    supervisord.process_groups["app"] = remove(supervisord)
    assert (
        fault_of(rolling.listenerRecord, rolling.mailbox.key, "app", version, dump(a_rollout()), 0).code
        == Fault.CONFLICT
    )
    assert rolling.getRollout("app")["status"] == "aborted"
    assert observe(rolling)["rollouts"]["app"][1]["status"] == "aborted"


def test_end_of_removed_group_is_readable_for_a_minute(rolling: Any, supervisord: DummySupervisor):
    begin(rolling)
    remove(supervisord)
    rolling.clock.now = time.monotonic() + 59.0
    observe(rolling)
    assert rolling.getRollout("app")["status"] == "aborted"
    rolling.clock.now += 2.0
    observe(rolling)
    assert fault_of(rolling.getRollout, "app").code == Faults.BAD_NAME


def test_ended_rollout_of_removed_group_keeps_its_end(rolling: Any, supervisord: DummySupervisor):
    version = begin(rolling)
    rolling.listenerRecord(
        rolling.mailbox.key, "app", version, dump(a_rollout(status=Status.DONE, ended_at=time.monotonic())), 0
    )
    remove(supervisord)
    assert rolling.getRollout("app")["status"] == "done"


def test_replaced_group_has_no_warm_process(rolling: Any, supervisord: DummySupervisor):
    guard(rolling, a_guarded(Stage.READY))
    assert shown(rolling)["warm"]
    supervisord.process_groups["app"] = remove(supervisord)
    assert not shown(rolling)["warm"]


def test_times_come_from_supervisords_events(rolling: Any, supervisord: DummySupervisor):
    process = supervisord.process_groups["app"].processes["web_1"]
    process.group = supervisord.process_groups["app"]
    process.group.config.name = "app"
    process.laststart = time.time() - 5000.0  # the wall clock was set forward
    events.notify(events.ProcessStateStartingEvent(process, ProcessStates.EXITED))
    row = rows_of(observe(rolling, guarded=["app"]))["web_1"]
    assert (row.up_for, row.spawned) == (pytest.approx(0.0, abs=2.0), pytest.approx(time.monotonic(), abs=2.0))


def a_process_that_starts() -> events.ProcessStateStartingEvent:
    process = make_process("web_1", 7)
    process.group = SimpleNamespace(config=SimpleNamespace(name="app"))
    return events.ProcessStateStartingEvent(process, ProcessStates.EXITED)


@pytest.mark.parametrize("event", [events.ProcessGroupRemovedEvent("app"), a_process_that_starts()])
def test_exception_in_callback_does_not_reach_supervisord(
    rolling: Any, supervisord: DummySupervisor, monkeypatch: pytest.MonkeyPatch, event: Any
):
    def fail(*_: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(rolling.mailbox, "remove", fail)
    monkeypatch.setattr(rolling.mailbox.times, "_clock", fail)
    events.notify(event)
    assert "a defect" in supervisord.options.logger.data[-1]


def test_two_servers_subscribe_once(supervisord: DummySupervisor):
    before = len(events.callbacks)
    make_rolling_rpcinterface(supervisord, wakeup="false")
    once = len(events.callbacks)
    make_rolling_rpcinterface(supervisord, wakeup="false")
    assert (once > before, len(events.callbacks)) == (True, once)
