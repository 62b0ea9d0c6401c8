"""A kernel that lacks legacy xtables, nf_tables, or both: ``python -m tests.support.missing_libraries xtables,nftables
COMMAND …``.

A seccomp filter answers for it, as such a kernel would: to getsockopt for a table of xtables, and to a socket that
speaks to nf_tables. Everything else is this kernel's own, and what the command starts lacks the same.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
LOAD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06
CALLS = {"x86_64": {"socket": 41, "getsockopt": 55}, "aarch64": {"socket": 198, "getsockopt": 209}}
SOL_IP, SOL_IPV6 = 0, 41
GET_INFO = 64  # IPT_SO_GET_INFO and IP6T_SO_GET_INFO: what opening a table begins with
AF_NETLINK, NETLINK_NETFILTER = 16, 12

Rule = tuple[str, dict[int, int], int]
"""A system call, what its arguments must be, and the error that it then gives."""

LACKS: dict[str, list[Rule]] = {
    "xtables": [("getsockopt", {1: level, 2: GET_INFO}, errno.ENOPROTOOPT) for level in (SOL_IP, SOL_IPV6)],
    "nftables": [("socket", {0: AF_NETLINK, 2: NETLINK_NETFILTER}, errno.EPROTONOSUPPORT)],
}


def program_of(rule: Rule) -> bytes:
    """In the language of the kernel's filters: each comparison that fails jumps over the rest of this rule."""
    call, arguments, error = rule
    selected = {0: CALLS[platform.machine()][call], **{16 + 8 * place: value for place, value in arguments.items()}}
    steps = []
    for number, (offset, value) in enumerate(selected.items()):
        over = 2 * (len(selected) - number - 1) + 1
        steps += [(LOAD, 0, 0, offset), (IF_EQUAL, 0, over, value)]
    return b"".join(struct.pack("=HBBI", *step) for step in [*steps, (RETURN, 0, 0, ERRNO | error)])


def lack(*names: str) -> None:
    """From now on, for this process and all that it starts."""
    program = b"".join(program_of(rule) for name in names for rule in LACKS[name])
    program += struct.pack("=HBBI", RETURN, 0, 0, ALLOW)
    buffer = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, head)):
        if libc.prctl(*arguments, 0, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    lack(*sys.argv[1].split(","))
    os.execvp(sys.argv[2], sys.argv[2:])
