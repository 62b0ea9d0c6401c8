"""An open-loop load: new connections at a fixed rate, however slow the answers come.

Requests are scheduled on absolute times and their latency counts from there, so a server that stalls is sent as much as
one that does not, and every request that it kept waiting shows (a closed loop would leave those out: coordinated
omission). Every 20th request is a ``POST /slow`` (with the default share), the rest are ``GET /``; each has a
connection of its own.

The load runs in a process of its own: ``python -m tests.support.load --url http://127.0.0.1:8080 --out FILE``; ``Load``
starts and stops one. It writes an ``Answer`` a line, as JSON; ``summarise`` makes a ``Report`` of those of a window.
Points in time are seconds on CLOCK_MONOTONIC, which all processes share, latencies are seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import resource
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]

TIMEOUT = 20.0
"""Seconds after its scheduled time at which a request has failed."""

BEGIN_WITHIN = 15.0
"""Seconds that a load generator may take to start."""

FILES = 65536
"""Open files at most: against a server that stalls, a connection for each request of TIMEOUT seconds is open."""

LEAD = 0.05
"""Seconds from the start of the generator to its first request."""


@dataclass(frozen=True)
class Plan:
    """What to send."""

    url: str
    rate: float = 100.0  # requests a second
    posts: float = 0.05  # the share of POSTs
    seconds: float = 600.0  # then the load ends by itself

    def method(self, index: int) -> str:
        every = round(1 / self.posts) if self.posts else 0
        return "POST" if every and index % every == every - 1 else "GET"


@dataclass(frozen=True)
class Answer:
    """The result of one request."""

    scheduled: float
    method: str
    status: int  # 0 without a whole answer
    error: str  # why there was none
    latency: float  # since ``scheduled``
    late: float  # the part of it before the generator sent the request
    pid: str = ""
    cold: bool = False
    release: str = ""

    @property
    def failed(self) -> bool:
        return self.status != 200


@dataclass(frozen=True)
class Report:
    """A window of a load."""

    requests: int
    gets_failed: int
    posts_failed: int
    cold: int  # answers of a process that was not warm
    p50: float  # this and the next two: seconds, of all GETs, failed ones too
    p99: float
    max: float
    late: float  # the worst of the generator itself
    failures: dict[str, int] = field(default_factory=dict)  # by method and reason: "POST 502"


# --- the report


def read_answers(path: Path) -> list[Answer]:
    """The results that a load wrote, by scheduled time."""
    with path.open(encoding="utf-8") as lines:
        return sorted((Answer(**json.loads(line)) for line in lines), key=lambda answer: answer.scheduled)


def summarise(answers: Iterable[Answer], start: float = -math.inf, end: float = math.inf) -> Report:
    """The report of the requests that were scheduled from ``start`` until before ``end``."""
    window = [answer for answer in answers if start <= answer.scheduled < end]
    gets = [answer for answer in window if answer.method == "GET"]
    failed = [answer for answer in window if answer.failed]
    latencies = sorted(answer.latency for answer in gets)
    return Report(
        requests=len(window),
        gets_failed=sum(answer.method == "GET" for answer in failed),
        posts_failed=sum(answer.method == "POST" for answer in failed),
        cold=sum(answer.cold for answer in gets),
        p50=quantile(latencies, 0.5),
        p99=quantile(latencies, 0.99),
        max=quantile(latencies, 1.0),
        late=max((answer.late for answer in window), default=0.0),
        failures=dict(Counter(f"{answer.method} {answer.error or answer.status}" for answer in failed)),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The nearest rank: a latency that was measured, never one in between. 0.0 for nothing."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


# --- the generator


async def generate(plan: Plan, out: IO[str], stop: asyncio.Event) -> int:
    """Send until the plan's end or ``stop``, then wait for the answers that are due. Gives the number sent."""
    loop = asyncio.get_running_loop()
    start = loop.time() + LEAD
    under_way: set[asyncio.Task[None]] = set()
    index = 0
    while index < plan.rate * plan.seconds:
        scheduled = start + index / plan.rate
        await asyncio.sleep(max(0.0, scheduled - loop.time()))
        if stop.is_set():
            break
        task = loop.create_task(_record(plan, plan.method(index), scheduled, out))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        index += 1
    if under_way:
        await asyncio.wait(under_way)
    return index


async def _record(plan: Plan, method: str, scheduled: float, out: IO[str]) -> None:
    answer = await _answer(plan, method, scheduled)
    out.write(json.dumps(asdict(answer)) + "\n")


async def _answer(plan: Plan, method: str, scheduled: float) -> Answer:
    sent = time.monotonic()
    status, error = 0, ""
    headers: dict[str, str] = {}
    try:
        left = scheduled + TIMEOUT - sent
        status, headers = _parse(await asyncio.wait_for(_exchange(plan.url, method), left))
    except asyncio.TimeoutError:
        error = "timeout"
    except (OSError, ValueError) as reason:
        error = str(reason) if isinstance(reason, BrokenAnswerError) else type(reason).__name__
    return Answer(
        scheduled=round(scheduled, 6),
        method=method,
        status=status,
        error=error,
        latency=round(time.monotonic() - scheduled, 6),
        late=round(sent - scheduled, 6),
        pid=headers.get("x-pid", ""),
        cold=headers.get("x-cold") == "1",
        release=headers.get("x-release", ""),
    )


