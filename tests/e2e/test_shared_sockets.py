"""``ports: shared`` with real servers behind the socket of an ``[fcgi-program]``: no request fails."""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import plugin
from tests.support.load import Load, Plan
from tests.support.look import assert_no_failures, listener_pid, wait_ended
from tests.support.stack import ROOT, Setup, Stack
from tests.support.variants import first
from tests.support.waiting import wait_until

GROUP = "web"
PORT = 9000
NO_RIGHTS = "setpriv --bounding-set=-net_admin,-net_raw --inh-caps=-net_admin,-net_raw "
PROCESSES = 3

SERVERS = {
    "uvicorn": "uvicorn --fd 0 --log-level warning app:application",
    "gunicorn": "gunicorn --bind fd://0 --workers 1 --threads 8 app:application",
    "daphne": "daphne --fd 0 app:application",
    "reuseport": "gunicorn --workers 1 --threads 8 app:application",
}
WSGI = ("gunicorn", "reuseport")

PROGRAM = """\
[fcgi-program:{group}]
socket = tcp://127.0.0.1:{port}
command = {command}
directory = %(here)s
environment = PYTHONPATH="{root}"
process_name = {group}-%(process_num)d
numprocs = {processes}
stopwaitsecs = 30
autorestart = true
"""


REUSEPORT = (
    PROGRAM.replace("[fcgi-program:", "[program:")
    .replace("socket = tcp://127.0.0.1:{port}\n", "")
    .replace("{command}", "{command} --bind 127.0.0.1:{port} --reuse-port")
)
MIGRATES = Path("/proc/sys/net/ipv4/tcp_migrate_req")


def application(server: str, is_warmed: bool) -> str:
    kind = "wsgi" if server in WSGI else "asgi"
    lines = f"from tests.support.recipes.{kind} import application\n"
    if is_warmed and kind == "wsgi":
        lines += 'from supervisor_rolling.wsgi import warmed\napplication = warmed(application, "/", "/search")\n'
    if is_warmed and kind == "asgi":
        lines += 'from supervisor_rolling.asgi import Warmed\napplication = Warmed(application, "/", "/search")\n'
    return lines


@contextlib.contextmanager
def sharing(
    directory: Path, server: str, is_warmed: bool = True, section: str = PROGRAM, **policy: Any
) -> Iterator[Stack]:
    """A supervisord with a group that shares a socket, without the rights of a firewall."""
    command = f"{shlex.quote(str(Path(sys.executable).parent))}/{SERVERS[server]}"
    program = section.format(group=GROUP, port=PORT, command=command, root=ROOT, processes=PROCESSES)
    text = yaml.safe_dump({"history": False, "groups": {GROUP: policy}})
    setup = Setup(
        1,
        "tests.support.light_app",
        supervisor=f"{plugin.sections(directory / 'rolling.yaml', NO_RIGHTS)}\n{program}".replace(
            "%(here)s", str(directory)
        ),
        files={"rolling.yaml": text, "app.py": application(server, is_warmed)},
    )
    with Stack(directory, setup) as stack:
        wait_until(lambda: len(pids(stack)) == PROCESSES, "all run")
        yield stack


def pids(stack: Stack) -> set[int]:
    every: Any = stack.rpc().supervisor.getAllProcessInfo()
    return {one["pid"] for one in every if one["group"] == GROUP and one["statename"] == "RUNNING"}


@contextlib.contextmanager
def users(stack: Stack, rate: float) -> Iterator[Load]:
    """They connect to the shared socket itself."""
    with Load(Plan(f"http://127.0.0.1:{PORT}", rate=rate), stack.directory / "load.jsonl") as load:
        load.wait_more(round(rate / 2))
        yield load
        load.wait_more(round(rate / 2))


@contextlib.contextmanager
def migrating(value: str) -> Iterator[None]:
    """In the network namespace of this test run."""
    before = MIGRATES.read_text(encoding="ascii")
    MIGRATES.write_text(value, encoding="ascii")
    try:
        yield
    finally:
        MIGRATES.write_text(before, encoding="ascii")


