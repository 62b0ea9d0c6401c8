"""Findings in the kernel's connection tracking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.core.preflight_report import Finding

FULL = 0.9
"""Of the table. Beyond the whole the kernel drops every new connection without a word."""


@dataclass(frozen=True)
class Conntrack:
    """``count``: connections that are tracked; ``most``: for how many there is room. Nothing is tracked in a network
    namespace before a rule asks for it: then ``count`` is 0."""

    count: int
    most: int

    def __str__(self) -> str:
        return f"connection tracking on, {self.count} of {self.most}" if self.count else "connection tracking off"


def findings(found: Conntrack, gate: GatePolicy) -> Iterator[Finding]:
    """What is wrong with it for a rollout with this gate."""
    if found.count >= FULL * found.most:
        yield Finding(
            "conntrack.full",
            "net.netfilter.nf_conntrack_max",
            f"{found.count} of {found.most} connections are tracked: when the table is full, new connections are "
            "dropped in silence, warm-ups among them",
            f"raise it: sysctl -w net.netfilter.nf_conntrack_max={2 * found.most}",
        )
    if gate.method == "redirect" and not found.count:
        yield Finding(
            "conntrack.idle",
            "gate.method",
            "is redirect, a rule of nat: the first port that it closes turns connection tracking on for all traffic of "
            "this host, which nothing here needs",
            "say method: reject",
        )
