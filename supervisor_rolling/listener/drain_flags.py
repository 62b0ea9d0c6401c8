"""The ``DrainFlags`` of ``contracts.py``: tells processes that they drain, by the files of ``draining.py``.

An application does not have to read the flags, so an error here stops no rollout: it is logged once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import time
from collections.abc import Callable, Collection, Mapping

from supervisor_rolling.draining import directory_of, file_name
from supervisor_rolling.listener.system import shared_directory

log = logging.getLogger("supervisor_rolling")

LEASE = 10.0
"""Seconds for which a flag stays up unless renewed: longer than supervisord needs to start another listener."""

_OPEN = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class FileFlags:
    """Files in one directory, for one thread. ``url``: of the processes' supervisord; ``clock``: the wall clock."""

    def __init__(self, environment: Mapping[str, str], url: str, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory_of(environment)
        self._url = url
        self._clock = clock
        self._until: dict[tuple[str, str], float] = {}
        self._has_warned = False

    def hold(self, draining: Collection[tuple[str, str]]) -> None:
        """See ``DrainFlags.hold``."""
        try:
            for process in self._until.keys() - set(draining):
                self._lower(process)
            for process in draining:
                self._raise(process)
        except OSError as error:
            self._warn("", f"{error}. {shared_directory.ANOTHER}")

    def _raise(self, process: tuple[str, str]) -> None:
        now = self._clock()
        left = self._until.get(process, 0.0) - now
        if LEASE / 2 < left <= LEASE:
            return
        shared_directory.prepare(self._directory)
        if not shared_directory.is_open_to_all(self._directory):
            fix = f"Fix: chmod o+x {shlex.quote(self._directory)}"
            self._warn(" of other users", f"they may not look into {self._directory}. {fix}")
        flag = os.open(self._path(process), _OPEN, 0o644)
        try:
            os.utime(flag, (now, now + LEASE))
        finally:
            os.close(flag)
        self._until[process] = now + LEASE

    def _lower(self, process: tuple[str, str]) -> None:
        del self._until[process]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(process))

    def _path(self, process: tuple[str, str]) -> str:
        return os.path.join(self._directory, file_name(self._url, *process))

    def _warn(self, which: str, why: str) -> None:
        if not self._has_warned:
            log.warning(
                "processes%s get no drain flag, so supervisor_rolling.wsgi and .asgi close no connections: %s",
                which,
                why,
                extra={"code": "drain.flags"},
            )
        self._has_warned = True
