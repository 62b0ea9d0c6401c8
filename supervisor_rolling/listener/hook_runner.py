"""Runs the operator's commands: the ``Hooks`` of ``contracts.py``, and what a warm-up runs as its last step.

A command is a list of arguments and gets no shell, nothing on its standard input, a session of its own and the usual
priority. What it prints goes to the log, its last line into the message where it fails. When its time is over, or
nobody wants it any more, its process group is ended: by SIGTERM, and after a moment by SIGKILL.
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
from collections.abc import Callable, Mapping

from supervisor_rolling.core.jobs import HookJob, HookResult
from supervisor_rolling.core.policy import Hook
from supervisor_rolling.core.text import printable
from supervisor_rolling.listener import file_trust
from supervisor_rolling.listener.threads import at_usual_priority

log = logging.getLogger("supervisor_rolling")

LOOK_EVERY = 0.05  # seconds between two looks at whether a command is still wanted
GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""

ENDED_WITHIN = GRACE + 1.0
"""Seconds for commands that nobody wants any more to be ended."""

LINE = 300
"""Characters of a line that are worth telling."""

CHUNK = 65536


class CommandHooks:
    """``on_change`` is called, from a thread, when what was wanted has run."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._on_change = on_change
        self._running: dict[str, _Commands] = {}

    def tend(self, selected: Mapping[str, HookJob]) -> Mapping[str, HookResult]:
        """See ``contracts.Hooks``."""
        for key in [key for key in self._running if key not in selected]:
            self._running.pop(key).dropped.set()
        for key, job in selected.items():
            if key not in self._running:
                self._running[key] = _Commands(job, self._on_change)
        return {key: commands.result for key, commands in self._running.items()}

    def end(self) -> None:
        """See ``contracts.Hooks``."""
        ending = list(self._running.values())
        self.tend({})
        until = time.monotonic() + ENDED_WITHIN
        for commands in ending:
            commands.join(max(0.0, until - time.monotonic()))


class _Commands(threading.Thread):
    """The commands of one job, one after another; each runs, whatever became of the one before."""

    def __init__(self, job: HookJob, on_change: Callable[[], None]) -> None:
        super().__init__(name="hooks", daemon=True)
        self.result = HookResult("running")
        self.dropped = threading.Event()
        self._job = job
        self._on_change = on_change
        self.start()

    def run(self) -> None:
        """Whatever happens, ``result`` says it."""
        at_usual_priority()
        whys = []
        for name, hook in self._job.hooks:
            if self.dropped.is_set():
                break
            try:
                why = run(hook, self._job.variables, self.dropped)
            except Exception as error:  # a thread has nobody to raise to, and the rollout waits for what it finds
                log.exception("a defect of supervisor_rolling")
                why = f"{type(error).__name__}: {error}"
            log.info("%s of %s: %s", name, self._job.variables.get("ROLLING_GROUP", ""), why or "done")
            whys += [f"{name}: {why}"] if why else []
        self.result = HookResult("over", "; ".join(whys))
        self._on_change()


def run(hook: Hook, variables: Mapping[str, str], dropped: threading.Event, within: float = float("inf")) -> str:
    """Run a command to its end, at the priority of this thread. Why it has failed, or nothing. ``dropped`` ends it; so
    does the end of its time, which is at most ``within`` seconds away. Root runs only what no other user could have
    changed: see ``trust``."""
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
    with child.stdout:  # and not with the child, whose end may never come: it may wait for a disk
        return _watched(child, min(hook.timeout, within), dropped)


def _watched(child: subprocess.Popen[bytes], seconds: float, dropped: threading.Event) -> str:
    printed = _Printed(child)
    deadline = time.monotonic() + seconds
    while child.poll() is None:
        if dropped.is_set() or time.monotonic() >= deadline:
            _end(child, printed)
            return "was ended" if dropped.is_set() else f"did not end within {seconds:g} s, and was killed"
        printed.take(LOOK_EVERY)
    printed.take(0.0)
    if child.returncode == 0:
        return ""
    how = f"exited with {child.returncode}" if child.returncode > 0 else f"was ended by signal {-child.returncode}"
    return f"{how}{f': {printed.last}' if printed.last else ''}"


def _end(child: subprocess.Popen[bytes], printed: _Printed) -> None:
    """All of its process group: what it has started may hold on to what it prints."""
    _signal(child, signal.SIGTERM)
    until = time.monotonic() + GRACE
    while child.poll() is None and time.monotonic() < until:
        printed.take(LOOK_EVERY)
    _signal(child, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE)


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


class _Printed:
    """What a command prints, line by line into the log; ``last``: its last line."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        self.last = ""
        self._begun = ""
        self._handle = child.stdout.fileno()
        self._is_open = True
        os.set_blocking(self._handle, False)
        self._poll = select.poll()
        self._poll.register(self._handle, select.POLLIN)

    def take(self, seconds: float) -> None:
        """Take what there is; wait so long for it at most."""
        if not self._is_open:
            time.sleep(seconds)
            return
        if not self._poll.poll(seconds * 1000):
            return
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._handle, CHUNK)
            self._is_open = bool(data)
            *lines, rest = (self._begun + data.decode("utf-8", "replace")).split("\n")
            self._begun = rest[-LINE:]
            for line in filter(str.strip, [*lines, *([rest] if not data else [])]):
                self.last = printable(line.strip()[:LINE])
                log.info("hook: %s", self.last)
        if self._begun.strip():
            self.last = printable(self._begun.strip())
