"""Runs the operator's commands: the ``Hooks`` of ``contracts.py``, and what a warm-up runs as its last step.

A command is a list of arguments and gets no shell, nothing on its standard input, a session of its own and the usual
priority. What it prints goes to the log, its last line into the message where it fails. When its time is over, or
nobody wants it any more, its process group is ended: by SIGTERM, and after a moment by SIGKILL.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from supervisor_rolling.core.jobs import HookJob, HookResult
from supervisor_rolling.listener.system.command import ENDED_WITHIN, run
from supervisor_rolling.listener.system.threads import at_usual_priority

log = logging.getLogger("supervisor_rolling")


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
