"""min_ready_seconds: why a process waits after its port is open again, and what that costs a rollout."""

from __future__ import annotations

import math

from supervisor_rolling.core.policy import Policy

UNKNOWN = "the load balancer's configuration cannot be read"


def is_min_ready_known(policy: Policy) -> bool:
    """Whether ``min_ready_seconds`` is set in rolling.yaml or was read: else the load balancer may send nothing for
    longer."""
    return not policy.min_ready_auto or policy.min_ready_read


def min_ready_texts(min_ready_seconds: float, why: str, total: int, canary: int, limit: int) -> tuple[str, str]:
    """What each process waits for after it opens, and how to save that. ``why``: nginx's parameters, as
    ``nginx.min_ready_why`` tells them, or the place in another configuration; empty where they are not known."""
    is_nginx = why.startswith("max_fails")
    by = "nginx" if is_nginx else "the load balancer"
    reason = f"{by} sends nothing to a port for so long after it refused a connection ({why})" if why else UNKNOWN
    fix = (
        "set max_fails=0 at each server of the upstream"
        if is_nginx
        else "lower that time in its configuration"
        if why
        else "name it in rolling.yaml with balancer: {nginx: FILE}, or set min_ready_seconds: 0 if the load balancer "
        "sends requests at once to a port that is open again"
    )
    alone = min(canary, total)
    saved = min_ready_seconds * (alone + math.ceil((total - alone) / max(1, limit)))
    return (
        f"each process waits {min_ready_seconds:g} s after it opens (min_ready_seconds: auto), because {reason}",
        f"{fix}: saves {'' if why else 'up to '}{min_ready_seconds:g} s for each process, {saved:.0f} s for the whole "
        "rollout",
    )
