"""Which process holds a port: real processes that listen, and some that took a port from another."""

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

from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.core.port_use import Holder, PortUse
from supervisor_rolling.listener import kernel_sockets
from supervisor_rolling.listener.kernel_sockets import KernelSockets
from supervisor_rolling.listener.system import procfs
from supervisor_rolling.listener.system.procfs import family_of, signals_of
from tests.support.unprivileged import error_as_nobody
from tests.support.waiting import eventually

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


def test_ports_of_a_process_are_its_listening_ones(keep: ExitStack, sockets: KernelSockets) -> None:
    server = keep.enter_context(socket.create_server(("127.0.0.1", 0)))  # and sockets that do not listen
    keep.enter_context(socket.create_connection(server.getsockname(), timeout=2))
    first, second = keep.enter_context(program()), keep.enter_context(program())
    ports = {first.pid: read_ports(first), second.pid: read_ports(second)}
    assert sockets.ports_of([first.pid, second.pid]) == ports


def test_ports_of_descendants_belong_to_the_process(keep: ExitStack, sockets: KernelSockets) -> None:
    process = keep.enter_context(program("fork"))
    ports = read_ports(process, 2)
    found = sockets.ports_of([process.pid, os.getpid()])
    assert found[process.pid] == ports
    assert process.pid in family_of(os.getpid())
    assert set(ports) <= set(found[os.getpid()])


def test_ended_process_has_no_ports(sockets: KernelSockets) -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    assert sockets.ports_of([process.pid]) == {process.pid: ()}
    assert sockets.ports_of([]) == {}


# --- processes between supervisord and the one that listens


_LISTENS_ON = (
    "import socket, time; server = socket.create_server(('127.0.0.1', 0)); "
    "print(server.getsockname()[1], flush=True); time.sleep(60)"
)


