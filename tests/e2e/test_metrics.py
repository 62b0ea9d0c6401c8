"""Metrics for Prometheus: counted in the simulated world, served by a real listener, drawn by conf/grafana.json."""

from __future__ import annotations

import builtins
import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.metrics_snapshot import GroupMetrics, group_metrics
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import GatePolicy, Policy, PortRule
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Status, Step
from supervisor_rolling.listener import prometheus as module
from supervisor_rolling.listener.prometheus import PrometheusMetrics
from tests.support.look import listener_pid, pids
from tests.support.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
LISTEN = "127.0.0.1:9180"
SEEN = Observation(1000.0, {name: Process(name, "RUNNING", pid=100 + n) for n, name in enumerate(("app-1", "app-2"))})


def a_rollout(status: Status = Status.RUNNING, *members: Member, ended: float = 0.0) -> Rollout:
    found = members or (Member("app-1", (tcp(8001),)), Member("app-2", (tcp(8002),)))
    rollout = Rollout(1, "app", Policy("app", PortRule()), found, 1, GatePolicy(), status=status, started_at=1000.0)
    return replace(rollout, ended_at=ended)


def a_watch(*guarded: GuardedProcess) -> GuardState:
    return GuardState("app", Policy("app", PortRule()), GatePolicy(), guarded)


# --- what is counted


def test_processes_have_the_rollout_or_guard_stage() -> None:
    rollout = a_rollout(
        Status.RUNNING, Member("app-1", (tcp(8001),), stage=Stage.DRAINING), Member("app-2", (tcp(8002),))
    )
    guard_state = a_watch(GuardedProcess("app-2", (tcp(8002),), Stage.WARMING, 1.0))
    found = group_metrics((rollout, guard_state), (rollout, guard_state), SEEN, 2)
    assert {stage: number for stage, number in found.stages.items() if number} == {"draining": 1, "warming": 1}
    assert (found.closed_ports, found.remaining) == (2, 2)
    assert group_metrics((None, None), (None, None), SEEN, 0).stages["open"] == 2


def test_rollout_end_is_counted_at_once() -> None:
    before, after = a_rollout(), a_rollout(Status.FAILED, ended=1012.5)
    assert group_metrics((before, None), (after, None), SEEN, 0).ended == "failed"
    assert group_metrics((before, None), (after, None), SEEN, 0).seconds == 12.5
    assert group_metrics((after, None), (after, None), SEEN, 0).ended == ""


def test_each_stage_is_counted_when_it_is_left() -> None:
    way = (Step(Stage.DRAINING, 1000.0), Step(Stage.RESTARTING, 1001.5), Step(Stage.WARMING, 1002.0))
    steps = [a_rollout(Status.RUNNING, Member("app-1", (tcp(8001),), steps=way[:n])) for n in range(4)]
    found = [group_metrics((old, None), (new, None), SEEN, 0).stage_seconds for old, new in zip(steps, steps[1:])]
    assert found == [(), (("draining", 1.5),), (("restarting", 0.5),)]
    assert group_metrics((steps[0], None), (steps[3], None), SEEN, 0).stage_seconds == (
        ("draining", 1.5),
        ("restarting", 0.5),
    )


def test_guard_warmups_are_counted_once() -> None:
    warming = a_watch(GuardedProcess("app-1", (tcp(8001),), Stage.WARMING, 1.0, pid=100))
    assert group_metrics((None, warming), (None, a_watch()), SEEN, 0).guard_warmups == 1
    assert group_metrics(
        (None, warming), (None, a_watch(GuardedProcess("app-1", (tcp(8001),), Stage.READY, 1.0, pid=100))), SEEN, 0
    ).guard_warmups
    for after in (warming, a_watch(GuardedProcess("app-1", (tcp(8001),), Stage.DOWN, 1.0)), None):
        assert group_metrics((None, warming), (None, after), SEEN, 0).guard_warmups == 0
    another = a_watch(GuardedProcess("app-1", (tcp(8001),), Stage.WARMING, 1.0, pid=99))
    assert group_metrics((None, another), (None, a_watch()), SEEN, 0).guard_warmups == 0


