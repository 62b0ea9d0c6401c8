"""The trial of a gate, with the real gates and with such as do not do what they should."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from typing import TypeVar, cast

import pytest

from supervisor_rolling.core.endpoint import Endpoint, tcp
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.listener.contracts import NO_ANSWER, ConnectResults, Look
from supervisor_rolling.listener.gate_probe import ProbedPorts, RealGateProbes
from supervisor_rolling.listener.gatekeeper import Gatekeeper
from supervisor_rolling.listener.gates import make_gate
from supervisor_rolling.listener.gates.path import PathGate
from tests.support.look import closed_ports, rules
from tests.support.stack import ROOT

NO_PATHS = PathGate("tests", time.monotonic)
"""No unix socket is ever closed by it here."""

T = TypeVar("T")
LOOPBACKS = {"127.0.0.1", "::1"}


@pytest.fixture
def make_keeper() -> Iterator[Callable[..., Gatekeeper]]:
    made: list[Gatekeeper] = []

    def make_keeper(**policy: str) -> Gatekeeper:
        keeper = Gatekeeper(
            lambda policy: make_gate(policy, "lab", time.monotonic), NO_PATHS, ProbedPorts(lambda: None)
        )
        keeper.verify(GatePolicy(**policy))  # type: ignore[arg-type]
        keeper.hold({})
        made.append(keeper)
        return keeper

    yield make_keeper
    for keeper in made:
        keeper.hold({})


def in_the_loop(keeper: Gatekeeper, call: Callable[[], T]) -> T:
    """What a call in another thread returns, while this one is the listener's loop."""
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    while thread.is_alive():
        keeper.renew()
        thread.join(0.001)
    return found[0]


def probed(keeper: Gatekeeper, addresses: Collection[str], bypass: str) -> Sequence[str]:
    return in_the_loop(keeper, lambda: RealGateProbes().probe_gate(keeper._spare_ports.closed, addresses, bypass))


@pytest.mark.parametrize(
    "policy",
    [
        {"backend": "iptables"},
        {"backend": "iptables", "bypass": "address"},
        {"backend": "iptables", "method": "redirect"},
        {"backend": "nftables"},
        {"backend": "nftables", "bypass": "address"},
    ],
)
def test_a_gate_that_works_passes_and_leaves_nothing(
    make_keeper: Callable[..., Gatekeeper], policy: dict[str, str]
) -> None:
    keeper = make_keeper(**policy)
    assert probed(keeper, LOOPBACKS, policy.get("bypass", "mark")) == []
    assert rules() == []


def test_probe_keeps_closed_ports_closed(make_keeper: Callable[..., Gatekeeper]) -> None:
    keeper = make_keeper(backend="iptables")
    keeper.hold({tcp(8000): "app"})
    since = dict(keeper.closed_since)
    look = cast("Look", closed_ports)
    assert in_the_loop(keeper, lambda: keeper._spare_ports.closed(tcp(8001), look)) == {"8000", "8001"}
    assert (closed_ports(), dict(keeper.closed_since)) == ({"8000"}, since)


def test_earlier_accept_rule_for_loopback_is_found(make_keeper: Callable[..., Gatekeeper]) -> None:
    keeper = make_keeper(backend="iptables")
    keeper.hold({tcp(8000): "app"})
    foreign = ["INPUT", "-i", "lo", "-j", "ACCEPT"]
    subprocess.run(["iptables-legacy", "-I", *foreign], check=True)
    try:
        found = probed(keeper, LOOPBACKS, "mark")
    finally:
        subprocess.run(["iptables-legacy", "-D", *foreign], check=True)
    assert found == ["lets new connections to 127.0.0.1 through"]


def test_bypass_unknown_to_the_gate_is_found(make_keeper: Callable[..., Gatekeeper]) -> None:
    keeper = make_keeper(backend="iptables", bypass="address")
    found = probed(keeper, LOOPBACKS, "mark")
    assert [text.partition(" (")[0] for text in found] == [
        "refuses a warm-up to 127.0.0.1",
        "refuses a warm-up to ::1",
    ]


def test_gate_that_stays_closed_is_found() -> None:
    keeper = Gatekeeper(lambda policy: make_gate(policy, "lab", time.monotonic), NO_PATHS, ProbedPorts(lambda: None))
    keeper.verify(GatePolicy("iptables"))
    keeper.hold({})

    def stuck(endpoint: Endpoint, look: Look) -> tuple[ConnectResults, ConnectResults]:
        keeper.hold({endpoint: "stays"})
        return look()

    found = RealGateProbes().probe_gate(stuck, {"127.0.0.1"}, "mark")
    keeper.hold({})
    assert found == [f"does not open {address} again: ECONNREFUSED" for address in ("127.0.0.1", "::1")]


def test_dropped_connections_cost_one_second_together() -> None:
    drop = ["INPUT", "-p", "tcp", "--dport", "9000:9009", "-j", "DROP"]
    subprocess.run(["iptables-legacy", "-I", *drop], check=True)
    try:
        began = time.monotonic()
        found = RealGateProbes().connect([("127.0.0.1", port) for port in range(9000, 9010)])
        took = time.monotonic() - began
    finally:
        subprocess.run(["iptables-legacy", "-D", *drop], check=True)
    assert set(found.values()) == {NO_ANSWER}
    assert took < 2.0


def test_probe_reaches_more_processes_than_its_limit() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as keep:
        listener = keep.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1000))
        targets = [(f"127.0.0.{n}", listener.getsockname()[1]) for n in range(1, 201)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (150, before[1]))
        keep.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        found = RealGateProbes().connect(targets)
    assert [why for why in found.values() if why not in ("", "ECONNREFUSED")] == []
    assert len(found) == 200


def test_nothing_is_tracked_in_a_new_network_namespace() -> None:
    program = "from supervisor_rolling.listener.gate_probe import RealGateProbes; print(RealGateProbes().conntrack())"
    command = ["unshare", "-n", sys.executable, "-c", program]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == (
        "connection tracking off\n"
    )


# --- the port of the metrics


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("[::1]", socket.AF_INET6)])
def test_port_of_another_program_is_found(host: str, family: socket.AddressFamily) -> None:
    program = "one = socket.create_server((sys.argv[1], 9181), family=int(sys.argv[2])); print(1, flush=True)"
    command = [
        sys.executable,
        "-c",
        f"import socket, sys; {program}; sys.stdin.read()",
        host.strip("[]"),
        str(int(family)),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()
        assert RealGateProbes().metrics(f"{host}:9181") == (
            f"{host}:9181 cannot be listened on: Address already in use",
            "name another address, or see which process has it: ss -ltnp sport = :9181",
        )
        other.stdin.close()
    assert RealGateProbes().metrics(f"{host}:9181") == ("", "")


def test_metrics_port_of_this_listener_is_fine() -> None:
    with socket.create_server(("127.0.0.1", 9181)):
        assert RealGateProbes().metrics("127.0.0.1:9181") == ("", "")


def test_metrics_address_of_another_host_is_found() -> None:
    why, _ = RealGateProbes().metrics("192.0.2.1:9181")
    assert why == "192.0.2.1:9181 cannot be listened on: Cannot assign requested address"


def test_missing_library_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert RealGateProbes().metrics("127.0.0.1:9181") == (
        "prometheus_client is missing",
        "pip install prometheus_client (Debian: python3-prometheus-client) for the listener's Python",
    )
