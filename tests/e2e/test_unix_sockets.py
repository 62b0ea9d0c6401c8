"""Processes on unix sockets behind nginx, as the recipe has it: no request fails."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from supervisor_rolling.listener.system import socket_paths
from tests.support import plugin
from tests.support.look import (
    assert_no_failures,
    is_warm_and_open,
    listener_log,
    listener_pid,
    rolling,
    users,
    wait_ended,
    wait_open,
    wait_running,
    wait_stage,
)
from tests.support.pages import example
from tests.support.stack import GROUP, ROOT, Setup, Stack
from tests.support.variants import first

PAGE = "recipes/sockets.rst"
SERVED, SOCKETS = "/srv/app", "/run/app"
NO_RIGHTS = "setpriv --bounding-set=-net_admin,-net_raw --inh-caps=-net_admin,-net_raw "
PROCESSES = 4
APPLICATION = "from tests.support.recipes.wsgi import application\n"
LONG = 50  # rollouts


def public(directory: Path, number: int, suffix: str = "sock") -> str:
    return f"{directory}/run/app-{number}.{suffix}"


@contextlib.contextmanager
def running(directory: Path, suffix: str = "sock", **policy: Any) -> Iterator[Stack]:
    """The example of the page behind nginx, without the rights of a firewall. ``suffix``: of the names to which nginx
    connects; other ones than the processes bind are symbolic links."""
    (directory / "app").mkdir()
    (directory / "run").mkdir()
    (directory / "app" / "venv").symlink_to(sys.prefix)
    (directory / "app" / "app.py").write_text(APPLICATION, encoding="utf-8")
    paths = [public(directory, number, suffix) for number in range(PROCESSES)]
    for number, path in enumerate(paths):
        if suffix != "sock":
            os.symlink(f"app-{number}.sock", path)
    lines = [line for line in example(PAGE, "ini", "[program:app]").splitlines() if not line.startswith("user = ")]
    section = "\n".join([*lines, f'environment = PYTHONPATH="{ROOT}"'])
    found: dict[str, Any] = yaml.safe_load(example(PAGE, "yaml", "warmup:"))
    found["groups"][GROUP].update(policy, balancer={"nginx": "%(here)s/nginx.conf"})
    setup = Setup(
        0,
        section=section.replace(SERVED, "%(here)s/app").replace(SOCKETS, "%(here)s/run"),
        supervisor=plugin.sections(directory / "rolling.yaml", NO_RIGHTS),
        files={"rolling.yaml": yaml.safe_dump({"history": False, **found})},
        balance="",
        upstream="\n".join(f"server unix:{path} max_fails=0;" for path in paths),
    )
    with Stack(directory, setup) as stack:
        wait_open(stack)
        wait_running(stack)
        yield stack
    assert not left(directory), "names were left behind"


def left(directory: Path) -> list[str]:
    """Hidden names, and placeholders."""
    names = sorted(os.listdir(directory / "run"))
    return [
        name
        for name in names
        if name.startswith(".") or socket_paths.is_placeholder(os.lstat(directory / "run" / name))
    ]


def pids(stack: Stack) -> set[int]:
    return {process.pid for process in stack.processes()}


@pytest.mark.parametrize(
    ("suffix", "rollouts", "rate"),
    first(2, [("sock", 1, 40.0), ("public", 1, 40.0), ("sock", LONG, 100.0), ("public", LONG, 100.0)]),
)
def test_rollouts_fail_no_request(tmp_path: Path, suffix: str, rollouts: int, rate: float) -> None:
    policy = {"sockets": f"{tmp_path}/run/{{name}}.public"} if suffix == "public" else {}
    with running(tmp_path, suffix, **policy) as stack:
        with users(stack, rate=rate) as load:
            for _ in range(rollouts):
                before = pids(stack)
                done = stack.ctl("rolling_restart", GROUP)
                assert done.returncode == 0, done.stdout
                assert not before & pids(stack)
        report = load.report()
        print(suffix, rollouts, report)
        assert (report.gets_failed, report.posts_failed) == (0, 0), report.failures
        assert report.cold <= (rollouts if suffix == "sock" else 0), "a client may be faster than the gate"
        assert [process["sockets"] for process in rolling(stack)["processes"]] == [
            [public(tmp_path, number, suffix)] for number in range(PROCESSES)
        ]


def test_bad_deploy_stays_closed_and_the_others_serve(tmp_path: Path) -> None:
    with running(tmp_path) as stack, users(stack) as load:
        before = pids(stack)
        (tmp_path / "app" / "app.py").write_text(f"{APPLICATION}\nraise SystemExit(3)\n", encoding="utf-8")
        done = stack.ctl("rolling_restart", GROUP)
        assert done.returncode == 1, done.stdout
        assert "Closed, so it receives no traffic: app-0 (socket " in done.stdout
        assert len(before & pids(stack)) == PROCESSES - 1
        (tmp_path / "app" / "app.py").write_text(APPLICATION, encoding="utf-8")
        done = stack.ctl("rolling_resume", GROUP)
        assert done.returncode == 0, done.stdout
    assert_no_failures(load.report())


def test_crashed_process_is_closed_until_it_is_warm(tmp_path: Path) -> None:
    with running(tmp_path) as stack, users(stack) as load:
        time.sleep(0.5)
        victim = min(pids(stack))
        os.kill(victim, signal.SIGKILL)
        stack.wait_until(lambda: victim not in pids(stack) and is_warm_and_open(stack), 20.0, "it is warm again")
    report = load.report()
    assert report.cold <= 1, "a client may be faster than the gate"
    assert "closed (guard" in listener_log(stack)


def test_listener_killed_while_a_socket_is_closed_opens_it(tmp_path: Path) -> None:
    with running(tmp_path, drain={"min_seconds": 2}) as stack, users(stack) as load:
        stack.rpc().rolling.restart(GROUP, False, {})
        wait_stage(stack, "draining")
        stack.wait_until(lambda: bool(left(tmp_path)), 5.0, "it is closed")
        os.kill(listener_pid(stack), signal.SIGKILL)
        stack.rpc().rolling.abort(GROUP)
        assert wait_ended(stack)["status"] == "aborted"
        stack.wait_until(lambda: not left(tmp_path), 10.0, "the next listener has opened it")
    assert_no_failures(load.report())


@pytest.mark.soak
@pytest.mark.parametrize("suffix", ["sock", "public"])
def test_listener_killed_at_random_moments_loses_nothing(tmp_path: Path, suffix: str) -> None:
    moments = random.Random(17)
    policy = {"sockets": f"{tmp_path}/run/{{name}}.public"} if suffix == "public" else {}
    with running(tmp_path, suffix, **policy) as stack, users(stack, rate=100.0) as load:
        for _ in range(20):
            before = pids(stack)
            stack.rpc().rolling.restart(GROUP, False, {})
            for _ in range(3):
                time.sleep(moments.uniform(0.0, 2.0))
                if pid := listener_pid(stack):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            assert wait_ended(stack)["status"] == "done"
            assert not before & pids(stack)
        stack.wait_until(lambda: not left(tmp_path), 10.0, "everything is open")
    report = load.report()
    print(suffix, report)
    assert (report.gets_failed, report.posts_failed) == (0, 0), report.failures
