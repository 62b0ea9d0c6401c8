"""Programs that exit as soon as they are started, with ``startsecs=0``: how often supervisord starts them. One of them
is the listener itself."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable

import pytest

from tests.support.stack import Setup, Stack, running

FLAPPING = """\
[program:flapping]
command=/bin/true
autorestart=true
startsecs=0
"""


CHATTY = """\
[program:chatty]
command=/bin/sh -c 'while sleep 0.02; do echo x; done'
stopasgroup=true
"""
"""Its output ends supervisord's wait fifty times a second, as that of a busy application does."""

BROKEN_LISTENER = """\
[rpcinterface:rolling]
supervisor.rpcinterface_factory = supervisor_rolling.rpcinterface:make_rolling_rpcinterface
[eventlistener:rolling]
command = {command}
events = ROLLING_REQUEST,PROCESS_STATE,PROCESS_GROUP,TICK_5,SUPERVISOR_STATE_CHANGE
startsecs = 0
autorestart = true
{lines}
"""
LISTENER = f"{shlex.quote(sys.executable)} -m supervisor_rolling.listener --config %(here)s/rolling.yaml"
MISSING = 'raise ModuleNotFoundError("No module named \'yaml\'", name="yaml")'


def spawns(stack: Stack, name: str) -> int:
    log = (stack.directory / "supervisord.log").read_text(encoding="utf-8")
    return log.count(f"spawned: '{name}'")


def seconds_for_spawns(stack: Stack, name: str, count: int) -> float:
    begun, end = time.monotonic(), spawns(stack, name) + count
    stack.wait_until(lambda: spawns(stack, name) >= end, 60.0, f"{name} is started {count} times")
    return time.monotonic() - begun


def test_flapping_process_is_started_about_once_a_second(light: Callable[..., Stack]) -> None:
    stack = light(processes=1, setup={"program": FLAPPING})
    stack.ctl("stop", "rolling")  # a listener's answers end supervisord's wait, too
    assert seconds_for_spawns(stack, "flapping", 10) > 3.0, "without the bound 0.1 s"


@pytest.mark.parametrize(
    ("command", "lines", "logged"),
    [
        ("/bin/false", "", ""),  # such as an interpreter that ``user=`` may not read
        (LISTENER, "environment = PYTHONPATH=%(here)s", "the listener cannot start: No module named 'yaml'"),
    ],
    ids=["exits", "no library"],
)
def test_listener_that_cannot_start_is_braked(
    tmp_path_factory: pytest.TempPathFactory, command: str, lines: str, logged: str
) -> None:
    directory = tmp_path_factory.mktemp("s")
    section = BROKEN_LISTENER.format(command=command, lines=lines).replace("%(here)s", str(directory))
    setup = Setup(1, "tests.support.light_app", program=CHATTY, supervisor=section, files={"yaml.py": MISSING})
    with running(directory, setup) as stack:
        stack.wait_until(lambda: spawns(stack, "rolling") >= 2, 20.0, "the listener is started again")
        assert seconds_for_spawns(stack, "rolling", 1) > 4.5, "without the brake 0.02 s"
        assert logged in "".join(path.read_text(encoding="utf-8") for path in directory.glob("rolling-stderr*.log"))
        begun = time.monotonic()
        assert stack.ctl("stop", "rolling").returncode == 0
        assert time.monotonic() - begun < 3.0, "a stop does not wait for the next start"
        assert stack.ctl("status", "rolling").stdout.split()[1] == "STOPPED"


def test_listener_with_invalid_policy_keeps_running(light: Callable[..., Stack]) -> None:
    stack = light(processes=1)
    (stack.directory / "rolling.yaml").write_text("groups: [", encoding="utf-8")
    before = spawns(stack, "rolling")
    assert stack.ctl("restart", "rolling").returncode == 0
    stack.wait_until(lambda: "rolling.yaml" in stack.ctl("rolling_status").stdout, 20.0, "the listener says it")
    assert spawns(stack, "rolling") == before + 1
