"""Where a warm-up connects: the port or the unix socket of a process, once that process listens there."""

from __future__ import annotations

from typing import Protocol

from supervisor_rolling.core.endpoint import UNIX, endpoints_text
from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.core.jobs import WarmupJob
from supervisor_rolling.core.ports import foreign_text
from supervisor_rolling.listener.contracts import Sockets
from supervisor_rolling.listener.system import socket_paths
from supervisor_rolling.listener.system.bypass import reached_at

RETRY_EVERY = 0.02
"""Seconds between two looks whether a process that boots listens, at first."""

FOREIGN_EVERY = 0.5
"""Seconds between two looks at a port that another process holds: each reads the open files of every process."""


class Target(Protocol):
    """Where one process is reached."""

    where: str  # in messages: ``port 8001``
    host: str  # in the URL, once it was found
    retry_every: float  # seconds to the next look

    def look(self) -> str:
        """Why the process cannot be reached; empty where it can."""
        ...

    def use(self) -> str:
        """What is wrong with what listens there; empty where nothing is."""
        ...

    def elsewhere(self) -> str:
        """Where the process listens instead, if it does; slow."""
        ...

    def path(self) -> str:
        """The unix socket to connect to now; empty: it has a port."""
        ...


def target_of(sockets: Sockets, job: WarmupJob, own: str) -> Target:
    """The target of a process, ``own`` (``group:process``), by the first of its endpoints."""
    return (PathTarget if job.endpoints[0].kind == UNIX else PortTarget)(sockets, job, own)


class PortTarget:
    """A TCP port. ``address``: at which the process listens, and that passes the gate."""

    def __init__(self, sockets: Sockets, job: WarmupJob, own: str) -> None:
        self._sockets, self._job, self._own = sockets, job, own
        self.port, self.where = job.endpoints[0].port, endpoints_text(job.endpoints[:1])
        self.address = self.host = ""
        self.retry_every = RETRY_EVERY

    def look(self) -> str:
        """See ``Target.look``."""
        addresses, why = self._use()
        self.retry_every = FOREIGN_EVERY if addresses else RETRY_EVERY
        self.address = "" if why else reached_at(addresses, self._job.bypass)
        self.host = f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"
        if why or self.address:
            return why
        return (
            f"{self.where} listens on {', '.join(addresses)} only, and gate.bypass: address needs IPv4. "
            "Fix: listen on an IPv4 address too, or set gate: {bypass: mark}"
        )

    def use(self) -> str:
        """See ``Target.use``."""
        return self._use()[1]

    def _use(self) -> tuple[tuple[str, ...], str]:
        """The addresses at which the process listens, none where nothing does; and what is wrong with that."""
        try:
            use = self._sockets.listening(self.port, self._job.pid)
        except SocketsError as error:
            return (), str(error)
        if not use.addresses:
            return (), f"nothing listens on {self.where}"
        return use.own or use.addresses, foreign_text(self.port, use, self._own, self._job.policy.proxies)

    def elsewhere(self) -> str:
        """See ``Target.elsewhere``."""
        try:
            found = self._sockets.ports_of([self._job.pid])[self._job.pid]
        except SocketsError:
            return ""
        if not found or self.port in found:
            return ""
        return f"; it listens on {', '.join(map(str, found))}. Fix: correct `ports` in rolling.yaml, or the program"

    def path(self) -> str:
        """See ``Target.path``."""
        return ""


class PathTarget:
    """A unix socket, by its public name."""

    host, retry_every = "localhost", RETRY_EVERY

    def __init__(self, sockets: Sockets, job: WarmupJob, own: str) -> None:
        self._sockets, self._pid, self._public = sockets, job.pid, job.endpoints[0].address
        self.where = endpoints_text(job.endpoints[:1])

    def look(self) -> str:
        """See ``Target.look``."""
        try:
            listens = self._sockets.listens_at(self._public, self._pid)
        except SocketsError as error:
            return str(error)
        return "" if listens else f"it does not listen on {self.where}"

    def use(self) -> str:
        """See ``Target.use``."""
        return self.look()

    def elsewhere(self) -> str:
        """See ``Target.elsewhere``."""
        try:
            found = self._sockets.unix_of([self._pid])[self._pid]
        except SocketsError:
            return ""
        fix = "Fix: correct `sockets` in rolling.yaml, or the program"
        return f"; it listens on {', '.join(found)}. {fix}" if found else ""

    def path(self) -> str:
        """See ``Target.path``: another one while it is closed."""
        return socket_paths.current(self._public)
