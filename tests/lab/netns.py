"""A network namespace of one's own: what a test or a demo does to ports and to the firewall stays in there."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 0x1


class NoNamespaceError(Exception):
    """The kernel or the rights for a network namespace are missing."""


def enter_private_network() -> None:
    """Move this process (and what it will start) into a new network namespace with loopback up.

    Raises NoNamespaceError, with what to do, where that cannot be done.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise NoNamespaceError(
            f"cannot make a network namespace: {reason}. This needs root (sudo) and a kernel with CONFIG_NET_NS."
        )
    _bring_up("lo")


def _bring_up(interface: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH22x", interface.encode(), 0)
        flags = struct.unpack("16sH22x", fcntl.ioctl(control, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", interface.encode(), flags | IFF_UP))
