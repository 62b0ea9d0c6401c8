"""Processes are told that they drain: the file that the listener writes, and the middlewares that look at it."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from supervisor_rolling import asgi, wsgi
from supervisor_rolling.draining import DIRECTORY, DIRECTORY_VARIABLE, Flag, directory_of
from supervisor_rolling.listener.drain_flags import LEASE, FileFlags
from supervisor_rolling.listener.system import shared_directory

URL = "unix:///run/supervisor.sock"
NOBODY = 65534


class Raised(Flag):
    """A flag that is as it is said."""

    def __init__(self, is_up: bool = True) -> None:
        self._is_up = is_up

    def is_up(self) -> bool:
        return self._is_up


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "draining"


def listener(directory: Path, url: str = URL, **more: Any) -> FileFlags:
    return FileFlags({DIRECTORY_VARIABLE: str(directory)}, url, **more)


def child(directory: Path, name: str = "app-1", group: str = "app") -> dict[str, str]:
    """What supervisord puts into the environment of a program."""
    names = {"SUPERVISOR_SERVER_URL": URL, "SUPERVISOR_GROUP_NAME": group, "SUPERVISOR_PROCESS_NAME": name}
    return {DIRECTORY_VARIABLE: str(directory), **names}


# --- the flag


def test_flag_is_up_only_while_it_is_held(directory: Path):
    flags, own, other = listener(directory), Flag(child(directory)), Flag(child(directory, "app-2"))
    assert not own.is_up()
    flags.hold([("app", "app-1")])
    assert (own.is_up(), other.is_up()) == (True, False)
    flags.hold([("app", "app-2")])
    assert (own.is_up(), other.is_up()) == (False, True)
    flags.hold(())
    assert not other.is_up()
    assert list(directory.iterdir()) == []


def test_other_supervisord_has_its_own_flags(directory: Path):
    listener(directory, "unix:///run/other.sock").hold([("app", "app-1")])
    assert not Flag(child(directory)).is_up()


def test_flag_of_killed_listener_expires(directory: Path):
    listener(directory, clock=lambda: time.time() - LEASE - 1).hold([("app", "app-1")])
    assert len(list(directory.iterdir())) == 1
    assert not Flag(child(directory)).is_up()


def test_held_flag_outlasts_a_lease(directory: Path):
    begin = time.time() - 3 * LEASE
    now = [begin]
    flags = listener(directory, clock=lambda: now[0])
    while now[0] <= time.time():
        flags.hold([("app", "app-1")])
        (path,) = directory.iterdir()
        assert path.stat().st_mtime >= now[0] + LEASE / 2
        now[0] += LEASE / 3
    assert Flag(child(directory)).is_up()


def test_unprivileged_process_reads_flag_with_any_umask(directory: Path):
    before = os.umask(0o077)
    try:
        listener(directory).hold([("app", "app-1")])
    finally:
        os.umask(before)
    for above in list(directory.parents)[:-2]:  # all below /tmp
        above.chmod(0o755)
    code = "from supervisor_rolling.draining import Flag; print(Flag().is_up())"
    command = [sys.executable, "-c", f"import os; {code.partition(';')[0]}; os.setuid({NOBODY}); {code}"]
    done = subprocess.run(command, env=child(directory), capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_untrusted_directory_is_refused_and_logged_once(directory: Path, caplog: pytest.LogCaptureFixture):
    directory.mkdir()
    directory.chmod(0o777)
    flags = listener(directory)
    for _ in range(3):
        flags.hold([("app", "app-1")])
    assert list(directory.iterdir()) == []
    (message,) = caplog.messages
    assert f"{directory} is not a directory of root or of this user that no other user may write to" in message
    assert DIRECTORY_VARIABLE in message


def test_new_directory_is_readable_for_other_users(directory: Path):
    before = os.umask(0o077)
    try:
        shared_directory.prepare(str(directory))
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755


def test_unreadable_existing_directory_is_kept_and_logged(directory: Path, caplog: pytest.LogCaptureFixture):
    directory.mkdir()
    directory.chmod(0o700)
    flags = listener(directory)
    for name in ("app-1", "app-2"):
        flags.hold([("app", name)])
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert Flag(child(directory, "app-2")).is_up(), "who can look sees it"
    (message,) = caplog.messages
    assert message.startswith("processes of other users get no drain flag")
    assert f"chmod o+x {directory}" in message


def test_link_is_not_followed(directory: Path, tmp_path: Path):
    flags = listener(directory)
    flags.hold([("app", "app-1")])
    (path,) = directory.iterdir()
    victim = tmp_path / "victim"
    path.unlink()
    path.symlink_to(victim)
    listener(directory).hold([("app", "app-1")])
    assert not victim.exists()


def test_process_without_supervisord_never_drains(directory: Path):
    listener(directory).hold([("", "")])
    assert not Flag({DIRECTORY_VARIABLE: str(directory)}).is_up()


def test_default_directory_is_the_same_for_both():
    assert directory_of({}) == directory_of({DIRECTORY_VARIABLE: ""}) == DIRECTORY == "/run/supervisor_rolling"


# --- the middlewares


class Answer:
    """What a server makes of one answer; ``start`` is its start_response. ``word``: how it is told to close, if so."""

    def __init__(self, word: str = "") -> None:
        self.headers: list[tuple[str, str]] = []
        self.is_closing = False
        if word:
            setattr(self, word, self._close)

    def start(self, _status: str, headers: list[tuple[str, str]], *_exc_info: Any) -> Any:
        self.headers = headers
        return self.write

    def write(self, data: bytes) -> None: ...

    def _close(self) -> None:
        self.is_closing = True


def asked(answer: Answer, flag: Flag, **environ: str) -> list[bytes]:
    def application(_environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "4"), ("connection", "keep-alive")])
        return [b"fine"]

    return list(wsgi.CloseWhileDraining(application, flag)(dict(environ), answer.start))


def test_wsgi_adds_close_only_while_draining():
    draining, serving = Answer(), Answer()
    assert asked(draining, Raised()) == asked(serving, Raised(False)) == [b"fine"]
    assert draining.headers == [("Content-Length", "4"), ("Connection", "close")]
    assert serving.headers == [("Content-Length", "4"), ("connection", "keep-alive")]


def test_wsgi_leaves_a_websocket_alone():
    def application(_environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("101 Switching Protocols", [("Upgrade", "websocket"), ("Connection", "Upgrade")])
        return []

    answer = Answer()
    wsgi.CloseWhileDraining(application, Raised())({}, answer.start)
    assert answer.headers == [("Upgrade", "websocket"), ("Connection", "Upgrade")]


@pytest.mark.parametrize("word", ["force_close", "set_close_on_finish"])
def test_wsgi_calls_close_method_of_the_server(word: str):
    draining, serving = Answer(word), Answer(word)
    asked(draining, Raised())
    asked(serving, Raised(False))
    assert (draining.is_closing, serving.is_closing) == (True, False)


@pytest.mark.parametrize("environ", [{"waitress.client_disconnected": ""}, {"SERVER_SOFTWARE": "WSGIServer/0.2"}])
def test_wsgi_adds_no_header_where_it_raises(environ: dict[str, str]):
    answer = Answer()
    asked(answer, Raised(), **environ)
    assert ("Connection", "close") not in answer.headers


def sent(flag: Flag, **scope: str) -> list[Any]:
    messages: list[Any] = []

    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Connection", b"keep-alive")]})
        await send({"type": "http.response.body", "body": b"fine"})

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        return {}

    asyncio.run(asgi.CloseWhileDraining(application, flag)({"type": "http", **scope}, receive, send))
    return messages


def test_asgi_adds_close_only_while_draining():
    draining, serving = sent(Raised(), http_version="1.1"), sent(Raised(False), http_version="1.1")
    assert draining[0] == {"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]}
    assert serving[0]["headers"] == [(b"Connection", b"keep-alive")]
    assert draining[1] == serving[1]


@pytest.mark.parametrize("scope", [{"http_version": "2"}, {"type": "websocket", "http_version": "1.1"}])
def test_asgi_changes_only_http_1(scope: dict[str, str]):
    assert sent(Raised(), **scope)[0]["headers"] == [(b"Connection", b"keep-alive")]