async def _exchange(url: str, method: str) -> bytes:
    """One request on a connection of its own; all bytes until the server closes it."""
    where = urlsplit(url)
    path = "/slow" if method == "POST" else where.path or "/"
    reader, writer = await asyncio.open_connection(where.hostname, where.port or 80)
    try:
        length = "Content-Length: 0\r\n" if method == "POST" else ""
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: {where.netloc}\r\n{length}Connection: close\r\n\r\n".encode())
        return await reader.read()
    finally:
        writer.close()


class BrokenAnswerError(ValueError):
    """The connection ended before the answer did."""


def _parse(answer: bytes) -> tuple[int, dict[str, str]]:
    """The status and the headers (names in lower case) of a whole answer; raises BrokenAnswerError for half a one."""
    if not answer:
        raise BrokenAnswerError("no answer")
    head, blank, body = answer.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    chunked = headers.get("transfer-encoding") == "chunked"
    whole = body.endswith(b"0\r\n\r\n") if chunked else len(body) == int(headers.get("content-length", len(body)))
    if not blank or not whole:
        raise BrokenAnswerError("half an answer")
    return int(status_line.split()[1]), headers


# --- the process


def main() -> None:
    parser = argparse.ArgumentParser(description="Send requests at a fixed rate until SIGTERM or the end of --seconds.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--rate", type=float, default=Plan.rate)
    parser.add_argument("--posts", type=float, default=Plan.posts, help="the share that is POST /slow")
    parser.add_argument("--seconds", type=float, default=Plan.seconds)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    _allow_files()
    plan = Plan(url=arguments.url, rate=arguments.rate, posts=arguments.posts, seconds=arguments.seconds)
    with arguments.out.open("w", buffering=1, encoding="utf-8") as out:  # a line at a time: ``wait_more`` counts them
        asyncio.run(_run(plan, out))


def _allow_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def _run(plan: Plan, out: IO[str]) -> None:
    """Print ``{"began": …}`` at the start, and at the end how much was sent at what cost: two lines of JSON."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    began = time.monotonic()
    print(json.dumps({"began": began}), flush=True)
    sent = await generate(plan, out, stop)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cost = {"sent": sent, "seconds": time.monotonic() - began, "cpu_seconds": usage.ru_utime + usage.ru_stime}
    print(json.dumps(cost), flush=True)


class Load:
    """A load generator process while a ``with`` block lasts.

    ``stop()`` (also done at the end of the block) ends the sending and waits for the answers that are due; only then
    ``answers()`` and ``report()`` are complete. ``cost``: sent, seconds, cpu_seconds, after the stop.
    """

    def __init__(
        self, plan: Plan, out: Path, where: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    ) -> None:
        """``where`` puts a thread on the host of the users."""
        self._where = where
        self.plan = plan
        self.out = out
        self.began = 0.0
        self.cost: dict[str, float] = {}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Load:
        plan = self.plan
        options = {"url": plan.url, "rate": plan.rate, "posts": plan.posts, "seconds": plan.seconds, "out": self.out}
        command = [
            sys.executable,
            "-m",
            "tests.support.load",
            *(f"--{name}={value}" for name, value in options.items()),
        ]
        with self._where():
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
        try:
            self.began = _first_line(self._process)["began"]
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the generator while it runs, 0 after."""
        return self._process.pid if self._process else 0

    def wait(self) -> None:
        """Until the plan's own end and the last answer, where ``stop`` would cut it short."""
        if self._process is not None:
            self._process.wait(self.plan.seconds + TIMEOUT + 5)
        self.stop()

    def wait_more(self, number: int) -> None:
        """Until so many more requests have had their answer, or failed. Raises TimeoutError."""
        enough = self._answered() + number
        within = number / self.plan.rate + TIMEOUT
        wait_until(lambda: self._answered() >= enough, f"{number} more requests are answered", within)

    def _answered(self) -> int:
        return self.out.read_bytes().count(b"\n")

    def stop(self) -> None:
        """Takes up to TIMEOUT: that long an answer may be due. Done once; again does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            printed, _ = process.communicate(timeout=TIMEOUT + 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        if process.returncode != 0:
            raise RuntimeError(f"the load generator failed, exit code {process.returncode}: its numbers are void")
        self.cost = json.loads(printed)

    def answers(self) -> list[Answer]:
        return read_answers(self.out)

    def report(self, start: float = -math.inf, end: float = math.inf) -> Report:
        """See ``summarise``; ``start`` and ``end`` are points on CLOCK_MONOTONIC."""
        return summarise(self.answers(), start, end)

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _first_line(process: subprocess.Popen[str]) -> dict[str, float]:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], BEGIN_WITHIN)
    line = process.stdout.readline() if ready else ""
    if not line:
        raise RuntimeError(f"the load generator did not begin within {BEGIN_WITHIN:.0f} s")
    return dict(json.loads(line))


if __name__ == "__main__":
    main()
