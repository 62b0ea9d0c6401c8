"""nginx with ``keepalive 32`` before real servers: what becomes of its pool when a process drains."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.soak.middleware import PROCESSES, WARMUP, restarted, setup_of
from tests.support.look import listener_log, pids, refuses, rolling, rules, users, wait_open
from tests.support.pooled_clients import SERVERS
from tests.support.stack import Stack
from tests.support.variants import first


def pooled(start: Callable[..., Stack], server: str, bare: bool = False, **policy: object) -> Stack:
    """Four processes on this server, warm and open, behind a pool."""
    stack = start(PROCESSES, setup=setup_of(server, bare), **{"warmup": WARMUP, **policy})
    wait_open(stack)
    return stack


@pytest.mark.parametrize("server", first(2, ["gunicorn", "uvicorn", *sorted(SERVERS.keys() - {"gunicorn", "uvicorn"})]))
def test_middleware_drains_pool_without_lost_post(start: Callable[..., Stack], server: str):
    result = restarted(pooled(start, server), server, 6)
    assert len(result.drains) == 6
    assert result.report.failures == {}
    assert result.report.requests > 50
    assert result.drains[-1] < 10, "a pool was waited for until drain.timeout"


def test_without_middleware_rollout_stops_with_fix(start: Callable[..., Stack]):
    stack = pooled(start, "waitress", bare=True)
    before = pids(stack)
    with users(stack, posts=0.5) as load:
        done = stack.ctl("rolling_restart", "app")
    assert done.returncode == 1, done.stdout
    assert (pids(stack), rules(), refuses(8000)) == (before, [], False)
    assert load.report().failures == {}
    why = rolling(stack)["processes"][0]["why"]
    assert re.search(r"\(\d+ in \d\.\d s over \d+ connections?, from nginx at 127\.0\.0\.1:\d+ to port 8000\)", why), (
        why
    )
    assert "keepalive 0;" in done.stdout
    assert 1.0 <= rolling(stack)["seconds"] < 5.0
    assert "opened before its port was closed" in listener_log(stack)


def test_keepalive_ignore_continues_after_the_drain(start: Callable[..., Stack]):
    stack = pooled(start, "waitress", bare=True, drain={"timeout": 1.5, "keepalive": "ignore"})
    before = pids(stack)
    with users(stack, posts=0.0):
        done = stack.ctl("rolling_restart", "app:app-8000")
    assert done.returncode == 0, done.stdout
    assert pids(stack)[0] != before[0]
    assert 1.5 <= rolling(stack)["processes"][0]["drained"] < 3.0
