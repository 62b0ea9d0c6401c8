"""Warms processes up over HTTP, through their closed gates; those without a port of their own by the operator's
commands alone. One that shares its socket is ready when it accepts, and says itself what its own warm-up came to.

A warm-up runs in a thread of its own, so that a slow one delays neither the others nor a lease; ``tend`` is given which
processes shall be warm and returns how far each is. First the port has to accept connections, then ``ready`` is
requested until it answers 2xx or run until it succeeds, then the list is sent in order. A redirect is followed as long
as it leads to the process itself.

An unexpected answer ends the warm-up, and so does another protocol than HTTP/1; ``ready`` may give three answers that
concern the request (400, 401, 403, 404, a redirect elsewhere). A connection that is refused or breaks is tried again
until the deadline: the reconciler sees itself when a process dies. At the deadline the warm-up is *late*, and says what
it waited for. If it is still wanted then, the listener was suspended meanwhile: it begins anew.

To wait for a boot costs next to nothing, so any number wait at once. Requests make a process work: at most two for
each CPU, and two more, are sent any at a time, first come, first served, those of a rollout before the guard's. The
deadline does not run while a process waits for that (``WarmupStatus.queued``).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.core.jobs import WarmupJob, WarmupStatus
from supervisor_rolling.core.own_warmup import result_of
from supervisor_rolling.core.policy import WarmupRequest
from supervisor_rolling.core.protocol_detection import H2_PREFACE, HTTP_2, TLS, may_be_http, not_http_text, spoken
from supervisor_rolling.core.reason import Reason
from supervisor_rolling.core.text import printable
from supervisor_rolling.core.warmup_replies import (
    MAX_REDIRECTS,
    Reply,
    code_of,
    is_expected,
    is_lasting,
    redirected,
    unexpected_text,
    unready_text,
)
from supervisor_rolling.listener.contracts import Sockets
from supervisor_rolling.listener.system.command import END_TIMEOUT
from supervisor_rolling.listener.system.command import run as run_command
from supervisor_rolling.listener.system.http_session import Wire, answer_to, open_session, reason, tls_hello
from supervisor_rolling.listener.system.threads import Slots, at_usual_priority
from supervisor_rolling.listener.warmup.target import FOREIGN_EVERY, RETRY_EVERY, PortTarget, Target, target_of

# Seconds between two attempts to reach a process that boots: a share of the time waited so far, within these bounds.
RETRY_SHARE, RETRY_AT_MOST = 0.05, 0.25

ACCEPTS_EVERY = 0.1
"""Seconds between two looks whether a process accepts: each reads the parents of all processes."""

NEWS_AFTER = 0.5
"""Seconds that a request has to be without an answer at the deadline to be named as the reason; for a request that was
sent later, the reason is that of the attempt before."""

MAX_LATENCIES = 100
"""How many latencies and statuses of a warm-up are kept: they show its course by then, and the rollout stays small."""

MAX_REFUSALS, REFUSED_EVERY = 3, 0.5
"""How many answers of ``ready`` may concern the request, and the seconds from one to the next: a process that boots may
not know all of its paths yet."""

COMMAND_EVERY = 0.25
"""Seconds between two runs of the command of ``ready``."""

PROBED_AT, PROBED_FOR = frozenset({3, 30}), 2.0
"""After so many connections in a row without a byte, TLS and HTTP/2 are tried; and the seconds for each."""

CHUNK = 65536  # bytes of an answer that are read at a time, and thrown away
BEGINNING = 1000  # bytes of it that may tell what is wrong
MAX_WHY = 600  # characters

NOT_WANTED = "no longer wanted"


class HttpWarmups:
    """The ``Warmups`` of ``contracts.py``.

    ``on_change`` is called when a warm-up has ended; it and ``sockets`` are called from a warm-up's thread.
    """

    def __init__(self, sockets: Sockets, on_change: Callable[[], None] = lambda: None) -> None:
        self._sockets = sockets
        self._on_change = on_change
        self._slots = Slots(2 * (os.cpu_count() or 1) + 2)
        self._running: dict[str, dict[str, _Warmup]] = {}  # by group
        self._late: dict[str, set[str]] = {}  # in the last call

    def tend(self, group: str, selected: Mapping[str, WarmupJob]) -> Mapping[str, WarmupStatus]:
        running, was_late = self._running.setdefault(group, {}), self._late.get(group, set())
        for name, warmup in list(running.items()):
            if name not in selected or _is_other(selected[name], warmup.job):
                warmup.drop()
                del running[name]
        for name, job in selected.items():
            if name not in running:
                running[name] = self._begun(name, job, "")
            elif name in was_late:
                running[name] = self._begun(name, job, running[name].status.why)
        found = {name: warmup.found() for name, warmup in running.items()}
        self._late[group] = {name for name, status in found.items() if status.state == "late"}
        return found

    def end(self) -> None:
        every = [one for running in self._running.values() for one in running.values()]
        commands = [one for one in every if one.job.hook.command or one.job.policy.ready.hook.command]
        for group in self._running:
            self.tend(group, {})
        until = time.monotonic() + END_TIMEOUT
        for warmup in commands:
            warmup.join(max(0.0, until - time.monotonic()))

    def _begun(self, name: str, job: WarmupJob, why: str) -> _Warmup:
        """``why``: what the previous one waited for, shown until this one knows more."""
        return _Warmup(name, job, self._sockets, self._slots, self._on_change, why)


def _is_other(selected: WarmupJob, begun: WarmupJob) -> bool:
    """Whether another process is to be warmed, or in another way: rolling.yaml has changed."""
    return replace(selected, variables=begun.variables, rank=begun.rank) != begun


class _NotWarmError(Exception):
    """Why a process is not warm."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text)
        self.reason = reason


