"""``supervisor_rolling setup`` on a supervisord that has an [include] and nothing of the plugin yet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import look, venvs
from tests.support.stack import ROOT, Setup, Stack

DROP_IN, POLICY = "conf.d/rolling.conf", "rolling.yaml"
MINE = "# of the operator\ngate:\n  lease: 20\n"
WORKER = f"""\
[program:worker]
command = {sys.executable} -c "import signal; signal.pause()"
[include]
files = conf.d/*.conf
"""


def host(directory: Path, **setup: object) -> Stack:
    """A supervisord with four light processes and a worker, before its nginx with the default max_fails."""
    (directory / "conf.d").mkdir()
    chosen = {
        "processes": 4,
        "application": "tests.support.light_app",
        "peer": "",
        "balance": "",
        **setup,
    }
    stack = Stack(directory, Setup(supervisor=WORKER, **chosen))  # type: ignore[arg-type]
    stack.release("old")
    return stack


def run(stack: Stack, *words: str) -> tuple[int, str]:
    """The program's exit status and output."""
    done = subprocess.run(
        [sys.executable, "-m", "supervisor_rolling.ctl.program", "-c", str(stack.supervisord_conf), *words],
        cwd=ROOT,
        env=stack.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def files_in(stack: Stack) -> list[str]:
    """Those that setup may write and that exist."""
    return [name for name in (DROP_IN, POLICY) if (stack.directory / name).exists()]


def pids(stack: Stack) -> set[int]:
    return {process.pid for process in stack.processes()}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with ExitStack() as stacks:
        yield stacks.enter_context(host(tmp_path))
    assert look.rules() == []


def test_setup_leads_to_a_rollout_and_back(stack: Stack) -> None:
    (stack.directory / POLICY).write_text(MINE, encoding="utf-8")
    status, text = run(stack, "setup", "--dry-run")
    assert (status, files_in(stack)) == (0, [POLICY]), text
    assert "left out: worker: it listens on nothing, as queue workers do" in text
    assert f"warning: nginx.min_ready_seconds: {stack.nginx_conf}:" in text
    stack.nginx_conf.write_text(stack.nginx_conf.read_text(encoding="utf-8").replace(" ;\n", " max_fails=0;\n"))
    os.kill(stack.nginx_pid, signal.SIGHUP)

    status, text = run(stack, "setup", "app", "--yes", "--reload")
    assert (status, files_in(stack)) == (0, [DROP_IN, POLICY]), text
    assert "the plugin is loaded, and every program runs again" in text
    status, text = run(stack, "check", "app")
    assert (status, text.startswith("app: no finding")) == (0, True), text
    before = pids(stack)
    status, text = run(stack, "restart", "app")
    assert (status, before & pids(stack)) == (0, set()), text
    assert "Nothing to do: all is written" in run(stack, "setup")[1]

    before = pids(stack)
    answer = json.loads(run(stack, "setup", "--remove", "--yes", "--json")[1])
    assert answer["removed"] == [str(stack.directory / name) for name in (DROP_IN, POLICY)]
    assert (files_in(stack), look.rules(), pids(stack)) == ([POLICY], [], before)
    assert (stack.directory / POLICY).read_text(encoding="utf-8") == MINE
    assert "rolling" not in stack.ctl("status").stdout
    stack.ctl("reload")
    stack.wait_until(lambda: "has not loaded the plugin" in run(stack, "status")[1], 30.0, "the plugin is unloaded")
    stack.wait_serving()
    assert "Nothing to do" in run(stack, "setup", "--remove")[1]


def test_what_the_operator_changed_is_kept(tmp_path: Path) -> None:
    with host(tmp_path, processes=2, startsecs=0) as stack:
        status, text = run(stack, "setup")
        assert (status, files_in(stack)) == (1, [])
        assert "nothing was changed. Fix: answer y, or use --yes" in text
        status, text = run(stack, "setup", "--yes")
        assert (status, files_in(stack)) == (0, [DROP_IN, POLICY]), text
        assert "It restarts every program of this supervisord (app, worker)" in text
        assert {(stack.directory / name).stat().st_mode & 0o777 for name in files_in(stack)} == {0o644}
        with (stack.directory / POLICY).open("a", encoding="utf-8") as policy:
            policy.write("    max_unavailable: 2\n")
        assert "Nothing to do: all is written" in run(stack, "setup", "--yes")[1]
        status, text = run(stack, "setup", "--remove", "--yes")
        assert f"{stack.directory / POLICY} was changed since setup wrote it, and is kept" in text
        assert files_in(stack) == [POLICY]


def test_python_without_the_plugin_is_refused(tmp_path: Path) -> None:
    venv = venvs.make(tmp_path / "venv")
    (directory := tmp_path / "s").mkdir()
    with host(directory, venv=str(venv), processes=2, startsecs=0) as stack:
        status, text = run(stack, "setup", "--yes")
        assert (status, files_in(stack)) == (1, [])
        assert "Nothing to do" in run(stack, "setup", "--remove")[1]
        assert f"runs with {venv}/bin/python, which cannot import the plugin: ModuleNotFoundError" in text
