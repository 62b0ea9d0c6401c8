"""What every backend of netfilter promises, against this kernel: real rules and real connections in the test run's own
network namespace. ``test_gate_iptables`` has what is iptables' alone."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from supervisor_rolling.core.errors import GateError, GatePermissionError
from supervisor_rolling.core.policy import BYPASS_ADDRESS, BYPASS_MARK, GatePolicy
from supervisor_rolling.listener.contracts import Gate
from supervisor_rolling.listener.gates import make_gate
from supervisor_rolling.listener.gates.iptables import IptablesGate, chain_of
from supervisor_rolling.listener.gates.nftables import NftablesGate, table_of
from supervisor_rolling.listener.system import libnftables
from supervisor_rolling.listener.system.libnftables import Nftables
from tests.support.endpoints import (
    LEGACY,
    LOOPBACKS,
    Clock,
    connect,
    fail_with,
    flush,
    is_open,
    iter_bytes,
    listen,
    listen_on_both,
    open_addresses,
    run,
)
from tests.support.port_gate import PortGate
from tests.support.waiting import eventually, stays

OWNER = "unix:///run/supervisor.sock"
TABLE = ("inet", table_of(OWNER))


@dataclass(frozen=True)
class Kind:
    """A backend and a method of it."""

    backend: str
    method: str = "reject"

    def __str__(self) -> str:
        return f"{self.backend} {self.method}"


KINDS = [Kind("iptables"), Kind("iptables", "redirect"), Kind("nftables")]


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Every test begins and ends without rules."""
    flush()
    yield
    flush()


def nft(*arguments: str) -> str:
    return run("nft", *arguments)


def all_rules() -> list[list[str]]:
    """All rules of netfilter, without the times in them, which run."""
    legacy = [run(command, "-w", "-t", table, "-S") for command in LEGACY for table in ("filter", "nat")]
    return [
        re.sub(r"--datestop \S+ |expires \S+ ", "", text).splitlines() for text in [*legacy, nft("list", "ruleset")]
    ]


def gate(kind: Kind, lease: float = 30.0, bypass: str = "mark", owner: str = OWNER, **options: Any) -> PortGate:
    policy = GatePolicy(kind.backend, kind.method, lease, bypass)
    clock = options.pop("clock", time.monotonic)
    return (
        PortGate(IptablesGate(policy, owner, clock, **options))
        if kind.backend == "iptables"
        else nft_gate(policy, owner, clock)
    )


def nft_gate(
    policy: GatePolicy = GatePolicy("nftables"),  # noqa: B008  # frozen
    owner: str = OWNER,
    clock: Callable[[], float] = time.monotonic,
) -> PortGate:
    return PortGate(NftablesGate(policy, owner, clock))


# --- closed and open


@pytest.mark.parametrize("bypass", ["mark", "address"])
def test_closed_port_alone_refuses_connections_of_both_families(keep: ExitStack, kind: Kind, bypass: str) -> None:
    closed, other = listen_on_both(keep), listen_on_both(keep)
    held = gate(kind, bypass=bypass).hold({closed: "web, app-1"})
    assert list(held) == [closed]
    assert open_addresses(closed) == []
    assert open_addresses(other) == LOOPBACKS


def test_port_opens_while_another_stays_closed(keep: ExitStack, kind: Kind) -> None:
    one, two = listen_on_both(keep), listen_on_both(keep)
    subject = gate(kind)
    subject.hold({one: "one", two: "two"})
    subject.hold({two: "two"})
    assert open_addresses(one) == LOOPBACKS
    assert open_addresses(two) == []
    subject.hold({})
    assert open_addresses(two) == LOOPBACKS


