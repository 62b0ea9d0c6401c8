"""The gate for unix sockets, on real ones: refused at the public name, reached at the hidden one."""

from __future__ import annotations

import functools
import itertools
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from supervisor_rolling.core.endpoint import Endpoint, unix
from supervisor_rolling.core.errors import PartlyClosedError
from supervisor_rolling.listener.gates import path as path_gate
from supervisor_rolling.listener.gates.path import PathGate
from supervisor_rolling.listener.system import socket_paths
from tests.support.waiting import wait_until

OPEN, REFUSED, MISSING = "open", "refused", "missing"


@pytest.fixture
def keep() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "run").mkdir()
    return str(tmp_path / "run" / "a.sock")


def names(path: str) -> list[str]:
    """Those in its directory."""
    return sorted(os.listdir(os.path.dirname(path)))


def a_gate(directory: Path) -> PathGate:
    """Each one is a new listener's: all share the state file."""
    moments = itertools.count(100)
    return PathGate("unix:///run/supervisor.sock", lambda: float(next(moments)), directory / "state")


def kill(gate: PathGate) -> None:
    """The thread of this one does nothing any more."""
    with gate._lock:
        gate._closed = frozenset()


def listen(keep: ExitStack, path: str) -> socket.socket:
    """A process that removes what has its name, as servers do, and listens there."""
    if os.path.lexists(path):
        os.unlink(path)
    server = keep.enter_context(socket.socket(socket.AF_UNIX))
    server.bind(path)
    server.listen(16)
    return server


def state(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2.0)
        try:
            client.connect(path)
        except ConnectionRefusedError:
            return REFUSED
        except FileNotFoundError:
            return MISSING
    return OPEN


def is_refused(path: str) -> bool:
    return state(path) == REFUSED


def closing(*paths: str) -> dict[Endpoint, str]:
    return {unix(path): "app:a" for path in paths}


def test_closed_socket_refuses_and_is_reached_at_its_hidden_name(keep: ExitStack, path: str, tmp_path: Path) -> None:
    listen(keep, path)
    gate = a_gate(tmp_path)
    assert gate.hold(closing(path)) == {unix(path): 100.0}
    assert (state(path), state(socket_paths.current(path)), socket_paths.bound(path)) == (REFUSED, OPEN, path)
    assert gate.hold(closing(path)) == {unix(path): 100.0}, "since when does not change"
    assert gate.hold({}) == {}
    assert (state(path), names(path)) == (OPEN, ["a.sock"])


def test_connection_survives_closing(keep: ExitStack, path: str, tmp_path: Path) -> None:
    server, client = listen(keep, path), keep.enter_context(socket.socket(socket.AF_UNIX))
    client.connect(path)
    a_gate(tmp_path).hold(closing(path))
    accepted = keep.enter_context(server.accept()[0])
    client.sendall(b"question")
    accepted.sendall(accepted.recv(100))
    assert client.recv(100) == b"question"


def test_new_process_is_closed_as_soon_as_it_binds(keep: ExitStack, path: str, tmp_path: Path) -> None:
    first = listen(keep, path)
    gate = a_gate(tmp_path)
    gate.hold(closing(path))
    for _ in range(20):
        first.close()
        first = listen(keep, path)
        wait_until(lambda: state(path) == REFUSED, "the new one is closed without a hold", 2.0)
        wait_until(lambda: state(socket_paths.current(path)) == OPEN, "it is reached at its hidden name", 2.0)
    gate.hold({})
    assert state(path) == OPEN


def test_process_that_removes_its_name_leaves_none(keep: ExitStack, path: str, tmp_path: Path) -> None:
    server = listen(keep, path)
    gate = a_gate(tmp_path)
    gate.hold(closing(path))
    os.unlink(path)  # as gunicorn does at its stop
    server.close()
    assert gate.hold(closing(path)), "a socket that is not there is closed"
    assert gate.hold({}) == {}
    assert names(path) == []


