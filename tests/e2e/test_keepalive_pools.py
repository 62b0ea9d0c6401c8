"""``drain.keepalive: nginx`` with the real supervisord, nginx and kernel: a rollout behind a keepalive pool."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml

from tests.support.endpoints import nft_tables
from tests.support.look import (
    assert_no_failures,
    listener_log,
    listener_pid,
    pids,
    popen_ctl,
    rolling,
    users,
    wait_open,
    wait_stage,
)
from tests.support.pages import example
from tests.support.stack import Stack
from tests.support.waiting import wait_until

POOL = """
        proxy_http_version 1.1;
        proxy_set_header Connection "";
"""
QUIET = 1.5  # seconds; a POST of the light application takes 0.5


@pytest.fixture
def pooled(light: Callable[..., Stack]) -> Callable[..., Stack]:
    """Starts a stack of the light application behind a pool that is used, by a policy that makes it run dry."""

    def pooled(server: str = "", **drain: Any) -> Stack:
        setup = {"balance": "least_conn;", "upstream": "keepalive 32;", "server": POOL + server}
        stack = light(
            3, setup, min_ready_seconds=0, drain={"timeout": 20, "keepalive": "nginx", "idle_after": QUIET, **drain}
        )
        with ThreadPoolExecutor(8) as pool:
            assert {reply.status for reply in pool.map(lambda _: stack.ask(8080, "/"), range(60))} == {200}
        return stack

    return pooled


def is_keepalive_table(name: str) -> bool:
    return name.startswith("supervisor-rolling-keepalive-")


def test_used_pool_drains_without_failure(pooled: Callable[..., Stack]) -> None:
    stack = pooled()
    before = pids(stack)
    with users(stack, rate=80.0, posts=0.5) as load:
        done = stack.ctl("rolling_restart", "app", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_no_failures(load.report())
    assert set(pids(stack)).isdisjoint(before)
    assert not any(map(is_keepalive_table, nft_tables()))


def test_without_keepalive_closer_pool_lasts_until_deadline(pooled: Callable[..., Stack]) -> None:
    stack = pooled(keepalive="ignore", timeout=3, on_timeout="fail")
    with users(stack, rate=80.0, posts=0.5):
        done = stack.ctl("rolling_restart", "app:app-8000")
    assert (done.returncode, "after 3 s of drain" in done.stdout) == (1, True), done.stdout


def test_unused_pool_is_idle_after_quiet_time(pooled: Callable[..., Stack]) -> None:
    stack = pooled()
    done = stack.ctl("rolling_restart", "app:app-8000", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    member = next(one for one in rolling(stack)["processes"] if one["name"] == "app-8000")
    assert QUIET <= member["drained"] < QUIET + 1.0
    assert member["lingering_connections"] > 0
    assert "connections left; 127.0.0.1:" in listener_log(stack), "the log lists what the restart ends"


def test_download_with_a_long_pause_is_complete(pooled: Callable[..., Stack]) -> None:
    stack = pooled("proxy_buffering off;")
    with socket.create_connection(("127.0.0.1", stack.setup.nginx_port), timeout=20.0) as reader:
        reader.sendall(b"GET /stream?seconds=1&every=0&size=65536 HTTP/1.1\r\nHost: a\r\n\r\n")
        pid = int(reader.recv(4096).partition(b"X-Pid: ")[2].split()[0])
        name = next(process.name.partition(":")[2] for process in stack.processes() if process.pid == pid)
        client = popen_ctl(stack, "rolling_restart", f"app:{name}")
        wait_stage(stack, "draining", name)
        stack.wait_until(lambda: drained_for(stack, name) > 2 * QUIET, 10.0, "the reader has paused for long")
        found = b""
        while not found.endswith(b"\r\n0\r\n\r\n"):
            data = reader.recv(1 << 20)
            assert data, "the download was cut"
            found = found[-100:] + data
    assert b"the end" in found
    out, _ = client.communicate(timeout=60)
    assert client.returncode == 0, out


def drained_for(stack: Stack, name: str) -> float:
    """Seconds for which a process drains; 0 where it no longer does."""
    (member,) = [one for one in rolling(stack)["processes"] if one["name"] == name]
    return float(member["seconds"]) if member["stage"] == "draining" else 0.0


def test_killed_listener_loses_no_pooled_request(pooled: Callable[..., Stack]) -> None:
    stack = pooled(min_seconds=1)
    before = pids(stack)
    with users(stack, rate=80.0, posts=0.5) as load:
        ctl = popen_ctl(stack, "rolling_restart", "app")
        wait_stage(stack, "draining")
        wait_until(lambda: any(map(is_keepalive_table, nft_tables())), "the rule is there")
        os.kill(listener_pid(stack), signal.SIGKILL)
        out, _ = ctl.communicate(timeout=90)
    assert ctl.returncode == 0, out
    assert_no_failures(load.report())
    assert set(pids(stack)).isdisjoint(before)
    wait_open(stack)
    assert not any(map(is_keepalive_table, nft_tables()))
    assert "a defect" not in listener_log(stack)


def test_pool_of_the_page_that_soon_ends_loses_nothing(light: Callable[..., Stack]) -> None:
    lines = example("balancers/keepalive.rst", "nginx", "keepalive_time").replace("5s;", "2s;").splitlines()
    upstream = " ".join(line.strip() for line in lines if line.strip().startswith("keepalive"))
    assert upstream == "keepalive 32; keepalive_time 2s; keepalive_timeout 2s;"
    (group,) = yaml.safe_load(example("balancers/keepalive.rst", "yaml", "on_timeout"))["groups"].values()
    setup = {"balance": "least_conn;", "upstream": upstream, "server": POOL}
    stack = light(3, setup, min_ready_seconds=0, drain=group["drain"])
    with users(stack, rate=80.0, posts=0.5) as load:
        done = stack.ctl("rolling_restart", "app")
    assert done.returncode == 0, done.stdout
    assert_no_failures(load.report())
    assert [one["lingering_connections"] for one in rolling(stack)["processes"]] == [0] * 3
    assert max(one["drained"] for one in rolling(stack)["processes"]) < group["drain"]["timeout"] / 2
