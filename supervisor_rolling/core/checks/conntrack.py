"""Findings in the kernel's connection tracking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.core.preflight_report import Finding

FULL = 0.9
"""Share of the table. When it is full the kernel drops every new connection without an answer."""


@dataclass(frozen=True)
class Conntrack:
    """The table. Nothing is tracked in a network namespace before a rule asks for it: then ``count`` is 0."""

    count: int  # connections that are tracked
    most: int  # for how many there is room

    def __str__(self) -> str:
        return f"connection tracking on, {self.count} of {self.most}" if self.count else "connection tracking off"


def findings(found: Conntrack, gate: GatePolicy) -> Iterator[Finding]:
    """What is wrong with it for a rollout with this gate."""
    if found.count >= FULL * found.most:
        yield Finding(
            "conntrack.full",
            "net.netfilter.nf_conntrack_max",
            f"{found.count} of {found.most} connections are tracked: when the table is full, new connections are "
            "dropped without an answer, also those of warm-ups",
            f"sysctl -w net.netfilter.nf_conntrack_max={2 * found.most}",
        )
    if gate.method == "redirect" and not found.count:
        yield Finding(
            "conntrack.idle",
            "gate.method",
            "is redirect, a nat rule: the first port that it closes turns connection tracking on for all traffic of "
            "this host, and nothing else here needs that",
            "set gate.method: reject",
        )
