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
  twice: a rule that was deleted and restored by hand counts as a gap.
* A port's "since" begins anew, after the transaction that closed it again, when its element was missing, the rules were
  changed, or its lease ended before the new one began. A new object takes over nothing of what it finds.

For one thread.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from supervisor_rolling.core.endpoint import TCP, Endpoint, by_endpoint, by_port
from supervisor_rolling.core.errors import GateError, GatePermissionError
from supervisor_rolling.core.policy import BYPASS_ADDRESS, BYPASS_MARK, GatePolicy
from supervisor_rolling.core.preflight_report import Finding
from supervisor_rolling.listener.system.libnftables import AbsentError, Nftables, UnreadableError, leases, removal
from supervisor_rolling.listener.system.rule_names import clean_comment, mark_of

_CHAIN = {"name": "input", "type": "filter", "hook": "input", "prio": -10, "policy": "accept"}
_MAX_COMMENT = 127  # bytes: of the 128 that nft allows one is for the NUL
_PROBE_PORT = 9  # "discard": no process listens there

_IS_SYN = "tcp flags & (fin|syn|rst|ack) == syn"
_RULES = {
    "mark": [f"{_IS_SYN} tcp dport @closed meta mark != {BYPASS_MARK:#x} reject with tcp reset"],
    "address": [f"ip saddr {BYPASS_ADDRESS} return", f"{_IS_SYN} tcp dport @closed reject with tcp reset"],
}
"""The rules of the chain, by ``gate.bypass``."""

_NO_PART = "the kernel lacks a part of the rule. Fix: modprobe -a nf_tables nft_reject_inet"


@dataclass(frozen=True)
class Found:
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
        self._lease = math.ceil(policy.lease)  # listings give whole seconds
        self._table = OwnTable(Nftables(), table_of(owner), _RULES[policy.bypass], self._lease)
        self._number_of_rules = len(_RULES[policy.bypass])
        self._clock = clock
        self._rules: tuple[str, ...] = ()
        self._written: frozenset[int] = frozenset()
        self._until = 0.0
        self._since: dict[int, float] = {}

    def hold(self, closed: Mapping[Endpoint, str], drained: Collection[Endpoint] = ()) -> Mapping[Endpoint, float]:
        """Make exactly these ports closed; see ``Gate.hold``."""
        ports = by_port(closed)
        found = self._table.look()
        self._note(found)
        if not self._is_as_asked(found, ports):
            self._write(found, ports)
        return by_endpoint(self._since)

    def inspect(self, endpoints: Mapping[Endpoint, str]) -> Sequence[Finding]:
        """Nothing: no rule of another program can open what this gate closes; see ``Gate.inspect``."""
        return ()

    def check(self) -> None:
        """Raise where rights or kernel support are missing; see ``Gate.check``."""
        self._table.look()
        self._table.probe()

    def _note(self, found: Found) -> None:
        """Note since when each port is closed, and forget those that are open. The clock is read after the listing, and
        so after the transaction that closed a port that is found closed for the first time."""
        is_ours = (
            bool(self._rules) and found.rules[: len(self._rules)] == self._rules
        )  # what stands below takes nothing
        closed = self._written & found.left.keys() if found.entered and is_ours else frozenset()
        now = self._clock()
        self._since = {port: self._since.get(port, now) for port in sorted(closed)}

    def _is_as_asked(self, found: Found, closed: Mapping[int, str]) -> bool:
        if not closed:
            return not found.exists
        are_fresh = all(self._lease * 2 / 3 <= left <= self._lease for left in found.left.values())
        return found.left.keys() == closed.keys() and self._is_tidy(found) and are_fresh

    def _is_tidy(self, found: Found) -> bool:
        return found.whole and bool(self._rules) and found.rules == self._rules

    def _write(self, found: Found, closed: Mapping[int, str]) -> None:
        """Change the table, and note what is read back."""
        before = self._clock()
        with_rules = not self._is_tidy(found)
        if closed:
            self._table.put(closed, found, with_rules)
        else:
            self._table.remove()
        if self._clock() >= self._until or not found.whole:  # it may have been open for a moment
            self._since.clear()
        self._written, self._until = frozenset(closed), before + self._lease
        found = self._table.look()
        if with_rules:
            self._rules = found.rules if len(found.rules) == self._number_of_rules else ()
        self._note(found)