# --- how it is served


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def scraped(address: str = LISTEN) -> dict[tuple[str, ...], float]:
    """``{(name, label values …): value}``."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_no_metrics_section_means_no_server() -> None:
    found = PrometheusMetrics(lambda: "")
    assert not found.is_on()
    found.update({"app": GroupMetrics()}, {})


def test_metrics_server_follows_the_policy() -> None:
    selected = [LISTEN]
    found = PrometheusMetrics(lambda: selected[0])
    assert found.is_on()
    found.update({"app": GroupMetrics(stages={"open": 3}, ended="done", seconds=9.0)}, {})
    assert scraped()["supervisor_rolling_rollouts_total", "app", "done"] == 1.0
    selected[0] = "127.0.0.1:9181"
    assert found.is_on()
    assert scraped(selected[0])["supervisor_rolling_rollouts_total", "app", "done"] == 1.0, "what was counted stays"
    with pytest.raises(OSError, match="refused"):
        scraped()
    selected[0] = ""
    found.is_on()
    with pytest.raises(OSError, match="refused"):
        scraped("127.0.0.1:9181")


@pytest.mark.parametrize("address", ["127.0.0.1:9182", "[::1]:9182"])
def test_reconcile_waits_for_no_name_lookup(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def looked_up(*_: object) -> str:
        raise AssertionError("a name server may not answer")

    monkeypatch.setattr(socket, "getfqdn", looked_up)
    selected = [address]
    found = PrometheusMetrics(lambda: selected[0])
    assert found.is_on()
    assert scraped(address) == {}
    selected[0] = ""
    assert not found.is_on()


def test_taken_address_is_logged_once_and_retried(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    found = PrometheusMetrics(lambda: LISTEN, clock)
    with socket.socket() as other, caplog.at_level(logging.WARNING):
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 9180))
        other.listen()
        for _ in range(3):
            found.is_on()
            clock.now += 10.0
    assert [LISTEN in message for message in caplog.messages] == [True]
    assert found.is_on()
    assert scraped() == {}
    found._stop()


def test_missing_prometheus_client_is_logged_with_fix(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usual = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "prometheus_client":
            raise ImportError(name)
        return usual(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with caplog.at_level(logging.WARNING):
        assert not PrometheusMetrics(lambda: LISTEN).is_on()
    assert "pip install prometheus_client" in caplog.text


def test_removed_group_keeps_only_its_counters() -> None:
    found = PrometheusMetrics(lambda: LISTEN)
    assert found.is_on()
    found.update({"app": GroupMetrics(stages={stage.value: 0 for stage in Stage}, ended="done", seconds=1.0)}, {})
    found.update({}, {})
    names = {key[:2] for key in scraped()}
    assert ("supervisor_rolling_processes", "app") not in names
    assert ("supervisor_rolling_rollouts_total", "app") in names
    found._stop()


# --- clients that send nothing, and many of them


@pytest.fixture
def served() -> Iterator[None]:
    selected = [LISTEN]
    found = PrometheusMetrics(lambda: selected[0])
    assert found.is_on()
    yield
    selected[0] = ""
    found.is_on()


def connected() -> socket.socket:
    return socket.create_connection(("127.0.0.1", 9180), timeout=20.0)


def threads() -> int:
    return threading.active_count()


@pytest.mark.usefixtures("served")
def test_idle_connections_delay_no_scrape() -> None:
    before = threads()
    with ExitStack() as stack:
        idle = [stack.enter_context(connected()) for _ in range(60)]
        assert scraped() == {}
        assert threads() - before <= 2 * module.MAX_CONNECTIONS
        assert idle[0].recv(1) == b"", "the oldest is closed first"


@pytest.mark.usefixtures("served")
def test_connection_below_the_limit_stays_open() -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(connected()) for _ in range(module.MAX_CONNECTIONS - 1)]
        assert scraped() == {}
        for one in idle:
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.recv(1)


def test_end_of_the_server_closes_its_connections() -> None:
    found = PrometheusMetrics(lambda: LISTEN)
    assert found.is_on()
    with connected() as idle:
        assert scraped() == {}, "the connection before it was accepted"
        found._stop()
        assert idle.recv(1) == b""


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\n"])
def test_connection_without_a_whole_request_is_closed(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTION_TIMEOUT", 0.2)
    with connected() as slow:
        slow.sendall(sent)
        assert slow.recv(1000) == b""


@pytest.mark.usefixtures("served")
def test_trickling_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTION_TIMEOUT", 0.3)
    with connected() as slow:
        slow.settimeout(0.02)
        for _ in range(1000):
            with contextlib.suppress(TimeoutError):
                assert slow.recv(1) == b""
                break
            slow.sendall(b"x")
        else:
            pytest.fail("it was never closed")


OUT_OF_DESCRIPTORS = """
import os, resource, socketserver, sys, time
from supervisor_rolling.listener.prometheus import PrometheusMetrics
metrics = PrometheusMetrics(lambda: "127.0.0.1:9180")
assert metrics.is_on()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
free = os.open("/dev/null", os.O_RDONLY)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
print("full", flush=True)
sys.stdin.readline()
accepted, tries = socketserver.TCPServer.get_request, []
socketserver.TCPServer.get_request = lambda server: tries.append(1) or accepted(server)
while not tries:
    time.sleep(0.01)
