"""The supervisorctl commands on a fake controller: what they ask, what they print, how they exit."""

from __future__ import annotations

import http.client
import io
import json
import xmlrpc.client
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.parsers.expat import ExpatError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supervisor.xmlrpc import Faults

from supervisor_rolling import __version__
from supervisor_rolling.codec import struct_of
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.errors import Fault
from supervisor_rolling.core.policy import GatePolicy, Policy, PortRule
from supervisor_rolling.core.public_view import rollout_view
from supervisor_rolling.core.reason import SEE
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Status
from supervisor_rolling.core.text import plain
from supervisor_rolling.ctl import restart_command, watch
from supervisor_rolling.ctl.commands import make_rolling_controllerplugin
from supervisor_rolling.ctl.usage import IN_SUPERVISORCTL
from supervisor_rolling.ctl.watch import LISTENER_TIMEOUT, MAX_POLL, MIN_POLL, POLL_SHARE
from supervisor_rolling.plugin.views import packed
from tests.support.report_records import a_rollout

LISTENER = {"running": True, "fix": "", "problem": "", "version": __version__}
URL = "unix:///run/supervisor.sock"
PROCESSES = [{"group": "app", "name": "app-1"}, {"group": "app", "name": "app-2"}, {"group": "web", "name": "web"}]
COMMANDS = ["rolling_restart app", "rolling_status app", "rolling_abort app", "rolling_pause app", "rolling_resume app"]

MAX_SHOWN = Policy("app", PortRule(), min_ready_auto=False)

View = dict[str, Any]
Answer = Callable[..., Any]


class Clock:
    """Stands in for the module ``time``: to sleep is to move it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Server:
    """supervisord with the plugin: each method of it is an answer that a test sets; ``rollouts`` come one a look."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.rollouts: list[View] = []
        self.answers: dict[str, Answer] = {
            "restart": lambda *_: a_view(),
            "check": lambda *_: {"group": "app", "ok": True, "findings": [], "checked": ["it"], "skipped": []},
            "resume": lambda *_: a_view(),
            "abort": lambda *_: a_view(aborting=True),
            "pause": lambda *_: a_view(paused=True),
            "getRollout": lambda *_: self._next_rollout(),
            "getAllRollouts": lambda *_: self.rollouts,
            "getProcesses": lambda *_: [],
            "getHistory": lambda *_: [],
            "getListener": lambda *_: LISTENER,
            "getAllProcessInfo": lambda *_: PROCESSES,
            "getProcessInfo": lambda *_: {"stdout_logfile": "/var/log/out", "stderr_logfile": "/var/log/err"},
        }

    def __getattr__(self, name: str) -> Answer:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            if name == "callPacked" and name not in self.answers:
                method, packed_arguments = arguments
                self.calls.append((f"{method} packed", *packed_arguments))
                return packed(self.answers[method](*packed_arguments))
            self.calls.append((name, *arguments))
            return self.answers[name](*arguments)

        return call

    def _next_rollout(self) -> View:
        if not self.rollouts:
            raise xmlrpc.client.Fault(Fault.NO_ROLLOUT_KNOWN, "NO_ROLLOUT_KNOWN: no rollout of it is known")
        return self.rollouts.pop(0) if len(self.rollouts) > 1 else self.rollouts[0]

    def raises(self, error: BaseException) -> None:
        """Whatever is asked, but for the names of all processes."""

        def fail(*_: Any) -> None:
            raise error

        self.answers.update({name: fail for name in self.answers if name != "getAllProcessInfo"})


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Controller:
    """As much of supervisorctl's as a plugin uses."""

    def __init__(self) -> None:
        self.stdout = io.StringIO()
        self.exitstatus = 0
        self.options = SimpleNamespace(plugins=[], serverurl=URL)
        self.server = Server()

    def output(self, message: str) -> None:
        self.stdout.write(message + "\n")

    def get_server_proxy(self, namespace: str | None = None) -> Server:
        assert namespace == "rolling"
        return self.server

    def get_supervisor(self) -> Server:
        return self.server

    @property
    def printed(self) -> str:
        return self.stdout.getvalue()

    def run(self, line: str) -> Any:
        """A command as it is typed. Gives what ends supervisorctl's shell when it is true."""
        command, _, arguments = line.partition(" ")
        return getattr(make_rolling_controllerplugin(self), f"do_{command}")(arguments)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(watch, "time", found)
    monkeypatch.setenv("SUDO_USER", "ann")
    return found


@pytest.fixture
def ctl(clock: Clock) -> Controller:
    controller = Controller()
    controller.server.rollouts = [a_view(Status.DONE)]
    return controller


def a_view(status: Status = Status.RUNNING, listener: bool = True, **changes: Any) -> View:
    done = status is Status.DONE
    members = tuple(Member(name, (tcp(8001),), replaced=done, attempted=done) for name in ("app-1", "app-2"))
    rollout = Rollout(7, "app", MAX_SHOWN, members, 1, GatePolicy(), status=status, min_available=1)
    rollout = replace(rollout, started_at=1000.0, ended_at=0.0 if status is Status.RUNNING else 1002.0, **changes)
    return struct_of(rollout_view(rollout, 1001.0, listener=listener))


def kept_closed() -> View:
    members = (
        Member("app-1", (tcp(8001),), stage=Stage.FAILED, failed=True, why="is not warm"),
        Member("app-2", (tcp(8002),)),
    )
    return a_view(Status.FAILED, members=members, why="app:app-1 is not warm")


def no_listener() -> Any:
    raise fault(Fault.LISTENER_DOWN)


def fault(code: int, text: str = "SOME_FAULT: words for an operator") -> xmlrpc.client.Fault:
    return xmlrpc.client.Fault(code, text)


# --- what is asked


def test_restart_request_has_group_and_user(ctl: Controller) -> None:
    ctl.run("rolling_restart app")
    name, group, wait, options = ctl.server.calls[0]
    assert (name, group, wait) == ("restart packed", "app", False)
    assert options.pop("by").startswith("ann@")
    assert options == {"processes": [], "force": False}


@pytest.mark.parametrize(
    ("names", "processes"),
    [("app", []), ("app:*", []), ("app:app-1", ["app-1"]), ("app:app-1 app:app-2", ["app-1", "app-2"]), ("app:", [])],
)
def test_processes_are_named_as_in_supervisorctl(ctl: Controller, names: str, processes: list[str]) -> None:
    ctl.run(f"rolling_restart {names}")
    assert ctl.server.calls[0][1] == "app"
    assert ctl.server.calls[0][3]["processes"] == processes


def test_options_may_precede_and_follow_the_group(ctl: Controller) -> None:
    ctl.run("rolling_restart --max-unavailable 25% app --force")
    options = ctl.server.calls[0][3]
    assert (options["max_unavailable"], options["force"]) == ("25%", True)


