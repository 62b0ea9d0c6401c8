"""HaproxyGate against an admin socket that answers as HAProxy 2.6 does, and against the real HAProxy where that changes
a server's state itself."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor_rolling.core.connections import Connections
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.errors import GateError, GatePermissionError, PartlyClosedError
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.listener.gates.haproxy import MAINT_GRACE, STICKY_GRACE, HaproxyGate
from supervisor_rolling.listener.gates.haproxy_api import RuntimeApi
from tests.support.port_gate import PortGate
from tests.support.unprivileged import error_as_nobody, let_in
from tests.support.waiting import wait_until

STATE_HEADER = (
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state "
    "bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr "
    "srv_agent_addr srv_agent_port"
)
LONGEST_LINE = 16384  # tune.bufsize
ADMIN_STATES = {"ready": 0, "drain": 8, "maint": 1}


class FakeHaproxy:
    """A backend ``app``: for each server its address, port, srv_admin_state and srv_op_state, and what it has to do.

    ``level`` is that of the socket; ``deaf`` servers do not obey commands; ``hangs`` answers nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.level = "admin"
        self.servers: dict[str, dict[str, Any]] = {}
        self.deaf: set[str] = set()
        self.hangs = False
        self.actions: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._waiting: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def add(self, name: str, port: int, address: str = "127.0.0.1", **given: int) -> None:
        self.servers[name] = {"address": address, "port": port, "admin": 0, "up": 2, "scur": 0, "qcur": 0}
        self.servers[name].update(idle=0, stot=0)
        self.servers[name].update(given)

    def reload(self) -> None:
        """Forget all states."""
        for server in self.servers.values():
            server.update(admin=0, scur=0, qcur=0, idle=0)

    def close(self) -> None:
        self._socket.close()

    def states(self) -> dict[str, int]:
        return {name: server["admin"] for name, server in self.servers.items()}

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if self.hangs:
                self._waiting.append(connection)
                continue
            with connection, connection.makefile("rb") as lines:
                line = lines.readline()
                for command in line.decode().strip().split("; ") if len(line) < LONGEST_LINE else []:
                    connection.sendall(f"{self._answer(command)}\n".encode())

    def _answer(self, command: str) -> str:
        if command == "show cli level":
            return f"{self.level}\n"
        if command == "show backend":
            return "# name\napp\nother\n"
        if command == "show servers state app":
            return self._state()
        if command == "show stat app 4 -1":
            return self._stat()
        if command.startswith("set server app/"):
            return self._set(*command[len("set server app/") :].split())
        return "Can't find backend.\n"

    def _state(self) -> str:
        rows = [
            f"3 app {number} {name} {s['address']} {s['up']} {s['admin']} 1 1 1 1 0 2 0 0 0 0 - {s['port']} - 0 0 - - 0"
            for number, (name, s) in enumerate(self.servers.items(), 1)
        ]
        return "\n".join(["1", STATE_HEADER, *rows, ""])

    def _stat(self) -> str:
        rows = [
            f'app,{name},{s["qcur"]},0,{s["scur"]},9,"Layer4 check, passed",{s["idle"]},{s["stot"]},'
            for name, s in self.servers.items()
        ]
        return "\n".join(["# pxname,svname,qcur,qmax,scur,smax,check_desc,srv_icur,stot,", *rows, ""])

    def _set(self, name: str, _: str, value: str) -> str:
        self.actions.append(f"{name} {value}")
        if self.level != "admin":
            return "Permission denied\n"
        if name not in self.servers:
            return "No such server.\n"
        if name in self.deaf:
            return "it will not\n"
        self.servers[name]["admin"] = ADMIN_STATES[value]
        if value == "maint":
            self.servers[name]["up"] = 2  # as it is when it leaves that state
        return ""


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[FakeHaproxy]:
    fake = FakeHaproxy(tmp_path / "admin.sock")
    fake.add("a", 8000)
    fake.add("b", 8001)
    yield fake
    fake.close()


@pytest.fixture
def make(haproxy: FakeHaproxy, tmp_path: Path) -> Callable[..., PortGate]:
    """A new gate of the same owner: what a new listener has."""

    def make(backend: str = "app", owner: str = "host unix:///s.sock") -> PortGate:
        policy = GatePolicy("haproxy", socket=str(haproxy.path), backend_name=backend, bypass="none")
        return PortGate(HaproxyGate(policy, owner, Clock(), tmp_path / "record"))

    return make


