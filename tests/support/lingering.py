"""Connections that outlast a drain: an upload of a byte at a time, an answer in chunks, a WebSocket, an idle keepalive.

Each is a client of the light application (``light.py``) that moves a little when it is told to, and tells when the
other side has ended it. Nothing runs in the background, and every wait is over after PATIENCE seconds.
"""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TypeVar

from tests.support import websocket

PATIENCE = 5.0

CLOSE = "Connection: close\r\n"


L = TypeVar("L", bound="Lasting")


class EndedError(ConnectionError):
    """The other side has ended the connection."""


class Lasting:
    """A connection, closed at the end of a ``with`` block. ``peer`` is what the process sees at its other end."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._socket.setblocking(False)  # what is sent here is always less than a buffer
        host, own_port = self._socket.getsockname()
        self.peer = f"{host}:{own_port}"
        self.received = b""

    def __enter__(self: L) -> L:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def move(self) -> None:
        """What is usual for such a connection in a moment: something or nothing. Raises EndedError when it is over."""
        self.take()

    def works(self) -> bool:
        """Whether it still does what it is for. Raises EndedError or TimeoutError where it does not."""
        raise NotImplementedError

    def take(self) -> None:
        """Receive what has come, without waiting. Raises EndedError at its end."""
        with contextlib.suppress(BlockingIOError), _told_as_ended():
            while True:
                data = self._socket.recv(65536)
                if not data:
                    raise EndedError("end of file")
                self.received += data

    def send(self, data: bytes) -> None:
        """Raises EndedError when the other side has ended the connection."""
        self.take()
        with _told_as_ended():
            self._socket.sendall(data)

    def end_sending(self) -> None:
        """Half-close: nothing more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def wait_for(self, text: bytes) -> bytes:
        """All that was received up to ``text``, and it. Raises EndedError or TimeoutError."""
        end = time.monotonic() + PATIENCE
        while text not in self.received:
            if not select.select([self._socket], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError(f"{text!r} did not come within {PATIENCE:g} s, but {self.received!r}")
            try:
                self.take()
            except EndedError:
                if text not in self.received:
                    raise
        before, _, self.received = self.received.partition(text)
        return before + text


class Upload(Lasting):
    """``length`` bytes, of which each move sends one. The connection ends with the answer, if there is one."""

    def __init__(self, port: int, length: int = 1000) -> None:
        super().__init__(port)
        self._left = length
        self._length = length
        self.send(f"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{CLOSE}\r\n".encode())

    def move(self) -> None:
        """See ``Lasting``."""
        self.take()
        if self._left:
            self.send(b"x")
            self._left -= 1

    def works(self) -> bool:
        """The rest of it is taken, and the answer says that all of it came."""
        self.send(b"x" * self._left)
        self._left = 0
        return self.is_answered()

    def is_answered(self) -> bool:
        """What was sent is what was received."""
        head = self.wait_for(b"fine\n")
        return head.startswith(b"HTTP/1.1 200 ") and b"X-Received: %d\r\n" % self._length in head


class Stream(Lasting):
    """An answer in chunks, for so many seconds; the connection ends with it."""

    def __init__(self, port: int, seconds: float = 60.0) -> None:
        super().__init__(port)
        self.send(f"GET /stream?seconds={seconds:g}&every=0.2 HTTP/1.1\r\nHost: x\r\n{CLOSE}\r\n".encode())
        assert self.wait_for(b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")

    def works(self) -> bool:
        """Another line comes, after what is here already."""
        self.take()
        self.received = b""
        return self.wait_for(b"line ").endswith(b"line ")

    def is_whole(self) -> bool:
        """Every line has come, the end and the last chunk."""
        lines = [line for line in self.received.splitlines() if line.startswith((b"line ", b"the end"))]
        selected = [b"line %d" % number for number in range(len(lines) - 1)]
        return lines == [*selected, b"the end"] and self.received.endswith(b"0\r\n\r\n")


class WebSocket(Lasting):
    """A text and its echo at each move."""

    _KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, 1.3

    def __init__(self, port: int) -> None:
        super().__init__(port)
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13"
        self.send(f"GET /websocket HTTP/1.1\r\nHost: x\r\n{upgrade}\r\nSec-WebSocket-Key: {self._KEY}\r\n\r\n".encode())
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in self.wait_for(b"\r\n\r\n")

    def move(self) -> None:
        """See ``Lasting``."""
        assert self.works()

    def works(self) -> bool:
        """What is sent comes back."""
        self.send(websocket.text_frame(b"still here", is_masked=True))
        return self.wait_for(b"still here") == websocket.text_frame(b"still here", is_masked=False)


class Keepalive(Lasting):
    """Was used once, and idles since."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        assert self.works()

    def works(self) -> bool:
        """Another request is answered."""
        self.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return self.wait_for(b"fine\n").startswith(b"HTTP/1.1 200 ")


@contextlib.contextmanager
def unreachable(peer: str) -> Iterator[None]:
    """What is sent to this ``address:port`` is lost while the block lasts: its host is gone without a word."""
    address, _, port = peer.rpartition(":")
    with first_rule("-p", "tcp", "-d", address, "--dport", port, "-j", "DROP"):
        yield


@contextlib.contextmanager
def first_rule(*rule: str) -> Iterator[None]:
    """A foreign rule before all others of INPUT, while the block lasts."""
    subprocess.run(["iptables-legacy", "-w", "-I", "INPUT", *rule], check=True)
    try:
        yield
    finally:
        subprocess.run(["iptables-legacy", "-w", "-D", "INPUT", *rule], check=True)


@contextlib.contextmanager
def _told_as_ended() -> Iterator[None]:
    try:
        yield
    except (ConnectionResetError, BrokenPipeError) as error:
        raise EndedError(str(error)) from error
