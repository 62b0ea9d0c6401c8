"""The ``RequestSniffer`` of ``contracts.py``: sees HTTP requests arrive at ports, by a packet socket.

A filter in the kernel passes only TCP segments to these ports that begin with the name of a method, so that uploads and
streams of any rate cost nothing. There is a socket for IPv4 and one for IPv6: bound to one protocol, they
see incoming packets only, and one over loopback once. Packets that the kernel's buffer cannot hold are lost, and
requests in TLS are not recognised: this is evidence, not a count.

Needs CAP_NET_RAW. Without it nothing is seen, which is logged once.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import re
import socket
import struct
from collections.abc import Callable, Collection, Sequence

from supervisor_rolling.core.connections import Arrival, peer_of

log = logging.getLogger("supervisor_rolling")

_METHODS = (b"GET ", b"POST", b"HEAD", b"PUT ", b"PATC", b"DELE", b"OPTI")
_REQUEST_LINE = re.compile(rb"[A-Z]+ \S+ HTTP/1\.[01]\r?\n")
_SNAP = 2048
"""Bytes of a packet that are read: a longer request line is not recognised."""

_MAX_PACKETS = 2000  # for each call of ``take``
_MAX_PORTS = 1000  # a filter has at most 4096 instructions

LINGER = 10.0
"""Seconds without a port after which the sockets are closed. The kernel takes 20 to 30 ms to close one, and the last
port of a drain is dropped while its process is down and waits to be started."""

_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_SO_ATTACH_FILTER = 26
_FILTER = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, jump if false, operand
_PORTS_AND_NUMBERS = struct.Struct("!HHxxxxI")  # of struct tcphdr: source, destination, acknowledgement

# Instructions of include/uapi/linux/bpf_common.h. A is the accumulator, X the index.
_LOAD_BYTE, _LOAD_HALF = 0x30, 0x28  # A = the bytes at the operand
_LOAD_BYTE_X, _LOAD_HALF_X, _LOAD_WORD_X = 0x50, 0x48, 0x40  # A = the bytes at X + operand
_X_IS, _X_IS_IP_HEADER, _X_IS_A = 0x01, 0xB1, 0x07
_AND, _SHIFT_RIGHT, _ADD_X = 0x54, 0x74, 0x0C
_JUMP, _JUMP_IF_EQUAL, _JUMP_IF_ANY_BIT = 0x05, 0x15, 0x45
_RETURN = 0x06

Instruction = tuple[int, int, int, int]

_DROP: Instruction = (_RETURN, 0, 0, 0)
_IS_TCP_4: list[Instruction] = [
    *((_LOAD_BYTE, 0, 0, 9), (_JUMP_IF_EQUAL, 1, 0, socket.IPPROTO_TCP), _DROP),
    *((_LOAD_HALF, 0, 0, 6), (_JUMP_IF_ANY_BIT, 0, 1, 0x1FFF), _DROP),  # a later fragment has no header
    (_X_IS_IP_HEADER, 0, 0, 0),
]
_IS_TCP_6: list[Instruction] = [
    *((_LOAD_BYTE, 0, 0, 6), (_JUMP_IF_EQUAL, 1, 0, socket.IPPROTO_TCP), _DROP),
    (_X_IS, 0, 0, 40),
]
_X_TO_PAYLOAD: list[Instruction] = [
    *((_LOAD_BYTE_X, 0, 0, 12), (_AND, 0, 0, 0xF0), (_SHIFT_RIGHT, 0, 0, 2)),  # the length of the TCP header
    *((_ADD_X, 0, 0, 0), (_X_IS_A, 0, 0, 0)),
]


class PacketSniffer:
    """Of this network namespace, for one thread. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ports: frozenset[int] = frozenset()
        self._sockets: list[socket.socket] = []
        self._unused_since = 0.0
        self._has_warned = False

    def watch(self, ports: Collection[int]) -> None:
        """See ``RequestSniffer.watch``."""
        selected = frozenset(ports)
        if selected == self._ports:
            if not selected and self._clock() - self._unused_since >= LINGER:
                self._close()
            return
        self._ports, self._unused_since = selected, self._clock()
        if not selected and not self._sockets:
            return
        try:
            self._open()
        except OSError as error:
            self._close()
            if not self._has_warned:
                log.warning(
                    "cannot see requests on keep-alive connections, so drain.keepalive: refuse has no effect: %s. "
                    "Fix: give the listener CAP_NET_RAW (and the kernel CONFIG_PACKET)",
                    error,
                    extra={"code": "drain.sniffer"},
                )
            self._has_warned = True

    def take(self) -> Sequence[Arrival]:
        """See ``RequestSniffer.take``."""
        return [arrival for one in self._sockets for arrival in _received(one)]

    def _open(self) -> None:
        """See the requests to the ports, if any, with the sockets that are open or new ones. Raises OSError."""
        protocols = ((_ETH_P_IP, _IS_TCP_4), (_ETH_P_IPV6, _IS_TCP_6))
        if not self._sockets:  # of all interfaces; they give packets from the IP header on
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
            self._sockets = [socket.socket(socket.AF_PACKET, kind, socket.htons(number)) for number, _ in protocols]
        for one, (_, is_tcp) in zip(self._sockets, protocols):
            _attach(one, _filter(is_tcp, sorted(self._ports)[:_MAX_PORTS]))
        self.take()  # drop what came before the filter

    def _close(self) -> None:
        for one in self._sockets:
            one.close()
        self._sockets = []


