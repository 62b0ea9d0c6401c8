"""HTTP requests that pass a closed gate, with one deadline for all that their connections receive."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.util.connection import create_connection

from supervisor_rolling.core.policy import BYPASS_ADDRESS, BYPASS_MARK
from supervisor_rolling.core.protocol_detection import may_be_http
from supervisor_rolling.listener.system.bypass import SO_MARK

PASS_FIX = "give the listener CAP_NET_ADMIN, so that its requests pass a closed port"
"""What to do where a connection may not be marked."""

FIRST = 64  # bytes of an answer that tell its protocol


class Wire:
    """What the connections of a session have in common."""

    deadline = float("inf")
    first = b""  # the first bytes that the latest one has received


def open_session(bypass: str, wire: Wire, path: Callable[[], str] = str) -> requests.Session:
    """A session for plain HTTP that passes a closed gate. ``path``: of a unix socket, to which the next connection is
    made; empty: it is made to the host of the URL."""
    session = requests.Session()
    session.trust_env = False  # a proxy variable would send the requests elsewhere
    session.mount("http://", _Adapter(bypass, wire, path))
    return session


def tls_hello() -> bytes:
    """What a client of TLS sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    hello = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), hello).do_handshake()
    return hello.read()


def answer_to(hello: bytes, address: str, port: int, bypass: str, seconds: float) -> bytes:
    """The first bytes of an answer; none where there are none in time."""
    try:
        with create_connection((address, port), seconds, **_passing(bypass)) as connection:
            connection.sendall(hello)
            return connection.recv(FIRST)
    except OSError:
        return b""


def reason(error: Exception) -> str:
    """What the kernel or http.client said: requests and urllib3 wrap it three times."""
    cause: BaseException = error
    while isinstance(inner := cause.__cause__ or cause.__context__, (OSError, HTTPException, HTTPError)):
        cause = inner
    text = (isinstance(cause, OSError) and cause.strerror) or str(cause) or type(cause).__name__
    return f"{text}. Fix: {PASS_FIX}" if isinstance(cause, PermissionError) else text


class _Socket(socket.socket):
    """A connection with one deadline for all that it receives: http.client has one for each piece, so that headers that
    trickle never end."""

    wire: Wire

    def recv_into(self, *where: Any) -> int:
        """Ends at once where what comes is not HTTP/1: the line that http.client waits for may never end."""
        left = self.wire.deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout("timed out")
        self.settimeout(min(left, threading.TIMEOUT_MAX))
        count = super().recv_into(*where)
        if len(self.wire.first) < FIRST:
            self.wire.first += bytes(where[0][: min(count, FIRST)])
            if not may_be_http(self.wire.first):
                raise ConnectionError("it is not HTTP/1")
        return count


class _Adapter(HTTPAdapter):
    def __init__(self, bypass: str, wire: Wire, path: Callable[[], str]) -> None:
        self._bypass = bypass
        self._path = path
        self._wire = wire
        super().__init__()

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        """As an HTTPAdapter's, with connections of our own."""
        wire, path = self._wire, self._path

        class Connection(HTTPConnection):
            def connect(self) -> None:
                if now := path():
                    self.sock = _connected(now, self.timeout)
                else:
                    super().connect()
                assert self.sock is not None
                timeout = self.sock.gettimeout()
                self.sock = _Socket(fileno=self.sock.detach())
                self.sock.settimeout(timeout)
                self.sock.wire = wire

        class Pool(HTTPConnectionPool):
            ConnectionCls = Connection

        super().init_poolmanager(connections, maxsize, block, **options, **_passing(self._bypass))
        self.poolmanager.pool_classes_by_scheme = {"http": Pool}


def _connected(path: str, timeout: object) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout if isinstance(timeout, float) else None)
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def _passing(bypass: str) -> dict[str, Any]:
    if bypass == "address":
        return {"source_address": (BYPASS_ADDRESS, 0)}
    if bypass == "mark":  # needs CAP_NET_ADMIN, so only where a rule looks for it
        return {"socket_options": [(socket.SOL_SOCKET, SO_MARK, BYPASS_MARK)]}
    return {}
