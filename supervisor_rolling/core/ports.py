"""Which TCP ports or unix sockets a process has, by its name, and which other processes hold a port."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable

from supervisor_rolling.core.endpoint import Endpoint, tcp, unix
from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.core.policy import MAX_PORT, Policy, PortRule
from supervisor_rolling.core.port_use import Holder, PortUse


def endpoints_for(policy: Policy, process_name: str) -> tuple[Endpoint, ...]:
    """The endpoints that the policy gives to a process; none where it does not say, as ``auto`` never does."""
    rule = policy.sockets
    if not rule.is_used:
        return tuple(map(tcp, ports_for(policy.ports, process_name)))
    path = rule.by_name.get(process_name) or rule.template.replace("{name}", process_name)
    return (unix(path),) if path else ()


def ports_for(rule: PortRule, process_name: str) -> tuple[int, ...]:
    """The ports of a process (its name without the group), none where the rule does not say, as ``auto`` never does."""
    if not rule.pattern:
        return tuple(rule.by_name.get(process_name, ()))
    match = re.fullmatch(rule.pattern, process_name)
    return _port(match.group(1) or "") if match else ()


def _port(digits: str) -> tuple[int, ...]:
    if not re.fullmatch("[0-9]{1,10}", digits):
        return ()
    port = int(digits)
    return (port,) if 1 <= port <= MAX_PORT else ()


def holder_text(port: int, holder: Holder, own: str) -> str:
    """What listens on a port in place of the process ``own`` (``group:process``)."""
    number = "process" if len(holder.pids) == 1 else "processes"
    started = f", started as {holder.started}" if holder.started else ""
    left = f", left by an earlier {own}" if holder.started == own else started
    held = f"taken by an outgoing connection to {holder.peer} of" if holder.peer else "held by"
    return f"port {port} is {held} {number} {', '.join(map(str, holder.pids))} ({holder.name}){left}"


def may_hold(holder: Holder, own: str) -> bool:
    """Whether it keeps ``own`` from listening. Connections that an earlier ``own`` has accepted do not."""
    return not holder.peer or holder.started != own


def free_port_fix(port: int, holder: Holder, own: str) -> str:
    """What frees the port."""
    kill = f"kill {' '.join(map(str, holder.pids))}"
    if holder.peer:
        return f"{kill}, and add {port} to the sysctl net.ipv4.ip_local_reserved_ports"
    return kill if holder.started in ("", own) else f"supervisorctl stop {holder.started}, or {kill}"


def proxy_fix(holder: Holder, own: str) -> str:
    """What to do where the holder is right, because it listens for ``own``."""
    return f", or name {holder.name} in warmup.proxies if it listens for {own}"


def held_text(port: int, holder: Holder, own: str) -> str:
    """What holds the port of ``own``, and what to do about it."""
    return f"{holder_text(port, holder, own)}. Fix: {free_port_fix(port, holder, own)}"


SHARED_FIX = "write ports: shared, or give each process a port of its own"


def are_shared(sockets: Iterable[Collection[object]]) -> bool:
    """Whether a socket, a port or a path, is among those of more than one process. ``sockets``: those of each."""
    return any(number > 1 for number in Counter(one for own in sockets for one in set(own)).values())


def shared_text(port: str, names: Collection[str]) -> str:
    """Which processes share a port (SO_REUSEPORT, or the socket of an ``[fcgi-program]``), and why that is an error.
    ``port``: such as ``port 8000``."""
    named = " and ".join(sorted(names, key=natural)[:3])
    return f"{named} all listen on {port}: a gate that closes it for one closes it for all"


def overlap(one: str, other: str) -> bool:
    """Whether a connection to one of these addresses may reach a socket that listens at the other. One that listens at
    ``::`` takes IPv4 as well, as a rule."""
    return one == other or _takes(one, other) or _takes(other, one)


def _takes(wildcard: str, address: str) -> bool:
    return wildcard == "::" or (wildcard == "0.0.0.0" and ":" not in address)


def foreign(use: PortUse, own: str, proxies: Collection[str] = ()) -> Holder | None:
    """The process that answers on a port in place of the process ``own`` (``group:process``) or beside it; None where
    there is none. ``proxies``: names of programs that may listen for it. Other processes of the group may share the
    port with it (SO_REUSEPORT), but not hold it alone."""
    group, _, _ = own.partition(":")
    members = [one for one in use.others if one.started != own and one.started.startswith(f"{group}:")]
    allowed = members if use.own else []
    return next((one for one in use.others if one.name not in proxies and one not in allowed), None)


def foreign_text(port: int, use: PortUse, own: str, proxies: Collection[str] = ()) -> str:
    """Which other process answers on the port, in place of ``own`` or beside it, and what to do; empty: none."""
    holder = foreign(use, own, proxies)
    if holder is None:
        return ""
    if use.own:
        return f"{holder_text(port, holder, own)} beside it (SO_REUSEPORT). Fix: {free_port_fix(port, holder, own)}"
    return held_text(port, holder, own) + ("" if holder.started == own else proxy_fix(holder, own))
