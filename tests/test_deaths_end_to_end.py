"""Whatever dies in the middle of a roll: the listener, the client, supervisord, both, or only for a while."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab import proc
from tests.lab.look import (
    all_open,
    assert_nobody_noticed,
    listener_pid,
    pids,
    popen_ctl,
    refuses,
    rolling,
    rules,
    standing,
    users,
    wait_ended,
    wait_open,
    wait_stage,
)
from tests.lab.stack import Stack

LEASE = 15.0  # seconds, the shortest that a policy may have
OPENS_WITHIN = LEASE + 2.0
"""The kernel compares whole seconds, and rounds the end of a lease up."""

LIGHT = {"application": "tests.lab.light", "startsecs": 0}


@pytest.fixture
def group(start: Callable[..., Stack]) -> Callable[..., Stack]:
    """Starts a stack of the light application whose processes are warm and open."""

    def group(processes: int = 4, setup: dict[str, Any] | None = None, **policy: Any) -> Stack:
        warmup = {"timeout": 10, "ready": "/health", "requests": ["/"]}
        given = {"warmup": warmup, "gate": {"lease": LEASE}, **policy}
        stack = start(processes=processes, setup={**LIGHT, **(setup or {})}, **given)
        wait_open(stack)
        return stack

    return group


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP while the block runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def seconds_until_open(stack: Stack, patience: float) -> float:
    """How long it takes until every port of the group takes a new connection, both families' rules gone or not."""
    begun = time.monotonic()
    while not all_open(stack):
        assert time.monotonic() - begun < patience, rules()
        time.sleep(0.05)
    return time.monotonic() - begun


# --- the listener


def test_the_listener_may_be_killed_in_every_roll(group: Callable[..., Stack]):
    """A short edition of ``python -m tests.faults.kills``, which does it a hundred times."""
    from tests.faults.kills import roll_and_kill

    stack, chance = group(), random.Random(4)
    with users(stack) as report:
        found = [roll_and_kill(stack, chance) for _ in range(8)]
    assert all(one.survived for one in found), found
    assert_nobody_noticed(report())


def test_a_listener_that_is_stopped_for_longer_than_the_lease_drains_anew_before_anything_is_stopped(
    group: Callable[..., Stack],
):
    stack = group(processes=3, drain={"timeout": 60})
    with users(stack) as report, long_answer(stack, 8000):
        assert stack.ctl("rolling_restart", "app", "--no-wait").returncode == 0
        wait_stage(stack, "draining", "app-8000")
        stack.wait_until(lambda: refuses(8000), 5.0, "the gate is closed")
        with stopped(listener_pid(stack)):
            assert seconds_until_open(stack, OPENS_WITHIN) > 5.0
            time.sleep(2.0)  # users come back to it
        roll = wait_ended(stack)
    assert roll["status"] == "done", roll["why"]
    assert_nobody_noticed(report())
