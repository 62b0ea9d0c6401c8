"""Whether the process that asks is about to be replaced: a file that the listener writes and the process looks at.

Both sides compute its name from what supervisord puts into the environment of every program, which the workers of a
forking server inherit. The file is empty. Its time of modification is the moment (wall clock) until which it holds, so
that a listener that is killed leaves nothing that lasts. To look costs one ``stat``.

For an application that is no WSGI or ASGI callable: ask ``Flag().is_up()`` and answer ``Connection: close``. This
module imports the standard library alone.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping

DIRECTORY_VARIABLE = "SUPERVISOR_ROLLING_DRAINING"
"""The environment variable, of the listener and of the programs alike, that names another directory."""

DIRECTORY = "/run/supervisor_rolling"
"""Root's, and emptied when the host boots."""


def directory_of(environment: Mapping[str, str]) -> str:
    """Where the files are."""
    return environment.get(DIRECTORY_VARIABLE) or DIRECTORY


def file_name(url: str, group: str, process: str) -> str:
    """Of a process of the supervisord at ``url``: any name fits, and two supervisords of a host do not meet."""
    return hashlib.sha256("\0".join((url, group, process)).encode("utf-8", "surrogateescape")).hexdigest()[:40]


class Flag:
    """That of this process, or of the server whose worker it is. Never up where supervisord has not started it."""

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
