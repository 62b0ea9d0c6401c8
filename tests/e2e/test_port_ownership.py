"""Ports that are not those of the process that the policy gives them to, for real: swapped, and held by another
process: an orphan of an earlier one, or a foreign process, in its place or beside it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor_rolling.listener.kernel_sockets import KernelSockets
from tests.support.look import pids, refuses, rules, standing, wait_open
from tests.support.prefork import SHARES
from tests.support.stack import Stack

NAME = {"SUPERVISOR_GROUP_NAME": "app", "SUPERVISOR_PROCESS_NAME": "app-8001"}

SOAK = pytest.mark.soak
"""Of the two that tell less: the third process has another environment and another session."""


@contextmanager
def orphan_on(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A web server, left by a supervisord that was killed."""
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=nowhere, stderr=nowhere, env={**os.environ, **NAME}) as process:
        try:
            yield process
        finally:
            process.kill()


_ANSWERS = """
import http.server, socket, sys
class Server(http.server.ThreadingHTTPServer):
    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@contextmanager
def foreign_on(stack: Stack, port: int, *prefix: str) -> Iterator[int]:
    """The pid of a web server that supervisord did not start, with SO_REUSEPORT; ``prefix``: before its command."""
    command, nowhere = [*prefix, sys.executable, "-c", _ANSWERS, str(port)], subprocess.DEVNULL
    with subprocess.Popen(command, stdout=nowhere, stderr=nowhere) as process:
        try:
            stack.wait_until(lambda: bool(holders(port).get(process.pid)), 30.0, "it listens")
            yield process.pid
        finally:
            process.kill()


def holders(port: int) -> dict[int, str]:
    """The processes that listen on a port, each with the name by which supervisord started it or its ancestor."""
    found = KernelSockets().holders_of([port]).get(port)
    return dict.fromkeys(found.pids, found.started or "-") if found else {}


def cold_text(stack: Stack, name: str, words: str) -> str:
    """What the status says of a process that is not warm, as soon as it says these words."""

    def says() -> bool:
        return words in standing(stack)[name]["why"]

    stack.wait_until(says, 30.0, f"{name} says: {words}")
    found = standing(stack)[name]
    assert (found["warm"], found["gate"]) == (False, "closed")
    assert refuses(8001), "no user is sent there"
    return str(found["why"])


PREFORK = {"application": "tests.support.prefork", "program": "stopwaitsecs = 3"}
WARMUP = {"timeout": 2, "ready": "/", "requests": ["/"]}


def test_worker_of_a_killed_master_warms_nothing(light: Callable[..., Stack]) -> None:
    """With minfds at 20000 the new process is supervisord for long between fork and exec, environment and all."""
    setup = {**PREFORK, "program": f"{PREFORK['program']}\n[supervisord]\nminfds = 20000"}
    stack = light(processes=3, setup=setup, warmup=WARMUP)
    master = pids(stack)[1]
    (worker,) = (pid for pid in holders(8001) if pid != master)
    stack.release("new")
    os.kill(master, signal.SIGKILL)
    try:
        held = f"port 8001 is held by process {worker} (python"
        assert f"left by an earlier app:app-8001. Fix: kill {worker}" in cold_text(stack, "app-8001", held)
        done = stack.ctl("rolling_restart", "app:app-8001", "--force")
        assert done.returncode == 1
        assert held in done.stdout
        assert "1 of 1 replaced" not in done.stdout
    finally:
        os.kill(worker, signal.SIGKILL)
    wait_open(stack)
    stack.wait_until(lambda: not refuses(8001), 10.0, "its gate opens after that is recorded")
    assert stack.ask(8001, "/").headers["x-release"] == "new"


@pytest.mark.parametrize(
    "prefix", [pytest.param((), marks=SOAK), pytest.param(("env", "-i"), marks=SOAK), ("setsid", "env", "-i")]
)
def test_foreign_process_on_the_port_warms_nothing(light: Callable[..., Stack], prefix: tuple[str, ...]) -> None:
    stack = light(processes=3, setup=PREFORK, warmup=WARMUP)
    stack.ctl("stop", "app:app-8001")
    with foreign_on(stack, 8001, *prefix) as pid:
        stack.ctl("start", "app:app-8001")
        text = cold_text(stack, "app-8001", f"port 8001 is held by process {pid} (python")
        assert f"). Fix: kill {pid}, or name python" in text
        stack.wait_until(lambda: standing(stack)["app-8001"]["stage"] == "failed", 10.0, "its warm-up has failed")
        for words in (["rolling_check", "app"], ["rolling_restart", "app"]):
            refused = stack.ctl(*words)
            assert refused.returncode == 1
            assert f"held by process {pid} (python" in refused.stdout
        done = stack.ctl("rolling_restart", "app:app-8001", "--force")
        assert done.returncode == 1
        assert f"held by process {pid} (python" in done.stdout
    wait_open(stack)


def test_foreign_process_beside_it_warms_nothing(light: Callable[..., Stack]) -> None:
    """With SO_REUSEPORT on both sides the kernel gives half of the requests to each."""
    shares = {**PREFORK, "program": f'environment = {SHARES}="1"'}
    stack = light(processes=3, setup=shares, warmup=WARMUP)
    with foreign_on(stack, 8001, "env", "-i") as pid:
        stack.ctl("restart", "app:app-8001")
        text = cold_text(stack, "app-8001", f"port 8001 is held by process {pid} (python")
        assert text.endswith(f" beside it (SO_REUSEPORT). Fix: kill {pid}")
        done = stack.ctl("rolling_restart", "app")
        assert done.returncode == 1
        assert "3 of 3 replaced" not in done.stdout
    wait_open(stack)


def test_new_gunicorn_after_usr2_warms_no_successor(light: Callable[..., Stack]) -> None:
    """After SIGUSR2 gunicorn's new master is a child of the old one, and outlives it."""
    setup = {"application": "tests.support.gunicorn_stack", "program": "stopwaitsecs = 5"}
    stack = light(processes=3, setup=setup, warmup={**WARMUP, "timeout": 4})
    os.kill(pids(stack)[1], signal.SIGUSR2)
    stack.wait_until(lambda: len(holders(8001)) == 4, 30.0, "two masters, each with a worker")
    stack.release("new")
    done = stack.ctl("rolling_restart", "app")
    left = sorted(holders(8001))
    try:
        assert done.returncode == 1
        assert "3 of 3 replaced" not in done.stdout
        assert f"port 8001 is held by processes {left[0]}, {left[1]} (" in done.stdout
        assert f"left by an earlier app:app-8001. Fix: kill {left[0]} {left[1]}" in done.stdout
    finally:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert stack.ctl("rolling_restart", "app").returncode == 0
    assert {stack.ask(port, "/").headers["x-release"] for port in stack.setup.ports} == {"new"}