@pytest.mark.parametrize("address", LOOPBACKS)
def test_existing_connection_continues_both_ways_during_an_upload(keep: ExitStack, kind: Kind, address: str) -> None:
    server, port = listen(keep, address)
    client = keep.enter_context(connect(address, port))
    accepted = keep.enter_context(server.accept()[0])
    client.sendall(b"x" * 100_000)
    subject = gate(kind)
    subject.hold({port: "upload"})
    assert not is_open(address, port)
    client.sendall(b"y" * 100_000)
    received = b"".join(iter_bytes(accepted, 200_000))
    accepted.sendall(b"thank you")
    assert received == b"x" * 100_000 + b"y" * 100_000
    assert client.recv(100) == b"thank you"
    subject.hold({})
    client.sendall(b"z")
    assert accepted.recv(1) == b"z"


@pytest.mark.parametrize("address", LOOPBACKS)
def test_marked_socket_passes_to_one_loopback_address(keep: ExitStack, kind: Kind, address: str) -> None:
    _, port = listen(keep, address)
    gate(kind).hold({port: "warming"})
    assert not is_open(address, port)
    assert not is_open(address, port, mark=1)
    assert is_open(address, port, mark=BYPASS_MARK)


def test_bypass_address_passes_its_source_and_no_mark(keep: ExitStack, kind: Kind) -> None:
    port = listen_on_both(keep)
    gate(kind, bypass="address").hold({port: "warming"})
    assert is_open("127.0.0.1", port, source=BYPASS_ADDRESS)
    assert not is_open("127.0.0.1", port, mark=BYPASS_MARK)
    assert not is_open("::1", port, mark=BYPASS_MARK)


def test_bypass_mark_refuses_the_bypass_address(keep: ExitStack, kind: Kind) -> None:
    port = listen_on_both(keep)
    gate(kind).hold({port: "warming"})
    assert not is_open("127.0.0.1", port, source=BYPASS_ADDRESS)
    assert not is_open(BYPASS_ADDRESS, port)


def test_lease_ends_by_itself_at_its_time(keep: ExitStack, kind: Kind) -> None:
    port = listen_on_both(keep)
    began = time.time()
    gate(kind, lease=1.0).hold({port: "x"})
    assert open_addresses(port) == []
    assert eventually(lambda: open_addresses(port) == LOOPBACKS)
    assert 0.99 <= time.time() - began < 3.5


def test_since_stays_while_the_port_is_closed(kind: Kind) -> None:
    clock, wall = Clock(100.0), Clock(1893456000.0)
    subject = gate(kind, clock=clock, wall=wall)
    assert subject.hold({8000: "x"}) == {8000: 100.0}
    clock.now, wall.now = 115.0, wall.now + 15
    assert subject.hold({8000: "x", 8001: "y"}) == {8000: 100.0, 8001: 115.0}
    clock.now, wall.now = 130.0, wall.now + 15
    assert subject.hold({8001: "y"}) == {8001: 115.0}
    assert subject.hold({8000: "x", 8001: "y"}) == {8000: 130.0, 8001: 115.0}


def test_since_is_read_after_the_commit(keep: ExitStack, kind: Kind) -> None:
    port = listen_on_both(keep)
    observed: list[list[str]] = []

    def clock() -> float:
        observed.append(open_addresses(port))
        return len(observed) - 1.0

    held = gate(kind, clock=clock).hold({port: "x"})
    assert observed[int(held[port])] == []


def test_new_gate_takes_over_without_opening_a_port(keep: ExitStack, kind: Kind) -> None:
    port, other = listen_on_both(keep), listen_on_both(keep)
    gate(kind).hold({port: "x", other: "y"})
    held = gate(kind, clock=Clock(500.0)).hold({port: "x"})
    assert held == {port: 500.0}
    assert open_addresses(port) == []
    assert open_addresses(other) == LOOPBACKS


@pytest.mark.parametrize("bypass", ["mark", "address"])
def test_check_passes_and_leaves_nothing(kind: Kind, bypass: str) -> None:
    before = all_rules()
    gate(kind, bypass=bypass).check()
    assert all_rules() == before


