"""HAProxy instead of a firewall: the real one, with connections kept, and half of the requests POSTs that take a while.

Every listener here runs without any capability, so that nothing can be done by netfilter or a socket's mark.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import haproxy
from tests.support.look import (
    assert_no_failures,
    listener_pid,
    pids,
    popen_ctl,
    rolling,
    users,
    wait_ended,
    wait_stage,
)
from tests.support.stack import Stack
from tests.support.variants import first

READY, MAINTENANCE, DRAINED = 0, 1, 8
STICKY = {
    "cookie": "cookie SRV insert indirect nocache dynamic\n    dynamic-cookie-key k",
    "stick-table": "stick-table type ip size 1k expire 1h\n    stick on src",
}
NO_RIGHTS = "setpriv --bounding-set=-all --inh-caps=-all "
PURGED_AFTER = 5.0
"""Seconds after which HAProxy closes connections that it keeps idle: a drain that waits for these takes as long."""


@pytest.fixture
def group(light: Callable[..., Stack]) -> Callable[..., Stack]:
    """A light group behind HAProxy."""

    def group(upstream: str = "", **given: Any) -> Stack:
        setup = {"balancer": "haproxy", "upstream": upstream}
        return light(setup=setup, prefix=NO_RIGHTS, **{"gate": haproxy.gate("%(here)s"), **given})

    return group


@contextlib.contextmanager
def held(stack: Stack, seconds: float = 30.0) -> Iterator[tuple[str, socket.socket]]:
    """A stream through HAProxy, with the name of the process that it comes from; it is cut when the block ends."""
    with socket.create_connection(("127.0.0.1", stack.setup.nginx_port), timeout=10.0) as stream:
        stream.sendall(f"GET /stream?seconds={seconds}&every=0.1 HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert stream.recv(100).startswith(b"HTTP/1.1 200")
        (busy,) = [name for name, row in haproxy.statistics(stack).items() if row["scur"] == "1"]
        yield busy, stream


class StickyUsers:
    """Users that each ask again as soon as they are answered, from an address of their own and with the cookie that
    they were given. ``answers``: the status and the process of each."""

    def __init__(self, stack: Stack, number: int, request: str) -> None:
        self.answers: list[tuple[int, str]] = []
        self._port = stack.setup.nginx_port
        self._method, self._path = request.split()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(f"127.0.1.{n + 1}",)) for n in range(number)]

    def __enter__(self) -> StickyUsers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def processes(self) -> set[str]:
        """The pids that have answered."""
        return {pid for _, pid in self.answers}

    def failed(self) -> list[tuple[int, str]]:
        """The answers that are not 200; 0 where there was none."""
        return [answer for answer in self.answers if answer[0] != 200]

    def _ask(self, address: str) -> None:
        cookie = ""
        while not self._is_over.wait(0.01):
            status, pid, cookie = self._one(address, cookie)
            self.answers.append((status, pid))

    def _one(self, address: str, cookie: str) -> tuple[int, str, str]:
        client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10.0, source_address=(address, 0))
        try:
            client.request(self._method, self._path, headers={"Cookie": cookie} if cookie else {})
            answer = client.getresponse()
            answer.read()
            given = answer.headers.get("Set-Cookie", cookie).split(";")[0]
            return answer.status, answer.headers.get("X-Pid", ""), given
        except (OSError, http.client.HTTPException):
            return 0, "", cookie
        finally:
            client.close()


def read_to_the_end(stream: socket.socket) -> None:
    """Of a chunked answer; one that is cut fails the test."""
    found = b""
    while not found.endswith(b"0\r\n\r\n"):
        data = stream.recv(65536)
        assert data, "the stream was cut"
        found += data
    assert b"the end" in found


def drained(stack: Stack) -> list[str]:
    return [name for name, state in haproxy.states(stack).items() if state == DRAINED]


def in_maintenance(stack: Stack) -> list[str]:
    return [name for name, state in haproxy.states(stack).items() if state == MAINTENANCE]


def all_ready(stack: Stack) -> bool:
    return set(haproxy.states(stack).values()) == {READY}


def wait_drained(stack: Stack, name: str) -> None:
    stack.wait_until(lambda: drained(stack) == [name], 5.0, f"{name} is drained")


def begin_to_replace(stack: Stack, name: str) -> None:
    """Until it is drained, and waits for what it has in flight."""
    assert stack.ctl("rolling_restart", f"app:{name}", "--no-wait").returncode == 0
    wait_stage(stack, "draining", name)
    wait_drained(stack, name)


def pid_of(stack: Stack, name: str) -> int:
    return next(process.pid for process in stack.processes() if process.name == f"app:{name}")


def test_keepalive_rollout_without_rights_loses_nothing(group: Callable[..., Stack]):
    stack = group()
    before = pids(stack)
    with users(stack, posts=0.5) as load:
        done = stack.ctl("rolling_restart", "app")
        idle = [int(row["srv_icur"]) for row in haproxy.statistics(stack).values()]
    assert done.returncode == 0, done.stdout
    assert_no_failures(load.report())
    assert not set(before) & set(pids(stack))
    assert min(idle[:3]) > 0, "HAProxy keeps no connections: this shows nothing"
    assert max(process["drained"] for process in rolling(stack)["processes"]) < PURGED_AFTER / 2
    assert all_ready(stack)


def test_rollout_waits_for_nothing_after_ready(group: Callable[..., Stack]):
    stack = group(min_ready_seconds="auto")
    with users(stack, posts=0.5) as load:
        done = stack.ctl("rolling_restart", "app")
    assert done.returncode == 0, done.stdout
    assert_no_failures(load.report())
    assert max(process["ready"] for process in rolling(stack)["processes"]) < 1.0
    assert "min_ready_seconds" not in done.stdout
    assert "never fewer than 3 of 4 available" in done.stdout


def test_next_listener_reopens_what_the_killed_one_drained(group: Callable[..., Stack]):
    stack = group(processes=3)
    with held(stack) as (busy, _):
        begin_to_replace(stack, busy)
        os.kill(listener_pid(stack), signal.SIGKILL)
        assert drained(stack) == [busy], "nothing forgets it by itself"
        assert stack.ctl("rolling_abort", "app").returncode == 0
        stack.wait_until(lambda: all_ready(stack), 10.0, "the next listener has set it ready")
    assert wait_ended(stack)["status"] == "aborted"


def test_next_listener_continues_the_rollout(group: Callable[..., Stack]):
    stack = group()
    with users(stack, posts=0.5) as load:
        client = popen_ctl(stack, "rolling_restart", "app")
        for name in ("app-8001", "app-8002"):
            wait_stage(stack, "draining", name)
            os.kill(listener_pid(stack), signal.SIGKILL)
        out, _ = client.communicate(timeout=60.0)
    assert client.returncode == 0, out
    assert_no_failures(load.report())
    assert all_ready(stack)


def test_manual_drain_or_maintenance_is_kept(group: Callable[..., Stack]):
    stack = group()
    haproxy.ask(stack, "set server app/app-8000 state drain; set server app/app-8001 state maint")
    with users(stack, posts=0.5) as load:
        assert stack.ctl("rolling_restart", "app").returncode == 0
    assert_no_failures(load.report())
    assert rolling(stack)["replaced"] == 4
    stack.ctl("stop", "rolling")
    assert list(haproxy.states(stack).values()) == [DRAINED, MAINTENANCE, READY, READY]


def test_requests_in_the_old_haproxy_are_awaited(group: Callable[..., Stack]):
    stack = group(processes=3)
    with held(stack, seconds=5.0) as (busy, stream):
        old = pid_of(stack, busy)
        begin_to_replace(stack, busy)
        haproxy.reload(stack)
        wait_drained(stack, busy)
        assert haproxy.statistics(stack)[busy]["scur"] == "0", "the new HAProxy knows nothing of it"
        read_to_the_end(stream)
    assert wait_ended(stack)["status"] == "done"
    assert pid_of(stack, busy) != old


def test_haproxy_reload_during_rollout_loses_nothing(group: Callable[..., Stack]):
    stack = group()
    with users(stack, posts=0.5) as load:
        client = popen_ctl(stack, "rolling_restart", "app")
        for name in ("app-8001", "app-8003"):
            wait_stage(stack, "draining", name)
            haproxy.reload(stack)
        out, _ = client.communicate(timeout=60.0)
    assert client.returncode == 0, out
    assert_no_failures(load.report())
    assert all_ready(stack)


def test_failed_process_stays_in_maintenance_until_fixed(group: Callable[..., Stack]):
    stack = group(processes=3)
    stack.fault("500")
    with users(stack, posts=0.5) as load:
        assert stack.ctl("rolling_restart", "app").returncode == 1
        assert in_maintenance(stack) == ["app-8000"]
    assert_no_failures(load.report())
    haproxy.reload(stack)
    stack.wait_until(lambda: in_maintenance(stack) == ["app-8000"], 5.0, "it is closed again after the reload")
    stack.ctl("restart", "rolling")
    stack.wait_until(lambda: in_maintenance(stack) == ["app-8000"], 5.0, "the next listener keeps it closed")
    stack.fault()
    assert stack.ctl("rolling_resume", "app").returncode == 0
    assert all_ready(stack)


@pytest.mark.parametrize("how", first(1, STICKY))
def test_sticky_clients_avoid_a_failed_process(group: Callable[..., Stack], how: str):
    stack = group(STICKY[how], processes=3)
    with StickyUsers(stack, 6, "GET /") as sticky:
        stack.wait_until(lambda: len(sticky.processes()) == 3, 10.0, "each process has sticky users")
        stack.fault("500")
        assert stack.ctl("rolling_restart", "app").returncode == 1
        before = len(sticky.answers)
        stack.wait_until(lambda: len(sticky.answers) >= before + 100, 20.0, "they go on")
    assert in_maintenance(stack) == ["app-8000"]
    assert sticky.failed() == []


@pytest.mark.parametrize("how", first(1, reversed(STICKY)))
def test_busy_sticky_clients_are_moved(group: Callable[..., Stack], how: str):
    stack = group(STICKY[how], processes=3)
    old = {str(pid) for pid in pids(stack)}
    with StickyUsers(stack, 12, "POST /slow") as sticky:
        stack.wait_until(lambda: len(sticky.answers) >= 24, 10.0, "each user has a process")
        assert stack.ctl("rolling_restart", "app").returncode == 0
    assert sticky.failed() == []
    assert old & sticky.processes()
    assert all(process["drained"] < 15.0 for process in rolling(stack)["processes"])
    assert all_ready(stack)


def test_sticky_clients_avoid_a_cold_process(group: Callable[..., Stack]):
    stack = group(STICKY["cookie"], processes=3)
    with StickyUsers(stack, 6, "GET /") as sticky:
        stack.wait_until(lambda: len(sticky.processes()) == 3, 10.0, "each process has sticky users")
        stack.fault("500")
        os.kill(pid_of(stack, "app-8000"), signal.SIGKILL)
        stack.wait_until(lambda: in_maintenance(stack) == ["app-8000"], 5.0, "it is closed")
        before = len(sticky.answers)
        stack.wait_until(lambda: len(sticky.answers) >= before + 100, 20.0, "they go on")
    assert [answer for answer in sticky.failed() if answer[0] == 500] == []


def test_the_end_of_the_listener_sets_everything_ready(group: Callable[..., Stack]):
    stack = group(processes=3)
    with held(stack) as (busy, _):
        begin_to_replace(stack, busy)
        stack.ctl("stop", "rolling")
        assert all_ready(stack)


def test_opened_server_is_up_without_a_check(group: Callable[..., Stack]):
    stack = group("default-server check inter 50 fall 1 rise 100", processes=3)
    stack.wait_until(lambda: _statuses(stack) == {"UP"}, 5.0, "HAProxy has every server up")
    with users(stack, posts=0.5) as load:
        assert stack.ctl("rolling_restart", "app").returncode == 0
        assert _statuses(stack) == {"UP"}
    assert_no_failures(load.report())


def _statuses(stack: Stack) -> set[str]:
    return {row["status"] for row in haproxy.statistics(stack).values()}


def test_group_without_servers_in_haproxy_is_found(group: Callable[..., Stack]):
    stack = group(processes=2)
    before = pids(stack)
    policy = stack.directory / "rolling.yaml"
    text = policy.read_text(encoding="utf-8")
    policy.write_text(text.replace("backend_name: app", "backend_name: web"), encoding="utf-8")
    done = stack.ctl("rolling_restart", "app")
    assert (done.returncode, "no backend 'web', only: app. Fix: correct gate.backend_name" in done.stdout) == (
        1,
        True,
    ), done.stdout
    assert pids(stack) == before


def test_bypassed_backend_is_found_and_nothing_stopped(group: Callable[..., Stack]):
    """The servers of ``part`` are those of ``app``, which gets all requests."""
    servers = "\n    ".join(f"server app-{port} 127.0.0.1:{port}" for port in range(8000, 8003))
    stack = group(
        f"{servers}\n\nbackend part\n    balance leastconn",
        processes=3,
        gate={**haproxy.gate("%(here)s"), "backend_name": "part"},
        drain={"timeout": 3, "on_timeout": "continue"},
    )
    before = pids(stack)
    with users(stack, posts=0.5) as load:
        done = stack.ctl("rolling_restart", "app")
    assert done.returncode == 1
    assert "still receives requests that HAProxy's backend does not count (from 127.0.0.1:" in done.stdout
    assert "Fix: set gate.backend_name to the backend that serves it" in done.stdout
    assert pids(stack) == before
    assert_no_failures(load.report())
