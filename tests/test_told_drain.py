"""An application that is told that it drains, behind the keepalive pool of nginx: ``drain: {signal: …}``.

It answers ``Connection: close`` from then on, so that the pool runs dry by itself and no drain reaches its deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.look import (
    assert_nobody_noticed,
    listener_log,
    pids,
    rolling,
    users,
)
from tests.lab.stack import Stack

POOL: dict[str, Any] = {
    "balance": "least_conn;",
    "upstream": "keepalive 32;",
    "server": 'proxy_http_version 1.1; proxy_set_header Connection "";',
}
LONG = 20.0
"""A drain.timeout that is not reached."""

WAYS = [{"signal": "USR1"}, {"request": "/drain"}]
ROLLS = 3


@pytest.mark.parametrize("told", WAYS, ids=lambda told: "-".join(told))
def test_one_that_is_told_to_ends_its_kept_connections_and_no_post_fails(
    light: Callable[..., Stack], told: dict[str, str]
):
    stack = light(setup=POOL, drain={"timeout": LONG, **told})
    with users(stack, rate=100.0, posts=0.5) as report:
        for _ in range(ROLLS):
            before = pids(stack)
            done = stack.ctl("rolling_restart", "app")
            assert done.returncode == 0, done.stdout
            assert not set(before) & set(pids(stack))
            assert max(member["drained"] for member in rolling(stack)["processes"]) < LONG / 2
            assert [member["connections_left"] for member in rolling(stack)["processes"]] == [0] * 4
    assert_nobody_noticed(report())
    assert listener_log(stack).count("that it drains") == ROLLS * 4


def test_without_being_told_the_pool_lasts_until_the_deadline(light: Callable[..., Stack]):
    stack = light(processes=2, setup=POOL, drain={"timeout": 2.0, "keepalive": "ignore"})
    with users(stack):
        assert stack.ctl("rolling_restart", "app").returncode == 0
    assert all(member["drained"] >= 2.0 for member in rolling(stack)["processes"])