@pytest.mark.parametrize("verb", ["abort", "pause", "resume"])
def test_pause_resume_and_abort_send_the_group(ctl: Controller, verb: str) -> None:
    ctl.run(f"rolling_{verb} app:*")
    assert ctl.server.calls[0][:2] == (f"{verb} packed", "app")
    assert ctl.exitstatus == 0


def test_pause_and_abort_are_confirmed(ctl: Controller) -> None:
    ctl.run("rolling_abort app")
    ctl.run("rolling_pause app")
    assert ctl.printed.splitlines() == [
        "app: aborting, 0 of 2 replaced so far",
        "To see it end: supervisorctl rolling_status app",
        "app: paused, 0 of 2 replaced so far",
        "To continue: supervisorctl rolling_resume app",
    ]


# --- watching


def test_failed_process_is_printed_with_its_gate_afterwards(ctl: Controller) -> None:
    ctl.server.rollouts = [a_view(), kept_closed()]
    told = {"gate": "open", "statename": "FATAL", "warm": False}
    ctl.server.answers["getProcesses"] = lambda *_: [{**told, "name": name} for name in ("app-1", "app-2")]
    ctl.run("rolling_restart app")
    assert "Not warm, but accepting traffic: app-1 (port 8001)" in ctl.printed
    assert [call[0] for call in ctl.server.calls][-3:] == ["getRollout packed", "getProcesses packed", "getProcessInfo"]


NO_FILE = "the output of app:app-1, which supervisord writes to no file (in a container: the log of the container)"


@pytest.mark.parametrize(
    ("stdout", "stderr", "told"),
    [
        ("/var/log/out", "/var/log/err", "supervisorctl tail app:app-1 stderr"),
        ("/var/log/out", "", "supervisorctl tail app:app-1 stdout"),
        ("/var/log/out", "/dev/stderr", "supervisorctl tail app:app-1 stdout"),
        ("", "", NO_FILE),
        ("/dev/stdout", "", NO_FILE),
        ("/proc/self/fd/1", "/proc/self/fd/2", NO_FILE),
        ("/dev/shm/log", "/proc/self/fd/2", "supervisorctl tail app:app-1 stdout"),
    ],
)
def test_named_log_is_one_that_exists(ctl: Controller, stdout: str, stderr: str, told: str) -> None:
    ctl.server.rollouts = [kept_closed()]
    ctl.server.answers["getProcessInfo"] = lambda *_: {"stdout_logfile": stdout, "stderr_logfile": stderr}
    ctl.run("rolling_restart app")
    assert f"See why: {told}" in ctl.printed.splitlines()
    assert ("getProcessInfo", "app:app-1") in ctl.server.calls


def test_log_of_unknown_process_is_stderr(ctl: Controller) -> None:
    def bad_name(*_: Any) -> Any:
        raise fault(Faults.BAD_NAME)

    ctl.server.answers["getProcessInfo"] = bad_name
    ctl.server.rollouts = [kept_closed()]
    ctl.run("rolling_restart app")
    assert "See why: supervisorctl tail app:app-1 stderr" in ctl.printed.splitlines()


def test_log_in_a_finding_is_one_that_exists(ctl: Controller) -> None:
    fix = "see why it died: supervisorctl tail app:app-1 stderr"
    ctl.server.answers["check"] = lambda *_: a_report({**a_finding("process.down", "warning"), "fix": fix})
    ctl.server.answers["getProcessInfo"] = lambda *_: {"stdout_logfile": "/var/log/out", "stderr_logfile": ""}
    ctl.run("rolling_check app")
    assert "Fix: see why it died: supervisorctl tail app:app-1 stdout" in ctl.printed


def test_status_of_all_groups_comes_packed(ctl: Controller) -> None:
    ctl.run("rolling_status")
    assert ctl.server.calls[0] == ("getAllRollouts packed",)


def test_end_is_printed_although_supervisord_is_gone(ctl: Controller) -> None:
    def gone(*_: Any) -> None:
        raise ConnectionRefusedError

    ctl.server.rollouts = [a_view(), kept_closed()]
    ctl.server.answers["getProcesses"] = gone
    ctl.run("rolling_restart app")
    assert "Not warm when the rollout ended: app-1 (port 8001)" in ctl.printed
    assert ctl.exitstatus == 1


def test_rollout_is_watched_to_its_end(ctl: Controller, clock: Clock) -> None:
    ctl.server.rollouts = [a_view(), a_view(), a_view(Status.DONE)]
    assert ctl.run("rolling_restart app") is None
    assert [call[0] for call in ctl.server.calls] == ["restart packed", *["getRollout packed"] * 3]
    assert clock.slept == [MIN_POLL] * 3
    lines = ctl.printed.splitlines()
    assert lines[0] == "app: replacing 2 processes, 1 at a time (rollout 7)"
    assert lines[-1] == "app: 2 of 2 replaced in 2.0 s, never fewer than 1 of 2 available"
    assert ctl.exitstatus == 0


def test_ended_rollout_is_not_waited_for(ctl: Controller, clock: Clock) -> None:
    ctl.server.answers["resume"] = lambda *_: a_view(Status.DONE)
    ctl.run("rolling_resume app")
    assert clock.slept == []
    assert "2 of 2 replaced" in ctl.printed


@pytest.mark.parametrize("command", ["rolling_restart", "rolling_resume"])
@pytest.mark.parametrize(
    ("end", "words"), [(kept_closed(), "app: FAILED: 0 of 2"), (a_view(Status.ABORTED), "app: ABORTED: 0 of 2")]
)
def test_failed_and_aborted_rollouts_exit_with_1(ctl: Controller, command: str, end: View, words: str) -> None:
    ctl.server.rollouts = [end]
    ctl.run(f"{command} app")
    assert ctl.exitstatus == 1
    assert words in ctl.printed


@pytest.mark.parametrize("command", ["rolling_restart", "rolling_resume"])
def test_no_wait_returns_and_names_the_watch_command(ctl: Controller, clock: Clock, command: str) -> None:
    ctl.run(f"{command} app --no-wait")
    assert clock.slept == []
    assert ctl.printed.splitlines()[-1] == "To watch it: supervisorctl rolling_status app"
    assert ctl.exitstatus == 0


def test_dry_run_prints_the_plan(ctl: Controller, clock: Clock) -> None:
    ctl.server.answers["restart"] = lambda *_: a_view(Status.PLANNED)
    ctl.run("rolling_restart app --dry-run")
    assert ctl.server.calls[0][3]["dry_run"] is True
    assert ctl.printed.startswith("app: would replace 2 processes")
    assert (clock.slept, ctl.exitstatus) == ([], 0)


