"""libnftables, the official library of nftables: what nft(8) itself runs on.

Commands are in nft's own language, as in nft(8); answers are in JSON, as in libnftables-json(5). A call is one
transaction: all of its commands, or none. Its Python module is on no index (Debian has it as python3-nftables, for the
system's Python alone), so a few functions of its stable C interface are called here instead.
"""

from __future__ import annotations

import ctypes
import errno
import json
import math
import os
import socket
import struct
import threading
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from supervisor_rolling.core.errors import GateError, GatePermissionError

LIBRARY = "libnftables.so.1"

_OUTPUT_JSON = 1 << 4
_NETLINK_NETFILTER = 12  # linux/netlink.h
_NLMSG_ERROR = 2
_GET_GENERATION = struct.pack("=IHHII4x", 20, 10 << 8 | 16, 1, 0, 0)  # NFT_MSG_GETGEN, linux/netfilter/nf_tables.h
_ANSWER_TIMEOUT = 1.0  # seconds; the kernel answers at once

_NO_RIGHTS = "the listener may not change the firewall. Fix: run it as root; in a container, add NET_ADMIN"
_NO_KERNEL = "this kernel has no nftables. Fix: modprobe nf_tables"


_LOCK = threading.RLock()
"""The library has tables of its own in common for all contexts, and checks run in other threads than the gate."""


class AbsentError(GateError):
    """A command names something that does not exist."""


class UnreadableAnswerError(GateError):
    """The library's answer is no JSON: 1.0.6 breaks off in the middle of a table that is dormant."""


_CAUSES: dict[str, tuple[type[GateError], str]] = {
    "Operation not permitted": (GatePermissionError, _NO_RIGHTS),
    "Operation not supported": (GatePermissionError, _NO_KERNEL),
    "Protocol not supported": (GatePermissionError, _NO_KERNEL),
    "cache initialization failed: Invalid argument": (GatePermissionError, _NO_KERNEL),
    "No such file or directory": (AbsentError, ""),
}
"""By a part of the error's text: the library has no error numbers."""


class Nftables:
    """For one thread. Raises GatePermissionError where the library or the rights are missing."""

    def __init__(self) -> None:
        self._library = _library()
        _require_rights()
        with _LOCK:
            self._context = ctypes.c_void_p(self._library.nft_ctx_new(0))
            self._library.nft_ctx_buffer_output(self._context)
            self._library.nft_ctx_buffer_error(self._context)
            self._library.nft_ctx_output_set_flags(self._context, _OUTPUT_JSON)
        self._end = weakref.finalize(self, _free, self._library, self._context)

    def run(self, *commands: str) -> list[dict[str, Any]]:
        """Run these commands as one transaction and return the objects that a ``list`` among them gives.

        Raises GateError where the transaction failed, and then as a whole; GatePermissionError where it always will.
        """
        with _LOCK:
            status = self._library.nft_run_cmd_from_buffer(self._context, "\n".join(commands).encode())
            output = self._library.nft_ctx_get_output_buffer(self._context)  # reading empties them
            errors = self._library.nft_ctx_get_error_buffer(self._context)
        if status:
            raise _translated(errors.decode(errors="replace"))
        try:
            found = json.loads(output)["nftables"] if output.strip() else []
        except ValueError as error:
            raise UnreadableAnswerError(f"nftables: cannot read the library's answer: {error}") from error
        return [one for one in found if "metainfo" not in one]

    def close(self) -> None:
        """Free what the library holds: a socket and memory. The end of this object does so, too."""
        self._end()


def _free(library: ctypes.CDLL, context: ctypes.c_void_p) -> None:
    with _LOCK:
        library.nft_ctx_free(context)


def removal(table: str) -> list[str]:
    """The commands that remove a table. It is added first: to delete one that does not exist would fail."""
    return [f"add table inet {table}", f"delete table inet {table}"]


def leases(found: Mapping[str, Any]) -> Iterable[tuple[int, float]]:
    """Each port in a listed set, with the seconds until it expires; infinity for one that has no timeout."""
    for one in found.get("elem", []):
        element = one.get("elem", {}) if isinstance(one, dict) else {"val": one}
        if isinstance(element.get("val"), int):
            yield element["val"], element.get("expires", 0.0 if "timeout" in element else math.inf)


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise GatePermissionError(f"{error}. Fix: install libnftables (Debian, Ubuntu: libnftables1)") from None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    return library


def _require_rights() -> None:
    """Ask the kernel for the number of its rule set over a socket like the one that the library opens. The library
    ends the whole process where it gets no socket, and writes to stderr where it has no rights."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
            netlink.settimeout(_ANSWER_TIMEOUT)
            netlink.send(_GET_GENERATION)
            answer = netlink.recv(4096)
    except OSError as error:
        raise _translated(f"Error: {error.strerror or error}") from error
    kind, status = struct.unpack_from("=4xH10xi", answer)
    if kind == _NLMSG_ERROR and status == -errno.EPERM:
        raise _translated(f"Error: {os.strerror(errno.EPERM)}")


def _translated(text: str) -> GateError:
    """The error for the library's text: only what follows ``Error: ``, without the places and the echoed commands."""
    lines = [line.partition("Error: ")[2] for line in text.splitlines() if "Error: " in line]
    reason = "; ".join(dict.fromkeys(lines)) or text.strip() or "no reason given"
    kind, advice = next((cause for sign, cause in _CAUSES.items() if sign in reason), (GateError, ""))
    return kind(f"nftables: {reason}{advice and f': {advice}'}")
