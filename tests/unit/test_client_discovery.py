"""Which programs connect to ports, as the kernel and /proc have it: real processes and connections."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor_rolling.core.policy import BalancerPolicy
from supervisor_rolling.core.port_use import Client
from supervisor_rolling.listener import balancer_config, client_discovery
from supervisor_rolling.listener.client_discovery import ConnectedClients, clients_of, configuration_of
from tests.support.hosts import Host

CONNECT = (
    "import socket, sys; one = socket.create_connection(('127.0.0.1', {})); print('on', flush=True); sys.stdin.read()"
)
AGAIN = """
import socket, sys
print("on", flush=True)
while True:
    with socket.create_connection(("127.0.0.1", {})) as one:
        one.recv(1)
"""
WAIT = "print('on', flush=True); input()"

ACCEPT = """
import socket, sys, time
server = socket.socket(fileno=int(sys.argv[1]))
print("on", flush=True)
while True:
    connection, _ = server.accept()
    time.sleep(0.005)
    connection.close()
"""


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def program(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process, once it has said something."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stdout.readline()
        try:
            yield child
        finally:
            child.kill()


def test_client_is_named_by_its_process(port: int):
    with program(sys.executable, "-c", CONNECT.format(port)) as child:
        (found,) = clients_of([port], glances=3)
    with_name = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
    assert (found.pid, found.address, found.is_local, found.files) == (child.pid, "127.0.0.1", True, ())
    assert found.name.startswith("python") or found.name == with_name


def test_own_connections_are_no_clients(port: int):
    other = socket.create_server(("127.0.0.1", 0))
    with other, socket.create_connection(("127.0.0.1", port)):
        with_other = program(sys.executable, "-c", CONNECT.format(other.getsockname()[1]))
        with with_other:
            assert clients_of([port], glances=3) == []


def test_balancer_with_short_connections_is_seen(tmp_path: Path):
    """Each lives for 5 ms, as a request does; the program's file is called as a balancer's is."""
    haproxy = _haproxy(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = server.getsockname()[1]
        with _closing(server), program(str(haproxy), "-c", AGAIN.format(here), "-f", f"{tmp_path}/h.cfg") as child:
            found = clients_of([here])
    text = "listen app\n server a 127.0.0.1:8000\n"
    assert found == [Client("haproxy", child.pid, "127.0.0.1", files=((f"{tmp_path}/h.cfg", text),))]


@pytest.mark.parametrize("is_reaped", [True, False])
def test_balancer_that_ends_in_the_lookup_is_left_out(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_reaped: bool
):
    """As after a reload of it. It was connected, so without a configuration it would refuse a rollout."""
    with program(str(_haproxy(tmp_path)), "-c", CONNECT.format(port), "-f", str(tmp_path / "h.cfg")) as child:
        assert [(one.pid, one.address) for one in clients_of([port], glances=1)] == [(child.pid, "127.0.0.1")]

        def end(_: float) -> None:
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | (0 if is_reaped else os.WNOWAIT))

        monkeypatch.setattr(client_discovery.time, "sleep", end)
        assert clients_of([port], glances=1) == []


def test_balancer_that_starts_in_the_lookup_is_seen(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As after a restart of it: then its configuration is that of the new process."""
    with contextlib.ExitStack() as stack:
        started: list[int] = []

        def start(_: float) -> None:
            command = (str(_haproxy(tmp_path)), "-c", WAIT, "-f", str(tmp_path / "h.cfg"))
            started.append(stack.enter_context(program(*command)).pid)

        monkeypatch.setattr(client_discovery.time, "sleep", start)
        found = clients_of([port], glances=1)
    assert [(one.pid, len(one.files)) for one in found] == [(started[0], 1)]


def test_balancer_with_a_hidden_command_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client_discovery, "_command", lambda pid: [])
    with program(str(_haproxy(tmp_path)), "-c", WAIT, "-f", str(tmp_path / "h.cfg")) as child:
        assert clients_of([1], glances=1) == [Client("haproxy", child.pid)]


def _haproxy(directory: Path) -> Path:
    """A program that is called as HAProxy is, with a configuration beside it."""
    (directory / "h.cfg").write_text("listen app\n server a 127.0.0.1:8000\n", encoding="utf-8")
    return Path(shutil.copy(os.path.realpath(sys.executable), directory / "haproxy"))


@contextlib.contextmanager
def _closing(server: socket.socket) -> Iterator[None]:
    """Accepts, and closes each connection after 5 ms."""
    command = [sys.executable, "-c", ACCEPT, str(server.fileno())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[server.fileno()]) as child:
        assert child.stdout
        assert child.stdout.readline()
        try:
            yield
        finally:
            child.kill()


def test_remote_client_has_an_address_only():
    with Host() as host, socket.create_server((host.home.v4, 0)) as server:
        here = server.getsockname()[1]
        with host.there():
            far = socket.create_connection((host.home.v4, here))
        with far:
            assert clients_of([here], glances=3) == [Client("", address=host.away.v4, is_local=False)]


def test_includes_of_apache_are_followed(tmp_path: Path):
    (tmp_path / "sites").mkdir()
    (tmp_path / "a.conf").write_text("IncludeOptional sites/*.conf\nInclude a.conf\n", encoding="utf-8")
    (tmp_path / "sites" / "b.conf").write_text("Listen 1\n", encoding="utf-8")
    code = "print('on', flush=True); input()"
    with program(sys.executable, "-c", code, "-d", str(tmp_path), "-f", "a.conf") as child:
        found = configuration_of("apache2", child.pid)
    assert [path for path, _ in found] == [f"{tmp_path}/a.conf", f"{tmp_path}/sites/b.conf"]


