"""The backends that can close a port, by the name that the YAML gives them.

A backend's library is imported when its gate is made and not before: nobody needs the library of a backend that he does
not use, and one that is missing is said to the operator instead of ending the listener with a traceback.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from supervisor_rolling.core.errors import GateError, GatePermissionError
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.listener.contracts import Gate

log = logging.getLogger("supervisor_rolling")

Clock = Callable[[], float]


def make_gate(policy: GatePolicy, owner: str, clock: Clock) -> Gate:
    """The gate that the policy asks for.

    ``owner`` tells this supervisord from others (its host's name and its server URL): rules are kept apart by it.
    ``clock`` gives CLOCK_MONOTONIC seconds. Raises GatePermissionError where the backend's library is missing; ``auto``
    where no backend can ever work as things are, and GateError where that could not be found out this time, or where
    there is no such backend: a rollout goes on by the policy that it began with, which another version may have read.
    """
    if policy.backend not in BACKENDS:
        raise GateError(f"gate.backend: there is no backend {policy.backend!r}; use one of: {', '.join(BACKENDS)}")
    return BACKENDS[policy.backend](policy, owner, clock)


def _iptables(policy: GatePolicy, owner: str, clock: Clock) -> Gate:
    try:
        from supervisor_rolling.listener.gates.iptables import IptablesGate
    except Exception as error:  # without libxtables it dies of AttributeError, OSError or errors of its own, too
        raise GatePermissionError(
            f"The iptables backend cannot be loaded ({type(error).__name__}: {error}). Install the package `iptables` "
            "of your distribution (it brings libxtables and libip4tc), and python-iptables into the listener's "
            "environment: pip install python-iptables"
        ) from error
    return IptablesGate(policy, owner, clock)


def _nftables(policy: GatePolicy, owner: str, clock: Clock) -> Gate:
    from supervisor_rolling.listener.gates.nftables import NftablesGate

    return NftablesGate(policy, owner, clock)


def _auto(policy: GatePolicy, owner: str, clock: Clock) -> Gate:
    """iptables where it works, as it has been tried for longest; else nftables. What fails this time only (a lock that
    somebody holds) decides nothing: the next call tries again. ``method: redirect`` is a rule of iptables alone."""
    try:
        return _proven(_iptables(policy, owner, clock))
    except GatePermissionError as error:
        if policy.method == "redirect":
            raise
        without_iptables = error
    try:
        gate = _proven(_nftables(policy, owner, clock))
    except GatePermissionError as error:
        raise GatePermissionError(
            f"No backend can close ports here. iptables: {without_iptables} nftables: {error}. One of them is enough."
        ) from error
    log.info("gate.backend auto: nftables, because iptables cannot be used here: %s", without_iptables)
    return gate


def _proven(gate: Gate) -> Gate:
    gate.check()
    return gate


def _haproxy(policy: GatePolicy, owner: str, clock: Clock) -> Gate:
    from supervisor_rolling.listener.gates.haproxy import HaproxyGate

    # Without the host's name: a container that is made anew has another, and finds its record by the URL all the same.
    return HaproxyGate(policy, owner.partition(" ")[2] or owner, clock)


BACKENDS: dict[str, Callable[[GatePolicy, str, Clock], Gate]] = {
    "auto": _auto,
    "iptables": _iptables,
    "nftables": _nftables,
    "haproxy": _haproxy,
}
