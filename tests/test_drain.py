"""KernelSockets against this kernel: real sockets in the test run's own network namespace."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from supervisor_rolling.errors import SocketsError
from supervisor_rolling.in_listener import sock_diag
from supervisor_rolling.in_listener.drain import KernelSockets, family_of
from supervisor_rolling.model import Connections


@pytest.fixture
def keep() -> Iterator[ExitStack]:
    """Closes at the end of the test what is entered into it."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def sockets() -> KernelSockets:
    return KernelSockets()


def listen(keep: ExitStack, address: str = "127.0.0.1", dual: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return keep.enter_context(socket.create_server((address, 0), family=family, dualstack_ipv6=dual))


def connect(keep: ExitStack, server: socket.socket, address: str = "127.0.0.1") -> socket.socket:
    return keep.enter_context(socket.create_connection((address, port_of(server)), timeout=2))


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def name_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def eventually(true: Callable[[], bool], seconds: float = 3.0) -> bool:
    """Poll until it holds or the time is over."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


# --- peers


def test_a_connection_that_waits_in_the_accept_queue_counts(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    client = connect(keep, server)
    assert sockets.connections([port_of(server)])[port_of(server)].peers == {name_of(client)}


def test_an_accepted_connection_counts_until_the_server_closes_it(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    client = connect(keep, server)
    accepted, _ = server.accept()
    assert sockets.connections([port_of(server)])[port_of(server)].peers == {name_of(client)}
    accepted.close()
    assert eventually(lambda: not sockets.connections([port_of(server)])[port_of(server)].peers)


def test_a_connection_that_the_client_closed_counts_while_the_server_still_holds_it(
    keep: ExitStack, sockets: KernelSockets
) -> None:
    server = listen(keep)
    client = connect(keep, server)
    name = name_of(client)
    accepted = keep.enter_context(server.accept()[0])
    client.close()
    assert select.select([accepted], [], [], 2)[0]  # the end of file is here: CLOSE_WAIT
    assert sockets.connections([port_of(server)])[port_of(server)].peers == {name}


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_handshake_that_is_not_over_counts(keep: ExitStack, sockets: KernelSockets, address: str) -> None:
    server = listen(keep, "::", dual=True)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)  # stays in SYN_RECV until a byte comes
    client = connect(keep, server, address)
    assert sockets.connections([port_of(server)])[port_of(server)].peers == {name_of(client)}
    states = {one.state for one in sock_diag.tcp_sockets((sock_diag.SYN_RECV,), [port_of(server)])}
    assert states == {sock_diag.SYN_RECV}


def test_the_clients_end_of_a_loopback_connection_does_not_count(keep: ExitStack, sockets: KernelSockets) -> None:
    client = connect(keep, listen(keep))
    other = listen(keep)
    assert sockets.connections([port_of(other)])[port_of(other)].peers == frozenset()
    assert port_of(client) not in sockets.connections([port_of(other)])


def test_peers_over_ipv6_stand_in_brackets_and_mapped_ones_are_written_as_ipv4(
    keep: ExitStack, sockets: KernelSockets
) -> None:
    server = listen(keep, "::", dual=True)
    six, four = connect(keep, server, "::1"), connect(keep, server, "127.0.0.1")
    seen = sockets.connections([port_of(server)])[port_of(server)]
    assert seen.peers == {f"[::1]:{port_of(six)}", f"127.0.0.1:{port_of(four)}"}


def test_each_of_many_ports_gets_its_own_connections_and_no_others(keep: ExitStack, sockets: KernelSockets) -> None:
    servers = [listen(keep) for _ in range(60)]
    clients = {port_of(server): name_of(connect(keep, server)) for server in servers}
    asked = sorted(clients)[:50]
    seen = sockets.connections(asked)
    assert {port: set(one.peers) for port, one in seen.items()} == {port: {clients[port]} for port in asked}


def test_the_ports_beside_the_one_asked_for_do_not_count(keep: ExitStack) -> None:
    server = listen(keep)
    port = port_of(server)
    assert [one.port for one in sock_diag.tcp_sockets((sock_diag.LISTEN,), [port])] == [port]
    assert list(sock_diag.tcp_sockets((sock_diag.LISTEN,), [port - 1, port + 1])) == []


def test_many_connections_come_in_several_parts_and_none_is_missing(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    server.listen(700)
    names = {name_of(connect(keep, server)) for _ in range(600)}  # about 45 KiB, more than one netlink message holds
    assert sockets.connections([port_of(server)])[port_of(server)].peers == names


def test_a_port_where_nothing_is_has_no_connections(sockets: KernelSockets) -> None:
    assert sockets.connections([1]) == {1: Connections()}
    assert sockets.connections([]) == {}


# --- listeners


@pytest.mark.parametrize(
    ("address", "dual"), [("127.0.0.1", False), ("0.0.0.0", False), ("::1", False), ("::", False), ("::", True)]
)
def test_the_address_that_accepts_is_told(keep: ExitStack, sockets: KernelSockets, address: str, dual: bool) -> None:
    server = listen(keep, address, dual)
    assert sockets.connections([port_of(server)])[port_of(server)].listeners == (address,)


def test_two_listeners_of_one_port_are_both_told(keep: ExitStack, sockets: KernelSockets) -> None:
    four = listen(keep)
    keep.enter_context(socket.create_server(("::1", port_of(four)), family=socket.AF_INET6))
    assert sockets.connections([port_of(four)])[port_of(four)].listeners == ("127.0.0.1", "::1")


# --- ports_of

_LISTENS = """
import os, socket, sys
server = socket.create_server(("127.0.0.1", 0))
grandchild = len(sys.argv) > 1 and os.fork() == 0
if grandchild:
    server.close()
    server = socket.create_server(("::1", 0), family=socket.AF_INET6)
os.write(1, b"%d\\n" % server.getsockname()[1])
sys.stdin.read()
"""


@contextlib.contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", _LISTENS, *arguments], stdin=pipe, stdout=pipe) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def read_ports(process: subprocess.Popen[bytes], count: int) -> tuple[int, ...]:
    assert process.stdout is not None
    return tuple(sorted(int(process.stdout.readline()) for _ in range(count)))


def test_the_ports_of_a_process_are_those_it_listens_on(keep: ExitStack, sockets: KernelSockets) -> None:
    connect(keep, listen(keep))  # sockets of other processes, and such as do not listen
    process = keep.enter_context(program())
    ports = read_ports(process, 1)
    assert sockets.ports_of(process.pid) == ports


def test_the_ports_of_descendants_belong_to_a_process_too(keep: ExitStack, sockets: KernelSockets) -> None:
    process = keep.enter_context(program("fork"))
    ports = read_ports(process, 2)
    assert sockets.ports_of(process.pid) == ports
    assert process.pid in family_of(os.getpid())
    assert set(ports) <= set(sockets.ports_of(os.getpid()))


def test_a_process_that_is_gone_listens_on_nothing(sockets: KernelSockets) -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    assert sockets.ports_of(process.pid) == ()


# --- when the kernel does not answer as hoped


class FakeLink:
    """A netlink socket with answers made beforehand."""

    def __init__(self, *answers: bytes | OSError) -> None:
        self._answers = list(answers)

    def __enter__(self) -> FakeLink:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def settimeout(self, seconds: float) -> None:
        assert 0 < seconds <= 5

    def send(self, request: bytes) -> int:
        return len(request)

    def recvmsg(self, _: int) -> tuple[bytes, list[object], int, None]:
        answer = self._answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer, [], 0, None


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


DONE = message(3, struct.pack("=i", 0))


def answering(monkeypatch: pytest.MonkeyPatch, *links: FakeLink) -> None:
    waiting = list(links)
    monkeypatch.setattr("socket.socket", lambda *_: waiting.pop(0))


def test_an_interrupted_dump_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = message(3, struct.pack("=i", 0), flags=0x10)
    answering(monkeypatch, FakeLink(interrupted), FakeLink(DONE), FakeLink(DONE))
    assert list(sock_diag.tcp_sockets((sock_diag.LISTEN,))) == []


def test_a_dump_that_is_always_interrupted_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = message(3, struct.pack("=i", 0), flags=0x10)
    answering(monkeypatch, *(FakeLink(interrupted) for _ in range(20)))
    with pytest.raises(SocketsError, match="changed under"):
        list(sock_diag.tcp_sockets((sock_diag.LISTEN,)))


@pytest.mark.parametrize(
    "answer",
    [TimeoutError("timed out"), message(2, struct.pack("=i", -errno.EINVAL)), message(3, struct.pack("=i", -12))],
)
def test_silence_and_errors_of_the_kernel_are_told(monkeypatch: pytest.MonkeyPatch, answer: bytes | OSError) -> None:
    answering(monkeypatch, FakeLink(answer))
    with pytest.raises(SocketsError, match="NETLINK_SOCK_DIAG"):
        list(sock_diag.tcp_sockets((sock_diag.LISTEN,)))


def test_a_kernel_without_sock_diag_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, FakeLink(message(2, struct.pack("=i", -errno.ENOENT))))
    with pytest.raises(SocketsError, match="modprobe tcp_diag"):
        list(sock_diag.tcp_sockets((sock_diag.LISTEN,)))


def test_a_kernel_without_ipv6_has_no_ipv6_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, FakeLink(DONE), FakeLink(message(2, struct.pack("=i", -errno.ENOENT))))
    assert list(sock_diag.tcp_sockets((sock_diag.LISTEN,))) == []
