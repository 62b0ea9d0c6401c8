"""Whatever dies in the middle of a rollout, for good or for a while: the listener, the client, supervisord, or both."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.soak.kills import rollout_and_kill
from tests.support.look import (
    all_open,
    assert_no_failures,
    draining,
    listener_pid,
    pids,
    refuses,
    rolling,
    rules,
    users,
    wait_ended,
)
from tests.support.stack import Stack
from tests.support.waiting import stays, wait_until

LEASE = 15.0  # seconds, the shortest that a policy may have
OPENS_WITHIN = LEASE + 2.0
"""The kernel compares whole seconds, and the end of a lease is rounded up."""


@pytest.fixture
def group(light: Callable[..., Stack]) -> Callable[..., Stack]:
    """A light group with the shortest lease."""
    return functools.partial(light, gate={"lease": LEASE}, drain={"timeout": 60})


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP while the block runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def seconds_until_open(stack: Stack) -> float:
    """How long it takes until every port of the group takes a new connection."""
    return wait_until(lambda: all_open(stack), "all ports are open", OPENS_WITHIN)


def end_with_force(stack: Stack) -> None:
    """End a stack with a dead supervisord: its processes are orphans."""
    assert len(stack.stop()) >= len(stack.setup.ports)


# --- killed


@pytest.mark.parametrize("victim", ["listener", "client"])
def test_kill_at_any_moment_loses_nothing(group: Callable[..., Stack], victim: str):
    """A few of those that ``python -m tests.soak.kills`` does by the hundred."""
    stack, chance = group(), random.Random(4)
    with users(stack) as load:
        found = [rollout_and_kill(stack, chance, victim) for _ in range(5)]
    assert all(one.survived for one in found), found
    assert_no_failures(load.report())


def test_listener_opens_all_gates_after_supervisord_dies(group: Callable[..., Stack]):
    stack = group()
    with draining(stack):
        os.kill(stack.supervisord_pid, signal.SIGKILL)
        assert seconds_until_open(stack) < 2.0
    assert rules() == []
    end_with_force(stack)


def test_kernel_opens_all_gates_after_both_die(group: Callable[..., Stack]):
    stack = group()
    with draining(stack):
        listener = listener_pid(stack)
        os.kill(stack.supervisord_pid, signal.SIGSTOP)  # so that it starts no other listener meanwhile
        os.kill(listener, signal.SIGKILL)
        os.kill(stack.supervisord_pid, signal.SIGKILL)
        assert refuses(8000), "no process is left to open it"
        seconds_until_open(stack)
    end_with_force(stack)
    forget_rules()


def forget_rules() -> None:
    """Remove the expired rules: no listener is left to remove them."""
    for command in ("iptables-legacy", "ip6tables-legacy"):
        for option in ("-F", "-X"):
            subprocess.run([command, "-w", option], check=True, timeout=10)


# --- stopped for a while


@pytest.mark.soak
def test_listener_stopped_beyond_lease_drains_again(group: Callable[..., Stack]):
    stack = group(processes=3)
    with users(stack) as load:
        with draining(stack), stopped(listener_pid(stack)):
            seconds_until_open(stack)
            load.wait_more(60)  # some of them to it
        rollout = wait_ended(stack)
    assert (rollout["status"], rollout["replaced"]) == ("done", 3)
    assert_no_failures(load.report())


@pytest.mark.soak
def test_supervisord_stopped_beyond_lease_changes_nothing(
    group: Callable[..., Stack],
):
    stack = group(processes=3)
    before = pids(stack)
    with users(stack) as load:
        with draining(stack):
            with stopped(stack.supervisord_pid):
                assert stays(lambda: refuses(8000), LEASE + 3.0), "the listener renews the lease meanwhile"
            assert rolling(stack)["status"] == "running"
            assert pids(stack) == before
        rollout = wait_ended(stack)
    assert (rollout["status"], rollout["replaced"]) == ("done", 3)
    assert_no_failures(load.report())


def test_both_stopped_beyond_lease_drain_again_before_stop(
    group: Callable[..., Stack],
):
    stack = group(processes=3)
    with users(stack) as load:
        with draining(stack), stopped(listener_pid(stack)), stopped(stack.supervisord_pid):
            seconds_until_open(stack)
            load.wait_more(60)
        rollout = wait_ended(stack)
    assert (rollout["status"], rollout["replaced"]) == ("done", 3)
    assert_no_failures(load.report())
