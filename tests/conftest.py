"""Every test runs in a network namespace of the test run's own, or the run fails: nothing is skipped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor_rolling.listener.kernel_sockets import KernelSockets
from tests.support import look, plugin
from tests.support.netns import NoNamespaceError, enter_private_network
from tests.support.stack import Setup, Stack

TESTS = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    try:
        enter_private_network()
    except NoNamespaceError as error:
        pytest.exit(f"The tests need a network namespace of their own: {error}", returncode=3)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each test has its folder as a marker: ``-m unit``, ``-m 'not soak'``."""
    for item in items:
        item.add_marker(item.path.relative_to(TESTS).parts[0])


@pytest.fixture
def keep() -> Iterator[contextlib.ExitStack]:
    """Closes at the end of the test what is entered into it."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def sockets() -> KernelSockets:
    return KernelSockets()


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Stack]]:
    """Starts a stack with the plugin, on the release "old": ``start(processes=4, gate={…}, max_unavailable=2, …)``.

    ``prefix``: before the listener's command; ``listener``: its module; ``setup``: more of ``Setup``; the rest are keys
    of the policy, in which ``%(here)s`` is the stack's directory.
    """
    with contextlib.ExitStack() as stacks:

        def start(
            processes: int = 4,
            prefix: str = "",
            listener: str = "supervisor_rolling.listener",
            setup: dict[str, Any] | None = None,
            **policy: Any,
        ) -> Stack:
            directory = tmp_path_factory.mktemp("s")
            policy_file = directory / "rolling.yaml"
            history = {"file": "%(here)s/rollouts.jsonl"}
            text = plugin.policy(**{"history": history, **policy}).replace("%(here)s", str(directory))
            policy_file.write_text(text, encoding="utf-8")
            sections = plugin.sections(policy_file, prefix, listener)
            stack = Stack(directory, Setup(processes=processes, supervisor=sections, **(setup or {})))
            stack.release("old")
            stacks.enter_context(stack)
            stack.warm()
            return stack

        yield start
    assert look.rules() == [], "rules were left behind"


@pytest.fixture
def light(start: Callable[..., Stack]) -> Callable[..., Stack]:
    """Starts a stack of the light application, and waits until its processes are warm and open."""

    def light(processes: int = 4, setup: dict[str, Any] | None = None, **given: Any) -> Stack:
        warmup = {"timeout": 10, "ready": "/health", "requests": ["/"]}
        quick = {"application": "tests.support.light_app", "startsecs": 0, **(setup or {})}
        stack = start(processes=processes, setup=quick, **{"warmup": warmup, **given})
        look.wait_open(stack)
        return stack

    return light
