"""Lists TCP sockets of the kernel over NETLINK_SOCK_DIAG, as ``ss`` does.

The kernel filters by state and port, so a listing costs the same with a hundred connections or tens of thousands of
other ports: 0.4 ms, against 2 to 70 for /proc/net/tcp. It needs no rights, and has a deadline of seconds. A listing is
complete, or a SocketsError.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from supervisor_rolling.core.connections import peer_of
from supervisor_rolling.core.errors import SocketsError

ESTABLISHED, SYN_RECV, CLOSE_WAIT, LISTEN = 1, 3, 8, 10
"""Numbers of include/net/tcp_states.h."""

ANSWERABLE = (ESTABLISHED, SYN_RECV, CLOSE_WAIT)
"""States of a connection that its server may still have to answer."""

CONNECTED = (ESTABLISHED, 2, 4, 5, CLOSE_WAIT)
"""States of a connection that a process still has: SYN_SENT, FIN_WAIT1 and FIN_WAIT2 among them."""

_TIMEOUT = 2.0  # seconds for each part of an answer; the kernel answers in milliseconds
_ATTEMPTS = 5  # at a dump that the kernel calls inconsistent
_BUFFER = 65536  # the kernel sends at most 32 KiB at a time

_NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
_TCPDIAG_GETSOCK = 18
"""The older request, without a family: one walk over the kernel's table instead of two, and the walk is nearly all that
a listing costs."""
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_BYTECODE_ATTRIBUTE = 1  # INET_DIAG_REQ_BYTECODE
_INFO_ATTRIBUTE = 2  # INET_DIAG_INFO: struct tcp_info
_ASK_FOR_INFO = 1 << (_INFO_ATTRIBUTE - 1)

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port id
ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
_REQUEST = struct.Struct("=BBBxI48x")  # struct inet_diag_req_v2: family, protocol, extensions, states, socket id
_OLD_REQUEST = struct.Struct("=BxxB48xII")  # struct inet_diag_req: family, extensions, socket id, states, dbs
_ANSWER = struct.Struct("=BBxx2s2s16s16s20xI4xI")  # inet_diag_msg: family, state, ports, addresses, not taken, inode
_INFO = struct.Struct("=xxB41xI4xII92xII")
"""Of struct tcp_info: retransmits; the milliseconds since data was last sent, data received, and an acknowledgement
received (the kernel starts these clocks when a connection starts); the segments of data that came in and went out."""

_STUCK_MS = 1000
"""Data that the peer has not acknowledged for so long is not merely on its way."""

_STEP = struct.Struct("=BBH")  # struct inet_diag_bc_op: code, offset if yes, offset if no
_JUMP = 1  # INET_DIAG_BC_JMP
_LOCAL, _REMOTE = (2, 3), (4, 5)  # at least this port, at most: INET_DIAG_BC_S_GE, _S_LE; _D_GE, _D_LE


class Traffic(NamedTuple):
    """When bytes last moved on a connection, in milliseconds. A tuple, since there may be thousands."""

    age: int = 0  # the connection has been open for so long at least; the kernel does not show its start
    idle: int = 0  # since the last byte; where there was none, the exact age
    last: str = ""  # "sent" or "received": that byte; empty where there was none
    is_stuck: bool = False  # the peer does not acknowledge what it is sent: it is gone, or reads nothing
    is_sending: bool = False  # the peer has not acknowledged everything yet, as while a reader pauses


class TcpSocket(NamedTuple):
    """One socket. An IPv4 peer of an IPv6 socket has its address as IPv4."""

    state: int
    address: str
    port: int
    peer_address: str
    peer_port: int
    inode: int  # 0 for a connection that no process has accepted yet
    traffic: Traffic = Traffic()  # as far as it was asked for, and the kernel knows it: not in a handshake

    @property
    def peer(self) -> str:
        """The other end: ``10.0.0.1:4711``, ``[::1]:4711``."""
        return peer_of(self.peer_address, self.peer_port)


def tcp_sockets(
    states: Collection[int],
    ports: Collection[int] | None = None,
    with_traffic: bool = False,
    of_clients: bool = False,
) -> list[TcpSocket]:
    """The sockets of this network namespace in one of these states, both families. ``ports``: only those with such a
    local port, or remote port (``of_clients``); ``with_traffic`` takes half as long again where there are thousands.

    Listening sockets have a small table of their own; any other state makes the kernel walk the large one.
    """
    mask = sum(1 << state for state in set(states))
    bounds = _REMOTE if of_clients else _LOCAL
    codes = [b""] if ports is None else [_any_port(ranges, *bounds) for ranges in _walks(ports)]
    return [one for code in codes for one in _walked(mask, code, with_traffic)]


def _walked(mask: int, code: bytes, with_traffic: bool) -> list[TcpSocket]:
    found = _sockets_of(socket.AF_UNSPEC, mask, code, with_traffic)
    if found is not None:
        return found
    families = (_sockets_of(family, mask, code, with_traffic) for family in (socket.AF_INET, socket.AF_INET6))
    return [one for those in families for one in those or ()]


def _sockets_of(family: int, mask: int, code: bytes, with_traffic: bool) -> list[TcpSocket] | None:
    """None where the kernel does not list both families at once, or has no IPv6."""
    for _ in range(_ATTEMPTS):
        try:
            return _dump(family, mask, code, with_traffic)
        except InterruptedDumpError:
            continue
        except OSError as error:
            is_refused = family == socket.AF_UNSPEC and error.errno is not None
            if is_refused or (family == socket.AF_INET6 and error.errno == errno.ENOENT):
                return None
            raise SocketsError(_explanation(error)) from error
    raise SocketsError(f"The kernel's list of connections changed during {_ATTEMPTS} readings. It will be tried again")


class InterruptedDumpError(Exception):
    """The kernel's table changed during the walk, so the answer is inconsistent."""


