"""gunicorn: HUP to the master, https://gunicorn.org/signals.

"Reload configuration, spawn new workers, and gracefully stop old ones. If the app is not preloaded the application code
is reloaded too." The old ones get SIGTERM as soon as the new ones are forked, before those have booted.
"""

from __future__ import annotations

import os
import signal
import sys

from tests.benchmarks.peers import gunicorn_conf
from tests.benchmarks.peers.startup import APPLICATION, startup
from tests.support.stack import Stack


def main() -> None:
    """Become gunicorn's master."""
    given = startup()
    where = ("--bind", f"{given.address}:{given.port}", "--config", f"python:{gunicorn_conf.__name__}")
    size = ("--workers", str(given.workers), "--threads", str(given.threads))
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *where, *size, APPLICATION])


def prepare(_stack: Stack) -> None:
    """It is warm."""


def reload(stack: Stack) -> None:
    """``kill -HUP``."""
    os.kill(stack.processes()[0].pid, signal.SIGHUP)


if __name__ == "__main__":
    main()
