"""Closes ports with iptables rules that the kernel forgets by itself: the ``Gate`` of ``contracts.py``.

    -A INPUT -p tcp --syn -j SUPERVISOR-ROLLING-1f2e3d4c
    -A SUPERVISOR-ROLLING-1f2e3d4c -p tcp --dport 8000 --syn -m mark ! --mark 0x726f6c6c
       -m time --datestop <end of the lease, UTC> -m comment --comment "…" -j REJECT --reject-with tcp-reset

``method: redirect`` has the same chain in the nat table, entered from PREROUTING and OUTPUT, with ``-m addrtype
--dst-type LOCAL -j REDIRECT --to-ports 9``. ``bypass: address`` has ``! -s 127.0.0.2`` in place of the mark; IPv6 then
has no way through. Both address families always, except where no interface of the host has an IPv6 address.

The contract beyond that of ``Gate``:

* Only our chain and our jumps are ever touched. Every change is made under the lock of ``iptables -w``, on a table read
  under it, in one commit per family.
* A look that finds everything as it was written costs a read of the table: no lock, no commit. The lease is renewed
  when a third of it is used up, so a comment that changed alone becomes visible only then.
* Nothing is believed but what is read back. A port whose rule is not there in every family is left out of the answer,
  and the next call writes it again; exceptions are for calls that failed. While another program holds the lock that is
  a GateBusyError, with the ports that are closed.
* A port's "since" begins anew, after the commit that closed it again, whenever a look finds its rule gone or its lease
    over by the wall clock, which is what the kernel goes by. A new object knows nothing of rules that it finds: it
    replaces
  them, without opening a port in between.

For one thread only: python-iptables crashes when used from several.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from supervisor_rolling.core.errors import GateBusyError
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.core.preflight_report import Finding, Severity
from supervisor_rolling.listener.gates.iptables_chain import Found, OwnChain, xtables_lock
from supervisor_rolling.listener.gates.iptables_rules import V4, V6, Family
from supervisor_rolling.listener.system.rule_names import mark_of

LOCK = "/run/xtables.lock"

_CLOCK_SLACK = 2.0
"""By how many seconds a lease may seem too long before the wall clock must have been set back; rounding takes one."""


@dataclass
class _Side:
    """One address family: its chain, and what was last written there. ``until``: the datestop of the rules."""

    chain: OwnChain
    written: dict[int, bytes] = field(default_factory=dict)
    until: int = 0

    def intact(self, found: Found, wall: float) -> frozenset[int]:
        """The ports that this family refused when the look was made, and still did at ``wall``.

        What stands behind a rule that is not ours may never be reached, so it does not count.
        """
        if not found.reached or wall >= self.until:
            return frozenset()
        ours = set(self.written.values())
        reached = set(itertools.takewhile(ours.__contains__, found.rules))
        return frozenset(port for port, rule in self.written.items() if rule in reached)

    def as_written(self, found: Found) -> bool:
        return found.tidy and found.rules == tuple(self.written.values())


class IptablesGate:
    """The iptables backend. ``clock`` gives CLOCK_MONOTONIC seconds, ``wall`` the kernel's time of day in seconds since
    1970. It waits for the lock for ``lock_timeout`` seconds; after that, for as long, only tries whether it is free."""

    name = "iptables"

    def __init__(
        self,
        policy: GatePolicy,
        owner: str,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
        lock_timeout: float = 0.1,
        lock_path: str = LOCK,
    ) -> None:
        self._policy = policy
        self._chain = chain_of(owner)
        self._clock = clock
        self._wall = wall
        self._lock_timeout = lock_timeout
        self._lock_path = lock_path
        self._waits_again_at = -math.inf
        self._sides = [self._side(V4)]
        self._since: dict[int, float] = {}

    def hold(self, closed: Mapping[int, str], drained: Collection[int] = ()) -> Mapping[int, float]:
        """Make exactly these ports closed; see ``Gate.hold``."""
        self._join_ipv6()
        looks = self._look()
        if not all(self._as_asked(side, found, closed) for side, found in zip(self._sides, looks)):
            try:
                with self._lock():
                    self._rewrite(closed)
            except GateBusyError as error:
                raise GateBusyError(str(error), dict(self._since)) from None
        return dict(self._since)

    def check(self) -> None:
        """Try whether rights and kernel suffice; see ``Gate.check``. Holds the lock for a few milliseconds."""
        self._join_ipv6()
        self._look()
        with self._lock():
            for side in self._sides:
                side.chain.probe()

    def inspect(self, ports: Mapping[int, str]) -> Sequence[Finding]:
        """The rules of others above ours that accept what ours would refuse; see ``Gate.inspect``."""
        self._join_ipv6()
        return [
            Finding(
                "gate.foreign",
                f"{side.chain.where}, rule {number} of {entry}",
                f"accepts new connections to port {port} before our chain is asked, so the port cannot be closed",
                "delete it, or move it behind ours: iptables-legacy -L, or ip6tables-legacy, --line-numbers",
                severity=Severity.ERROR,
            )
            for side in self._sides
            for entry, number, port in side.chain.accepting(sorted(ports))
        ]

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the lock. While another program keeps it, half of the thread's time is left to other work."""
        is_patient = time.monotonic() >= self._waits_again_at
        try:
            with xtables_lock(self._lock_path, self._lock_timeout if is_patient else 0.0):
                yield
        except GateBusyError:
            if is_patient:
                self._waits_again_at = time.monotonic() + self._lock_timeout
            raise

    def _side(self, family: Family) -> _Side:
        return _Side(OwnChain(family, self._policy, self._chain))

    def _join_ipv6(self) -> None:
        """Take IPv6 in as soon as it is there. It then stays: there may be rules in it to remove."""
        if len(self._sides) == 1 and ipv6_in_use():
            self._sides.append(self._side(V6))

    def _look(self) -> list[Found]:
        """Read all families. Forget the ports that are found open; what is found closed for the first time is so since
        now: the clock is read after the look, and so after the commit."""
        looks = [side.chain.look() for side in self._sides]
        intact = self._intact(looks)
        now = self._clock()
        self._since = {port: self._since.get(port, now) for port in sorted(intact)}
        return looks

    def _intact(self, looks: Sequence[Found]) -> frozenset[int]:
        wall = self._wall()  # after the looks: a lease that ran out in between counts as run out
        return frozenset.intersection(*(side.intact(found, wall) for side, found in zip(self._sides, looks)))

    def _as_asked(self, side: _Side, found: Found, closed: Mapping[int, str]) -> bool:
        if not closed:
            return found.nothing
        return side.written.keys() == closed.keys() and side.as_written(found) and self._lease_is_right(side.until)

    def _lease_is_right(self, until: int) -> bool:
        left = until - self._wall()
        return self._policy.lease * 2 / 3 <= left <= self._policy.lease + _CLOCK_SLACK

    def _rewrite(self, closed: Mapping[int, str]) -> None:
        """Under the lock: look again (only now does nobody write in between), write, and believe what is read back."""
        for side, found in zip(self._sides, self._look()):
            if not self._as_asked(side, found, closed):
                self._write(side, closed)
        self._look()

    def _write(self, side: _Side, closed: Mapping[int, str]) -> None:
        until = math.ceil(self._wall() + self._policy.lease)
        selected = {port: side.chain.filled(port, until, closed[port]) for port in sorted(closed)}
        if selected:
            side.chain.put(tuple(selected.values()))
        else:
            side.chain.remove()
        if self._wall() >= side.until:  # the old lease ended before the new one was in force
            self._since.clear()
        side.written, side.until = selected, until


def chain_of(owner: str) -> str:
    """The chain of one supervisord: two on a host keep apart, a new listener finds what its predecessor left."""
    return f"SUPERVISOR-ROLLING-{mark_of(owner)}"


def ipv6_in_use() -> bool:
    """Whether an interface of this network namespace has an IPv6 address.

    Where the kernel has IPv6 off there is no such file, where a sysctl turned it off it is empty. Nobody can connect
    then, and ip6tables may be missing.
    """
    try:
        with open("/proc/net/if_inet6", encoding="utf-8") as addresses:
            return bool(addresses.readline())
    except OSError:
        return False
