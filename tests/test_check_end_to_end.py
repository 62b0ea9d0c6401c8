"""``rolling_check`` with the real supervisord, nginx and kernel: each finding with the wrong set-up made for real."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.stack import Stack

NGINX = {"nginx": "%(here)s/nginx.conf"}


def checked(stack: Stack) -> dict[str, Any]:
    """The report, by the command that people use."""
    done = stack.ctl("rolling_check", "app", "--json")
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 1), done.stdout
    return report


@pytest.fixture
def group(light: Callable[..., Stack]) -> Callable[..., Stack]:
    def group(processes: int = 3, **given: Any) -> Stack:
        return light(processes, **{"balancer": NGINX, "settle": "auto", **given})

    return group


def test_a_good_set_up_has_no_finding(group: Callable[..., Stack]) -> None:
    stack = group()
    print(stack.ctl("rolling_check", "app").stdout)
    assert checked(stack)["findings"] == []
