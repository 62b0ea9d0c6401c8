"""One table of one address family, as far as it is ours: a chain, its rules, and the jumps into it.

Underneath are python-iptables' Table objects and libiptc: ``look`` copies the whole table from the kernel, changes are
made to the copy, ``commit`` puts the whole table back at once. Without a lock two writers lose each other's changes
and neither is told (``commit`` reports success), so ``put``, ``remove`` and ``probe`` are for the holder of
``xtables_lock``.

Not for several threads: python-iptables crashes.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import socket
import struct
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import iptc
from iptc.errors import XTablesError

from supervisor_rolling.core.errors import GateBusyError, GateError, GatePermissionError
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.core.text import printable
from supervisor_rolling.listener.gates import iptables_rules
from supervisor_rolling.listener.system.rule_names import clean_comment

PROBE = "SUPERVISOR-ROLLING-CHECK"
"""The chain in which ``probe`` tries a rule. One name for all owners: the next probe clears up after a killed one."""


@dataclass(frozen=True)
class Found:
    """What a table holds of ours. ``reached``: new connections enter the chain. ``tidy``: by one jump from each entry.

    ``rules``: raw entries, cleaned. ``nothing``: no chain, no jump, no rule that we could remove.
    """

    reached: bool
    tidy: bool
    rules: tuple[bytes, ...]
    nothing: bool


class OwnChain:
    """Our chain in one table of one family.

    ``look`` comes first: what is built needs an open table, and ``put`` and ``remove`` change the copy that it read.
    Each of those two is one commit, or an error and nothing. Errors are GateError and GatePermissionError.
    """

    def __init__(self, family: iptables_rules.Family, policy: GatePolicy, chain: str) -> None:
        redirect = policy.method == "redirect"
        self._family = family
        self._policy = policy
        self._chain = chain
        self._name = "nat" if redirect else "filter"
        self._entries = ("PREROUTING", "OUTPUT") if redirect else ("INPUT",)
        self.where = f"table {self._name}, {family.name}"
        self._patterns: tuple[iptables_rules.Pattern, iptables_rules.JumpPattern] | None = None

    def look(self) -> Found:
        """Read the table anew. Drops what an unfinished change left in the copy."""
        with translated(self.where):
            table = self._fresh()
            jumps = [self._jumps(table, entry) for entry in self._entries]
            held = tuple(self._closing.clean(_raw(entry)) for entry in _walk(table, self._chain))
            exists = table.is_chain(self._chain)
            return Found(
                reached=all(any(right for _, right in found) for found in jumps),
                tidy=all([right for _, right in found] == [True] for found in jumps),
                rules=held,
                nothing=not exists or not (held or any(jumps) or not self._references(table)),
            )

    def accepting(self, ports: Collection[int]) -> list[tuple[str, int, int]]:
        """The rules that accept new connections to a port before our chain is asked, each with its chain, its number
        there and the first such port. Where there is no jump into ours yet, there is none: it is put above all."""
        with translated(self.where):
            table = self._fresh()
            return [found for entry in self._entries for found in self._accepting(table, entry, ports)]

    def _accepting(self, table: Any, entry: str, ports: Collection[int]) -> Iterator[tuple[str, int, int]]:
        jump = next((position for position, right in self._jumps(table, entry) if right), 0)
        for position, rule in itertools.islice(enumerate(_walk(table, entry)), jump):
            if table.get_target(rule) == b"ACCEPT":
                raw = _raw(rule)
                taken = next((port for port in ports if iptables_rules.takes(self._family, raw, port)), None)
                yield from [(entry, position + 1, taken)] if taken is not None else []

    def filled(self, port: int, datestop: int, comment: str) -> bytes:
        """The rule that closes a port until ``datestop``, in whole seconds since 1970."""
        with translated(f"the rule for port {port}"):
            return self._closing.filled(port, datestop, clean_comment(comment, iptables_rules.LONGEST_COMMENT))

    def put(self, selected: Sequence[bytes]) -> None:
        """Make these the rules of the chain, with one jump into it from each entry."""
        with translated(self.where):
            table = self._table()
            self._refill(table, self._chain, selected)
            for entry in self._entries:
                self._leave_one_jump(table, entry)
            table.commit()

    def remove(self) -> None:
        """Take away jumps, rules and chain; only a chain that somebody else's rule jumps to stays, empty."""
        with translated(self.where):
            table = self._table()
            if not table.is_chain(self._chain):
                return
            for entry in self._entries:
                self._delete(table, entry, [position for position, _ in self._jumps(table, entry)])
            table.flush_entries(self._chain)
            if not self._references(table):
                table.delete_chain(self._chain)
            table.commit()

    def probe(self) -> None:
        """Prove that the kernel takes our rule: put it where no packet comes, and take it away again.

        The kernel checks the matches and the target of every rule in a table, reachable or not.
        """
        with translated(self.where):
            try:
                table = self._fresh()
                self._refill(
                    table, PROBE, [self._closing.filled(iptables_rules.REDIRECT_PORT, 0, "a test, gone in a moment")]
                )
                table.commit()
            finally:
                self._remove_probe()

    def _remove_probe(self) -> None:
        table = self._fresh()
        if table.is_chain(PROBE):
            table.flush_entries(PROBE)
            table.delete_chain(PROBE)
            table.commit()

    # --- the copy of the table

    def _table(self) -> Any:
        # The library keeps one object per table for the whole process. With autocommit, a refresh would commit what an
        # unfinished change left behind; without, it drops it.
        return self._family.table(self._name, False)

    def _fresh(self) -> Any:
        table = self._table()
        table.refresh()
        if self._patterns is None:
            self._patterns = self._build()
        return table

    def _build(self) -> tuple[iptables_rules.Pattern, iptables_rules.JumpPattern]:
        # The C library asks the kernel for revisions over a raw socket, and calls exit(1) where it gets none (no file
        # descriptors left, say): try it where an exception comes of it.
        socket.socket(self._family.number, socket.SOCK_RAW, socket.IPPROTO_RAW).close()
        return iptables_rules.closing(self._family, self._policy), iptables_rules.jump(self._family, self._chain)

    @property
    def _closing(self) -> iptables_rules.Pattern:
        assert self._patterns is not None, "look() comes first"
        return self._patterns[0]

    @property
    def _jump(self) -> iptables_rules.JumpPattern:
        assert self._patterns is not None, "look() comes first"
        return self._patterns[1]

    def _refill(self, table: Any, chain: str, selected: Sequence[bytes]) -> None:
        if not table.is_chain(chain):
            table.create_chain(chain)
        table.flush_entries(chain)
        for raw in selected:
            table.append_entry(chain, _buffer(raw))

    def _jumps(self, table: Any, entry: str) -> list[tuple[int, bool]]:
        """The place of each jump into our chain, and whether it has the form that we give it."""
        return [
            (position, self._jump.is_like(_raw(rule)))
            for position, rule in enumerate(_walk(table, entry))
            if table.get_target(rule) == self._chain.encode()
        ]

    def _leave_one_jump(self, table: Any, entry: str) -> None:
        """Keep the first that is right where it is; without one, insert it above all other rules."""
        jumps = self._jumps(table, entry)
        keep = next((position for position, right in jumps if right), None)
        self._delete(table, entry, [position for position, _ in jumps if position != keep])
        if keep is None:
            table.insert_entry(entry, _buffer(self._jump.raw), 0)

    # python-iptables has no public way to these two calls of libiptc. Its delete_entry takes the first rule that looks
    # alike, and of several jumps that is the one to keep.

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
    where = f"the lock {path}"
    with translated(where):
        handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with translated(where):
            _acquire(handle, path, timeout)
        yield
    finally:
        os.close(handle)


