"""The rules of the iptables gate, as the raw entries that the kernel keeps.

Each rule is built once with python-iptables and becomes a ``Pattern``; port, end of the lease and comment are written
into copies of it, and the kernel's rules are compared with those byte for byte. The library's Rule objects will not do
for all of it (measured, python-iptables 1.2.0):

* They read a parameter back by letting C code print it to a redirected stdout. The listener's stdout is supervisord's
  event protocol; and 40 rules would take 40 ms instead of 1.
* The parser for ``--datestop`` sets TZ to UTC for the whole process: log times change, children inherit it.
* A chain as a target makes them open all five tables, nat among them, which every packet then passes for good.
* Of the REDIRECT targets of the two families they find only the one that is asked for first.

Open a table of the family before you build a rule: without CAP_NET_ADMIN the C library ends the process with exit(1)
while it builds one, but an exception can be caught when it opens a table.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import iptc

from supervisor_rolling.core.policy import BYPASS_ADDRESS, BYPASS_MARK, GatePolicy

REDIRECT_PORT = 9
"""Where ``method: redirect`` sends a SYN: "discard", on which no process listens, so that it is refused."""

MAX_COMMENT = 255
"""Bytes: struct xt_comment_info has one more, for the NUL."""

_NAME_SIZE = 29
_MODULE = struct.Struct(f"=H{_NAME_SIZE}sB")  # struct xt_entry_match, xt_entry_target: size, name, revision; then data
_DPORTS = 4, struct.Struct("=HH")  # struct xt_tcp, behind the source ports
_FLAGS = 9  # of struct xt_tcp, behind the option: mask, what it compares to, and what is inverted
_PORTS = struct.Struct("=HHHH")  # of struct xt_tcp: source from and to, destination from and to
_INVERTED_SPORTS, _INVERTED_DPORTS, _INVERTED_FLAGS = 0x01, 0x02, 0x04
_SYN = 0x02
_DATESTOP = 4, struct.Struct("=I")  # struct xt_time_info, behind date_start
_COMMENT = 0, struct.Struct("=256s")  # struct xt_comment_info, its closing NUL included
_RANGE_BY_PORT = 2  # NF_NAT_RANGE_PROTO_SPECIFIED


@dataclass(frozen=True)
class Family:
    """An address family as iptables and the kernel have it; ``redirect`` is the data of REDIRECT up to the ports."""

    name: str
    number: int
    table: Any
    rule: Any
    redirect: bytes


V4 = Family("IPv4", socket.AF_INET, iptc.Table, iptc.Rule, struct.pack("=II8x", 1, _RANGE_BY_PORT))
V6 = Family("IPv6", socket.AF_INET6, iptc.Table6, iptc.Rule6, struct.pack("=I32x", _RANGE_BY_PORT))


class Pattern:
    """The raw entry of a rule, and the places of the bytes that mean nothing in it, or that differ between rules."""

    def __init__(self, raw: bytes, kind: Any, is_jump: bool = False) -> None:
        self.raw = raw
        target = kind.from_buffer_copy(raw).target_offset
        self._places = dict(_modules(raw, target, ctypes.sizeof(kind)))
        # The kernel fills these in, and leaves what was in memory behind the NUL of a name.
        noise = [(getattr(kind, name).offset, getattr(kind, name).size) for name in ("nfcache", "comefrom", "counters")]
        noise += [(at + 2 + len(name), _NAME_SIZE - len(name)) for name, at in self._places.items()]
        # The kernel turns the name of a chain into an offset, which changes.
        noise += [(target, len(raw) - target)] if is_jump else []
        self._noise = [(slice(at, at + size), bytes(size)) for at, size in noise]

    def filled(self, port: int, datestop: int, comment: str) -> bytes:
        """The entry for one port; ``datestop``: whole seconds since 1970; ``comment``: clean."""
        raw = bytearray(self.raw)
        self._fill(raw, b"tcp", _DPORTS, port, port)
        self._fill(raw, b"time", _DATESTOP, datestop)
        self._fill(raw, b"comment", _COMMENT, comment.encode())
        return self.clean(raw)

    def clean(self, raw: bytes | bytearray) -> bytes:
        """The entry with the bytes that mean nothing blanked; one of another length, which is not ours, as it is."""
        if len(raw) != len(self.raw):
            return bytes(raw)
        cleaned = bytearray(raw)
        for place, blank in self._noise:
            cleaned[place] = blank
        return bytes(cleaned)

    def is_like(self, raw: bytes) -> bool:
        """Whether another entry means the same."""
        return self.clean(raw) == self.clean(self.raw)

    def _fill(self, raw: bytearray, module: bytes, field: tuple[int, struct.Struct], *values: int | bytes) -> None:
        offset, layout = field
        layout.pack_into(raw, self._places[module] + _MODULE.size + offset, *values)


def closing_rule(family: Family, policy: GatePolicy) -> Pattern:
    """The rule of a closed port, without port, datestop and comment."""
    rule = _syn_rule(family)
    if policy.bypass == "mark":
        rule.create_match("mark").mark = f"!{BYPASS_MARK:#x}"
    elif family is V4:
        rule.src = f"!{BYPASS_ADDRESS}"
    rule.create_match("time")
    rule.create_match("comment")
    if policy.method == "redirect":
        return Pattern(_redirecting(rule, family), type(rule.entry))
    rule.create_target("REJECT").reject_with = "tcp-reset"
    return Pattern(bytes(rule.rule), type(rule.entry))


def jump_rule(family: Family, chain: str) -> Pattern:
    """``-p tcp --syn -j CHAIN``."""
    rule = _syn_rule(family)
    return Pattern(_with_target(rule, chain, bytes(4)), type(rule.entry), is_jump=True)


def takes_all(family: Family, raw: bytes, port: int) -> bool:
    """Whether a rule takes all new connections to a port, or all from this host itself. One that asks for an address,
    another interface or a match that is not known here may take some: only what is certain counts."""
    entry = type(family.rule().entry).from_buffer_copy(raw)
    head = entry.ip if family is V4 else entry.ipv6
    protocol = head.proto
    if any(bytes(head.smsk) + bytes(head.dmsk)) or head.iniface not in (b"", b"lo") or head.outiface or head.invflags:
        return False
    if family is V4 and head.flags:  # of fragments
        return False
    modules = dict(_modules(raw, entry.target_offset, ctypes.sizeof(entry)))
    matches = {name: at for name, at in modules.items() if at < entry.target_offset}
    if protocol not in (0, socket.IPPROTO_TCP) or matches.keys() - {b"tcp", b"comment"}:
        return False
    if b"tcp" not in matches:
        return True
    data = matches[b"tcp"] + _MODULE.size
    from_low, from_high, low, high = _PORTS.unpack_from(raw, data)
    mask, compare, inverted = raw[data + _FLAGS], raw[data + _FLAGS + 1], raw[data + _FLAGS + 2]
    is_port = (low <= port <= high) != bool(inverted & _INVERTED_DPORTS)
    is_from_any = (from_low, from_high) == (0, 0xFFFF) and not inverted & _INVERTED_SPORTS
    return is_from_any and is_port and (_SYN & mask == compare) != bool(inverted & _INVERTED_FLAGS)


def _syn_rule(family: Family) -> Any:
    rule = family.rule()
    rule.protocol = "tcp"
    rule.create_match("tcp").syn = ""
    return rule


def _redirecting(rule: Any, family: Family) -> bytes:
    # nat also sees what this host sends to others and what it forwards: other hosts' ports.
    rule.create_match("addrtype").dst_type = "LOCAL"
    return _with_target(rule, "REDIRECT", family.redirect + struct.pack("!HH", REDIRECT_PORT, REDIRECT_PORT))


def _with_target(rule: Any, name: str, data: bytes) -> bytes:
    """The raw entry of a rule with a target that python-iptables cannot be asked for."""
    rule.create_target("ACCEPT")  # it builds no entry without one
    kind = type(rule.entry)
    head = bytearray(bytes(rule.rule)[: rule.entry.target_offset])
    size = -(-(_MODULE.size + len(data)) // 8) * 8  # XT_ALIGN
    struct.pack_into("=H", head, kind.next_offset.offset, len(head) + size)
    return bytes(head + _MODULE.pack(size, name.encode(), 0) + data.ljust(size - _MODULE.size, b"\0"))


def _modules(raw: bytes, target: int, at: int) -> Iterator[tuple[bytes, int]]:
    """Name and place of each match, and of the target behind them."""
    while at <= target:
        size, name, _revision = _MODULE.unpack_from(raw, at)
        yield name.split(b"\0")[0], at
        at += size
