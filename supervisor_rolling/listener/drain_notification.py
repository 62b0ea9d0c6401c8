"""The ``DrainNotifications`` of ``contracts.py``: tells processes over HTTP that they drain (``drain: {request: …}``).

Each gets one request, through its closed gate, in a thread of its own. It is never repeated: a request that failed may
have arrived, and the next one could reach the new process, which is not to drain. A failure is logged; the drain then
lasts as long as without.
"""

from __future__ import annotations

import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from supervisor_rolling.core.connections import peer_of
from supervisor_rolling.core.endpoint import UNIX
from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.core.jobs import NotificationJob, NotificationStatus
from supervisor_rolling.core.policy import BYPASS_ADDRESS, BYPASS_MARK
from supervisor_rolling.core.text import printable
from supervisor_rolling.listener.contracts import Sockets
from supervisor_rolling.listener.system import socket_paths
from supervisor_rolling.listener.system.bypass import SO_MARK, reached_at
from supervisor_rolling.listener.system.threads import at_usual_priority

log = logging.getLogger("supervisor_rolling")

TIMEOUT = 5.0
"""Seconds for an answer: the process only has to take note."""


class HttpNotifications:
    """``on_change`` is called when a notification is over; it and ``sockets`` are called from that one's thread."""

    def __init__(self, sockets: Sockets, on_change: Callable[[], None] = lambda: None) -> None:
        self._sockets = sockets
        self._on_change = on_change
        self._given: dict[str, dict[str, _Notification]] = {}  # by group

    def give(self, group: str, selected: Mapping[str, NotificationJob]) -> Mapping[str, NotificationStatus]:
        """See ``DrainNotifications.give``."""
        before, given = self._given.get(group, {}), dict[str, _Notification]()
        for name, job in selected.items():
            known = before.get(name)
            is_same = known is not None and known.job.incarnation == job.incarnation
            given[name] = known if known and is_same else _Notification(name, job, self._sockets, self._on_change)
        self._given[group] = given
        return {name: one.current() for name, one in given.items()}

    def peers(self) -> frozenset[str]:
        """See ``DrainNotifications.peers``."""
        return frozenset(one.status.peer for given in self._given.values() for one in given.values())


class _Notification(threading.Thread):
    """One request. ``status`` is replaced as a whole, so that other threads read it without a lock."""

    def __init__(self, name: str, job: NotificationJob, sockets: Sockets, on_change: Callable[[], None]) -> None:
        super().__init__(name=f"drain notification to {job.pid}", daemon=True)
        self.job = job
        self.status = NotificationStatus(job.pid)
        self._process = name
        self._sockets = sockets
        self._on_change = on_change
        self._deadline = time.monotonic() + TIMEOUT
        self.start()

    def current(self) -> NotificationStatus:
        """The status; over at the deadline, also where an answer trickles in."""
        return self.status if time.monotonic() < self._deadline else replace(self.status, is_over=True)

    def run(self) -> None:
        """Send the request and log what came of it."""
        at_usual_priority()
        try:
            log.info("%s: answered %d to the drain notification %s", self._process, self._send(), self.job.request)
        except Exception as error:  # noqa: BLE001 - the last frame of the thread
            reason = printable(error) or type(error).__name__
            log.warning(
                "%s: drains without the notification %s (drain.request): %s",
                self._process,
                self.job.request,
                reason,
                extra={"code": "drain.request"},
            )
        self.status = replace(self.status, is_over=True)
        self._on_change()

    def _send(self) -> int:
        """The status code of the answer. Raises OSError, HTTPException or SocketsError."""
        job, first = self.job, self.job.endpoints[0]
        if first.kind == UNIX:
            with socket.socket(socket.AF_UNIX) as own:
                return self._sent(own, socket_paths.current(first.address), http.client.HTTPConnection("localhost"))
        port = first.port
        listeners = self._sockets.listeners([port])[port]
        address = reached_at(listeners, job.bypass) if listeners else ""
        if not address:
            raise SocketsError(f"port {port} cannot be reached (it listens on: {', '.join(listeners) or 'nothing'})")
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as own:
            self._bind(own, address)
            return self._sent(own, (address, port), http.client.HTTPConnection(address, port, TIMEOUT))

    def _sent(self, own: socket.socket, to: Any, connection: http.client.HTTPConnection) -> int:
        own.settimeout(TIMEOUT)
        own.connect(to)
        connection.sock = own
        method, _, path = self.job.request.partition(" ")
        connection.request(method, path, headers={"Connection": "close", **self.job.headers})
        return connection.getresponse().status

    def _bind(self, own: socket.socket, address: str) -> None:
        """Bind to an address that passes the gate. The peer is known before it connects, or the connection would be
        taken for a leak."""
        if self.job.bypass == "mark":
            own.setsockopt(socket.SOL_SOCKET, SO_MARK, BYPASS_MARK)
        own.bind((BYPASS_ADDRESS if self.job.bypass == "address" else address, 0))
        host, port = own.getsockname()[:2]
        self.status = replace(self.status, peer=peer_of(host, port))