def _acquire(handle: int, path: str, timeout: float) -> None:
    for _ in range(max(1, round(timeout / _LOCK_STEP))):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_LOCK_STEP)
    raise GateBusyError(
        f"another program holds the xtables lock {path} ({_holder(handle)}), and the firewall is changed as soon as "
        "that is free. Fix: end that program if it hangs",
        {},
    )


def _holder(handle: int) -> str:
    """Who holds the lock, from /proc/locks, e.g. ``3: FLOCK  ADVISORY  WRITE 1234 00:19:456 0 EOF``."""
    inode = str(os.fstat(handle).st_ino)
    with contextlib.suppress(OSError, IndexError), open("/proc/locks", encoding="utf-8") as locks:
        for fields in map(str.split, locks):
            if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode:
                return f"pid {fields[4]} {_program(fields[4])}"
    return "its pid is unknown"


def _program(pid: str) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
        return printable(comm.read().strip())


# --- errors


_NO_RIGHTS = "the listener may not change the firewall: run it as root, or give it CAP_NET_ADMIN and CAP_NET_RAW"
_NO_TABLE = (
    "this kernel offers no legacy xtables here: try modprobe -a iptable_filter ip6table_filter (for method redirect: "
    "iptable_nat ip6table_nat)"
)
_NO_MATCH = (
    "the kernel lacks a part of the rule: try modprobe -a xt_tcpudp xt_mark xt_time xt_comment ipt_REJECT ip6t_REJECT "
    "(for method redirect: xt_addrtype xt_REDIRECT)"
)
_NO_EXTENSION = "iptables' own extensions are missing: install the package `iptables`"
_NO_LOCK = (
    "another program changed the table at the same moment without taking the lock: let it use iptables -w. The next "
    "turn tries again"
)

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
"""By what an error says: libiptc turns errno into words, and python-iptables keeps only those."""


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn what python-iptables and the kernel raise into GateError or GatePermissionError."""
    try:
        yield
    except (iptc.IPTCError, XTablesError, AttributeError, TypeError, ValueError, struct.error, OSError) as error:
        raise _translation(where, error) from error


def _translation(where: str, error: Exception) -> GateError:
    text = str(error)
    for sign, (kind, advice) in _CAUSES.items():
        if sign in text:
            return kind(f"Gate, {where}: {text}: {advice}.")
    return GateError(
        f"Gate, {where}: {type(error).__name__}: {text}. Ports may be open. The next turn tries again; if it "
        "stays, look at iptables-legacy -S and the kernel log."
    )
