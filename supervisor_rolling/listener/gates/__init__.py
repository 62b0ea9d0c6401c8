"""The backends that can close a port, by their names in rolling.yaml.

A backend's library is imported when its gate is made: a host needs only the library of the backend that it uses, and a
missing one is an error with a Fix instead of a listener that ends with a traceback.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable

from supervisor_rolling.core.errors import GateError, GatePermissionError
from supervisor_rolling.core.gate_choice import preferred_backend
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.listener.contracts import Gate
from supervisor_rolling.listener.system.libnftables import Nftables

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
    """The gate that fits the host's firewall (``preferred_backend``), or else the other one. An error that may pass
    (another program holds the lock) decides nothing: the next call tries again. ``method: redirect`` is for iptables
    alone."""
    if policy.method == "redirect":
        return _iptables(policy, owner, clock)
    choice = preferred_backend(importlib.util.find_spec("iptc") is not None, _nft_tables(), _legacy_tables())
    errors: dict[str, GatePermissionError] = {}
    for backend in (choice.backend, *({"iptables", "nftables"} - {choice.backend})):
        try:
            gate = BACKENDS[backend](policy, owner, clock)
            gate.check()
        except GatePermissionError as error:
            errors[backend] = error
            continue
        why = f"{choice.backend} cannot be used: {errors[choice.backend]}" if errors else choice.why
        gate.description += f"; gate.backend: auto has chosen it because {why}"
        log.info("gate.backend auto: %s, because %s", backend, why)
        return gate
    raise GatePermissionError(
        f"No backend can close ports on this host. iptables: {errors['iptables']}. nftables: {errors['nftables']}. One "
        "of them is enough"
    )


def _nft_tables() -> list[tuple[str, str]]:
    """The family and name of each table of nftables; none where they cannot be listed."""
    try:
        found = Nftables().run("list tables")
    except GateError:  # without rights, without nftables, or a library that has no JSON
        return []
    return [(one["table"]["family"], one["table"]["name"]) for one in found if "table" in one]


def _legacy_tables() -> list[str]:
    """The tables of legacy xtables that exist in this network namespace, both address families."""
    names: list[str] = []
    for family in ("ip", "ip6"):
        with contextlib.suppress(OSError), open(f"/proc/net/{family}_tables_names", encoding="utf-8") as tables:
            names += tables.read().split()
    return names


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
