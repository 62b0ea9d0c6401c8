"""Runs one command of the operator: a hook, or what a warm-up runs as its last step.

A command is a list of arguments. It gets no shell, nothing on its standard input, a session of its own and the usual
priority. What it prints goes to the log, and its last line into the message when it fails. When its time is over, or
it is dropped, its process group gets SIGTERM, and SIGKILL after ``GRACE`` seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping

from supervisor_rolling import file_trust
from supervisor_rolling.core.policy import Hook
from supervisor_rolling.core.text import printable

log = logging.getLogger("supervisor_rolling")

POLL = 0.05  # seconds between two checks whether a command is still needed
GRACE = 2.0  # seconds between SIGTERM and SIGKILL
END_TIMEOUT = GRACE + 1.0  # seconds until a command that was dropped has ended
MAX_LINE = 300  # characters of a line that are logged
CHUNK = 65536


def run(hook: Hook, variables: Mapping[str, str], dropped: threading.Event, within: float = float("inf")) -> str:
    """Run a command to its end, at the priority of this thread. Returns why it failed; empty: it did not. It is ended
    when ``dropped`` is set, and after its timeout or ``within`` seconds. Root runs only what no other user could have
    changed: see ``file_trust``."""
    problems = file_trust.of_command(hook.command)
    if problems:
        return f"{hook.command[0]} was not run. {'; '.join(map(str, problems))}"
    try:
        child = subprocess.Popen(
            hook.command,
            executable=file_trust.program_of(hook.command),
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return f"{hook.command[0]} cannot be run: {getattr(error, 'strerror', None) or error}"
    assert child.stdout is not None
    with child.stdout:  # and not `with child`, which waits for its end: it may hang in the kernel
        return _watched(child, min(hook.timeout, within), dropped)


def _watched(child: subprocess.Popen[bytes], seconds: float, dropped: threading.Event) -> str:
    printed = _Printed(child)
    deadline = time.monotonic() + seconds
    while child.poll() is None:
        if dropped.is_set() or time.monotonic() >= deadline:
            _end(child, printed)
            return (
                "was stopped: it is no longer needed"
                if dropped.is_set()
                else f"did not end within {seconds:g} s, and was killed"
            )
        printed.take(POLL)
    printed.take(0.0)
    if child.returncode == 0:
        return ""
    how = f"exited with {child.returncode}" if child.returncode > 0 else f"was killed by signal {-child.returncode}"
    return f"{how}{f': {printed.last}' if printed.last else ''}"


def _end(child: subprocess.Popen[bytes], printed: _Printed) -> None:
    """End all of its process group: what it has started may hold its standard output."""
    _signal(child, signal.SIGTERM)
    until = time.monotonic() + GRACE
    while child.poll() is None and time.monotonic() < until:
        printed.take(POLL)
    _signal(child, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE)


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


class _Printed:
    """Logs what a command prints, line by line."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        self.last = ""  # the last line
        self._begun = ""  # a line without its end
        self._handle = child.stdout.fileno()
        self._is_open = True
        os.set_blocking(self._handle, False)
        self._poll = select.poll()
        self._poll.register(self._handle, select.POLLIN)

    def take(self, seconds: float) -> None:
        """Read what there is; wait so long for it at most."""
        if not self._is_open:
            time.sleep(seconds)
            return
        if not self._poll.poll(seconds * 1000):
            return
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._handle, CHUNK)
            self._is_open = bool(data)
            *lines, rest = (self._begun + data.decode("utf-8", "replace")).split("\n")
            self._begun = rest[-MAX_LINE:]
            for line in filter(str.strip, [*lines, *([rest] if not data else [])]):
                self.last = printable(line.strip()[:MAX_LINE])
                log.info("hook: %s", self.last)
        if self._begun.strip():
            self.last = printable(self._begun.strip())
