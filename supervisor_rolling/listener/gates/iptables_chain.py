"""Our part of one iptables table of one address family: a chain, its rules, and the jumps into it.

Below are python-iptables' Table objects and libiptc: ``look`` copies the whole table from the kernel, changes are made
to the copy, and ``commit`` puts the whole table back. Without a lock two writers lose each other's changes while both
``commit`` calls report success, so ``put`` and ``probe`` are for the holder of ``xtables_lock``.

Not for several threads: python-iptables crashes.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import itertools
import os
import re
import socket
import struct
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import iptc
from iptc.errors import XTablesError

from supervisor_rolling.core.errors import GateBusyError, GateError, GatePermissionError
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.core.text import printable
from supervisor_rolling.listener.gates import iptables_rules
from supervisor_rolling.listener.gates.iptables_rules import Family, Pattern
from supervisor_rolling.listener.system.rule_names import clean_comment

PROBE_CHAIN = "SUPERVISOR-ROLLING-CHECK"
"""The chain in which ``probe`` tries a rule; one name for all: the next probe removes what a killed one left."""


@dataclass(frozen=True)
class ChainListing:
    """Our part of a table, as it was read."""

    is_entered: bool  # new connections come into the chain
    is_tidy: bool  # by exactly one jump from each entry
    rules: tuple[bytes, ...]  # of the chain: raw entries, cleaned
    is_absent: bool  # no chain, no jump, no rule that we could remove


class OwnChain:
    """Our chain in one table of one family, and what was last written there: ``written``, the rule of each port, and
    ``until``, the end of their lease by the wall clock.

    Call ``look`` first: ``put`` changes the copy that it read. Raises GateError and GatePermissionError.
    """

    def __init__(self, family: Family, policy: GatePolicy, chain: str) -> None:
        redirect = policy.method == "redirect"
        self._family = family
        self._policy = policy
        self._chain = chain
        self._name = "nat" if redirect else "filter"
        self._entries = ("PREROUTING", "OUTPUT") if redirect else ("INPUT",)
        self.where = f"table {self._name}, {family.name}"
        self.written: dict[int, bytes] = {}
        self.until = 0

    def look(self) -> ChainListing:
        """Read the table. Drops what an unfinished change left in the copy."""
        with translated(self.where):
            table = self._fresh()
            jumps = [self._jumps(table, entry) for entry in self._entries]
            closing, _ = self._patterns
            rules = tuple(closing.clean(_raw(entry)) for entry in _walk(table, self._chain))
            is_removable = rules or any(jumps) or not self._references(table)  # else a foreign rule jumps to it
            return ChainListing(
                is_entered=all(any(right for _, right in found) for found in jumps),
                is_tidy=all([right for _, right in found] == [True] for found in jumps),
                rules=rules,
                is_absent=not (table.is_chain(self._chain) and is_removable),
            )

    def closed(self, found: ChainListing, wall: float) -> frozenset[int]:
        """The ports that were closed when ``found`` was read, and still at ``wall``. A rule behind one that is not ours
        does not count: it may never be reached."""
        if not found.is_entered or wall >= self.until:
            return frozenset()
        reached = set(itertools.takewhile(set(self.written.values()).__contains__, found.rules))
        return frozenset(port for port, rule in self.written.items() if rule in reached)

    def is_as_written(self, found: ChainListing) -> bool:
        """Whether the chain has what was last written, and is entered once from everywhere."""
        return found.is_tidy and found.rules == tuple(self.written.values())

    def accepting(self, ports: Collection[int]) -> list[tuple[str, int, int]]:
        """The rules that accept new connections to a port before they reach our chain: each with its chain, its number
        there and the first such port. Where there is no jump yet, there is none: it will be put above all."""
        found = []
        with translated(self.where):
            table = self._fresh()
            for entry in self._entries:
                jump = next((position for position, right in self._jumps(table, entry) if right), 0)
                for position, rule in itertools.islice(enumerate(_walk(table, entry)), jump):
                    if table.get_target(rule) == b"ACCEPT":
                        taken = [p for p in ports if iptables_rules.takes_all(self._family, _raw(rule), p)]
                        found += [(entry, position + 1, port) for port in taken[:1]]
        return found

    def put(self, closed: Mapping[int, str], until: int) -> None:
        """Write exactly the rules of these ports, which end at ``until``, in whole seconds since 1970: one commit, or
        an error and no change. Without ports, jumps and chain are removed; only a chain stays, empty, into which a rule
        of another program jumps."""
        with translated(self.where):
            table = self._table()
            rules = {port: self._rule(port, until, comment) for port, comment in sorted(closed.items())}
            if rules:
                self._fill(table, self._chain, rules.values())
                for entry in self._entries:
                    self._leave_one_jump(table, entry)
            elif table.is_chain(self._chain):
                for entry in self._entries:
                    self._delete(table, entry, [position for position, _ in self._jumps(table, entry)])
                table.flush_entries(self._chain)
                if not self._references(table):
                    table.delete_chain(self._chain)
            table.commit()
        self.written, self.until = rules, until

    def probe(self) -> None:
        """Prove that the kernel takes our rule: put one where no packet comes, and remove it. The kernel checks all
        rules of a table, reachable or not."""
        with translated(self.where):
            try:
                table = self._fresh()
                self._fill(table, PROBE_CHAIN, [self._rule(iptables_rules.REDIRECT_PORT, 0, "a test")])
                table.commit()
            finally:
                table = self._fresh()
                if table.is_chain(PROBE_CHAIN):
                    table.flush_entries(PROBE_CHAIN)
                    table.delete_chain(PROBE_CHAIN)
                    table.commit()

    # --- the copy of the table

    def _table(self) -> Any:
        # The library has one object for each table in the whole process. With autocommit, a refresh would commit what
        # an unfinished change left behind; without, it drops that.
        return self._family.table(self._name, False)

    def _fresh(self) -> Any:
        table = self._table()
        table.refresh()
        return table

    @functools.cached_property
    def _patterns(self) -> tuple[Pattern, Pattern]:
        """The rule of a closed port, and the jump; built when the table has been opened. The C library ends the process
        where it gets no raw socket (no file descriptors left, say): try one first, for an exception instead."""
        socket.socket(self._family.number, socket.SOCK_RAW, socket.IPPROTO_RAW).close()
        jump = iptables_rules.jump_rule(self._family, self._chain)
        return iptables_rules.closing_rule(self._family, self._policy), jump

    def _rule(self, port: int, until: int, comment: str) -> bytes:
        closing, _ = self._patterns
        return closing.filled(port, until, clean_comment(comment, iptables_rules.MAX_COMMENT))

    def _fill(self, table: Any, chain: str, rules: Collection[bytes]) -> None:
        if not table.is_chain(chain):
            table.create_chain(chain)
        table.flush_entries(chain)
        for raw in rules:
            table.append_entry(chain, _buffer(raw))

    def _jumps(self, table: Any, entry: str) -> list[tuple[int, bool]]:
        """The position of each jump into our chain, and whether it takes exactly the packets that ours takes."""
        _, jump = self._patterns
        return [
            (position, jump.is_like(_raw(rule)))
            for position, rule in enumerate(_walk(table, entry))
            if table.get_target(rule) == self._chain.encode()
        ]

    def _leave_one_jump(self, table: Any, entry: str) -> None:
        """Keep the first right jump where it is, and no other; without one, insert it above all other rules."""
        jumps = self._jumps(table, entry)
        keep = next((position for position, right in jumps if right), None)
        self._delete(table, entry, [position for position, _ in jumps if position != keep])
        if keep is None:
            _, jump = self._patterns
            table.insert_entry(entry, _buffer(jump.raw), 0)

    # python-iptables has no public way to these two calls of libiptc. Its delete_entry deletes the first rule that
    # looks alike, which may be the jump to keep.

    def _delete(self, table: Any, entry: str, positions: Sequence[int]) -> None:
        for position in sorted(positions, reverse=True):
            if table._iptc.iptc_delete_num_entry(entry.encode(), position, table._handle) != 1:
                raise iptc.IPTCError(f"can't delete rule {position + 1} of {entry}: {table.strerror()}")

    def _references(self, table: Any) -> int:
        count = ctypes.c_uint()
        table._iptc.iptc_get_references(ctypes.byref(count), self._chain.encode(), table._handle)
        return count.value


def _walk(table: Any, chain: str) -> Iterator[Any]:
    entry = table.first_rule(chain)
    while entry:
        yield entry
        entry = table.next_rule(entry)


def _raw(entry: Any) -> bytes:
    return ctypes.string_at(ctypes.addressof(entry), entry.next_offset)


def _buffer(raw: bytes) -> Any:
    return (ctypes.c_ubyte * len(raw)).from_buffer_copy(raw)


# --- the lock


_LOCK_STEP = 0.002  # seconds between two attempts; a writer holds the lock for a few milliseconds, and may come often


@contextlib.contextmanager
def xtables_lock(path: str, timeout: float) -> Iterator[None]:
    """Hold the lock that ``iptables -w`` takes. Raises GateBusyError when it is not free within ``timeout`` seconds."""
    with contextlib.ExitStack() as held:
        with translated(f"the lock {path}"):
            handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            held.callback(os.close, handle)
            _acquire(handle, path, timeout)
        yield


def _acquire(handle: int, path: str, timeout: float) -> None:
    for _ in range(max(1, round(timeout / _LOCK_STEP))):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_LOCK_STEP)
    raise GateBusyError(
        f"another program holds the xtables lock {path} ({_holder(handle)}), so no port can be closed or opened. "
        "It will be tried again. Fix: if that program hangs, end it",
        {},
    )


def _holder(handle: int) -> str:
    """The process that holds the lock, from /proc/locks, e.g. ``3: FLOCK  ADVISORY  WRITE 1234 00:19:456 0 EOF``."""
    inode = str(os.fstat(handle).st_ino)
    with contextlib.suppress(OSError, IndexError), open("/proc/locks", encoding="utf-8") as locks:
        for fields in map(str.split, locks):
            if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode:
                with open(f"/proc/{fields[4]}/comm", encoding="utf-8", errors="replace") as comm:
                    return f"pid {fields[4]} {printable(comm.read().strip())}"
    return "its pid is unknown"


# --- errors


_NO_RIGHTS = "the listener may not change the firewall. Fix: run it as root; in a container, add NET_ADMIN and NET_RAW"
_NO_TABLE = (
    "this kernel has no legacy xtables. Fix: modprobe -a iptable_filter ip6table_filter (for method redirect: "
    "iptable_nat ip6table_nat)"
)
_NO_MATCH = (
    "the kernel lacks a part of the rule. Fix: modprobe -a xt_tcpudp xt_mark xt_time xt_comment ipt_REJECT ip6t_REJECT "
    "(for method redirect: xt_addrtype xt_REDIRECT)"
)
_NO_EXTENSION = "iptables' own extensions are missing. Fix: install the package `iptables`"
_NO_LOCK = (
    "another program changed the table at the same moment without the lock. It will be tried again. Fix: let that "
    "program use iptables -w"
)

_BYTES = re.compile(r"b'([^']*)'")
"""The kernel's words, as python-iptables formats them."""

