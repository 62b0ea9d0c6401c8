"""An application that is notified that it drains, behind the keepalive pool of nginx: ``drain: {signal: …}``.

It answers ``Connection: close`` from then on, so that the pool runs dry by itself and no drain reaches its deadline.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.look import (
    assert_no_failures,
    listener_log,
    pids,
    rolling,
    standing,
    users,
    wait_open,
)
from tests.support.stack import Stack
from tests.support.variants import first

POOL: dict[str, Any] = {
    "balance": "least_conn;",
    "upstream": "keepalive 32;",
    "server": 'proxy_http_version 1.1; proxy_set_header Connection "";',
}
LONG = 20.0
"""A drain.timeout that is not reached."""

WAYS = [{"signal": "USR1"}, {"request": "/drain"}]
ROLLOUTS = 3


@pytest.mark.parametrize("notification", first(1, WAYS), ids=lambda notification: "-".join(notification))
def test_notified_application_ends_keepalive_and_fails_no_post(
    light: Callable[..., Stack], notification: dict[str, str]
):
    stack = light(setup=POOL, drain={"timeout": LONG, **notification})
    with users(stack, rate=60.0, posts=0.5) as load:
        for _ in range(ROLLOUTS):
            before = pids(stack)
            done = stack.ctl("rolling_restart", "app")
            assert done.returncode == 0, done.stdout
            assert not set(before) & set(pids(stack))
            assert max(member["drained"] for member in rolling(stack)["processes"]) < LONG / 2
            assert [member["lingering_connections"] for member in rolling(stack)["processes"]] == [0] * 4
    assert_no_failures(load.report())
    notified = re.findall(r"sent SIG\w+ \(drain\.signal\)|answered \d+ to the drain notification", listener_log(stack))
    assert len(notified) == ROLLOUTS * 4


def test_without_notification_pool_lasts_until_deadline(light: Callable[..., Stack]):
    stack = light(processes=2, setup=POOL, drain={"timeout": 2.0, "keepalive": "ignore"})
    with users(stack):
        assert stack.ctl("rolling_restart", "app").returncode == 0
    assert all(member["drained"] >= 2.0 for member in rolling(stack)["processes"])


# --- one that exits by itself

QUICK = 5
"""Rollouts, each with four moments at which the order to stop could meet the next incarnation."""


def states(stack: Stack) -> dict[str, str]:
    return {name: found["statename"] for name, found in standing(stack).items()}


@pytest.mark.parametrize("seconds", first(1, [0.05, 0.0]))
def test_exit_on_notification_is_replaced_at_once(light: Callable[..., Stack], seconds: float):
    """supervisord starts the next one at once, and the order to stop is for the one that has exited."""
    program = f"autorestart=true\nenvironment=LAB_ENDS={seconds}"
    stack = light(setup={"program": program}, drain={"timeout": LONG, "request": "/drain"})
    for _ in range(QUICK):
        before = pids(stack)
        done = stack.ctl("rolling_restart", "app")
        assert (done.returncode, "4 of 4 replaced" in done.stdout, "by hand" in done.stdout) == (0, True, False)
        assert not set(before) & set(pids(stack))
        assert set(states(stack).values()) == {"RUNNING"}


def test_exit_soon_after_notification_is_replaced(light: Callable[..., Stack]):
    stack = light(
        processes=2,
        setup={"program": "autorestart=true"},
        drain={"timeout": LONG, "request": "/drain"},
        warmup={"timeout": 2, "ready": "/health", "requests": ["/"]},
    )
    stack.fault("exit 0.05")
    for _ in range(3):
        failed = stack.ctl("rolling_restart", "app")
        assert (failed.returncode, "by hand" in failed.stdout) == (1, False), failed.stdout
        assert "STOPPED" not in states(stack).values()
    stack.fault()
    done = stack.ctl("rolling_restart", "app")
    assert (done.returncode, "2 of 2 replaced" in done.stdout) == (0, True), done.stdout
    wait_open(stack)
