"""nginx with ``keepalive 32`` before real servers: what becomes of its pool when a process drains."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.pools import WARMUP, restarted, setup_of
from tests.lab.look import wait_open
from tests.lab.pooled import SERVERS
from tests.lab.stack import Stack


def pooled(start: Callable[..., Stack], server: str, bare: bool = False, **policy: object) -> Stack:
    """Four processes on this server, warm and open, behind a pool."""
    stack = start(setup=setup_of(server, bare), **{"warmup": WARMUP, **policy})
    wait_open(stack)
    return stack


@pytest.mark.parametrize("server", sorted(SERVERS))
def test_in_the_middleware_the_pool_runs_dry_and_no_post_is_lost(start: Callable[..., Stack], server: str):
    result = restarted(pooled(start, server), server, 6)
    assert len(result.drains) == 6
    assert result.report.failures == {}
    assert result.report.requests > 50
    assert result.drains[-1] < 10, "a pool was waited for until drain.timeout"
