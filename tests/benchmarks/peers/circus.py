"""circus: ``circusctl reload --sequential``, and a socket that circusd holds and every process inherits.

"If sequential is true, the arbiter will restart each process in a sequential way (with a `warmup_delay` pause between
each step)": it does not check whether a process is ready, so the pause is the time that this application takes to boot
and warm up.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.peers.startup import startup
from tests.support.stack import GROUP, Stack, StackError

PAUSE = 2
"""Seconds, a whole number. Boot and warm-up take 1.3 s where nothing else wants the processor."""

RELOAD_WITHIN = 900

INI = """\
[circus]
endpoint = ipc://{directory}/circus.sock
pubsub_endpoint = ipc://{directory}/circus-pub.sock
[watcher:{group}]
cmd = {python} -m tests.benchmarks.peers.circus_worker --fd $(circus.sockets.web) --threads {threads}
use_sockets = True
copy_env = True
numprocesses = {workers}
graceful_timeout = 30
[socket:web]
host = {address}
port = {port}
"""


def main() -> None:
    """Become circusd."""
    given = startup()
    ini = given.directory / "circus.ini"
    ini.write_text(INI.format(group=GROUP, python=sys.executable, **vars(given)), encoding="utf-8")
    program = str(_program("circusd"))
    os.execv(program, [program, str(ini)])


def prepare(stack: Stack) -> None:
    """Set the pause now: it would hold up the start of the group, too."""
    _order(stack, "set", GROUP, "warmup_delay", str(PAUSE))


def reload(stack: Stack) -> None:
    """Returns when it is done, which is when it has waited after the last process."""
    _order(stack, "reload", GROUP, "--sequential", "--waiting")


def _order(stack: Stack, *words: str) -> None:
    where = ("--endpoint", f"ipc://{stack.directory}/circus.sock", "--timeout", str(RELOAD_WITHIN))
    done = subprocess.run(
        [str(_program("circusctl")), *where, *words], capture_output=True, text=True, timeout=RELOAD_WITHIN, check=False
    )
    if done.returncode or done.stdout.strip() != "ok":
        raise StackError(f"circusctl {' '.join(words)}: {done.stdout}{done.stderr}")


def _program(name: str) -> Path:
    return Path(sys.executable).with_name(name)


if __name__ == "__main__":
    main()
