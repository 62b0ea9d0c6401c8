"""Which ports a process has, by its name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor_rolling.core.policy import PROXIES, PortRule
from supervisor_rolling.core.port_use import Holder, PortUse
from supervisor_rolling.core.ports import foreign, foreign_text, held_text, may_hold, overlap, ports_for


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("app-8000", (8000,)),
        ("app-08000", (8000,)),
        ("app-65535", (65535,)),
        ("app-65536", ()),
        ("app-0", ()),
        ("app-" + "9" * 5000, ()),
        ("app-٣", ()),
        ("xapp-8000", ()),
        ("app-8000x", ()),
        ("app-8000\n", ()),
    ],
)
def test_regex_gives_port_of_matching_name(name: str, expected: tuple[int, ...]) -> None:
    assert ports_for(PortRule(pattern=r"app-(\d+)"), name) == expected


def test_regex_without_number_gives_no_port() -> None:
    assert ports_for(PortRule(pattern=r"app(-\d+)?"), "app") == ()
    assert ports_for(PortRule(pattern=r"app(-\d+)?"), "app-1") == ()
    assert ports_for(PortRule(pattern=r"app-(.*)"), "app-x") == ()


def test_map_gives_ports_and_auto_none() -> None:
    rule = PortRule(by_name={"a": (1, 2)})
    assert ports_for(rule, "a") == (1, 2)
    assert ports_for(rule, "b") == ()
    assert ports_for(PortRule(auto=True), "a") == ()


# --- which other process has a port

OWN = "app:app-1"
ORPHAN, SIBLING = Holder((41,), "python3", OWN), Holder((42,), "python3", "app:app-2")
FOREIGN, PROXY = Holder((43, 44), "node"), Holder((45,), "docker-proxy")
HERE = ("127.0.0.1",)


@pytest.mark.parametrize(
    ("use", "found"),
    [
        (PortUse(HERE, HERE), None),
        (PortUse(HERE, None), None),  # /proc does not show its own sockets
        (PortUse(HERE), None),  # the holder cannot be seen
        (PortUse(HERE, (), (FOREIGN,)), FOREIGN),
        (PortUse(HERE, HERE, (FOREIGN,)), FOREIGN),
        (PortUse(HERE, HERE, (ORPHAN,)), ORPHAN),
        (PortUse(HERE, HERE, (SIBLING,)), None),  # the group shares the port
        (PortUse(HERE, HERE, (SIBLING, ORPHAN)), ORPHAN),
        (PortUse(HERE, (), (SIBLING,)), SIBLING),
        (PortUse(HERE, (), (PROXY,)), None),
        (PortUse(HERE, (), (PROXY, FOREIGN)), FOREIGN),
    ],
)
def test_foreign_process_on_a_port(use: PortUse, found: Holder | None) -> None:
    assert foreign(use, OWN, PROXIES) == found


def test_outgoing_connection_on_port_names_fix() -> None:
    client = Holder((41,), "curl", peer="10.0.0.5:443")
    assert held_text(40001, client, OWN) == (
        "port 40001 is taken by an outgoing connection to 10.0.0.5:443 of process 41 (curl). Fix: kill 41, and add "
        "40001 to the sysctl net.ipv4.ip_local_reserved_ports"
    )
    assert may_hold(client, OWN)
    assert not may_hold(replace(client, started=OWN), OWN), "it may have accepted that one"
    assert may_hold(ORPHAN, OWN)


def test_foreign_process_is_named_with_its_fix() -> None:
    assert foreign_text(80, PortUse(HERE, HERE), OWN) == ""
    left = foreign_text(80, PortUse(HERE, (), (ORPHAN,)), OWN)
    assert left == "port 80 is held by process 41 (python3), left by an earlier app:app-1. Fix: kill 41"
    beside = foreign_text(80, PortUse(HERE, HERE, (FOREIGN,)), OWN)
    assert beside == "port 80 is held by processes 43, 44 (node) beside it (SO_REUSEPORT). Fix: kill 43 44"
    other = foreign_text(80, PortUse(HERE, (), (SIBLING,)), OWN)
    assert other == (
        "port 80 is held by process 42 (python3), started as app:app-2. Fix: supervisorctl stop app:app-2, or kill 42, "
        "or name python3 in warmup.proxies if it listens for app:app-1"
    )


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("::", "127.0.0.1", True),
        ("::1", "::", True),
        ("::1", "0.0.0.0", False),
        ("127.0.0.1", "127.0.0.2", False),
        ("::1", "127.0.0.1", False),
    ],
)
def test_addresses_that_overlap(one: str, other: str, expected: bool) -> None:
    assert overlap(one, other) == overlap(other, one) == expected
