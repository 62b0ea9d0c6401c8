"""Warm-ups inside the process, as WSGI and ASGI applications make them, and what the listener reads of it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor_rolling.asgi import Message, Receive, Send, Warmed
from supervisor_rolling.core.own_warmup import Result, result_of
from supervisor_rolling.in_process import VARIABLE, requests_of
from supervisor_rolling.listener.system.procfs import memory_files_of
from supervisor_rolling.wsgi import warmed
from tests.support.stack import ROOT


@pytest.fixture
def told() -> Iterator[Callable[[], Result | None]]:
    """What this process tells since the test began."""
    before = memory_files_of(os.getpid())

    def told() -> Result | None:
        left = memory_files_of(os.getpid())
        for name in before:
            left.remove(name)
        return result_of(left)

    yield told
    for fd in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{fd}"
        if os.path.lexists(path) and os.readlink(path).startswith("/memfd:supervisor_rolling"):
            os.close(int(fd))


class Site:
    """A WSGI and an ASGI application. ``statuses``: of paths; the others answer 200."""

    def __init__(self, statuses: dict[str, int]) -> None:
        self.statuses = statuses
        self.asked: list[str] = []
        self.closed = 0
        self.has_lifespan = True

    def _status(self, method: str, path: str, query: str, host: str, body: bytes) -> int:
        self.asked.append(f"{method} {host}{path}{'?' * bool(query)}{query} {body.decode()}".strip())
        if path == "/raises":
            raise KeyError("no such table")
        return self.statuses.get(path, 200)

    def wsgi(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        query, host = environ["QUERY_STRING"], environ["HTTP_HOST"]
        start(f"{self._status(environ['REQUEST_METHOD'], environ['PATH_INFO'], query, host, body)} X", [])
        return Body(self)

    async def asgi(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            if not self.has_lifespan:
                raise ValueError("no lifespan")
            assert (await receive())["type"] == "lifespan.startup"
            await send({"type": "lifespan.startup.complete"})
            assert (await receive())["type"] == "lifespan.shutdown"
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = (await receive())["body"]
        host = dict(scope["headers"])[b"host"].decode()
        status = self._status(scope["method"], scope["path"], scope["query_string"].decode(), host, body)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})
        assert (await receive())["type"] == "http.disconnect"


class Body:
    def __init__(self, site: Site) -> None:
        self._site = site

    def __iter__(self) -> Iterator[bytes]:
        yield b"x"

    def close(self) -> None:
        self._site.closed += 1


def by_wsgi(site: Site, *paths: str) -> None:
    application = site.wsgi
    assert warmed(application, *paths) is application
    assert site.closed == len([one for one in site.asked if "/raises" not in one])


def by_asgi(site: Site, *paths: str) -> None:
    """A server's lifespan."""
    asked = iter(["startup", "shutdown"])
    sent: list[str] = []

    async def receive() -> Message:
        return {"type": f"lifespan.{next(asked)}"}

    async def send(message: Message) -> None:
        sent.append(message["type"])
        if message["type"] == "lifespan.startup.complete":
            assert site.asked, "the server accepts from now on"

    asyncio.run(Warmed(site.asgi, *paths)({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def without_lifespan(site: Site, *paths: str) -> None:
    site.has_lifespan = False
    by_asgi(site, *paths)


KINDS = pytest.mark.parametrize("warm", [by_wsgi, by_asgi, without_lifespan], ids=lambda one: one.__name__)
Told = Callable[[], "Result | None"]
Warm = Callable[..., None]


@KINDS
def test_paths_are_requested_in_order(warm: Warm, told: Told) -> None:
    site = Site({"/moved": 302})
    warm(site, "/", "/a%20b?q=1", "/moved")
    assert site.asked == ["GET localhost/", "GET localhost/a b?q=1", "GET localhost/moved"]
    found = told()
    assert found is not None
    assert (found.requests, found.problem) == (3, "")
    assert 0 <= found.last_ms < 1000


@KINDS
@pytest.mark.parametrize(
    ("path", "problem"),
    [("/missing", "GET /missing answered 404"), ("/raises", "KeyError: 'no such table'")],
)
def test_problem_is_told_and_raises_nothing(
    warm: Warm, told: Told, capsys: pytest.CaptureFixture[str], path: str, problem: str
) -> None:
    site = Site({"/missing": 404})
    warm(site, "/", path, "/never")
    assert len(site.asked) == 2
    assert told() == Result(problem=problem)
    assert capsys.readouterr().err == f"supervisor_rolling: the warm-up failed: {problem}\n"


POLICY = """
groups:
  web:
    ports: shared
    warmup:
      headers: {Host: example.org}
      requests: [/, {method: POST, path: /login, body: a=b, expect: 403, count: 2}]
"""


def test_list_of_the_policy_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "rolling.yaml"
    file.write_text(POLICY, encoding="utf-8")
    environment = {VARIABLE: str(file), "SUPERVISOR_GROUP_NAME": "web"}
    first, *others = requests_of((), environment)
    assert (first.method, first.path, first.headers) == ("GET", "/", {"Host": "example.org"})
    assert [(one.method, one.body, one.expect) for one in others] == [("POST", b"a=b", (403,))] * 2
    assert [one.path for one in requests_of(("/given",), environment)] == ["/given"]
    assert requests_of((), {}) == requests_of((), {"SUPERVISOR_GROUP_NAME": "web"}) == []
    with pytest.raises(ValueError, match="has no group other"):
        requests_of((), {**environment, "SUPERVISOR_GROUP_NAME": "other"})


def test_import_of_the_middleware_loads_no_library() -> None:
    code = "import sys, supervisor_rolling.wsgi, supervisor_rolling.asgi; print('yaml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", ["", "x requests", "1 requests, a to b ms", "failed: ", "failed: \N{SNOWMAN}"])
def test_any_name_can_be_read(name: str) -> None:
    assert result_of([f"supervisor_rolling warm-up: {name}"]) is not None
