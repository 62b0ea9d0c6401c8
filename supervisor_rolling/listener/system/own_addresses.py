"""Whether an address is one of this host."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

_ANY_PORT = 9  # nothing is sent to it


def is_own(address: str) -> bool:
    """Whether this host has an address: whether the kernel takes it as the source of packets to it.

    To bind a socket to it would prove nothing: where ``net.ipv4.ip_nonlocal_bind`` is set, as for keepalived, any
    address can be bound. All of 127.0.0.0/8 is the host's own, with 127.0.0.1 as the source to all of it. Where IPv6 is
    off, as in most containers, the host lacks even ::1.
    """
    with contextlib.suppress(ValueError, OSError):
        version = ipaddress.ip_address(address).version
        with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect((address, _ANY_PORT))
            return address.startswith("127.") or bool(probe.getsockname()[0] == address)
    return False
