"""A light application for tests that need many processes or many restarts: ``python -m tests.support.light_app --port
8000``.

It boots in a tenth of a second where the demo application takes half of one, and keeps the promises of the lab: every
answer tells which process gave it (``X-Pid``), of which deploy (``X-Release``) and whether it met a cold process
(``X-Cold``).
Cold is a process until it has answered ``/``. ``POST /slow`` takes a while, and is lost when the process is stopped
meanwhile: there is no handler for SIGTERM. Connections are kept where the client does not say otherwise.

For connections that last: any POST waits for its whole body, however slow, and tells how much came (``X-Received``);
``GET /stream?seconds=3&every=0.2`` answers in chunks for so long (``&size=65536``: of so many bytes each);
``GET /websocket`` becomes one, which echoes.

After a drain notification, by SIGUSR1 or ``GET /drain``, it answers ``Connection: close`` from then on, and ends a
connection without a request for LINGER seconds. With ``LAB_ENDS`` it exits by itself so many seconds later.

``--address`` takes several; ``::`` takes IPv4 too. The file that ``LAB_JOURNAL`` names gets a line for every request as
it comes (``Entry``): what reached a process, whatever it or nginx made of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.support import websocket
from tests.support.site.deploy import EXIT_STATUS, Deploy, boot, read_deploy

SLOW_SECONDS = 0.5
BACKLOG = 1024

LINGER = 1.5
"""Seconds for which a connection that drains is still kept: a load balancer may be about to use it."""

ENDS = "LAB_ENDS"
JOURNAL = "LAB_JOURNAL"
WARMS = "x-warms"
"""The header by which a journal tells a warm-up from a user: put it into the policy."""

Headers = dict[str, str]


class Entry(NamedTuple):
    """One request in the journal. ``at``: CLOCK_MONOTONIC, when its head had come; ``peer``: an address as the
    process sees it."""

    at: float
    pid: int
    port: int
    peer: str
    path: str
    warms: bool


def read_journal(path: Path) -> list[Entry]:
    """By time."""
    return sorted(Entry(*json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines())


def _note(headers: Headers, path: str, writer: asyncio.StreamWriter) -> None:
    """A line is one write, so that those of several processes do not mix."""
    name = os.environ.get(JOURNAL)
    if name:
        port, peer = writer.get_extra_info("sockname")[1], writer.get_extra_info("peername")[0]
        entry = Entry(time.monotonic(), os.getpid(), port, peer, path, WARMS in headers)
        with open(name, "a", encoding="utf-8") as journal:
            journal.write(json.dumps(entry) + "\n")


class Application:
    """One process of one deploy."""

    def __init__(self, deploy: Deploy) -> None:
        self._deploy = deploy
        self._is_cold = True
        self._told = asyncio.Event()

    def drain(self) -> None:
        """From now on no connection is kept."""
        self._told.set()
        if ENDS in os.environ:
            asyncio.get_running_loop().call_later(float(os.environ[ENDS]), os._exit, EXIT_STATUS)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether another may follow."""
        request_line, headers = await self._next_head(reader)
        method, target, version = request_line.split()
        path = urlsplit(target).path
        _note(headers, path, writer)
        if path == "/websocket":
            return await self._become_websocket(headers, reader, writer)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        is_kept = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        if path == "/stream":
            return await self._stream(target, is_kept, writer)
        status, was_cold = await self._answer(method, path), self._is_cold and path != "/health"
        is_kept = is_kept and not self._told.is_set()
        self._is_cold = self._is_cold and path != "/"
        more = {"X-Cold": int(was_cold), "X-Received": len(body), "Content-Length": 5}
        writer.write(self._head(status, is_kept, more) + b"fine\n")
        await writer.drain()
        return is_kept

    async def _next_head(self, reader: asyncio.StreamReader) -> tuple[str, Headers]:
        """See ``read_head``; raises IncompleteReadError also where nothing comes on a connection that drains."""
        head, told = asyncio.ensure_future(read_head(reader)), asyncio.ensure_future(self._told.wait())
        await asyncio.wait({head, told}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        done, _ = await asyncio.wait({head}, timeout=LINGER)
        if not done:
            head.cancel()
            raise asyncio.IncompleteReadError(b"", None)
        return head.result()

    async def _answer(self, method: str, path: str) -> str:
        if self._deploy.strikes("hang", path):
            await asyncio.Event().wait()
        if path == "/drain":
            self.drain()
        if (method, path) == ("POST", "/slow"):
            await asyncio.sleep(SLOW_SECONDS)
        return "500 Internal Server Error" if self._deploy.strikes("500", path) else "200 OK"

    async def _stream(self, target: str, is_kept: bool, writer: asyncio.StreamWriter) -> bool:
        wish = {key: float(values[0]) for key, values in parse_qs(urlsplit(target).query).items()}
        writer.write(self._head("200 OK", is_kept, {"X-Cold": int(self._is_cold), "Transfer-Encoding": "chunked"}))
        async for line in _lines(wish.get("seconds", 60.0), wish.get("every", 1.0), int(wish.get("size", 0.0))):
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        return is_kept

    async def _become_websocket(
        self, headers: Headers, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        accept = websocket.accept_of(headers["sec-websocket-key"])
        more = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept}
        writer.write(self._head("101 Switching Protocols", None, more))
        while True:
            head = await reader.readexactly(websocket.HEAD)
            length, is_masked = websocket.rest_of(head)
            payload = websocket.unmasked(await reader.readexactly(length), is_masked)
            writer.write(websocket.text_frame(payload, is_masked=False))
            await writer.drain()

    def _head(self, status: str, is_kept: bool | None, more: Mapping[str, object]) -> bytes:
        """The head of an answer; ``is_kept`` None: it says itself what becomes of the connection."""
        connection = {} if is_kept is None else {"Connection": "keep-alive" if is_kept else "close"}
        headers = {"X-Pid": os.getpid(), "X-Release": self._deploy.release, **more, **connection}
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _lines(seconds: float, every: float, size: int) -> AsyncIterator[bytes]:
    """A numbered line every so often, of at least this size, and one at the end that says so."""
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        yield b"line %d".ljust(size) % number + b"\n"
        number += 1
        await asyncio.sleep(every)
    yield b"the end\n"


async def read_head(reader: asyncio.StreamReader) -> tuple[str, Headers]:
    """The request line and the headers, names in lower case. Raises IncompleteReadError at the end of the stream."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
    named = (line.partition(":") for line in lines if line)
    return first, {name.lower(): value.strip() for name, _, value in named}


async def serve(addresses: Sequence[str], port: int) -> None:
    """Serve for ever. Exits with a message if the deploy is one that dies."""
    deploy = read_deploy()
    boot(deploy)
    application = Application(deploy)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, application.drain)
    listening = [_listening(address, deploy.port(port)) for address in addresses]
    servers = [await asyncio.start_server(application.serve, sock=one, backlog=BACKLOG) for one in listening]
    await asyncio.gather(*(server.serve_forever() for server in servers))


def _listening(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=BACKLOG, dualstack_ipv6=address == "::")


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the light application.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--address", nargs="+", default=["127.0.0.1"])
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.address, arguments.port))


if __name__ == "__main__":
    main()
