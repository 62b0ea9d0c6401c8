"""The ``Gate`` that closes ports with iptables rules, each of which ends by itself when its lease does.

    -A INPUT -p tcp --syn -j SUPERVISOR-ROLLING-1f2e3d4c
    -A SUPERVISOR-ROLLING-1f2e3d4c -p tcp --dport 8000 --syn -m mark ! --mark 0x726f6c6c
       -m time --datestop <end of the lease, UTC> -m comment --comment "…" -j REJECT --reject-with tcp-reset

``method: redirect`` has the same chain in the nat table, entered from PREROUTING and OUTPUT, with ``-m addrtype
--dst-type LOCAL -j REDIRECT --to-ports 9``. ``bypass: address`` has ``! -s 127.0.0.2`` in place of the mark; there is
no bypass for IPv6 then. Both address families are closed, but where no interface of the host has an IPv6 address.

Beyond the contract of ``Gate``:

* Only our chain and our jumps are touched. Each change is made under the lock of ``iptables -w``, on a table read under
  it, in one commit for each family.
* A hold that finds everything as written reads the tables: no lock, no commit. A lease is renewed when a third of it
  has passed; a comment that alone has changed is written then, too.
* Only what is read back counts. A port without its rule in every family is not in the answer, and the next call writes
  it again; errors are for calls that failed. While another program holds the lock that is a GateBusyError.
* A port's "since" begins anew, after the commit that closed it again, when its rule was missing or its lease had ended
  by the wall clock, which the kernel goes by. A new object takes over nothing: it replaces the rules that it finds,
  without opening a port in between.

For one thread: python-iptables crashes when several use it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from supervisor_rolling.core.endpoint import TCP, Endpoint, by_endpoint, by_port, tcp_ports
from supervisor_rolling.core.errors import GateBusyError
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.core.preflight_report import Finding, Severity
from supervisor_rolling.listener.gates.iptables_chain import ChainListing, OwnChain, xtables_lock
from supervisor_rolling.listener.gates.iptables_rules import V4, V6
from supervisor_rolling.listener.system.rule_names import mark_of

LOCK = "/run/xtables.lock"

_CLOCK_SLACK = 2.0
"""Seconds by which a lease may be too long before the wall clock must have been set back; rounding takes one."""


class IptablesGate:
    """The iptables backend. ``clock`` gives CLOCK_MONOTONIC seconds, ``wall`` the kernel's time of day in seconds since
    1970. It waits for the lock for ``lock_timeout`` seconds, and for as long after that only tries it once a call."""

    name = "iptables"
    closes = frozenset({TCP})

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
        self._owner = owner
        self._clock = clock
        self._wall = wall
        self._lock_timeout = lock_timeout
        self._lock_path = lock_path
        self._waits_again_at = -math.inf
        self._chains = [OwnChain(V4, policy, chain_of(owner))]  # one for each family
        self._since: dict[int, float] = {}
        table = "-t nat " if policy.method == "redirect" else ""
        self.description = (
            f"iptables; while ports are closed, iptables-legacy {table}-nvL {chain_of(owner)} lists their rules"
        )

    def hold(self, closed: Mapping[Endpoint, str], drained: Collection[Endpoint] = ()) -> Mapping[Endpoint, float]:
        """Make exactly these ports closed; see ``Gate.hold``."""
        ports = by_port(closed)
        self._join_ipv6()
        listings = self._look()
        if not all(self._is_as_asked(chain, found, ports) for chain, found in zip(self._chains, listings)):
            with self._lock():
                self._rewrite(ports)
        return by_endpoint(self._since)

    def check(self) -> None:
        """Raise where rights or kernel support are missing; see ``Gate.check``. Holds the lock for milliseconds."""
        self._join_ipv6()
        self._look()
        with self._lock():
            for chain in self._chains:
                chain.probe()

    def inspect(self, endpoints: Mapping[Endpoint, str]) -> Sequence[Finding]:
        """The rules above ours that accept what ours would refuse; see ``Gate.inspect``."""
        self._join_ipv6()
        return [
            Finding(
                "gate.foreign",
                f"{chain.where}, rule {number} of {entry}",
                f"accepts new connections to port {port} before they reach our chain, so the port cannot be closed",
                "delete the rule, or move it below our jump: iptables-legacy -L, or ip6tables-legacy, --line-numbers",
                Severity.ERROR,
            )
            for chain in self._chains
            for entry, number, port in chain.accepting(sorted(tcp_ports(endpoints)))
        ]

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the lock. While another program keeps it, half of the thread's time is left for other work."""
        is_patient = time.monotonic() >= self._waits_again_at
        try:
            with xtables_lock(self._lock_path, self._lock_timeout if is_patient else 0.0):
                yield
        except GateBusyError as error:
            if is_patient:
                self._waits_again_at = time.monotonic() + self._lock_timeout
            raise GateBusyError(str(error), by_endpoint(self._since)) from None

    def _join_ipv6(self) -> None:
        """Add IPv6 once it is in use. It stays: there may be rules in it to remove."""
        if len(self._chains) == 1 and ipv6_in_use():
            self._chains.append(OwnChain(V6, self._policy, chain_of(self._owner)))

    def _look(self) -> list[ChainListing]:
        """Read all families, and note since when each port is closed. The clock is read afterwards, and so after the
        commit; the wall clock too, so that a lease that ended in between has ended."""
        listings = [chain.look() for chain in self._chains]
        wall = self._wall()
        closed = frozenset.intersection(*(chain.closed(found, wall) for chain, found in zip(self._chains, listings)))
        now = self._clock()
        self._since = {port: self._since.get(port, now) for port in sorted(closed)}
        return listings

    def _is_as_asked(self, chain: OwnChain, found: ChainListing, closed: Mapping[int, str]) -> bool:
        if not closed:
            return found.is_absent
        left = chain.until - self._wall()
        is_lease_right = self._policy.lease * 2 / 3 <= left <= self._policy.lease + _CLOCK_SLACK
        return chain.written.keys() == closed.keys() and chain.is_as_written(found) and is_lease_right

    def _rewrite(self, closed: Mapping[int, str]) -> None:
        """Under the lock, so that no other program writes meanwhile: read again, write, and note what is read back."""
        for chain, found in zip(self._chains, self._look()):
            if not self._is_as_asked(chain, found, closed):
                until = chain.until
                chain.put(closed, math.ceil(self._wall() + self._policy.lease))
                if self._wall() >= until:  # the old lease ended before the new one began
                    self._since.clear()
        self._look()


def chain_of(owner: str) -> str:
    """The name of the chain of one supervisord: two on a host have different ones."""
    return f"SUPERVISOR-ROLLING-{mark_of(owner)}"


def ipv6_in_use() -> bool:
    """Whether an interface of this network namespace has an IPv6 address. Else no client can connect by IPv6, and
    ip6tables may be missing."""
    try:
        with open("/proc/net/if_inet6", encoding="utf-8") as addresses:
            return bool(addresses.readline())  # empty where a sysctl turned IPv6 off
    except OSError:  # the kernel has none
        return False
