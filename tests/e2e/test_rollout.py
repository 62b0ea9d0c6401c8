"""Rollouts on a real stack: supervisord, nginx, netfilter, the demo application, under load.

Every test has a stack of its own in the network namespace of the test run; most have a load of new connections, a
twentieth of which are POSTs of 1.5 s.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import threading
import xmlrpc.client
from collections.abc import Callable
from typing import Any

import pytest

from supervisor_rolling.core.errors import Fault
from tests.support import plugin
from tests.support.json_schemas import check_schema
from tests.support.look import (
    assert_no_failures,
    closed_ports,
    listener_pid,
    pids,
    popen_ctl,
    refuses,
    rolling,
    rules,
    users,
    wait_open,
    wait_stage,
)
from tests.support.stack import Setup, Stack, StackError
from tests.support.waiting import eventually, poll, stays

NEW = "new"


# --- the main job


def test_rollout_replaces_every_process_without_failure(start: Callable[..., Stack]):
    stack = start()
    before = pids(stack)
    stack.release(NEW)
    with users(stack) as load:
        done = stack.ctl("rolling_restart", "app")
    assert done.returncode == 0, done.stdout
    assert_no_failures(load.report())
    assert not set(before) & set(pids(stack))
    assert {stack.ask(port, "/").headers["x-release"] for port in stack.setup.ports} == {NEW}
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    for name, line in zip(("app-8000", "app-8001", "app-8002", "app-8003"), lines[1:5]):
        assert line.startswith(f"{name}  drained ")
        assert re.search(r" · warmed \d+\.\d s \(11 requests ", line)
    assert lines[5].startswith("app: 4 of 4 replaced in ")
    assert lines[5].endswith("never fewer than 3 of 4 available")
    assert rules() == []


@pytest.mark.parametrize(
    "gate",
    [
        {"method": "reject", "bypass": "address"},
        {"method": "redirect", "bypass": "mark"},
        pytest.param({"method": "redirect", "bypass": "address"}, marks=pytest.mark.soak),
    ],
    ids=lambda gate: "-".join(gate.values()),
)
def test_every_gate_method_and_bypass_works(start: Callable[..., Stack], gate: dict[str, str]):
    stack = start(processes=3, gate=gate)
    with users(stack) as load:
        done = stack.ctl("rolling_restart", "app")
    assert done.returncode == 0, done.stdout
    assert_no_failures(load.report())


def test_two_at_a_time_leave_two_available(start: Callable[..., Stack]):
    stack = start()
    with users(stack) as load:
        done = stack.ctl("rolling_restart", "app", "--max-unavailable", "2", "--json")
    assert done.returncode == 0, done.stdout
    assert_no_failures(load.report())
    rollout = json.loads(done.stdout)
    check_schema("rollout.json", rollout)
    assert (rollout["status"], rollout["replaced"], rollout["min_available"]) == ("done", 4, 2)
    status = json.loads(stack.ctl("rolling_status", "app", "--json").stdout)
    check_schema("rollout.json", status["rollout"])
    for process in status["processes"]:
        check_schema("process.json", process)
    check_schema("report.json", json.loads(stack.ctl("rolling_check", "app", "--json").stdout))
    record = json.loads(stack.ctl("rolling_report", "app", "--json").stdout)
    check_schema("rollout.json", record)
    assert record["availability"]
    (summary,) = json.loads(stack.ctl("rolling_history", "app", "--json").stdout)["rollouts"]
    check_schema("rollout.json", summary)
    assert {key: record[key] for key in ("id", "status", "began", "replaced")}.items() <= summary.items()


def test_auto_ports_are_found_by_listening_sockets(start: Callable[..., Stack]):
    stack = start(processes=2, ports="auto")
    assert stack.ctl("rolling_restart", "app").returncode == 0
    assert [process["ports"] for process in rolling(stack)["processes"]] == [[8000], [8001]]


def test_xml_rpc_client_waits_for_the_end(start: Callable[..., Stack]):
    stack = start(processes=2)
    rollout: Any = stack.rpc(timeout=60.0).rolling.restart("app", True, {"max_unavailable": 1})
    assert (rollout["status"], rollout["replaced"]) == ("done", 2)


def test_a_client_that_leaves_stops_nothing(start: Callable[..., Stack]):
    stack = start(processes=2)
    with pytest.raises(OSError, match="timed out"):
        stack.rpc(timeout=0.5).rolling.restart("app", True, {})
    rollouts: Any = stack.rpc().rolling
    stack.wait_until(
        lambda: [one["status"] for one in rollouts.getAllRollouts()] == ["done"], 30.0, "the rollout is done"
    )


# --- bad deploys: see test_bad_deploys.py


def test_resume_replaces_the_rest_and_opens_ports(start: Callable[..., Stack]):
    stack = start(processes=3)
    stack.fault("500")
    assert stack.ctl("rolling_restart", "app").returncode == 1
    status = stack.ctl("rolling_status", "app").stdout
    assert "closed" in status
    assert "answered 500" in status
    stack.fault("")
    with users(stack) as load:
        assert stack.ctl("rolling_resume", "app").returncode == 0
    assert_no_failures(load.report())
    assert not any(refuses(port) for port in stack.setup.ports)


# --- deaths


def test_killed_listener_during_rollout_fails_nothing(start: Callable[..., Stack]):
    stack = start()
    with users(stack) as load:
        watching = threading.Thread(target=stack.ctl, args=("rolling_restart", "app"))
        watching.start()
        for stage in ("draining", "restarting", "warming"):
            wait_stage(stack, stage)
            os.kill(poll(lambda: listener_pid(stack), bool), signal.SIGKILL)
        watching.join(60.0)
    assert_no_failures(load.report())
    found = rolling(stack)
    assert (found["status"], found["replaced"]) == ("done", 4)


def test_a_stopped_listener_opens_all_gates(start: Callable[..., Stack]):
    stack = start(processes=2)
    stack.fault("500")
    assert stack.ctl("rolling_restart", "app").returncode == 1
    assert refuses(8000)
    stack.ctl("stop", "rolling")
    assert not refuses(8000)
    assert rules() == []


def supervisord_log(stack: Stack) -> str:
    return (stack.directory / "supervisord.log").read_text(encoding="utf-8")


def is_listener_new(stack: Stack, before: int) -> bool:
    """Whether supervisord has started another listener; it cannot be asked while it reloads."""
    try:
        return listener_pid(stack) not in (0, before)
    except (OSError, http.client.HTTPException, xmlrpc.client.Fault):
        return False


def test_supervisord_notices_an_exit_at_once(start: Callable[..., Stack]):
    """Without the wake-up nothing ends supervisord's wait but its time-out of a second, or the next call."""
    stack = start(processes=2, setup={"program": "autorestart = false"})
    quick = 0
    for process in stack.processes():
        os.kill(process.pid, signal.SIGKILL)
        quick += eventually(lambda port=process.port: f"exited: app-{port}" in supervisord_log(stack), within=0.3)  # type: ignore[misc]
    assert quick == 2