def test_renewal_keeps_a_port_closed_without_a_gap(keep: ExitStack, kind: Kind) -> None:
    port = listen_on_both(keep)
    subject = gate(kind, lease=1.0)
    held = subject.hold({port: "x"})

    def is_closed() -> bool:
        return subject.hold({port: "x"}) == held and open_addresses(port) == []

    assert stays(is_closed, seconds=3.2, every=0.002), "more than the lease and its rounding"


FLUSHES = {
    "iptables": ["iptables-legacy -w -F", "ip6tables-legacy -w -F"],
    "nftables": [
        "nft flush ruleset",
        "nft flush chain {table} input",
        "nft flush set {table} closed",
        "nft delete table {table}",
        "nft add table {table} {{ flags dormant ; }}",
    ],
}


@pytest.mark.parametrize(
    ("backend", "command"), [(backend, command) for backend, commands in FLUSHES.items() for command in commands]
)
def test_flushed_rules_are_restored_and_since_begins_anew(keep: ExitStack, backend: str, command: str) -> None:
    port, clock = listen_on_both(keep), Clock(100.0)
    subject = gate(Kind(backend), clock=clock)
    subject.hold({port: "x"})
    run(*command.format(table=" ".join(TABLE)).split())
    clock.now = 101.0
    assert open_addresses(port) != []
    assert subject.hold({port: "x"}) == {port: 101.0}
    assert open_addresses(port) == []
    assert subject.hold({port: "x"}) == {port: 101.0}


MISSING = {
    "iptables": f"iptables-legacy -w -D {chain_of(OWNER)} 2",
    "nftables": f"nft delete element {' '.join(TABLE)} closed {{ 8001 }}",
}


@pytest.mark.parametrize("backend", MISSING)
def test_one_opened_port_restarts_only_its_own_since(backend: str) -> None:
    clock = Clock(100.0)
    subject = gate(Kind(backend), clock=clock)
    subject.hold({8000: "x", 8001: "y"})
    run(*MISSING[backend].split())
    clock.now = 101.0
    assert subject.hold({8000: "x", 8001: "y"}) == {8000: 100.0, 8001: 101.0}


PASSES = {
    "iptables": f"iptables-legacy -w -I {chain_of(OWNER)} -j RETURN",
    "nftables": f"nft insert rule {' '.join(TABLE)} input accept",
}


@pytest.mark.parametrize("backend", PASSES)
def test_accepting_rule_above_ours_counts_as_gap(keep: ExitStack, backend: str) -> None:
    port, clock = listen_on_both(keep), Clock(100.0)
    subject = gate(Kind(backend), clock=clock)
    subject.hold({port: "x"})
    run(*PASSES[backend].split())
    clock.now = 101.0
    assert open_addresses(port) != []
    assert subject.hold({port: "x"}) == {port: 101.0}
    assert open_addresses(port) == []


FOREIGN = [
    "iptables-legacy -w -A INPUT -s 10.0.0.1 -j ACCEPT",
    "iptables-legacy -w -N THEIRS",
    "iptables-legacy -w -A INPUT -p tcp --syn -j THEIRS",
    "iptables-legacy -w -t nat -A OUTPUT -d 10.0.0.3 -p tcp -j REDIRECT --to-ports 80",
    "nft add table inet theirs",
    "nft add chain inet theirs input { type filter hook input priority 0 ; }",
    "nft add rule inet theirs input ip saddr 10.0.0.2 drop",
    "nft add set inet theirs closed { type inet_service ; }",
    "nft add element inet theirs closed { 8000 }",
]


def test_hold_of_nothing_restores_the_foreign_rules(kind: Kind) -> None:
    for command in FOREIGN:
        run(*command.split())
    before = all_rules()
    subject = gate(kind)
    subject.hold({8000: "x", 8001: "y"})
    assert all_rules() != before
    subject.hold({8001: "y"})
    assert subject.hold({}) == {}
    assert all_rules() == before
    assert subject.hold({}) == {}