def kill_listener(stack: Stack) -> None:
    if pid := listener_pid(stack):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


LONG = 100  # rollouts


@pytest.mark.parametrize(
    ("server", "rollouts", "rate"),
    first(2, [("uvicorn", 1, 40.0), ("gunicorn", 1, 40.0), *((one, LONG, 100.0) for one in ("uvicorn", "gunicorn"))]),
)
def test_rollout_fails_no_request_and_meets_no_cold_process(
    tmp_path: Path, server: str, rollouts: int, rate: float
) -> None:
    with sharing(tmp_path, server) as stack:
        with users(stack, rate) as load:
            for _ in range(rollouts):
                before = pids(stack)
                done = stack.ctl("rolling_restart", GROUP)
                assert done.returncode == 0, done.stdout
                assert not before & pids(stack)
        report = load.report()
        print(server, rollouts, report)
        assert_no_failures(report)


@pytest.mark.soak
@pytest.mark.parametrize("server", ["uvicorn", "gunicorn"])
def test_listener_killed_at_random_moments_loses_nothing(tmp_path: Path, server: str) -> None:
    moments = random.Random(11)
    with sharing(tmp_path, server) as stack, users(stack, 100.0) as load:
        for _ in range(20):
            before = pids(stack)
            stack.rpc().rolling.restart(GROUP, False, {})
            for _ in range(2):
                time.sleep(moments.uniform(0.0, 2.0))
                kill_listener(stack)
            assert wait_ended(stack, group=GROUP)["status"] == "done"
            assert not before & pids(stack)
    assert_no_failures(load.report())


@pytest.mark.parametrize(("rollouts", "rate"), first(1, [(1, 40.0), (LONG, 100.0)]))
def test_reuseport_needs_a_kernel_that_hands_waiting_connections_on(tmp_path: Path, rollouts: int, rate: float) -> None:
    with migrating("0"), sharing(tmp_path, "reuseport", section=REUSEPORT) as stack:
        refused = stack.ctl("rolling_restart", GROUP)
        assert (refused.returncode, "sysctl -w net.ipv4.tcp_migrate_req=1" in refused.stdout) == (1, True)
        with migrating("1"), users(stack, rate) as load:
            for _ in range(rollouts):
                done = stack.ctl("rolling_restart", GROUP)
                assert done.returncode == 0, done.stdout
        report = load.report()
        print("reuseport", rollouts, report)
        assert_no_failures(report)


BAD = """
from supervisor_rolling.wsgi import warmed
def application(environ, start_response):
    if environ["PATH_INFO"] == "/search":
        raise KeyError("no such table")
    start_response("200 OK", [("Content-Length", "0")])
    return [b""]
application = warmed(application, "/", "/search")
"""


def test_failed_warm_up_inside_the_process_ends_the_rollout(tmp_path: Path) -> None:
    with sharing(tmp_path, "gunicorn") as stack:
        before = pids(stack)
        checked = stack.ctl("rolling_check", GROUP)
        assert (checked.returncode, "warmup.shared" in checked.stdout) == (0, False), checked.stdout
        assert "ports: shared, nothing is closed" in checked.stdout
        (tmp_path / "app.py").write_text(BAD, encoding="utf-8")
        done = stack.ctl("rolling_restart", GROUP)
        assert done.returncode == 1
        assert "FAILED: is not warm: KeyError: 'no such table' (its own warm-up)" in done.stdout
        assert len(before & pids(stack)) == len(before) - 1


@pytest.mark.soak
def test_cold_process_is_named_before(tmp_path: Path) -> None:
    with sharing(tmp_path, "uvicorn", is_warmed=False) as stack:
        checked = stack.ctl("rolling_check", GROUP)
        assert (checked.returncode, "warning: warmup.shared: web: " in checked.stdout) == (0, True), checked.stdout