def test_reload_brings_a_working_plugin_back(start: Callable[..., Stack]):
    stack = start(processes=2)
    before = listener_pid(stack)
    stack.ctl("reload")
    stack.wait_until(lambda: is_listener_new(stack, before), 30.0, "another listener runs")
    stack.wait_serving()
    assert stack.ctl("rolling_restart", "app").returncode == 0


# --- commands


def test_abort_pause_and_resume_from_another_terminal(start: Callable[..., Stack]):
    stack = start(processes=3)
    assert stack.ctl("rolling_restart", "app", "--no-wait").returncode == 0
    assert "paused" in stack.ctl("rolling_pause", "app").stdout
    stack.wait_until(lambda: rolling(stack)["replaced"] == 1, 20.0, "the first is replaced")
    assert stays(lambda: rolling(stack)["replaced"] == 1, seconds=1.0)
    assert "paused" in stack.ctl("rolling_status").stdout
    assert stack.ctl("rolling_abort", "app").returncode == 0
    stack.wait_until(lambda: rolling(stack)["status"] == "aborted", 20.0, "the rollout is aborted")
    assert stack.ctl("rolling_resume", "app").returncode == 0
    assert rolling(stack)["status"] == "done"


def test_help_knows_the_commands_and_apologises_for_nothing(start: Callable[..., Stack]):
    stack = start(processes=2)
    assert stack.ctl("help", "rolling_restart").stdout.startswith("rolling_restart <group>")
    commands = {word for word in stack.ctl("help").stdout.split() if word.startswith("rolling_")}
    words = ("abort", "check", "history", "pause", "report", "restart", "resume", "status")
    assert commands == {f"rolling_{word}" for word in words}
    assert "No help" not in "".join(stack.ctl("help", topic).stdout for topic in ("status", "rolling_status"))


