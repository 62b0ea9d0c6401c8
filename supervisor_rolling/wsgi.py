"""For WSGI applications: ``CloseWhileDraining`` empties a load balancer's keep-alive pool, ``warmed`` warms up inside
the process.

``application = CloseWhileDraining(application)``, the outermost middleware: each response that starts while the process
drains has ``Connection: close``, so that the load balancer does not use that connection again. It changes nothing else.

The connection belongs to the server, not to the application (PEP 3333). gunicorn drops the header and waitress raises
an error, so their own methods are called instead; other servers get the header.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes
from wsgiref.util import setup_testing_defaults

from supervisor_rolling.draining import Flag
from supervisor_rolling.in_process import Course, Request

Application = TypeVar("Application", bound=Callable[..., Iterable[bytes]])

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


def warmed(application: Application, *paths: str) -> Application:
    """The application, after it has answered a GET request for each path; without paths, the list of rolling.yaml, if
    the environment names it: ``SUPERVISOR_ROLLING_WARMUP=/etc/supervisor/rolling.yaml``.

    ``application = warmed(application, "/", "/search")`` in the module that the server imports: a process that shares
    its socket is warm before it accepts. Any 2xx or redirect is right. It never raises: what is wrong is written to
    stderr and fails a rollout, and the process serves all the same.
    """
    with Course(paths) as course:
        for request in course:
            request.check(_answered(application, request))
    return application


def _answered(application: Callable[..., Iterable[bytes]], request: Request) -> int:
    """The status of the answer, when all of it has been made."""
    path, _, query = request.path.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "REMOTE_ADDR": "127.0.0.1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(request.body)),
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
    }
    for name, value in request.headers.items():
        key = name.upper().replace("-", "_")
        environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    setup_testing_defaults(environ)
    statuses: list[str] = []

    def start(status: str, headers: object, exc_info: object = None) -> Callable[[bytes], object]:
        statuses.append(status)
        return lambda data: None

    body = application(environ, start)
    try:
        for _ in body:
            pass
    finally:
        close = getattr(body, "close", None)
        if close:
            close()
    return int(statuses[-1].split()[0])


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