def test_other_rollout_of_the_group_ends_the_watching(ctl: Controller) -> None:
    ctl.server.rollouts = [{**a_view(), "id": 8}]
    ctl.run("rolling_restart app")
    assert "ERROR: rollout 7 of app has ended, and rollout 8 has started. To see how it ended: " in ctl.printed
    assert ctl.exitstatus == 1


def test_missing_listener_ends_the_watching_after_patience(ctl: Controller, clock: Clock) -> None:
    ctl.server.rollouts = [a_view(listener=False)]
    ctl.run("rolling_restart app")
    assert ctl.exitstatus == 7
    assert "ERROR: the listener is not running: rollout 7 of app is stalled" in ctl.printed
    assert clock.now - 1000.0 == pytest.approx(LISTENER_TIMEOUT + MIN_POLL, abs=0.15)


def test_listener_that_returns_keeps_the_watching(ctl: Controller, clock: Clock) -> None:
    away = [a_view(listener=False)] * int(LISTENER_TIMEOUT / MIN_POLL - 5)
    ctl.server.rollouts = [*away, a_view(), *away, a_view(Status.DONE)]
    ctl.run("rolling_restart app")
    assert ctl.exitstatus == 0


# --- Ctrl-C


def interrupting(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(clock, "sleep", interrupt)


@pytest.mark.parametrize("command", ["rolling_restart app", "rolling_resume app"])
def test_ctrl_c_leaves_the_rollout_and_names_abort(
    ctl: Controller, clock: Clock, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    interrupting(clock, monkeypatch)
    ctl.run(command)
    assert ctl.exitstatus == 130
    assert len(ctl.server.calls) == 1
    assert ctl.printed.endswith(
        "\nNo longer watching. The rollout continues.\n"
        "To see it: supervisorctl rolling_status app\nTo abort it: supervisorctl rolling_abort app\n"
    )


def test_ctrl_c_as_json(ctl: Controller, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupting(clock, monkeypatch)
    ctl.run("rolling_restart app --json")
    assert json.loads(ctl.printed) == {"error": "No longer watching. The rollout continues.", "exit_status": 130}


def test_ctrl_c_during_a_request_prints_no_traceback(ctl: Controller) -> None:
    ctl.server.raises(KeyboardInterrupt())
    ctl.run("rolling_restart app")
    assert ctl.exitstatus == 130
    assert ctl.printed.startswith("ERROR: interrupted. The request may still be carried out. To see it: ")


# --- what goes wrong


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Faults.UNKNOWN_METHOD, 3),
        (Faults.BAD_NAME, 5),
        (Faults.INCORRECT_PARAMETERS, 2),
        (Faults.SHUTDOWN_STATE, 1),
        (Fault.NO_PERMISSION, 4),
        (Fault.NOT_CONFIGURED, 6),
        (Fault.LISTENER_DOWN, 7),
        (Fault.ROLLOUT_IN_PROGRESS, 8),
        (Fault.REFUSED, 1),
        (Fault.NO_ROLLOUT_KNOWN, 1),
        (Fault.ROLLOUT_FAILED, 1),
        (Fault.ROLLOUT_ABORTED, 1),
        (Fault.CONFLICT, 1),
    ],
)
def test_every_fault_has_its_exit_status(ctl: Controller, command: str, code: int, status: int) -> None:
    ctl.server.raises(fault(code))
    assert ctl.run(command) is None
    assert ctl.exitstatus == status
    assert ctl.printed.startswith("ERROR: ")


def test_fault_is_printed_without_its_name(ctl: Controller) -> None:
    ctl.server.raises(fault(Fault.REFUSED, "REFUSED: app:app-1 is the only process: requests would fail"))
    ctl.run("rolling_restart app")
    assert ctl.printed == "ERROR: app:app-1 is the only process: requests would fail\n"


def test_shutdown_fault_has_its_own_text(ctl: Controller) -> None:
    ctl.server.raises(fault(Faults.SHUTDOWN_STATE, "SHUTDOWN_STATE"))
    ctl.run("rolling_restart app")
    assert (
        ctl.printed
        == "ERROR: supervisord is shutting down or restarting. This ends every rollout and opens all ports. "
        "See: supervisor_rolling help supervisord.shutdown\n"
    )


def test_missing_plugin_has_a_fix(ctl: Controller) -> None:
    ctl.server.raises(fault(Faults.UNKNOWN_METHOD, "UNKNOWN_METHOD"))
    ctl.run("rolling_status")
    assert "add [rpcinterface:rolling] to supervisord.conf" in ctl.printed


@pytest.mark.parametrize(
    ("name", "hint"),
    [("ap", "did you mean app?"), ("app:app1", "did you mean app:app-1?"), ("xyzzy", "the groups are: app, web")],
)
def test_unknown_name_has_suggestions(ctl: Controller, name: str, hint: str) -> None:
    ctl.server.raises(fault(Faults.BAD_NAME, f"BAD_NAME: {name}"))
    ctl.run(f"rolling_restart {name}")
    assert ctl.printed == f"ERROR: no such group or process: {name} ({hint}). {SEE} command.group\n"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ConnectionRefusedError(111, "Connection refused"), 7, f"does not answer at {URL}: Connection refused"),
        (FileNotFoundError(2, "No such file or directory"), 7, f"does not answer at {URL}: No such file"),
        (TimeoutError("timed out"), 7, f"does not answer at {URL}: timed out"),
        (
            PermissionError(13, "Permission denied"),
            4,
            f"no permission to connect to supervisord at {URL}. Fix:",
        ),
        (PermissionError(1, "Operation not permitted"), 4, "Fix: use sudo"),
        (http.client.IncompleteRead(b"<xml"), 7, f"does not answer at {URL}: IncompleteRead"),
        (http.client.BadStatusLine("hello"), 7, "does not answer"),
        (xmlrpc.client.ResponseError(), 7, f"does not answer at {URL}: ResponseError"),
        (ExpatError("no element found"), 7, f"does not answer at {URL}: no element found"),
        (
            xmlrpc.client.ProtocolError(URL, 401, "Unauthorized", {}),
            4,
            "answered HTTP 401: Unauthorized",
        ),
        (xmlrpc.client.ProtocolError(URL, 500, "Oh no", {}), 1, f"supervisord at {URL} answered HTTP 500: Oh no"),
    ],
)
def test_unreachable_supervisord_has_text_and_status(
    ctl: Controller, command: str, error: Exception, status: int, words: str
) -> None:
    ctl.server.raises(error)
    ctl.run(command)
    assert ctl.exitstatus == status
    assert words in ctl.printed


