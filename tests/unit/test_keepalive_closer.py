"""The keepalive closer with the kernel's nftables and a real nginx: what is rewritten, and that no client sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pytest

from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.errors import GatePermissionError
from supervisor_rolling.listener import keepalive_closer
from supervisor_rolling.listener.keepalive_closer import StatusLineRewriter, table_of
from supervisor_rolling.listener.kernel_sockets import KernelSockets
from supervisor_rolling.listener.system import libnftables
from supervisor_rolling.listener.system.libnftables import Nftables
from tests.support.endpoints import nft_tables
from tests.support.keepalive_stack import NGINX_PORT, nginx, status_lines
from tests.support.stack import ROOT
from tests.support.waiting import stays, wait_until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REWRITTEN = OK.replace(b"1.1", b"1.0", 1)


@pytest.fixture
def lines() -> Iterator[StatusLineRewriter]:
    found = status_lines()
    yield found
    found.hold((), 0.0)
    assert nft_tables() == []


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as found:
        found.settimeout(5.0)
        yield found


@contextlib.contextmanager
def connected(listener: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's end and the client's."""
    with socket.create_connection(listener.getsockname()[:2], 5.0) as client:
        server, _ = listener.accept()
        with server:
            yield server, client


def carried(pair: tuple[socket.socket, socket.socket], data: bytes) -> bytes:
    pair[0].sendall(data)
    return pair[1].recv(65536)


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


# --- which answers are rewritten


def test_only_the_first_answer_is_rewritten(lines: StatusLineRewriter, listener: socket.socket) -> None:
    with connected(listener) as pair:
        assert carried(pair, OK) == OK
        assert lines.hold([port_of(listener)], 5.0) == {port_of(listener): ""}
        assert [carried(pair, OK) for _ in range(3)] == [REWRITTEN, OK, OK]
        assert lines.hold([port_of(listener)], 5.0) == {port_of(listener): "http"}
        assert carried(pair, OK) == OK


def test_later_connection_is_not_touched(lines: StatusLineRewriter, listener: socket.socket) -> None:
    with connected(listener):
        lines.hold([port_of(listener)], 5.0)
        with connected(listener) as later:
            lines.hold([port_of(listener)], 5.0)
            assert carried(later, OK) == OK


