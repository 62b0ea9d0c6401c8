"""Tells processes over HTTP that they drain: one request each, through the closed gate (``drain: {request: …}``).

Each is sent in a thread of its own and never again: what breaks may have been heard, and a later attempt could reach
the process that comes next, which is not to drain. A failure is logged; the drain then lasts as long as it would have
without.
"""

from __future__ import annotations

import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.core.jobs import NotificationJob, NotificationStatus
from supervisor_rolling.core.peers import peer_of
from supervisor_rolling.core.policy import BYPASS_ADDRESS, BYPASS_MARK
from supervisor_rolling.core.text import printable
from supervisor_rolling.listener.contracts import Sockets
from supervisor_rolling.listener.system.bypass import SO_MARK, reached_at
from supervisor_rolling.listener.system.threads import at_usual_priority

log = logging.getLogger("supervisor_rolling")

TIMEOUT = 5.0
"""Seconds for an answer: it has nothing to do but to take note."""


class HttpNotifications:
    """The ``DrainNotifications`` of ``contracts.py``. ``on_change`` is called when one is over; it and ``sockets`` are
    called from the thread of a notice."""

    def __init__(self, sockets: Sockets, on_change: Callable[[], None] = lambda: None) -> None:
        self._sockets = sockets
        self._on_change = on_change
        self._given: dict[str, _Notice] = {}

    def give(self, selected: Mapping[str, NotificationJob]) -> Mapping[str, NotificationStatus]:
        """See ``contracts.DrainNotifications``."""
        given = {
            name: one
            for name, one in self._given.items()
            if name in selected and selected[name].incarnation == one.job.incarnation
        }
        new = {
            name: _Notice(name, job, self._sockets, self._on_change)
            for name, job in selected.items()
            if name not in given
        }
        self._given = {**given, **new}
        return {name: one.state() for name, one in self._given.items()}

    def peers(self) -> frozenset[str]:
        """See ``contracts.DrainNotifications``."""
        return frozenset(one.notice.peer for one in self._given.values())


class _Notice(threading.Thread):
    """One request. ``notice`` is replaced as a whole, so that others read it without a lock."""

    def __init__(self, name: str, job: NotificationJob, sockets: Sockets, on_change: Callable[[], None]) -> None:
        super().__init__(name=f"notice to {job.pid}", daemon=True)
        self.job = job
        self.notice = NotificationStatus(job.pid)
        self._to = name
        self._sockets = sockets
        self._on_change = on_change
        self._deadline = time.monotonic() + TIMEOUT
        self.start()

    def state(self) -> NotificationStatus:
        """An answer that trickles is not waited for beyond the deadline."""
        return self.notice if time.monotonic() < self._deadline else replace(self.notice, is_over=True)

    def run(self) -> None:
        """The whole of it; whatever happens is logged."""
        at_usual_priority()
        try:
            log.info("%s: told by %s that it drains: answered %d", self._to, self.job.request, self._tell())
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to
            reason = printable(error) or type(error).__name__
            log.warning("%s: drains without the %s of drain.request: %s", self._to, self.job.request, reason)
        self.notice = replace(self.notice, is_over=True)
        self._on_change()

    def _tell(self) -> int:
        """The status of the answer. Raises OSError, HTTPException or SocketsError."""
        job, port = self.job, self.job.ports[0]
        listeners = self._sockets.listeners([port])[port]
        address = reached_at(listeners, job.bypass) if listeners else ""
        if not address:
            raise SocketsError(f"port {port} cannot be asked (it listens on: {', '.join(listeners) or 'nothing'})")
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as own:
            self._bind(own, address)
            own.settimeout(TIMEOUT)
            own.connect((address, port))
            return _status(own, address, job)

    def _bind(self, own: socket.socket, address: str) -> None:
        """To an address that passes the gate; before it connects it is known who that will be, or the connection would
        be taken for a leak."""
        if self.job.bypass == "mark":
            own.setsockopt(socket.SOL_SOCKET, SO_MARK, BYPASS_MARK)
        own.bind((BYPASS_ADDRESS if self.job.bypass == "address" else address, 0))
        host, port = own.getsockname()[:2]
        self.notice = replace(self.notice, peer=peer_of(host, port))


def _status(own: socket.socket, address: str, job: NotificationJob) -> int:
    connection = http.client.HTTPConnection(address, job.ports[0], TIMEOUT)
    connection.sock = own
    method, _, path = job.request.partition(" ")
    connection.request(method, path, headers={"Connection": "close", **job.headers})
    return connection.getresponse().status
