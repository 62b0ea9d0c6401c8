"""Every test runs in a network namespace of the test run's own, or the run fails: nothing is skipped."""

from __future__ import annotations

import pytest

from tests.lab.netns import NoNamespaceError, enter_private_network


def pytest_configure(config: pytest.Config) -> None:
    try:
        enter_private_network()
    except NoNamespaceError as error:
        pytest.exit(f"The tests need a network namespace of their own: {error}", returncode=3)
