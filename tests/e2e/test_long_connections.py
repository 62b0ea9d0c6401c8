"""Connections that outlast the drain, on a real stack: what happens to them, and what the operator sees.

One process of two is restarted while an upload, a stream, a WebSocket or an idle keepalive is open to it. The clients
send or receive a little every MOVE_EVERY seconds, and note when their connection ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.lingering import (
    PATIENCE,
    EndedError,
    Keepalive,
    Lasting,
    Stream,
    Upload,
    WebSocket,
    first_rule,
    unreachable,
)
from tests.support.look import (
    listener_log,
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
from tests.support.stack import Stack
from tests.support.variants import first

PORT = 8000
TIMEOUT = 1.5
UPGRADE = """
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection upgrade;
"""
LONG = 20.0
"""A drain.timeout that is not reached."""

MOVE_EVERY = 0.05
KINDS = [Stream, Keepalive, Upload, WebSocket]
LAST_BYTE = {
    Upload: "last byte received",
    Stream: "last byte sent",
    WebSocket: "last byte (sent|received)",  # received, in the moment between a text and its echo
    Keepalive: "last byte sent",
}

every_kind = pytest.mark.parametrize("kind", first(2, KINDS), ids=lambda kind: kind.__name__.lower())


@dataclass
class Restarted:
    """A rollout of app-8000 that has ended. ``began`` is before it, ``ended`` has when which client was ended."""

    began: float
    ended: dict[str, float] = field(default_factory=dict)
    status: int = -1
    out: str = ""
    rollout: Any = None

    @property
    def process(self) -> Any:
        return self.rollout["processes"][0]


def light(start: Callable[..., Stack], nginx: str = "", upstream: str = "", **drain: Any) -> Stack:
    """Two processes of the light application with this drain policy, warm and open. ``nginx``: in its server block."""
    setup = {"application": "tests.support.light_app", "startsecs": 0, "balance": "least_conn;", "server": nginx}
    policy = {"min_ready_seconds": 0, "drain": drain, "warmup": {"timeout": 20, "ready": "/health", "requests": ["/"]}}
    stack = start(processes=2, setup={**setup, "upstream": upstream}, **policy)
    wait_open(stack)
    return stack


def begun(stack: Stack) -> tuple[Restarted, subprocess.Popen[str]]:
    """A rollout of the first process, and the supervisorctl that shows it."""
    return Restarted(time.monotonic()), popen_ctl(stack, "rolling_restart", "app:app-8000")


def restarted(stack: Stack, *clients: Lasting) -> Restarted:
    """Restart the first process while the clients move."""
    return outlived(stack, *begun(stack), *clients)


def outlived(stack: Stack, result: Restarted, ctl: subprocess.Popen[str], *clients: Lasting) -> Restarted:
    """The rollout at its end, which comes within its deadlines or the test fails."""
    while ctl.poll() is None:
        assert time.monotonic() - result.began < 60, f"the rollout does not end\n{stack.logs()}"
        note_ends(result, clients)
        time.sleep(MOVE_EVERY)
    note_ends(result, clients)
    result.out, _ = ctl.communicate(timeout=5)
    result.status, result.rollout = ctl.returncode, rolling(stack)
    return result


def note_ends(result: Restarted, clients: tuple[Lasting, ...]) -> None:
    for client in clients:
        if client.peer not in result.ended:
            try:
                client.move()
            except EndedError:
                result.ended[client.peer] = time.monotonic()


def lingering_in(out: str) -> dict[str, str]:
    """What the operator's output says of each connection that was left, by peer."""
    return dict(re.findall(r"^ {10}(\S+:\d+) (.*)$", out, re.MULTILINE))


# --- on_timeout: continue, fail


@every_kind
def test_drain_timeout_restarts_and_lists_connections(start: Callable[..., Stack], kind: type[Lasting]):
    stack = light(start, timeout=TIMEOUT, on_timeout="continue")
    before = pids(stack)
    with kind(PORT) as client:
        opened = time.monotonic()
        done = restarted(stack, client)
        peer, age = client.peer, done.ended[client.peer] - opened
    assert (done.status, done.rollout["status"]) == (0, "done"), done.out
    assert TIMEOUT <= done.process["drained"] <= TIMEOUT + 1
    assert done.ended[peer] - done.began >= TIMEOUT
    assert pids(stack)[0] not in before
    assert pids(stack)[1] == before[1]
    assert re.search(r"^app-8000  drained [12]\.\d s \(1 connection left\) · .* · open$", done.out, re.MULTILINE)
    assert re.fullmatch(rf"open at least \S+ s, {LAST_BYTE[kind]} (just now|\S+ s ago)", lingering_in(done.out)[peer])
    (left,) = done.process["oldest_lingering"]
    assert (done.process["lingering_connections"], left["peer"], left["state"]) == (1, peer, "")
    assert TIMEOUT <= left["age"] <= age + 0.2
    assert (left["idle"] < 0.5) is (kind is not Keepalive)
    assert f"1 connection left; {peer} open at least" in listener_log(stack)


