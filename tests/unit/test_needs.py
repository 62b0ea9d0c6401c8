"""What ``make test`` installs for the tests that its arguments select."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.stack import ROOT


@pytest.mark.parametrize(
    ("arguments", "targets"),
    [
        (["tests/e2e/test_docs_programs.py", "-k", "test_javascript"], ["needs-node"]),
        (["tests/e2e/test_balancers.py", "-n", "2"], ["needs-balancers"]),
        (["tests/e2e/test_docs_programs.py", "--no-such-option"], []),
        (["tests/unit/test_text.py"], []),
    ],
)
def test_only_what_selected_tests_need_is_printed(arguments: list[str], targets: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.needs", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == targets
