"""``python -m tests.support.needs -k name``: what the tests that these arguments of pytest select need to be installed,
as the names of make's targets. A test says it with ``@pytest.mark.needs("browser")``."""

from __future__ import annotations

import contextlib
import io
import sys

import pytest


class Needs:
    """A plugin of pytest that notes what the collected tests need."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            for marker in item.iter_markers("needs"):
                self.found.update(marker.args)


def main(arguments: list[str]) -> None:
    """Print the targets. Where pytest does not accept the arguments, it says so itself when it runs the tests."""
    needs = Needs()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        pytest.main([*arguments, "--collect-only", "--numprocesses=0"], plugins=[needs])
    print(*(f"needs-{name}" for name in sorted(needs.found)))


if __name__ == "__main__":
    main(sys.argv[1:])
