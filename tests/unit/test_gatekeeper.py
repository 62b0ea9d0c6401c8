"""One gate at a time: what it holds, what it knows, and when another takes its place."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

import pytest

from supervisor_rolling.core.connections import Connections
from supervisor_rolling.core.endpoint import TCP, Endpoint, endpoints_text, tcp
from supervisor_rolling.core.errors import GateBusyError, GateError, PartlyClosedError
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.core.preflight_report import Finding
from supervisor_rolling.listener.gate_probe import ProbedPorts
from supervisor_rolling.listener.gatekeeper import Gatekeeper
from supervisor_rolling.listener.gates.path import PathGate

NO_PATHS = PathGate("tests", time.monotonic)
"""No unix socket is ever closed by it here."""

CLOSED = {tcp(8000): "app", tcp(8001): "app"}


class Gate:
    """Says of each port since when it is closed."""

    name = description = "gate"
    closes = frozenset({TCP})

    def __init__(self) -> None:
        self.since = {tcp(8000): 1.0, tcp(8001): 1.0}
        self.held: list[Endpoint] = []

    def hold(self, closed: Mapping[Endpoint, str], drained: Collection[Endpoint] = ()) -> Mapping[Endpoint, float]:
        self.held = list(closed)
        return {port: self.since[port] for port in closed}

    def inspect(self, endpoints: Mapping[Endpoint, str]) -> list[Finding]:
        return []

    def check(self) -> None:
        """It works."""


class CountingGate(Gate):
    """Knows what is left, unless it has a problem."""

    problem = ""

    def in_flight(self, found: Mapping[Endpoint, Connections]) -> Mapping[Endpoint, int]:
        if self.problem:
            raise GateError(self.problem)
        return dict.fromkeys(found, 7)

    def bypassed(self, found: Mapping[Endpoint, Connections]) -> frozenset[Endpoint]:
        if self.problem:
            raise GateError(self.problem)
        return frozenset(found)


POOL = {tcp(8000): Connections(frozenset({"10.0.0.1:1", "10.0.0.1:2"}))}


def test_only_a_counting_gate_reports_what_is_left() -> None:
    gates = {"iptables": Gate(), "haproxy": CountingGate()}
    keeper = Gatekeeper(lambda policy: gates[policy.backend], NO_PATHS, ProbedPorts(lambda: None))
    assert keeper.in_flight(POOL) is None, "there is no gate yet"
    keeper.verify(GatePolicy("iptables"))
    assert keeper.in_flight(POOL) is None
    assert keeper.bypassed(POOL) == frozenset()
    keeper.verify(GatePolicy("haproxy"))
    assert keeper.in_flight(POOL) == {tcp(8000): 7}
    assert keeper.bypassed(POOL) == {tcp(8000)}


def test_failed_counting_gate_leaves_all_kernel_connections() -> None:
    gate = CountingGate()
    keeper = Gatekeeper(lambda policy: gate, NO_PATHS, ProbedPorts(lambda: None))
    keeper.verify(GatePolicy())
    keeper.hold(CLOSED)
    gate.problem = "HAProxy does not run"
    assert keeper.in_flight(POOL) == {tcp(8000): 2}
    assert (keeper.problem, keeper.closed_since) == ("HAProxy does not run", gate.since)


def test_new_gate_elsewhere_releases_the_first() -> None:
    gates = {name: Gate() for name in ("app", "web")}
    keeper = Gatekeeper(lambda policy: gates[policy.backend_name], NO_PATHS, ProbedPorts(lambda: None))
    for name in ("app", "web"):
        keeper.hold_by(GatePolicy("haproxy", socket="/s", backend_name=name), CLOSED)
    assert gates["app"].held == []
    assert gates["web"].held == list(CLOSED)


def test_restored_rule_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    keeper = Gatekeeper(lambda policy: gate, NO_PATHS, ProbedPorts(lambda: None))
    keeper.verify(GatePolicy())
    keeper.hold(CLOSED)
    keeper.renew()
    assert caplog.messages == [], "it is the first time, and nothing has changed"
    gate.since[tcp(8001)] = 7.0
    for _ in range(3):
        keeper.renew()
    assert caplog.messages == [
        "port 8001: the firewall rule was missing and has been restored "
        "(another program removed it, its lease expired, or HAProxy was reloaded)"
    ]


def test_deliberately_opened_port_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    keeper = Gatekeeper(lambda policy: gate, NO_PATHS, ProbedPorts(lambda: None))
    keeper.verify(GatePolicy())
    keeper.hold(CLOSED)
    keeper.hold({tcp(8000): "app"})
    gate.since[tcp(8001)] = 9.0
    keeper.hold(CLOSED)
    assert caplog.messages == []


def test_new_gate_forgets_since_when_ports_are_closed(caplog: pytest.LogCaptureFixture) -> None:
    gates = iter([Gate(), Gate()])
    keeper = Gatekeeper(lambda policy: next(gates), NO_PATHS, ProbedPorts(lambda: None))
    keeper.verify(GatePolicy())
    keeper.hold(CLOSED)
    second = Gate()
    second.since = {tcp(8000): 9.0, tcp(8001): 9.0}
    gates = iter([second])
    keeper.verify(GatePolicy(lease=60))
    assert caplog.messages == []


class OtherGate(Gate):
    """Of another backend."""


@pytest.mark.parametrize(("other", "left"), [(Gate, [tcp(8000), tcp(8001)]), (OtherGate, [])])
def test_only_another_backend_releases_the_old_ports(other: type[Gate], left: list[Endpoint]) -> None:
    old = Gate()
    gates = {"iptables": old, "auto": other()}
    keeper = Gatekeeper(lambda policy: gates[policy.backend], NO_PATHS, ProbedPorts(lambda: None))
    keeper.hold_by(GatePolicy("iptables"), CLOSED)
    keeper.hold_by(GatePolicy("auto"), CLOSED)
    assert (old.held, gates["auto"].held) == (left, [tcp(8000), tcp(8001)])


# --- another policy


class FailingGate(OtherGate):
    """Closes nothing while it has a problem; of some ports nothing at all."""

    def __init__(self) -> None:
        super().__init__()
        self.problem = "no such socket"
        self.lacks: list[Endpoint] = []

    def hold(self, closed: Mapping[Endpoint, str], drained: Collection[Endpoint] = ()) -> Mapping[Endpoint, float]:
        if self.problem:
            raise GateError(self.problem)
        found = super().hold({port: text for port, text in closed.items() if port not in self.lacks})
        if len(found) < len(closed):
            raise PartlyClosedError(f"no server has {endpoints_text(self.lacks)}", found)
        return found

    def check(self) -> None:
        if self.problem:
            raise GateError(self.problem)


@pytest.fixture
def good() -> Gate:
    return Gate()


@pytest.fixture
def bad() -> FailingGate:
    return FailingGate()


@pytest.fixture
def keeper(good: Gate, bad: FailingGate) -> Gatekeeper:
    """That holds with a good gate; the other policy has a bad one."""
    found = Gatekeeper(
        lambda policy: {"iptables": good, "haproxy": bad}[policy.backend], NO_PATHS, ProbedPorts(lambda: None)
    )
    found.hold_by(GatePolicy("iptables"), CLOSED)
    return found


def test_a_policy_that_cannot_work_opens_nothing(keeper: Gatekeeper, good: Gate, bad: FailingGate) -> None:
    with pytest.raises(GateError, match="no such socket"):
        keeper.verify(GatePolicy("haproxy"))
    for _ in range(2):
        keeper.hold_by(GatePolicy("haproxy"), {tcp(8000): "app"})
        assert (good.held, keeper.closed_since, keeper.problem) == ([tcp(8000)], {tcp(8000): 1.0}, "no such socket")
        keeper.renew()
        assert keeper.problem == "no such socket"
    bad.problem = ""
    keeper.hold_by(GatePolicy("haproxy"), CLOSED)
    assert (good.held, bad.held, keeper.problem) == ([], [tcp(8000), tcp(8001)], "")


def test_policy_closing_only_some_ports_is_not_used(keeper: Gatekeeper, good: Gate, bad: FailingGate) -> None:
    bad.problem, bad.lacks = "", [tcp(8001)]
    with pytest.raises(GateError, match="no server has"):
        keeper.verify(GatePolicy("haproxy"))
    keeper.hold_by(GatePolicy("haproxy"), CLOSED)
    assert good.held == [tcp(8000), tcp(8001)]
    assert bad.held == [], "what it closed is opened: the first holds it"


def test_failed_new_gate_keeps_the_old_one_holding(keeper: Gatekeeper) -> None:
    def refuse(policy: GatePolicy) -> Gate:
        raise GateError("install libnftables")

    keeper._make_gate = refuse
    keeper.hold_by(GatePolicy("nftables"), {tcp(8001): "app"})
    assert (dict(keeper.closed_since), keeper.problem) == ({tcp(8001): 1.0}, "install libnftables")


def test_restored_policy_clears_the_problem(keeper: Gatekeeper, caplog: pytest.LogCaptureFixture) -> None:
    keeper.hold_by(GatePolicy("haproxy"), CLOSED)
    assert keeper.problem == "no such socket"
    caplog.clear()
    with caplog.at_level("INFO"):
        for _ in range(2):
            keeper.hold_by(GatePolicy("iptables"), CLOSED)
    assert (keeper.problem, caplog.messages) == ("", ["the gate works again"])


def test_what_is_wrong_is_logged_once(keeper: Gatekeeper, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        keeper.renew()
        keeper.hold_by(GatePolicy("haproxy"), CLOSED)
    assert caplog.messages == ["the gate could not close or open all ports: no such socket"]


def test_gate_is_asked_to_release_until_it_does(good: Gate, bad: FailingGate) -> None:
    keeper = Gatekeeper(
        lambda policy: {"iptables": good, "haproxy": bad}[policy.backend], NO_PATHS, ProbedPorts(lambda: None)
    )
    bad.problem = ""
    keeper.hold_by(GatePolicy("haproxy"), CLOSED)
    bad.problem = "HAProxy did not answer"
    keeper.hold_by(GatePolicy("iptables"), CLOSED)
    assert (good.held, keeper.problem) == ([tcp(8000), tcp(8001)], "HAProxy did not answer")
    bad.problem = ""
    keeper.renew()
    assert (bad.held, keeper.problem) == ([], "")


def test_partly_held_gate_knows_the_closed_ports(bad: FailingGate) -> None:
    keeper = Gatekeeper(lambda policy: bad, NO_PATHS, ProbedPorts(lambda: None))
    bad.problem, bad.lacks = "", [tcp(8001)]
    keeper.hold_by(GatePolicy("haproxy"), CLOSED)
    assert (dict(keeper.closed_since), keeper.problem) == ({tcp(8000): 1.0}, "no server has port 8001")


class BusyGate(Gate):
    """Changes nothing while another program holds a lock."""

    is_locked = True

    def hold(self, closed: Mapping[Endpoint, str], drained: Collection[Endpoint] = ()) -> Mapping[Endpoint, float]:
        if self.is_locked and list(closed) != self.held:
            raise GateBusyError("the lock is held", {port: self.since[port] for port in self.held})
        return super().hold(closed)


def test_locked_gate_is_busy_and_keeps_closed_ports() -> None:
    gate = BusyGate()
    gate.held = [tcp(8000)]
    keeper = Gatekeeper(lambda policy: gate, NO_PATHS, ProbedPorts(lambda: None))
    keeper.hold_by(GatePolicy(), CLOSED)
    assert (keeper.is_busy, keeper.closed_since, keeper.problem) == (True, {tcp(8000): 1.0}, "the lock is held")
    keeper.renew()
    assert keeper.is_busy
    gate.is_locked = False
    keeper.renew()
    assert (keeper.is_busy, list(keeper.closed_since), keeper.problem) == (False, [tcp(8000), tcp(8001)], "")


def test_renew_opens_port_after_lock_is_free() -> None:
    gate = BusyGate()
    gate.held = list(CLOSED)
    keeper = Gatekeeper(lambda policy: gate, NO_PATHS, ProbedPorts(lambda: None))
    keeper.hold_by(GatePolicy(), CLOSED)
    keeper.hold({})
    assert keeper.is_busy
    gate.is_locked = False
    keeper.renew()
    assert (keeper.is_busy, gate.held) == (False, [])
