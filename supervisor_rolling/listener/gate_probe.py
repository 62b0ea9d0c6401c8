"""Tries a gate for real, on a spare port, and whether a warm-up would reach each process.

Together these two show that a warm-up reaches a process through its closed gate, and no process's port is closed for
it: the spare port has the same gate, and the connection to the process the same address and mark.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from supervisor_rolling import file_trust
from supervisor_rolling.core.checks.conntrack import Conntrack
from supervisor_rolling.core.endpoint import Endpoint, endpoints_text, tcp
from supervisor_rolling.core.errors import GateError
from supervisor_rolling.core.policy import BYPASS_ADDRESS, BYPASS_MARK, Policy
from supervisor_rolling.core.preflight_report import Finding, Severity
from supervisor_rolling.listener.contracts import NO_ANSWER, ConnectResults, WhileClosed
from supervisor_rolling.listener.system.bypass import SO_MARK, reached_at
from supervisor_rolling.listener.system.nginx_program import nginx_program
from supervisor_rolling.listener.system.own_addresses import is_own
from supervisor_rolling.listener.system.procfs import own_inodes
from supervisor_rolling.listener.system.sock_diag import LISTEN, tcp_sockets

T = TypeVar("T")

LOOPBACKS = ("127.0.0.1", "::1")
CONNECT_TIMEOUT = 1.0
"""Seconds for all connections of one ``connect``. Over loopback each takes a tenth of a millisecond, unless it is
dropped."""

AT_ONCE = 64
"""Connections that are open at the same time: the listener has a pidfd for each process, too."""

_CONNTRACK = "/proc/sys/net/netfilter"
_MIGRATES = "/proc/sys/net/ipv4/tcp_migrate_req"

ATTEMPTS = 5
"""To find a port that is free on all addresses."""


PROBE_TIMEOUT = 5.0
"""Seconds for the loop to close a spare port, and again to open it: it does so at once, unless it waits for supervisord
or for the firewall's lock."""


class _SparePort:
    def __init__(self, port: Endpoint) -> None:
        self.port = port
        self.problem = ""  # why it is not closed
        self.is_closed = threading.Event()
        self.is_open = threading.Event()