@contextmanager
def outgoing_from(port: int) -> Iterator[int]:
    """A connection that has this port as its local one, where the kernel may choose such a one; its peer's port. The
    kernel itself would not take it now: connections that the stopped process has closed are in TIME_WAIT there."""
    choice = Path("/proc/sys/net/ipv4/ip_local_port_range")
    before = choice.read_text(encoding="ascii")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind(("127.0.0.1", port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # as one that the kernel has chosen
        client.connect(server.getsockname())
        choice.write_text(f"{port} 60999", encoding="ascii")
        try:
            yield server.getsockname()[1]
        finally:
            choice.write_text(before, encoding="ascii")


def test_holder_is_named_while_backoff_lasts(light: Callable[..., Stack]) -> None:
    """The light application tries its port once, and ends."""
    stack = light(processes=3, setup={"startsecs": 1, "program": "startretries = 100"}, warmup=WARMUP)
    stack.ctl("stop", "app:app-8001")
    with foreign_on(stack, 8001) as pid:
        stack.rpc().supervisor.startProcess("app:app-8001", False)
        held = f"port 8001 is held by process {pid} (python"
        assert "BACKOFF: " in cold_text(stack, "app-8001", f"until it is warm; {held}")
        done = stack.ctl("rolling_restart", "app:app-8001", "--force")
        assert done.returncode == 1
        assert held in done.stdout
    wait_open(stack)


def test_outgoing_connection_on_the_port_is_named(light: Callable[..., Stack]) -> None:
    stack = light(processes=3, setup={"startsecs": 1, "program": "startretries = 100"}, warmup=WARMUP)
    stack.ctl("stop", "app:app-8001")
    with outgoing_from(8001) as peer:
        stack.rpc().supervisor.startProcess("app:app-8001", False)
        taken = f"port 8001 is taken by an outgoing connection to 127.0.0.1:{peer} of process {os.getpid()} ("
        text = cold_text(stack, "app-8001", taken)
        assert text.endswith(f"Fix: kill {os.getpid()}, and add 8001 to the sysctl net.ipv4.ip_local_reserved_ports")
    wait_open(stack)


def test_swapped_ports_are_found_before_any_action(start: Callable[..., Stack]):
    quick = {"application": "tests.support.light_app", "startsecs": 0}
    stack = start(processes=2, setup=quick, guard=False, ports={"app-8000": 8001, "app-8001": 8000})
    before = pids(stack)
    done = stack.ctl("rolling_restart", "app")
    assert done.returncode == 6
    wrong = "app-8000 listens on 8000 and not on 8001; app-8001 listens on 8001 and not on 8000"
    assert f"{wrong}. Fix: correct groups.app.ports in rolling.yaml" in done.stdout
    assert (pids(stack), rules()) == (before, [])


def test_answer_of_an_orphan_is_no_warmup(light: Callable[..., Stack]):
    warmup = {"timeout": 1.5, "ready": "/", "requests": ["/"]}
    stack = light(processes=3, warmup=warmup)
    stack.ctl("stop", "app:app-8001")
    with orphan_on(8001) as orphan:
        stack.wait_until(lambda: bool(KernelSockets().listeners([8001])[8001]), 10.0, "it listens")
        stack.fault("slow 60")  # as a server that tries again and again to have its port
        stack.ctl("start", "app:app-8001")
        stack.wait_until(lambda: standing(stack)["app-8001"]["stage"] == "failed", 10.0, "it is not warm")
        why = f"port 8001 is held by process {orphan.pid} (python"
        assert why in standing(stack)["app-8001"]["why"]
        assert not standing(stack)["app-8001"]["warm"]
    stack.fault()
    stack.ctl("restart", "app:app-8001")
    wait_open(stack)


def test_orphan_on_a_port_is_named(light: Callable[..., Stack]):
    stack = light(processes=3, setup={"program": "startretries = 1", "startsecs": 1})
    stack.ctl("stop", "app:app-8001")
    with orphan_on(8001) as orphan:
        stack.wait_until(lambda: bool(KernelSockets().listeners([8001])[8001]), 10.0, "it listens")
        stack.ctl("start", "app:app-8001")
        stack.wait_until(lambda: standing(stack)["app-8001"]["statename"] == "FATAL", 30.0, "it gives up")
        held, kill = f"port 8001 is held by process {orphan.pid} (python", f"kill {orphan.pid}"
        for words in (["rolling_check", "app"], ["rolling_restart", "app", "--dry-run"], ["rolling_restart", "app"]):
            done = stack.ctl(*words)
            assert done.returncode == 1
            assert held in done.stdout
            assert kill in done.stdout
        forced = stack.ctl("rolling_restart", "app:app-8001", "--force")
        assert forced.returncode == 1
        (line,) = [line for line in forced.stdout.splitlines() if line.startswith("app-8001 ")]
        assert held in line
        assert line.endswith(f"left by an earlier app:app-8001. Fix: {kill}")
    assert stack.ctl("rolling_restart", "app").returncode == 0
    wait_open(stack)