def test_supervisord_gone_while_watching_exits_with_7(ctl: Controller) -> None:
    def gone(*_: Any) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    ctl.server.answers["getRollout"] = gone
    ctl.run("rolling_restart app")
    assert ctl.exitstatus == 7
    assert "Fix: start supervisord; its rollouts ended when it stopped" in ctl.printed


def test_forgotten_rollout_means_supervisord_restarted(ctl: Controller) -> None:
    def forgotten(*_: Any) -> None:
        raise xmlrpc.client.Fault(Fault.NO_ROLLOUT_KNOWN, "NO_ROLLOUT_KNOWN: no rollout of app is known")

    ctl.server.answers["getRollout"] = forgotten
    ctl.run("rolling_restart app")
    assert ctl.exitstatus == 1
    assert "supervisord was restarted: rollout 7 of app ended with it, and all ports are open" in ctl.printed


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rolling_restart", "name a group, or --all"),
        ("rolling_restart --all app", "--all means every group: name none"),
        ("rolling_restart app web:web-1", "processes of one group, or whole groups, not app, web"),
        ("rolling_restart app:app-1 web:web", "processes of one group"),
        ("rolling_restart app --dry", "unrecognized arguments: --dry"),
        ("rolling_restart app --max-unavailable", "expected one argument"),
        ("rolling_restart app --max-unavailable 0", "a number of processes is from 1"),
        ("rolling_restart app --max-unavailable many", "'many' is neither a number of processes nor a percentage"),
        ("rolling_restart app --max-unavailable=101%", "a percentage is more than 0% and at most 100%"),
        ("rolling_abort", "required: GROUP"),
        ("rolling_abort app web", "unrecognized arguments: web"),
        ("rolling_status app web", "unrecognized arguments: web"),
        ("rolling_status app --force", "unrecognized arguments: --force"),
    ],
)
def test_wrong_usage_sends_nothing_and_names_the_help(ctl: Controller, line: str, words: str) -> None:
    assert ctl.run(line) is None
    assert (ctl.exitstatus, ctl.server.calls) == (2, [])
    assert words in ctl.printed
    assert ctl.printed.endswith(f". Try: supervisorctl help {line.split()[0]}. {SEE} command.usage\n")


# --- JSON


def test_json_is_one_object(ctl: Controller) -> None:
    ctl.server.rollouts = [a_view(), a_view(Status.DONE)]
    ctl.run("rolling_restart app --json")
    assert json.loads(ctl.printed) == a_view(Status.DONE)


@pytest.mark.parametrize(
    "line", ["rolling_restart app --dry-run", "rolling_restart app --no-wait", "rolling_pause app"]
)
def test_every_answer_can_be_json(ctl: Controller, line: str) -> None:
    ctl.run(f"{line} --json")
    assert json.loads(ctl.printed)["id"] == 7


def test_failed_rollout_is_json_and_exits_with_1(ctl: Controller) -> None:
    ctl.server.rollouts = [kept_closed()]
    ctl.run("rolling_restart --json app")
    assert json.loads(ctl.printed)["status"] == "failed"
    assert ctl.exitstatus == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (fault(Fault.ROLLOUT_IN_PROGRESS, "ROLLOUT_IN_PROGRESS: wait"), 8),
        (fault(Faults.BAD_NAME, "BAD_NAME: app"), 5),
        (ConnectionRefusedError(111, "Connection refused"), 7),
        (xmlrpc.client.ProtocolError(URL, 500, "Oh no", {}), 1),
        (http.client.IncompleteRead(b""), 7),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_error_is_json_with_its_exit_status(ctl: Controller, command: str, error: Exception, status: int) -> None:
    ctl.server.raises(error)
    ctl.run(f"{command} --json")
    answer = json.loads(ctl.printed)
    assert (set(answer), answer["exit_status"], ctl.exitstatus) == ({"error", "exit_status"}, status, status)


def test_wrong_usage_is_json_too(ctl: Controller) -> None:
    ctl.run("rolling_restart --json app --dry")
    assert json.loads(ctl.printed)["exit_status"] == 2


# --- status


def test_status_of_all_groups(ctl: Controller) -> None:
    ctl.server.rollouts = [a_view(Status.DONE), {**a_view(paused=True), "group": "web"}, {**a_view(aborting=True)}]
    ctl.run("rolling_status")
    rows = [line.split()[:4] for line in ctl.printed.splitlines()]
    assert rows == [
        ["GROUP", "ROLLOUT", "STATUS", "REPLACED"],
        ["app", "7", "done", "2/2"],
        ["web", "7", "paused", "0/2"],
        ["app", "7", "aborting", "0/2"],
    ]


def test_status_without_rollout(ctl: Controller) -> None:
    ctl.server.rollouts = []
    ctl.run("rolling_status")
    ctl.run("rolling_status app")
    assert "No rollout since supervisord started." in ctl.printed
    assert "No rollout of app since supervisord started." in ctl.printed


@pytest.mark.parametrize(
    ("kept", "is_said"), [(lambda *_: [{"id": 7}], True), (lambda *_: [], False), (lambda *_: no_listener(), False)]
)
def test_status_names_history_if_there_is_one(ctl: Controller, kept: Answer, is_said: bool) -> None:
    ctl.server.rollouts = []
    ctl.server.answers["getHistory"] = kept
    ctl.run("rolling_status app")
    assert ctl.exitstatus == 0
    assert ("getHistory", "app", 1) in ctl.server.calls
    assert ("Earlier ones: supervisorctl rolling_history app" in ctl.printed) is is_said


def test_history_is_asked_only_for_the_hint(ctl: Controller) -> None:
    ctl.run("rolling_status app")
    ctl.server.rollouts = []
    ctl.run("rolling_status app --json")
    assert "getHistory" not in {call[0] for call in ctl.server.calls}


def test_processes_are_in_natural_order(ctl: Controller) -> None:
    row = {
        "statename": "RUNNING",
        "pid": 100,
        "warm": True,
        "gate": "open",
        "stage": "open",
        "seconds": 0.0,
        "tries": 0,
        "retry_in": 0.0,
        "why": "",
        "code": "",
        "guarded": True,
    }
    down = {**row, "statename": "FATAL", "pid": 0, "warm": False, "gate": "closed", "stage": "failed", "seconds": 61.7}
    cold = {
        **row,
        "name": "web_3",
        "stage": "failed",
        "tries": 3,
        "retry_in": 19.6,
        "why": "is not warm",
        "code": "warmup.host",
    }
    table = [{**row, "name": "web_10"}, {**down, "name": "web_2", "why": "is not warm"}, cold]
    ctl.server.answers["getProcesses"] = lambda *_: table
    ctl.server.rollouts = [a_view(Status.DONE)]
    ctl.run("rolling_status app:*")
    lines = [line.split() for line in ctl.printed.splitlines()]
    assert lines[1][:3] == ["app", "7", "done"]
    assert lines[4] == ["web_2", "FATAL", "-", "failed", "62", "s", "-", "closed", "is", "not", "warm"]
    assert " ".join(lines[5][7:]) == "is not warm; 3 attempts, next in 20 s"
    assert lines[6] == ["web_10", "RUNNING", "100", "open", "-", "warm", "open"]


