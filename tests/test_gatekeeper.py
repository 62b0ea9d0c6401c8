"""What the log says of a gate that somebody else opens."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from supervisor_rolling.errors import GateError
from supervisor_rolling.in_listener.gatekeeper import Gatekeeper
from supervisor_rolling.model import Connections, GatePolicy

CLOSED = {8000: "app", 8001: "app"}


class Gate:
    """Says of each port since when it is closed."""

    def __init__(self) -> None:
        self.since = {8000: 1.0, 8001: 1.0}
        self.held: list[int] = []

    def hold(self, closed: Mapping[int, str]) -> Mapping[int, float]:
        self.held = list(closed)
        return {port: self.since[port] for port in closed}

    def check(self) -> None:
        """It works."""


class CountingGate(Gate):
    """Knows what is left, unless it has a problem."""

    problem = ""

    def left(self, found: Mapping[int, Connections]) -> Mapping[int, int]:
        if self.problem:
            raise GateError(self.problem)
        return dict.fromkeys(found, 7)


POOL = {8000: Connections(frozenset({"10.0.0.1:1", "10.0.0.1:2"}))}


def test_a_gate_that_counts_says_how_much_is_left_and_others_leave_it_to_the_kernel() -> None:
    gates = {"iptables": Gate(), "haproxy": CountingGate()}
    keeper = Gatekeeper(lambda policy: gates[policy.backend])
    assert keeper.left(POOL) is None, "there is no gate yet"
    keeper.prove(GatePolicy("iptables"))
    assert keeper.left(POOL) is None
    keeper.prove(GatePolicy("haproxy"))
    assert keeper.left(POOL) == {8000: 7}


def test_while_a_gate_that_counts_cannot_tell_all_that_the_kernel_found_is_left() -> None:
    gate = CountingGate()
    keeper = Gatekeeper(lambda policy: gate)
    keeper.prove(GatePolicy())
    keeper.hold(CLOSED)
    gate.problem = "HAProxy does not run"
    assert keeper.left(POOL) == {8000: 2}
    assert (keeper.problem, keeper.closed_since) == ("HAProxy does not run", gate.since)


def test_a_gate_in_another_place_lets_go_of_the_first() -> None:
    gates = {name: Gate() for name in ("app", "web")}
    keeper = Gatekeeper(lambda policy: gates[policy.backend_name])
    for name in ("app", "web"):
        keeper.hold_by(GatePolicy("haproxy", socket="/s", backend_name=name), CLOSED)
    assert gates["app"].held == []
    assert gates["web"].held == list(CLOSED)


def test_a_port_that_is_found_open_and_closed_again_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    keeper = Gatekeeper(lambda policy: gate)
    keeper.prove(GatePolicy())
    keeper.hold(CLOSED)
    keeper.renew()
    assert caplog.messages == [], "it is the first time, and nothing has changed"
    gate.since[8001] = 7.0
    for _ in range(3):
        keeper.renew()
    assert caplog.messages == [
        "found open and closed again: port 8001 "
        "(somebody removed the rule, its lease was over, or HAProxy was reloaded)"
    ]


def test_a_port_that_was_opened_on_purpose_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    keeper = Gatekeeper(lambda policy: gate)
    keeper.prove(GatePolicy())
    keeper.hold(CLOSED)
    keeper.hold({8000: "app"})
    gate.since[8001] = 9.0
    keeper.hold(CLOSED)
    assert caplog.messages == []


def test_a_new_gate_does_not_know_since_when_what_it_finds_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    gates = iter([Gate(), Gate()])
    keeper = Gatekeeper(lambda policy: next(gates))
    keeper.prove(GatePolicy())
    keeper.hold(CLOSED)
    second = Gate()
    second.since = {8000: 9.0, 8001: 9.0}
    gates = iter([second])
    keeper.prove(GatePolicy(lease=60))
    assert caplog.messages == []


class OtherGate(Gate):
    """Of another backend."""


@pytest.mark.parametrize(("other", "left"), [(Gate, [8000, 8001]), (OtherGate, [])])
def test_only_another_backend_lets_go_of_what_the_old_one_holds(other: type[Gate], left: list[int]) -> None:
    old = Gate()
    gates = {"iptables": old, "auto": other()}
    keeper = Gatekeeper(lambda policy: gates[policy.backend])
    keeper.hold_by(GatePolicy("iptables"), CLOSED)
    keeper.hold_by(GatePolicy("auto"), CLOSED)
    assert (old.held, gates["auto"].held) == (left, [8000, 8001])
