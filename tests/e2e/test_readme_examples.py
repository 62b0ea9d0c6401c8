"""The programs in the README do what it says, copied from there as they are."""

from __future__ import annotations

import configparser
import doctest
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from supervisor_rolling.listener.config import parse
from tests.support.stack import ROOT, Stack

NODE_MODULES = ROOT / ".venv" / "node" / "node_modules"
INET = "[inet_http_server]\nport = 127.0.0.1:9001\n"


def examples(language: str) -> list[str]:
    """The code blocks of the README in a language."""
    text = (ROOT / "README.rst").read_text(encoding="utf-8")
    found = re.findall(rf"^\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", text, re.MULTILINE)
    return [textwrap.dedent(block).strip() + "\n" for block in found]


def one_with(language: str, word: str) -> str:
    (found,) = [block for block in examples(language) if word in block]
    return found


@pytest.fixture
def stack(light: Callable[..., Stack]) -> Stack:
    """A supervisord at the address that the examples use."""
    return light(processes=4, setup={"program": f"stopwaitsecs=30\n{INET}[program:idle]\ncommand=sleep 600"})


def test_python_client_works(stack: Stack) -> None:
    assert stack.setup.ports
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    test = parser.get_doctest(one_with("python", ">>> import xmlrpc"), {}, "README", "README.rst", 0)
    assert runner.run(test) == doctest.TestResults(0, 3)


def asked_from_node(stack: Stack) -> subprocess.CompletedProcess[str]:
    assert NODE_MODULES.is_dir(), "the package xmlrpc of npm is missing. Fix: make needs-node"
    return subprocess.run(
        ["node", "-e", one_with("javascript", "methodCall")],
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
    code = one_with("python", "RESULT 2")
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


def test_every_policy_is_valid() -> None:
    policies = [block for block in examples("yaml") if "groups:" in block]
    assert len(policies) >= 2
    for text in policies:
        assert yaml.safe_load(text)
        assert parse(text, "README.rst").groups["app"]


def test_every_section_is_that_of_conf() -> None:
    whole = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    whole.read(ROOT / "conf" / "supervisord.conf")
    for text in examples("ini"):
        found = configparser.RawConfigParser()
        found.read_string(text)
        for name in found.sections():
            assert dict(found[name]) == dict(whole[name])
