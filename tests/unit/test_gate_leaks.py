"""Which connections came through a closed gate, and which were there before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor_rolling.core.gate_leaks import GateLeaks

NAME = "app-1"
PEERS = st.frozensets(st.sampled_from(["10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:1", "[::1]:9"]))


def find(leaks: GateLeaks, *peers: str, at: float = 11.0, since: float = 10.0) -> dict[str, str]:
    return leaks.find({NAME: frozenset(peers)}, {NAME: since}, at)


def test_first_connections_are_no_leak() -> None:
    leaks = GateLeaks()
    assert find(leaks, "10.0.0.1:1", "10.0.0.1:2") == {}
    assert find(leaks, "10.0.0.1:1", at=12.0) == {}


def test_newcomer_is_a_leak_while_connected() -> None:
    leaks = GateLeaks()
    assert find(leaks, "10.0.0.1:1") == {}
    assert find(leaks, "10.0.0.1:1", "10.0.0.2:7", at=12.0) == {NAME: "10.0.0.2:7"}
    assert find(leaks, "10.0.0.2:7", at=13.0) == {NAME: "10.0.0.2:7"}
    assert find(leaks, "10.0.0.1:1", at=14.0) == {}


def test_first_newcomer_is_a_leak() -> None:
    leaks = GateLeaks()
    assert find(leaks) == {}
    assert find(leaks, "10.0.0.2:7", at=12.0) == {NAME: "10.0.0.2:7"}


def test_same_newcomer_is_named_each_time() -> None:
    leaks = GateLeaks()
    find(leaks)
    assert find(leaks, "10.0.0.3:1", "10.0.0.2:7", "10.0.0.9:1", at=12.0) == {NAME: "10.0.0.2:7"}


def test_look_before_closing_is_ignored() -> None:
    leaks = GateLeaks()
    assert find(leaks, "10.0.0.1:1", at=9.9) == {}
    assert find(leaks, "10.0.0.1:1", "10.0.0.2:7", at=11.0) == {}  # the first behind the gate


def test_look_at_closing_is_behind_gate() -> None:
    leaks = GateLeaks()
    assert find(leaks, at=10.0) == {}
    assert find(leaks, "10.0.0.2:7", at=11.0) == {NAME: "10.0.0.2:7"}


def test_closing_anew_forgets_connections() -> None:
    leaks = GateLeaks()
    assert find(leaks, "10.0.0.1:1") == {}
    assert find(leaks, "10.0.0.2:7", at=21.0, since=20.0) == {}
    assert find(leaks, "10.0.0.2:7", "10.0.0.3:1", at=22.0, since=20.0) == {NAME: "10.0.0.3:1"}


def test_open_gate_has_no_leak() -> None:
    leaks = GateLeaks()
    find(leaks)
    assert leaks.find({NAME: frozenset({"10.0.0.2:7"})}, {}, 12.0) == {}
    assert find(leaks, "10.0.0.2:7", since=float("inf"), at=13.0) == {}


def test_forgotten_connections_are_first_again() -> None:
    leaks = GateLeaks()
    find(leaks)
    assert leaks.find({}, {}, 11.5) == {}
    assert find(leaks, "10.0.0.2:7", at=12.0) == {}


def test_processes_are_separate() -> None:
    leaks = GateLeaks()
    both = {"app-1": 10.0, "app-2": 10.0}
    leaks.find({"app-1": frozenset({"a"}), "app-2": frozenset({"b"})}, both, 11.0)
    found = leaks.find({"app-1": frozenset({"a"}), "app-2": frozenset({"a"})}, both, 12.0)
    assert found == {"app-2": "a"}


@given(PEERS, st.lists(PEERS, max_size=6))
def test_leak_is_any_connection_not_seen_first(first: frozenset[str], later: list[frozenset[str]]) -> None:
    leaks = GateLeaks()
    assert find(leaks, *first) == {}
    for number, peers in enumerate(later):
        assert bool(find(leaks, *peers, at=12.0 + number)) == bool(peers - first)
