"""The backends that can close a port, by their names in rolling.yaml.

A backend's library is imported when its gate is made: a host needs only the library of the backend that it uses, and a
missing one is an error with a Fix instead of a listener that ends with a traceback.
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

    ``owner`` tells this supervisord from others (its host's name and its server URL): their rules are kept apart by it.
    ``clock`` gives CLOCK_MONOTONIC seconds. Raises GatePermissionError where the backend's library is missing, or
    ``auto`` finds that no backend can work; GateError where this cannot be found out now, or where there is no such
    backend: a rollout keeps its policy, which another version may have read.
    """
    if policy.backend not in BACKENDS:
        raise GateError(f"gate.backend: there is no backend {policy.backend!r}. Fix: use one of: {', '.join(BACKENDS)}")
    return BACKENDS[policy.backend](policy, owner, clock)


def _iptables(policy: GatePolicy, owner: str, clock: Clock) -> Gate:
    try:
        from supervisor_rolling.listener.gates.iptables import IptablesGate
    except Exception as error:  # without libxtables it raises AttributeError, OSError or errors of its own, too
        raise GatePermissionError(
            f"The iptables backend cannot be loaded ({type(error).__name__}: {error}). Fix: install the package "
            "`iptables` of your distribution (it brings libxtables and libip4tc), and python-iptables into the "
            "listener's environment: pip install python-iptables"
        ) from error
    return IptablesGate(policy, owner, clock)


def _nftables(policy: GatePolicy, owner: str, clock: Clock) -> Gate:
    from supervisor_rolling.listener.gates.nftables import NftablesGate

    return NftablesGate(policy, owner, clock)


def _auto(policy: GatePolicy, owner: str, clock: Clock) -> Gate:
    """iptables where it works, since it is the most tried; else nftables. An error that may pass (another program holds
    the lock) decides nothing: the next call tries again. ``method: redirect`` is for iptables alone."""
    try:
        gate = _iptables(policy, owner, clock)
        gate.check()
        return gate
    except GatePermissionError as error:
        if policy.method == "redirect":
            raise
        without_iptables = error
    try:
        gate = _nftables(policy, owner, clock)
        gate.check()
    except GatePermissionError as error:
        raise GatePermissionError(
            f"No backend can close ports on this host. iptables: {without_iptables}. nftables: {error}. One of them is "
            "enough"
        ) from error
    log.info("gate.backend auto: nftables, because iptables cannot be used: %s", without_iptables)
    return gate


def _haproxy(policy: GatePolicy, owner: str, clock: Clock) -> Gate:
    from supervisor_rolling.listener.gates.haproxy import HaproxyGate

    # Without the host's name: a new container has another one, and finds the state file by the URL.
    return HaproxyGate(policy, owner.partition(" ")[2] or owner, clock)


BACKENDS: dict[str, Callable[[GatePolicy, str, Clock], Gate]] = {
    "auto": _auto,
    "iptables": _iptables,
    "nftables": _nftables,
    "haproxy": _haproxy,
}
