"""Who takes only the time of the processors that others leave: the ``Scheduling`` of ``contracts.py``, by SCHED_IDLE.

The kernel keeps a scheduling policy for each thread, and a thread or a child is born with that of its parent: see
sched(7). So a process has it with all its threads and all that descend from it, and its main thread is the mark: the
first to be changed and the last to be changed back. Who finds that one under the usual policy need look no further,
whoever changed what, and was killed in the middle of it.

Only the usual policy (SCHED_OTHER) is ever exchanged for SCHED_IDLE, and back: what runs under another, real time say,
has been told so by somebody else. Nice values are not touched.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Collection, Sequence

from supervisor_rolling.in_listener.owners import families_of

log = logging.getLogger("supervisor_rolling")

PASSES = 10
"""Over a process and its descendants, at most: each finds what was born of the unchanged during the one before, which
is less every time."""

_CAP_SYS_NICE = 23
"""Its bit, from linux/capability.h."""

_UNCHANGEABLE = "no process could be given the usual scheduling policy (SCHED_OTHER) again"


class KernelScheduling:
    """Remembers nothing of any process: what was left by another is found and put right. For one thread."""

    def __init__(self) -> None:
        self._problem: str | None = None
        self._has_complained = False

    def hold(self, idle: Collection[int], alive: Collection[int]) -> None:
        """See ``Scheduling.hold``."""
        if not alive:
            return
        problem = self.problem()
        if problem:
            self._complain(f"{problem}; give the listener CAP_SYS_NICE on the host itself")
            return
        try:
            _change([pid for pid in idle if _policy_of(pid) == os.SCHED_OTHER], os.SCHED_OTHER, os.SCHED_IDLE)
            rest = [pid for pid in alive if pid not in idle]
            _change([pid for pid in rest if _policy_of(pid) == os.SCHED_IDLE], os.SCHED_IDLE, os.SCHED_OTHER)
        except OSError as error:  # of /proc, or of a security module that protects this process
            self._complain(f"a scheduling policy cannot be changed: {error}")

    def problem(self) -> str:
        """See ``Scheduling.problem``. Tried once: what a process may do is settled when it starts."""
        if self._problem is None:
            self._problem = _problem()
        return self._problem

    def _complain(self, why: str) -> None:
        if not self._has_complained:
            log.warning("new processes boot at equal rank with those that serve (pace.cpu_scheduling: idle): %s", why)
        self._has_complained = True


def _problem() -> str:
    """In a user namespace one may have the capability and still not the right, so it is tried as well: on a thread that
    sleeps, and that is lost under SCHED_IDLE where the way back is barred."""
    try:
        if not _has_capability(_CAP_SYS_NICE):
            return f"{_UNCHANGEABLE} without CAP_SYS_NICE"
        is_over = threading.Event()
        sleeper = threading.Thread(target=is_over.wait, daemon=True)
        sleeper.start()
        assert sleeper.native_id, "it has started"
        try:
            for policy in (os.SCHED_IDLE, os.SCHED_OTHER):
                os.sched_setscheduler(sleeper.native_id, policy, os.sched_param(0))
        finally:
            is_over.set()
    except OSError as error:
        return f"{_UNCHANGEABLE}: {error}"
    return ""


def _has_capability(bit: int) -> bool:
    with open("/proc/self/status", "rb") as status:
        effective = next((line.split()[1] for line in status if line.startswith(b"CapEff:")), b"0")
    return bool(int(effective, 16) >> bit & 1)


def _change(pids: Collection[int], old: int, new: int) -> None:
    """Of these processes and all that descend from them, until no thread is left that has the old policy."""
    for _ in range(PASSES if pids else 0):
        threads = [thread for pid in families_of(pids) for thread in _threads_of(pid)]
        if new == os.SCHED_OTHER:
            threads.reverse()
        if not sum([_has_changed(thread, old, new) for thread in threads]):
            return


def _has_changed(thread: int, old: int, new: int) -> bool:
    """Whether it had the old policy, and has the new one now."""
    if _policy_of(thread) != old:
        return False
    try:
        os.sched_setscheduler(thread, new, os.sched_param(0))
    except ProcessLookupError:
        return False
    return True


def _policy_of(thread: int) -> int:
    """-1 where it is gone."""
    try:
        return os.sched_getscheduler(thread)
    except ProcessLookupError:
        return -1


def _threads_of(pid: int) -> Sequence[int]:
    """The main thread first; none where the process is gone."""
    try:
        return sorted((int(name) for name in os.listdir(f"/proc/{pid}/task")), key=lambda thread: thread != pid)
    except (FileNotFoundError, ProcessLookupError):
        return ()
