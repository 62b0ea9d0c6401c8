"""Small applications behind the servers of docs/recipes, one for WSGI, one for ASGI, one for Django, one for Node.

Every path answers at once but ``POST /slow``, which takes SLOW_SECONDS. A process is cold until it has answered ``/``;
each answer says whether it was (``X-Cold``) and which process gave it (``X-Pid``).
"""

from __future__ import annotations

import os

SLOW_SECONDS = 0.3
BODY = b"fine\n"


class Process:
    """This process, and whether it is cold."""

    def __init__(self) -> None:
        self._is_cold = True

    def is_slow(self, method: str, path: str) -> bool:
        return (method, path) == ("POST", "/slow")

    def headers(self, path: str) -> list[tuple[str, str]]:
        """Those of the next answer."""
        was_cold, self._is_cold = self._is_cold and path != "/health", self._is_cold and path != "/"
        return [("Content-Length", str(len(BODY))), ("X-Pid", str(os.getpid())), ("X-Cold", str(int(was_cold)))]
