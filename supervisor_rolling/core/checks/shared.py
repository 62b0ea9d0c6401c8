"""Findings about processes that share their socket: what a rollout of these cannot promise by itself."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor_rolling.core.policy import WarmupPolicy
from supervisor_rolling.core.preflight_report import Finding


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
