"""A WSGI middleware that lets a load balancer's keepalive pool run dry while its process drains.

``application = CloseWhileDraining(application)``, the outermost of all: each answer that begins while the process
drains says ``Connection: close``, so that the balancer uses that connection no more. Otherwise nothing is changed.

The connection is the server's and not the application's (PEP 3333). So a server that has a word for it is told with
that word: gunicorn, which drops the header, and waitress, which raises on it. Of any other the header is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from supervisor_rolling.draining import Flag

_WORDS = ("force_close", "set_close_on_finish")  # gunicorn's, waitress's
_STRICT = ("waitress", "WSGIServer")
"""What SERVER_SOFTWARE begins with where the header is an error; wsgiref's closes every connection anyway."""


class CloseWhileDraining:
    """The application, with ``Connection: close`` in its answers while its process drains."""

    def __init__(self, application: Callable[..., Iterable[bytes]], flag: Flag | None = None) -> None:
        self._application = application
        self._flag = flag or Flag()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """As PEP 3333 has it."""

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            if status.startswith("101") or not self._flag.is_up():  # a WebSocket is no answer that ends
                return start_response(status, headers, *exc_info)
            told = headers if _is_strict(environ) else _closing(headers)
            write = start_response(status, told, *exc_info)
            _tell(getattr(write, "__self__", None))
            return write

        return self._application(environ, start)


def _is_strict(environ: dict[str, Any]) -> bool:
    return "waitress.client_disconnected" in environ or environ.get("SERVER_SOFTWARE", "").startswith(_STRICT)


def _closing(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [*(one for one in headers if one[0].lower() != "connection"), ("Connection", "close")]


def _tell(answer: object) -> None:
    """Tell the server's own object for this answer, whose method ``write`` is: its head has not been sent yet."""
    for word in _WORDS:
        close = getattr(answer, word, None)
        if close:
            close()
