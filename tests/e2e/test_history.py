"""The history of a real supervisord: clients, what is kept when it is killed, forecasts, and the page of a
rollout."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from supervisor_rolling.core.errors import Fault
from supervisor_rolling.core.policy import HistoryPolicy
from supervisor_rolling.listener.history_file import FileHistory
from tests.e2e.test_deaths import end_with_force, forget_rules
from tests.support import plugin
from tests.support.look import listener_pid, rolling, wait_open
from tests.support.stack import Stack
from tests.support.variants import first
from tests.support.waiting import wait_until

USER, PASSWORD = "deploy", "secret"


def history(stack: Stack, *words: str) -> list[dict[str, Any]]:
    """``rolling_history --json``."""
    done = stack.ctl("rolling_history", *words, "--json")
    assert done.returncode == 0, done.stdout
    found: list[dict[str, Any]] = json.loads(done.stdout)["rollouts"]
    return found


def test_history_lists_client_time_and_result(start: Callable[..., Stack]) -> None:
    stack = start(processes=2)
    before = time.time()
    assert stack.ctl("rolling_restart", "app").returncode == 0
    stack.fault("500")
    assert stack.ctl("rolling_restart", "app").returncode == 1
    stack.fault()
    first, second = history(stack)
    assert [first["id"], second["id"]] == [1, 2]
    assert [first["status"], second["status"]] == ["done", "failed"]
    assert before <= first["began"] <= second["began"] <= time.time()
    assert (first["user"], first["client"], first["by"].partition("@")[0]) == ("root", "unix socket", "root")
    printed = stack.ctl("rolling_history", "app").stdout.splitlines()
    assert printed[0].split() == ["ROLLOUT", "GROUP", "STARTED", "STATUS", "REPLACED", "TOOK", "BY", "WHY"]
    assert [line.split()[0] for line in printed[1:]] == ["1", "2"]
    assert "is not warm" in printed[2]
    assert [one["id"] for one in history(stack, "--number", "1")] == [2]


def test_no_rollout_is_lost_when_supervisord_is_killed(light: Callable[..., Stack]) -> None:
    stack = light(processes=3, min_ready_seconds=3)
    assert stack.ctl("rolling_restart", "app", "--no-wait").returncode == 0
    stack.wait_until(lambda: rolling(stack)["replaced"] == 1, 30, "one is replaced")
    os.kill(stack.supervisord_pid, signal.SIGKILL)
    file = stack.directory / "rollouts.jsonl"
    wait_until(lambda: len(file.read_text().splitlines()) == 2, "its end is in the history")
    end_with_force(stack)
    begun, ended = map(json.loads, file.read_text().splitlines())
    assert (begun["status"], ended["status"], ended["replaced"], ended["total"]) == ("running", "lost", 1, 3)
    assert [stage for stage, _ in ended["processes"][0]["stages"]][:2] == ["draining", "restarting"]


def test_no_rollout_is_lost_when_both_are_killed(light: Callable[..., Stack]) -> None:
    stack = light(processes=2, min_ready_seconds=3)
    assert stack.ctl("rolling_restart", "app", "--no-wait").returncode == 0
    stack.wait_until(lambda: rolling(stack)["replaced"] == 1, 30, "one is replaced")
    listener = listener_pid(stack)
    os.kill(listener, signal.SIGSTOP)  # or it would hear of the other's death
    os.kill(stack.supervisord_pid, signal.SIGKILL)
    os.kill(listener, signal.SIGKILL)
    end_with_force(stack)
    forget_rules()
    file = stack.directory / "rollouts.jsonl"
    assert [json.loads(line)["status"] for line in file.read_text().splitlines()] == ["running"]


def kept(stack: Stack) -> list[dict[str, Any]]:
    """The lines of the file."""
    return [json.loads(line) for line in (stack.directory / "rollouts.jsonl").read_text().splitlines()]


def rollout_with_one_replaced(light: Callable[..., Stack]) -> Stack:
    stack = light(processes=3, min_ready_seconds=3)
    assert stack.ctl("rolling_restart", "app", "--no-wait").returncode == 0
    stack.wait_until(lambda: rolling(stack)["replaced"] == 1, 30, "one is replaced")
    return stack


@pytest.mark.parametrize("way", first(1, ["SIGTERM", "shutdown"]))
def test_shutdown_records_progress_of_the_rollout(light: Callable[..., Stack], way: str) -> None:
    stack = rollout_with_one_replaced(light)
    if way == "shutdown":
        assert stack.ctl("shutdown").returncode == 0
    else:
        os.kill(stack.supervisord_pid, signal.SIGTERM)
    stack.wait_until(lambda: len(kept(stack)) == 2, 30, "the listener has written it")
    stack.stop()
    later = FileHistory("", lambda: HistoryPolicy(file=str(stack.directory / "rollouts.jsonl")))
    later.keep([])
    (one,) = later.summaries("app", 5)
    assert (one.status.value, one.replaced, one.total) == ("lost", 1, 3)
    assert one.seconds > 3.0


def test_reload_records_progress_of_the_rollout(light: Callable[..., Stack]) -> None:
    stack = rollout_with_one_replaced(light)
    assert stack.ctl("reload").returncode == 0
    stack.wait_serving()
    stack.wait_until(lambda: [one["status"] for one in history(stack)] == ["lost"], 30, "it is lost")
    (one,) = history(stack)
    assert (one["replaced"], one["total"]) == (1, 3)
    assert one["seconds"] > 3.0
    assert kept(stack)[-1]["processes"][0]["replaced"]


def test_next_listener_finishes_the_rollout(light: Callable[..., Stack]) -> None:
    stack = rollout_with_one_replaced(light)
    assert stack.ctl("stop", "rolling").returncode == 0
    assert [(line["status"], line["replaced"]) for line in kept(stack)] == [("running", 0), ("running", 1)]
    assert stack.ctl("start", "rolling").returncode == 0
    stack.wait_until(lambda: [one["status"] for one in history(stack)] == ["done"], 60, "it is done")
    assert history(stack)[0]["replaced"] == 3


def test_resumed_rollout_records_duration_and_idle_time(light: Callable[..., Stack]) -> None:
    stack = light(processes=2)
    stack.fault("500")
    assert stack.ctl("rolling_restart", "app").returncode == 1
    failed = kept(stack)[-1]
    stack.fault()
    before = time.time()
    assert stack.ctl("rolling_resume", "app").returncode == 0
    took = time.time() - failed["began"]
    (one,) = history(stack)
    assert (one["status"], one["replaced"]) == ("done", 2)
    ((begin, end, why),) = kept(stack)[-1]["interruptions"]
    assert (begin, why) == (failed["seconds"], failed["why"])
    assert end >= before - failed["began"] - 0.1
    assert one["interrupted"] == pytest.approx(end - begin, abs=0.002)
    assert failed["seconds"] < one["seconds"] <= took - one["interrupted"] + 0.1
    assert ", resumed after " in stack.ctl("rolling_history", "app").stdout


def test_killed_listener_writes_no_record_twice(light: Callable[..., Stack]) -> None:
    stack = light(processes=3)
    assert stack.ctl("rolling_restart", "app", "--no-wait").returncode == 0
    stack.wait_until(lambda: rolling(stack)["replaced"] >= 1, 30, "one is replaced")
    os.kill(listener_pid(stack), signal.SIGKILL)
    stack.wait_until(lambda: rolling(stack)["status"] == "done", 60, "the rollout is done")
    stack.wait_until(lambda: [one["status"] for one in history(stack)] == ["done"], 20, "it is kept")
    lines = [json.loads(line) for line in (stack.directory / "rollouts.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["running", "done"]
    assert all(process["stages"] for process in lines[1]["processes"])


def test_numbers_and_forecasts_outlive_supervisord(light: Callable[..., Stack]) -> None:
    stack = light(processes=3)
    assert "It would take" not in stack.ctl("rolling_restart", "app", "--dry-run").stdout
    first = stack.ctl("rolling_restart", "app")
    assert "forecast" not in first.stdout
    assert stack.ctl("reload").returncode == 0
    stack.wait_serving()
    wait_open(stack)
    assert f"Earlier ones: {stack.called} rolling_history app" in stack.ctl("rolling_status", "app").stdout
    planned = stack.ctl("rolling_restart", "app", "--dry-run")
    assert re.search(r"It would take about \d+ s, as the last rollouts did", planned.stdout), planned.stdout
    second = stack.ctl("rolling_restart", "app")
    assert "(rollout 2)" in second.stdout
    assert re.search(r"replaced in [\d.]+ s \((\d+ % (more|less) than|as) forecast\)", second.stdout), second.stdout


def test_network_client_is_named_by_its_user(start: Callable[..., Stack]) -> None:
    inet = f"[inet_http_server]\nport = 127.0.0.1:9001\nusername = {USER}\npassword = {PASSWORD}\n"
    stack = start(processes=2, setup={"program": f"stopwaitsecs = 30\n{inet}[program:idle]\ncommand = sleep 600\n"})
    url = ("-s", "http://127.0.0.1:9001", "-u", USER, "-p", PASSWORD)
    done = stack.ctl(*url, "rolling_restart", "app")
    assert done.returncode == 0, done.stdout
    (one,) = history(stack)
    assert (one["user"], one["client"]) == (USER, "127.0.0.1")
    assert f"as {USER} from 127.0.0.1" in stack.ctl("rolling_history").stdout


def test_report_takes_number_group_or_nothing(light: Callable[..., Stack]) -> None:
    stack = light(processes=2)
    assert stack.ctl("rolling_restart", "app").returncode == 0
    assert stack.ctl("rolling_restart", "app:app-8000").returncode == 0
    for words, number in (([], 2), (["1"], 1), (["app"], 2)):
        done = stack.ctl("rolling_report", *words)
        assert (done.returncode, done.stdout[:15].lower()) == (0, "<!doctype html>"), done.stdout[:200]
        record = json.loads(stack.ctl("rolling_report", *words, "--json").stdout)
        assert record["id"] == number
    process = record["processes"][0]
    assert [stage for stage, _ in process["stages"]] == ["draining", "restarting", "warming", "ready", "open"]
    assert len(process["latencies_ms"]) == process["requests"] > 0
    assert [level for _, level in record["availability"]] == [2, 1, 2]


def test_running_rollout_has_a_report(light: Callable[..., Stack]) -> None:
    stack = light(processes=2, min_ready_seconds=20)
    assert stack.ctl("rolling_restart", "app", "--no-wait").returncode == 0
    stack.wait_until(lambda: rolling(stack)["processes"][0]["stage"] == "ready", 30, "one is ready")
    record = json.loads(stack.ctl("rolling_report", "--json").stdout)
    assert (record["status"], record["processes"][0]["stages"][-1][0]) == ("running", "ready")
    (listed,) = json.loads(stack.ctl("rolling_history", "--json").stdout)["rollouts"]
    assert (listed["status"], listed["seconds"] > 0, listed["processes"]) == ("running", True, []), listed
    assert stack.ctl("rolling_abort", "app").returncode == 0


MISSING = [
    (["rolling_report", "7"], 1, "no rollout 7 is known"),
    (["rolling_report", "0"], 5, "no such group or process: 0"),
    (["rolling_report", "app:app-8000"], 2, "a whole group is needed, and app:app-8000 is one of 2"),
    (["rolling_report", "missing"], 5, "no such group or process: missing"),
    (["rolling_report", "app"], 1, "no rollout of app is known"),
    (["rolling_history", "missing"], 5, "no such group"),
    (["rolling_history", "--number", "0"], 2, "'0' is not a number from 1 to 500"),
    (["rolling_history"], 0, "No rollout is known."),
    (["rolling_status", "app"], 0, "No rollout of app since supervisord started.\n"),
]


def test_missing_rollout_or_group_is_named(light: Callable[..., Stack]) -> None:
    stack = light(processes=2)
    for words, status, why in MISSING:
        done = stack.ctl(*words)
        said = done.stderr if words[0] == "rolling_report" else done.stdout  # that one's output is to be a page
        assert (done.returncode, why in said) == (status, True), done.stdout


def test_unwritable_history_is_logged_and_rollout_continues(light: Callable[..., Stack]) -> None:
    stack = light(processes=2, history={"file": "/proc/rollouts.jsonl"})
    assert stack.ctl("rolling_restart", "app").returncode == 0
    assert [one["status"] for one in history(stack)] == ["done"]  # as long as this listener lives
    assert "cannot be written to /proc/rollouts.jsonl" in stack.ctl("tail", "-9000", "rolling", "stderr").stdout


def test_xml_rpc_returns_the_same_history(light: Callable[..., Stack]) -> None:
    stack = light(processes=2, setup={"program": "stopwaitsecs = 30\n[program:idle]\ncommand = sleep 600\n"})
    assert stack.ctl("rolling_restart", "app").returncode == 0
    rpc: Any = stack.rpc()
    (one,) = rpc.rolling.getHistory("app", 5)
    for asked in ((), ("app",), ("app", 1), ("", 1)):
        assert json.loads(rpc.rolling.getRecord(*asked))["id"] == one["id"] == 1
    for asked in (("", 9), ("app", 9), ("idle", 1)):
        with pytest.raises(Exception, match=str(Fault.NO_ROLLOUT_KNOWN)):
            rpc.rolling.getRecord(*asked)


def test_group_named_like_a_rollout_number_is_found(
    light: Callable[..., Stack],
) -> None:
    stack = light(processes=2, setup={"program": "stopwaitsecs = 30\n[program:1]\ncommand = sleep 600\n"})
    assert stack.ctl("rolling_restart", "app").returncode == 0
    rpc: Any = stack.rpc()
    with pytest.raises(Exception, match="no rollout of 1 is known"):
        rpc.rolling.getRecord("1")
    assert json.loads(stack.ctl("rolling_report", "1", "--json").stdout)["group"] == "app"
    assert "no rollout of 1 is known" in stack.ctl("rolling_report", "1:*").stderr


def test_the_policy_says_where() -> None:
    assert "history: false" in plugin.policy()