@every_kind
def test_on_timeout_fail_keeps_process_and_connection(start: Callable[..., Stack], kind: type[Lasting]):
    stack = light(start, timeout=TIMEOUT, on_timeout="fail")
    before = pids(stack)
    with kind(PORT) as client:
        done = restarted(stack, client)
        assert done.ended == {}
        assert client.works()
        assert not refuses(PORT)
    assert (done.status, done.rollout["status"]) == (1, "failed"), done.out
    assert pids(stack) == before
    assert rules() == []
    assert done.process["stage"] == "open"
    assert TIMEOUT <= done.rollout["seconds"] <= TIMEOUT + 1
    why = done.process["why"]
    assert f"still had 1 connection to port {PORT} after {TIMEOUT:g} s of drain ({client.peer} open at least " in why
    assert re.search(rf"open at least \S+ s, {LAST_BYTE[kind]} ", why)
    assert "so it was not stopped and keeps serving traffic (drain.on_timeout: fail)" in why
    assert f"app-8000  FAILED: {why}" in done.out
    assert "raise drain.timeout" in done.out
    assert done.out.endswith("rolling_resume app\n")
    assert [left["peer"] for left in done.process["oldest_lingering"]] == [client.peer]


def test_three_connections_of_different_kinds_are_three(start: Callable[..., Stack]):
    stack = light(start, timeout=TIMEOUT, on_timeout="continue")
    with Upload(PORT) as upload, Stream(PORT) as stream, WebSocket(PORT) as websocket:
        done = restarted(stack, upload, stream, websocket)
    assert (done.status, done.process["lingering_connections"]) == (0, 3), done.out
    assert "(3 connections left)" in done.out
    assert set(lingering_in(done.out)) == {upload.peer, stream.peer, websocket.peer}
    assert set(done.ended) == {upload.peer, stream.peer, websocket.peer}


def test_reconnecting_websockets_count_once_per_cut(start: Callable[..., Stack]):
    """Twelve, through nginx, of which each reconnects at once: to one of the others, which may be next."""
    stack = light(start, UPGRADE, timeout=TIMEOUT, on_timeout="continue")
    over = threading.Event()
    cuts: list[int] = []

    def keep_connected() -> None:
        while not over.is_set():
            with contextlib.suppress(EndedError), WebSocket(stack.setup.nginx_port) as client:
                connected.release()
                while not over.wait(MOVE_EVERY):
                    client.move()
            if not over.is_set():
                cuts.append(1)

    connected = threading.Semaphore(0)
    clients = [threading.Thread(target=keep_connected) for _ in range(12)]
    for thread in clients:
        thread.start()
    for _ in clients:
        assert connected.acquire(timeout=PATIENCE)
    done = stack.ctl("rolling_restart", "app")
    over.set()
    for thread in clients:
        thread.join()
    left = [process["lingering_connections"] for process in rolling(stack)["processes"]]
    assert done.returncode == 0, done.stdout
    assert (sum(left), len(left)) == (len(cuts), 2)
    assert len(cuts) > 12, "those that moved to the second process were cut there again"


def test_resume_works_once_the_connection_has_ended(start: Callable[..., Stack]):
    stack = light(start, timeout=TIMEOUT, on_timeout="fail")
    with WebSocket(PORT) as websocket:
        assert restarted(stack, websocket).status == 1
    resumed = stack.ctl("rolling_resume", "app")
    assert resumed.returncode == 0, resumed.stdout
    process = rolling(stack)["processes"][0]
    assert (process["replaced"], process["lingering_connections"], process["oldest_lingering"]) == (True, 0, [])


# --- what ends within the drain loses nothing

NGINX = """
        location /stream { proxy_pass http://127.0.0.1:8000; proxy_http_version 1.1; proxy_buffering off; }
        location /upload { proxy_pass http://127.0.0.1:8000; proxy_request_buffering off; }
"""


@pytest.mark.parametrize("port", first(1, [8080, PORT]), ids=["through nginx", "directly"])
def test_upload_within_drain_is_answered_before_restart(start: Callable[..., Stack], port: int):
    stack = light(start, NGINX, timeout=LONG)
    with Upload(port, length=80) as upload:
        done = restarted(stack, upload)
        assert upload.is_answered()
    assert_drained_until(done, done.ended[upload.peer])


