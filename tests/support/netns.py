"""A network namespace of one's own: what a test or a demo does to ports and to the firewall stays in there.

A mount namespace as well, for the lock of iptables alone: the lock is a file of the host, and a test that holds it for
ten seconds must not keep the host's own firewall waiting.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path

CLONE_NEWNET = 0x40000000
CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 0x2
XTABLES_LOCK = "/run/xtables.lock"
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 0x1


class NoNamespaceError(Exception):
    """The kernel or the rights for a network namespace are missing."""


def enter_private_network() -> None:
    """Move this process (and what it will start) into a new network namespace with loopback up, and with a lock of
    iptables of its own.

    Raises NoNamespaceError, with what to do, where that cannot be done.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    require(libc.unshare(CLONE_NEWNET | CLONE_NEWNS))
    require(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    with tempfile.NamedTemporaryFile() as lock:  # it lives on under the other name
        os.close(os.open(XTABLES_LOCK, os.O_RDONLY | os.O_CREAT, 0o600))
        libc.umount2(XTABLES_LOCK.encode(), MNT_DETACH)  # that of a namespace around this one, if there is one
        require(libc.mount(lock.name.encode(), XTABLES_LOCK.encode(), None, MS_BIND, None))
    bring_up("lo")


def hide_tmp(keep: Iterable[Path]) -> None:
    """Give this process, which is in a mount namespace of its own, an empty /tmp; of the old one only these directories
    stay. What other programs left there then changes nothing, and nothing is left behind."""
    libc = ctypes.CDLL(None, use_errno=True)
    kept = {path: os.open(path, os.O_PATH) for path in keep if path.is_relative_to("/tmp")}
    require(libc.mount(b"none", b"/tmp", b"tmpfs", 0, b"mode=1777"))
    for path, handle in kept.items():
        path.mkdir(parents=True, exist_ok=True)
        require(libc.mount(f"/proc/self/fd/{handle}".encode(), os.fsencode(path), None, MS_BIND | MS_REC, None))
        os.close(handle)


def require(result: int) -> None:
    """Raise NoNamespaceError where a call to libc did not succeed."""
    if result != 0:
        reason = os.strerror(ctypes.get_errno())
        raise NoNamespaceError(
            f"cannot make a network namespace: {reason}. This needs root (sudo) and a kernel with CONFIG_NET_NS; in a "
            "chroot, the directory of the chroot has to be a mount point: mount --bind DIR DIR"
        )


def bring_up(interface: str) -> None:
    """Of this thread's network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH22x", interface.encode(), 0)
        flags = struct.unpack("16sH22x", fcntl.ioctl(control, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", interface.encode(), flags | IFF_UP))
