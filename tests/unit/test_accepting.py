"""Whether a process accepts on its socket, of real processes that wait for connections in different ways."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from supervisor_rolling.listener.kernel_sockets import KernelSockets
from supervisor_rolling.listener.system import accepting
from tests.support.waiting import stays, wait_until

BOOT = "import os, select, socket, time; server = socket.socket(fileno=0); "
WAYS = {
    "accept": "server.accept()",
    "select": "select.select([server], [], [])",
    "poll": "p = select.poll(); p.register(server); p.poll()",
    "epoll": "p = select.epoll(); p.register(server); time.sleep(60)",
    "a thread": "import threading; threading.Thread(target=server.accept).start(); time.sleep(60)",
    "a child": "os.fork() or server.accept(); time.sleep(60)",
}
NOT_YET = "time.sleep(60)"
OTHERS = {
    "boots": NOT_YET,
    "waits for another": "other = socket.create_server(('127.0.0.1', 0)); select.select([other], [], [], 60)",
}


@contextlib.contextmanager
def a_process(code: str, server: socket.socket) -> Iterator[int]:
    """It inherits the socket, as the processes of an [fcgi-program] do."""
    process = subprocess.Popen([sys.executable, "-c", BOOT + code], stdin=server.fileno(), start_new_session=True)
    try:
        yield process.pid
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["tcp", "unix"])
@pytest.mark.parametrize("way", WAYS)
def test_process_that_waits_for_connections_is_seen(way: str, family: socket.AddressFamily) -> None:
    with socket.socket(family) as server:
        server.bind(("127.0.0.1", 0) if family is socket.AF_INET else "\0accepting" + str(os.getpid()))
        server.listen()
        with a_process(WAYS[way], server) as pid:
            wait_until(lambda: KernelSockets().accepts(pid), "it accepts")


@pytest.mark.parametrize("code", OTHERS.values(), ids=OTHERS)
def test_process_that_only_has_the_socket_is_not(code: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, a_process(code, server) as pid:
        assert stays(lambda: not KernelSockets().accepts(pid), 0.5)


def test_process_that_is_gone_does_not_accept() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert not accepting.accepts([process.pid], {1})
    assert not KernelSockets().accepts(process.pid)
