"""Finds out at once that a process has died: the ``DeathWatch`` of ``contracts.py``.

supervisord's event comes later: a millisecond with a few processes, tens of them with a thousand (measured), and a new
process may accept connections before that. A pidfd is readable in a fraction of a millisecond.

Without pidfds (before Linux 5.3), or without a free file descriptor, deaths come by supervisord's events.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Collection

from supervisor_rolling.core.process import Incarnation

log = logging.getLogger("supervisor_rolling")


class PidfdDeaths:
    """Holds one file descriptor for each process that is watched. For one thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._fds: dict[Incarnation, int] = {}
        self._gone: set[Incarnation] = set()
        self._complaint = ""

    def fileno(self) -> int:
        """For ``poll``: readable when one of them has died."""
        return self._epoll.fileno()

    def watch(self, processes: Collection[Incarnation]) -> None:
        """See ``DeathWatch.watch``."""
        for one in self._fds.keys() - set(processes):
            self._close(one)
        for one in set(processes) - self._fds.keys() - self._gone:
            self._open(one)
        self._gone.intersection_update(processes)

    def take(self) -> Collection[Incarnation]:
        """See ``DeathWatch.take``."""
        ready = {fd for fd, _ in self._epoll.poll(0, max(1, len(self._fds)))}
        for one in [one for one, fd in self._fds.items() if fd in ready] if ready else []:
            self._close(one)
            self._gone.add(one)
        return frozenset(self._gone)

    def _open(self, one: Incarnation) -> None:
        try:
            fd = os.pidfd_open(one.pid)  # type: ignore[attr-defined,unused-ignore]  # Linux alone has it
            self._register(one, fd)
        except ProcessLookupError:
            self._gone.add(one)
        except (OSError, AttributeError) as error:
            self._complain(f"deaths are seen only by supervisord's events, which come later: {error}")

    def _register(self, one: Incarnation, fd: int) -> None:
        try:
            self._epoll.register(fd, select.EPOLLIN)
        except OSError:
            os.close(fd)
            raise
        self._fds[one] = fd

    def _close(self, one: Incarnation) -> None:
        os.close(self._fds.pop(one))  # the epoll forgets it with that

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            log.warning("%s", complaint, extra={"code": "listener.pidfd"})
        self._complaint = complaint
