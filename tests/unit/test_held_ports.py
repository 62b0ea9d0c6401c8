"""Which process keeps another one from listening, and how often that is asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.core.port_use import Holder
from supervisor_rolling.core.process import Process
from supervisor_rolling.listener.held_ports import ASK_EVERY, HeldPorts
from supervisor_rolling.listener.kernel_sockets import KernelSockets
from tests.support.background import AtOnce

ORPHAN = Holder((41,), "python3", "app:app-1")
HELD = "port 8001 is held by process 41 (python3), left by an earlier app:app-1. Fix: kill 41"
DOWN = {"app-1": (Process("app-1", "BACKOFF"), (8001,)), "app-2": (Process("app-2", "BACKOFF"), (8002,))}


class Kernel(KernelSockets):
    """Answers from ``holders``."""

    def __init__(self) -> None:
        self.holders: dict[int, Holder] = {8001: ORPHAN}
        self.asked: list[list[int]] = []
        self.is_blind = False

    def holders_of(self, ports: Collection[int]) -> Mapping[int, Holder]:
        self.asked.append(list(ports))
        if self.is_blind:
            raise SocketsError("the kernel did not answer")
        return {port: self.holders[port] for port in ports if port in self.holders}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_holder_is_named_and_asked_for_seldom() -> None:
    kernel, clock = Kernel(), Clock()
    held = HeldPorts(kernel, AtOnce(), clock)
    assert [held.of("app", DOWN) for _ in range(3)] == [{"app-1": HELD}] * 3
    assert kernel.asked == [[8001, 8002]]
    clock.now += ASK_EVERY
    kernel.holders.clear()
    assert held.of("app", DOWN) == {}
    assert len(kernel.asked) == 2


def test_holder_is_asked_for_anew_when_the_state_changes() -> None:
    kernel = Kernel()
    held = HeldPorts(kernel, AtOnce(), Clock())
    held.of("app", DOWN)
    assert held.of("app", {"app-1": (Process("app-1", "FATAL"), (8001,))}) == {"app-1": HELD}
    assert kernel.asked[1:] == [[8001]]


def test_answer_of_another_state_counts_while_it_is_asked_for_anew() -> None:
    kernel, clock, background = Kernel(), Clock(), AtOnce()
    held = HeldPorts(kernel, background, clock)
    held.of("app", DOWN)
    background.run = lambda key, call: None  # type: ignore[method-assign]
    given_up = {"app-1": (Process("app-1", "FATAL"), (8001,))}
    assert held.of("app", given_up) == {"app-1": HELD}
    clock.now += ASK_EVERY
    assert held.of("app", given_up) == {}, "that is too old"


def test_answer_that_took_long_holds_longer() -> None:
    kernel, clock = Kernel(), Clock()

    def slow(ports: Collection[int]) -> Mapping[int, Holder]:
        clock.now += 1.0
        return Kernel.holders_of(kernel, ports)

    kernel.holders_of = slow  # type: ignore[method-assign]
    held = HeldPorts(kernel, AtOnce(), clock)
    for _ in range(3):
        assert held.of("app", DOWN) == {"app-1": HELD}
        clock.now += 99.0 / 2
    assert len(kernel.asked) == 1
    clock.now += 1.0
    held.of("app", DOWN)
    assert len(kernel.asked) == 2


def test_nothing_is_asked_where_none_is_down() -> None:
    kernel = Kernel()
    assert HeldPorts(kernel, AtOnce(), Clock()).of("app", {}) == {}
    assert kernel.asked == []


def test_no_holder_is_named_where_it_cannot_be_seen() -> None:
    kernel = Kernel()
    kernel.is_blind = True
    assert HeldPorts(kernel, AtOnce(), Clock()).of("app", DOWN) == {}


def test_connections_accepted_by_an_earlier_process_keep_nothing_down() -> None:
    kernel = Kernel()
    kernel.holders[8001] = Holder((41,), "python3", "app:app-1", peer="127.0.0.1:50000")
    assert HeldPorts(kernel, AtOnce(), Clock()).of("app", DOWN) == {}
