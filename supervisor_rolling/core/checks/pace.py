"""Findings in the pace of a group, against the pressure that the processors are under now."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor_rolling.core.policy import Policy
from supervisor_rolling.core.preflight_report import Finding


def findings(policy: Policy, pressure: float | None) -> Iterator[Finding]:
    """What is wrong with it. ``pressure``: in percent; None: the kernel does not tell."""
    pace, where = policy.pace, f"groups.{policy.group}.pace"
    if not pace.cpu_pressure:
        return
    if pressure is None:
        yield Finding(
            "pace.unreadable",
            where,
            "the pressure of the CPU cannot be read from /proc/pressure/cpu, so that a rollout goes as without a pace",
            "boot the kernel with psi=1 (it needs CONFIG_PSI), let the listener see the file, or take the pace out",
        )
    elif pressure >= pace.cpu_pressure:
        yield Finding(
            "pace.pressure",
            where,
            f"the pressure of the CPU is {pressure:.0f}% now, before a process has left; at {pace.cpu_pressure:g}% and "
            f"above each leaves only after the patience of {pace.patience:g} s",
            "say a cpu_pressure above what is usual here (`some` in /proc/pressure/cpu), or rollout when less is going on",
        )
