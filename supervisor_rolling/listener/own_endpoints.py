"""The endpoints that processes are seen to listen on: ``auto``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from supervisor_rolling.core.endpoint import Endpoint, tcp, unix
from supervisor_rolling.core.policy import Policy
from supervisor_rolling.listener.contracts import Sockets

CONTROL_SOCKETS = ("gunicorn.ctl",)
"""Names of sockets on which a server takes commands, and no requests."""


def seen(sockets: Sockets, policy: Policy, pids: Collection[int]) -> Mapping[int, tuple[Endpoint, ...]]:
    """Of each process: the ports that it listens on or, where it has none, its unix sockets; with ``sockets: auto`` the
    unix sockets alone. Raises SocketsError where they cannot be seen."""
    ports: Mapping[int, Iterable[int]] = {} if policy.sockets.auto else sockets.ports_of(pids)
    found = {pid: tuple(map(tcp, ports.get(pid, ()))) for pid in pids}
    without = [pid for pid, own in found.items() if not own]
    paths = sockets.unix_of(without) if without else {}
    return {**found, **{pid: application_sockets(paths[pid]) for pid in without}}


def application_sockets(paths: Iterable[str]) -> tuple[Endpoint, ...]:
    """Those of these unix sockets that a load balancer can connect to by a path."""
    own = [path for path in paths if path.startswith("/") and path.rpartition("/")[2] not in CONTROL_SOCKETS]
    return tuple(unix(path) for path in own if path.isprintable())