_CAUSES: dict[str, tuple[type[GateError], str]] = {
    "Permission denied": (GatePermissionError, _NO_RIGHTS),
    "not permitted": (GatePermissionError, _NO_RIGHTS),
    "do you need to insmod": (GatePermissionError, _NO_TABLE),
    "Address family not supported": (GatePermissionError, _NO_TABLE),
    "No chain/target/match": (GatePermissionError, _NO_MATCH),
    "can't find match": (GatePermissionError, _NO_EXTENSION),
    "can't find target": (GatePermissionError, _NO_EXTENSION),
    "temporarily unavailable": (GateError, _NO_LOCK),
}
"""By a part of the error's text: libiptc turns errno into words, and python-iptables keeps only those."""


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn the errors of python-iptables and the kernel into GateError or GatePermissionError."""
    try:
        yield
    except (iptc.IPTCError, XTablesError, AttributeError, TypeError, ValueError, struct.error, OSError) as error:
        raise _translation(where, error) from error


def _translation(where: str, error: Exception) -> GateError:
    text = _BYTES.sub(r"\1", str(error))
    for sign, (kind, advice) in _CAUSES.items():
        if sign in text:
            return kind(f"iptables, {where}: {text}: {advice}")
    return GateError(
        f"iptables, {where}: {type(error).__name__}: {text}, so ports may be open. It will be tried again. If it "
        "stays, see iptables-legacy -S and the kernel log"
    )