def test_ctrl_c_leaves_the_rollout_running(start: Callable[..., Stack]):
    stack = start(processes=2, min_ready_seconds=3)
    watcher = popen_ctl(stack, "rolling_restart", "app")
    assert watcher.stdout is not None
    first = next(line for line in watcher.stdout if line.startswith("app-8000"))
    watcher.send_signal(signal.SIGINT)
    out = first + watcher.stdout.read()
    assert watcher.wait(timeout=10) == 130
    assert "The rollout continues" in out
    assert "rolling_abort app" in out
    stack.wait_until(lambda: rolling(stack)["status"] == "done", 30.0, "the rollout is done")


# --- bad input: a clear error, the right exit status, nothing touched


def untouched(stack: Stack, *arguments: str) -> tuple[int, str]:
    """The exit status and the output of a command that must touch nothing."""
    before, closed = pids(stack), closed_ports()
    done = stack.ctl(*arguments)
    assert pids(stack) == before
    assert closed_ports() == closed
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout


def test_bad_input_on_the_command_line(start: Callable[..., Stack]):
    stack = start(processes=2)
    for arguments, status, words in [
        (("appp",), 5, "did you mean app?"),
        (("app:app-8009",), 5, "app:app-8009"),
        ((), 2, "name a group"),
        (("app", "other"), 5, "no such group or process: other"),
        (("app", "--max-unavailable", "0"), 2, "from 1"),
        (("app", "--max-unavailable", "200%"), 2, "at most 100%"),
        (("app", "--max-unavailable", "-1"), 2, "max-unavailable"),
        (("app", "--max-unavailable", "many"), 2, "many"),
        (("app", "--frce"), 2, "--frce"),
        (("rolling",), 6, "groups.rolling"),
    ]:
        code, out = untouched(stack, "rolling_restart", *arguments)
        assert (code, words in out) == (status, True), (arguments, code, out)
    assert untouched(stack, "rolling_abort", "app")[0] == 1
    code, out = untouched(stack, "rolling_restart", "appp", "--json")
    assert (code, json.loads(out)["exit_status"]) == (5, 5)


def test_bad_input_in_the_policy(start: Callable[..., Stack]):
    stack = start(processes=2)
    wait_open(stack)
    policy = stack.directory / "rolling.yaml"
    good = policy.read_text(encoding="utf-8")
    for text, words in [
        ("", "empty"),
        ("- a\n- b\n", "mapping"),
        (good.replace("max_unavailable", "max_unavialable"), "did you mean max_unavailable?"),
        (good.replace("on_timeout: continue", "on_timeout: contniue\n      tmeout: 3"), "did you mean timeout?"),
        (
            good.replace("'app-(\\d+)'", "'web-(\\d+)'").replace("app-(\\d+)", "web-(\\d+)"),
            "no port for app-8000, app-8001",
        ),
        (good.replace("app-(\\d+)", "app-(8)\\d+"), "port 8 to app-8000 and to app-8001"),
        (good.replace("  app:", "  web:"), "no policy for the group app"),
    ]:
        assert text != good
        policy.write_text(text, encoding="utf-8")
        code, out = untouched(stack, "rolling_restart", "app")
        assert (code, words in out) == (6, True), (text, code, out)
    policy.write_text(good, encoding="utf-8")
    rpc: Any = stack.rpc()
    stack.wait_until(lambda: rpc.rolling.getProcesses("app")[0]["guarded"], 10.0, "the group is guarded again")
    policy.write_text(good.replace("max_unavailable", "max_unavialable"), encoding="utf-8")
    stack.wait_until(lambda: "did you mean max_unavailable?" in status_of_policy(stack), 10.0, "the status names it")
    assert stack.ctl("rolling_status", "app").stdout.startswith(
        "rolling.yaml is invalid: no rollout of app can start, and the crash guard there uses the last valid version"
    )
    policy.unlink()
    code, out = untouched(stack, "rolling_restart", "app")
    assert (code, "rolling.yaml" in out) == (6, True), out
    policy.write_text(good, encoding="utf-8")
    assert stack.ctl("rolling_restart", "app").returncode == 0
    assert status_of_policy(stack) == ""


