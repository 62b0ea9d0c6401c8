"""What ``gate.backend: auto`` prefers, by what is on the host: one tool should show all rules of its firewall."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from supervisor_rolling.core.text import listed

OUR_TABLES = "supervisor-rolling-"
"""What the names of our own tables in nftables begin with."""


class GateChoice(NamedTuple):
    """The backend to try first, and why: words that follow ``because``."""

    backend: str
    why: str


def preferred_backend(
    has_iptables: bool, nft_tables: Collection[tuple[str, str]], legacy_tables: Collection[str]
) -> GateChoice:
    """``has_iptables``: python-iptables can be imported. ``nft_tables``: the family and name of each table of nftables;
    those of iptables-nft are among them. ``legacy_tables``: the tables of legacy xtables that exist."""
    if not has_iptables:
        return GateChoice("nftables", "python-iptables is not installed")
    if legacy_tables:
        return GateChoice("iptables", f"the host uses legacy iptables: table {listed(sorted(set(legacy_tables)))}")
    others = [f"{family} {name}" for family, name in nft_tables if not name.startswith(OUR_TABLES)]
    if others:
        return GateChoice("nftables", f"the host has an nft firewall: table {listed(others)}")
    return GateChoice("iptables", "the host has no other firewall")