@contextlib.contextmanager
def started(*command: str) -> Iterator[tuple[int, int]]:
    """The pid of a command, and the port that a process below it prints and listens on."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def python(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


SHELL = f'{sys.executable} -c "{_LISTENS_ON}"; true'
LAUNCHER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_LISTENS_ON!r}])"
PYTHON = os.path.basename(os.path.realpath(sys.executable))


def test_zombie_child_hides_nothing_from_a_user(sockets: KernelSockets) -> None:
    """Its files are shown to root alone, also where the user is the same."""

    def ports_beside_a_zombie() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
            port, own = server.getsockname()[1], os.getpid()
            assert child in family_of(own)
            assert sockets.ports_of([own]) == {own: (port,)}

    assert error_as_nobody(ports_beside_a_zombie) == ""


def test_caught_and_ignored_signals_are_read(sockets: KernelSockets) -> None:
    traps = f"trap 'echo no' USR1; trap '' USR2; {SHELL}"
    with started("env", "--default-signal=HUP,TERM", "sh", "-c", traps) as (pid, port):
        found = sockets.wrappers_of({pid: [port], os.getpid(): []})[pid]
    assert (found.name, "USR1" in found.caught, found.ignored & {"USR1", "USR2"}) == ("sh", True, {"USR2"})
    assert not {"TERM", "HUP"} & (found.caught | found.ignored)


def test_family_is_a_process_with_its_descendants(sockets: KernelSockets) -> None:
    with started("sh", "-c", f"{SHELL}; true") as (pid, _):
        found = sockets.families_of([pid])[pid]
    assert (found.is_shell, [one.program.startswith("python") for one in found.inner]) == (True, [True])
    assert sockets.families_of([]) == {}


def test_script_without_exec_is_a_wrapper(sockets: KernelSockets, tmp_path: Path) -> None:
    script = tmp_path / "start-app"
    script.write_text(f"#!/bin/sh\n{SHELL}\n", encoding="ascii")
    script.chmod(0o755)
    with started(str(script)) as (pid, port):
        found = sockets.wrappers_of({pid: [port]})[pid]
    assert (found.name, found.program) == ("start-app", os.path.basename(os.path.realpath("/bin/sh")))
    assert found.dies_of("TERM")


def test_python_launcher_is_a_wrapper_killed_by_term(sockets: KernelSockets) -> None:
    with started(*python(LAUNCHER)) as (pid, port):
        found = sockets.wrappers_of({pid: [port]})[pid]
    assert (found.program, found.dies_of("TERM"), found.inner) == (PYTHON, True, ())


def test_processes_between_are_listed_in_order(sockets: KernelSockets) -> None:
    with started(*python(f"import subprocess; subprocess.run(['sh', '-c', {SHELL!r}])")) as (pid, port):
        found = sockets.wrappers_of({pid: [port]})[pid]
    assert (found.program, [one.name for one in found.inner]) == (PYTHON, ["sh"])


@pytest.mark.parametrize(
    "readies", ["signal.signal(signal.SIGTERM, exit)", "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})"]
)
def test_master_that_handles_term_passes_it_on(sockets: KernelSockets, readies: str) -> None:
    """As a master of workers with SO_REUSEPORT does, or an init of containers."""
    master = f"import os, signal, time\nif os.fork():\n {readies}\n time.sleep(60)\n{_LISTENS_ON}"
    with started(*python(master)) as (pid, port):
        assert eventually(lambda: sockets.wrappers_of({pid: [port]})[pid].passes_on("TERM"))


def test_process_without_a_listening_child_is_no_wrapper(sockets: KernelSockets) -> None:
    with program("fork") as process:
        ports = read_ports(process, 2)
        assert sockets.wrappers_of({process.pid: ports}) == {}
    with started("sh", "-c", SHELL) as (pid, port):
        assert sockets.wrappers_of({pid: [port + 1]}) == {}, "its child listens elsewhere"
        assert sockets.wrappers_of({}) == {}


def test_ended_process_catches_no_signals() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    assert signals_of(process.pid) == (frozenset(), frozenset())


# --- what else has a port


@contextlib.contextmanager
def held(port: int, *, alone: bool = True) -> Iterator[socket.socket]:
    """A socket of this process that listens on a port, ``alone`` or with SO_REUSEPORT."""
    with socket.create_server(("127.0.0.1", port), reuse_port=not alone) as server:
        yield server


_SHARES = """
import os, socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])), reuse_port=True)
os.write(1, b"%d\\n" % server.getsockname()[1])
sys.stdin.read()
"""


@contextlib.contextmanager
def sharer(address: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that shares a port by SO_REUSEPORT."""
    pipe, command = subprocess.PIPE, [sys.executable, "-c", _SHARES, address, str(port)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        assert process.stdin is not None
        process.stdin.close()


def test_own_port_has_no_other_holders(keep: ExitStack, sockets: KernelSockets) -> None:
    process = keep.enter_context(program("fork"))
    found = [sockets.listening(port, process.pid) for port in read_ports(process, 2)]
    assert {use.own for use in found} == {("127.0.0.1",), ("::1",)}, "its child's are its own"
    assert [(use.own, use.others) for use in found] == [(use.addresses, ()) for use in found]


def test_own_port_is_seen_without_reading_other_processes(
    keep: ExitStack, sockets: KernelSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = keep.enter_context(program())
    port = read_ports(process)[0]
    read: list[int] = []
    real = procfs.own_inodes
    monkeypatch.setattr(procfs, "own_inodes", lambda pid: read.append(pid) or real(pid))  # type: ignore[func-returns-value]
    assert sockets.listening(port, process.pid).own
    assert read == [process.pid]


@pytest.mark.parametrize("name", [APP_1, APP_2, {}])
def test_process_that_holds_the_port_instead_is_named(
    keep: ExitStack, sockets: KernelSockets, name: dict[str, str]
) -> None:
    holder = keep.enter_context(program(name=name))
    port = read_ports(holder)[0]
    started = f"app:{name['SUPERVISOR_PROCESS_NAME']}" if name else ""
    with sleeper() as pid:
        use = sockets.listening(port, pid)
    assert use == PortUse(("127.0.0.1",), (), (Holder((holder.pid,), os.path.basename(sys.executable), started),))


def test_process_without_environment_is_named_by_its_socket(keep: ExitStack, sockets: KernelSockets) -> None:
    command = ["env", "-i", sys.executable, "-c", _LISTENS]
    orphan = keep.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    keep.callback(orphan.kill)
    port = read_ports(orphan)[0]
    with sleeper() as pid:
        (other,) = sockets.listening(port, pid).others
    assert (other.pids, other.started) == ((orphan.pid,), "")


def test_process_beside_with_reuseport_is_named(keep: ExitStack, sockets: KernelSockets) -> None:
    port = keep.enter_context(held(0, alone=False)).getsockname()[1]
    orphan = keep.enter_context(sharer("127.0.0.1", port))
    everywhere = keep.enter_context(sharer("0.0.0.0", port))
    use = sockets.listening(port, orphan.pid)
    assert (use.addresses, use.own) == (("0.0.0.0", "127.0.0.1"), ("127.0.0.1",))
    assert {pid for one in use.others for pid in one.pids} == {os.getpid(), everywhere.pid}


def test_process_at_another_address_is_not_beside(keep: ExitStack, sockets: KernelSockets) -> None:
    port = keep.enter_context(held(0)).getsockname()[1]
    process = keep.enter_context(sharer("127.0.0.2", port))
    use = sockets.listening(port, process.pid)
    assert use == PortUse(("127.0.0.1", "127.0.0.2"), ("127.0.0.2",), ())


def test_processes_with_several_names_are_listed_apart(keep: ExitStack, sockets: KernelSockets) -> None:
    server = keep.enter_context(held(0))
    pids = {}
    for name in (APP_1, APP_2):
        process = subprocess.Popen(["sleep", "60"], env={**os.environ, **name}, pass_fds=[server.fileno()])
        keep.enter_context(process)
        keep.callback(process.kill)
        pids[f"app:{name['SUPERVISOR_PROCESS_NAME']}"] = process.pid
    with sleeper() as pid:
        others = sockets.listening(server.getsockname()[1], pid).others
    assert {one.started: one.pids for one in others if one.name == "sleep"} == {
        started: (pid,) for started, pid in pids.items()
    }


def test_orphans_are_named_like_their_dead_parent(keep: ExitStack, sockets: KernelSockets) -> None:
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


def test_foreign_listener_has_no_supervisord_name(keep: ExitStack, sockets: KernelSockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (holder,) = sockets.holders_of([port]).values()
    assert (holder.pids, holder.started) == ((os.getpid(),), "")
    assert sockets.holders_of([port]) == sockets.holders_of([]) == {}


def test_socket_inherited_from_supervisord_is_its_own(keep: ExitStack, sockets: KernelSockets) -> None:
    """As in an [fcgi-program:]: supervisord and the other processes of the group hold it, too."""
    server = keep.enter_context(held(0))
    with subprocess.Popen(["sleep", "60"], pass_fds=[server.fileno()]) as process:
        use = sockets.listening(server.getsockname()[1], process.pid)
        process.kill()
    assert use == PortUse(("127.0.0.1",), ("127.0.0.1",), ())


def test_outgoing_connection_on_a_port_is_found(
    keep: ExitStack, sockets: KernelSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = keep.enter_context(held(0))
    client = keep.enter_context(socket.create_connection(server.getsockname(), timeout=2))
    port, peer = client.getsockname()[1], server.getsockname()[1]
    (holder,) = sockets.holders_of([port]).values()
    assert (holder.pids, holder.peer) == ((os.getpid(),), f"127.0.0.1:{peer}")
    monkeypatch.setattr(kernel_sockets, "local_ports", lambda: (1, port - 1))
    assert sockets.holders_of([port]) == {}, "the kernel has not chosen this port"


def test_nothing_listens_on_a_free_port(sockets: KernelSockets) -> None:
    with held(0) as server:
        port = server.getsockname()[1]
    assert sockets.listening(port, os.getpid()) == PortUse()


def test_hidden_own_sockets_make_holders_unknown(
    keep: ExitStack, sockets: KernelSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(pid: int) -> frozenset[int]:
        raise SocketsError(f"Cannot see which ports process {pid} listens on")

    port = read_ports(keep.enter_context(program()))[0]
    monkeypatch.setattr(procfs, "own_inodes", hidden)
    assert sockets.listening(port, os.getpid()) == PortUse(("127.0.0.1",), None, ())


def test_hidden_holder_is_not_named(keep: ExitStack, sockets: KernelSockets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's process, for a listener without CAP_SYS_PTRACE."""
    holder, real = keep.enter_context(program()), procfs.own_inodes

    def hidden(pid: int) -> frozenset[int]:
        if pid == holder.pid:
            raise SocketsError(f"Cannot see which ports process {pid} listens on")
        return real(pid)

    port = read_ports(holder)[0]
    with sleeper() as pid:
        monkeypatch.setattr(procfs, "own_inodes", hidden)
        assert sockets.listening(port, pid) == PortUse(("127.0.0.1",), (), ())


def test_hidden_processes_are_no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(pid: int) -> int:
        raise PermissionError(1, "Operation not permitted", f"/proc/{pid}/stat")

    monkeypatch.setattr(procfs, "parent_of", hidden)
    assert list(family_of(os.getpid())) == [os.getpid()]
