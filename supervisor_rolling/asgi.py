"""For ASGI applications: ``CloseWhileDraining`` empties a load balancer's keep-alive pool, ``Warmed`` warms up inside
the process.

``application = CloseWhileDraining(application)``, the outermost middleware: each response that starts while the process
drains has ``connection: close``, on which uvicorn closes the connection. It changes nothing else, and only HTTP/1:
WebSockets, the lifespan and HTTP/2, where that header is an error, pass unchanged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

from supervisor_rolling.draining import Flag
from supervisor_rolling.in_process import Course, Request

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class CloseWhileDraining:
    """The application, with ``connection: close`` in its responses while its process drains."""

    def __init__(self, application: Application, flag: Flag | None = None) -> None:
        self._application = application
        self._flag = flag or Flag()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI 3 specifies."""
        if scope["type"] != "http" or scope.get("http_version") not in ("1.0", "1.1"):
            return await self._application(scope, receive, send)

        async def closing(message: Message) -> None:
            is_head = message["type"] == "http.response.start"
            await send(_closing(message) if is_head and self._flag.is_up() else message)

        return await self._application(scope, receive, closing)


def _closing(message: Message) -> Message:
    headers = [one for one in message.get("headers", ()) if bytes(one[0]).lower() != b"connection"]
    return {**message, "headers": [*headers, (b"connection", b"close")]}


class Warmed:
    """The application, which answers a GET request for each path before its server accepts connections; without paths,
    the list of rolling.yaml, if the environment names it: ``SUPERVISOR_ROLLING_WARMUP=/etc/supervisor/rolling.yaml``.

    ``application = Warmed(application, "/", "/search")``, the outermost one: the requests are sent at the end of
    ``lifespan.startup``, which uvicorn and Hypercorn wait for; Daphne has no lifespan. Any 2xx or redirect is right.
    What is wrong is written to stderr and fails a rollout, and the process serves all the same.
    """

    def __init__(self, application: Application, *paths: str) -> None:
        self._application = application
        self._paths = paths

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection or the lifespan, as ASGI 3 specifies."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        else:
            await self._application(scope, receive, send)

    async def _live(self, scope: Message, receive: Receive, send: Send) -> None:
        has_received = False

        async def receiving() -> Message:
            nonlocal has_received
            has_received = True
            return await receive()

        async def sending(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self._warm(scope)
            await send(message)

        try:
            await self._application(scope, receiving, sending)
        except Exception:  # whatever an application without a lifespan raises
            if has_received:
                raise
        if not has_received:  # it has no lifespan, such as Django's
            await receive()
            await self._warm(scope)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

    async def _warm(self, lifespan: Message) -> None:
        with Course(self._paths) as course:
            for request in course:
                request.check(await self._answered(request, lifespan))

    async def _answered(self, request: Request, lifespan: Message) -> int:
        """The status of the answer, when all of it has been sent."""
        path, _, query = request.path.partition("?")
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": lifespan.get("asgi", {"version": "3.0"}),
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in request.headers.items()],
            "client": ("127.0.0.1", 0),
            "server": ("localhost", 80),
        }
        if "state" in lifespan:
            scope["state"] = dict(lifespan["state"])
        scope["headers"].append((b"content-length", str(len(request.body)).encode()))
        statuses: list[int] = []
        is_over = asyncio.Event()
        bodies = [request.body]

        async def receive() -> Message:
            if bodies:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}
            await is_over.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            elif message["type"] == "http.response.body" and not message.get("more_body"):
                is_over.set()

        await self._application(scope, receive, send)
        return statuses[-1] if statuses else 0
