"""Warms processes up over HTTP, through their closed gates.

A warm-up runs in a thread of its own, so that a slow one delays neither the others nor a lease; ``tend`` says which
processes shall be warm and gets back how far each is. First the port has to accept, then ``ready`` is asked until
it answers 2xx, then the list is sent in order. A redirect is followed as long as it stays at the process.

An answer that is not expected ends the warm-up, and so does another protocol than HTTP/1; ``ready`` may answer three
times about what was asked (400, 401, 403, 404, a redirect elsewhere). A connection that is refused or breaks is tried
again until the deadline: the reconciler sees itself when a process dies. At the deadline the warm-up is *late*, and
says what it waited for. If it is still wanted then, the listener stood still meanwhile: it begins anew.

To wait for a boot costs next to nothing, so any number wait at once. Requests make a process work: at most two for
each CPU, and two more, are sent any at a time, first come, first served, those of a rollout before the guard's. The
deadline does not run while a process waits for that (``WarmupStatus.queued``).
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util.connection import create_connection

from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.core.jobs import WarmupJob, WarmupStatus
from supervisor_rolling.core.policy import BYPASS_ADDRESS, BYPASS_MARK, WarmupRequest
from supervisor_rolling.core.ports import foreign_text
from supervisor_rolling.core.protocol_detection import H2_PREFACE, HTTP_2, TLS, may_be_http, not_http_text, spoken
from supervisor_rolling.core.text import printable
from supervisor_rolling.core.warmup_replies import (
    MAX_REDIRECTS,
    Reply,
    is_expected,
    is_lasting,
    redirected,
    unexpected_text,
    unready_text,
)
from supervisor_rolling.listener.contracts import Sockets
from supervisor_rolling.listener.system.bypass import SO_MARK, reached_at
from supervisor_rolling.listener.system.command import ENDED_WITHIN
from supervisor_rolling.listener.system.command import run as run_hook
from supervisor_rolling.listener.system.threads import Slots, at_usual_priority

RETRY_EVERY = 0.02
"""Seconds between two attempts to reach a process that boots, at least: small against any boot."""

RETRY_SHARE = 0.05
"""Of the time that it has been waited for so far, after which it is tried again."""

RETRY_AT_MOST = 0.25
"""Seconds between two attempts, however long it has been waited for."""

FOREIGN_EVERY = 0.5
"""Seconds between two looks at a port that a foreign process holds: each reads the open files of every process."""

NEWS_AFTER = 0.5
"""Seconds without an answer at the deadline that are worth telling. One that was asked only just before is no news:
what it answered until then is."""

LATENCIES = 100
"""How many latencies and statuses of a warm-up are kept: what it is like is seen by then, and the rollout stays
small."""

MAX_REFUSALS = 3
"""Answers of ``ready`` that are about what was asked, after which it is not asked again."""

REFUSED_EVERY = 0.5
"""Seconds from one of them to the next: a process that boots may not know all of its paths yet."""

PROBED_AT = frozenset({3, 30})
"""How many connections in a row have to end without a byte until it is tried whether TLS or HTTP/2 is spoken there."""

PROBED_FOR = 2.0  # seconds at most for each of the two

FIRST = 64  # bytes of an answer that tell its protocol

CHUNK = 65536  # bytes of an answer that are read at a time, and thrown away
BEGINNING = 1000  # bytes of it that may tell what is wrong
WHY = 600  # characters


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

    def tend(self, selected: Mapping[str, WarmupJob]) -> Mapping[str, WarmupStatus]:
        """See ``contracts.Warmups``."""
        for name, warmup in list(self._running.items()):
            if name not in selected or _is_other(selected[name], warmup.job):
                warmup.drop()
                del self._running[name]
        for name, job in selected.items():
            if name not in self._running:
                self._begin(name, job, "")
            elif name in self._told_late:
                self._begin(name, job, self._running[name].warmup_status.why)
        found = {name: warmup.found() for name, warmup in self._running.items()}
        self._told_late = {name for name, warmup_status in found.items() if warmup_status.state == "late"}
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
        self._running[name] = _Warmup(name, job, self._sockets, self._slots, self._on_change, why)


def _is_other(selected: WarmupJob, begun: WarmupJob) -> bool:
    """Whether another process is to be warmed, or otherwise: rolling.yaml has changed."""
    return replace(selected, variables=begun.variables, rank=begun.rank) != begun


class _Warmup(threading.Thread):
    """One process (``own``: its ``group:process``) being warmed. ``warmup_status`` is replaced as a whole, so that
    others read it without a lock."""

    def __init__(
        self, own: str, job: WarmupJob, sockets: Sockets, slots: Slots, on_change: Callable[[], None], why: str
    ) -> None:
        super().__init__(name=f"warm-up of {job.pid}", daemon=True)
        self.own = own
        self._group = own.partition(":")[0]
        self.job = job
        self.warmup_status = WarmupStatus(job.pid, "warming", why=why, spawned=job.spawned)
        self.dropped = threading.Event()
        self._sockets = sockets
        self._slots = slots
        self._on_change = on_change
        self._deadline = time.monotonic() + job.policy.timeout
        self._queued_at = 0.0
        self._wire = _Wire()
        self.start()

    def drop(self) -> None:
        """It is no longer wanted, and another may have its slot."""
        self.dropped.set()
        self._slots.leave(self)

    def found(self) -> WarmupStatus:
        """How far it is; of one that waits for a slot, for how long until now."""
        queued_at, warmup_status = self._queued_at, self.warmup_status
        return (
            replace(warmup_status, queued=warmup_status.queued + time.monotonic() - queued_at)
            if queued_at
            else warmup_status
        )

    def run(self) -> None:
        """The whole warm-up; whatever happens, ``warmup_status`` says it."""
        at_usual_priority()
        try:
            self._warm()
        except _LateError as error:
            self._end("late", str(error))
        except _NotWarmError as error:
            self._end("failed", str(error))
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to, and a warm-up that never ends would hold the rollout
            self._end("failed", f"{type(error).__name__}: {error}")
        self._slots.leave(self)
        self._on_change()

    def _end(self, state: str, why: str = "") -> None:
        self.warmup_status = replace(self.warmup_status, state=state, why=printable(why, WHY))

    def _warm(self) -> None:
        began = time.monotonic()
        while True:
            base = self._base_url()
            self._queue()
            with _session(self.job.bypass, self._wire) as session:
                self._ask(session, base)
            _, why = self._use_of_port()
            if not why:
                break
            self._slots.leave(self)
            # A foreign process may have given the answers: they do not count.
            self.warmup_status = WarmupStatus(
                self.job.pid, "warming", spawned=self.job.spawned, queued=self.warmup_status.queued
            )
            self._wait(why, began, FOREIGN_EVERY)
        self._run_hook()
        self._end("warm")

    def _ask(self, session: requests.Session, base: str) -> None:
        policy = self.job.policy
        if policy.ready:
            self._until_ready(session, base, WarmupRequest(path=policy.ready))
        for request in _each(policy.requests):
            started = time.monotonic()
            asked, reply = self._fetch(session, base, request)
            if not is_expected(asked, reply.status):
                raise _NotWarmError(unexpected_text(asked, reply, policy.headers, self._group))
            self._count((time.monotonic() - started) * 1000, reply.status)

    def _queue(self) -> None:
        """Wait for a slot; the deadline is put off by as much."""
        began = time.monotonic()
        self.warmup_status = replace(
            self.warmup_status, why=f"waits for a slot: {self._slots.number} warm-ups run at once"
        )
        self._queued_at = began
        self._slots.enter(self.job.rank, self.dropped)
        queued = time.monotonic() - began
        self._deadline += queued
        self._wire.deadline = self._deadline
        # In this order: seen in between, it has queued for too long, and not for no time, which would make it late.
        self.warmup_status = replace(self.warmup_status, queued=self.warmup_status.queued + queued, why="")
        self._queued_at = 0.0
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
        """Where to ask the process, as soon as it listens on its port and no foreign process does."""
        port, began = self.job.ports[0], time.monotonic()
        while True:
            addresses, why = self._use_of_port()
            address = "" if why else reached_at(addresses, self.job.bypass)
            if address:
                self.warmup_status = replace(self.warmup_status, why="")
                return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
            why = (why or _unreachable_text(addresses, port)) + (self._elsewhere() if self._is_late() else "")
            self._wait(why, began, FOREIGN_EVERY if addresses else RETRY_EVERY)

    def _use_of_port(self) -> tuple[tuple[str, ...], str]:
        """The addresses at which the process listens on its port, and why what answers there is not the process alone;
        empty where it is. Without addresses nothing listens."""
        port = self.job.ports[0]
        try:
            use = self._sockets.listening(port, self.job.pid)
        except SocketsError as error:
            return (), str(error)
        if not use.addresses:
            return (), f"nothing listens on port {port}"
        return use.own or use.addresses, foreign_text(port, use, self.own, self.job.policy.proxies)

    def _elsewhere(self) -> str:
        """Where the process listens instead, if it does."""
        try:
            found = self._sockets.ports_of([self.job.pid])[self.job.pid]
        except SocketsError:  # to say less is no error
            return ""
        if not found or self.job.ports[0] in found:
            return ""
        return f"; it listens on {', '.join(map(str, found))}. Fix: correct `ports` in rolling.yaml, or the program"

    def _until_ready(self, session: requests.Session, base: str, request: WarmupRequest) -> None:
        began, refusals = time.monotonic(), 0
        while True:
            asked, reply = self._fetch(session, base, request)
            if is_expected(asked, reply.status):
                self.warmup_status = replace(self.warmup_status, why="")
                return
            why = unready_text(asked, reply, self.job.policy.headers, self._group)
            refusals = refusals + 1 if is_lasting(reply) else 0
            if refusals >= MAX_REFUSALS:
                raise _NotWarmError(why)
            self._wait(why, began, REFUSED_EVERY if refusals else RETRY_EVERY)

    def _fetch(self, session: requests.Session, base: str, request: WarmupRequest) -> tuple[WarmupRequest, Reply]:
        """The answer, and the request that it answers: another one where redirects were followed."""
        reply = self._send(session, base, request)
        for _ in range(MAX_REDIRECTS):
            following = redirected(request, reply, self.job.policy.headers, base.partition("//")[2])
            if following is None:
                break
            request, reply = following, self._send(session, base, following)
        return request, reply

    def _send(self, session: requests.Session, base: str, request: WarmupRequest) -> Reply:
        """The answer, when all of it has come; attempts that break are repeated until the deadline."""
        first, mute = time.monotonic(), 0
        while True:
            began = time.monotonic()
            try:
                with self._begin(session, base, request) as answer:
                    beginning = self._swallow(answer, request, began)
                    return Reply(answer.status_code, answer.headers.get("Location", ""), beginning)
            except requests.Timeout:
                raise _LateError(self._cut_off(request, began, "did not answer")) from None
            except (requests.RequestException, HTTPError) as error:
                if not may_be_http(self._wire.first):
                    raise _NotWarmError(not_http_text(self.job.ports[0], self._wire.first)) from None
                mute = 0 if self._wire.first or "refused" in str(error) else mute + 1
                if mute in PROBED_AT:
                    self._probe(base)
                self._wait(f"{request.method} {request.path}: {_reason(error)}", first)

    def _probe(self, base: str) -> None:
        """Raise where a process that ends connections without a byte answers in TLS or HTTP/2."""
        for name, hello in ((TLS, _tls_hello()), (HTTP_2, H2_PREFACE)):
            seconds = min(PROBED_FOR, max(RETRY_EVERY, self._deadline - time.monotonic()))
            answer = _answer_to(hello, base, self.job.bypass, seconds)
            if spoken(answer) == name:
                raise _NotWarmError(not_http_text(self.job.ports[0], answer))

    def _swallow(self, answer: requests.Response, request: WarmupRequest, began: float) -> bytes:
        """Read all of an answer as it comes: to wait for a whole piece of one that trickles is to miss the deadline.
        Returns its first bytes."""
        read = getattr(answer.raw, "read1", answer.raw.read)  # an old urllib3 has none
        beginning = b""
        try:
            while data := read(CHUNK, decode_content=False):
                beginning = beginning or data[:BEGINNING]
                self._require_time(self._cut_off(request, began, "did not end its answer"))
        except ReadTimeoutError:
            raise _LateError(self._cut_off(request, began, "did not end its answer")) from None
        return beginning

    def _cut_off(self, request: WarmupRequest, began: float, what: str) -> str:
        is_news = time.monotonic() - began >= NEWS_AFTER or not self.warmup_status.why
        return f"{request.method} {request.path} {what}" if is_news else self.warmup_status.why

    def _begin(self, session: requests.Session, base: str, request: WarmupRequest) -> requests.Response:
        self._require_time(self.warmup_status.why or f"there was no time left for {request.method} {request.path}")
        self._wire.first = b""
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
        self.warmup_status = replace(self.warmup_status, why=printable(why, WHY))
        if self._is_late():
            raise _LateError(why)
        now = time.monotonic()
        seconds = max(least, min(RETRY_AT_MOST, RETRY_SHARE * (now - began)))
        if self.dropped.wait(min(seconds, max(RETRY_EVERY, self._deadline - now))):
            raise _NotWarmError("no longer wanted")

    def _count(self, milliseconds: float, status: int) -> None:
        first = self.warmup_status.first_ms if self.warmup_status.requests else milliseconds
        latencies = (*self.warmup_status.latencies, round(milliseconds, 1))[:LATENCIES]
        self.warmup_status = replace(
            self.warmup_status,
            requests=self.warmup_status.requests + 1,
            first_ms=round(first, 1),
            last_ms=round(milliseconds, 1),
            latencies=latencies,
            statuses=(*self.warmup_status.statuses, status)[:LATENCIES],
            why="",
        )


class _NotWarmError(Exception):
    """Why a process is not warm."""


class _LateError(Exception):
    """What it waited for when its time was over."""


class _Wire:
    """What the connections of a warm-up have in common: when all is over for them, and the first bytes that the latest
    has received."""

    deadline = float("inf")
    first = b""


class _Socket(socket.socket):
    """A connection with one deadline for all that it receives: http.client has one for each piece, so that headers that
    trickle never end."""

    wire: _Wire

    def recv_into(self, *where: Any) -> int:
        """As a socket's. Ends at once where what comes is not HTTP/1: the line that it waits for may never end."""
        left = self.wire.deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout("timed out")
        self.settimeout(min(left, threading.TIMEOUT_MAX))
        count = super().recv_into(*where)
        if len(self.wire.first) < FIRST:
            self.wire.first += bytes(where[0][: min(count, FIRST)])
            if not may_be_http(self.wire.first):
                raise ConnectionError("it is not HTTP/1")
        return count


