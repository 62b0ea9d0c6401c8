"""Figures for Prometheus: the ``Metrics`` of ``contracts.py``, by prometheus_client, which is an extra.

Counters begin at 0 with each listener, as Prometheus expects of a program that was started again.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from supervisor_rolling.core.jobs import WarmupStatus
from supervisor_rolling.core.metrics_snapshot import Figures
from supervisor_rolling.core.process import Incarnation
from supervisor_rolling.core.rollout import Stage
from supervisor_rolling.listener.system.threads import at_usual_priority

log = logging.getLogger("supervisor_rolling")

AGAIN_AFTER = 5.0
"""Seconds until an address that could not be listened on is tried again."""

POLL = 0.05
"""Seconds between two looks of the server at whether it is to end: who ends it waits for that."""

WITHIN = 5.0
"""Seconds for a client to send its request and to take the answer."""

MOST = 8
"""Connections at once: each takes a thread and a file descriptor."""

OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
REST = 0.5
"""Seconds until a connection is accepted again, where there is no file descriptor for it."""

PREFIX = "supervisor_rolling"

STAYS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Seconds: from a drain with nothing to wait for to the longest warm-up that anybody has patience for."""

LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROLLOUTS = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)


class PrometheusMetrics:
    """``listen`` gives the address that rolling.yaml names now, such as 127.0.0.1:9180; empty: nothing is counted."""

    def __init__(self, listen: Callable[[], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._listen = listen
        self._clock = clock
        self._address = ""
        self._server: Any = None
        self._series: _Series | None = None
        self._again_at = 0.0
        self._complaint = ""
        self._known: set[str] = set()
        self._told: set[tuple[str, Incarnation]] = set()

    def is_on(self) -> bool:
        """See ``contracts.Metrics``."""
        selected = self._listen()
        if selected != self._address:
            self._stop()
            self._address, self._again_at = selected, 0.0
        if selected and self._server is None and self._clock() >= self._again_at:
            self._start(selected)
        return self._server is not None

    def tell(self, groups: Mapping[str, Figures], warmups: Mapping[str, WarmupStatus]) -> None:
        """See ``contracts.Metrics``."""
        if self._series is None:
            return
        for group in self._known - set(groups):
            self._series.forget(group)
        self._known = set(groups)
        for group, found in groups.items():
            self._series.take(group, found)
        ended = {(key, one.incarnation): one for key, one in warmups.items() if one.state != "warming"}
        for new in ended.keys() - self._told:
            self._series.take_warmth(new[0].partition(":")[0], ended[new])
        self._told = set(ended)

    def _start(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        try:
            import prometheus_client  # when it is wanted, not before: it is an extra

            if self._series is None:
                self._series = _Series(prometheus_client)
            self._server = _Server(host.strip("[]"), int(port))
            self._server.set_app(prometheus_client.make_wsgi_app(self._series.registry))
            threading.Thread(target=self._server.serve, name="metrics", daemon=True).start()
            log.info("metrics are at http://%s/metrics", address)
            self._complaint = ""
        except ImportError:
            self._complain(f"metrics: prometheus_client is missing: pip install {PREFIX}[metrics]")
        except OSError as error:
            self._complain(f"metrics: {address} cannot be listened on: {error.strerror or error}; name another")

    def _stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self._server = None

    def _complain(self, text: str) -> None:
        self._again_at = self._clock() + AGAIN_AFTER
        if text != self._complaint:
            log.warning("%s", text)
        self._complaint = text


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """Answers in threads of its own, a bounded number of them, each for a bounded time. Where there are too many
    connections the oldest ends: a scrape gets its answer beside any number of idle ones."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._deadlines: dict[Any, float] = {}
        self._is_over = threading.Event()
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """As WSGIServer's, with the address for its name: to ask for that, by DNS perhaps, would hold up the turn."""
        socketserver.TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()

    def serve(self) -> None:
        """Answer until ``shutdown``. The threads that answer inherit the priority of this one."""
        at_usual_priority()
        self.serve_forever(POLL)

    def shutdown(self) -> None:
        """End ``serve``, and the connections that are left."""
        self._is_over.set()
        super().shutdown()
        for request in list(self._deadlines):
            self._end(request)

    def get_request(self) -> Any:
        """Accept a connection. One that cannot be accepted for want of descriptors stays where it is, and the loop
        would try again at once."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS:
                self._is_over.wait(REST)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread."""
        for oldest in list(self._deadlines)[: max(0, len(self._deadlines) - MOST + 1)]:
            self._end(oldest)
        self._deadlines[request] = time.monotonic() + WITHIN
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """End what has lasted too long; called every ``POLL`` seconds."""
        now = time.monotonic()
        for request in [request for request, deadline in list(self._deadlines.items()) if deadline <= now]:
            self._end(request)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that was answered."""
        self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is nothing for the log."""
        log.debug("metrics: the connection of %s ended", client_address, exc_info=True)

    def _end(self, request: Any) -> None:
        """Its thread sees the end of the connection, and closes it."""
        self._deadlines.pop(request, None)
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nobody wants a line for each scrape."""


class _Series:
    """What is counted; the README has the list."""

    def __init__(self, library: Any) -> None:
        self.registry = library.CollectorRegistry()

        def make(kind: str, name: str, text: str, *labels: str, **more: Any) -> Any:
            return getattr(library, kind)(f"{PREFIX}_{name}", text, labels, registry=self.registry, **more)

        self._rollouts = make("Counter", "rollouts", "Rollouts that have ended.", "group", "result")
        self._rollout = make(
            "Histogram", "rollout_seconds", "How long rollouts took.", "group", "result", buckets=ROLLOUTS
        )
        self._left = make("Gauge", "left", "Processes that the rollout has still to replace.", "group")
        self._stays = make("Histogram", "stage_seconds", "How long in a stage.", "group", "stage", buckets=STAYS)
        self._processes = make("Gauge", "processes", "Processes by stage.", "group", "stage")
        self._closed = make("Gauge", "closed_ports", "Ports whose gate is closed.", "group")
        self._requests = make("Histogram", "warmup_request_seconds", "Warm-ups.", "group", buckets=LATENCIES)
        self._warmed = make("Counter", "guard_warmed", "Crashed, booted, restarted by hand and warmed.", "group")
        self._cold = make("Counter", "warmup_failures", "Warm-ups that failed or were late.", "group")

    def take(self, group: str, found: Figures) -> None:
        for stage, number in found.stages.items():
            self._processes.labels(group, stage).set(number)
        self._closed.labels(group).set(found.closed)
        self._left.labels(group).set(found.left)
        self._warmed.labels(group).inc(found.warmed)
        for stage, seconds in found.stays:
            self._stays.labels(group, stage).observe(seconds)
        for result in ("done", "failed", "aborted"):
            self._rollouts.labels(group, result).inc(found.ended == result)
        if found.ended:
            self._rollout.labels(group, found.ended).observe(found.seconds)

    def take_warmth(self, group: str, warmup_status: WarmupStatus) -> None:
        for milliseconds in warmup_status.latencies:
            self._requests.labels(group).observe(milliseconds / 1000)
        self._cold.labels(group).inc(warmup_status.state != "warm")

    def forget(self, group: str) -> None:
        """A group that is no longer guarded nor rolled stands nowhere; what was counted stays."""
        for stage in Stage:
            self._processes.remove(group, stage.value)
        for gauge in (self._closed, self._left):
            gauge.remove(group)
