"""Programs that exit as soon as they are started, with ``startsecs=0``: how often supervisord starts them."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.support.stack import Stack

FLAPPING = """\
[program:flapping]
command=/bin/true
autorestart=true
startsecs=0
"""


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
