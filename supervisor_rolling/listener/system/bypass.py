"""How the listener's own connections pass a closed gate: by a mark of the socket, or by their source address."""

from __future__ import annotations

from supervisor_rolling.listener.system.own_addresses import is_own

SO_MARK = 36  # <asm-generic/socket.h>; Python's socket module does not have it
V4_LOOPBACK, V6_LOOPBACK = "127.0.0.1", "::1"


def reached_at(addresses: tuple[str, ...], bypass: str) -> str:
    """The address to ask, of those that it listens on; empty where none can be asked. IPv4 first: ``bypass: address``
    has no other."""
    address = min(addresses, key=lambda a: (":" in a, a))
    if address == "0.0.0.0":
        return V4_LOOPBACK
    if address == "::":  # mostly it takes both
        return V6_LOOPBACK if bypass != "address" and is_own(V6_LOOPBACK) else V4_LOOPBACK
    return "" if ":" in address and bypass == "address" else address