def _explanation(error: OSError) -> str:
    is_missing = error.errno in (errno.ENOENT, errno.EPROTONOSUPPORT)
    advice = "The kernel lacks CONFIG_INET_DIAG. Fix: modprobe tcp_diag" if is_missing else "It will be tried again"
    return f"Cannot list the kernel's connections (NETLINK_SOCK_DIAG): {error}. {advice}"


# --- netlink


def _dump(family: int, mask: int, code: bytes, with_traffic: bool) -> list[TcpSocket]:
    return [_socket_of(body, with_traffic) for body in dump(*_request(family, mask, code, with_traffic))]


def dump(kind: int, body: bytes) -> list[bytes]:
    """The bodies of all messages with which the kernel answers a request for a dump. Raises OSError, or
    InterruptedDumpError where the kernel calls it inconsistent: ask again."""
    header = _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as link:
        link.settimeout(_TIMEOUT)
        link.send(header + body)
        return list(_bodies(link))


def _request(family: int, mask: int, code: bytes, with_traffic: bool) -> tuple[int, bytes]:
    extensions = _ASK_FOR_INFO if with_traffic else 0
    if family == socket.AF_UNSPEC:
        kind, body = _TCPDIAG_GETSOCK, _OLD_REQUEST.pack(family, extensions, mask, 0)
    else:
        kind, body = SOCK_DIAG_BY_FAMILY, _REQUEST.pack(family, socket.IPPROTO_TCP, extensions, mask)
    if code:
        body += ATTRIBUTE.pack(ATTRIBUTE.size + len(code), _BYTECODE_ATTRIBUTE) + code
    return kind, body


