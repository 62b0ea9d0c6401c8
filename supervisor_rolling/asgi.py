"""An ASGI middleware that empties a load balancer's keep-alive pool while its process drains.

``application = CloseWhileDraining(application)``, the outermost middleware: each response that starts while the process
drains has ``connection: close``, on which uvicorn closes the connection. It changes nothing else, and only HTTP/1:
WebSockets, the lifespan and HTTP/2, where that header is an error, pass unchanged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from supervisor_rolling.draining import Flag

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
