"""Runs the operator's commands at the beginning and the end of a rollout: the ``Hooks`` of ``contracts.py``.

How one command runs, and what becomes of what it prints, is in ``system/command.py``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from supervisor_rolling.core.jobs import HookJob, HookResult
from supervisor_rolling.listener.system.command import END_TIMEOUT, run
from supervisor_rolling.listener.system.threads import at_usual_priority

log = logging.getLogger("supervisor_rolling")


class CommandHooks:
    """``on_change`` is called, from a thread, when the commands of a job have run."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._on_change = on_change
        self._running: dict[str, dict[str, _Commands]] = {}  # by group

    def tend(self, group: str, selected: Mapping[str, HookJob]) -> Mapping[str, HookResult]:
        running = self._running.setdefault(group, {})
        for key in running.keys() - selected.keys():
            running.pop(key).dropped.set()
        for key, job in selected.items():
            if key not in running:
                running[key] = _Commands(job, self._on_change)
        return {key: commands.result for key, commands in running.items()}

    def end(self) -> None:
        ending = [commands for running in self._running.values() for commands in running.values()]
        for group in self._running:
            self.tend(group, {})
        until = time.monotonic() + END_TIMEOUT
        for commands in ending:
            commands.join(max(0.0, until - time.monotonic()))


class _Commands(threading.Thread):
    """The commands of one job, one after another; each runs, even if the one before it failed."""

    def __init__(self, job: HookJob, on_change: Callable[[], None]) -> None:
        super().__init__(name="hooks", daemon=True)
        self.result = HookResult("running")
        self.dropped = threading.Event()
        self._job = job
        self._on_change = on_change
        self.start()

    def run(self) -> None:
        """``result`` is set whatever happens: the rollout waits for it."""
        at_usual_priority()
        whys = []
        for name, hook in self._job.hooks:
            if self.dropped.is_set():
                break
            try:
                why = run(hook, self._job.variables, self.dropped)
            except Exception as error:  # a thread has no caller to raise to
                log.exception("a bug in supervisor_rolling: hook %s", name)
                why = f"{type(error).__name__}: {error}"
            group = self._job.variables.get("ROLLING_GROUP", "")
            log.info("%s: hook %s %s", group, name, f"failed: {why}" if why else "done")
            whys += [f"{name}: {why}"] if why else []
        self.result = HookResult("over", "; ".join(whys))
        self._on_change()
