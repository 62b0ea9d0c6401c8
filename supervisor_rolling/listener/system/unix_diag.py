"""Lists unix sockets by the name that a server has bound, over NETLINK_SOCK_DIAG. /proc/net/unix has them, too, but any
user can forge a line of it: names in it may hold line breaks.

An accepted connection has its server's name. One that waits to be accepted is not listed itself: the listening socket
names the client's end of it, as an accepted one does, so that a connection is the same before and after.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import NamedTuple

from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.listener.system.sock_diag import SOCK_DIAG_BY_FAMILY, InterruptedDumpError, attribute, dump

_ESTABLISHED, _LISTEN = 1, 10
_SHOW_NAME, _SHOW_VFS, _SHOW_PEER, _SHOW_ICONS = 0x1, 0x2, 0x4, 0x8
_NAME, _VFS, _PEER, _ICONS = 0, 1, 2, 3  # the attributes UNIX_DIAG_*
_REQUEST = struct.Struct("=BBHIII8s")  # struct unix_diag_req: family, protocol, states, inode, what to show, cookie
_ANSWER = struct.Struct("=BBBxI8x")  # struct unix_diag_msg: family, type, state, inode
_NUMBER = struct.Struct("=I")
_ATTEMPTS = 5  # at a dump that the kernel calls inconsistent


class UnixSocket(NamedTuple):
    """A stream socket of a server: one that listens, or its end of a connection."""

    name: str  # that the server has bound: a path, maybe a relative one; ``@`` stands before an abstract one
    inode: int
    is_listening: bool
    file: int = 0  # the inode of what was bound, in its file system
    peer: int = 0  # the inode of the client's end; 0: the client has closed it
    waiting: tuple[int, ...] = ()  # those of clients that wait to be accepted


def unix_sockets() -> list[UnixSocket]:
    """Those of this network namespace that have a name. Raises SocketsError."""
    show = _SHOW_NAME | _SHOW_VFS | _SHOW_PEER | _SHOW_ICONS
    body = _REQUEST.pack(socket.AF_UNIX, 0, 0, 1 << _ESTABLISHED | 1 << _LISTEN, 0, show, bytes(8))
    for _ in range(_ATTEMPTS):
        try:
            found = map(_socket_of, dump(SOCK_DIAG_BY_FAMILY, body))
            return [one for one in found if one is not None]
        except InterruptedDumpError:
            continue
        except OSError as error:
            raise SocketsError(
                f"Cannot list the kernel's unix sockets (unix_diag): {error}. Fix: modprobe unix_diag"
            ) from error
    raise SocketsError(f"The kernel's list of unix sockets changed during {_ATTEMPTS} readings. It will be tried again")


def _socket_of(answer: bytes) -> UnixSocket | None:
    _, kind, state, inode = _ANSWER.unpack_from(answer)
    name = attribute(answer, _ANSWER.size, _NAME)
    name = b"@" + name[1:] if name.startswith(b"\0") else name.rstrip(b"\0")
    if kind != socket.SOCK_STREAM or not name:
        return None
    file, peer = (next(iter(_numbers(answer, which)), 0) for which in (_VFS, _PEER))
    return UnixSocket(os.fsdecode(name), inode, state == _LISTEN, file, peer, _numbers(answer, _ICONS))


def _numbers(answer: bytes, selected: int) -> tuple[int, ...]:
    data = attribute(answer, _ANSWER.size, selected)
    return tuple(number for (number,) in _NUMBER.iter_unpack(data[: len(data) // 4 * 4]))