def test_slow_answers_are_polled_less_often(ctl: Controller, clock: Clock) -> None:
    def slow(*_: Any) -> Any:
        clock.now += took.pop(0)
        return a_view() if took else a_view(Status.DONE)

    took = [0.001, 0.1, 9.0, 0.001]
    ctl.server.answers["getRollout"] = slow
    ctl.run("rolling_restart app")
    assert clock.slept == [MIN_POLL, MIN_POLL, pytest.approx(POLL_SHARE * 0.1), MAX_POLL]


def test_supervisord_gone_while_watching_warns_of_orphans(ctl: Controller) -> None:
    def gone(*_: Any) -> View:
        raise ConnectionRefusedError(111, "Connection refused")

    ctl.server.answers["getRollout"] = gone
    ctl.run("rolling_restart app")
    assert ctl.exitstatus == 7
    assert (
        "lease expires. If supervisord was killed, its processes are still running and hold their ports" in ctl.printed
    )
    ctl.run("rolling_status app")
    assert ctl.printed.count("still running") == 1, "a status watches no rollout"


def test_status_says_that_group_is_not_guarded(ctl: Controller) -> None:
    row = {"name": "web_1", "statename": "RUNNING", "pid": 1, "warm": False, "gate": "open", "stage": "open"}
    row = {**row, "seconds": 0.0, "tries": 0, "retry_in": 0.0, "why": "", "code": ""}
    for process, is_told in (({**row, "guarded": True}, False), ({**row, "guarded": False}, True)):
        ctl.stdout.truncate(ctl.stdout.seek(0))
        ctl.server.answers["getProcesses"] = lambda *_, process=process: [process]
        ctl.run("rolling_status web")
        assert ("web is not guarded against crashes: rolling.yaml has guard: false for it" in ctl.printed) is is_told


def test_status_of_group_without_ports_misses_no_guard(ctl: Controller) -> None:
    row = {"name": "app-1", "statename": "RUNNING", "pid": 1, "warm": False, "gate": "open", "stage": "open"}
    row = {**row, "seconds": 0.0, "tries": 0, "retry_in": 0.0, "why": "", "code": "", "guarded": False}
    ctl.server.answers["getProcesses"] = lambda *_: [row]
    ctl.server.rollouts = [a_view(Status.DONE, members=(Member("app-1", ()),))]
    ctl.run("rolling_status app")
    assert "app-1" in ctl.printed
    assert "is not guarded" not in ctl.printed


def test_status_names_why_group_is_not_guarded(ctl: Controller) -> None:
    row = {"name": "web_1", "statename": "RUNNING", "pid": 1, "warm": False, "gate": "open", "stage": "open"}
    row = {**row, "seconds": 0.0, "tries": 0, "retry_in": 0.0, "why": "", "code": "", "guarded": False}
    ctl.server.answers["getProcesses"] = lambda *_: [row]
    for listener, cause in (
        ({**LISTENER, "problem": "f:3: a typing error"}, "rolling.yaml is invalid (see above)"),
        ({**LISTENER, "running": False}, "the listener is not running (see above)"),
        (LISTENER, "rolling.yaml has guard: false for it, or"),
    ):
        ctl.stdout.truncate(ctl.stdout.seek(0))
        ctl.server.answers["getListener"] = lambda *_, listener=listener: listener
        ctl.run("rolling_status web")
        assert f"web is not guarded against crashes: {cause}" in ctl.printed


@pytest.mark.parametrize(
    ("stage", "why"),
    [
        ("draining", "3 connections left"),
        ("restarting", "is stopping, will be started again"),
        ("warming", "a new process, not warm yet"),
        ("ready", "open, not yet counted as available"),
    ],
)
def test_status_explains_each_stage(ctl: Controller, stage: str, why: str) -> None:
    member = Member("app-1", (tcp(8001),), stage=Stage(stage), attempted=True, lingering_connections=3)
    ctl.server.rollouts = [a_view(members=(member,))]
    row = {"name": "app-1", "statename": "RUNNING", "pid": 1, "warm": False, "gate": "closed", "stage": stage}
    ctl.server.answers["getProcesses"] = lambda *_: [
        {**row, "seconds": 2.0, "tries": 0, "retry_in": 0.0, "why": "", "code": "", "guarded": True}
    ]
    ctl.run("rolling_status app")
    assert ctl.printed.splitlines()[-1].endswith(f"closed  {why}")


def test_status_as_json(ctl: Controller) -> None:
    ctl.run("rolling_status --json")
    assert json.loads(ctl.printed) == {"rollouts": ctl.server.rollouts, "listener": LISTENER}
    ctl.stdout.truncate(ctl.stdout.seek(0))
    ctl.server.rollouts = []
    ctl.run("rolling_status web --json")
    assert json.loads(ctl.printed) == {"rollout": None, "processes": [], "listener": LISTENER}


def test_invalid_policy_is_the_first_line_of_status(ctl: Controller) -> None:
    told = {**LISTENER, "problem": "/etc/rolling.yaml:3: groups.app.prots: unknown key (did you mean ports?)"}
    ctl.server.answers["getListener"] = lambda *_: told
    for line, group in (("rolling_status", "GROUP"), ("rolling_status app", "app")):
        ctl.stdout.truncate(ctl.stdout.seek(0))
        ctl.run(line)
        assert ctl.printed.splitlines()[0] == (
            "rolling.yaml is invalid: /etc/rolling.yaml:3: groups.app.prots: unknown key (did you mean ports?). "
            f"Every problem: supervisorctl rolling_check {group}. {SEE} config"
        )
        ctl.stdout.truncate(ctl.stdout.seek(0))
        ctl.run(f"{line} --json")
        assert json.loads(ctl.printed)["listener"] == told


@pytest.mark.parametrize("line", ["rolling_status", "rolling_status app"])
@pytest.mark.parametrize("has_rolled", [True, False])
def test_missing_listener_is_the_first_line_of_status(ctl: Controller, line: str, has_rolled: bool) -> None:
    ctl.server.rollouts = [a_view(Status.DONE, listener=False)] if has_rolled else []
    ctl.server.answers["getListener"] = lambda *_: {**LISTENER, "running": False, "fix": "supervisorctl start g:n"}
    ctl.run(line)
    assert ctl.printed.splitlines()[0] == (
        "The listener is not running: rollouts are stalled, and closed ports reopen, at the latest when their lease "
        f"expires (30 s; HAProxy has none). Fix: supervisorctl start g:n. {SEE} listener.down"
    )
    assert ctl.printed.count("The listener is not running") == 1


