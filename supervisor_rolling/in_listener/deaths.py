"""Tells at once when a process has died: the ``Deaths`` of ``contracts.py``.

supervisord tells it too, but has first to come round to its child, and then to its listeners, one event at a time: a
millisecond with a few processes, tens of them with a thousand (measured), and a new process may accept connections
before that. The kernel tells whoever holds a pidfd, in a fraction of a millisecond, however many there are.

Where the kernel has no pidfds (before Linux 5.3), or no file descriptor is left, deaths come by supervisord's events.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Collection

log = logging.getLogger("supervisor_rolling")


class PidfdDeaths:
    """Holds one file descriptor for each process that is watched. For one thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._fds: dict[int, int] = {}  # by pid
        self._gone: set[int] = set()
        self._complaint = ""

    def fileno(self) -> int:
        """For ``poll``: readable when one of them has died."""
        return self._epoll.fileno()

    def watch(self, pids: Collection[int]) -> None:
        """See ``Deaths.watch``."""
        for pid in self._fds.keys() - set(pids):
            self._close(pid)
        for pid in set(pids) - self._fds.keys() - self._gone:
            self._open(pid)
        self._gone.intersection_update(pids)

    def take(self) -> Collection[int]:
        """See ``Deaths.take``."""
        ready = {fd for fd, _ in self._epoll.poll(0, max(1, len(self._fds)))}
        for pid in [pid for pid, fd in self._fds.items() if fd in ready] if ready else []:
            self._close(pid)
            self._gone.add(pid)
        return frozenset(self._gone)

    def _open(self, pid: int) -> None:
        try:
            fd = os.pidfd_open(pid)  # type: ignore[attr-defined,unused-ignore]  # Linux alone has it
            self._register(pid, fd)
        except ProcessLookupError:
            self._gone.add(pid)
        except (OSError, AttributeError) as error:
            self._complain(f"deaths are noticed by supervisord's events alone, which is slower: {error}")

    def _register(self, pid: int, fd: int) -> None:
        try:
            self._epoll.register(fd, select.EPOLLIN)
        except OSError:
            os.close(fd)
            raise
        self._fds[pid] = fd

    def _close(self, pid: int) -> None:
        os.close(self._fds.pop(pid))  # the epoll forgets it with that

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            log.warning("%s", complaint)
        self._complaint = complaint