def status_of_policy(stack: Stack) -> str:
    """What the status says is wrong with rolling.yaml."""
    found: str = json.loads(stack.ctl("rolling_status", "--json").stdout)["listener"]["problem"]
    return found


def test_last_serving_process_needs_force(start: Callable[..., Stack]):
    stack = start(processes=2)
    stack.ctl("stop", "app:app-8001")
    code, out = untouched(stack, "rolling_restart", "app")
    assert (code, "--force" in out) == (1, True), out
    assert stack.ctl("rolling_restart", "app", "--force").returncode == 0
    stack.ctl("stop", "app:app-8000")
    code, out = untouched(stack, "rolling_restart", "app", "--force")
    assert (code, f"{stack.called} start app:*" in out) == (1, True), out


def test_second_rollout_names_client_of_the_first(start: Callable[..., Stack]):
    stack = start(processes=2)
    assert stack.ctl("rolling_restart", "app", "--no-wait").returncode == 0
    second = stack.ctl("rolling_restart", "app")
    assert (second.returncode, "a rollout of app is already running: rollout 1 by " in second.stdout) == (8, True), (
        second.stdout
    )
    stack.wait_until(lambda: rolling(stack)["status"] == "done", 30.0, "the first rollout is done")


def test_stopped_listener_is_reported(start: Callable[..., Stack]):
    stack = start(processes=2)
    stack.ctl("stop", "rolling")
    code, out = untouched(stack, "rolling_restart", "app")
    assert (code, "the listener is not running" in out) == (7, True), out


def test_listener_without_netfilter_rights_is_reported(start: Callable[..., Stack]):
    stack = start(processes=2, prefix="setpriv --bounding-set=-net_admin,-net_raw --inh-caps=-net_admin,-net_raw ")
    code, out = untouched(stack, "rolling_restart", "app")
    assert (code, "add NET_ADMIN" in out) == (4, True), out


def test_supervisord_without_the_plugin_is_reported(tmp_path_factory: pytest.TempPathFactory):
    directory = tmp_path_factory.mktemp("s")
    controller = plugin.sections(directory / "rolling.yaml").partition("[ctlplugin:")[2].partition("[eventlistener:")[0]
    controller = f"[ctlplugin:{controller}"
    with Stack(directory, Setup(processes=2, supervisor=controller)) as stack:
        code, out = untouched(stack, "rolling_restart", "app")
        assert (code, "[rpcinterface:rolling]" in out) == (3, True), out
        code, out = untouched(stack, "rolling_status")
        assert code == 3


def test_supervisorctl_without_plugin_knows_no_command(start: Callable[..., Stack]):
    stack = start(processes=2)
    text = stack.supervisord_conf.read_text(encoding="utf-8")
    stack.supervisord_conf.write_text(text.replace("[ctlplugin:rolling]", "[another:rolling]"), encoding="utf-8")
    assert "*** Unknown syntax: rolling_restart" in untouched(stack, "rolling_restart", "app")[1]


def test_supervisord_without_rpcinterface_refuses_the_listener(tmp_path_factory: pytest.TempPathFactory):
    directory = tmp_path_factory.mktemp("s")
    sections = plugin.sections(directory / "rolling.yaml").replace("[rpcinterface:rolling]", "[another:rolling]")
    with (
        pytest.raises(StackError, match="Unknown event type ROLLING_REQUEST"),
        Stack(directory, Setup(processes=2, supervisor=sections)),
    ):
        pass


def test_stopped_supervisord_is_reported(start: Callable[..., Stack]):
    stack = start(processes=2)
    stack.stop()
    done = stack.ctl("rolling_restart", "app")
    assert (done.returncode, "does not answer" in done.stdout) == (7, True), done.stdout


def test_xml_rpc_faults_have_their_own_codes(start: Callable[..., Stack]):
    stack = start(processes=2)
    for arguments, code in [(("nope", True, {}), 10), (("app", True, {"max_unavailable": "many"}), 2)]:
        with pytest.raises(xmlrpc.client.Fault) as caught:
            stack.rpc().rolling.restart(*arguments)
        assert caught.value.faultCode == code
    (stack.directory / "rolling.yaml").write_text("groups: {}\n", encoding="utf-8")
    with pytest.raises(xmlrpc.client.Fault) as caught:
        stack.rpc().rolling.restart("app", True, {})
    assert caught.value.faultCode == Fault.NOT_CONFIGURED
