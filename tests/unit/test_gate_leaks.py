"""Who came through a closed gate, and who was there before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor_rolling.core.gate_leaks import GateLeaks

NAME = "app-1"
PEERS = st.frozensets(st.sampled_from(["10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:1", "[::1]:9"]))


def find(leaks: GateLeaks, *peers: str, at: float = 11.0, since: float = 10.0) -> dict[str, str]:
    return leaks.find({NAME: frozenset(peers)}, {NAME: since}, at)


def test_those_that_are_there_at_the_first_look_behind_the_gate_are_no_leak() -> None:
    leaks = GateLeaks()
    assert find(leaks, "10.0.0.1:1", "10.0.0.1:2") == {}
    assert find(leaks, "10.0.0.1:1", at=12.0) == {}


def test_a_newcomer_behind_a_closed_gate_is_a_leak_for_as_long_as_it_is_there() -> None:
    leaks = GateLeaks()
    assert find(leaks, "10.0.0.1:1") == {}
    assert find(leaks, "10.0.0.1:1", "10.0.0.2:7", at=12.0) == {NAME: "10.0.0.2:7"}
    assert find(leaks, "10.0.0.2:7", at=13.0) == {NAME: "10.0.0.2:7"}
    assert find(leaks, "10.0.0.1:1", at=14.0) == {}


def test_where_nobody_was_before_the_first_newcomer_is_a_leak() -> None:
    leaks = GateLeaks()
    assert find(leaks) == {}
    assert find(leaks, "10.0.0.2:7", at=12.0) == {NAME: "10.0.0.2:7"}


def test_of_several_newcomers_always_the_same_one_is_told() -> None:
    leaks = GateLeaks()
    find(leaks)
    assert find(leaks, "10.0.0.3:1", "10.0.0.2:7", "10.0.0.9:1", at=12.0) == {NAME: "10.0.0.2:7"}


def test_a_look_that_began_before_the_gate_closed_counts_for_nothing() -> None:
    leaks = GateLeaks()
    assert find(leaks, "10.0.0.1:1", at=9.9) == {}
    assert find(leaks, "10.0.0.1:1", "10.0.0.2:7", at=11.0) == {}  # the first behind the gate


def test_a_look_at_the_moment_of_closing_is_behind_the_gate() -> None:
    leaks = GateLeaks()
    assert find(leaks, at=10.0) == {}
    assert find(leaks, "10.0.0.2:7", at=11.0) == {NAME: "10.0.0.2:7"}


def test_a_gate_that_closes_anew_begins_anew() -> None:
    leaks = GateLeaks()
    assert find(leaks, "10.0.0.1:1") == {}
    assert find(leaks, "10.0.0.2:7", at=21.0, since=20.0) == {}
    assert find(leaks, "10.0.0.2:7", "10.0.0.3:1", at=22.0, since=20.0) == {NAME: "10.0.0.3:1"}


def test_a_process_whose_gate_is_open_has_no_leak() -> None:
    leaks = GateLeaks()
    find(leaks)
    assert leaks.find({NAME: frozenset({"10.0.0.2:7"})}, {}, 12.0) == {}
    assert find(leaks, "10.0.0.2:7", since=float("inf"), at=13.0) == {}


def test_what_was_forgotten_meanwhile_is_seen_for_the_first_time() -> None:
    leaks = GateLeaks()
    find(leaks)
    assert leaks.find({}, {}, 11.5) == {}
    assert find(leaks, "10.0.0.2:7", at=12.0) == {}


def test_processes_are_told_apart() -> None:
    leaks = GateLeaks()
    both = {"app-1": 10.0, "app-2": 10.0}
    leaks.find({"app-1": frozenset({"a"}), "app-2": frozenset({"b"})}, both, 11.0)
    found = leaks.find({"app-1": frozenset({"a"}), "app-2": frozenset({"a"})}, both, 12.0)
    assert found == {"app-2": "a"}


@given(PEERS, st.lists(PEERS, max_size=6))
def test_a_leak_is_told_at_a_look_exactly_when_somebody_is_there_who_was_not_at_the_first(
    first: frozenset[str], later: list[frozenset[str]]
) -> None:
    leaks = GateLeaks()
    assert find(leaks, *first) == {}
    for number, peers in enumerate(later):
        assert bool(find(leaks, *peers, at=12.0 + number)) == bool(peers - first)
