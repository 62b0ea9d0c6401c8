"""PacketSniffer with real requests over loopback in both families."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor_rolling.listener.request_sniffer import LINGER, PacketSniffer, arrival_in

PORT = 8123
REQUEST = b"%s /x?y=z HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

families = pytest.mark.parametrize("address", ["127.0.0.1", "::1"])


class Pair:
    """Both ends of a connection."""

    def __init__(self, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.create_server((address, port), family=family) as server:
            self.client = socket.create_connection((address, port), 5)
            self.server, _ = server.accept()
        shown = f"[{address}]" if ":" in address else address
        self.peer = f"{shown}:{self.client.getsockname()[1]}"

    def send(self, data: bytes) -> None:
        """Until it has come, so that it has been seen if it can be."""
        self.client.sendall(data)
        got = b""
        while len(got) < len(data):
            got += self.server.recv(65536)

    def answer(self) -> None:
        self.server.sendall(ANSWER)
        assert self.client.recv(65536) == ANSWER


@contextlib.contextmanager
def paired(address: str, port: int = PORT) -> Iterator[Pair]:
    pair = Pair(address, port)
    with pair.client, pair.server:
        yield pair


@pytest.fixture
def now() -> list[float]:
    """One number, the time."""
    return [100.0]


@pytest.fixture
def request_sniffer(now: list[float]) -> Iterator[PacketSniffer]:
    found = PacketSniffer(lambda: now[0])
    yield found
    found.watch(())
    now[0] += LINGER
    found.watch(())


def packet_sockets() -> int:
    """Of this network namespace, the heading not counted."""
    return len(Path("/proc/net/packet").read_text(encoding="ascii").splitlines()) - 1


@families
@pytest.mark.parametrize("method", [b"GET", b"POST", b"HEAD", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"])
def test_request_is_seen_once_with_port_and_peer(request_sniffer: PacketSniffer, address: str, method: bytes):
    request_sniffer.watch([PORT + 1, PORT])
    with paired(address) as pair:
        pair.send(REQUEST % method)
        (found,) = request_sniffer.take()
    assert (found.port, found.peer) == (PORT, pair.peer)


@families
def test_requests_before_and_after_an_answer_differ(request_sniffer: PacketSniffer, address: str):
    request_sniffer.watch([PORT])
    with paired(address) as pair:
        pair.send(REQUEST % b"GET")
        pair.send(REQUEST % b"GET")  # pipelined, or the body of the first
        pair.answer()
        pair.send(REQUEST % b"GET")
        first, second, third = request_sniffer.take()
    assert first.answered == second.answered != third.answered


@families
@pytest.mark.parametrize(
    "data", [b"x" * 65536, b"GET rich soon", b"\x81\x85GET / HTTP/1.1\r\n", b"\x16\x03\x01GET / HTTP/1.1\r\n"]
)
def test_other_data_is_no_request(request_sniffer: PacketSniffer, address: str, data: bytes):
    request_sniffer.watch([PORT])
    with paired(address) as pair:
        pair.send(data)
        assert request_sniffer.take() == []
        pair.send(REQUEST % b"GET")
        assert len(request_sniffer.take()) == 1


def test_other_ports_and_own_requests_are_not_seen(request_sniffer: PacketSniffer):
    request_sniffer.watch([PORT])
    with paired("127.0.0.1", PORT + 1) as other, paired("127.0.0.1") as own:
        other.send(REQUEST % b"GET")
        own.server.sendall(REQUEST % b"GET")
        assert own.client.recv(65536)
        assert request_sniffer.take() == []
        request_sniffer.watch([PORT + 1])
        own.send(REQUEST % b"GET")
        other.send(REQUEST % b"GET")
        assert [found.port for found in request_sniffer.take()] == [PORT + 1]
        request_sniffer.watch([])
        other.send(REQUEST % b"GET")
        assert request_sniffer.take() == []


def test_requests_before_the_watch_are_not_seen(request_sniffer: PacketSniffer):
    request_sniffer.watch([PORT])
    with paired("127.0.0.1") as pair:
        pair.send(REQUEST % b"GET")
        request_sniffer.watch([])
        pair.send(REQUEST % b"GET")
        request_sniffer.watch([PORT])
        assert request_sniffer.take() == []


def test_sockets_stay_open_after_a_drain(request_sniffer: PacketSniffer, now: list[float]):
    """Closed in a rollout, they would keep the process waiting that has just been drained."""
    before = packet_sockets()
    request_sniffer.watch([])
    assert packet_sockets() == before
    request_sniffer.watch([PORT])
    request_sniffer.watch([])
    now[0] += LINGER - 1
    request_sniffer.watch([])
    assert packet_sockets() == before + 2
    now[0] += 1
    request_sniffer.watch([])
    assert packet_sockets() == before
    request_sniffer.watch([PORT])
    assert packet_sockets() == before + 2


def test_last_of_a_thousand_ports_is_seen(request_sniffer: PacketSniffer):
    request_sniffer.watch(range(PORT - 999, PORT + 1))
    with paired("127.0.0.1") as pair:
        pair.send(REQUEST % b"GET")
        assert len(request_sniffer.take()) == 1


def test_without_rights_nothing_is_seen_and_logged_once():
    code = """
import logging, os, time
logging.basicConfig(format="%(message)s")
os.setuid(65534)
from supervisor_rolling.listener.request_sniffer import PacketSniffer
arrivals = PacketSniffer(time.monotonic)
for ports in ([1], [2], [], [1]):
    arrivals.watch(ports)
    assert arrivals.take() == []
"""
    code = "import supervisor_rolling.listener.request_sniffer" + code  # another user may not read the tree
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert "Operation not permitted" in line
    assert "CAP_NET_RAW" in line


@pytest.mark.parametrize("packet", [b"", b"\x45", bytes(39), bytes(100), b"\x4f" + bytes(50), b"\xff" * 60])
@pytest.mark.parametrize("is_ipv6", [False, True])
def test_truncated_packet_is_no_request(packet: bytes, is_ipv6: bool):
    assert arrival_in(packet, is_ipv6) is None
