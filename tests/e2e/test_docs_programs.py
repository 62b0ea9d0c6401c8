"""The programs in the documentation do what it says, copied from there as they are."""

from __future__ import annotations

import doctest
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.pages import example
from tests.support.stack import ROOT, Stack

NODE_MODULES = ROOT / ".venv" / "node" / "node_modules"
INET = "[inet_http_server]\nport = 127.0.0.1:9001\n"


@pytest.fixture
def stack(light: Callable[..., Stack]) -> Stack:
    """A supervisord at the address that the examples use."""
    return light(processes=4, setup={"program": f"stopwaitsecs=30\n{INET}[program:idle]\ncommand=sleep 600"})


def test_python_client_works(stack: Stack) -> None:
    assert stack.setup.ports
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    test = parser.get_doctest(example("interfaces/xmlrpc.rst", "python", ">>> import xmlrpc"), {}, "xmlrpc", None, 0)
    assert runner.run(test) == doctest.TestResults(0, 3)


def asked_from_node(stack: Stack) -> subprocess.CompletedProcess[str]:
    assert NODE_MODULES.is_dir(), "the package xmlrpc of npm is missing. Fix: make needs-node"
    return subprocess.run(
        ["node", "-e", example("interfaces/xmlrpc.rst", "javascript", "methodCall")],
        env={**stack.environment, "NODE_PATH": str(NODE_MODULES)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.needs("node")
def test_javascript_client_works(stack: Stack) -> None:
    done = asked_from_node(stack)
    assert (done.returncode, done.stdout) == (0, "app: done, 4 of 4\n"), done.stderr
    stack.ctl("stop", "rolling")
    gone = asked_from_node(stack)
    assert gone.stdout.startswith("LISTENER_DOWN: the listener is not running"), gone.stdout


def test_example_listener_runs_its_command_after_rollout(light: Callable[..., Stack], tmp_path: Path) -> None:
    sent, notify, program = tmp_path / "sent", tmp_path / "notify", tmp_path / "notifier.py"
    notify.write_text(f'#!/bin/sh\necho "$@" >> {sent}; echo this is no answer\n', encoding="utf-8")
    notify.chmod(0o755)
    code = example("interfaces/events.rst", "python", "RESULT 2")
    assert len(code.splitlines()) <= 11
    program.write_text(code.replace("/usr/local/bin/notify", str(notify)), encoding="utf-8")
    section = f"[eventlistener:notify]\ncommand={sys.executable} {program}\nevents=ROLLING_FINISHED,ROLLING_FAILED"
    slow = {"min_seconds": 2}  # seconds: the second rollout is not to end before it is aborted
    stack = light(processes=2, drain=slow, setup={"program": f"stopwaitsecs=30\n{section}"})
    assert stack.ctl("rolling_restart", "app").returncode == 0
    assert stack.ctl("rolling_restart", "app", "--no-wait").returncode == 0
    assert stack.ctl("rolling_abort", "app").returncode == 0
    stack.wait_until(
        lambda: sent.exists() and len(sent.read_text().splitlines()) == 2, 30.0, "both notifications are sent"
    )
    first, second = sent.read_text(encoding="utf-8").splitlines()
    assert (first.split(), second.split()[:2]) == (["app", "done"], ["app", "aborted"])