def _bodies(link: socket.socket) -> Iterator[bytes]:
    """The bodies of all messages of a dump, up to the one that ends it."""
    while True:
        data, _, flags, _ = link.recvmsg(_BUFFER)
        if flags & socket.MSG_TRUNC:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        for kind, body in _messages(data):
            if kind == _NLMSG_DONE:
                return
            yield body


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        body = data[at + _HEADER.size : at + length]
        if flags & _NLM_F_DUMP_INTR:
            raise InterruptedDumpError
        if kind in (_NLMSG_ERROR, _NLMSG_DONE):
            _raise_error(body)
        yield kind, body
        at += -(-length // 4) * 4  # NLMSG_ALIGN


def _raise_error(body: bytes) -> None:
    """Both kinds of last message begin with a negative errno, or 0 for success."""
    number = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
    if number:
        raise OSError(number, os.strerror(number))


def _socket_of(body: bytes, with_traffic: bool) -> TcpSocket:
    family, state, port, peer_port, source, destination, not_taken, inode = _ANSWER.unpack_from(body)
    info = attribute(body, _ANSWER.size, _INFO_ATTRIBUTE) if with_traffic else b""
    return TcpSocket(
        state=state,
        address=_address(family, source),
        port=int.from_bytes(port, "big"),
        peer_address=_address(family, destination),
        peer_port=int.from_bytes(peer_port, "big"),
        inode=inode,
        traffic=_traffic(info, not_taken),
    )


def attribute(body: bytes, begin: int, selected: int) -> bytes:
    """The content of one of the attributes of an answer, which begin there; empty where it has none of this type."""
    at = begin
    while at + ATTRIBUTE.size <= len(body):
        length, kind = ATTRIBUTE.unpack_from(body, at)
        if kind == selected:
            return body[at + ATTRIBUTE.size : at + length]
        at += max(ATTRIBUTE.size, -(-length // 4) * 4)  # NLA_ALIGN
    return b""


def _traffic(info: bytes, not_taken: int) -> Traffic:
    if len(info) < _INFO.size:  # a kernel before 4.6 has a shorter struct tcp_info
        return Traffic()
    retransmits, sent, received, acknowledged, times_received, times_sent = _INFO.unpack_from(info)
    age = max(sent, received, acknowledged)
    is_stuck = not_taken > 0 and (retransmits > 0 or sent >= _STUCK_MS)
    if retransmits:
        sent = max(sent, acknowledged)  # a segment that is sent again and again does not arrive
    if times_sent and (sent <= received or not times_received):
        return Traffic(age, sent, "sent", is_stuck, not_taken > 0)
    if times_received:
        return Traffic(age, received, "received", is_stuck, not_taken > 0)
    return Traffic(age, age, "", is_stuck, not_taken > 0)


_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, IPv4 on an IPv6 socket


@functools.lru_cache(maxsize=1024)
def _address(family: int, raw: bytes) -> str:
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[:4])
    if raw.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return socket.inet_ntop(socket.AF_INET6, raw)


# --- the filter


_BLOCK = 5 * _STEP.size
"""Bytes of the filter for one range of ports."""

_MAX_RANGES = 0xFFFF // _BLOCK - 1
"""In one filter: its jumps and its attribute count their bytes in 16 bits."""

_Range = tuple[int, int]
"""The first and the last of consecutive ports."""


def _walks(ports: Collection[int]) -> list[list[_Range]]:
    """The ports as ranges, for each walk over the kernel's tables as many as a filter can hold."""
    ranges: list[_Range] = []
    for port in sorted(set(ports)):
        if ranges and port == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], port)
        else:
            ranges.append((port, port))
    return [ranges[at : at + _MAX_RANGES] for at in range(0, len(ranges), _MAX_RANGES)]


def _any_port(ranges: Sequence[_Range], at_least: int, at_most: int) -> bytes:
    """A program for the kernel's filter: accept a socket with a port, local or remote, in one of these ranges.

    For each range: at least its first? at most its last? Then jump to the end, which accepts; else go on to the next.
    A jump to four bytes beyond the end rejects. (A test for equality would be shorter, but older kernels lack it.)
    """
    code = b""
    for place, (first, last) in enumerate(ranges):
        left = (len(ranges) - place) * _BLOCK
        on_no = _BLOCK if left > _BLOCK else _BLOCK + 4
        code += _STEP.pack(at_least, 8, on_no) + _STEP.pack(0, 0, first)
        code += _STEP.pack(at_most, 8, on_no - 8) + _STEP.pack(0, 0, last)
        code += _STEP.pack(_JUMP, 4, left - 4 * _STEP.size)
    return code
