"""libnftables, the official library of nftables, by its JSON: what nft(8) itself runs on.

Its own Python module is on no index: Debian has it as python3-nftables, for the system's Python alone. A few
functions of its stable C interface are called here instead. A call is one transaction: all of its commands, or none.
The JSON is described in libnftables-json(5).
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import struct
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor_rolling.core.errors import GateError, GatePermissionError

LIBRARY = "libnftables.so.1"

Command = Mapping[str, Any]

_OUTPUT_JSON = 1 << 4
_NETLINK_NETFILTER = 12  # linux/netlink.h
_NLMSG_ERROR = 2
_GET_GENERATION = struct.pack("=IHHII4x", 20, 10 << 8 | 16, 1, 0, 0)
"""A request of NFT_MSG_GETGEN of nf_tables (linux/netfilter/nf_tables.h)."""

_ANSWERS_WITHIN = 1.0
"""Seconds for the kernel, which answers at once."""

_NO_RIGHTS = "the listener may not change the firewall: run it as root, or give it CAP_NET_ADMIN"
_NO_KERNEL = "this kernel offers no nftables here: try modprobe nf_tables"


class AbsentError(GateError):
    """What a command speaks of is not there."""


class UnreadableError(GateError):
    """What the library answered is no JSON: 1.0.6 breaks off in the middle of a table that somebody made dormant."""


_CAUSES: dict[str, tuple[type[GateError], str]] = {
    "Operation not permitted": (GatePermissionError, _NO_RIGHTS),
    "Operation not supported": (GatePermissionError, _NO_KERNEL),
    "Protocol not supported": (GatePermissionError, _NO_KERNEL),
    "cache initialization failed: Invalid argument": (GatePermissionError, _NO_KERNEL),
    "No such file or directory": (AbsentError, ""),
}
"""By what an error says: the library turns errno into words, and gives only those."""


class Nftables:
    """For one thread. Raises GatePermissionError where the library is missing."""

    def __init__(self) -> None:
        self._library = _library()
        _prove_rights()
        self._context = ctypes.c_void_p(self._library.nft_ctx_new(0))
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        self._library.nft_ctx_output_set_flags(self._context, _OUTPUT_JSON)
        self._end = weakref.finalize(self, self._library.nft_ctx_free, self._context)

    def run(self, commands: Sequence[Command]) -> list[dict[str, Any]]:
        """What a transaction of these commands answers: the objects of a ``list``, without the library's own.

        Raises GateError where it was refused, and then as a whole; GatePermissionError where it always will be.
        """
        request = json.dumps({"nftables": list(commands)}).encode()
        status = self._library.nft_run_cmd_from_buffer(self._context, request)
        output = self._library.nft_ctx_get_output_buffer(self._context)  # reading empties them
        errors = self._library.nft_ctx_get_error_buffer(self._context)
        if status:
            raise _translated(errors.decode(errors="replace"))
        try:
            found = json.loads(output)["nftables"] if output.strip() else []
        except ValueError as error:
            raise UnreadableError(f"nftables: its answer cannot be read: {error}") from error
        return [one for one in found if "metainfo" not in one]

    def close(self) -> None:
        """Give back what the library holds: a socket and memory. So does the end of this object."""
        self._end()


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise GatePermissionError(f"{error}: install libnftables (Debian, Ubuntu: libnftables1)") from None
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


def _prove_rights() -> None:
    """Ask the kernel, over a socket such as the library is about to open, for the number of its rule set. The library
    ends the whole process where it gets no socket, and where it has no right says so on standard error."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
            netlink.settimeout(_ANSWERS_WITHIN)
            netlink.send(_GET_GENERATION)
            answer = netlink.recv(4096)
    except OSError as error:
        raise _translated(f"Error: {error.strerror or error}") from error
    kind, status = struct.unpack_from("=4xH10xi", answer)
    if kind == _NLMSG_ERROR and status == -errno.EPERM:
        raise _translated(f"Error: {os.strerror(errno.EPERM)}")


def _translated(text: str) -> GateError:
    """``internal:0:0-0: Error: Could not process rule: No such file or directory`` without what nobody needs."""
    lines = [line.partition("Error: ")[2] for line in text.splitlines() if "Error: " in line]
    reason = "; ".join(dict.fromkeys(lines)) or text.strip() or "nftables gave no reason"
    kind, advice = next((cause for sign, cause in _CAUSES.items() if sign in reason), (GateError, ""))
    return kind(f"nftables: {reason}{advice and f': {advice}'}")