@pytest.mark.parametrize(
    "foreign",
    [
        ["iptables-legacy -w -I INPUT -j ACCEPT", "ip6tables-legacy -w -I INPUT -j ACCEPT"],
        [
            "nft add table inet theirs",
            "nft add chain inet theirs early { type filter hook input priority -200 ; policy accept ; }",
            "nft add rule inet theirs early accept",
        ],
    ],
    ids=["iptables", "nftables"],
)
def test_foreign_accept_opens_no_port_closed_by_nftables(keep: ExitStack, foreign: list[str]) -> None:
    port = listen_on_both(keep)
    nft_gate().hold({port: "x"})
    for command in foreign:
        run(*command.split())
    assert open_addresses(port) == []


def test_gates_of_two_owners_are_independent(keep: ExitStack, kind: Kind) -> None:
    one, two = listen_on_both(keep), listen_on_both(keep)
    before = all_rules()
    first, second = gate(kind, owner="one"), gate(kind, owner="two")
    held = first.hold({one: "x"})
    second.hold({two: "y"})
    assert first.hold({one: "x"}) == held
    assert open_addresses(one) == open_addresses(two) == []
    second.hold({})
    assert open_addresses(one) == []
    assert open_addresses(two) == LOOPBACKS
    first.hold({})
    assert all_rules() == before


_UNPRIVILEGED = """
import os, sys, time
from supervisor_rolling.core.errors import GatePermissionError
from supervisor_rolling.listener.gates import make_gate
from supervisor_rolling.core.policy import GatePolicy
from tests.support.port_gate import PortGate
import json  # before: the user nobody may not be able to read where the interpreter is
import supervisor_rolling.listener.gates.iptables
import supervisor_rolling.listener.gates.nftables
if "nobody" in sys.argv:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for backend in ("nftables", "auto"):
    for call in ("check", "hold"):
        try:
            gate = PortGate(make_gate(GatePolicy(backend), "x", time.monotonic))
            gate.check() if call == "check" else gate.hold({8000: "x"})
        except GatePermissionError as error:
            print(error)
print("alive")
"""


