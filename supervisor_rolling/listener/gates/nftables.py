"""Closes ports with a set of nftables whose elements the kernel forgets by itself: the ``Gate`` of ``contracts.py``.

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

``bypass: address`` has ``ip saddr 127.0.0.2 return`` above that rule in place of the mark. One table for both address
families, and none of conntrack. A bare ``tcp flags syn`` would miss a SYN that asks for ECN.

What can override it. A packet walks every chain of every table that is hooked to input, in the order of their
priorities, and those of iptables are among them at 0. ``accept`` ends one chain, not the walk, so no foreign accept
opens a closed port; a reject or a drop ends the walk wherever it stands. Ours comes before the usual chains (-10):
before a foreign drop, which would make a load balancer wait where it could try the next server, and before a
``synproxy``, which would answer a SYN in the application's name. What comes before us can: change the mark of a packet
to ours (opens) or that of a warm-up (closes it out), send it to another port (it is the port that arrives here that
counts), or steal it (``queue``, XDP, another synproxy).

The contract beyond that of ``Gate``:

* Only our table is ever touched. Every change is one transaction, all of it or nothing, and needs no lock.
* A look that finds everything as it was written costs a listing of our table and no write. The lease is renewed when a
  third of it is used up, so a comment that changed alone becomes visible only then.
* A renewal is add, delete and add of every element in one transaction: no packet ever finds it gone, and the delete
  does not fail over an element that has just expired. A table, too, that somebody changed or a predecessor left gets
  its rules and elements anew in one transaction, and the chain stays; only where the chain or the set are not ours any
  more is it taken down and made again.
* Nothing is believed but what is read back. Rules are known by their handles and their table's, which the kernel never
  gives twice: a rule that somebody put back by hand is not the one that was there, and counts as a gap.
* A port's "since" begins anew, after the transaction that closed it again, whenever a look finds its element gone or
  the rules changed, or its lease ended before the new one was in force. A new object knows nothing of what it finds.

For one thread only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from supervisor_rolling.core.errors import GateError, GatePermissionError
from supervisor_rolling.core.policy import BYPASS_ADDRESS, BYPASS_MARK, GatePolicy
from supervisor_rolling.core.preflight_report import Finding
from supervisor_rolling.listener.system.libnftables import AbsentError, Command, Nftables, UnreadableError
from supervisor_rolling.listener.system.nftables_tables import FAMILY, entire, inside, leases, removal
from supervisor_rolling.listener.system.rule_names import clean_comment, mark_of

PRIORITY = -10
CHAIN, SET = "input", "closed"

_LONGEST_COMMENT = 127
"""Bytes: of the 128 that nft allows one is for the NUL."""

_A_PORT = 9
"""For ``probe``: "discard", where nobody listens."""

_NO_PART = "this kernel lacks a part of the rule: try modprobe -a nf_tables nft_reject_inet"


@dataclass(frozen=True)
class Found:
    """What there is of our table. ``entered``: new connections enter its chain. ``whole``: it has the form that we give
    it and holds nothing else, but for the rules. ``rules``: each with its handle. ``left``: of the lease of each
    element, in seconds rounded down; infinite for one without."""

    exists: bool = False
    entered: bool = False
    whole: bool = False
    rules: tuple[str, ...] = ()
    left: Mapping[int, float] = field(default_factory=dict)


class NftablesGate:
    """The nftables backend. ``clock`` gives CLOCK_MONOTONIC seconds. Raises GatePermissionError where the library is
    missing."""

    name = "nftables"

    def __init__(self, policy: GatePolicy, owner: str, clock: Callable[[], float]) -> None:
        self._table = OwnTable(Nftables(), table_of(owner), policy.bypass)
        self._lease = math.ceil(policy.lease)  # the library's JSON knows whole seconds
        self._clock = clock
        self._rules: tuple[str, ...] = ()
        self._written: frozenset[int] = frozenset()
        self._until = 0.0
        self._since: dict[int, float] = {}

    def hold(self, closed: Mapping[int, str], drained: Collection[int] = ()) -> Mapping[int, float]:
        """Make exactly these ports closed; see ``Gate.hold``."""
        found = self._look()
        if not self._as_asked(found, closed):
            self._write(found, closed)
        return dict(self._since)

    def inspect(self, ports: Mapping[int, str]) -> Sequence[Finding]:
        """No rule of others can open what this one closes; see ``Gate.inspect``."""
        return ()

    def check(self) -> None:
        """Try whether rights and kernel suffice; see ``Gate.check``."""
        self._table.look()
        self._table.probe(self._lease)

    def _look(self) -> Found:
        """Read our table, and forget the ports that are found open. The clock is read after the look, and so after the
        transaction that closed what is found closed for the first time."""
        found = self._table.look()
        now = self._clock()
        self._since = {port: self._since.get(port, now) for port in sorted(self._intact(found))}
        return found

    def _intact(self, found: Found) -> frozenset[int]:
        """The ports that were refused when the look was made. What stands below our rules takes nothing from them."""
        is_ours = bool(self._rules) and found.rules[: len(self._rules)] == self._rules
        return self._written & found.left.keys() if found.entered and is_ours else frozenset()

    def _as_asked(self, found: Found, closed: Mapping[int, str]) -> bool:
        if not closed:
            return not found.exists
        are_the_ports = found.left.keys() == closed.keys()
        return are_the_ports and self._tidy(found) and all(map(self._is_fresh, found.left.values()))

    def _tidy(self, found: Found) -> bool:
        return found.whole and bool(self._rules) and found.rules == self._rules

    def _is_fresh(self, left: float) -> bool:
        return self._lease * 2 / 3 <= left <= self._lease

    def _write(self, found: Found, closed: Mapping[int, str]) -> None:
        """Make it so, and believe what is read back."""
        if not closed:
            self._table.remove()
            self._rules, self._written = (), frozenset()
            self._look()
            return
        before = self._clock()
        self._table.put(closed, self._lease, found, with_rules=not self._tidy(found))
        if self._clock() >= self._until or not found.whole:  # it may have been open for a moment
            self._since.clear()
        self._written, self._until = frozenset(closed), before + self._lease
        if not self._tidy(found):
            self._rules = self._table.own_rules()
        self._look()


class OwnTable:
    """Our table: what there is of it, and changes to it, each of which is one transaction or an error and nothing.

    Errors are GateError and GatePermissionError.
    """

    def __init__(self, nft: Nftables, name: str, bypass: str) -> None:
        self._nft = nft
        self._name = name
        self._rules = _rules(bypass)

    def look(self) -> Found:
        """Read the table anew."""
        try:
            return _found(self._nft.run([{"list": {"table": entire(self._name)}}]))
        except AbsentError:
            return Found()
        except UnreadableError:  # then it is not as we made it
            return Found(exists=True)

    def own_rules(self) -> tuple[str, ...]:
        """The rules, as read back, of a chain that ``put`` has just filled; none where they are not all there."""
        rules = self.look().rules
        return rules if len(rules) == len(self._rules) else ()

    def put(self, closed: Mapping[int, str], lease: int, found: Found, with_rules: bool) -> None:
        """Close exactly these ports for ``lease`` seconds; ``found`` is what there is, and ``with_rules`` says whether
        the rules are written, too."""
        anew = [] if found.whole or not found.exists else removal(self._name)
        emptied = _elements_gone(self._name, found.left if found.whole else (), closed, lease)
        rules = [{"flush": {"chain": inside(self._name, name=CHAIN)}}, *self._rule_commands(self._name)]
        commands = [*anew, *_frame(self._name), *emptied, _elements(self._name, closed, lease)]
        self._change([*commands, *(rules if with_rules else [])])

    def remove(self) -> None:
        """Take the table away, also one that has gone meanwhile."""
        self._change(removal(self._name))

    def probe(self, lease: int) -> None:
        """Prove that the kernel takes our table: make one and take it away again, in one transaction that nobody sees.

        The kernel checks all of a transaction before it begins with any.
        """
        name = f"{self._name}-check"
        elements = _elements(name, {_A_PORT: "a test, gone in a moment"}, lease)
        self._change([*_frame(name), elements, *self._rule_commands(name), *removal(name)])

    def _rule_commands(self, table: str) -> list[Command]:
        return [{"add": {"rule": inside(table, chain=CHAIN, expr=expressions)}} for expressions in self._rules]

    def _change(self, commands: Sequence[Command]) -> None:
        try:
            self._nft.run(commands)
        except AbsentError as error:  # no change is to something that may be absent, but for parts of the kernel
            raise GatePermissionError(f"{error}: {_NO_PART}") from error
        except GatePermissionError:
            raise
        except GateError as error:
            raise GateError(
                f"Gate, table {FAMILY} {self._name}: {error}. Ports may be open. The next turn tries again; if it "
                "stays, look at nft list ruleset and the kernel log."
            ) from error


def table_of(owner: str) -> str:
    """The table of one supervisord: two on a host keep apart."""
    return f"supervisor-rolling-{mark_of(owner)}"


# --- what is read


def _found(objects: Iterable[Mapping[str, Any]]) -> Found:
    kinds: dict[str, list[Any]] = {}
    for one in objects:
        for kind, value in one.items():
            kinds.setdefault(kind, []).append(value)
    awake = not any(table.get("flags") for table in kinds.get("table", []))
    chains, sets = kinds.get("chain", []), kinds.get("set", [])
    entered = awake and any(map(_is_our_chain, chains))
    return Found(
        exists=True,
        entered=entered,
        whole=entered and len(chains) == len(sets) == 1 and _is_our_set(sets[0]) and not kinds.keys() - _OURS,
        rules=tuple(_text(kinds["table"], rule) for rule in kinds.get("rule", []) if rule["chain"] == CHAIN),
        left={port: left for one in sets if _is_our_set(one) for port, left in leases(one)},
    )


_OURS = {"table", "chain", "set", "rule"}


def _is_our_chain(chain: Mapping[str, Any]) -> bool:
    ours = {"name": CHAIN, "type": "filter", "hook": "input", "prio": PRIORITY, "policy": "accept"}
    return ours.items() <= chain.items()


def _is_our_set(found: Mapping[str, Any]) -> bool:
    flags = found.get("flags", [])
    has_timeouts = flags in ("timeout", ["timeout"])  # one version writes a word, another a list of it
    return (found["name"], found["type"], has_timeouts) == (SET, "inet_service", True)


def _text(table: Any, rule: Any) -> str:
    """With both handles: a table counts those of its rules from 1, also one that was flushed and restored."""
    return json.dumps([table, rule], sort_keys=True)


# --- what is written


def _frame(table: str) -> list[Command]:
    """Table, set and chain, where they are not there already."""
    chain = inside(table, name=CHAIN, type="filter", hook="input", prio=PRIORITY, policy="accept")
    return [
        {"add": {"table": entire(table)}},
        {"add": {"set": inside(table, name=SET, type="inet_service", flags=["timeout"])}},
        {"add": {"chain": chain}},
    ]


def _elements(table: str, closed: Mapping[int, str], lease: int) -> Command:
    elements = [{"elem": _element(port, comment, lease)} for port, comment in sorted(closed.items())]
    return {"add": {"element": inside(table, name=SET, elem=elements)}}


def _element(port: int, comment: str, lease: int) -> dict[str, Any]:
    clean = clean_comment(comment, _LONGEST_COMMENT)
    return {"val": port, "timeout": lease, **({"comment": clean} if clean else {})}


def _elements_gone(table: str, found: Iterable[int], selected: Iterable[int], lease: int) -> list[Command]:
    """Added first, so that the transaction does not fail over an element that has just expired."""
    gone = sorted({*found, *selected})
    return [
        _elements(table, dict.fromkeys(gone, ""), lease),
        {"delete": {"element": inside(table, name=SET, elem=gone)}},
    ]


def _rules(bypass: str) -> list[list[dict[str, Any]]]:
    """The expressions of each rule."""
    mask: dict[str, Any] = {"|": [{"|": [{"|": ["fin", "syn"]}, "rst"]}, "ack"]}
    syn = _match("==", {"&": [_payload("tcp", "flags"), mask]}, "syn")
    closed = _match("==", _payload("tcp", "dport"), f"@{SET}")
    refused = {"reject": {"type": "tcp reset"}}
    if bypass == "mark":
        return [[syn, closed, _match("!=", {"meta": {"key": "mark"}}, BYPASS_MARK), refused]]
    return [[_match("==", _payload("ip", "saddr"), BYPASS_ADDRESS), {"return": None}], [syn, closed, refused]]


def _match(operator: str, left: Mapping[str, Any], right: str | int) -> dict[str, Any]:
    return {"match": {"op": operator, "left": left, "right": right}}


def _payload(protocol: str, name: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": name}}
