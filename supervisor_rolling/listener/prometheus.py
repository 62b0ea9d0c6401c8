"""Metrics for Prometheus: the ``Metrics`` of ``contracts.py``, by prometheus_client, which is an extra.

Counters begin at 0 with each listener, as Prometheus expects of a program that was restarted.
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
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from supervisor_rolling.core.jobs import WarmupStatus
from supervisor_rolling.core.metrics_snapshot import GroupMetrics
from supervisor_rolling.core.process import Incarnation
from supervisor_rolling.core.rollout import Stage
from supervisor_rolling.listener.system.threads import at_usual_priority

log = logging.getLogger("supervisor_rolling")

RETRY_AFTER = 5.0
"""Seconds until an address that could not be listened on is tried again."""

POLL = 0.05
"""Seconds between two checks of the server whether it is to end: the reconciler waits so long for its end."""

CONNECTION_TIMEOUT = 5.0
"""Seconds for a client to send its request and to take the answer."""

MAX_CONNECTIONS = 8
"""At once: each takes a thread and a file descriptor."""

OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
PAUSE = 0.5
"""Seconds until a connection is accepted again, where there is no file descriptor for it."""

PREFIX = "supervisor_rolling"

# Seconds. A stage takes from nothing (a drain without connections) to the longest warm-up.
STAGE_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROLLOUT_BUCKETS = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)


@dataclass(frozen=True)
class Metric:
    """One metric; Prometheus has its name behind ``PREFIX``, and that of a counter before ``_total``."""

    name: str
    kind: str  # Counter, Gauge or Histogram
    text: str  # what it counts or measures
    labels: tuple[str, ...] = ()  # besides group
    buckets: tuple[float, ...] = ()


METRICS = (
    Metric("rollouts", "Counter", "Rollouts that ended, by result.", ("result",)),
    Metric("rollout_seconds", "Histogram", "Duration of rollouts.", ("result",), ROLLOUT_BUCKETS),
    Metric("remaining_processes", "Gauge", "Processes that the running rollout has yet to replace."),
    Metric("stage_seconds", "Histogram", "Time that a process spends in a stage.", ("stage",), STAGE_BUCKETS),
    Metric("processes", "Gauge", "Processes by stage.", ("stage",)),
    Metric("closed_ports", "Gauge", "Ports that are closed to new connections."),
    Metric("warmup_request_seconds", "Histogram", "Duration of warm-up requests.", buckets=REQUEST_BUCKETS),
    Metric("warmup_failures", "Counter", "Warm-ups that failed or timed out."),
    Metric("guard_warmups", "Counter", "Processes warmed after a crash, a boot or a manual restart."),
)
"""All of them; the documentation lists them."""


class PrometheusMetrics:
    """``listen`` returns the address that rolling.yaml names now, such as 127.0.0.1:9180; empty: no metrics."""

    def __init__(self, listen: Callable[[], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._listen = listen
        self._clock = clock
        self._address = ""
        self._server: _Server | None = None
        self._series: _Series | None = None
        self._retry_at = 0.0
        self._warning = ""  # the last one
        self._groups: set[str] = set()
        self._counted: set[tuple[str, Incarnation]] = set()  # warm-ups that have ended

    def is_on(self) -> bool:
        address = self._listen()
        if address != self._address:
            self._stop()
            self._address, self._retry_at = address, 0.0
        if address and self._server is None and self._clock() >= self._retry_at:
            self._start(address)
        return self._server is not None

    def update(self, groups: Mapping[str, GroupMetrics], warmups: Mapping[str, WarmupStatus]) -> None:
        if self._series is None:
            return
        for group in self._groups - set(groups):
            self._series.forget(group)
        self._groups = set(groups)
        for group, found in groups.items():
            self._series.update(group, found)
        ended = {(key, one.incarnation): one for key, one in warmups.items() if one.state != "warming"}
        for new in ended.keys() - self._counted:
            self._series.add_warmup(new[0].partition(":")[0], ended[new])
        self._counted = set(ended)

    def _start(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        try:
            import prometheus_client  # here: it is an extra

            if self._series is None:
                self._series = _Series(prometheus_client)
            self._server = _Server(host.strip("[]"), int(port))
            self._server.set_app(prometheus_client.make_wsgi_app(self._series.registry))
            threading.Thread(target=self._server.serve, name="metrics", daemon=True).start()
            log.info("metrics are at http://%s/metrics", address)
            self._warning = ""
        except ImportError:
            self._warn(
                "no metrics: prometheus_client is not installed. Fix: pip install prometheus_client (Debian: "
                "python3-prometheus-client) for the listener's Python, then supervisorctl restart rolling"
            )
        except OSError as error:
            why = error.strerror or error
            self._warn(f"no metrics: cannot listen on {address}: {why}. Fix: set another address in metrics.listen")

    def _stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self._server = None

    def _warn(self, text: str) -> None:
        self._retry_at = self._clock() + RETRY_AFTER
        if text != self._warning:
            log.warning("%s", text, extra={"code": "metrics"})
        self._warning = text


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """No line for each scrape."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """Answers in threads of its own, a bounded number of them, each for a bounded time. Where there are too many
    connections the oldest ends: a scrape gets its answer beside any number of idle ones."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._deadlines: dict[Any, float] = {}  # by connection
        self._is_over = threading.Event()
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """As WSGIServer's, without a look-up of the server's name, for which the reconciler would wait."""
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
        """Accept a connection. One for which there is no descriptor stays in the queue, and the loop would try again at
        once."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS:
                self._is_over.wait(PAUSE)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread."""
        for oldest in list(self._deadlines)[: max(0, len(self._deadlines) - MAX_CONNECTIONS + 1)]:
            self._end(oldest)
        self._deadlines[request] = time.monotonic() + CONNECTION_TIMEOUT
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
        """A client that hangs up is no error."""
        log.debug("metrics: the connection of %s ended", client_address, exc_info=True)

    def _end(self, request: Any) -> None:
        """Its thread sees the end of the connection, and closes it."""
        self._deadlines.pop(request, None)
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)


