"""Who has called the method that runs now, as the connection tells it: a client may say anything of itself.

supervisord hands a method its parameters alone. The request, which knows the connection, is a local variable of its
handler, further up the stack; where another version of supervisor has it otherwise, nothing is known.

A user of a unix socket is told by number: to look up a name may ask a directory on the network, and supervisord has one
thread.
"""

from __future__ import annotations

import socket
import struct
import sys
from types import FrameType
from typing import Any

from supervisor_rolling.core.text import plain

HANDLER, REQUEST = "continue_request", "request"
"""The function of supervisor.xmlrpc that calls the methods, and its variable."""

DEEPEST = 50
"""Frames: a method is a few calls below its handler."""

LONGEST = 64
"""Characters of a name."""

UNIX = "unix socket"

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


def asker() -> tuple[str, str]:
    """The user, and the address or ``unix socket``; each empty where nobody can tell."""
    try:
        request = _request(sys._getframe(1))
        return (_user(request), _client(request.channel)) if request is not None else ("", "")
    except (AttributeError, OSError, IndexError, TypeError, struct.error):  # another supervisor
        return "", ""


def _request(frame: FrameType | None) -> Any:
    for _ in range(DEEPEST):
        if frame is None:
            return None
        if frame.f_code.co_name == HANDLER:
            return frame.f_locals.get(REQUEST)
        frame = frame.f_back
    return None


def _user(request: Any) -> str:
    """Whom supervisord has let in by a password, or whom the kernel knows at the other end."""
    info = getattr(request, "auth_info", None)
    if info:
        return plain(info[0])[:LONGEST]
    channel = request.channel
    if channel.socket.family != socket.AF_UNIX:
        return ""
    _, uid, _ = _CREDENTIALS.unpack(channel.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return "root" if uid == 0 else f"uid {uid}"


def _client(channel: Any) -> str:
    return UNIX if channel.socket.family == socket.AF_UNIX else plain(channel.addr[0])[:LONGEST]