time.sleep(1.0)
print(len(tries), flush=True)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
sys.stdin.readline()
"""


def test_server_without_descriptors_tries_seldom_and_recovers() -> None:
    command = [sys.executable, "-c", OUT_OF_DESCRIPTORS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "full\n"
        with connected():
            print("connected", file=child.stdin, flush=True)
            assert int(child.stdout.readline()) < 10, "tries in a second"
            assert scraped() == {}
        child.stdin.close()


# --- with a real group


def test_listener_of_few_descriptors_outlives_many_idle_clients(light: Callable[..., Stack]) -> None:
    stack = light(processes=2, prefix="prlimit --nofile=64 ", metrics={"listen": LISTEN})
    listener = listener_pid(stack)
    with ExitStack() as idle:
        for _ in range(100):
            idle.enter_context(connected())
        assert scraped()["supervisor_rolling_processes", "app", "open"] == 2
        assert stack.ctl("rolling_restart", "app").returncode == 0
        assert scraped()["supervisor_rolling_rollouts_total", "app", "done"] == 1
    assert listener_pid(stack) == listener


def test_a_rollout_and_a_crash_are_counted(light: Callable[..., Stack]) -> None:
    stack = light(processes=3, metrics={"listen": LISTEN})
    assert stack.ctl("rolling_restart", "app").returncode == 0
    name = "supervisor_rolling_"
    before = scraped()[f"{name}guard_warmups_total", "app"]
    os.kill(pids(stack)[2], signal.SIGKILL)
    stack.wait_until(lambda: scraped()[f"{name}guard_warmups_total", "app"] > before, 20.0, "the guard has warmed it")
    stack.wait_until(lambda: scraped()[f"{name}processes", "app", "open"] == 3, 10.0, "all are open")
    found = scraped()
    assert found[f"{name}rollouts_total", "app", "done"] == 1
    assert found[f"{name}rollout_seconds_count", "app", "done"] == 1
    for stage in ("draining", "restarting", "warming"):
        assert found[f"{name}stage_seconds_count", "app", stage] == 3
    assert found[f"{name}processes", "app", "open"] == 3
    assert (found[f"{name}closed_ports", "app"], found[f"{name}remaining_processes", "app"]) == (0, 0)
    assert found[f"{name}warmup_request_seconds_count", "app"] >= 4
    assert found[f"{name}warmup_failures_total", "app"] == 0


def test_dashboard_uses_only_existing_metrics() -> None:
    board = json.loads((ROOT / "conf" / "grafana.json").read_text(encoding="utf-8"))
    asked = {name for panel in board["panels"] for target in panel["targets"] for name in _names(target["expr"])}
    found = PrometheusMetrics(lambda: LISTEN)
    assert found.is_on()
    stages = {stage.value: 1 for stage in Stage}
    found.update({"app": GroupMetrics(stages, 1, 1, "done", 1.0, (("draining", 1.0),), 1)}, {})
    found._series.add_warmup("app", module.WarmupStatus(1, "warm", latencies=(1.0,)))  # type: ignore[union-attr]  # it is on
    counted = {key[0] for key in scraped()}
    found._stop()
    assert asked <= counted
    assert {name for name in counted if not name.endswith(("_sum", "_created", "_count"))} <= asked


def _names(expression: str) -> list[str]:
    return re.findall(r"supervisor_rolling_\w+", expression)
