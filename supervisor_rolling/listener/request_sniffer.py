"""Sees HTTP requests arrive at ports, without touching them: the ``RequestSniffer`` of ``contracts.py``.

A packet socket sees what comes in before the process does. A filter in the kernel lets by only the TCP segments to
these ports whose payload begins with the name of a method, so that uploads and streams of any rate cost nothing here. A
socket for IPv4 and one for IPv6: bound to one protocol, they see what comes in alone, and a packet over loopback once.
What the kernel's buffer cannot hold is lost, and so is a request in TLS: this is evidence, not a count.

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

from supervisor_rolling.core.connections import Arrival
from supervisor_rolling.core.peers import peer_of

log = logging.getLogger("supervisor_rolling")

_METHODS = (b"GET ", b"POST", b"HEAD", b"PUT ", b"PATC", b"DELE", b"OPTI")
_REQUEST_LINE = re.compile(rb"[A-Z]+ \S+ HTTP/1\.[01]\r?\n")
_SNAP = 2048
"""Bytes of a packet that are looked at: a request line that is longer is not recognised."""

_MAX_PACKETS = 2000  # at a look; the rest is for the next one
_MAX_PORTS = 1000  # a filter has at most 4096 instructions

LINGER = 10.0
"""Seconds without a port after which the sockets are closed. The kernel takes 20 to 30 ms to close one, and the last
port of a drain goes when its process is down and waits to be started."""

_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_SO_ATTACH_FILTER = 26
_FILTER = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, jump if false, operand
_PORTS_AND_NUMBERS = struct.Struct("!HHxxxxI")  # of struct tcphdr: source, destination, acknowledgement

# Instructions of include/uapi/linux/bpf_common.h. A is the accumulator, X the index.
_LOAD_BYTE, _LOAD_HALF = 0x30, 0x28  # A = what stands at the operand
_LOAD_BYTE_X, _LOAD_HALF_X, _LOAD_WORD_X = 0x50, 0x48, 0x40  # A = what stands at X + operand
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
        self._has_complained = False

    def watch(self, ports: Collection[int]) -> None:
        """See ``RequestSniffer.guard_state``."""
        selected = frozenset(ports)
        if selected == self._ports:
            self._close_in_time()
            return
        self._ports, self._unused_since = selected, self._clock()
        if not selected and not self._sockets:
            return
        try:
            self._open()
        except OSError as error:
            self._close()
            self._complain(error)

    def take(self) -> Sequence[Arrival]:
        """See ``RequestSniffer.take``."""
        return [arrival for one in self._sockets for arrival in _received(one)]

    def _close_in_time(self) -> None:
        if self._sockets and not self._ports and self._clock() - self._unused_since >= LINGER:
            self._close()

    def _open(self) -> None:
        """With sockets that are there already, or new ones, see what comes to the ports, if any. Raises OSError."""
        protocols = ((_ETH_P_IP, _IS_TCP_4), (_ETH_P_IPV6, _IS_TCP_6))
        if not self._sockets:
            self._sockets = [_packet_socket(protocol) for protocol, _ in protocols]
        for one, (_, is_tcp) in zip(self._sockets, protocols):
            _attach(one, _filter(is_tcp, sorted(self._ports)[:_MAX_PORTS]))
        self.take()  # what came before the filter

    def _close(self) -> None:
        for one in self._sockets:
            one.close()
        self._sockets = []

    def _complain(self, error: OSError) -> None:
        if not self._has_complained:
            log.warning(
                "requests over a keepalive pool cannot be seen, so a rollout goes on where drain.keepalive would refuse: "
                "%s. A packet socket needs CAP_NET_RAW, and CONFIG_PACKET in the kernel",
                error,
            )
        self._has_complained = True


def _packet_socket(protocol: int) -> socket.socket:
    """Of all interfaces; it gives packets from their IP header on."""
    return socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(protocol))


def _filter(is_tcp: list[Instruction], ports: Sequence[int]) -> list[Instruction]:
    methods = [int.from_bytes(method, "big") for method in _METHODS]
    to_port, to_method = (_LOAD_HALF_X, 0, 0, 2), (_LOAD_WORD_X, 0, 0, 0)
    return [
        *(*is_tcp, to_port, *_any_of(ports)),
        *(*_X_TO_PAYLOAD, to_method, *_any_of(methods)),
        (_RETURN, 0, 0, _SNAP),
    ]


def _any_of(values: Sequence[int]) -> list[Instruction]:
    """Goes on where A is one of these, else drops: always where there is none. A conditional jump reaches 255
    instructions, the other any."""
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
    """The request that begins in an IP packet with a TCP segment in it, if one does."""
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
