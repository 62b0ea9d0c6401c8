"""uWSGI: chain reload, "The Art of Graceful Reloading" in its documentation.

"It will restart one worker at time, and the following worker is not reloaded until the previous one is ready to accept
new requests", which needs ``lazy-apps``. The listen queue is as long as that article says for a site with many users.
Without ``thunder-lock``: where it is set, a worker that has threads and nothing to do ends only when it is killed, a
minute after it was told to.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.benchmarks.peers.startup import APPLICATION, startup
from tests.support.stack import ROOT, Stack

FIFO = "uwsgi.fifo"
CHAIN_RELOAD = "c"
BACKLOG = 1024


def main() -> None:
    """Become uWSGI's master."""
    given = startup()
    program = str(Path(sys.executable).with_name("uwsgi"))
    options = {
        "http-socket": f"{given.address}:{given.port}",
        "processes": given.workers,
        "threads": given.threads,
        "listen": BACKLOG,
        "module": APPLICATION,
        "master-fifo": given.directory / FIFO,
        "pythonpath": ROOT,
        "virtualenv": sys.prefix,
    }
    flags = ("master", "lazy-apps", "need-app", "die-on-term", "disable-logging", "strict")
    os.execv(program, [program, *(f"--{flag}" for flag in flags), *(f"--{k}={v}" for k, v in options.items())])


def prepare(_stack: Stack) -> None:
    """It is warm."""


def reload(stack: Stack) -> None:
    """``echo c > uwsgi.fifo``."""
    (stack.directory / FIFO).write_text(CHAIN_RELOAD, encoding="ascii")


if __name__ == "__main__":
    main()