def test_symbolic_link_is_closed_and_its_target_is_free(keep: ExitStack, path: str, tmp_path: Path) -> None:
    public = f"{path}.public"
    listen(keep, path)
    os.symlink("a.sock", public)
    gate = a_gate(tmp_path)
    gate.hold(closing(public))
    assert (state(public), state(path), state(socket_paths.current(public))) == (REFUSED, OPEN, OPEN)
    assert socket_paths.bound(public) == path
    os.unlink(path)
    listen(keep, path)
    assert state(public) == REFUSED, "the new process is not reached, however fast a client is"
    gate.hold({})
    assert (os.readlink(public), state(public)) == ("a.sock", OPEN)


@pytest.mark.parametrize("is_wanted", [True, False])
def test_next_listener_finds_what_the_last_one_closed(
    keep: ExitStack, path: str, tmp_path: Path, is_wanted: bool
) -> None:
    listen(keep, path)
    first = a_gate(tmp_path)
    first.hold(closing(path))
    kill(first)
    held = a_gate(tmp_path).hold(closing(path) if is_wanted else {})
    assert list(held) == ([unix(path)] if is_wanted else [])
    assert state(path) == (REFUSED if is_wanted else OPEN)


@pytest.mark.parametrize("call", range(20))
@pytest.mark.parametrize("opens", [False, True])
def test_listener_killed_between_two_steps_loses_no_socket(
    keep: ExitStack, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opens: bool, call: int
) -> None:
    class KilledError(BaseException):
        pass

    def killing(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            if threading.current_thread() is threading.main_thread() and next(calls) == call:
                raise KilledError
            return real(*arguments, **named)

        return called

    listen(keep, path)
    gate = a_gate(tmp_path)
    if opens:
        gate.hold(closing(path))
    calls = itertools.count()
    with monkeypatch.context() as patch:
        for name in ("replace", "lstat", "utime", "link"):
            patch.setattr(os, name, killing(getattr(os, name)))
        patch.setattr(path_gate, "exchange", killing(path_gate.exchange))
        try:
            gate.hold({} if opens else closing(path))
        except KilledError:
            pass
        else:
            killing_is_over = next(calls) <= call
            assert killing_is_over
    kill(gate)
    a_gate(tmp_path).hold({})
    assert (state(path), names(path)) == (OPEN, ["a.sock"])
    again = a_gate(tmp_path)
    again.hold(closing(path))
    assert (state(path), state(socket_paths.current(path))) == (REFUSED, OPEN)
    again.hold({})


def test_server_sets_the_mode_of_its_socket_by_its_name(keep: ExitStack, path: str, tmp_path: Path) -> None:
    """uvicorn takes the mode of what has the name, and sets it after it has bound; Daphne sets its own."""
    first = listen(keep, path)
    os.chmod(path, 0o666)
    os.chown(path, 33, 33)
    gate = a_gate(tmp_path)
    gate.hold(closing(path))
    placeholder = os.lstat(path)
    assert (stat.S_IMODE(placeholder.st_mode), placeholder.st_uid, placeholder.st_gid) == (0o666, 33, 33)
    first.close()
    listen(keep, path)  # root's, with the mode of its umask
    wait_until(lambda: state(path) == REFUSED, "it is closed", 2.0)
    os.chmod(path, 0o660)
    os.chown(path, 34, 34)
    gate.hold({})
    found = os.lstat(path)
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, state(path)) == (0o660, 34, 34, OPEN)


def test_placeholder_without_its_mark_replaces_no_live_socket(keep: ExitStack, path: str, tmp_path: Path) -> None:
    """A listener was killed while it made one."""
    listen(keep, path)
    with socket.socket(socket.AF_UNIX) as unmarked:
        unmarked.bind(socket_paths.unready(path))
    gate = a_gate(tmp_path)
    gate.hold(closing(path))
    time.sleep(0.05)
    gate.hold(closing(path))
    assert (state(path), state(socket_paths.current(path))) == (REFUSED, OPEN)
    gate.hold({})
    assert state(path) == OPEN


