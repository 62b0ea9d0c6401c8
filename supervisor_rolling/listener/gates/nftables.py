"""The ``Gate`` that closes ports with a set of nftables from which the kernel removes each port when its lease ends.

    table inet supervisor-rolling-1f2e3d4c {
        set closed {
            type inet_service
            flags timeout
            elements = { 8000 timeout 30s expires 25s comment "…" }
        }
        chain input {
            type filter hook input priority filter - 10; policy accept;
            tcp flags syn / fin,syn,rst,ack tcp dport @closed meta mark != 0x726f6c6c reject with tcp reset
        }
    }

With ``bypass: address`` the rule ``ip saddr 127.0.0.2 return`` above that one replaces the mark. One table serves both
address families, without conntrack. A bare ``tcp flags syn`` would miss a SYN that asks for ECN.

A packet walks the chains of all tables that are hooked to input, by priority; those of iptables stand at 0. ``accept``
ends one chain and not the walk, so no rule of another program opens a closed port. Ours stands before the usual chains
(-10): before a drop, which would let a load balancer wait where it could try the next server, and before a
``synproxy``, which would answer for the application. Rules before ours can set the mark of a packet (opens), clear that
of a warm-up (closes), change its port (the one that arrives here counts), or take it away (``queue``, XDP).

Beyond the contract of ``Gate``:

* Only our table is touched. Each change is one transaction, done as a whole or not at all, and needs no lock.
* A hold that finds everything as written costs one listing of our table. A lease is renewed when a third of it has
  passed; a comment that alone has changed is written then, too.
* A renewal adds, deletes and adds each element in one transaction: no packet finds it missing, and the delete does not
  fail where the element has just expired. A changed or inherited table gets its rules and elements anew in the same
  way while its chain stays; only where the chain or the set is no longer ours is the table removed and made again.
* Only what is read back counts. Rules are known by their handles and their table's, which the kernel never gives
  twice: a rule that was deleted and restored by another program counts as a gap.
* A port's "since" begins anew, after the transaction that closed it again, when its element was missing, the rules were
  changed, or its lease ended before the new one began. A new object takes over nothing of what it finds.

For one thread.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from supervisor_rolling.core.endpoint import TCP, Endpoint, by_endpoint, by_port
from supervisor_rolling.core.errors import GateError, GatePermissionError
from supervisor_rolling.core.gate_choice import OUR_TABLES
from supervisor_rolling.core.policy import BYPASS_ADDRESS, BYPASS_MARK, GatePolicy
from supervisor_rolling.core.preflight_report import Finding
from supervisor_rolling.listener.system.libnftables import AbsentError, Nftables, UnreadableAnswerError, leases, removal
from supervisor_rolling.listener.system.rule_names import clean_comment, mark_of

_CHAIN = {"name": "input", "type": "filter", "hook": "input", "prio": -10, "policy": "accept"}
_TABLE = """table inet %s {
    set closed { type inet_service; flags timeout; }
    chain input { type filter hook input priority -10; policy accept; }
}"""
_IS_SYN = "tcp flags & (fin|syn|rst|ack) == syn"
_RULES = {
    "mark": [f"{_IS_SYN} tcp dport @closed meta mark != {BYPASS_MARK:#x} reject with tcp reset"],
    "address": [f"ip saddr {BYPASS_ADDRESS} return", f"{_IS_SYN} tcp dport @closed reject with tcp reset"],
}
"""The rules of the chain, by ``gate.bypass``."""

_MAX_COMMENT = 127  # bytes: of the 128 that nft allows one is for the NUL
_PROBE_PORT = 9  # "discard": no process listens there
_NO_PART = "the kernel lacks a part of the rule. Fix: modprobe -a nf_tables nft_reject_inet"


@dataclass(frozen=True)
class TableListing:
    """What a listing shows of our table."""

    exists: bool = False
    entered: bool = False  # new connections enter its chain
    whole: bool = False  # it has our form and holds nothing else; the rules are not compared
    rules: tuple[str, ...] = ()  # of its chain, each with its handle and the table's
    left: Mapping[int, float] = field(default_factory=dict)  # of each lease, in seconds rounded down; inf: no lease


class NftablesGate:
    """The nftables backend. ``clock`` gives CLOCK_MONOTONIC seconds. Raises GatePermissionError where the library or
    the rights are missing."""

    name = "nftables"
    closes = frozenset({TCP})

    def __init__(self, policy: GatePolicy, owner: str, clock: Callable[[], float]) -> None:
        self._nft = Nftables()
        self._table = table_of(owner)
        self.description = f"nftables; while ports are closed, nft list table inet {self._table} lists them"
        self._rules = _RULES[policy.bypass]
        self._lease = math.ceil(policy.lease)  # listings give whole seconds
        self._clock = clock
        self._written: frozenset[int] = frozenset()
        self._written_rules: tuple[str, ...] = ()  # as read back
        self._until = 0.0
        self._since: dict[int, float] = {}

    def hold(self, closed: Mapping[Endpoint, str], drained: Collection[Endpoint] = ()) -> Mapping[Endpoint, float]:
        """Make exactly these ports closed; see ``Gate.hold``."""
        ports, found = by_port(closed), self._look()
        self._note(found)
        if not self._is_as_asked(found, ports):
            self._write(found, ports)
        return by_endpoint(self._since)

    def inspect(self, endpoints: Mapping[Endpoint, str]) -> Sequence[Finding]:
        """Nothing: no rule of another program can open what this gate closes; see ``Gate.inspect``."""
        return ()

    def check(self) -> None:
        """Raise where rights or kernel support are missing; see ``Gate.check``. Makes and removes another table in one
        transaction, of which no packet sees anything: the kernel checks all of it before it applies any."""
        self._look()
        name = f"{self._table}-check"
        elements = self._elements("add", name, {_PROBE_PORT: "a test"})
        self._change(_TABLE % name, elements, *self._rules_of(name), *removal(name))

    def _look(self) -> TableListing:
        try:
            return _found(self._nft.run(f"list table inet {self._table}"))
        except AbsentError:
            return TableListing()
        except UnreadableAnswerError:  # then it is not as we made it
            return TableListing(exists=True)

    def _note(self, found: TableListing) -> None:
        """Note since when each port is closed, and forget those that are open. The clock is read after the listing, and
        so after the transaction that closed a port that is found closed for the first time."""
        ours = self._written_rules
        is_refusing = found.entered and bool(ours) and found.rules[: len(ours)] == ours  # rules below take nothing
        now = self._clock()
        closed = sorted(self._written & found.left.keys()) if is_refusing else []
        self._since = {port: self._since.get(port, now) for port in closed}

    def _is_as_asked(self, found: TableListing, closed: Mapping[int, str]) -> bool:
        if not closed:
            return not found.exists
        are_fresh = all(self._lease * 2 / 3 <= left <= self._lease for left in found.left.values())
        return found.left.keys() == closed.keys() and self._is_tidy(found) and are_fresh

    def _is_tidy(self, found: TableListing) -> bool:
        return found.whole and bool(found.rules) and found.rules == self._written_rules

    def _write(self, found: TableListing, closed: Mapping[int, str]) -> None:
        """Change the table, and note what is read back."""
        before = self._clock()
        is_tidy = self._is_tidy(found)
        self._change(*(self._closing(found, closed) if closed else removal(self._table)))
        if self._clock() >= self._until or not found.whole:  # it may have been open for a moment
            self._since.clear()
        self._written, self._until = frozenset(closed), before + self._lease
        found = self._look()
        if not is_tidy:
            self._written_rules = found.rules if len(found.rules) == len(self._rules) else ()
        self._note(found)

    def _closing(self, found: TableListing, closed: Mapping[int, str]) -> list[str]:
        """The commands that close exactly these ports for one lease, where the table is as found."""
        gone = dict.fromkeys({*closed, *(found.left if found.whole else ())}, "")
        return [
            *(removal(self._table) if found.exists and not found.whole else []),
            _TABLE % self._table,
            self._elements("add", self._table, gone),  # to delete one that has just expired would fail
            self._elements("delete", self._table, gone),
            self._elements("add", self._table, closed),
            *([] if self._is_tidy(found) else [f"flush chain inet {self._table} input", *self._rules_of(self._table)]),
        ]

    def _rules_of(self, table: str) -> list[str]:
        return [f"add rule inet {table} input {rule}" for rule in self._rules]

    def _elements(self, verb: str, table: str, ports: Mapping[int, str]) -> str:
        elements = ", ".join(_element(port, comment, self._lease) for port, comment in sorted(ports.items()))
        return f"{verb} element inet {table} closed {{ {elements} }}"

    def _change(self, *commands: str) -> None:
        try:
            self._nft.run(*commands)
        except AbsentError as error:  # all that our commands name is added first, but for parts of the kernel
            raise GatePermissionError(f"{error}: {_NO_PART}") from error
        except GatePermissionError:
            raise
        except GateError as error:
            raise GateError(
                f"Cannot change table inet {self._table}, so ports may be open: {error}. It will be tried again. If it "
                "stays, see nft list ruleset and the kernel log"
            ) from error


def table_of(owner: str) -> str:
    """The name of the table of one supervisord: two on a host have different ones."""
    return f"{OUR_TABLES}{mark_of(owner)}"


def _found(objects: Sequence[Mapping[str, Any]]) -> TableListing:
    tables, chains, sets, rules = ([one[kind] for one in objects if kind in one] for kind in _KINDS)
    ours = [one for one in sets if _is_our_set(one)]
    is_dormant = any(table.get("flags") for table in tables)
    entered = not is_dormant and any(_CHAIN.items() <= chain.items() for chain in chains)
    return TableListing(
        exists=True,
        entered=entered,
        whole=entered and len(chains) == len(sets) == len(ours) == 1 and len(objects) == 3 + len(rules),
        # With both handles: a table that was removed and restored counts its rules from 1 again.
        rules=tuple(json.dumps([tables, one], sort_keys=True) for one in rules if one["chain"] == _CHAIN["name"]),
        left={port: left for one in ours for port, left in leases(one)},
    )


_KINDS = ("table", "chain", "set", "rule")


def _is_our_set(found: Mapping[str, Any]) -> bool:
    has_timeouts = found.get("flags") in ("timeout", ["timeout"])  # one version writes a word, another a list of it
    return (found["name"], found["type"], has_timeouts) == ("closed", "inet_service", True)


def _element(port: int, comment: str, lease: int) -> str:
    comment = clean_comment(comment, _MAX_COMMENT)
    return f"{port} timeout {lease}s" + (f' comment "{comment}"' if comment else "")
