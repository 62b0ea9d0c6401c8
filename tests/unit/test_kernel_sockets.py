"""KernelSockets against this kernel: real sockets in the test run's own network namespace."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import socket
import struct
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor_rolling.core.connections import GONE_CLIENT, Connection, Connections
from supervisor_rolling.core.endpoint import tcp, unix
from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.core.policy import Policy, SocketRule
from supervisor_rolling.listener.kernel_sockets import KernelSockets
from supervisor_rolling.listener.own_endpoints import seen
from supervisor_rolling.listener.system import procfs, sock_diag, socket_paths
from supervisor_rolling.listener.system.sock_diag import Traffic
from tests.support.lingering import unreachable
from tests.support.waiting import eventually, stays


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


# --- peers


def test_connection_in_the_accept_queue_counts(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    client = connect(keep, server)
    assert sockets.connections([tcp(port_of(server))])[tcp(port_of(server))].peers == {name_of(client)}


def test_accepted_connection_counts_until_the_server_closes_it(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    client = connect(keep, server)
    accepted, _ = server.accept()
    assert sockets.connections([tcp(port_of(server))])[tcp(port_of(server))].peers == {name_of(client)}
    accepted.close()
    assert eventually(lambda: not sockets.connections([tcp(port_of(server))])[tcp(port_of(server))].peers)


def test_connection_closed_by_its_client_still_counts(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    client = connect(keep, server)
    name = name_of(client)
    accepted = keep.enter_context(server.accept()[0])
    client.close()
    assert select.select([accepted], [], [], 2)[0]  # the end of file is here: CLOSE_WAIT
    assert sockets.connections([tcp(port_of(server))])[tcp(port_of(server))].peers == {name}


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_unfinished_handshake_counts(keep: ExitStack, sockets: KernelSockets, address: str) -> None:
    server = listen(keep, "::", dual=True)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)  # stays in SYN_RECV until a byte comes
    client = connect(keep, server, address)
    assert sockets.connections([tcp(port_of(server))])[tcp(port_of(server))].peers == {name_of(client)}
    states = {one.state for one in sock_diag.tcp_sockets((sock_diag.SYN_RECV,), [port_of(server)])}
    assert states == {sock_diag.SYN_RECV}


def test_clients_end_of_a_loopback_connection_is_ignored(keep: ExitStack, sockets: KernelSockets) -> None:
    client = connect(keep, listen(keep))
    other = listen(keep)
    assert sockets.connections([tcp(port_of(other))])[tcp(port_of(other))].peers == frozenset()
    assert tcp(port_of(client)) not in sockets.connections([tcp(port_of(other))])


def test_ipv6_peers_have_brackets_and_mapped_are_ipv4(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep, "::", dual=True)
    six, four = connect(keep, server, "::1"), connect(keep, server, "127.0.0.1")
    observed = sockets.connections([tcp(port_of(server))])[tcp(port_of(server))]
    assert observed.peers == {f"[::1]:{port_of(six)}", f"127.0.0.1:{port_of(four)}"}


def test_each_of_many_ports_has_its_own_connections(keep: ExitStack, sockets: KernelSockets) -> None:
    servers = [listen(keep) for _ in range(60)]
    clients = {port_of(server): name_of(connect(keep, server)) for server in servers}
    asked = sorted(clients)[:50]
    observed = sockets.connections(list(map(tcp, asked)))
    assert {endpoint.port: set(one.peers) for endpoint, one in observed.items()} == {
        port: {clients[port]} for port in asked
    }


def test_neighbouring_ports_do_not_count(keep: ExitStack) -> None:
    server = listen(keep)
    port = port_of(server)
    assert [one.port for one in sock_diag.tcp_sockets((sock_diag.LISTEN,), [port])] == [port]
    assert list(sock_diag.tcp_sockets((sock_diag.LISTEN,), [port - 1, port + 1])) == []


@pytest.mark.parametrize("step", [1, 2], ids=["ports in a row", "every second port"])
def test_ports_beyond_one_filter_are_all_listed(keep: ExitStack, sockets: KernelSockets, step: int) -> None:
    servers = [keep.enter_context(socket.create_server(("127.0.0.1", port))) for port in (20000, 25000, 29998)]
    clients = [connect(keep, server) for server in servers]
    found = sockets.connections(list(map(tcp, range(20000, 30000, step))))
    assert [found[tcp(port_of(server))].peers for server in servers] == [{name_of(client)} for client in clients]
    assert sum(len(one.peers) for one in found.values()) == len(clients)


def test_answer_in_several_parts_is_complete(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    server.listen(700)
    names = {name_of(connect(keep, server)) for _ in range(600)}  # about 45 KiB, more than one netlink message holds
    assert sockets.connections([tcp(port_of(server))])[tcp(port_of(server))].peers == names


def test_unused_port_has_no_connections(sockets: KernelSockets) -> None:
    assert sockets.connections([tcp(1)]) == {tcp(1): Connections()}
    assert sockets.connections([]) == {}


# --- the oldest connections, and what they do


def oldest_of(sockets: KernelSockets, server: socket.socket, oldest: int = 9) -> dict[str, Connection]:
    """The oldest connections, by peer."""
    return {one.peer: one for one in sockets.connections([tcp(port_of(server))], oldest)[tcp(port_of(server))].oldest}


def accepted_from(keep: ExitStack, server: socket.socket) -> tuple[socket.socket, socket.socket, float]:
    """A client, its connection as the server has it, and the moment before it began."""
    began = time.monotonic()
    client = connect(keep, server)
    return client, keep.enter_context(server.accept()[0]), began


def within(truth: float, known: float, slack: float = 0.1) -> bool:
    """Whether what the kernel knows, in ticks of 1 to 10 ms, is no more than the truth and not much less."""
    return truth - slack <= known <= truth + 0.01


def test_upload_has_its_age_and_received_last(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    client, _, began = accepted_from(keep, server)
    assert eventually(lambda: oldest_of(sockets, server)[name_of(client)].age >= 0.3)
    client.send(b"x")
    one = oldest_of(sockets, server)[name_of(client)]
    assert within(time.monotonic() - began, one.age)
    assert (one.last, one.state) == ("received", "")
    assert one.idle < 0.1


def test_stream_has_its_age_and_sent_last(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    client, accepted, began = accepted_from(keep, server)
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    assert eventually(lambda: oldest_of(sockets, server)[name_of(client)].age >= 0.3)
    assert oldest_of(sockets, server)[name_of(client)].last == "received"  # not answered yet
    accepted.send(b"chunk")
    one = oldest_of(sockets, server)[name_of(client)]
    assert within(time.monotonic() - began, one.age)
    assert (one.last, one.state) == ("sent", "")
    assert one.idle < 0.1


def test_keepalive_is_idle_since_its_last_answer(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    client, accepted, began = accepted_from(keep, server)
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    accepted.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert eventually(lambda: oldest_of(sockets, server)[name_of(client)].idle >= 0.2)
    one = oldest_of(sockets, server)[name_of(client)]
    assert one.last == "sent"
    assert within(time.monotonic() - began, one.age)
    assert one.idle <= one.age


def test_age_is_unknown_where_bytes_move_both_ways(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    client, accepted, _ = accepted_from(keep, server)
    assert eventually(lambda: oldest_of(sockets, server)[name_of(client)].age >= 0.3)
    client.send(b"ping")
    accepted.send(b"pong")
    assert oldest_of(sockets, server)[name_of(client)].age < 0.1


def test_port_is_silent_since_the_last_byte(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    port = port_of(server)
    assert sockets.connections([tcp(port)], oldest=1)[tcp(port)].idle_for == math.inf
    answered = [connect(keep, server) for _ in range(2)]
    for client in answered:
        process = keep.enter_context(server.accept()[0])
        client.sendall(b"ask")
        assert process.recv(9)
        process.sendall(b"answer")
        assert eventually(lambda client=client: oldest_of(sockets, server)[name_of(client)].idle >= 0.1)  # type: ignore[misc]
    assert eventually(lambda: sockets.connections([tcp(port)], oldest=1)[tcp(port)].idle_for >= 0.3)
    found = sockets.connections([tcp(port)], oldest=9)[tcp(port)]
    assert found.idle_for == min(one.idle for one in found.oldest)
    assert sockets.connections([tcp(port)])[tcp(port)].idle_for == 0.0  # not asked for
    answered[0].sendall(b"ask")
    assert stays(lambda: sockets.connections([tcp(port)], oldest=1)[tcp(port)].idle_for == 0.0, 0.3), (
        "one waits for its answer"
    )


def test_port_is_not_silent_while_a_reader_pauses(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    port = port_of(server)
    client = connect(keep, server)
    process = keep.enter_context(server.accept()[0])
    client.sendall(b"ask")
    assert process.recv(9)
    process.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += process.send(bytes(65536))
    assert eventually(lambda: sockets.connections([tcp(port)], oldest=1)[tcp(port)].oldest[0].idle >= 0.3)
    assert sockets.connections([tcp(port)], oldest=1)[tcp(port)].idle_for == 0.0
    while sent:
        sent -= len(client.recv(1 << 20))
    assert eventually(lambda: sockets.connections([tcp(port)], oldest=1)[tcp(port)].idle_for >= 0.3)


def test_port_with_an_accept_queue_is_not_silent(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    connect(keep, server)
    assert stays(
        lambda: sockets.connections([tcp(port_of(server))], oldest=1)[tcp(port_of(server))].idle_for == 0.0, 0.1
    )


def test_connection_without_bytes_is_idle_since_its_start(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    client, _, _ = accepted_from(keep, server)
    assert eventually(lambda: oldest_of(sockets, server)[name_of(client)].age >= 0.1)
    one = oldest_of(sockets, server)[name_of(client)]
    assert (one.last, one.idle, one.state) == ("", one.age, "")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_connection_in_the_accept_queue_is_not_accepted(keep: ExitStack, sockets: KernelSockets, address: str) -> None:
    server = listen(keep, "::", dual=True)
    client = connect(keep, server, address)
    client.send(b"GET /")
    (one,) = oldest_of(sockets, server).values()
    assert (one.peer, one.last, one.state) == (name_of(client), "received", "not accepted")


def test_unfinished_handshake_is_not_accepted(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    client = connect(keep, server)
    assert list(oldest_of(sockets, server).values()) == [Connection(name_of(client), state="not accepted")]


@pytest.mark.parametrize("is_gone", [False, True], ids=["waits for an answer", "is gone"])
def test_client_that_closed_its_side_is_half_closed(keep: ExitStack, sockets: KernelSockets, is_gone: bool) -> None:
    server = listen(keep)
    client, accepted, _ = accepted_from(keep, server)
    name = name_of(client)
    client.send(b"PUT")
    client.close() if is_gone else client.shutdown(socket.SHUT_WR)
    assert accepted.recv(9) == b"PUT"
    assert accepted.recv(9) == b""
    one = oldest_of(sockets, server)[name]
    assert (one.last, one.state) == ("received", "half-closed")


def test_client_that_reads_nothing_is_stuck(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    client, accepted, _ = accepted_from(keep, server)
    fill(accepted)
    assert oldest_of(sockets, server)[name_of(client)].state == ""
    assert eventually(lambda: oldest_of(sockets, server)[name_of(client)].state == "stuck")
    assert oldest_of(sockets, server)[name_of(client)].idle >= 0.9
    read_all(client)
    assert oldest_of(sockets, server)[name_of(client)].state == ""


def fill(sock: socket.socket) -> None:
    """Send until the other side's buffer and one's own are full."""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(65536))


def read_all(sock: socket.socket) -> None:
    """Until nothing comes any more."""
    while select.select([sock], [], [], 0.3)[0]:
        sock.recv(1 << 20)


def test_vanished_client_is_stuck_and_retransmits_are_ignored(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    client, accepted, _ = accepted_from(keep, server)
    client.send(b"GET /")
    accepted.send(b"chunk")
    assert eventually(lambda: oldest_of(sockets, server)[name_of(client)].idle >= 0.2)
    keep.enter_context(unreachable(name_of(client)))
    accepted.send(b"chunk")
    assert eventually(lambda: oldest_of(sockets, server)[name_of(client)].state == "stuck")
    one = oldest_of(sockets, server)[name_of(client)]
    assert one.idle >= 0.3  # since the last that arrived, although one that does not was sent meanwhile
    assert one.last == "sent"


def test_only_the_oldest_are_listed_oldest_first(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    old = [accepted_from(keep, server)[0] for _ in range(2)]
    assert eventually(lambda: min(one.age for one in oldest_of(sockets, server).values()) >= 0.1)
    new = [accepted_from(keep, server)[0] for _ in range(20)]
    ages = [one.age for one in oldest_of(sockets, server).values()]
    assert ages == sorted(ages, reverse=True)
    assert set(oldest_of(sockets, server, oldest=2)) == set(map(name_of, old))
    assert len(sockets.connections([tcp(port_of(server))], oldest=2)[tcp(port_of(server))].peers) == len(old + new)


def test_ages_are_listed_only_on_request(keep: ExitStack, sockets: KernelSockets) -> None:
    server = listen(keep)
    connect(keep, server)
    observed = sockets.connections([tcp(port_of(server))])[tcp(port_of(server))]
    assert (len(observed.peers), observed.oldest) == (1, ())


# --- listeners


@pytest.mark.parametrize(
    ("address", "dual"), [("127.0.0.1", False), ("0.0.0.0", False), ("::1", False), ("::", False), ("::", True)]
)
def test_listening_address_is_listed(keep: ExitStack, sockets: KernelSockets, address: str, dual: bool) -> None:
    server = listen(keep, address, dual)
    assert sockets.listeners([port_of(server)])[port_of(server)] == (address,)


def test_both_listeners_of_a_port_are_listed(keep: ExitStack, sockets: KernelSockets) -> None:
    four = listen(keep)
    keep.enter_context(socket.create_server(("::1", port_of(four)), family=socket.AF_INET6))
    assert sockets.listeners([port_of(four)])[port_of(four)] == ("127.0.0.1", "::1")


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


def test_interrupted_dump_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = message(3, struct.pack("=i", 0), flags=0x10)
    answering(monkeypatch, FakeLink(interrupted), FakeLink(DONE))
    assert list(sock_diag.tcp_sockets((sock_diag.LISTEN,))) == []


def test_dump_that_is_always_interrupted_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = message(3, struct.pack("=i", 0), flags=0x10)
    answering(monkeypatch, *(FakeLink(interrupted) for _ in range(20)))
    with pytest.raises(SocketsError, match="changed during 5 readings"):
        list(sock_diag.tcp_sockets((sock_diag.LISTEN,)))


@pytest.mark.parametrize(
    "answer",
    [TimeoutError("timed out"), message(2, struct.pack("=i", -errno.EINVAL)), message(3, struct.pack("=i", -12))],
)
def test_timeout_and_kernel_errors_are_sockets_errors(monkeypatch: pytest.MonkeyPatch, answer: bytes | OSError) -> None:
    answering(monkeypatch, FakeLink(answer), FakeLink(answer))
    with pytest.raises(SocketsError, match="NETLINK_SOCK_DIAG"):
        list(sock_diag.tcp_sockets((sock_diag.LISTEN,)))


def test_kernel_without_sock_diag_names_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = message(2, struct.pack("=i", -errno.ENOENT))
    answering(monkeypatch, FakeLink(unknown), FakeLink(unknown))
    with pytest.raises(SocketsError, match="modprobe tcp_diag"):
        list(sock_diag.tcp_sockets((sock_diag.LISTEN,)))


REFUSED = message(2, struct.pack("=i", -errno.EINVAL))  # the question for both families at once


def test_families_are_listed_apart_where_both_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    four, six = UPLOAD[:72], b"\x0a" + UPLOAD[1:72]
    answering(monkeypatch, FakeLink(REFUSED), *(FakeLink(message(20, body), DONE) for body in (four, six)))
    found = sock_diag.tcp_sockets((sock_diag.ESTABLISHED,))
    assert [one.address for one in found] == ["127.0.0.1", "7f00:1::"]


def test_kernel_without_ipv6_has_no_ipv6_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, *map(FakeLink, (REFUSED, DONE, message(2, struct.pack("=i", -errno.ENOENT)))))
    assert list(sock_diag.tcp_sockets((sock_diag.LISTEN,))) == []


def test_one_walk_finds_both_families(keep: ExitStack, sockets: KernelSockets, monkeypatch: pytest.MonkeyPatch) -> None:
    server = listen(keep, "::", dual=True)
    six, four = connect(keep, server, "::1"), connect(keep, server, "127.0.0.1")
    walks: list[int] = []
    real = sock_diag._dump

    def counted(family: int, *rest: Any) -> list[sock_diag.TcpSocket]:
        walks.append(family)
        return real(family, *rest)

    monkeypatch.setattr(sock_diag, "_dump", counted)
    found = sockets.connections([tcp(port_of(server))], oldest=2)[tcp(port_of(server))]
    assert walks == [socket.AF_UNSPEC]
    assert found.peers == {f"[::1]:{port_of(six)}", f"127.0.0.1:{port_of(four)}"}
    assert len(found.oldest) == 2


def test_port_with_a_socket_for_each_process_is_found(keep: ExitStack, sockets: KernelSockets) -> None:
    code = (
        "import socket,sys,time; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1);"
        "s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); print(s.getsockname()[1], flush=True); time.sleep(20)"
    )
    started: list[subprocess.Popen[str]] = []
    port = "0"
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code, port], stdout=subprocess.PIPE, text=True)
        keep.callback(process.communicate)
        keep.callback(process.kill)
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        started.append(process)
    pids = [process.pid for process in started]
    assert sockets.reuseport_of(pids) == [int(port)]
    assert sockets.reuseport_of(pids[:1]) == []


# --- unix sockets


def unix_server(keep: ExitStack, path: str) -> socket.socket:
    server = keep.enter_context(socket.socket(socket.AF_UNIX))
    server.bind(path)
    server.listen(16)
    return server


def unix_client(keep: ExitStack, path: str) -> socket.socket:
    client = keep.enter_context(socket.socket(socket.AF_UNIX))
    client.connect(path)
    return client


def peers(sockets: KernelSockets, path: str) -> frozenset[str]:
    return sockets.connections([unix(path)])[unix(path)].peers


def test_unix_connection_is_the_same_before_and_after_its_acceptance(
    keep: ExitStack, sockets: KernelSockets, tmp_path: Path
) -> None:
    path = str(tmp_path / "a.sock")
    server, other = unix_server(keep, path), str(tmp_path / "b.sock")
    unix_client(keep, unix_server(keep, other).getsockname())
    assert peers(sockets, path) == frozenset()
    clients = [unix_client(keep, path) for _ in range(3)]
    queued = peers(sockets, path)
    assert len(queued) == 3
    accepted = [keep.enter_context(server.accept()[0]) for _ in range(2)]
    assert peers(sockets, path) == queued, "to accept it makes no new one"
    os.rename(path, socket_paths.hidden(path))
    assert peers(sockets, path) == queued, "whatever name it has now"
    clients[0].close()
    assert len(peers(sockets, path)) == 3, "the server may still have to answer"
    assert f"{GONE_CLIENT} 1" in peers(sockets, path)
    accepted[0].close()
    assert peers(sockets, path) < queued
    clients[2].close()
    assert len(peers(sockets, path)) == 2, "one of them waits, and its client is gone"


def test_one_relative_name_in_two_directories_is_two_sockets(
    keep: ExitStack, sockets: KernelSockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, number in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        unix_server(keep, "app.sock")
        for _ in range(number):
            unix_client(keep, "app.sock")
    assert [len(peers(sockets, str(tmp_path / name / "app.sock"))) for name in "ab"] == [1, 2]


def test_name_with_a_line_break_is_no_other_socket(keep: ExitStack, sockets: KernelSockets) -> None:
    """/proc/net/unix would have a line for it that its owner has chosen."""
    path = f"/tmp/{os.getpid()}.sock"  # short enough to be a part of another name
    keep.callback(os.unlink, path)
    unix_server(keep, path)
    forged = keep.enter_context(socket.socket(socket.AF_UNIX))
    forged.bind(f"\0x\n0000: 00000003 00000000 00000000 0001 03 4711 {path}\nx".encode())
    forged.listen()
    assert peers(sockets, path) == frozenset()
    own, abstract = sockets.unix_of([os.getpid()])[os.getpid()]
    assert (own, abstract.startswith("@x"), abstract.isprintable()) == (path, True, True)
    assert seen(sockets, Policy("app", sockets=SocketRule(auto=True)), [os.getpid()]) == {os.getpid(): (unix(path),)}


def test_process_listens_at_its_name_and_at_a_link_to_it(
    keep: ExitStack, sockets: KernelSockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, link, relative = (str(tmp_path / name) for name in ("a.sock", "public", "b.sock"))
    unix_server(keep, path)
    unix_server(keep, "b.sock")
    os.symlink("a.sock", link)
    assert sockets.unix_of([os.getpid()])[os.getpid()] == (path, relative)
    for one in (path, link, relative):
        assert sockets.listens_at(one, os.getpid())
    with subprocess.Popen(["sleep", "10"]) as other:
        assert not sockets.listens_at(path, other.pid)
        other.kill()
    assert not sockets.listens_at(str(tmp_path / "c.sock"), os.getpid())
    unix_client(keep, relative)
    assert len(peers(sockets, relative)) == 1


def test_socket_of_another_user_is_not_taken_for_the_process_s_own(
    keep: ExitStack, sockets: KernelSockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that binds the name of a root's socket, in a file system of its own."""
    path, pid = str(tmp_path / "a.sock"), os.getpid()
    unix_server(keep, path)
    monkeypatch.setattr(procfs, "user_of", lambda pid: 33)
    assert sockets.unix_of([pid]) == {pid: ()}
    os.chown(path, 33, 33)
    assert sockets.unix_of([pid]) == {pid: (path,)}