def test_pause_warns_that_listener_is_not_running(ctl: Controller) -> None:
    ctl.server.answers["pause"] = lambda *_: a_view(paused=True, listener=False)
    ctl.server.answers["getListener"] = lambda *_: {**LISTENER, "running": False, "fix": "supervisorctl start g:n"}
    ctl.run("rolling_pause app")
    assert "The listener is not running" in ctl.printed
    assert "Fix: supervisorctl start g:n" in ctl.printed


# --- another version of the plugin in supervisord

OLD = {**LISTENER, "version": "0.0.9"}
OLD_TEXT = f"supervisord has version 0.0.9 of the plugin loaded, and this command is version {__version__}: rollouts "


def test_check_warns_of_another_version(ctl: Controller) -> None:
    ctl.server.answers["getListener"] = lambda *_: OLD
    ctl.run("rolling_check app")
    first, last = ctl.printed.splitlines()
    assert first.startswith(f"warning: plugin.version: [rpcinterface:rolling]: {OLD_TEXT}and the crash guard stall as")
    assert first.endswith(f"does not load the plugin again). {SEE} plugin.version")
    assert (last, ctl.exitstatus) == ("app: 1 warning. Checked: it", 0)
    ctl.stdout.truncate(ctl.stdout.seek(0))
    ctl.run("rolling_check app --json")
    (finding,) = json.loads(ctl.printed)["findings"]
    assert (finding["code"], finding["severity"]) == ("plugin.version", "warning")


@pytest.mark.parametrize("line", ["rolling_status", "rolling_status app"])
@pytest.mark.parametrize(("running", "effect"), [(True, "stall as soon as"), (False, "are stalled. Fix: ")])
def test_status_warns_of_another_version(ctl: Controller, line: str, running: bool, effect: str) -> None:
    told = {**LISTENER, "running": running, "fix": "supervisorctl start g:n"}
    del told["version"]  # a plugin that does not tell it
    ctl.server.answers["getListener"] = lambda *_: told
    ctl.run(line)
    first = ctl.printed.splitlines()[0]
    assert first.startswith("supervisord has an older version of the plugin loaded")
    assert effect in first
    assert "supervisorctl start g:n" not in ctl.printed, "a listener that is started does nothing either"


def test_listener_of_another_version_is_the_only_error(ctl: Controller) -> None:
    ctl.server.raises(xmlrpc.client.Fault(Fault.LISTENER_DOWN, "LISTENER_DOWN: the listener is not running"))
    ctl.server.answers["getListener"] = lambda *_: {**OLD, "running": False}
    ctl.run("rolling_restart app")
    assert ctl.printed.startswith(f"ERROR: {OLD_TEXT}and the crash guard are stalled. Fix: ")
    assert ("is not running" in ctl.printed, len(ctl.printed.splitlines()), ctl.exitstatus) == (False, 1, 7)


def test_answer_of_another_version_names_both_problems(ctl: Controller) -> None:
    ctl.server.answers["getHistory"] = lambda *_: [{"a field": "of another version"}]
    ctl.server.answers["getListener"] = lambda *_: OLD
    ctl.run("rolling_history app")
    head, first, second = ctl.printed.splitlines()
    assert (head, first.startswith(f"  {OLD_TEXT}"), "this is a bug" in second) == ("ERROR: 2 problems:", True, True)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (xmlrpc.client.Fault(Fault.REFUSED, "REFUSED: it is unsafe"), "ERROR: it is unsafe\n"),
        (xmlrpc.client.Fault(Faults.UNKNOWN_METHOD, "UNKNOWN_METHOD"), "ERROR: supervisord has not loaded the plugin"),
        (ConnectionRefusedError(111, "refused"), "ERROR: supervisord does not answer"),
    ],
)
def test_other_errors_do_not_name_the_version(ctl: Controller, error: Exception, text: str) -> None:
    ctl.server.raises(error)
    if isinstance(error, xmlrpc.client.Fault) and error.faultCode == Fault.REFUSED:
        ctl.server.answers["getListener"] = lambda *_: OLD
    ctl.run("rolling_restart app")
    assert ctl.printed.startswith(text)
    assert "the plugin loaded, and this" not in ctl.printed


# --- help, and supervisorctl itself


def test_every_command_has_a_method_and_help(ctl: Controller) -> None:
    plugin = make_rolling_controllerplugin(ctl)
    assert {name[3:] for name in dir(plugin) if name.startswith("do_rolling")} == set(IN_SUPERVISORCTL)
    for command in IN_SUPERVISORCTL:
        assert getattr(plugin, f"do_{command}").__doc__.startswith(command)


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("command", [command.split()[0] for command in COMMANDS])
def test_help_option_prints_help_and_sends_nothing(ctl: Controller, command: str, option: str) -> None:
    ctl.run(f"{command} app {option}")
    assert ctl.printed.startswith(command)
    assert (ctl.server.calls, ctl.exitstatus) == ([], 0)


def test_help_of_restart_names_every_option(ctl: Controller) -> None:
    ctl.run("rolling_restart --help")
    for option in ("--max-unavailable", "--dry-run", "--no-wait", "--force", "--json"):
        assert option in ctl.printed


def test_user_without_passwd_entry_is_its_number(ctl: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise OSError("no username set in the environment")

    monkeypatch.delenv("SUDO_USER")
    monkeypatch.setattr(restart_command, "getpass", SimpleNamespace(getuser=unknown))
    ctl.run("rolling_restart app")
    user, _, host = ctl.server.calls[0][3]["by"].partition("@")
    assert user.isdigit()
    assert host


def test_supervisorctl_loads_the_plugin_and_exits_with_its_status(tmp_path: Path) -> None:
    from supervisor.options import ClientOptions
    from supervisor.supervisorctl import Controller as RealController

    conf = tmp_path / "supervisord.conf"
    factory = "supervisor_rolling.controllerplugin:make_rolling_controllerplugin"
    url = f"unix://{tmp_path}/none.sock"
    conf.write_text(f"[supervisorctl]\nserverurl = {url}\n[ctlplugin:rolling]\nsupervisor.ctl_factory = {factory}\n")
    options = ClientOptions()
    options.realize(["-c", str(conf), "rolling_status"], doc="")
    controller = RealController(options, stdout=io.StringIO())
    assert not controller.onecmd("rolling_status --json")
    assert json.loads(controller.stdout.getvalue())["exit_status"] == controller.exitstatus == 7


# --- whatever is typed, and whatever comes back

WORDS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["app", "app:*", "app:app-1", "web", ":", "--json", "--", "-h", "--help", "--force", "--dry-run"]),
    st.sampled_from(
        ["--no-wait", "--max-unavailable", "--max-unavailable=x", "10%", "%s", "{0}", "\x1b[2J", "\udcff", "é"]
    ),
)
ANSWERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def check_that_it_is_a_sentence(controller: Controller) -> None:
    assert controller.printed.endswith("\n")
    assert all(c.isprintable() or c in "\n\t" for c in controller.printed)
    assert controller.exitstatus in range(9)


