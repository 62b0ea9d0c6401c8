"""Whether this process is draining: a flag file that the listener writes and the process reads.

Both compute its name from what supervisord puts into the environment of every program, which the workers of a forking
server inherit. The file is empty; its modification time is the moment (wall clock) until which it is valid, so that the
files of a killed listener expire. A read costs one ``stat``.

An application that is neither WSGI nor ASGI calls ``Flag().is_up()`` and answers with ``Connection: close``. Only the
standard library is imported here.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping

DIRECTORY_VARIABLE = "SUPERVISOR_ROLLING_DRAINING"
"""The environment variable, for the listener and the programs, that names another directory."""

DIRECTORY = "/run/supervisor_rolling"
"""Owned by root, and emptied when the host boots."""


def directory_of(environment: Mapping[str, str]) -> str:
    """The directory of the flag files."""
    return environment.get(DIRECTORY_VARIABLE) or DIRECTORY


def file_name(url: str, group: str, process: str) -> str:
    """The flag file of a process. ``url``: that of its supervisord, so that two on one host have different files."""
    return hashlib.sha256("\0".join((url, group, process)).encode("utf-8", "surrogateescape")).hexdigest()[:40]


class Flag:
    """The flag of this process, or of the server that forked it. Never up if supervisord did not start it."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        names = ("SUPERVISOR_SERVER_URL", "SUPERVISOR_GROUP_NAME", "SUPERVISOR_PROCESS_NAME")
        url, group, process = (environment.get(name, "") for name in names)
        self._path = os.path.join(directory_of(environment), file_name(url, group, process)) if process else ""

    def is_up(self) -> bool:
        """Whether the process drains now. Never raises."""
        try:
            return bool(self._path) and os.stat(self._path).st_mtime > time.time()
        except OSError:
            return False
