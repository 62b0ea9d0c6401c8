"""Warms processes up over HTTP, through their closed gates.

A warm-up runs in a thread of its own, so that a slow one delays neither the others nor a lease; ``tend`` says which
processes shall be warm and gets back how far each is. First the port has to accept, then ``ready`` is asked until
it answers 2xx or 3xx, then the list is sent in order. An answer that is not expected ends the warm-up; a connection
that is refused or breaks does not, because a process that dies is a matter for whoever watches processes: it is
tried again until the deadline. Then the warm-up is *late*, and says what it waited for. Whoever still wants it then was
away meanwhile and counts that time for nobody: it begins anew.

To wait for a boot costs next to nothing, so any number wait at once. Requests make a process work: at most two for
each CPU, and two more, are sent any at a time, first come, first served, those of a roll before the guard's. The
deadline does not run while a process waits for that (``Warmth.queued``).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError

from supervisor_rolling.errors import SocketsError
from supervisor_rolling.in_listener.addresses import is_own
from supervisor_rolling.in_listener.contracts import Sockets
from supervisor_rolling.in_listener.hooks import ENDED_WITHIN
from supervisor_rolling.in_listener.hooks import run as run_hook
from supervisor_rolling.in_listener.threads import Slots, at_usual_priority
from supervisor_rolling.model import BYPASS_ADDRESS, BYPASS_MARK, Warmth, WarmupJob, WarmupRequest
from supervisor_rolling.pure.ports import held_text

SO_MARK = 36  # <asm-generic/socket.h>; Python's socket module does not have it

RETRY_EVERY = 0.02
"""Seconds between two attempts to reach a process that boots, at least: small against any boot."""

RETRY_SHARE = 0.05
"""Of the time that it has been waited for so far, after which it is tried again."""

RETRY_AT_MOST = 0.25
"""Seconds between two attempts, however long it has been waited for."""

STRANGER_EVERY = 0.5
"""Seconds between two looks at who holds the port, where it is another: whoever has to end it is slower, and to look is
dear."""

NEWS_AFTER = 0.5
"""Seconds without an answer at the deadline that are worth telling. One that was asked only just before is no news:
what it answered until then is."""

LATENCIES = 100
"""How many latencies of a warm-up are kept: what it looks like is seen by then, and the roll stays small."""

CHUNK = 65536  # bytes of an answer that are read at a time, and thrown away

V4_LOOPBACK, V6_LOOPBACK = "127.0.0.1", "::1"


class HttpWarmups:
    """The ``Warmups`` of ``contracts.py``.

    ``on_change`` is called when a warm-up has ended; it and ``sockets`` are called from a warm-up's thread.
    """

    def __init__(self, sockets: Sockets, on_change: Callable[[], None] = lambda: None) -> None:
        self._sockets = sockets
        self._on_change = on_change
        self._slots = Slots(2 * (os.cpu_count() or 1) + 2)
        self._running: dict[str, _Warmup] = {}
        self._told_late: set[str] = set()

    def tend(self, wanted: Mapping[str, WarmupJob]) -> Mapping[str, Warmth]:
        """See ``contracts.Warmups``."""
        for name, warmup in list(self._running.items()):
            if name not in wanted or wanted[name].pid != warmup.job.pid:
                warmup.drop()
                del self._running[name]
        for name, job in wanted.items():
            if name not in self._running:
                self._begin(name, job, "")
            elif name in self._told_late:
                self._begin(name, job, self._running[name].warmth.why)
        found = {name: warmup.found() for name, warmup in self._running.items()}
        self._told_late = {name for name, warmth in found.items() if warmth.state == "late"}
        return found

    def end(self) -> None:
        """See ``contracts.Warmups``."""
        commands = [warmup for warmup in self._running.values() if warmup.job.hook.command]
        self.tend({})
        until = time.monotonic() + ENDED_WITHIN
        for warmup in commands:
            warmup.join(max(0.0, until - time.monotonic()))

    def _begin(self, name: str, job: WarmupJob, why: str) -> None:
        """``why``: what the one before it waited for, true until this one knows better."""
        self._running[name] = _Warmup(job, self._sockets, self._slots, self._on_change, why)


class _Warmup(threading.Thread):
    """One process being warmed. ``warmth`` is replaced as a whole, so that others read it without a lock."""

    def __init__(self, job: WarmupJob, sockets: Sockets, slots: Slots, on_change: Callable[[], None], why: str) -> None:
        super().__init__(name=f"warm-up of {job.pid}", daemon=True)
        self.job = job
        self.warmth = Warmth(job.pid, "warming", why=why)
        self.dropped = threading.Event()
        self._sockets = sockets
        self._slots = slots
        self._on_change = on_change
        self._deadline = time.monotonic() + job.policy.timeout
        self._queued_at = 0.0
        self.start()

    def drop(self) -> None:
        """It is no longer wanted, and another may have its slot."""
        self.dropped.set()
        self._slots.leave(self)

    def found(self) -> Warmth:
        """How far it is; of one that waits for a slot, for how long until now."""
        queued_at, warmth = self._queued_at, self.warmth
        return replace(warmth, queued=time.monotonic() - queued_at) if queued_at else warmth

    def run(self) -> None:
        """The whole warm-up; whatever happens, ``warmth`` says it."""
        at_usual_priority()
        try:
            self._warm()
        except _LateError as error:
            self.warmth = replace(self.warmth, state="late", why=str(error))
        except _NotWarmError as error:
            self.warmth = replace(self.warmth, state="failed", why=str(error))
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to, and a warm-up that never ends would hold the roll
            self.warmth = replace(self.warmth, state="failed", why=f"{type(error).__name__}: {error}")
        self._slots.leave(self)
        self._on_change()

    def _warm(self) -> None:
        base = self._base_url()
        self._queue()
        with _session(self.job.bypass) as session:
            self._ask(session, base)
        self._run_hook()
        self.warmth = replace(self.warmth, state="warm", why="")

    def _ask(self, session: requests.Session, base: str) -> None:
        policy = self.job.policy
        if policy.ready:
            self._until_ready(session, base, WarmupRequest(path=policy.ready))
        for request in _each(policy.requests):
            started = time.monotonic()
            _require(request, self._send(session, base, request))
            self._count((time.monotonic() - started) * 1000)

    def _queue(self) -> None:
        """Wait for a slot; the deadline is put off by as much."""
        began = time.monotonic()
        self.warmth = replace(self.warmth, why=f"waits for a slot: {self._slots.number} warm-ups run at once")
        self._queued_at = began
        self._slots.enter(self.job.rank, self.dropped)
        queued = time.monotonic() - began
        self._deadline += queued
        self.warmth, self._queued_at = replace(self.warmth, queued=queued, why=""), 0.0
        self._require_time("there was no time left")

    def _run_hook(self) -> None:
        """The operator's command, which may say that it is not warm after all."""
        if not self.job.hook.command:
            return
        left = max(0.0, self._deadline - time.monotonic())
        why = run_hook(self.job.hook, self.job.variables, self.dropped, left)
        if why:
            raise _NotWarmError(f"after_warmup {why}")

    def _base_url(self) -> str:
        port, began = self.job.ports[0], time.monotonic()
        while True:
            try:
                addresses, why = self._sockets.listeners([port])[port], f"nothing listens on port {port}"
                stranger = self._sockets.stranger_on(port, self.job.pid) if addresses else None
            except SocketsError as error:
                addresses, stranger, why = (), None, str(error)
            if addresses and not stranger:
                address = reached_at(addresses, self.job.bypass)
                if address:
                    self.warmth = replace(self.warmth, why="")
                    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
                self._wait(_unreachable_text(addresses, port), began)
            elif stranger:
                self._wait(held_text(port, stranger, stranger.started), began, STRANGER_EVERY)
            else:
                self._wait(f"{why}{self._elsewhere()}" if self._is_late() else why, began)

    def _elsewhere(self) -> str:
        """Where the process listens instead, if it does."""
        try:
            ports = ", ".join(map(str, self._sockets.ports_of([self.job.pid])[self.job.pid]))
        except SocketsError:  # to say less is no error
            return ""
        return f"; it listens on {ports}: mend the ports in rolling.yaml, or the program" if ports else ""

    def _until_ready(self, session: requests.Session, base: str, request: WarmupRequest) -> None:
        began = time.monotonic()
        while True:
            status = self._send(session, base, request)
            if _is_expected(request, status):
                self.warmth = replace(self.warmth, why="")
                return
            self._wait(f"GET {request.path} (ready) answers {status}", began)

    def _send(self, session: requests.Session, base: str, request: WarmupRequest) -> int:
        """The status of the answer, when all of it has come; attempts that break are repeated until the deadline."""
        first = time.monotonic()
        while True:
            began = time.monotonic()
            try:
                with self._begin(session, base, request) as answer:
                    self._swallow(answer, request, began)
                    return answer.status_code
            except requests.Timeout:
                raise _LateError(self._cut_off(request, began, "did not answer")) from None
            except (requests.RequestException, HTTPError) as error:
                self._wait(f"{request.method} {request.path}: {_reason(error)}", first)

    def _swallow(self, answer: requests.Response, request: WarmupRequest, began: float) -> None:
        """Read all of an answer as it comes: to wait for a whole piece of one that trickles is to miss the deadline."""
        read = getattr(answer.raw, "read1", answer.raw.read)  # an old urllib3 has none
        try:
            while read(CHUNK, decode_content=False):
                self._require_time(self._cut_off(request, began, "did not end its answer"))
        except ReadTimeoutError:
            raise _LateError(self._cut_off(request, began, "did not end its answer")) from None

    def _cut_off(self, request: WarmupRequest, began: float, what: str) -> str:
        is_news = time.monotonic() - began >= NEWS_AFTER or not self.warmth.why
        return f"{request.method} {request.path} {what}" if is_news else self.warmth.why

    def _begin(self, session: requests.Session, base: str, request: WarmupRequest) -> requests.Response:
        self._require_time(self.warmth.why or f"there was no time left for {request.method} {request.path}")
        return session.request(
            request.method,
            base + request.path,
            headers={"Connection": "close", **self.job.policy.headers, **request.headers},
            data=request.body.encode() or None,
            timeout=max(0.001, self._deadline - time.monotonic()),
            allow_redirects=False,
            stream=True,
        )

    def _require_time(self, why: str) -> None:
        if self.dropped.is_set():
            raise _NotWarmError("no longer wanted")
        if self._is_late():
            raise _LateError(why)

    def _is_late(self) -> bool:
        return time.monotonic() >= self._deadline

    def _wait(self, why: str, began: float, least: float = RETRY_EVERY) -> None:
        """Until it is tried again: the longer, the longer it has been waited for since ``began``."""
        self.warmth = replace(self.warmth, why=why)
        if self._is_late():
            raise _LateError(why)
        now = time.monotonic()
        seconds = max(least, min(RETRY_AT_MOST, RETRY_SHARE * (now - began)))
        if self.dropped.wait(min(seconds, max(RETRY_EVERY, self._deadline - now))):
            raise _NotWarmError("no longer wanted")

    def _count(self, milliseconds: float) -> None:
        first = self.warmth.first_ms if self.warmth.requests else milliseconds
        latencies = (*self.warmth.latencies, round(milliseconds, 1))[:LATENCIES]
        self.warmth = replace(
            self.warmth,
            requests=self.warmth.requests + 1,
            first_ms=round(first, 1),
            last_ms=round(milliseconds, 1),
            latencies=latencies,
            why="",
        )


