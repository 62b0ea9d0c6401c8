"""Ports that are not those of the process that the policy gives them to, for real: swapped, and held by an orphan."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from supervisor_rolling.in_listener.drain import KernelSockets
from tests.lab.look import pids, rules, standing, wait_open
from tests.lab.stack import Stack

NAME = {"SUPERVISOR_GROUP_NAME": "app", "SUPERVISOR_PROCESS_NAME": "app-8001"}


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


def test_ports_that_are_swapped_in_the_policy_are_told_before_anything_is_touched(start: Callable[..., Stack]):
    quick = {"application": "tests.lab.light", "startsecs": 0}
    stack = start(processes=2, setup=quick, guard=False, ports={"app-8000": 8001, "app-8001": 8000})
    before = pids(stack)
    done = stack.ctl("rolling_restart", "app")
    assert done.returncode == 6
    wrong = "app-8000 listens on 8000 and not on 8001; app-8001 listens on 8001 and not on 8000"
    assert f"{wrong}: mend groups.app.ports in rolling.yaml" in done.stdout
    assert (pids(stack), rules()) == (before, [])


def test_what_an_orphan_answers_on_the_port_warms_nobody(light: Callable[..., Stack]):
    warmup = {"timeout": 1.5, "ready": "/", "requests": ["/"]}
    stack = light(processes=3, warmup=warmup)
    stack.ctl("stop", "app:app-8001")
    with orphan_on(8001) as orphan:
        stack.wait_until(lambda: bool(KernelSockets().listeners([8001])[8001]), 10.0, "it listens")
        time.sleep(0.1)
        stack.fault("slow 60")  # as a server that tries again and again to have its port
        stack.ctl("start", "app:app-8001")
        stack.wait_until(lambda: standing(stack)["app-8001"]["stage"] == "failed", 10.0, "it is not warm")
        why = f"port 8001 is held by process {orphan.pid} (python"
        assert why in standing(stack)["app-8001"]["why"]
        assert not standing(stack)["app-8001"]["warm"]
    stack.fault()
    stack.ctl("restart", "app:app-8001")
    wait_open(stack)


def test_what_a_dead_process_has_left_on_its_port_is_named_before_a_roll_and_in_it(light: Callable[..., Stack]):
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
