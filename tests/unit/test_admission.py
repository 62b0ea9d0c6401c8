"""What refuses a rollout before anything is touched."""

from __future__ import annotations

import pytest

from supervisor_rolling.core.admission import check_gate
from supervisor_rolling.core.endpoint import TCP, Endpoint, tcp
from supervisor_rolling.core.errors import ConfigError
from supervisor_rolling.core.policy import GatePolicy, Policy, PortRule
from supervisor_rolling.core.rollout import Member, Rollout

UNIX = frozenset({"unix"})


def a_rollout(*members: Member) -> Rollout:
    return Rollout(1, "app", Policy("app", PortRule()), members, 1, GatePolicy("path"))


def test_gate_that_cannot_close_an_endpoint_is_refused() -> None:
    rollout = a_rollout(*(Member(f"app-{n}", (tcp(8000 + n),)) for n in range(1, 6)))
    with pytest.raises(ConfigError) as caught:
        check_gate(rollout, UNIX)
    assert str(caught.value) == (
        "the gate (path) cannot close port 8001 of app:app-1, port 8002 of app:app-2, port 8003 of app:app-3 and 2 more: "
        "requests would fail while these processes restart. Fix: set gate.backend in rolling.yaml to one that can close "
        "them"
    )


@pytest.mark.parametrize(
    ("endpoints", "selected", "closes"),
    [
        ((tcp(8001),), True, frozenset({TCP, "unix"})),
        ((tcp(8001),), False, UNIX),
        ((), True, UNIX),
        ((tcp(8001),), True, None),
    ],
    ids=["it closes them", "not selected", "nothing to close", "no gate yet"],
)
def test_gate_is_accepted(endpoints: tuple[Endpoint, ...], selected: bool, closes: frozenset[str] | None) -> None:
    check_gate(a_rollout(Member("app-1", endpoints, selected=selected)), closes)