@pytest.mark.parametrize("nobody", [False, True])
def test_without_rights_every_call_raises_a_permission_error(nobody: bool) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _UNPRIVILEGED, *(["nobody"] if nobody else [])]
    prefix = [] if nobody else ["setpriv", "--bounding-set=-net_admin"]
    done = subprocess.run([*prefix, *command], check=False, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert (done.returncode, len(lines)) == (0, 5)
    assert set(done.stderr.splitlines()) <= {"Operation not permitted (you must be root)"}, "libnftables' own words"
    assert all("run it as root; in a container, add NET_ADMIN" in line for line in lines[:4])
    assert all("No backend can close ports on this host. iptables: " in line for line in lines[2:4])


# --- nftables


def test_table_is_as_documented_with_the_comment() -> None:
    nft_gate().hold({8000: "web, app-1", 8001: "€" * 300})
    long = "?" * 127
    assert re.sub(r"expires \S+ ", "", nft("list", "ruleset")) == (
        f"table inet {TABLE[1]} {{\n"
        "\tset closed {\n\t\ttype inet_service\n\t\tflags timeout\n\t\telements = { "
        f'8000 timeout 30s comment "web, app-1", 8001 timeout 30s comment "{long}" }}\n\t}}\n\n'
        "\tchain input {\n\t\ttype filter hook input priority filter - 10; policy accept;\n"
        "\t\ttcp flags syn / fin,syn,rst,ack tcp dport @closed meta mark != 0x726f6c6c reject with tcp reset\n\t}\n}\n"
    )


def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that go to the library from now on, by their first words."""
    words: list[str] = []
    real = Nftables.run

    def run_and_note(self: Nftables, *commands: str) -> list[dict[str, Any]]:
        words.append(" ".join(command.split()[0] for command in commands))
        return real(self, *commands)

    monkeypatch.setattr(Nftables, "run", run_and_note)
    return words


def test_change_is_one_transaction_and_unchanged_only_lists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject = nft_gate()
    subject.hold({8000: "x"})
    words = asked(monkeypatch)
    subject.hold({8000: "another comment"})
    assert words == ["list"]
    subject.hold({8000: "x", 8001: "y"})
    assert words == ["list", "list", "table add delete add", "list"]


@pytest.mark.parametrize(("left", "is_renewed"), [(20.9, False), (19.9, True), (31.5, True)])
def test_lease_is_renewed_after_a_third(left: float, is_renewed: bool) -> None:
    subject = nft_gate()
    subject.hold({8000: "x"})
    where = f"element {' '.join(TABLE)} closed"
    nft(f"delete {where} {{ 8000 }}; add {where} {{ 8000 timeout 60s expires {round(left * 1000)}ms }}")
    subject.hold({8000: "x"})
    assert ("timeout 30s" in nft("list", "ruleset")) == is_renewed


def test_port_without_a_lease_is_corrected() -> None:
    subject = nft_gate()
    subject.hold({8000: "x"})
    where = f"element {' '.join(TABLE)} closed"
    nft(f"delete {where} {{ 8000 }}; add {where} {{ 8000, 8001 }}")
    assert list(subject.hold({8000: "x"})) == [8000]
    listed = nft("list", "ruleset")
    assert ("8001" in listed, "8000 timeout 30s" in listed) == (False, True)


def test_lease_that_ends_during_renewal_restarts_since(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(100.0)
    subject = nft_gate(clock=clock)
    subject.hold({8000: "x"})
    real = Nftables.run

    def slow(self: Nftables, *commands: str) -> list[dict[str, Any]]:
        clock.now += 31.0 if len(commands) > 1 else 0.0
        return real(self, *commands)

    monkeypatch.setattr(Nftables, "run", slow)
    assert list(subject.hold({8000: "x", 8001: "y"}).values()) == [131.0, 131.0]


def test_flushed_and_restored_rules_count_as_a_gap() -> None:
    clock = Clock(100.0)
    subject = nft_gate(clock=clock)
    subject.hold({8000: "x"})
    saved, handles = nft("list", "ruleset"), nft("-a", "list", "chain", *TABLE, "input")
    nft("flush", "ruleset")
    nft(saved)
    clock.now = 101.0
    again = nft("-a", "list", "chain", *TABLE, "input")
    assert again.splitlines()[3] == handles.splitlines()[3], "the rule has even the same handle"
    assert subject.hold({8000: "x"}) == {8000: 101.0}


@pytest.mark.parametrize(
    "change",
    [
        "add chain {table} more",
        "add set {table} more {{ type ipv4_addr ; }}",
        "add counter {table} more",
        "add rule {table} input counter accept",
        "delete table {table} ; add table {table} ; add set {table} closed {{ type ipv4_addr ; }}",
        "delete table {table} ; add table {table} ; "
        "add chain {table} input {{ type filter hook output priority 0 ; policy drop ; }}",
        "add chain {table} input {{ policy drop ; }}",
    ],
)
def test_changed_table_is_corrected(keep: ExitStack, change: str) -> None:
    port = listen_on_both(keep)
    subject = nft_gate()
    subject.hold({port: "x"})
    right = all_rules()
    nft(change.format(table=" ".join(TABLE)))
    assert all_rules() != right
    assert list(subject.hold({port: "x"})) == [port]
    assert all_rules() == right
    assert open_addresses(port) == []


@contextlib.contextmanager
def connecting_to(port: int) -> Iterator[Callable[[], int]]:
    """Connect to a port all the time. Gives the number of attempts so far; the test fails where one succeeded."""
    over, attempted, came_in = threading.Event(), [0], []

    def connect_always() -> None:
        while not over.is_set():
            attempted[0] += 1
            if is_open("127.0.0.1", port):
                came_in.append(attempted[0])

    thread = threading.Thread(target=connect_always)
    thread.start()
    try:
        yield lambda: attempted[0]
    finally:
        over.set()
        thread.join()
    assert came_in == []


def test_renewals_and_new_gates_let_no_client_in(keep: ExitStack) -> None:
    port = listen_on_both(keep)
    nft_gate().hold({port: "x"})
    with connecting_to(port) as attempted:
        end = time.monotonic() + 90.0  # 20 s were too few on a busy host
        rounds = 0
        while (attempted() < 2000 or rounds < 200) and time.monotonic() < end:
            subject = nft_gate()
            for number in range(5):
                subject.hold({port: "x", 1 + (rounds + number) % 2: "y"})
            rounds += 1
    assert (attempted() >= 2000, rounds >= 200) == (True, True), (attempted(), rounds)


def test_failed_change_leaves_nothing_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = nft_gate()
    with pytest.raises(GateError, match=r"Cannot change table inet .*It will be tried again"):
        subject.hold({8000: "x", 99999: "no such port"})
    assert nft("list", "ruleset") == ""
    assert list(subject.hold({8000: "x"})) == [8000]
    with pytest.raises(GateError):
        subject.hold({8000: "x", 99999: "no such port"})
    assert list(subject.hold({8000: "x"})) == [8000]


def test_lost_change_that_reports_success_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = nft_gate()
    real = Nftables.run
    with monkeypatch.context() as patched:
        patched.setattr(Nftables, "run", lambda self, *commands: real(self, *commands) if len(commands) == 1 else [])
        assert subject.hold({8000: "x"}) == {}
    assert list(subject.hold({8000: "x"})) == [8000]


def test_missing_kernel_part_names_the_module_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = nft_gate()
    subject.gate._rules = ["tcp dport @closed jump nowhere"]  # as if that were the module for reject
    for call in (subject.check, lambda: subject.hold({8000: "x"})):
        with pytest.raises(GatePermissionError, match=r"No such file.*modprobe.*nft_reject_inet"):
            call()
    assert nft("list", "ruleset") == ""


def test_beside_a_constant_writer_no_change_is_lost(keep: ExitStack) -> None:
    port, subject, holds, writes = listen_on_both(keep), nft_gate(), 0, 150
    nft("add table inet theirs; add chain inet theirs mine")
    writer = threading.Thread(
        target=lambda: [nft(f"add rule inet theirs mine tcp dport {number} accept") for number in range(1, writes + 1)]
    )
    writer.start()
    while writer.is_alive() or holds < 250:
        closed = {port: "x", 9: "y"} if holds % 2 else {port: "x"}
        assert subject.hold(closed).keys() == closed.keys()
        holds += 1
    writer.join()
    found = [
        line.split()[2] for line in nft("list", "chain", "inet", "theirs", "mine").splitlines() if "accept" in line
    ]
    assert found == [str(number) for number in range(1, writes + 1)]


def test_dropped_gate_closes_its_file_descriptors() -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    nft_gate().check()
    before = open_files()
    for _ in range(20):
        nft_gate().check()
    assert open_files() == before


# --- make_gate


@pytest.mark.parametrize(("backend", "kind_of_gate"), [("iptables", IptablesGate), ("nftables", NftablesGate)])
def test_make_gate_follows_the_policy(backend: str, kind_of_gate: type[Gate]) -> None:
    assert isinstance(make_gate(GatePolicy(backend), OWNER, time.monotonic), kind_of_gate)
    with pytest.raises(GateError, match=r"no backend 'pf'.*auto, iptables, nftables"):
        make_gate(GatePolicy(backend="pf"), OWNER, time.monotonic)


def forget_iptables(monkeypatch: pytest.MonkeyPatch) -> None:
    """python-iptables is not installed."""
    for name in ("iptables", "iptables_chain", "iptables_rules"):
        monkeypatch.delitem(sys.modules, f"supervisor_rolling.listener.gates.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "iptc", None)


def test_auto_without_python_iptables_is_nftables_unless_redirect(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "supervisor_rolling")
    forget_iptables(monkeypatch)
    assert isinstance(make_gate(GatePolicy(), OWNER, time.monotonic), NftablesGate)
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []
    assert "gate.backend auto: nftables, because python-iptables is not installed" in caplog.text
    with pytest.raises(GatePermissionError, match=r"^The iptables backend cannot be loaded"):
        make_gate(GatePolicy(method="redirect"), OWNER, time.monotonic)


def test_without_both_libraries_error_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_iptables(monkeypatch)
    monkeypatch.setattr(libnftables, "LIBRARY", "libnftables.so.99")
    with pytest.raises(GatePermissionError, match=r"pip install python-iptables.*install libnftables .*libnftables1"):
        make_gate(GatePolicy(), OWNER, time.monotonic)


def test_busy_lock_does_not_decide_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IptablesGate, "check", fail_with(GateError("pid 7 holds the lock")))
    with pytest.raises(GateError, match="holds the lock") as caught:
        make_gate(GatePolicy(), OWNER, time.monotonic)
    assert type(caught.value) is GateError


_ON_SUCH_A_KERNEL = """
import time
from supervisor_rolling.core.errors import GateError
from supervisor_rolling.listener.gates import make_gate
from supervisor_rolling.core.policy import GatePolicy
from tests.support.port_gate import PortGate
try:
    gate = PortGate(make_gate(GatePolicy(), "x", time.monotonic))
    print(type(gate.gate).__name__, list(gate.hold({8000: "x"})), gate.hold({}))
except GateError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("lacks", "said"),
    [
        ("xtables", r"NftablesGate \[8000\] {}"),
        ("nftables", r"IptablesGate \[8000\] {}"),
        ("xtables,nftables", r"GatePermissionError No backend .*modprobe -a iptable_filter.*modprobe nf_tables"),
    ],
)
def test_auto_takes_what_the_kernel_has(lacks: str, said: str) -> None:
    found = run(
        sys.executable,
        "-m",
        "tests.support.missing_libraries",
        lacks,
        sys.executable,
        "-W",
        "ignore",
        "-c",
        _ON_SUCH_A_KERNEL,
    )
    assert re.match(said, found), found