class OwnTable:
    """Our table: reads it, and changes it in one transaction a call. Raises GateError and GatePermissionError."""

    def __init__(self, nft: Nftables, name: str, rules: Sequence[str], lease: int) -> None:
        self._nft = nft
        self._name = name
        self._rules = rules
        self._lease = lease

    def look(self) -> Found:
        """Read the table."""
        try:
            return _found(self._nft.run(f"list table inet {self._name}"))
        except AbsentError:
            return Found()
        except UnreadableError:  # then it is not as we made it
            return Found(exists=True)

    def put(self, closed: Mapping[int, str], found: Found, with_rules: bool) -> None:
        """Close exactly these ports for one lease; ``found`` is the table as it is; ``with_rules``: write the rules,
        too."""
        anew = [] if found.whole or not found.exists else removal(self._name)
        gone = {*closed, *(found.left if found.whole else ())}
        rules = [f"flush chain inet {self._name} input", *_rules(self._name, self._rules)] if with_rules else []
        self._change(
            *anew,
            *_frame(self._name),
            self._elements("add", dict.fromkeys(gone, "")),  # deleting one that has just expired would fail
            self._elements("delete", dict.fromkeys(gone, "")),
            self._elements("add", closed),
            *rules,
        )

    def remove(self) -> None:
        """Remove the table, if it is still there."""
        self._change(*removal(self._name))

    def probe(self) -> None:
        """Prove that the kernel takes our table: make another one and remove it in one transaction, of which no packet
        sees anything. The kernel checks the whole transaction before it applies any of it."""
        name = f"{self._name}-check"
        element = f"add element inet {name} closed {{ {_element(_PROBE_PORT, 'a test', self._lease)} }}"
        self._change(*_frame(name), element, *_rules(name, self._rules), *removal(name))

    def _elements(self, verb: str, ports: Mapping[int, str]) -> str:
        elements = (_element(port, comment, self._lease) for port, comment in sorted(ports.items()))
        return f"{verb} element inet {self._name} closed {{ {', '.join(elements)} }}"

    def _change(self, *commands: str) -> None:
        try:
            self._nft.run(*commands)
        except AbsentError as error:  # all that our commands name is added first, but for parts of the kernel
            raise GatePermissionError(f"{error}: {_NO_PART}") from error
        except GatePermissionError:
            raise
        except GateError as error:
            raise GateError(
                f"Cannot change table inet {self._name}, so ports may be open: {error}. It will be tried again. If it "
                "stays, see nft list ruleset and the kernel log"
            ) from error


def table_of(owner: str) -> str:
    """The name of the table of one supervisord: two on a host have different ones."""
    return f"supervisor-rolling-{mark_of(owner)}"


# --- listings


def _found(objects: Sequence[Mapping[str, Any]]) -> Found:
    tables, chains, sets, rules = (list(_of_kind(kind, objects)) for kind in ("table", "chain", "set", "rule"))
    ours = [one for one in sets if _is_our_set(one)]
    is_dormant = any(table.get("flags") for table in tables)
    entered = not is_dormant and any(_CHAIN.items() <= chain.items() for chain in chains)
    is_alone = len(chains) == len(sets) == len(ours) == 1 and len(objects) == 3 + len(rules)
    return Found(
        exists=True,
        entered=entered,
        whole=entered and is_alone,
        rules=tuple(_text(tables, rule) for rule in rules if rule["chain"] == _CHAIN["name"]),
        left={port: left for one in ours for port, left in leases(one)},
    )


def _of_kind(kind: str, objects: Sequence[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    return (one[kind] for one in objects if kind in one)


def _is_our_set(found: Mapping[str, Any]) -> bool:
    has_timeouts = found.get("flags") in ("timeout", ["timeout"])  # one version writes a word, another a list of it
    return (found["name"], found["type"], has_timeouts) == ("closed", "inet_service", True)


def _text(tables: Sequence[Any], rule: Any) -> str:
    """With both handles: a table counts its rules from 1 again when it was removed and restored."""
    return json.dumps([tables, rule], sort_keys=True)


# --- commands


def _frame(table: str) -> list[str]:
    """Add table, set and chain where they do not exist."""
    return [
        f"add table inet {table}",
        f"add set inet {table} closed {{ type inet_service; flags timeout; }}",
        f"add chain inet {table} input {{ type filter hook input priority -10; policy accept; }}",
    ]


def _rules(table: str, rules: Sequence[str]) -> list[str]:
    return [f"add rule inet {table} input {rule}" for rule in rules]


def _element(port: int, comment: str, lease: int) -> str:
    comment = clean_comment(comment, _MAX_COMMENT)
    return f"{port} timeout {lease}s" + (f' comment "{comment}"' if comment else "")
