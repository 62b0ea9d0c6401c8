"""nginx and its users on another host, IPv4 and IPv6: rollouts and crashes under load, and nothing leaks past the gate.

The other host is a network namespace at the end of a cable; supervisord, the listener and the processes are here. What
reached a process is in its own journal. ``localhost`` is the same with nginx here, which goes by both families.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.hosts import Host
from tests.support.light_app import JOURNAL, WARMS, Entry, read_journal
from tests.support.look import (
    assert_no_failures,
    pids,
    refuses,
    rolling,
    rules,
    users,
    wait_ended,
    wait_open,
)
from tests.support.stack import Stack
from tests.support.variants import first

HELD = 8000
"""The port of the process that goes first and is looked at closely."""

WARMUP = {
    "timeout": 10,
    "ready": "/health",
    "headers": {WARMS: "1"},
    "requests": [{"method": "POST", "path": "/slow"}, "/"],
}
"""With half a second to try the gate from outside."""

ON_ITS_WAY = 0.5
"""Seconds that a request may take which was let in before its gate was closed, until its process writes it down."""

HOSTS_FILE = "/etc/hosts"


@dataclass
class Place:
    """A stack and where its users are. ``gates``: the addresses at which they could reach its processes."""

    stack: Stack
    gates: tuple[str, str]

    def journal(self) -> list[Entry]:
        return read_journal(self.stack.directory / "journal")

    def is_refused(self, port: int = HELD) -> tuple[bool, bool]:
        """Whether the users would be refused, by IPv4 and by IPv6."""
        with self.stack.setup.elsewhere():
            return refuses(port, self.gates[0]), refuses(port, self.gates[1])

    def connected(self, address: str) -> socket.socket:
        with self.stack.setup.elsewhere():
            return socket.create_connection((address, HELD))


class Way(NamedTuple):
    """``binds``: where the processes listen; ``goes``: what nginx calls their host; ``peers``: whom they then see.
    ``.1`` stands for the near end of the cable, ``.2`` for the far one."""

    binds: str
    goes: str
    peers: tuple[str, ...]


WAYS = {
    "v4": Way("{home.v4} {home.v6}", "{home.v4}", ("{away.v4}",)),
    "v6": Way("{home.v4} {home.v6}", "[{home.v6}]", ("{away.v6}",)),
    "mapped": Way("::", "{home.v4}", ("::ffff:{away.v4}",)),
    "localhost": Way("127.0.0.1 ::1", "localhost", ("127.0.0.1", "::1")),
}


@pytest.fixture
def other() -> Iterator[Host]:
    with Host() as host:
        yield host


@pytest.fixture
def localhost(tmp_path: Path) -> Iterator[None]:
    """The name has both addresses, whatever this machine's own file says; the mount is this test run's alone."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n::1 localhost\n", encoding="utf-8")
    subprocess.run(["mount", "--bind", str(hosts), HOSTS_FILE], check=True)
    yield
    subprocess.run(["umount", HOSTS_FILE], check=True)


@pytest.fixture
def begin(light: Callable[..., Stack], other: Host, localhost: None) -> Callable[..., Place]:
    """Starts a stack with clients on that way."""

    def begin(way: str, **given: Any) -> Place:
        binds, goes, _ = WAYS[way]
        setup: dict[str, Any] = {
            "address": binds.format(home=other.home),
            "host": goes.format(home=other.home),
            "balance": "least_conn;",
            "program": f'environment={JOURNAL}="%(here)s/journal"',
        }
        is_far = way != "localhost"
        if is_far:
            setup["elsewhere"] = other.there
        stack = light(setup=setup, **{"warmup": WARMUP, **given})
        return Place(stack, other.home if is_far else ("127.0.0.1", "::1"))

    return begin


def peers_of(way: str, other: Host) -> set[str]:
    return {peer.format(away=other.away) for peer in WAYS[way].peers}


def assert_warm_before_users(journal: list[Entry], pid: int) -> None:
    """A process met no user until all of its warm-up had come."""
    own = [entry for entry in journal if entry.pid == pid]
    warmed = [entry.at for entry in own if entry.warms]
    came = [entry.at for entry in own if not entry.warms and entry.path != "/health"]
    assert len(warmed) >= 3
    assert came, "no user came to it at all"
    assert max(warmed) < min(came)


class Refusals:
    """Asks for as long as the block lasts whether users are refused; ``observed`` has when and what."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.observed: list[tuple[float, tuple[bool, bool]]] = []

    def __enter__(self) -> Refusals:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join()

    def between(self, start: float, end: float) -> set[tuple[bool, bool]]:
        return {refused for at, refused in self.observed if start < at < end}

    def _ask(self) -> None:
        while not self._over.wait(0.02):
            began = time.monotonic()
            self.observed.append((began, self._place.is_refused()))


@pytest.mark.parametrize("way", first(1, WAYS))
def test_remote_balancer_rollout_fails_no_request(begin: Callable[..., Place], other: Host, way: str):
    place = begin(way)
    stack, before = place.stack, pids(place.stack)
    with users(stack) as load, Refusals(place) as refusals:
        held = place.connected(place.gates[1] if way == "v6" else place.gates[0])
        with held:
            assert stack.ctl("rolling_restart", "app", "--no-wait").returncode == 0
            stack.wait_until(lambda: place.is_refused() == (True, True), 10.0, "both families are refused")
            closed = time.monotonic() + ON_ITS_WAY
            stack.wait_until(lambda: len(others_since(place, closed)) > 40, 20.0, "the others serve the users")
            assert rolling(stack)["processes"][0]["stage"] == "draining"
            released = time.monotonic()
        rollout = wait_ended(stack)
    journal, after = place.journal(), pids(stack)
    assert rollout["status"] == "done", rollout["why"]
    assert_no_failures(load.report())
    assert not set(before) & set(after)
    assert {entry.peer for entry in journal if not entry.warms and entry.path != "/health"} >= peers_of(way, other)
    assert [entry for entry in journal if entry.pid == before[0] and entry.at > closed] == []
    assert refusals.between(closed, released) == {(True, True)}
    for pid in after:
        assert_warm_before_users(journal, pid)
    warmed = [entry.at for entry in journal if entry.pid == after[0] and entry.warms]
    assert refusals.between(warmed[0], warmed[-1]) == {(True, True)}
    assert rules() == []


def others_since(place: Place, at: float) -> list[Entry]:
    return [entry for entry in place.journal() if entry.at > at and entry.port != HELD and not entry.warms]


@pytest.mark.parametrize("way", first(1, reversed(WAYS)))
def test_remote_balancer_crash_is_warm_before_any_request(begin: Callable[..., Place], other: Host, way: str):
    place = begin(way)
    stack = place.stack
    with users(stack, posts=0.0) as load, Refusals(place) as refusals:
        old = pids(stack)[0]
        os.kill(old, signal.SIGKILL)
        stack.wait_until(lambda: pids(stack)[0] not in (0, old), 20.0, "another runs")
        wait_open(stack)
        new = pids(stack)[0]
        stack.wait_until(lambda: users_of(place, new) > 5, 20.0, "users come to it")
    assert_no_failures(load.report())
    journal = place.journal()
    assert_warm_before_users(journal, new)
    warmed = [entry.at for entry in journal if entry.pid == new and entry.warms]
    assert refusals.between(warmed[0], warmed[-1]) == {(True, True)}


def users_of(place: Place, pid: int) -> int:
    return sum(entry.pid == pid and not entry.warms for entry in place.journal())