@pytest.mark.parametrize("data", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.0 200 OK", b"HTTP/2", b"ok", b"HTTP/1.12"])
def test_other_data_passes_and_the_answer_is_rewritten(
    lines: StatusLineRewriter, listener: socket.socket, data: bytes
) -> None:
    with connected(listener) as pair:
        lines.hold([port_of(listener)], 5.0)
        assert [carried(pair, data), carried(pair, OK)] == [data, REWRITTEN]


def test_other_and_released_ports_are_not_touched(lines: StatusLineRewriter, listener: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, connected(listener) as pair, connected(other) as kept:
        lines.hold([port_of(listener)], 5.0)
        assert carried(kept, OK) == OK
        lines.hold([port_of(listener), port_of(other)], 5.0)
        lines.hold([port_of(other)], 5.0)
        assert [carried(pair, OK), carried(kept, OK)] == [OK, REWRITTEN]


@pytest.mark.parametrize("data", [b"\x17\x03\x03\x00\x20" + bytes(32), b"\x00\x00\x2a\x01\x04" + bytes(46)])
def test_tls_and_http2_are_reported_as_sealed(lines: StatusLineRewriter, listener: socket.socket, data: bytes) -> None:
    with connected(listener) as pair:
        lines.hold([port_of(listener)], 5.0)
        assert carried(pair, data) == data
        assert lines.hold([port_of(listener)], 5.0) == {port_of(listener): "opaque"}


# --- the lease


def is_expired() -> bool:
    """Whether the kernel has dropped all ports from the set."""
    found = Nftables().run(f"list table inet {table_of('lab')}")
    return not any(one["set"].get("elem") for one in found if one.get("set", {}).get("name") == "draining")


def test_renewed_lease_lasts_and_another_ends(lines: StatusLineRewriter, listener: socket.socket) -> None:
    with connected(listener) as pair, connected(listener) as other, connected(listener) as hit:
        lines.hold([port_of(listener)], 2.0)
        assert carried(hit, OK) == REWRITTEN
        assert stays(lambda: port_of(listener) in lines.hold([port_of(listener)], 2.0), seconds=2.5)
        assert [carried(pair, OK), carried(hit, OK)] == [REWRITTEN, OK]
        wait_until(is_expired, "the lease is over")
        assert carried(other, OK) == OK


def test_new_listener_rewrites_no_connection_twice(lines: StatusLineRewriter, listener: socket.socket) -> None:
    with connected(listener) as pair, connected(listener) as other:
        lines.hold([port_of(listener)], 5.0)
        assert carried(pair, OK) == REWRITTEN
        assert status_lines().hold([port_of(listener)], 5.0) == {port_of(listener): "http"}
        assert [carried(pair, OK), carried(other, OK)] == [OK, REWRITTEN]


HOLDER = """
import sys, time
from tests.support.endpoints import nft_tables
from tests.support.keepalive_stack import status_lines
status_lines().hold([int(sys.argv[1])], 2.0)
print("held", flush=True)
time.sleep(60)
"""


def test_killed_listeners_table_expires_and_is_removed(listener: socket.socket) -> None:
    with connected(listener) as pair, connected(listener) as other:
        command = [sys.executable, "-c", HOLDER, str(port_of(listener))]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            holder.send_signal(signal.SIGKILL)
        assert carried(pair, OK) == REWRITTEN
        wait_until(is_expired, "the lease is over")
        assert carried(other, OK) == OK
    assert nft_tables() == [table_of("lab")]
    status_lines().hold((), 0.0)
    assert nft_tables() == []


def nft(commands: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=commands, text=True, check=True)


@pytest.mark.parametrize(
    "changes",
    [
        "delete table inet {table}; add table inet {table}; add set inet {table} draining {{ type inet_service; }}",
        "add table inet {table} {{ flags dormant; }}",
    ],
)
def test_changed_table_is_made_again(lines: StatusLineRewriter, listener: socket.socket, changes: str) -> None:
    port = port_of(listener)
    with connected(listener) as pair:
        lines.hold([port], 5.0)
        nft(changes.format(table=table_of("lab")))
        for _ in range(2):
            lines.hold([port], 5.0)
        assert carried(pair, OK) == REWRITTEN


def test_ports_added_without_a_timeout_are_removed(lines: StatusLineRewriter, listener: socket.socket) -> None:
    port, drains = port_of(listener), f"element inet {table_of('lab')} draining"
    lines.hold([port], 2.0)
    nft(f"delete {drains} {{ {port} }}; add {drains} {{ {port}, 4711 }}")
    lines.hold([port], 2.0)
    found = Nftables().run(f"list table inet {table_of('lab')}")
    (left,) = [one["set"]["elem"] for one in found if one.get("set", {}).get("name") == "draining"]
    assert [(one["elem"]["val"], one["elem"]["timeout"]) for one in left] == [(port, 2)]


# --- check


def test_check_leaves_nothing(lines: StatusLineRewriter) -> None:
    lines.check()
    assert nft_tables() == []


def test_check_finds_a_kernel_that_rewrites_nothing(lines: StatusLineRewriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepalive_closer, "_TABLE", keepalive_closer._TABLE.replace("@ih,48,16 set 0x2e30", ""))
    with pytest.raises(GatePermissionError, match=r"nginx cannot work on this host: .*HTTP/1\.1.*5\.16.*Fix: "):
        lines.check()
    assert nft_tables() == []


def test_check_error_has_the_kernels_reason(lines: StatusLineRewriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepalive_closer, "_TABLE", keepalive_closer._TABLE.replace("@ih", "@no"))
    with pytest.raises(
        GatePermissionError, match=r"cannot work on this host: nftables: unknown raw payload base.* needs Linux 5"
    ):
        lines.check()


def test_check_without_the_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libnftables, "LIBRARY", "libnftables.so.99")
    assert status_lines().hold((), 0.0) == {}
    with pytest.raises(GatePermissionError, match=r"cannot work on this host: .*install libnftables"):
        status_lines().check()


# --- what nginx's clients see

BIG = os.urandom(1 << 16) * 128  # 8 MB
STATUS_LINE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def headed(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", "Server: lab", *headers, "", ""]).encode()


def sized(body: bytes, status: str = "200 OK") -> list[bytes]:
    return [headed(status, f"Content-Length: {len(body)}"), body]


def chunked(*parts: bytes) -> list[bytes]:
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts]
    return [headed("200 OK", "Transfer-Encoding: chunked"), *chunks, b"0\r\n\r\n"]


ANSWERS: dict[str, list[bytes]] = {
    "/small": sized(b"fine\n"),
    "/empty": sized(b""),
    "/big": sized(BIG),
    "/chunked": chunked(b"one", b"two" * 1000, b"three"),
    "/big-chunked": chunked(*(BIG[at : at + 100_000] for at in range(0, 2_000_000, 100_000))),
    "/one-piece": [b"".join(sized(b"fine\n"))],
    "/status-lines": [headed("200 OK", f"Content-Length: {3 * len(STATUS_LINE)}"), *[STATUS_LINE] * 3],
    "/chunked-status-lines": [
        headed("200 OK", "Transfer-Encoding: chunked"),
        b"%x\r\n" % len(STATUS_LINE),
        STATUS_LINE,
        b"\r\n0\r\n\r\n",
    ],
    "/204": [headed("204 No Content")],
    "/304": [headed("304 Not Modified", 'ETag: "x"')],
    "/redirect": sized(b"there", "302 Found"),
    "/404": sized(b"no", "404 Not Found"),
    "/500": sized(b"broken", "500 Internal Server Error"),
}  # fmt: skip
"""What the server answers, each piece in a segment of its own. No 1xx: nginx 1.22 takes it for the answer, and asks for
none, since what its clients expect it answers itself."""

REQUESTS = [("GET", path) for path in ANSWERS] + [("HEAD", "/small"), ("HEAD", "/chunked"), ("POST", "/small")]
PIECE_PAUSE = 0.01


class Server(threading.Thread):
    """Answers with ``ANSWERS``, keeps every connection, and counts the accepted ones."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(daemon=True)
        self._listener = listener
        self.accepted = 0

    def run(self) -> None:
        with contextlib.suppress(OSError):  # closed: the end
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.accepted += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader, contextlib.suppress(OSError):
            while True:
                line = reader.readline()
                if not line:
                    return
                length = 0
                for header in iter(reader.readline, b"\r\n"):
                    name, _, value = header.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                reader.read(length)
                method, path = line.decode().split()[:2]
                self._answer(connection, ANSWERS[path], method == "HEAD")

    def _answer(self, connection: socket.socket, pieces: Sequence[bytes], is_head: bool) -> None:
        for piece in pieces[:1] if is_head else pieces:
            connection.sendall(piece)
            time.sleep(PIECE_PAUSE if len(pieces) < 10 else 0.0)


def asked(method: str, path: str) -> bytes:
    """All that nginx's client gets, but for the date and for where nginx cuts a body into chunks, which is never
    twice the same. A POST waits for a 100."""
    with socket.create_connection(("127.0.0.1", NGINX_PORT), 10.0) as client, client.makefile("rb") as reader:
        expects = "Content-Length: 5\r\nExpect: 100-continue\r\n" if method == "POST" else ""
        client.sendall(f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{expects}\r\n".encode())
        early = b""
        if expects:
            early = reader.readline() + reader.readline()
            client.sendall(b"hello")
        lines = list(iter(reader.readline, b"\r\n"))
        is_chunked = b"Transfer-Encoding: chunked\r\n" in lines and method != "HEAD"
        body = unchunked(reader) if is_chunked else reader.read()
        rest = reader.read()
    return b"".join([early, *(line for line in lines if not line.startswith(b"Date:")), b"\r\n", body, rest])


def unchunked(reader: BinaryIO) -> bytes:
    parts = []
    while True:
        size = int(reader.readline(), 16)
        parts.append(reader.read(size))
        assert reader.readline() == b"\r\n"
        if not size:
            return b"".join(parts)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_clients_of_nginx_get_the_same_bytes(tmp_path: Path, lines: StatusLineRewriter, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family, backlog=64) as listener:
        server = Server(listener)
        server.start()
        port = port_of(listener)
        shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        with nginx(tmp_path, [shown]):
            asked("GET", "/small")
            plain = {request: asked(*request) for request in REQUESTS}
            kept = server.accepted
            rewritten = {}
            for request in REQUESTS:
                asked("GET", "/small")  # there is a pooled connection
                lines.hold([port], 5.0)
                rewritten[request] = asked(*request)
                assert lines.hold([port], 5.0) == {port: "http"}, f"{request} met no rule"
                lines.hold((), 0.0)
        listener.close()
    assert [request for request in REQUESTS if plain[request] != rewritten[request]] == []
    assert len(plain["GET", "/big"]) > len(BIG)
    assert kept <= 3  # nginx kept its connection all the time, and then lost one by each answer
    assert server.accepted >= kept + len(REQUESTS) - 3


def test_pool_is_closed_by_its_own_requests(tmp_path: Path, lines: StatusLineRewriter) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        server = Server(listener)
        server.start()
        with nginx(tmp_path, [f"127.0.0.1:{port_of(listener)}"]):
            threads = [threading.Thread(target=asked, args=("GET", "/small")) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10.0)
            lines.hold([port_of(listener)], 5.0)
            pooled = established(port_of(listener))
            assert pooled >= 2
            for left in range(pooled, 0, -1):
                assert asked("GET", "/small").endswith(b"fine\n")
                wait_until(lambda left=left: established(port_of(listener)) == left - 1, "nginx closes one")  # type: ignore[misc]
        listener.close()


def established(port: int) -> int:
    return len(KernelSockets().connections([tcp(port)])[tcp(port)].peers)