class _LateError(_NotWarmError):
    """What it waited for when its time was over."""


class _Warmup(threading.Thread):
    """The warm-up of one process, ``own`` (``group:process``). ``status`` is replaced as a whole, so that others read
    it without a lock."""

    def __init__(
        self, own: str, job: WarmupJob, sockets: Sockets, slots: Slots, on_change: Callable[[], None], why: str
    ) -> None:
        super().__init__(name=f"warm-up of {job.pid}", daemon=True)
        self.own = own
        self.job = job
        self.status = WarmupStatus(job.pid, "warming", why=why, spawned=job.spawned)
        self.dropped = threading.Event()
        self._group = own.partition(":")[0]
        self._target = target_of(sockets, job, own) if job.endpoints else None
        self._second = job.policy.socket.replace("{name}", own.partition(":")[2]) if job.is_shared else ""
        self._sockets = sockets
        self._slots = slots
        self._on_change = on_change
        self._deadline = time.monotonic() + job.policy.timeout
        self._queued_at = 0.0
        self._wire = Wire()
        self.start()

    def drop(self) -> None:
        """End it soon, and give its slot to another one now."""
        self.dropped.set()
        self._slots.leave(self)

    def found(self) -> WarmupStatus:
        """How far it is; ``queued`` counts until now."""
        queued_at, status = self._queued_at, self.status
        return replace(status, queued=status.queued + time.monotonic() - queued_at) if queued_at else status

    def run(self) -> None:
        """The whole warm-up. ``status`` has its end, whatever happens."""
        at_usual_priority()
        try:
            self._warm()
        except _LateError as error:
            self._set(state="late", why=error.reason.text, code=error.reason.code)
        except _NotWarmError as error:
            self._set(state="failed", why=error.reason.text, code=error.reason.code)
        except Exception as error:  # noqa: BLE001 - a warm-up that never ends would block the rollout
            self._set(state="failed", why=f"{type(error).__name__}: {error}", code="bug")
        self._slots.leave(self)
        self._on_change()

    def _set(self, **changes: Any) -> None:
        if "why" in changes:
            changes = {"code": "", **changes, "why": printable(changes["why"], MAX_WHY)}
        self.status = replace(self.status, **changes)

    def _warm(self) -> None:
        if self._target:
            self._warm_by_requests(self._target)
        else:
            self._until_command_succeeds()
        if self._second:
            self._queue()
            with open_session(self.job.bypass, self._wire, lambda: self._second) as session:
                self._send_all(session)
        if self.job.is_shared and not self.job.policy.ready.hook.command:
            self._until_it_accepts()
        if self.job.hook.command:
            left = max(0.0, self._deadline - time.monotonic())
            why = run_command(self.job.hook, self.job.variables, self.dropped, left)
            if why:
                raise _NotWarmError(Reason("hooks", f"after_warmup {why}"))
        self._set(state="warm", why="")

    def _warm_by_requests(self, target: Target) -> None:
        began = time.monotonic()
        while True:
            self._until_it_listens(target)
            self._until_command_succeeds()
            self._queue()
            with open_session(self.job.bypass, self._wire, target.path) as session:
                self._send_all(session)
            why = target.use()
            if not why:
                break
            self._slots.leave(self)
            # Another process may have given the answers: they do not count.
            self.status = WarmupStatus(self.job.pid, "warming", spawned=self.job.spawned, queued=self.status.queued)
            self._wait(Reason("warmup.port", why), began, FOREIGN_EVERY)

    def _until_it_listens(self, target: Target) -> None:
        """Wait until the process listens on its port or socket, and no other process does."""
        began = time.monotonic()
        while why := target.look():
            self._wait(Reason("warmup.port", why), began, target.retry_every, target.elsewhere)
        self._set(why="")

    def _until_command_succeeds(self) -> None:
        """``ready: {command: […]}``."""
        hook, began = self.job.policy.ready.hook, time.monotonic()
        while hook.command:
            left = max(0.0, self._deadline - time.monotonic())
            why = run_command(hook, self.job.variables, self.dropped, left)
            if not why:
                return
            reason = Reason("warmup.command", f"{hook.command[0]} (ready) {why}")
            if self._is_late() and self.status.why:  # it was cut off, and says less than the run before
                reason = Reason(self.status.code, self.status.why)
            self._wait(reason, began, COMMAND_EVERY)

    def _until_it_accepts(self) -> None:
        """Wait until a process accepts on the socket that it shares, and read what its own warm-up came to. Where that
        cannot be seen it is ready when it is RUNNING."""
        began = time.monotonic()
        with contextlib.suppress(SocketsError):
            while not self._sockets.accepts(self.job.pid):
                why = Reason("warmup.accepts", "does not accept connections on its shared socket")
                self._wait(why, began, ACCEPTS_EVERY)
        result = result_of(self._sockets.memory_files_of(self.job.pid))
        if result and result.problem:
            raise _NotWarmError(Reason("warmup.in_process", f"{result.problem} (its own warm-up)"))
        if result:
            self._set(requests=result.requests, first_ms=result.first_ms, last_ms=result.last_ms)

    # --- the slot and the deadline

    def _queue(self) -> None:
        """Wait for a slot; the deadline is extended by as much."""
        self._set(why=f"waits for other warm-ups: {self._slots.number} run at once")
        self._queued_at = began = time.monotonic()
        self._slots.enter(self.job.rank, self.dropped)
        queued = time.monotonic() - began
        self._deadline += queued
        self._wire.deadline = self._deadline
        # In this order: read in between, it has queued for too long; for no time at all would make it late.
        self._set(queued=self.status.queued + queued, why="")
        self._queued_at = 0.0
        self._require_time("there was no time left")

    def _require_time(self, why: str) -> None:
        if self.dropped.is_set():
            raise _NotWarmError(Reason("warmup.failed", NOT_WANTED))
        if self._is_late():
            raise self._late(why)

    def _is_late(self) -> bool:
        return time.monotonic() >= self._deadline

    def _wait(self, why: Reason, began: float, least: float = RETRY_EVERY, if_late: Callable[[], str] = str) -> None:
        """Pause before the next attempt: the longer it has been waited for since ``began``, the longer. ``if_late``:
        more of the reason, too slow to find out before the deadline."""
        self._set(why=why.text, code=why.code)
        if self._is_late():
            raise _LateError(Reason(why.code, why.text + if_late()))
        now = time.monotonic()
        seconds = max(least, min(RETRY_AT_MOST, RETRY_SHARE * (now - began)))
        if self.dropped.wait(min(seconds, max(RETRY_EVERY, self._deadline - now))):
            raise _NotWarmError(Reason("warmup.failed", NOT_WANTED))

    # --- the requests

    def _send_all(self, session: requests.Session) -> None:
        policy = self.job.policy
        if policy.ready.path:
            self._until_ready(session, WarmupRequest(path=policy.ready.path, headers=policy.headers))
        for request in [one for one in policy.requests for _ in range(one.count)]:
            started = time.monotonic()
            whole = replace(request, headers={**policy.headers, **request.headers})
            answered, reply = self._fetch(session, whole)
            if not is_expected(answered, reply.status):
                raise _NotWarmError(Reason(code_of(reply), unexpected_text(answered, reply, self._group)))
            self._count(round((time.monotonic() - started) * 1000, 1), reply.status)

    def _count(self, milliseconds: float, status: int) -> None:
        so_far = self.status
        self._set(
            requests=so_far.requests + 1,
            first_ms=so_far.first_ms if so_far.requests else milliseconds,
            last_ms=milliseconds,
            latencies=(*so_far.latencies, milliseconds)[:MAX_LATENCIES],
            statuses=(*so_far.statuses, status)[:MAX_LATENCIES],
            why="",
        )

    def _until_ready(self, session: requests.Session, request: WarmupRequest) -> None:
        began, refusals = time.monotonic(), 0
        while True:
            answered, reply = self._fetch(session, request)
            if is_expected(answered, reply.status):
                self._set(why="")
                return
            why = unready_text(answered, reply, self._group)
            refusals = refusals + 1 if is_lasting(reply) else 0
            if refusals >= MAX_REFUSALS:
                raise _NotWarmError(Reason(code_of(reply), why))
            self._wait(Reason(code_of(reply), why), began, REFUSED_EVERY if refusals else RETRY_EVERY)

    def _fetch(self, session: requests.Session, request: WarmupRequest) -> tuple[WarmupRequest, Reply]:
        """The answer, and the request that it answers: another one where redirects were followed."""
        reply = self._send(session, request)
        for _ in range(MAX_REDIRECTS):
            following = redirected(request, reply, self._host)
            if following is None:
                break
            request, reply = following, self._send(session, following)
        return request, reply

    def _send(self, session: requests.Session, request: WarmupRequest) -> Reply:
        """The answer, when all of it has come; attempts that break are repeated until the deadline."""
        first, mute = time.monotonic(), 0
        while True:
            began = time.monotonic()
            try:
                with self._begin(session, request) as answer:
                    beginning = self._swallow(answer, request, began)
                    return Reply(answer.status_code, answer.headers.get("Location", ""), beginning)
            except requests.Timeout:
                raise self._late(self._cut_off(request, began, "did not answer")) from None
            except (requests.RequestException, HTTPError) as error:
                if not may_be_http(self._wire.first):
                    raise self._not_http(self._wire.first) from None
                mute = 0 if self._wire.first or "refused" in str(error) else mute + 1
                if mute in PROBED_AT:
                    self._probe_protocols()
                self._wait(Reason("warmup.timeout", f"{request.method} {request.path}: {reason(error)}"), first)

    @property
    def _host(self) -> str:
        return self._target.host if self._target else "localhost"

    def _begin(self, session: requests.Session, request: WarmupRequest) -> requests.Response:
        self._require_time(self.status.why or f"there was no time left for {request.method} {request.path}")
        self._wire.first = b""
        return session.request(
            request.method,
            f"http://{self._host}{request.path}",
            headers={"Connection": "close", **request.headers},
            data=request.body.encode() or None,
            timeout=max(0.001, self._deadline - time.monotonic()),
            allow_redirects=False,
            stream=True,
        )

    def _swallow(self, answer: requests.Response, request: WarmupRequest, began: float) -> bytes:
        """Read all of an answer as it comes: to wait for a whole piece of one that trickles is to miss the deadline.
        Returns its first bytes."""
        read = getattr(answer.raw, "read1", answer.raw.read)  # an old urllib3 has no read1
        beginning = b""
        try:
            while data := read(CHUNK, decode_content=False):
                beginning = beginning or data[:BEGINNING]
                self._require_time(self._cut_off(request, began, "did not end its answer"))
        except ReadTimeoutError:
            raise self._late(self._cut_off(request, began, "did not end its answer")) from None
        return beginning

    def _late(self, why: str) -> _LateError:
        is_known = self.status.code and why == self.status.why  # what it waits for
        return _LateError(Reason(self.status.code if is_known else "warmup.timeout", why))

    def _not_http(self, first: bytes) -> _NotWarmError:
        return _NotWarmError(
            Reason("warmup.protocol", not_http_text(self._target.where if self._target else self._second, first))
        )

    def _cut_off(self, request: WarmupRequest, began: float, what: str) -> str:
        is_news = time.monotonic() - began >= NEWS_AFTER or not self.status.why
        return f"{request.method} {request.path} {what}" if is_news else self.status.why

    def _probe_protocols(self) -> None:
        """Raise where a process that ends connections without a byte answers in TLS or HTTP/2 on its port."""
        target = self._target
        if not isinstance(target, PortTarget):
            return
        for name, hello in ((TLS, tls_hello()), (HTTP_2, H2_PREFACE)):
            seconds = min(PROBED_FOR, max(RETRY_EVERY, self._deadline - time.monotonic()))
            answer = answer_to(hello, target.address, target.port, self.job.bypass, seconds)
            if spoken(answer) == name:
                raise self._not_http(answer)
