"""How the other end of a connection is written: by everybody alike, because what one saw is compared with another's."""

from __future__ import annotations


def peer_of(address: str, port: int) -> str:
    """``10.0.0.1:4711``, ``[::1]:4711``."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