class ProbedPorts:
    """The ``SparePorts`` of ``contracts.py``. ``wake`` makes the loop hold the gate soon; from any thread."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._probed: list[_SparePort] = []
        self._ended: list[_SparePort] = []
        self._reported: tuple[list[_SparePort], list[_SparePort]] = ([], [])  # as the last ``wanted`` found both

    @property
    def is_pending(self) -> bool:
        """See ``SparePorts.is_pending``."""
        return bool(self._probed or self._ended)

    def wanted(self) -> list[Endpoint]:
        """See ``SparePorts.wanted``."""
        with self._lock:
            self._reported = (list(self._probed), list(self._ended))
        return [one.port for one in self._reported[0]]

    def report_held(self, closed: Collection[Endpoint], problem: str) -> None:
        """See ``SparePorts.report_held``."""
        probed, ended = self._reported
        self._reported = ([], [])
        for one in probed:
            if not one.is_closed.is_set():
                one.problem = (
                    "" if one.port in closed else problem or f"{endpoints_text([one.port])} is not found closed"
                )
                one.is_closed.set()
        with self._lock:
            self._ended = [one for one in self._ended if one not in ended]
        for one in ended:
            one.is_open.set()

    def closed(self, port: Endpoint, look: Callable[[], T]) -> T:
        """See ``SparePorts.closed``."""
        spare = _SparePort(port)
        with self._lock:
            self._probed.append(spare)
        self._wake()
        try:
            if not spare.is_closed.wait(PROBE_TIMEOUT):
                raise TimeoutError("the listener was busy")
            if spare.problem:
                raise GateError(spare.problem)
            return look()
        finally:
            with self._lock:
                self._probed.remove(spare)
                self._ended.append(spare)
            self._wake()
            spare.is_open.wait(PROBE_TIMEOUT)


class RealGateProbes:
    """The ``GateProbes`` of ``contracts.py``, in this network namespace."""

    def probe_gate(self, closed: WhileClosed, addresses: Collection[str], bypass: str) -> list[str]:
        """See ``GateProbes.probe_gate``."""
        with _spare(addresses) as (port, there):
            targets = [(address, port) for address in there]
            before = self.connect(targets)
            refused, passed = closed(tcp(port), lambda: (self.connect(targets), self.connect(targets, bypass)))
            after = self.connect(targets)
        if any(before.values()):
            return []  # another rule refuses them: nothing can be shown here
        return [
            *(f"lets new connections to {address} through" for (address, _), why in refused.items() if not why),
            *(
                f"refuses a warm-up to {address} (bypass: {bypass}): {why}"
                for (address, _), why in passed.items()
                if why and not (bypass == "address" and ":" in address)
            ),
            *(f"does not open {address} again: {why}" for (address, _), why in after.items() if why),
        ]

    def warmup_address(self, addresses: tuple[str, ...], bypass: str) -> str:
        """See ``GateProbes.warmup_address``."""
        return reached_at(addresses, bypass)

    def connect(self, targets: Collection[tuple[str, int]], bypass: str = "none") -> ConnectResults:
        """See ``GateProbes.connect``."""
        deadline, waiting = time.monotonic() + CONNECT_TIMEOUT, list(targets)
        found: dict[tuple[str, int], str] = dict.fromkeys(targets, NO_ANSWER)
        for at in range(0, len(waiting), AT_ONCE):
            found.update(_connected(waiting[at : at + AT_ONCE], bypass, deadline))
        return found

    def metrics(self, address: str) -> tuple[str, str]:
        """See ``GateProbes.metrics``."""
        host, _, port = address.rpartition(":")
        if importlib.util.find_spec("prometheus_client") is None:
            fix = "pip install prometheus_client (Debian: python3-prometheus-client) for the listener's Python"
            return "prometheus_client is missing", fix
        try:
            _listening(host.strip("[]"), int(port)).close()
        except OSError as error:
            if not _listens_itself(int(port)):
                reason = os.strerror(error.errno) if error.errno else error
                why = f"{address} cannot be listened on: {reason}"
                return why, f"name another address, or see which process has it: ss -ltnp sport = :{port}"
        return "", ""

    def untrusted_files(self, policy: Policy) -> list[Finding]:
        """See ``GateProbes.untrusted_files``."""
        commands = {f"hooks.{one.name}": getattr(policy.hooks, one.name).command for one in fields(policy.hooks)}
        commands["warmup.ready"] = policy.warmup.ready.hook.command
        found = {f"groups.{policy.group}.{key}": file_trust.of_command(command) for key, command in commands.items()}
        if policy.balancer.nginx:
            found[f"groups.{policy.group}.balancer.nginx"] = file_trust.of_file(policy.balancer.nginx)
        found["nginx"] = file_trust.of_file(nginx_program() or "")
        return [
            Finding(
                "trust",
                where,
                f"root executes or obeys {one.path}: {one.text}",
                one.fix,
                severity=Severity.ERROR,
            )
            for where, problems in found.items()
            for one in problems
        ]

    def migrates(self) -> bool | None:
        """See ``GateProbes.migrates``."""
        try:
            return Path(_MIGRATES).read_text(encoding="ascii").strip() != "0"
        except OSError:
            return None

    def conntrack(self) -> Conntrack | None:
        """See ``GateProbes.conntrack``."""
        try:
            count, most = (int(Path(_CONNTRACK, f"nf_conntrack_{name}").read_text()) for name in ("count", "max"))
        except (OSError, ValueError):
            return None
        return Conntrack(count, most)


def _connected(targets: Collection[tuple[str, int]], bypass: str, deadline: float) -> dict[tuple[str, int], str]:
    """Those that have answered until the deadline."""
    found: dict[tuple[str, int], str] = {}
    with selectors.DefaultSelector() as selector, ExitStack() as keep:
        for target in targets:
            try:
                connection = keep.enter_context(_connecting(target, bypass))
                selector.register(connection, selectors.EVENT_WRITE, target)
            except OSError as error:
                found[target] = error.strerror or str(error)
        while selector.get_map() and (ready := selector.select(max(0.0, deadline - time.monotonic()))):
            for key, _ in ready:
                found[key.data] = _outcome(key.fileobj)
                selector.unregister(key.fileobj)
    return found


def _connecting(target: tuple[str, int], bypass: str) -> socket.socket:
    address, port = target
    connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        if bypass == "mark":
            connection.setsockopt(socket.SOL_SOCKET, SO_MARK, BYPASS_MARK)
        elif bypass == "address" and ":" not in address:
            connection.bind((BYPASS_ADDRESS, 0))
        with contextlib.suppress(BlockingIOError):
            connection.connect((address, port))
    except BaseException:
        connection.close()
        raise
    return connection


def _outcome(connection: object) -> str:
    assert isinstance(connection, socket.socket)
    error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.errorcode.get(error, str(error)) if error else ""


@contextlib.contextmanager
def _spare(addresses: Collection[str]) -> Iterator[tuple[int, list[str]]]:
    """Listen on a port that was free, on these addresses and on loopback of each family; gives it and them."""
    selected = [one for one in dict.fromkeys([*LOOPBACKS, *addresses]) if is_own(one)]
    for attempt in range(ATTEMPTS):
        with ExitStack() as keep:
            try:
                first = keep.enter_context(_listening(selected[0], 0))
                port: int = first.getsockname()[1]
                for address in selected[1:]:
                    keep.enter_context(_listening(address, port))
            except OSError:
                if attempt == ATTEMPTS - 1:
                    raise
                continue
            yield port, selected
            return


def _listens_itself(port: int) -> bool:
    """Whether this very process does."""
    return not own_inodes(os.getpid()).isdisjoint(one.inode for one in tcp_sockets((LISTEN,), [port]))


def _listening(address: str, port: int) -> socket.socket:
    return socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