def test_auto_takes_ports_before_unix_sockets_and_no_control_socket(keep: ExitStack, tmp_path: Path) -> None:
    path, pid = str(tmp_path / "a.sock"), os.getpid()
    for one in (path, str(tmp_path / "gunicorn.ctl")):
        unix_server(keep, one)
    auto, named = Policy("app"), Policy("app", sockets=SocketRule(auto=True))
    assert seen(KernelSockets(), auto, [pid]) == {pid: (unix(path),)}
    server = listen(keep, "127.0.0.1")
    assert seen(KernelSockets(), auto, [pid]) == {pid: (tcp(port_of(server)),)}
    assert seen(KernelSockets(), named, [pid]) == {pid: (unix(path),)}


# --- recorded answers

UPLOAD = bytes.fromhex(
    """
    020100001f40a1127f0000010000000000000000000000007f00000100000000000000000000000000000000d05b01000000000000000000
    04000000000000000000000037430f00050008000000000008000f00000000000c001500010000000000000006001600520000001c010200
    010000000007aa01e01c0300409c000000800000180200000000000000000000000000000000000000000000cc08000000000000fc000000
    d8060000ffff0000cbff00001000000008000000ffffff7f0a000000cbff00000300000000000000cbff000000000000009d96a00d000000
    ffffffffffffffff000000000000000004000000000000000400000006000000000000001000000004000000000000000000000000000000
    0000000000000000000000000000000000000000000000000100000000000000000000000000000000000000000000000000000000000000
    0000000000000100000001000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000
    """
)
"""What Linux 6.18 says of an upload of 4 bytes, half a second apart, to which nothing was answered: a struct
inet_diag_msg, four attributes that were not asked for, and struct tcp_info."""