@pytest.mark.parametrize("has_removed_its_name", [False, True])
def test_process_that_binds_while_it_is_opened_keeps_its_socket(
    keep: ExitStack, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_removed_its_name: bool
) -> None:
    server = listen(keep, path)
    gate = a_gate(tmp_path)
    gate.hold(closing(path))
    server.close()
    if has_removed_its_name:
        os.unlink(path)

    def binding(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            monkeypatch.undo()
            listen(keep, path)
            return real(*arguments, **named)

        return called

    for name in ("exchange", "unix_sockets"):
        monkeypatch.setattr(path_gate, name, binding(getattr(path_gate, name)))
    kill(gate)
    a_gate(tmp_path).hold({})
    assert (state(path), names(path)) == (OPEN, ["a.sock"])


def test_problem_with_closing_opens_what_is_to_be_open(
    keep: ExitStack, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = f"{path}.other"
    for one in (path, other):
        listen(keep, one)
    first = a_gate(tmp_path)
    first.hold(closing(path))
    kill(first)

    def no_instance(on_name: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(path_gate, "NewNames", no_instance)
    with pytest.raises(PartlyClosedError, match="would not be seen"):
        a_gate(tmp_path).hold(closing(other))
    assert (state(path), state(other)) == (OPEN, OPEN)


def test_directory_with_two_names_is_watched_by_both(keep: ExitStack, path: str, tmp_path: Path) -> None:
    os.symlink("run", tmp_path / "link")
    other = str(tmp_path / "link" / "b.sock")
    gate = a_gate(tmp_path)
    gate.hold(closing(path, other))
    for one in (path, other):
        listen(keep, one)
        wait_until(functools.partial(is_refused, one), "it is closed", 2.0)
    gate.hold({})


def test_name_that_is_no_socket_is_left_alone(path: str, tmp_path: Path) -> None:
    Path(path).write_text("a file", encoding="utf-8")
    with pytest.raises(PartlyClosedError, match="it is not a socket"):
        a_gate(tmp_path).hold(closing(path))
    a_gate(tmp_path).hold({})
    assert Path(path).read_text(encoding="utf-8") == "a file"


def test_what_cannot_be_closed_is_found_before(keep: ExitStack, tmp_path: Path) -> None:
    good, long = str(tmp_path / "a.sock"), f"{tmp_path}/{'x' * 100}"
    listen(keep, good)
    gone = str(tmp_path / "missing" / "a.sock")
    found = a_gate(tmp_path).inspect({unix(good): "app:a", unix(long): "app:b", unix(gone): "app:c"})
    assert [(one.code, one.where) for one in found] == [("gate.path", "app:b"), ("gate.path", "app:c")]
    assert f"the unix socket {long} cannot be closed: its path is longer than 105 bytes" in found[0].text


def test_directory_that_another_user_could_replace_is_left_alone(keep: ExitStack, tmp_path: Path) -> None:
    """root would rename what that user points it to."""
    theirs = tmp_path / "srv"
    (theirs / "run").mkdir(parents=True)
    path = str(theirs / "run" / "a.sock")
    listen(keep, path)
    os.chown(theirs / "run", 33, 33)
    gate = a_gate(tmp_path)
    assert gate.hold(closing(path)), "the directory itself may be theirs"
    os.chown(theirs, 33, 33)
    with pytest.raises(
        PartlyClosedError, match=f"not closed: {theirs}: belongs to the user 33: another user could"
    ) as e:
        gate.hold(closing(path))
    assert (e.value.closed, state(path)) == ({}, OPEN), "what was closed is opened"
    (found,) = gate.inspect({unix(path): "app:a"})
    assert found.is_error
    assert "or run the listener as the user of the processes" in found.fix


def test_many_sockets_stay_as_they_are_wanted(keep: ExitStack, tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}.sock") for number in range(6)]
    for one in paths:
        listen(keep, one)
    gate = a_gate(tmp_path)
    for wanted in (paths[:3], paths[2:5], paths[5:], paths, []):
        assert set(gate.hold(closing(*wanted))) == set(closing(*wanted))
        assert [state(one) for one in paths] == [REFUSED if one in wanted else OPEN for one in paths]


def test_directory_that_is_made_anew_is_watched_again(keep: ExitStack, tmp_path: Path) -> None:
    directory = tmp_path / "again"
    directory.mkdir()
    path = str(directory / "a.sock")
    gate = a_gate(tmp_path)
    gate.hold(closing(path))
    directory.rmdir()
    directory.mkdir()
    time.sleep(0.05)
    gate.hold(closing(path))
    listen(keep, path)
    wait_until(lambda: state(path) == REFUSED, "the new one is closed", 2.0)
    gate.hold({})
