"""Which addresses are this host's own, also where a socket can be bound to any."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor_rolling.listener.system.own_addresses import is_own
from tests.support.hosts import Host

BIND_TO_ANY = [Path(f"/proc/sys/net/{family}/ip_nonlocal_bind") for family in ("ipv4", "ipv6")]
"""Of the tests' network namespace."""

NOT_OWN = ["192.0.2.7", "2001:db8::7", "0.0.0.0", "-", "", "localhost"]


@pytest.fixture
def _bind_to_any() -> Iterator[None]:
    """As keepalived's hosts have it."""
    before = [switch.read_text() for switch in BIND_TO_ANY]
    for switch in BIND_TO_ANY:
        switch.write_text("1")
    yield
    for switch, value in zip(BIND_TO_ANY, before):
        switch.write_text(value)


def assert_own_alone(host: Host) -> None:
    own = ["127.0.0.1", "127.0.0.3", "::1", host.home.v4, host.home.v6]
    assert [address for address in [*own, host.away.v4, host.away.v6, *NOT_OWN] if is_own(address)] == own


def test_address_of_this_host_is_own() -> None:
    with Host() as host:
        assert_own_alone(host)


@pytest.mark.usefixtures("_bind_to_any")
def test_merely_bindable_address_is_not_own() -> None:
    with Host() as host:
        for family, address in ((socket.AF_INET, host.away.v4), (socket.AF_INET6, host.away.v6)):
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind((address, 0))
        assert_own_alone(host)