INFO_AT = 108 + 4  # in UPLOAD, behind the header of its attribute


def told_of(body: bytes, monkeypatch: pytest.MonkeyPatch) -> sock_diag.TcpSocket:
    """The one socket of a dump that consists of this body."""
    answering(monkeypatch, FakeLink(message(20, body), DONE))
    (one,) = sock_diag.tcp_sockets((sock_diag.ESTABLISHED,), with_traffic=True)
    return one


def test_recorded_upload_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    one = told_of(UPLOAD, monkeypatch)
    assert (one.address, one.port, one.peer_address, one.peer_port) == ("127.0.0.1", 8000, "127.0.0.1", 41234)
    assert one.inode > 0
    assert (one.traffic.last, one.traffic.is_stuck) == ("received", False)
    assert (one.traffic.age, one.traffic.idle) == (2252, 252)


def test_short_tcp_info_gives_no_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    info = struct.pack("=HH", 4 + 104, 2) + UPLOAD[INFO_AT : INFO_AT + 104]  # struct tcp_info of Linux 3.10
    assert told_of(UPLOAD[:108] + info, monkeypatch).traffic == Traffic()
    assert told_of(UPLOAD[:108], monkeypatch).traffic == Traffic()


@given(st.binary(max_size=400))
@example(bytes(8))  # an attribute of length 0
def test_any_attributes_behind_the_answer_are_skipped(rest: bytes) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        one = told_of(UPLOAD[:72] + rest, monkeypatch)
    assert one.peer_port == 41234


@given(st.integers(0, 2), st.tuples(*[st.integers(0, 5000)] * 3), st.tuples(*[st.integers(0, 2)] * 2))
def test_idle_time_never_exceeds_the_age(retransmits: int, clocks: tuple[int, ...], segments: tuple[int, ...]) -> None:
    info = struct.pack("=xxB41xI4xII92xII", retransmits, *clocks, *segments)
    attribute = struct.pack("=HH", 4 + len(info), 2) + info
    with pytest.MonkeyPatch.context() as monkeypatch:
        traffic = told_of(UPLOAD[:108] + attribute, monkeypatch).traffic
    assert 0 <= traffic.idle <= traffic.age
    assert bool(traffic.last) == any(segments)
