"""A light application for tests that need many processes or many restarts: ``python -m tests.lab.light --port 8000``.

It boots in a tenth of a second where the demo application takes half of one, and keeps the promises of the lab: every
answer tells which process gave it (``X-Pid``), of which deploy (``X-Release``) and whether it met a cold process
(``X-Cold``).
Cold is a process until it has answered ``/``. ``POST /slow`` takes a while, and is lost when the process is stopped
meanwhile: there is no handler for SIGTERM. Connections are kept where the client does not say otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os

from tests.lab.site.deploy import Deploy, boot, read_deploy

SLOW_SECONDS = 0.5

Headers = dict[str, str]


class Application:
    """One process of one deploy."""

    def __init__(self, deploy: Deploy) -> None:
        self._deploy = deploy
        self._is_cold = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether another may follow."""
        request_line, headers = await read_head(reader)
        method, path, version = request_line.split()
        await reader.readexactly(int(headers.get("content-length", 0)))
        status, was_cold = await self._answer(method, path), self._is_cold and path != "/health"
        self._is_cold = self._is_cold and path != "/"
        is_kept = version == "HTTP/1.1" and headers.get("connection", "") != "close"
        writer.write(self._head(status, was_cold, "keep-alive" if is_kept else "close") + b"fine\n")
        await writer.drain()
        return is_kept

    async def _answer(self, method: str, path: str) -> str:
        if self._deploy.strikes("hang", path):
            await asyncio.Event().wait()
        if (method, path) == ("POST", "/slow"):
            await asyncio.sleep(SLOW_SECONDS)
        return "500 Internal Server Error" if self._deploy.strikes("500", path) else "200 OK"

    def _head(self, status: str, was_cold: bool, connection: str) -> bytes:
        lines = [
            f"HTTP/1.1 {status}",
            f"X-Pid: {os.getpid()}",
            f"X-Release: {self._deploy.release}",
            f"X-Cold: {int(was_cold)}",
            "Content-Length: 5",
            f"Connection: {connection}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def read_head(reader: asyncio.StreamReader) -> tuple[str, Headers]:
    """The request line and the headers, names in lower case. Raises IncompleteReadError at the end of the stream."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
    named = (line.partition(":") for line in lines if line)
    return first, {name.lower(): value.strip().lower() for name, _, value in named}


async def serve(address: str, port: int) -> None:
    """Serve for ever. Exits with a message if the deploy is one that dies."""
    deploy = read_deploy()
    boot(deploy)
    server = await asyncio.start_server(Application(deploy).serve, address, deploy.port(port), backlog=1024)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the light application.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--address", default="127.0.0.1")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.address, arguments.port))


if __name__ == "__main__":
    main()