@pytest.mark.parametrize("command", [command.split()[0] for command in COMMANDS])
@given(words=st.lists(WORDS, max_size=4))
@settings(max_examples=100, deadline=None)
def test_any_words_give_a_sentence_and_a_status(command: str, words: list[str]) -> None:
    controller = Controller()
    controller.server.rollouts = [a_view(status=Status.DONE)]
    controller.server.answers["restart"] = controller.server.answers["resume"] = lambda *_: a_view(status=Status.DONE)
    controller.server.answers["restartGroups"] = lambda *_: [a_view(status=Status.DONE)]
    assert not controller.run(f"{command} {' '.join(words)}")
    check_that_it_is_a_sentence(controller)
    for method, *arguments in controller.server.calls:
        names = arguments[0] if arguments and isinstance(arguments[0], list) else arguments[:1]
        assert all(name.isprintable() for name in names), method


@pytest.mark.parametrize("command", COMMANDS)
@given(code=st.integers(-1, 400), text=st.text(max_size=20))
@settings(max_examples=50, deadline=None)
def test_any_fault_gives_a_sentence_and_a_status(command: str, code: int, text: str) -> None:
    controller = Controller()
    controller.server.raises(xmlrpc.client.Fault(code, text))
    assert not controller.run(command)
    check_that_it_is_a_sentence(controller)
    assert controller.exitstatus != 0


@pytest.mark.parametrize("command", COMMANDS)
@given(answer=ANSWERS)
@settings(max_examples=50, deadline=None)
def test_malformed_answer_is_reported_as_a_bug(command: str, answer: Any) -> None:
    controller = Controller()
    for method in ("restart", "resume", "abort", "pause", "getAllRollouts", "getProcesses"):
        controller.server.answers[method] = lambda *_: answer
    assert not controller.run(command)
    check_that_it_is_a_sentence(controller)


def test_unicode_group_keeps_its_name() -> None:
    controller = Controller()
    view = {**a_view(status=Status.DONE), "group": "w\\xe9b"}
    controller.server.answers["restart"] = lambda *_: view
    controller.server.rollouts = [view]
    controller.run("rolling_status wéb --json")
    assert json.loads(controller.printed)["rollout"]["group"] == "wéb"
    controller.run("rolling_restart wéb --json")
    assert json.loads(controller.printed.splitlines()[-1])["group"] == "wéb"
    assert [call[1] for call in controller.server.calls if len(call) > 1] == ["wéb"] * 3