class _Adapter(HTTPAdapter):
    """Connections that pass a closed gate."""

    def __init__(self, bypass: str, wire: _Wire) -> None:
        self._pass = _passing(bypass)
        self._wire = wire
        super().__init__()

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        """As an HTTPAdapter's, with connections of our own."""
        wire = self._wire

        class Connection(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                assert self.sock is not None
                own = self.sock.gettimeout()
                self.sock = _Socket(fileno=self.sock.detach())
                self.sock.settimeout(own)
                self.sock.wire = wire

        class Pool(HTTPConnectionPool):
            ConnectionCls = Connection

        super().init_poolmanager(connections, maxsize, block, **options, **self._pass)
        self.poolmanager.pool_classes_by_scheme = {"http": Pool}


def _passing(bypass: str) -> dict[str, Any]:
    if bypass == "address":
        return {"source_address": (BYPASS_ADDRESS, 0)}
    if bypass == "mark":  # asks for CAP_NET_ADMIN, so only where a rule looks for it
        return {"socket_options": [(socket.SOL_SOCKET, SO_MARK, BYPASS_MARK)]}
    return {}


def _session(bypass: str, wire: _Wire) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # a proxy variable would send the warm-up elsewhere
    session.mount("http://", _Adapter(bypass, wire))
    return session


def _tls_hello() -> bytes:
    """What a client of TLS sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    hello = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), hello).do_handshake()
    return hello.read()


def _answer_to(hello: bytes, base: str, bypass: str, seconds: float) -> bytes:
    """The first bytes of an answer; none where there are none in time."""
    url = urlsplit(base)
    assert url.hostname
    assert url.port
    try:
        with create_connection((url.hostname, url.port), seconds, **_passing(bypass)) as own:
            own.sendall(hello)
            return own.recv(FIRST)
    except OSError:
        return b""


def _unreachable_text(addresses: tuple[str, ...], port: int) -> str:
    return (
        f"port {port} listens on {', '.join(addresses)} alone, and `bypass: address` passes by IPv4 only: let it "
        "listen on an IPv4 address too, or use `gate: {bypass: mark}`"
    )


def _each(selected: tuple[WarmupRequest, ...]) -> Iterator[WarmupRequest]:
    for request in selected:
        for _ in range(request.count):
            yield request


def _reason(error: Exception) -> str:
    """The last line of what urllib3 wraps three times."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    return str(cause) or type(cause).__name__