@pytest.mark.parametrize("way", first(2, ["half-closed", "through nginx", "directly"]))  # nginx ends half-closed
def test_stream_within_drain_is_complete_before_restart(start: Callable[..., Stack], way: str):
    stack = light(start, NGINX, timeout=LONG)
    with Stream(8080 if way == "through nginx" else PORT, seconds=4.0) as stream:
        if way == "half-closed":
            stream.end_sending()
        done = restarted(stack, stream)
        assert stream.is_whole(), stream.received
    assert_drained_until(done, done.ended[stream.peer])


def assert_drained_until(done: Restarted, end: float) -> None:
    """The drain, which began a little after the rollout was asked for, was over when the connection was."""
    assert (done.status, done.process["lingering_connections"]) == (0, 0), done.out
    assert "left)" not in done.out
    assert 1.0 <= done.process["drained"] <= end - done.began + 0.3


def test_drain_min_is_kept_without_connections(start: Callable[..., Stack]):
    stack = light(start, timeout=LONG, min_seconds=TIMEOUT)
    with Stream(PORT, seconds=0.4) as stream:
        done = restarted(stack, stream)
        assert stream.is_whole()
    assert done.status == 0
    assert TIMEOUT <= done.process["drained"] <= TIMEOUT + 0.5


# --- which connections are reported


def test_vanished_client_is_reported_at_drain_timeout(
    start: Callable[..., Stack],
):
    stack = light(start, timeout=TIMEOUT, on_timeout="continue")
    with Stream(PORT) as stream, unreachable(stream.peer):
        done = restarted(stack)
    assert (done.status, done.process["lingering_connections"]) == (0, 1), done.out
    assert lingering_in(done.out)[stream.peer].endswith(", the client does not read its answer")


@pytest.mark.parametrize("kind", first(1, [Upload, WebSocket]), ids=["upload", "websocket"])
def test_new_listener_reports_age_as_at_least(start: Callable[..., Stack], kind: type[Lasting]):
    stack = light(start, timeout=TIMEOUT, on_timeout="continue")
    with kind(PORT) as client:
        opened = time.monotonic()
        result, ctl = begun(stack)
        draining = wait_stage(stack, "draining")
        while draining["seconds"] < TIMEOUT / 2:
            client.move()
            draining = wait_stage(stack, "draining")
        os.kill(listener_pid(stack), signal.SIGKILL)
        done = outlived(stack, result, ctl, client)
        age = done.ended[client.peer] - opened
    assert (done.status, done.process["lingering_connections"]) == (0, 1), done.out
    (left,) = done.process["oldest_lingering"]
    assert TIMEOUT <= left["age"] <= age + 0.2
    assert (left["age"] >= done.process["drained"]) is (kind is Upload)  # of which the kernel knows since when


# --- a load balancer's pool

POOL = """
        proxy_http_version 1.1;
        proxy_set_header Connection "";
"""


def test_idle_pool_is_reported_as_idle(start: Callable[..., Stack]):
    stack = light(start, POOL, "keepalive 8;", timeout=TIMEOUT, on_timeout="continue")
    with ThreadPoolExecutor(8) as pool:
        assert {reply.status for reply in pool.map(lambda _: stack.ask(8080, "/"), range(40))} == {200}
    done = restarted(stack)
    assert done.status == 0, done.out
    assert 1 <= done.process["lingering_connections"] <= 8
    for one in done.process["oldest_lingering"]:
        assert (one["last"], one["state"]) == ("sent", "")
        assert one["idle"] >= TIMEOUT
    assert len(lingering_in(done.out)) == len(done.process["oldest_lingering"])


def test_pooled_requests_are_no_new_connections(start: Callable[..., Stack]):
    stack = light(start, POOL, "keepalive 8;", timeout=TIMEOUT, on_timeout="fail", keepalive="ignore")
    before = pids(stack)
    with users(stack, posts=0.0) as load:
        done = restarted(stack)
    assert (done.status, pids(stack)) == (1, before), done.out
    assert "of drain (127.0.0.1:" in done.process["why"]
    assert "new connections" not in done.out
    assert load.report().failures == {}


def test_new_connection_differs_from_existing_ones(start: Callable[..., Stack]):
    stack = light(start, timeout=LONG)
    before = pids(stack)
    with Keepalive(PORT) as old:
        result, ctl = begun(stack)
        stack.wait_until(  # a connection that comes before the drain has found the old one counts as old, too
            lambda: wait_stage(stack, "draining")["lingering_connections"] == 1, 10.0, "the old connection is found"
        )
        with first_rule("-p", "tcp", "--dport", str(PORT), "-j", "ACCEPT"), Keepalive(PORT) as new:
            done = outlived(stack, result, ctl, old, new)
    assert (done.status, pids(stack), done.ended) == (1, before, {})
    assert f"still receives new connections although its port is closed (from {new.peer} to port {PORT})" in done.out
