"""The identity of the client that is calling a method, by its connection: a client may say anything of itself.

supervisord passes a method its parameters alone. The request, which knows the connection, is a local variable of its
handler, further up the stack; where another version of supervisor does it otherwise, nothing is known.

A user of a unix socket is named by number: a look-up of the name may ask a directory on the network, and supervisord
has one thread.
"""

from __future__ import annotations

import socket
import struct
import sys
from types import FrameType
from typing import Any

from supervisor_rolling.core.public_view import UNIX_SOCKET
from supervisor_rolling.core.text import plain

HANDLER, REQUEST = "continue_request", "request"
"""The function of supervisor.xmlrpc that calls the methods, and its variable."""

MAX_FRAMES = 50  # a method is a few calls below its handler
MAX_NAME = 64  # characters

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


def client_identity() -> tuple[str, str]:
    """The user, and the address or ``unix socket``; each empty where it is unknown."""
    try:
        request = _request(sys._getframe(1))
        return (_user(request), _client(request.channel)) if request is not None else ("", "")
    except (AttributeError, OSError, IndexError, TypeError, struct.error):  # another version of supervisor
        return "", ""


def _request(frame: FrameType | None) -> Any:
    for _ in range(MAX_FRAMES):
        if frame is None:
            return None
        if frame.f_code.co_name == HANDLER:
            return frame.f_locals.get(REQUEST)
        frame = frame.f_back
    return None


def _user(request: Any) -> str:
    """The user that gave a password, or that the kernel knows at the other end."""
    info = getattr(request, "auth_info", None)
    if info:
        return plain(info[0])[:MAX_NAME]
    channel = request.channel
    if channel.socket.family != socket.AF_UNIX:
        return ""
    _, uid, _ = _CREDENTIALS.unpack(channel.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return "root" if uid == 0 else f"uid {uid}"


def _client(channel: Any) -> str:
    return UNIX_SOCKET if channel.socket.family == socket.AF_UNIX else plain(channel.addr[0])[:MAX_NAME]