_OURS = "nft add table inet supervisor-rolling-1f2e3d4c"
_WITH_A_FIREWALL = "import sys, subprocess; subprocess.run(sys.argv[1], shell=True, check=True)\n" + _ON_SUCH_A_KERNEL


@pytest.mark.parametrize(
    ("firewall", "chosen"),
    [
        ("true", "IptablesGate"),
        ("nft add table ip filter", "NftablesGate"),
        ("iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT", "NftablesGate"),
        (f"{_OURS}; {_OURS}-keepalive", "IptablesGate"),
        ("nft add table ip filter; iptables-legacy -S", "IptablesGate"),
    ],
)
def test_auto_goes_by_the_firewall_of_the_host(firewall: str, chosen: str) -> None:
    found = run("unshare", "--net", sys.executable, "-W", "ignore", "-c", _WITH_A_FIREWALL, firewall)
    assert f"{chosen} [8000] {{}}" in found


def test_auto_is_iptables_where_nft_tables_are_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libnftables.Nftables, "run", fail_with(libnftables.UnreadableAnswerError("no JSON")))
    assert isinstance(make_gate(GatePolicy(), OWNER, time.monotonic), IptablesGate)


def test_iptables_needs_no_libnftables() -> None:
    program = (
        "from supervisor_rolling.listener.system import libnftables; libnftables.LIBRARY = 'libnftables.so.99'\n"
        + _ON_SUCH_A_KERNEL
    )
    assert run(sys.executable, "-W", "ignore", "-c", program).startswith("IptablesGate [8000]")