class _Series:
    """All metrics of ``METRICS``, by name."""

    def __init__(self, library: Any) -> None:
        self.registry = library.CollectorRegistry()
        self._metrics = {
            one.name: getattr(library, one.kind)(
                f"{PREFIX}_{one.name}",
                one.text,
                ("group", *one.labels),
                registry=self.registry,
                **({"buckets": one.buckets} if one.buckets else {}),
            )
            for one in METRICS
        }

    def update(self, group: str, found: GroupMetrics) -> None:
        for stage, number in found.stages.items():
            self._metrics["processes"].labels(group, stage).set(number)
        self._metrics["closed_ports"].labels(group).set(found.closed_ports)
        self._metrics["remaining_processes"].labels(group).set(found.remaining)
        self._metrics["guard_warmups"].labels(group).inc(found.guard_warmups)
        for stage, seconds in found.stage_seconds:
            self._metrics["stage_seconds"].labels(group, stage).observe(seconds)
        for result in ("done", "failed", "aborted"):
            self._metrics["rollouts"].labels(group, result).inc(found.ended == result)
        if found.ended:
            self._metrics["rollout_seconds"].labels(group, found.ended).observe(found.seconds)

    def add_warmup(self, group: str, status: WarmupStatus) -> None:
        for milliseconds in status.latencies:
            self._metrics["warmup_request_seconds"].labels(group).observe(milliseconds / 1000)
        self._metrics["warmup_failures"].labels(group).inc(status.state != "warm")

    def forget(self, group: str) -> None:
        """A group that is neither guarded nor in a rollout has no gauges; its counters stay."""
        for stage in Stage:
            self._metrics["processes"].remove(group, stage.value)
        for gauge in ("closed_ports", "remaining_processes"):
            self._metrics[gauge].remove(group)
