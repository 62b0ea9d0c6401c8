"""Telling a process over HTTP that it drains: real servers, real sockets, and a real closed gate."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest

from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.jobs import NotificationJob, NotificationStatus
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.listener import drain_notification
from supervisor_rolling.listener.drain_notification import HttpNotifications
from supervisor_rolling.listener.gates import make_gate
from supervisor_rolling.listener.kernel_sockets import KernelSockets
from tests.support.waiting import poll

NAME = "app:app-1"
DEADLINE = 10.0


class Server:
    """Takes connections and writes down what it is sent and by whom; answers when it may."""

    def __init__(self, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listening = socket.create_server((address, 0), family=family)
        self.port: int = self._listening.getsockname()[1]
        self.observed: list[tuple[str, bytes]] = []
        self.answer: bytes = b"HTTP/1.1 204 No Content\r\n\r\n"
        self.may_answer = threading.Event()
        self.may_answer.set()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self.may_answer.set()
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                one, peer = self._listening.accept()
            except OSError:
                return
            with one:
                self.observed.append(
                    (f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}", one.recv(4096))
                )
                self.may_answer.wait(DEADLINE)
                one.sendall(self.answer)


def a_job(port: int, **changes: Any) -> NotificationJob:
    values = {"pid": 1, "request": "POST /drain", "headers": {"Host": "example.org"}, "bypass": "mark", **changes}
    return NotificationJob(endpoints=(tcp(port),), **values)


def given(own: HttpNotifications, job: NotificationJob) -> NotificationStatus:
    return own.give("app", {NAME: job})[NAME]


def listening(keep: ExitStack, address: str = "127.0.0.1") -> Server:
    server = Server(address)
    keep.callback(server.close)
    return server


@pytest.mark.parametrize(("address", "bypass"), [("127.0.0.1", "mark"), ("::1", "mark"), ("127.0.0.1", "address")])
def test_one_request_passes_the_closed_gate(keep: ExitStack, address: str, bypass: str) -> None:
    server, own = listening(keep, address), HttpNotifications(KernelSockets())
    gate = make_gate(GatePolicy(lease=30.0, bypass=bypass), "unix:///drain_notification.sock", time.monotonic)
    keep.callback(gate.hold, {})
    gate.hold({tcp(server.port): "a test"})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, server.port), DEADLINE)
    server.may_answer.clear()
    job = a_job(server.port, bypass=bypass)
    poll(lambda: given(own, job) and server.observed, bool)
    assert not given(own, job).is_over
    assert own.peers() == {server.observed[0][0]}
    assert KernelSockets().connections([tcp(server.port)])[tcp(server.port)].peers == own.peers()
    server.may_answer.set()
    poll(lambda: given(own, job), lambda notice: notice.is_over)
    for _ in range(5):
        given(own, job)
    assert len(server.observed) == 1
    first, *headers = server.observed[0][1].split(b"\r\n")
    assert first == b"POST /drain HTTP/1.1"
    assert b"Host: example.org" in headers


def test_new_drain_or_process_gets_a_new_request(keep: ExitStack) -> None:
    server, own = listening(keep), HttpNotifications(KernelSockets())
    poll(lambda: given(own, a_job(server.port)), lambda notice: notice.is_over)
    own.give("app", {})
    poll(lambda: given(own, a_job(server.port)), lambda notice: notice.is_over)
    poll(lambda: given(own, a_job(server.port, pid=2)), lambda notice: notice.is_over)
    assert len(server.observed) == 3


def test_failed_request_is_logged_and_not_repeated(keep: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    server, own = listening(keep), HttpNotifications(KernelSockets())
    server.answer = b""
    job = a_job(server.port)
    poll(lambda: given(own, job), lambda notice: notice.is_over)
    assert len(server.observed) == 1
    assert f"{NAME}: drains without the notification POST /drain (drain.request): " in caplog.text


def test_without_a_listener_it_is_over_at_once(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    own = HttpNotifications(KernelSockets())
    poll(lambda: given(own, a_job(port)), lambda notice: notice.is_over)
    assert f"port {port} cannot be reached (it listens on: nothing)" in caplog.text


def test_hanging_process_is_not_awaited(keep: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_notification, "TIMEOUT", 0.3)
    server, rung = listening(keep), threading.Event()
    server.may_answer.clear()
    own = HttpNotifications(KernelSockets(), rung.set)
    began = time.monotonic()
    poll(lambda: given(own, a_job(server.port)), lambda notice: notice.is_over)
    assert time.monotonic() - began < 3.0
    assert rung.wait(DEADLINE)