def _filter(is_tcp: list[Instruction], ports: Sequence[int]) -> list[Instruction]:
    methods = [int.from_bytes(method, "big") for method in _METHODS]
    to_port, to_method = (_LOAD_HALF_X, 0, 0, 2), (_LOAD_WORD_X, 0, 0, 0)
    return [
        *(*is_tcp, to_port, *_any_of(ports)),
        *(*_X_TO_PAYLOAD, to_method, *_any_of(methods)),
        (_RETURN, 0, 0, _SNAP),
    ]


def _any_of(values: Sequence[int]) -> list[Instruction]:
    """Continue where A is one of these values, else drop the packet. A conditional jump reaches 255 instructions, an
    unconditional one any."""
    rest = range(2 * (len(values) - 1) + 1, 0, -2)
    pairs = (((_JUMP_IF_EQUAL, 0, 1, value), (_JUMP, 0, 0, n)) for value, n in zip(values, rest))
    return [*(one for pair in pairs for one in pair), _DROP]


def _attach(one: socket.socket, code: list[Instruction]) -> None:
    instructions = ctypes.create_string_buffer(b"".join(_FILTER.pack(*instruction) for instruction in code))
    program = struct.pack("@HP", len(code), ctypes.addressof(instructions))  # struct sock_fprog
    one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _received(one: socket.socket) -> list[Arrival]:
    found: list[Arrival | None] = []
    with contextlib.suppress(BlockingIOError, InterruptedError):
        while len(found) < _MAX_PACKETS:
            packet, (_, protocol, kind, *_) = one.recvfrom(_SNAP)
            found.append(arrival_in(packet, protocol == _ETH_P_IPV6) if kind == socket.PACKET_HOST else None)
    return [arrival for arrival in found if arrival]


def arrival_in(packet: bytes, is_ipv6: bool) -> Arrival | None:
    """The request that begins in an IP packet with a TCP segment, if one does."""
    begin = 40 if is_ipv6 else 4 * (packet[0] & 0xF) if packet else 0
    source = packet[8:24] if is_ipv6 else packet[12:16]
    if len(packet) < max(begin, 20) + 20:
        return None
    peer_port, port, answered = _PORTS_AND_NUMBERS.unpack_from(packet, begin)
    payload = packet[begin + (packet[begin + 12] >> 4) * 4 :]
    if not _REQUEST_LINE.match(payload):
        return None
    address = socket.inet_ntop(socket.AF_INET6 if is_ipv6 else socket.AF_INET, source)
    return Arrival(port, peer_of(address, peer_port), answered)
