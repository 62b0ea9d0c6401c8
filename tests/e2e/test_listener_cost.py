"""What the listener costs while it waits, for real: eight processes that boot slowly, or drain for long."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor_rolling.listener.kernel_sockets import KernelSockets
from tests.support import proc
from tests.support.lingering import Stream
from tests.support.look import closed_ports, listener_pid, rolling, wait_open
from tests.support.stack import Stack

EIGHT = 8
SECONDS = 8.0  # of waiting that are measured
MOST = 0.15
"""Of one CPU. Measured 0.03 for the boots and 0.02 for the drains; when each boot asked for all connections of its port
50 times a second it was 0.18 to 0.9, by the size of the kernel's table."""


@pytest.fixture
def stack(start: Callable[..., Stack]) -> Stack:
    """Eight light processes that a rollout takes all at once."""
    setup = {"application": "tests.support.light_app", "startsecs": 0, "balance": "least_conn;"}
    policy = {"max_unavailable": EIGHT, "canary": 0, "drain": {"timeout": 60}}
    found = start(EIGHT, setup=setup, warmup={"timeout": 60, "requests": ["/"]}, **policy)
    wait_open(found)
    return found


def rollout_all(stack: Stack, stage: str) -> None:
    """Begin a rollout, and wait until all are in this stage, each behind a closed port."""
    assert stack.ctl("rolling_restart", "--force", "--no-wait", "app").returncode == 0
    stack.wait_until(
        lambda: [member["stage"] for member in rolling(stack)["processes"]] == [stage] * EIGHT, 30.0, f"all are {stage}"
    )
    assert len(closed_ports()) == EIGHT


def share_while(stack: Stack, waits: Callable[[], bool]) -> float:
    """The share of a CPU that the listener takes for SECONDS, through which ``waits`` has to hold."""
    pid = listener_pid(stack)
    began, used = time.monotonic(), proc.cpu_seconds(pid)
    stack.wait_until(lambda: not waits() or time.monotonic() - began >= SECONDS, SECONDS + 5, "it was measured")
    assert waits()
    return (proc.cpu_seconds(pid) - used) / (time.monotonic() - began)


def test_eight_slow_boots_cost_the_listener_little(stack: Stack) -> None:
    stack.fault("slow 12")
    rollout_all(stack, "warming")
    share = share_while(stack, lambda: not any(KernelSockets().listeners(stack.setup.ports).values()))
    assert share < MOST, f"{share:.2f} of a CPU"


def test_eight_long_drains_cost_the_listener_little(stack: Stack) -> None:
    with contextlib.ExitStack() as clients:
        for port in stack.setup.ports:
            clients.enter_context(Stream(port, 30.0))
        rollout_all(stack, "draining")
        share = share_while(stack, lambda: {one["stage"] for one in rolling(stack)["processes"]} == {"draining"})
    assert share < MOST, f"{share:.2f} of a CPU"


def test_warm_up_threads_run_at_the_usual_priority(stack: Stack) -> None:
    stack.fault("slow 5")
    rollout_all(stack, "warming")
    listener = listener_pid(stack)
    assert os.getpriority(os.PRIO_PROCESS, listener) < 0
    threads = [int(path.name) for path in Path(f"/proc/{listener}/task").iterdir()]
    usual = [thread for thread in threads if os.getpriority(os.PRIO_PROCESS, thread) == 0]
    assert len(usual) == EIGHT
