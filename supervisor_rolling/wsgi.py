"""A WSGI middleware that empties a load balancer's keep-alive pool while its process drains.

``application = CloseWhileDraining(application)``, the outermost middleware: each response that starts while the process
drains has ``Connection: close``, so that the load balancer does not use that connection again. It changes nothing else.

The connection belongs to the server, not to the application (PEP 3333). gunicorn drops the header and waitress raises
an error, so their own methods are called instead; other servers get the header.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from supervisor_rolling.draining import Flag

_METHODS = ("force_close", "set_close_on_finish")  # gunicorn's, waitress's
_STRICT = ("waitress", "WSGIServer")
"""The start of SERVER_SOFTWARE where the header is an error; the server of wsgiref closes every connection anyway."""


class CloseWhileDraining:
    """The application, with ``Connection: close`` in its responses while its process drains."""

    def __init__(self, application: Callable[..., Iterable[bytes]], flag: Flag | None = None) -> None:
        self._application = application
        self._flag = flag or Flag()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request, as PEP 3333 specifies."""

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            if status.startswith("101") or not self._flag.is_up():  # 101: a WebSocket does not end
                return start_response(status, headers, *exc_info)
            given = headers if _is_strict(environ) else _closing(headers)
            write = start_response(status, given, *exc_info)
            _close(getattr(write, "__self__", None))
            return write

        return self._application(environ, start)


def _is_strict(environ: dict[str, Any]) -> bool:
    return "waitress.client_disconnected" in environ or environ.get("SERVER_SOFTWARE", "").startswith(_STRICT)


def _closing(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [*(one for one in headers if one[0].lower() != "connection"), ("Connection", "close")]


def _close(response: object) -> None:
    """Have the server close after this response. ``response``: the server's object, its head is not sent yet."""
    for name in _METHODS:
        close = getattr(response, name, None)
        if close:
            close()