class Screen(io.StringIO):
    """A stream with an encoding."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self.name_of_encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.name_of_encoding


def unicode_answers(server: Server) -> None:
    view = plain_of(a_view(status=Status.FAILED, why="drained → café"))
    head = {
        "id": 1,
        "status": "failed",
        "seconds": 1.0,
        "interrupted": 0.0,
        "began": 0,
        "replaced": 0,
        "total": 1,
        "user": "",
        "client": "",
    }
    server.rollouts = [view]
    server.answers["getProcesses"] = lambda *_: [plain_of(a_process("wéb-1"))]
    server.answers["getHistory"] = lambda *_: [{**head, **plain_of({"group": "wéb", "why": "café", "by": "ann"})}]
    server.answers["check"] = lambda *_: plain_of(a_report({**a_finding("a", "error"), "where": "wéb:wéb-1"}))
    server.answers["getListener"] = lambda *_: plain_of({**LISTENER, "problem": "groups.wéb.x"})


def plain_of(answer: Any) -> Any:
    """As the XML-RPC namespace sends it."""
    if isinstance(answer, dict):
        return {key: plain_of(value) for key, value in answer.items()}
    if isinstance(answer, list):
        return [plain_of(value) for value in answer]
    return plain(answer) if isinstance(answer, str) else answer


def a_process(name: str) -> View:
    words = {"statename": "RUNNING", "stage": "failed", "gate": "closed", "why": "café", "code": ""}
    return {
        "name": name,
        "pid": 7,
        "seconds": 1.0,
        "warm": False,
        "retry_in": 0.0,
        "tries": 0,
        "guarded": True,
        **words,
    }


@pytest.mark.parametrize("line", ["rolling_status", "rolling_status wéb", "rolling_check wéb", "rolling_history wéb"])
@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", True), ("ascii", False)])
def test_unicode_is_printed_if_the_terminal_can(line: str, encoding: str, shown: bool) -> None:
    controller = Controller()
    unicode_answers(controller.server)
    controller.stdout = Screen(encoding)
    controller.run(line)
    assert ("wéb" in controller.printed, "\\xe9" in controller.printed) == (shown, not shown), controller.printed
    controller.printed.encode(encoding)


@pytest.mark.parametrize("name", ["wéb", r"w\xe9b"])
def test_unicode_in_a_fault_is_printed(name: str) -> None:
    controller = Controller()
    controller.stdout = Screen("utf-8")
    controller.server.raises(xmlrpc.client.Fault(Faults.BAD_NAME, f"BAD_NAME: {plain(name)}"))
    controller.run("rolling_status wéb")
    assert f"no such group or process: {name}" in controller.printed


def test_json_has_unicode_on_any_terminal() -> None:
    controller = Controller()
    unicode_answers(controller.server)
    controller.run("rolling_status wéb --json")
    assert json.loads(controller.printed)["rollout"]["why"] == "drained → café"


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("rolling_status app:app", ("getProcesses packed", "app:app")),
        ("rolling_pause app:app", ("pause packed", "app:app")),
        ("rolling_resume app:app --no-wait", ("resume packed", "app:app", False)),
        ("rolling_abort app:app", ("abort packed", "app:app")),
        ("rolling_check app:app", ("check", "app:app")),
        ("rolling_history app:app", ("getHistory", "app:app", 20)),
        ("rolling_report app:app", ("getRecord", "app:app", 0)),
        ("rolling_abort app:*", ("abort packed", "app")),
    ],
)
def test_name_with_process_is_sent_as_it_is(line: str, call: tuple[Any, ...]) -> None:
    controller = Controller()
    controller.server.answers["getRecord"] = lambda *_: json.dumps({**a_rollout(), "id": 12})
    controller.run(line)
    assert (controller.exitstatus, controller.server.calls[0]) == (0, call), controller.printed


def test_process_of_larger_group_is_refused_with_command(ctl: Controller) -> None:
    text = "INCORRECT_PARAMETERS: a whole group is needed, and app:app-1 is one of 2 processes of app"
    ctl.server.raises(xmlrpc.client.Fault(Faults.INCORRECT_PARAMETERS, text))
    ctl.run("rolling_status app:app-1")
    assert (ctl.exitstatus, ctl.printed) == (
        2,
        "ERROR: rolling_status: a whole group is needed, and app:app-1 is one of 2 processes of app. Try: "
        f"supervisorctl help rolling_status. {SEE} command.usage\n",
    )


# --- rolling_check


def a_report(*findings: dict[str, Any], **more: Any) -> View:
    return {
        "group": "app",
        "ok": not any(one["severity"] == "error" for one in findings),
        "findings": list(findings),
        "checked": ["8 processes", "nginx"],
        "skipped": [],
        **more,
    }


def a_finding(code: str, severity: str) -> dict[str, Any]:
    return {"code": code, "where": "nginx.conf:3", "text": "is wrong", "fix": "remove it", "severity": severity}


def test_check_without_finding_lists_what_was_checked(ctl: Controller) -> None:
    ctl.server.answers["check"] = lambda *_: a_report(skipped=["nginx's configuration: there is none"])
    ctl.run("rolling_check app")
    assert (ctl.exitstatus, ctl.printed) == (
        0,
        "skipped: nginx's configuration: there is none\napp: no finding. Checked: 8 processes, nginx\n",
    )
    assert ctl.server.calls == [("check", "app"), ("getListener",)]


def test_findings_are_lines_with_errors_first(ctl: Controller) -> None:
    ctl.server.answers["check"] = lambda *_: a_report(a_finding("a.b", "warning"), a_finding("c.d", "error"))
    ctl.run("rolling_check app")
    assert ctl.exitstatus == 1
    assert ctl.printed.splitlines() == [
        "error: c.d: nginx.conf:3: is wrong. Fix: remove it. See: supervisor_rolling help c.d",
        "warning: a.b: nginx.conf:3: is wrong. Fix: remove it. See: supervisor_rolling help a.b",
        "app: 1 error, 1 warning. Checked: 8 processes, nginx",
    ]


def test_warnings_alone_exit_with_0(ctl: Controller) -> None:
    ctl.server.answers["check"] = lambda *_: a_report(a_finding("a.b", "warning"), a_finding("a.c", "warning"))
    ctl.run("rolling_check app")
    assert ctl.exitstatus == 0
    assert ctl.printed.startswith("warning: a.b: ")
    assert ctl.printed.endswith("app: 2 warnings. Checked: 8 processes, nginx\n")


@pytest.mark.parametrize(("severity", "status"), [("warning", 0), ("error", 1)])
def test_check_as_json_is_the_report(ctl: Controller, severity: str, status: int) -> None:
    ctl.server.answers["check"] = lambda *_: a_report(a_finding("a.b", severity))
    ctl.run("rolling_check app --json")
    assert (ctl.exitstatus, json.loads(ctl.printed)) == (status, a_report(a_finding("a.b", severity)))


def test_several_problems_are_counted(ctl: Controller) -> None:
    text = "NOT_CONFIGURED: rolling.yaml:3: a: is wrong\nrolling.yaml:4: b: is wrong"
    ctl.server.raises(xmlrpc.client.Fault(Fault.NOT_CONFIGURED, text))
    ctl.run("rolling_restart app")
    assert ctl.printed.splitlines() == [
        "ERROR: 2 problems:",
        "  rolling.yaml:3: a: is wrong",
        "  rolling.yaml:4: b: is wrong",
    ]


def test_lines_below_a_heading_are_not_counted(ctl: Controller) -> None:
    text = "REFUSED: a rollout of app is refused because of 1 error:\nnginx.conf:3: is wrong. Fix: remove it\nTo accept"
    ctl.server.raises(xmlrpc.client.Fault(Fault.REFUSED, text))
    ctl.run("rolling_restart app")
    assert ctl.printed.splitlines() == [
        "ERROR: a rollout of app is refused because of 1 error:",
        "  nginx.conf:3: is wrong. Fix: remove it",
        "  To accept",
    ]


# --- the report


@pytest.fixture
def kept(ctl: Controller, monkeypatch: pytest.MonkeyPatch) -> Controller:
    """A controller with a supervisord that has a record of rollout 12."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    ctl.server.answers["getRecord"] = lambda *_: json.dumps({**a_rollout(), "id": 12, "why": "ü \u2192 \ud800"})
    return ctl


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("", ("", 0)),
        ("12", ("", 12)),
        ("app", ("app", 0)),
        ("app:*", ("app", 0)),
        ("2024:*", ("2024", 0)),
        ("9" * 10, ("9" * 10, 0)),
        ("0", ("0", 0)),
    ],
)
def test_report_argument_is_a_number_or_a_group(kept: Controller, words: str, asked: tuple[str, int]) -> None:
    kept.run(f"rolling_report {words} --json")
    assert kept.server.calls == [("getRecord", *asked)]


@pytest.mark.parametrize("flag", ["-o", "--output"])
def test_page_is_written_to_a_file(kept: Controller, tmp_path: Path, flag: str) -> None:
    file = tmp_path / "rollout.html"
    kept.stdout = Terminal()
    kept.run(f"rolling_report 12 {flag} {file}")
    assert (kept.exitstatus, kept.printed) == (0, f"{file}: rollout 12 of app\n")
    written = file.read_text(encoding="utf-8")
    assert written.startswith("<!DOCTYPE html>")
    assert "ü → \\ud800" in written


def test_json_is_written_to_a_file(kept: Controller, tmp_path: Path) -> None:
    file = tmp_path / "rollout.json"
    kept.run(f"rolling_report --json -o {file}")
    assert json.loads(kept.printed) == {"file": str(file)}
    assert json.loads(file.read_text(encoding="utf-8"))["id"] == 12


def test_tilde_in_the_file_name_is_the_home(kept: Controller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    kept.run("rolling_report -o ~/rollout.html")
    assert (tmp_path / "rollout.html").exists()


def test_page_is_not_printed_on_a_terminal(kept: Controller) -> None:
    kept.stdout = Terminal()
    kept.run("rolling_report")
    assert (kept.exitstatus, kept.server.calls) == (2, [])
    assert "write it to a file with -o rollout.html" in " ".join(kept.printed.split())


def test_unwritable_file_is_reported_on_standard_error(kept: Controller, tmp_path: Path) -> None:
    kept.run(f"rolling_report -o {tmp_path}")
    assert (kept.exitstatus, kept.printed) == (1, f"ERROR: cannot write {tmp_path}: Is a directory\n")
