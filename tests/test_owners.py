"""Whose ports they are: real processes that listen, and such as took a port from another."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from supervisor_rolling.errors import SocketsError
from supervisor_rolling.in_listener import drain, owners
from supervisor_rolling.in_listener.drain import KernelSockets
from supervisor_rolling.in_listener.owners import family_of, predecessor, signals_of
from supervisor_rolling.model import Holder
from tests.lab.doors import eventually

_LISTENS = """
import os, socket, sys
server = socket.create_server(("127.0.0.1", 0))
grandchild = len(sys.argv) > 1 and os.fork() == 0
if grandchild:
    server.close()
    server = socket.create_server(("::1", 0), family=socket.AF_INET6)
os.write(1, b"%d\\n" % server.getsockname()[1])
sys.stdin.read()
"""

APP_1 = {"SUPERVISOR_ENABLED": "1", "SUPERVISOR_GROUP_NAME": "app", "SUPERVISOR_PROCESS_NAME": "app-1"}
"""What supervisord puts into the environment of what it starts."""

APP_2 = {**APP_1, "SUPERVISOR_PROCESS_NAME": "app-2"}


@contextlib.contextmanager
def program(*arguments: str, name: dict[str, str] = APP_1) -> Iterator[subprocess.Popen[bytes]]:
    """Listens on a port, and with an argument in a child on another; both are written to its standard output."""
    pipe, command = subprocess.PIPE, [sys.executable, "-c", _LISTENS, *arguments]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env={**os.environ, **name}) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@contextlib.contextmanager
def sleeper(name: dict[str, str] = APP_1) -> Iterator[int]:
    """The pid of a process that listens on nothing."""
    with subprocess.Popen(["sleep", "60"], env={**os.environ, **name}) as process:
        environ = Path(f"/proc/{process.pid}/environ")
        assert eventually(lambda: bool(environ.read_bytes())), "it is empty for a moment after the exec"
        yield process.pid
        process.kill()


def read_ports(process: subprocess.Popen[bytes], count: int = 1) -> tuple[int, ...]:
    assert process.stdout is not None
    return tuple(sorted(int(process.stdout.readline()) for _ in range(count)))


def test_the_ports_of_a_process_are_those_it_listens_on(keep: ExitStack, sockets: KernelSockets) -> None:
    server = keep.enter_context(socket.create_server(("127.0.0.1", 0)))  # and sockets that do not listen
    keep.enter_context(socket.create_connection(server.getsockname(), timeout=2))
    first, second = keep.enter_context(program()), keep.enter_context(program())
    ports = {first.pid: read_ports(first), second.pid: read_ports(second)}
    assert sockets.ports_of([first.pid, second.pid]) == ports


def test_the_ports_of_descendants_belong_to_a_process_too(keep: ExitStack, sockets: KernelSockets) -> None:
    process = keep.enter_context(program("fork"))
    ports = read_ports(process, 2)
    found = sockets.ports_of([process.pid, os.getpid()])
    assert found[process.pid] == ports
    assert process.pid in family_of(os.getpid())
    assert set(ports) <= set(found[os.getpid()])


def test_a_process_that_is_gone_listens_on_nothing(sockets: KernelSockets) -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    assert sockets.ports_of([process.pid]) == {process.pid: ()}
    assert sockets.ports_of([]) == {}


# --- shells that stand between


_LISTENS_ON = (
    "import socket, time; server = socket.create_server(('127.0.0.1', 0)); print(1, flush=True); time.sleep(60)"
)


@contextlib.contextmanager
def shell(trap: str, ends: str = "true") -> Iterator[int]:
    """The pid of a shell that has a child which listens, and goes on with another command after it."""
    command = ["sh", "-c", f'{trap}; {sys.executable} -c "{_LISTENS_ON}"; {ends}']
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        os.killpg(process.pid, signal.SIGKILL)


def test_what_a_shell_catches_and_ignores_is_seen(sockets: KernelSockets) -> None:
    with shell("trap 'echo no' USR1; trap '' USR2") as pid:
        found = sockets.shells_of([pid, os.getpid()])[pid]
    assert (found.name, "USR1" in found.caught, found.ignored & {"USR1", "USR2"}) == ("sh", True, {"USR2"})
    assert not {"TERM", "HUP"} & (found.caught | found.ignored)


def test_a_shell_that_becomes_what_it_starts_stands_between_nothing(sockets: KernelSockets) -> None:
    with program() as process:
        read_ports(process)
        assert sockets.shells_of([process.pid]) == {}
    with subprocess.Popen(["sh", "-c", "sleep 60; true"], start_new_session=True) as idle:
        assert sockets.shells_of([idle.pid]) == {}, "nothing listens"
        os.killpg(idle.pid, signal.SIGKILL)


def test_one_that_is_gone_catches_nothing() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    assert signals_of(process.pid) == (frozenset(), frozenset())


# --- who has a port instead


def test_its_own_port_and_that_of_a_descendant_are_no_strangers(keep: ExitStack, sockets: KernelSockets) -> None:
    process = keep.enter_context(program("fork"))
    assert [sockets.stranger_on(port, process.pid) for port in read_ports(process, 2)] == [None, None]


def test_what_supervisord_had_started_under_the_same_name_is_named(keep: ExitStack, sockets: KernelSockets) -> None:
    orphan = keep.enter_context(program())
    port = read_ports(orphan)[0]
    with sleeper() as pid:
        assert sockets.stranger_on(port, pid) == Holder((orphan.pid,), os.path.basename(sys.executable), "app:app-1")


@pytest.mark.parametrize(("holder", "process"), [(APP_2, APP_1), ({}, APP_1), (APP_1, {}), ({}, {})])
def test_anybody_else_may_listen_for_it(
    keep: ExitStack, sockets: KernelSockets, holder: dict[str, str], process: dict[str, str]
) -> None:
    """Another program of the same supervisord, a proxy of a container, or where nobody is started by supervisord."""
    port = read_ports(keep.enter_context(program(name=holder)))[0]
    with sleeper(process) as pid:
        assert sockets.stranger_on(port, pid) is None


def test_children_of_a_process_that_died_are_named_with_its_name(keep: ExitStack, sockets: KernelSockets) -> None:
    """Killed as supervisord kills what does not stop: the children have its socket, and live on."""
    forks = "import os, socket, sys, time; s = socket.create_server(('127.0.0.1', 0)); "
    forks += "[os.fork() or time.sleep(60) for _ in 'ab']; print(s.getsockname()[1], flush=True); time.sleep(60)"
    command, environment = [sys.executable, "-c", forks], {**os.environ, **APP_1}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as parent:
        (port,) = read_ports(parent)
        (known,) = sockets.holders_of([port]).values()
        parent.kill()
    children = tuple(pid for pid in known.pids if pid != parent.pid)
    for pid in children:
        keep.callback(os.kill, pid, signal.SIGKILL)
    assert len(children) == 2
    assert sockets.holders_of([port]) == {port: Holder(children, os.path.basename(sys.executable), "app:app-1")}


def test_whoever_else_listens_is_named_without_one(keep: ExitStack, sockets: KernelSockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (holder,) = sockets.holders_of([port]).values()
    assert (holder.pids, holder.started) == ((os.getpid(),), "")
    assert sockets.holders_of([port]) == sockets.holders_of([]) == {}


def test_a_socket_that_supervisord_holds_and_hands_on_is_the_process_own(
    keep: ExitStack, sockets: KernelSockets
) -> None:
    """As in an [fcgi-program:]."""
    server = keep.enter_context(socket.create_server(("127.0.0.1", 0)))
    command, environment = ["sleep", "60"], {**os.environ, **APP_1}
    with subprocess.Popen(command, env=environment, pass_fds=[server.fileno()]) as process:
        assert sockets.stranger_on(server.getsockname()[1], process.pid) is None
        process.kill()


def test_where_nobody_listens_there_is_no_stranger(sockets: KernelSockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert sockets.stranger_on(port, os.getpid()) is None


def test_where_it_cannot_be_seen_there_is_no_stranger(
    keep: ExitStack, sockets: KernelSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(*_: object) -> None:
        raise SocketsError("Cannot see which ports process 7 listens on")

    port = read_ports(keep.enter_context(program()))[0]
    with sleeper() as pid:
        monkeypatch.setattr(drain, "inodes_of", hidden)
        assert sockets.stranger_on(port, pid) is None


def test_one_whose_sockets_are_hidden_is_not_named(keep: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(pid: int) -> Iterator[int]:
        raise SocketsError(f"Cannot see which ports process {pid} listens on")
        yield 0

    keep.enter_context(program())
    with sleeper() as pid:
        monkeypatch.setattr(owners, "_socket_inodes", hidden)
        assert predecessor([1, 2, 3], pid) is None


def test_where_proc_hides_processes_they_are_nobodys_children(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(pid: int) -> int:
        raise PermissionError(1, "Operation not permitted", f"/proc/{pid}/stat")

    monkeypatch.setattr(owners, "_parent", hidden)
    assert list(family_of(os.getpid())) == [os.getpid()]
