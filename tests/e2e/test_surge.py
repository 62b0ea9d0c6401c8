"""One gunicorn and a spare (``surge: 1``): a rollout without an outage, as the recipe has it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support import plugin
from tests.support.look import assert_no_failures, listener_pid, users, wait_ended
from tests.support.pages import example
from tests.support.stack import ROOT, Setup, Stack
from tests.support.variants import first

GROUP = "app"
SERVED = "/srv/app"
PAGE = "recipes/spare.rst"
KINDS = {"shared": ("[fcgi-program:app]", "app: {surge: 1}"), "ports": ("[program:app]", "ports: 'app-")}
"""Beginnings of the examples of the page."""

WARMED = """\
from tests.support.recipes.wsgi import application
from supervisor_rolling.wsgi import warmed
application = warmed(application, "/")
"""
LONG = 100  # rollouts
BROKEN = 'raise ValueError("no settings")\n'


@contextlib.contextmanager
def spare(directory: Path, kind: str) -> Iterator[Stack]:
    """The example of the page behind nginx: a process that serves, and a spare."""
    section, policy = KINDS[kind]
    (directory / "app").mkdir()
    (directory / "app" / "venv").symlink_to(sys.prefix)
    (directory / "app" / "app.py").write_text(WARMED, encoding="utf-8")
    found = yaml.safe_load(example(PAGE, "yaml", policy))
    if kind == "ports":  # as on a host with one nginx, whose configuration is found
        found["groups"][GROUP]["balancer"] = {"nginx": "%(here)s/nginx.conf"}
    lines = [line for line in example(PAGE, "ini", section).splitlines() if not line.startswith("user = ")]
    setup = Setup(
        1,
        section="\n".join([*lines, f'environment = PYTHONPATH="{ROOT}"']).replace(SERVED, "%(here)s/app"),
        supervisor=plugin.sections(directory / "rolling.yaml"),
        files={"rolling.yaml": yaml.safe_dump({"history": False, **found})},
        balance="",
        upstream="server 127.0.0.1:8001 max_fails=0;" if kind == "ports" else "",
    )
    with Stack(directory, setup) as stack:
        stack.wait_until(lambda: sorted(states(stack)) == ["RUNNING", "STOPPED"], 30.0, "one is the spare")
        yield stack


def states(stack: Stack) -> list[str]:
    return [process.state for process in stack.processes()]


def serving(stack: Stack) -> list[int]:
    """The pids of those that run."""
    return [process.pid for process in stack.processes() if process.state == "RUNNING"]


@pytest.mark.parametrize(
    ("kind", "handovers", "rate"),
    first(2, [("shared", 2, 40.0), ("ports", 2, 40.0), ("shared", LONG, 100.0), ("ports", LONG, 100.0)]),
)
def test_one_process_is_replaced_without_an_outage(tmp_path: Path, kind: str, handovers: int, rate: float) -> None:
    with spare(tmp_path, kind) as stack:
        with users(stack, rate=rate) as load:
            for _ in range(handovers):
                before = serving(stack)
                done = stack.ctl("rolling_restart", GROUP)
                assert done.returncode == 0, done.stdout
                assert "1 of 1 replaced" in done.stdout
                assert "never fewer than 1 of 1" in done.stdout
                assert len(serving(stack)) == 1
                assert serving(stack) != before
        report = load.report()
        print(kind, handovers, report)
        assert_no_failures(report)
        old = serving(stack)
        (tmp_path / "app" / "app.py").write_text(BROKEN, encoding="utf-8")
        with users(stack, rate=rate, around=0.2) as load:
            done = stack.ctl("rolling_restart", GROUP)
        assert (done.returncode, "FAILED" in done.stdout) == (1, True), done.stdout
        assert serving(stack) == old
        assert next(process.state for process in stack.processes() if not process.pid) in ("STOPPED", "FATAL")
        assert_no_failures(load.report())


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_listener_killed_at_random_moments_loses_nothing(tmp_path: Path, kind: str) -> None:
    moments = random.Random(13)
    with spare(tmp_path, kind) as stack, users(stack, rate=100.0) as load:
        for _ in range(20):
            before = serving(stack)
            stack.rpc().rolling.restart(GROUP, False, {})
            for _ in range(2):
                time.sleep(moments.uniform(0.0, 2.0))
                if pid := listener_pid(stack):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            assert wait_ended(stack)["status"] == "done"
            assert serving(stack) != before
    assert_no_failures(load.report())