def test_path_with_many_wildcards_is_not_followed(tmp_path: Path):
    (tmp_path / "Caddyfile").write_text("import a/*.conf\nimport a/*/*/*\n", encoding="utf-8")
    for path in ("a/b.conf", "a/b/c/d"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x", encoding="utf-8")
    code = "print('on', flush=True); input()"
    with program(sys.executable, "-c", code, "--config", f"{tmp_path}/Caddyfile") as child:
        found = configuration_of("caddy", child.pid)
    assert [path for path, _ in found] == [f"{tmp_path}/Caddyfile", f"{tmp_path}/a/b.conf"]


def test_option_d_of_haproxy_is_no_directory(tmp_path: Path):
    (tmp_path / "h.cfg").write_text("defaults\n", encoding="utf-8")
    code = f"import os; os.chdir({str(tmp_path)!r}); print('on', flush=True); input()"
    with program(sys.executable, "-c", code, "-d", "-f", "h.cfg") as child:
        found = configuration_of("haproxy", child.pid)
    assert [path for path, _ in found] == [f"{tmp_path}/h.cfg"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("-c {}/n.conf", True),
        ("-p {}/ -c n.conf -g daemon", True),
        ("-p {} -c {}/n.conf", True),
        ("-c n.conf", False),  # in a directory that nginx was compiled with
        ("-p {}", False),
    ],
)
def test_nginx_configuration_is_that_of_its_master(tmp_path: Path, arguments: str, expected: bool):
    (tmp_path / "n.conf").write_text("events {}\n", encoding="utf-8")
    found = _of_master_and_worker(tmp_path, f"nginx: master process nginx {arguments.replace('{}', str(tmp_path))}")
    assert found == [((f"{tmp_path}/n.conf", "events {}\n"),) if expected else ()] * 2


def test_configuration_of_another_parent_is_ignored(tmp_path: Path):
    (tmp_path / "n.conf").write_text("events {}\n", encoding="utf-8")
    _, of_worker = _of_master_and_worker(tmp_path, "supervisord", "-c", f"{tmp_path}/n.conf")
    assert of_worker == ()


def _of_master_and_worker(directory: Path, title: str, *arguments: str) -> list[tuple[tuple[str, str], ...]]:
    """What ``configuration_of`` has of a process that is called so, and of its child, a worker of nginx."""
    command = ["nginx: worker process", "-c", "input()"]
    worker = f"import subprocess; print(subprocess.Popen({command}, executable={sys.executable!r}).pid, flush=True)"
    master = [title, "-c", f"{worker}; input()", *arguments]
    with subprocess.Popen(
        master, executable=sys.executable, cwd=directory, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin
        assert child.stdout
        found = [configuration_of("nginx", pid) for pid in (child.pid, int(child.stdout.readline()))]
        child.stdin.close()
    return found


def test_lookup_is_begun_once_and_calls_back(port: int):
    rung: list[int] = []
    connected = ConnectedClients(lambda: 5.0, lambda: rung.append(1))
    assert connected.find("app", [port], 4.0) is None
    connected._lookups._lookups["app"].join(10.0)
    assert (connected.find("app", [port], 4.0), connected.last_found("app"), rung) == ([], [], [1])
    assert connected.find("app", [port], 6.0) is None
    assert connected.last_found("app") == [], "until the next lookup is over"
    connected._lookups._lookups["app"].join(10.0)


def test_lookup_that_hangs_fails_and_is_not_repeated(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    now, hangs, began = [0.0], threading.Event(), []

    def hang(_: object) -> list[Client]:
        began.append(now[0])
        assert hangs.wait(10.0)
        return [Client("late")]

    monkeypatch.setattr(client_discovery, "clients_of", hang)
    connected = ConnectedClients(lambda: now[0])
    assert connected.find("app", [1], 0.0) is None
    now[0] = client_discovery.LOOKUP_TIMEOUT
    assert connected.find("app", [1], 0.0) == ()
    assert connected.find("app", [1], now[0]) == (), "no second thread hangs"
    assert caplog.messages == ["what connects to the group is not known: took more than 10 s"]
    hangs.set()
    connected._lookups._lookups["app"].join(10.0)
    connected.find("app", [1], 20.0)
    connected._lookups._lookups["app"].join(10.0)
    assert began == [0.0, client_discovery.LOOKUP_TIMEOUT]


@pytest.mark.parametrize("what", ["clients", "balancers"])
def test_lookups_run_at_usual_priority(what: str, monkeypatch: pytest.MonkeyPatch):
    """A thread inherits that of the loop."""
    observed: list[int] = []

    def read(_: object) -> None:
        observed.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    monkeypatch.setattr(client_discovery, "clients_of", read)
    monkeypatch.setattr(balancer_config, "_read_elsewhere", read)
    usual = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -1)
    try:
        if what == "clients":
            connected = ConnectedClients(lambda: 0.0)
            connected.find("app", [1], 0.0)
            connected._lookups._lookups["app"].join(10.0)
        else:
            configurations = balancer_config.NginxConfigurations(lambda: 0.0)
            configurations.read(BalancerPolicy(), 0.0)
            configurations._lookups._lookups[""].join(10.0)
    finally:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), usual)
    assert observed == [0]


def test_program_of_one_peer(port: int):
    connected = ConnectedClients(lambda: 0.0)
    with socket.create_connection(("127.0.0.1", port)) as one:
        peer = f"127.0.0.1:{one.getsockname()[1]}"
        assert connected.program_of(peer, port) == Path("/proc/self/comm").read_text().strip()
        assert connected.program_of("127.0.0.1:1", port) == ""
