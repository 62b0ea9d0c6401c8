from __future__ import annotations

import asyncio
from typing import Any

from tests.support.recipes import BODY, SLOW_SECONDS, Process

process = Process()


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    if process.is_slow(scope["method"], scope["path"]):
        await asyncio.sleep(SLOW_SECONDS)
    headers = [(name.lower().encode(), value.encode()) for name, value in process.headers(scope["path"])]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})
