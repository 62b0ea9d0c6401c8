"""What ``gate.backend: auto`` prefers: the whole table of cases."""

from __future__ import annotations

import pytest

from supervisor_rolling.core.gate_choice import preferred_backend

OURS = [("inet", "supervisor-rolling-1f2e3d4c"), ("inet", "supervisor-rolling-keepalive-1f2e3d4c")]


@pytest.mark.parametrize(
    ("has_iptables", "nft_tables", "legacy_tables", "backend", "why"),
    [
        (True, [], [], "iptables", "the host has no other firewall"),
        (True, OURS, [], "iptables", "the host has no other firewall"),
        (True, [("ip", "filter"), *OURS], [], "nftables", "the host has an nft firewall: table ip filter"),
        (
            True,
            [("inet", "f2b"), ("ip", "nat")],
            [],
            "nftables",
            "the host has an nft firewall: table inet f2b, ip nat",
        ),
        (True, [], ["filter", "filter"], "iptables", "the host uses legacy iptables: table filter"),
        (True, [("ip", "nat")], ["nat", "filter"], "iptables", "the host uses legacy iptables: table filter, nat"),
        (False, [], [], "nftables", "python-iptables is not installed"),
        (False, [("ip", "nat")], ["filter"], "nftables", "python-iptables is not installed"),
    ],
)
def test_backend_that_fits_the_host_is_preferred(
    has_iptables: bool, nft_tables: list[tuple[str, str]], legacy_tables: list[str], backend: str, why: str
) -> None:
    assert preferred_backend(has_iptables, nft_tables, legacy_tables) == (backend, why)