def records(tmp_path: Path) -> list[dict[str, str]]:
    return [json.loads(path.read_text())["closed"] for path in (tmp_path / "record").glob("*")]


REAL = """
global
    stats socket %(here)s/admin.sock level admin
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
backend checks
    server checked 127.0.0.1:8000 check inter 1h
backend app
    server a 127.0.0.1:8000 track checks/checked
    server b 127.0.0.1:8001
"""


class RealHaproxy:
    """The servers of ``REAL``."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "admin.sock"
        conf = directory / "haproxy.cfg"
        conf.write_text(REAL % {"here": directory})
        self._process = subprocess.Popen(["haproxy", "-db", "-f", str(conf)], stderr=subprocess.DEVNULL)
        wait_until(self.path.exists, "HAProxy serves its socket")

    def ask(self, action: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.path))
            connection.sendall(f"{action}\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def states(self) -> dict[str, int]:
        rows = [line.split() for line in self.ask("show servers state app").splitlines()[2:] if line]
        return {row[3]: int(row[6]) for row in rows}

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealHaproxy]:
    haproxy = RealHaproxy(tmp_path)
    yield haproxy
    haproxy.close()


# --- hold


def test_exactly_the_asked_servers_are_drained_then_ready(
    haproxy: FakeHaproxy, make: Callable[..., PortGate], tmp_path: Path
) -> None:
    gate = make()
    assert list(gate.hold({8000: "app"})) == [8000]
    assert haproxy.states() == {"a": 8, "b": 0}
    assert records(tmp_path) == [{"a": "drain"}]
    gate.hold({8001: "app"})
    assert haproxy.states() == {"a": 0, "b": 8}
    assert gate.hold({}) == {}
    assert haproxy.states() == {"a": 0, "b": 0}
    assert records(tmp_path) == [], "nothing is left behind"


def test_unchanged_hold_sends_no_command(haproxy: FakeHaproxy, make: Callable[..., PortGate]) -> None:
    gate = make()
    since = gate.hold({8000: "app"})
    assert gate.hold({8000: "other comment"}) == since
    assert haproxy.actions == ["a drain"]


def test_reload_restarts_since(haproxy: FakeHaproxy, make: Callable[..., PortGate]) -> None:
    gate = make()
    first = gate.hold({8000: "app", 8001: "app"})
    haproxy.servers["a"]["admin"] = 0
    second = gate.hold({8000: "app", 8001: "app"})
    assert second[8001] == first[8001]
    assert second[8000] > first[8000]
    haproxy.reload()
    assert min(gate.hold({8000: "app", 8001: "app"}).values()) > second[8000]
    assert haproxy.states() == {"a": 8, "b": 8}


def test_next_listener_sets_ready_what_is_left(
    haproxy: FakeHaproxy, make: Callable[..., PortGate], tmp_path: Path
) -> None:
    make().hold({8000: "app", 8001: "app"})
    make().hold({8001: "app"})
    assert haproxy.states() == {"a": 0, "b": 8}
    make().hold({})
    assert haproxy.states() == {"a": 0, "b": 0}
    assert records(tmp_path) == []


def test_drain_of_another_owner_is_kept(haproxy: FakeHaproxy, make: Callable[..., PortGate]) -> None:
    make(owner="one").hold({8000: "app"})
    make(owner="two").hold({})
    assert haproxy.states() == {"a": 8, "b": 0}


@pytest.mark.parametrize("state", [1, 8, 9, 2, 32])
def test_server_closed_by_an_operator_is_never_opened(
    haproxy: FakeHaproxy, make: Callable[..., PortGate], state: int
) -> None:
    haproxy.servers["a"]["admin"] = state
    gate = make()
    assert list(gate.hold({8000: "app"})) == [8000]
    gate.hold({})
    make().hold({})
    assert haproxy.states() == {"a": state, "b": 0}
    assert haproxy.actions == []


@pytest.mark.parametrize("state", [1, 9])
def test_maintenance_by_an_operator_after_us_is_kept(
    haproxy: FakeHaproxy, make: Callable[..., PortGate], state: int
) -> None:
    gate = make()
    gate.hold({8000: "app"})
    haproxy.servers["a"]["admin"] = state
    gate.hold({})
    assert haproxy.states() == {"a": state, "b": 0}
    haproxy.servers["a"]["admin"] = 8  # and then into drain
    gate.hold({})
    assert haproxy.states() == {"a": 8, "b": 0}


@pytest.mark.parametrize("beside", [2, 16, 32])
def test_tracked_state_beside_our_drain_keeps_it_ours(
    haproxy: FakeHaproxy, make: Callable[..., PortGate], beside: int
) -> None:
    gate = make()
    gate.hold({8000: "app"})
    haproxy.servers["a"]["admin"] = 8 | beside
    assert list(gate.hold({8000: "app"})) == [8000]
    haproxy.servers["a"]["admin"] = 8
    gate.hold({})
    assert haproxy.states() == {"a": 0, "b": 0}


@pytest.mark.parametrize(("state", "beside"), [("maint", 2), ("drain", 16)])
def test_tracking_server_is_set_ready_afterwards(real: RealHaproxy, tmp_path: Path, state: str, beside: int) -> None:
    policy = GatePolicy("haproxy", socket=str(real.path), backend_name="app", bypass="none")
    gate = PortGate(HaproxyGate(policy, "host unix:///s.sock", Clock(), tmp_path / "record"))
    gate.hold({8000: "app"})
    real.ask(f"set server checks/checked state {state}")
    gate.hold({8000: "app"})
    assert real.states() == {"a": 8 | beside, "b": 0}
    gate.hold({8000: "app", 8001: "app"})
    real.ask("set server checks/checked state ready")
    gate.hold({})
    assert real.states() == {"a": 0, "b": 0}


def test_state_file_is_written_before_the_drain(
    haproxy: FakeHaproxy, make: Callable[..., PortGate], tmp_path: Path
) -> None:
    (tmp_path / "record").write_text("a file in the directory's place")
    with pytest.raises(GateError, match="record"):
        make().hold({8000: "app"})
    assert haproxy.actions == []


def test_directory_writable_by_others_is_refused(
    haproxy: FakeHaproxy, make: Callable[..., PortGate], tmp_path: Path
) -> None:
    (tmp_path / "record").mkdir()
    (tmp_path / "record").chmod(0o777)
    with pytest.raises(GateError, match="no other user may write"):
        make().check()


def test_unreadable_state_file_is_logged(
    haproxy: FakeHaproxy, make: Callable[..., PortGate], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make().hold({8000: "app"})
    (path,) = (tmp_path / "record").glob("*.json")
    path.write_text("{")
    make().hold({})
    assert haproxy.states() == {"a": 8, "b": 0}
    assert "cannot read what the previous listener has closed" in caplog.text


def test_server_down_by_checks_opens_through_maintenance(haproxy: FakeHaproxy, make: Callable[..., PortGate]) -> None:
    gate = make()
    gate.hold({8000: "app", 8001: "app"})
    haproxy.servers["a"]["up"] = 0
    gate.hold({})
    assert haproxy.actions[2:] == ["a maint", "a ready", "b ready"]


# --- maintenance


def test_draining_port_goes_from_drain_to_maintenance(
    haproxy: FakeHaproxy, make: Callable[..., PortGate], tmp_path: Path
) -> None:
    gate = make()
    since = gate.hold({8000: "app", 8001: "app"}, [8001])
    assert haproxy.states() == {"a": 8, "b": 1}
    assert gate.hold({8000: "app", 8001: "app"}, [8000, 8001]) == since, "it was never open in between"
    assert haproxy.states() == {"a": 1, "b": 1}
    assert records(tmp_path) == [{"a": "maint", "b": "maint"}]
    assert gate.hold({8000: "app", 8001: "app"}) == since
    assert haproxy.states() == {"a": 1, "b": 1}, "it does not go back"
    gate.hold({})
    assert haproxy.states() == {"a": 0, "b": 0}


def test_port_counts_as_empty_only_in_maintenance(
    haproxy: FakeHaproxy, make: Callable[..., PortGate], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = make()
    since = gate.hold({8000: "app"})[8000]
    monkeypatch.setattr(gate.gate, "_clock", lambda: since + 1.0)
    haproxy.servers["a"].update(scur=1)
    assert gate.in_flight({8000: peers(1)}) == {8000: 1}
    assert haproxy.states() == {"a": 8, "b": 0}
    haproxy.servers["a"].update(scur=0)
    assert gate.in_flight({8000: peers(0)}) == {8000: 1}, "a user of the cookie may have come meanwhile"
    assert haproxy.states() == {"a": 1, "b": 0}
    monkeypatch.setattr(gate.gate, "_clock", lambda: since + 1.1 + MAINT_GRACE)
    haproxy.servers["a"].update(scur=3)
    assert gate.in_flight({8000: peers(3)}) == {8000: 3}
    haproxy.servers["a"].update(scur=0)
    assert gate.in_flight({8000: peers(0)}) == {8000: 0}


def test_sticky_users_of_a_drained_server_are_moved(
    haproxy: FakeHaproxy, make: Callable[..., PortGate], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = make()
    since = gate.hold({8000: "app", 8001: "app"})[8000]
    for server in haproxy.servers.values():
        server.update(scur=2, stot=100)
    for after, total in ((MAINT_GRACE + 0.01, 100), (STICKY_GRACE - 0.1, 180)):
        monkeypatch.setattr(gate.gate, "_clock", lambda at=since + after: at)
        haproxy.servers["a"].update(stot=total)
        gate.in_flight({8000: peers(2), 8001: peers(2)})
        assert haproxy.states() == {"a": 8, "b": 8}
    monkeypatch.setattr(gate.gate, "_clock", lambda: since + STICKY_GRACE + 0.01)
    assert gate.in_flight({8000: peers(2), 8001: peers(2)}) == {8000: 2, 8001: 2}
    assert haproxy.states() == {"a": 1, "b": 8}, "b only has what was in flight"


def test_next_listener_opens_servers_left_in_maintenance(
    haproxy: FakeHaproxy, make: Callable[..., PortGate], tmp_path: Path
) -> None:
    make().hold({8000: "app", 8001: "app"}, [8000, 8001])
    haproxy.servers["b"]["admin"] = 8  # killed between the record and the command
    make().hold({})
    assert haproxy.states() == {"a": 0, "b": 0}
    assert records(tmp_path) == []


def test_states_lost_by_a_reload_are_restored(haproxy: FakeHaproxy, make: Callable[..., PortGate]) -> None:
    gate = make()
    gate.hold({8000: "app", 8001: "app"}, [8001])
    haproxy.reload()
    gate.hold({8000: "app", 8001: "app"}, [8001])
    assert haproxy.states() == {"a": 8, "b": 1}


def test_server_drained_by_an_operator_stays_in_drain(haproxy: FakeHaproxy, make: Callable[..., PortGate]) -> None:
    haproxy.servers["a"]["admin"] = 8
    gate = make()
    gate.hold({8000: "app"}, [8000])
    assert gate.in_flight({8000: peers(0)}) == {8000: 0}
    assert (haproxy.states(), haproxy.actions) == ({"a": 8, "b": 0}, [])


def test_own_maintenance_is_no_finding(haproxy: FakeHaproxy, make: Callable[..., PortGate]) -> None:
    gate = make()
    gate.hold({8000: "app"}, [8000])
    haproxy.servers["b"]["admin"] = 8
    found = gate.inspect({8000: "app-8000", 8001: "app-8001"})
    assert [(one.code, "b" in one.text.split()) for one in found] == [("haproxy.down", True)]


def test_server_with_an_own_address_is_chosen(haproxy: FakeHaproxy, make: Callable[..., PortGate]) -> None:
    haproxy.add("elsewhere", 8000, "192.0.2.7")
    haproxy.add("bridged", 8002, "192.0.2.8")
    assert list(make().hold({8000: "app", 8002: "app"})) == [8000, 8002]
    assert haproxy.states() == {"a": 8, "b": 0, "elsewhere": 0, "bridged": 8}


def test_thousand_servers_are_drained_in_few_calls(haproxy: FakeHaproxy, make: Callable[..., PortGate]) -> None:
    for number in range(1000):
        haproxy.add(f"many-{number}", 9000 + number)
    assert len(make().hold({9000 + number: "app" for number in range(1000)})) == 1000


# --- in flight


def peers(number: int) -> Connections:
    return Connections(frozenset(f"10.0.0.1:{port}" for port in range(number)))


@pytest.mark.parametrize(
    ("scur", "qcur", "idle", "connected", "left"),
    [
        (0, 0, 0, 0, 0),
        (0, 0, 5, 5, 0),
        (2, 0, 3, 5, 2),
        (1, 2, 0, 1, 3),
        (0, 0, 0, 3, 3),
        (0, 0, 4, 5, 1),
        (2, 0, 5, 3, 2),
    ],
    ids=["nothing", "a pool", "in flight", "queued", "before a reload", "past HAProxy", "closed meanwhile"],
)
def test_in_flight_counts_no_idle_pool(
    haproxy: FakeHaproxy, make: Callable[..., PortGate], scur: int, qcur: int, idle: int, connected: int, left: int
) -> None:
    gate = make()
    gate.hold({8000: "app"}, [8000])
    haproxy.servers["a"].update(scur=scur, qcur=qcur, idle=idle)
    assert gate.in_flight({8000: peers(connected)}) == {8000: left}


def test_in_flight_of_open_port_is_kernels_count(haproxy: FakeHaproxy, make: Callable[..., PortGate]) -> None:
    gate = make()
    gate.hold({})
    haproxy.servers["a"].update(idle=4)
    assert gate.in_flight({8000: peers(4)}) == {8000: 4}


# --- what goes wrong, in sentences


def test_check_requires_level_admin_and_changes_nothing(haproxy: FakeHaproxy, make: Callable[..., PortGate]) -> None:
    make().check()
    assert haproxy.actions == []
    haproxy.level = "operator"
    with pytest.raises(GatePermissionError, match=r"has the level operator, .*Fix: `stats socket .* level admin`"):
        make().check()


def test_lowered_socket_level_is_a_permission_error(haproxy: FakeHaproxy, make: Callable[..., PortGate]) -> None:
    haproxy.level = "user"
    with pytest.raises(GatePermissionError, match="has the level lower, so no server can be drained"):
        make().hold({8000: "app"})


def test_control_characters_in_an_answer_are_escaped(haproxy: FakeHaproxy, make: Callable[..., PortGate]) -> None:
    haproxy.level = "op\x1b[2J"
    with pytest.raises(GatePermissionError, match=r"has the level op\\x1b\[2J, so"):
        make().check()


def test_missing_backend_error_names_the_existing_ones(make: Callable[..., PortGate]) -> None:
    with pytest.raises(GateError, match=r"has no backend 'web', only: app, other. Fix: correct gate.backend_name"):
        make("web").check()


def test_port_without_server_fails_after_the_rest(haproxy: FakeHaproxy, make: Callable[..., PortGate]) -> None:
    gate = make()
    since = gate.hold({8000: "app"})
    selected = r"no server of this host with port 8007, only: a \(127.0.0.1:8000\), b.* Fix: "
    with pytest.raises(PartlyClosedError, match=selected) as caught:
        gate.hold({8000: "app", 8007: "app"})
    assert haproxy.states() == {"a": 8, "b": 0}
    assert caught.value.closed == {tcp(port): at for port, at in since.items()}


def test_server_that_does_not_obey_is_named(haproxy: FakeHaproxy, make: Callable[..., PortGate]) -> None:
    haproxy.deaf.add("a")
    with pytest.raises(PartlyClosedError, match="did not change the state of a: it will not") as caught:
        make().hold({8000: "app", 8001: "app"})
    assert haproxy.states() == {"a": 0, "b": 8}
    assert list(caught.value.closed) == [tcp(8001)]


def test_missing_socket_is_an_error(make: Callable[..., PortGate], haproxy: FakeHaproxy) -> None:
    haproxy.path.unlink()
    with pytest.raises(
        GateError,
        match=r"There is no HAProxy socket .*admin.sock. Fix: start HAProxy; if it is running, correct gate.socket, or",
    ):
        make().check()


def test_stopped_haproxy_is_an_error(make: Callable[..., PortGate], tmp_path: Path) -> None:
    (tmp_path / "admin.sock").unlink()
    with socket.socket(socket.AF_UNIX) as unserved:
        unserved.bind(str(tmp_path / "admin.sock"))
    with pytest.raises(GateError, match="HAProxy is not running: nothing listens"):
        make().check()


def test_socket_of_another_user_is_a_permission_error(haproxy: FakeHaproxy) -> None:
    haproxy.path.chmod(0o600)
    let_in(haproxy.path)
    said = error_as_nobody(RuntimeApi(str(haproxy.path), "app").servers)
    assert said.startswith("GatePermissionError: ")
    assert "The listener's user may not open HAProxy's socket" in said


def test_hanging_haproxy_is_an_error_at_the_deadline(haproxy: FakeHaproxy) -> None:
    haproxy.hangs = True
    begun = time.monotonic()
    with pytest.raises(GateError, match=r"did not answer on .* within 0.2 s"):
        RuntimeApi(str(haproxy.path), "app", timeout=0.2).servers()
    assert time.monotonic() - begun < 1.0
