"""Findings about processes that share their socket: what a rollout of these cannot promise by itself."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor_rolling.core.policy import WarmupPolicy
from supervisor_rolling.core.preflight_report import Finding, Severity


def reuseport(group: str, port: int, migrates: bool | None) -> Iterator[Finding]:
    """``port``: on which each process has a socket of its own (SO_REUSEPORT); ``migrates``: the kernel hands what waits
    at a socket that is closed to another one of the port; None: it cannot."""
    if migrates:
        return
    sysctl = "sysctl -w net.ipv4.tcp_migrate_req=1, and a file in /etc/sysctl.d"
    yield Finding(
        "ports.reuseport",
        group,
        f"each process has a socket of its own on port {port} (SO_REUSEPORT), and the kernel resets the connections "
        "that wait at a socket when its process closes it: requests fail",
        f"{sysctl if migrates is False else 'Linux 5.14 or later'}; or one socket for all, by an [fcgi-program]",
        Severity.ERROR,
    )


def findings(group: str, warmup: WarmupPolicy, warms_itself: bool) -> Iterator[Finding]:
    """``warms_itself``: a process of the group says that it warmed itself up, before it accepted connections."""
    if warms_itself:
        return
    is_unsent = (warmup.requests or warmup.ready.path) and not warmup.socket
    unsent = "; the requests of warmup are not sent" if is_unsent else ""
    yield Finding(
        "warmup.shared",
        group,
        f"the processes share their socket, so a new one gets requests as soon as it accepts, warm or not{unsent}",
        "warm up inside the process (supervisor_rolling.wsgi.warmed, supervisor_rolling.asgi.Warmed), or accept it",
    )