class _NotWarmError(Exception):
    """Why a process is not warm."""


class _LateError(Exception):
    """What it waited for when its time was over."""


class _Adapter(HTTPAdapter):
    """Connections that pass a closed gate."""

    def __init__(self, bypass: str) -> None:
        self._pass = _passing(bypass)
        super().__init__()

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **options, **self._pass)


def _passing(bypass: str) -> dict[str, Any]:
    if bypass == "address":
        return {"source_address": (BYPASS_ADDRESS, 0)}
    if bypass == "mark":  # asks for CAP_NET_ADMIN, so only where a rule looks for it
        return {"socket_options": [(socket.SOL_SOCKET, SO_MARK, BYPASS_MARK)]}
    return {}


def _session(bypass: str) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # a proxy variable would send the warm-up elsewhere
    session.mount("http://", _Adapter(bypass))
    return session


def reached_at(addresses: tuple[str, ...], bypass: str) -> str:
    """The address to ask, of those that it listens on; empty where none can be asked. IPv4 first: ``bypass: address``
    has no other."""
    address = min(addresses, key=lambda a: (":" in a, a))
    if address == "0.0.0.0":
        return V4_LOOPBACK
    if address == "::":  # mostly it takes both
        return V6_LOOPBACK if bypass != "address" and is_own(V6_LOOPBACK) else V4_LOOPBACK
    return "" if ":" in address and bypass == "address" else address


def _unreachable_text(addresses: tuple[str, ...], port: int) -> str:
    return (
        f"port {port} listens on {', '.join(addresses)} alone, and `bypass: address` passes by IPv4 only: let it "
        "listen on an IPv4 address too, or use `gate: {bypass: mark}`"
    )


def _each(wanted: tuple[WarmupRequest, ...]) -> Iterator[WarmupRequest]:
    for request in wanted:
        for _ in range(request.count):
            yield request


def _require(request: WarmupRequest, status: int) -> None:
    if not _is_expected(request, status):
        wanted = " or ".join(map(str, request.expect)) or "2xx or 3xx"
        raise _NotWarmError(f"{request.method} {request.path} answered {status}, expected {wanted}")


def _is_expected(request: WarmupRequest, status: int) -> bool:
    return status in request.expect if request.expect else 200 <= status < 400


def _reason(error: Exception) -> str:
    """The last line of what urllib3 wraps three times."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    return str(cause) or type(cause).__name__
