"""IptablesGate against this kernel, in the test run's own network namespace: what it alone does. ``test_gates`` has
what all backends do."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import iptc
import pytest

from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.errors import GateBusyError, GateError, GatePermissionError
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.listener.gates import make_gate
from supervisor_rolling.listener.gates.iptables import IptablesGate, chain_of, ipv6_in_use
from supervisor_rolling.listener.gates.iptables_chain import PROBE_CHAIN
from supervisor_rolling.listener.gates.iptables_rules import MAX_COMMENT
from supervisor_rolling.listener.system.rule_names import clean_comment
from tests.support.endpoints import (
    LEGACY,
    LOOPBACKS,
    Clock,
    fail_with,
    flush,
    listen_on_both,
    open_addresses,
    run,
)
from tests.support.port_gate import PortGate
from tests.support.waiting import eventually

OWNER = "unix:///run/supervisor.sock"
IPTABLES = dict(zip(LOOPBACKS, LEGACY))
METHODS = ["reject", "redirect"]


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Every test begins and ends without rules."""
    flush()
    yield
    flush()


def rules(address: str = "127.0.0.1", table: str = "filter") -> list[str]:
    return run(IPTABLES[address], "-w", "-t", table, "-S").splitlines()


def timeless(found: list[str]) -> list[str]:
    """The rules without the ends of their leases."""
    return [re.sub(r"--datestop \S+ ", "", rule) for rule in found]


def all_rules() -> list[list[str]]:
    return [rules(address, table) for address in LOOPBACKS for table in ("filter", "nat")]


def gate(
    lease: float = 30.0, method: str = "reject", bypass: str = "mark", owner: str = OWNER, **options: object
) -> PortGate:
    policy = GatePolicy(lease=lease, method=method, bypass=bypass)
    return PortGate(IptablesGate(policy, owner, options.pop("clock", time.monotonic), **options))  # type: ignore[arg-type]  # any


# --- closed and open


def test_redirect_ignores_the_same_port_of_another_host(keep: ExitStack) -> None:
    port = listen_on_both(keep)
    run("ip", "link", "add", "nowhere", "type", "veth", "peer", "noend")  # a SYN is lost there and not refused
    run("ip", "link", "set", "noend", "up")
    keep.callback(run, "ip", "link", "del", "nowhere")
    run("ip", "address", "add", "192.0.2.2/24", "dev", "nowhere")
    run("ip", "link", "set", "nowhere", "up")
    gate(method="redirect").hold({port: "here"})
    with socket.socket() as client:
        client.setblocking(False)
        assert client.connect_ex(("192.0.2.1", port)) == errno.EINPROGRESS
        assert not eventually(lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0, 0.2)


# --- the rules as others see them


def test_rules_are_as_documented_with_the_comment() -> None:
    gate(lease=30.0, wall=Clock(1893456000.2)).hold({8000: "web, app-1"})
    chain = chain_of(OWNER)
    syn = "--tcp-flags FIN,SYN,RST,ACK SYN"
    for address in LOOPBACKS:
        assert rules(address)[3:] == [
            f"-N {chain}",
            f"-A INPUT -p tcp -m tcp {syn} -j {chain}",
            f"-A {chain} -p tcp -m tcp --dport 8000 {syn} -m mark ! --mark 0x726f6c6c -m time --datestop "
            '2030-01-01T00:00:31 -m comment --comment "web, app-1" -j REJECT --reject-with tcp-reset',
        ]


def test_redirect_rules_are_entered_from_prerouting_and_output() -> None:
    gate(method="redirect", bypass="address", wall=Clock(1893456000.2)).hold({8000: "x"})
    chain = chain_of(OWNER)
    syn = "--tcp-flags FIN,SYN,RST,ACK SYN"
    for address, source in (("127.0.0.1", "! -s 127.0.0.2/32 "), ("::1", "")):
        assert rules(address, "nat")[4:] == [
            f"-N {chain}",
            f"-A PREROUTING -p tcp -m tcp {syn} -j {chain}",
            f"-A OUTPUT -p tcp -m tcp {syn} -j {chain}",
            f"-A {chain} {source}-p tcp -m tcp --dport 8000 {syn} -m time --datestop 2030-01-01T00:00:31 "
            "-m comment --comment x -m addrtype --dst-type LOCAL -j REDIRECT --to-ports 9",
        ]


def test_comment_becomes_short_printable_ascii() -> None:
    assert clean_comment("a\"b'c\\d\n€ app-1", MAX_COMMENT) == "a?b?c?d?? app-1"
    gate().hold({8000: "!x" * 300, 8001: ""})
    assert '--comment "' + "!x" * 127 + '!"' in rules()[-2].replace("\\", "")


def test_chain_name_fits_and_differs_between_owners() -> None:
    assert len(chain_of(OWNER)) <= 28
    assert chain_of(OWNER) != chain_of("http://127.0.0.1:9001")


def test_only_the_needed_table_is_opened() -> None:
    program = (
        "from tests.support.netns import enter_private_network as enter; enter()\n"
        "from supervisor_rolling.listener.gates import make_gate\n"
        "from supervisor_rolling.core.policy import GatePolicy\n"
        "from tests.support.port_gate import PortGate\n"
        "import time; gate = PortGate(make_gate(GatePolicy('iptables'), 'x', time.monotonic))\n"
        "gate.check(); gate.hold({8000: 'x'}); gate.hold({})\n"
        "print(open('/proc/net/ip_tables_names').read(), open('/proc/net/ip6_tables_names').read())"
    )
    assert run(sys.executable, "-W", "ignore", "-c", program).split() == ["filter", "filter"]


def test_time_zone_of_the_process_is_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    gate(wall=Clock(1893456000.2)).hold({8000: "x"})
    assert time.localtime(0).tm_hour == 9
    assert "--datestop 2030-01-01T00:00:31" in rules()[-1]
    monkeypatch.undo()
    time.tzset()


def test_standard_output_is_never_redirected(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = gate()
    with monkeypatch.context() as patched:
        patched.setattr(os, "dup2", fail_with(AssertionError("standard output belongs to supervisord")))
        subject.check()
        subject.hold({8000: "x"})
        subject.hold({})


# --- the lease


def test_lease_is_not_renewed_before_a_third() -> None:
    wall = Clock(1893456000.0)
    subject = gate(lease=30.0, wall=wall)
    subject.hold({8000: "x"})
    before = rules()
    wall.now += 9.9
    subject.hold({8000: "another comment"})
    assert rules() == before
    wall.now += 0.2
    subject.hold({8000: "another comment"})
    assert "--datestop 2030-01-01T00:00:41" in rules()[-1]
    assert "another comment" in rules()[-1]


def test_wall_clock_set_back_rewrites_the_lease() -> None:
    wall = Clock(1893456000.0)
    subject = gate(lease=30.0, wall=wall)
    held = subject.hold({8000: "x"})
    wall.now -= 86400
    assert subject.hold({8000: "x"}) == held
    assert "--datestop 2029-12-31T00:00:30" in rules()[-1]


# --- since


def test_wall_clock_beyond_the_lease_restarts_since() -> None:
    clock, wall = Clock(100.0), Clock(1893456000.0)
    subject = gate(clock=clock, wall=wall)
    subject.hold({8000: "x"})
    clock.now, wall.now = 100.1, wall.now + 31
    assert subject.hold({8000: "x"}) == {8000: 100.1}
    assert "--datestop 2030-01-01T00:01:01" in rules()[-1]


def test_lease_that_ends_during_renewal_restarts_since(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, wall = Clock(100.0), Clock(1893456000.0)
    subject = gate(clock=clock, wall=wall)
    subject.hold({8000: "x"})
    commit = iptc.Table.commit

    def slow_commit(table: object) -> None:
        wall.now += 8  # two families: past the end of the old lease, far from that of the new one
        commit(table)

    monkeypatch.setattr(iptc.Table, "commit", slow_commit)
    clock.now, wall.now = 101.0, wall.now + 15
    assert subject.hold({8000: "x"}) == {8000: 101.0}


def test_lease_ended_during_the_commit_closes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wall = Clock(1893456000.0)
    subject = gate(wall=wall)
    commit = iptc.Table.commit

    def very_slow_commit(table: object) -> None:
        wall.now += 40
        commit(table)

    with monkeypatch.context() as patched:
        patched.setattr(iptc.Table, "commit", very_slow_commit)
        assert subject.hold({8000: "x"}) == {}
    assert list(subject.hold({8000: "x"})) == [8000]


def test_port_that_could_not_open_keeps_its_since() -> None:
    clock = Clock(100.0)
    subject = gate(clock=clock, lock_timeout=0.02)
    subject.hold({8000: "x", 8001: "y"})
    clock.now = 101.0
    with lock_held(keep_for=30):
        with pytest.raises(GateError):
            subject.hold({8000: "x"})
        assert subject.hold({8000: "x", 8001: "y"}) == {8000: 100.0, 8001: 100.0}


def test_port_closed_by_another_is_closed_since_observed() -> None:
    clock = Clock(100.0)
    subject = gate(clock=clock, lock_timeout=0.02)
    subject.hold({8000: "x"})
    saved = run("iptables-legacy-save")
    run("iptables-legacy", "-w", "-F")
    with lock_held(keep_for=30), pytest.raises(GateError):
        subject.hold({8000: "x"})
    subprocess.run(["iptables-legacy-restore", "-w"], input=saved, check=True, text=True)
    clock.now = 102.0
    with lock_held(keep_for=30):
        assert subject.hold({8000: "x"}) == {8000: 102.0}


# --- the jump


def test_jump_is_inserted_first() -> None:
    run("iptables-legacy", "-w", "-A", "INPUT", "-j", "ACCEPT")
    gate().hold({8000: "x"})
    assert rules()[-3:-1] == [
        f"-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j {chain_of(OWNER)}",
        "-A INPUT -j ACCEPT",
    ]


def test_jump_below_a_later_rule_stays() -> None:
    subject = gate()
    held = subject.hold({8000: "x"})
    run("iptables-legacy", "-w", "-I", "INPUT", "-s", "10.0.0.1", "-j", "ACCEPT")
    before = rules()
    assert subject.hold({8000: "x"}) == held
    assert rules() == before


def test_first_right_jump_stays_and_no_rule_moves() -> None:
    subject = gate()
    held = subject.hold({8000: "x"})
    run("iptables-legacy", "-w", "-A", "INPUT", "-s", "10.0.0.1", "-j", "ACCEPT")
    once = timeless(rules())
    run("iptables-legacy", "-w", "-A", "INPUT", "-p", "tcp", "--syn", "-j", chain_of(OWNER))
    run("iptables-legacy", "-w", "-A", "INPUT", "-s", "10.0.0.9", "-j", chain_of(OWNER))
    run("iptables-legacy", "-w", "-I", "INPUT", "-p", "udp", "-j", chain_of(OWNER))
    assert subject.hold({8000: "x"}) == held
    assert timeless(rules()) == once  # a second may have passed, and the lease with it


def test_chain_with_a_foreign_jump_is_only_emptied() -> None:
    subject = gate()
    subject.hold({8000: "x"})
    run("iptables-legacy", "-w", "-A", "FORWARD", "-j", chain_of(OWNER))
    subject.hold({})
    assert rules()[3:] == [f"-N {chain_of(OWNER)}", f"-A FORWARD -j {chain_of(OWNER)}"]
    with lock_held(keep_for=30):
        assert subject.hold({}) == {}  # nothing to do, so no lock is asked for


def test_flushed_chain_is_removed() -> None:
    subject = gate()
    subject.hold({8000: "x"})
    run("iptables-legacy", "-w", "-F")
    subject.hold({})
    assert rules()[3:] == []


# --- beside others


def test_beside_a_locking_writer_nothing_is_lost(keep: ExitStack) -> None:
    port, other = listen_on_both(keep), listen_on_both(keep)
    subject, holds, writes = gate(), 0, 150
    foreign = [f"-A INPUT -s 10.0.{number // 250}.{number % 250}/32 -j ACCEPT" for number in range(writes)]
    writer = threading.Thread(target=lambda: [run("iptables-legacy", "-w", *rule.split()) for rule in foreign])
    writer.start()
    while writer.is_alive() or holds < 250:
        closed = {port: "x", other: "y"} if holds % 2 else {port: "x"}
        held = subject.hold(closed)
        assert held.keys() == closed.keys()
        holds += 1
    writer.join()
    assert [rule for rule in rules() if "10.0." in rule] == foreign
    assert open_addresses(port) == []


@contextlib.contextmanager
def lock_held(keep_for: float) -> Iterator[int]:
    """The lock in the hands of another process."""
    program = (
        "import fcntl, sys, select; lock = open('/run/xtables.lock', 'a'); fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print(flush=True); select.select([sys.stdin], [], [], float(sys.argv[1]))"
    )
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", program, str(keep_for)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdout.readline()
        yield holder.pid
        holder.stdin.close()


def test_busy_lock_names_its_holder_and_changes_nothing() -> None:
    subject = gate(lock_timeout=0.05)
    held = subject.hold({8000: "x"})
    before = rules()
    with lock_held(keep_for=30) as holder:
        with pytest.raises(
            GateBusyError, match=rf"xtables lock /run/xtables.lock \(pid {holder} python.*Fix: "
        ) as caught:
            subject.hold({8000: "x", 8001: "y"})
        assert caught.value.closed == {tcp(8000): held[8000]}, "what is closed is known to be closed"
        assert subject.hold({8000: "x"}) == held  # nothing to change, no lock needed
    assert rules() == before


def test_busy_lock_blocks_half_of_the_time() -> None:
    subject = gate(lock_timeout=0.1)
    with lock_held(keep_for=30):
        begun, waited = time.thread_time(), []
        for _ in range(4):
            attempted = time.monotonic()
            with pytest.raises(GateBusyError):
                subject.hold({8000: "x"})
            waited.append(time.monotonic() - attempted)
        assert time.thread_time() - begun < 0.2
    assert waited[0] >= 0.1
    assert max(waited[1:]) < waited[0]
    assert list(subject.hold({8000: "x"})) == [8000], "one try is enough when it is free"


def test_lock_that_is_soon_free_is_awaited() -> None:
    with lock_held(keep_for=0.2):
        assert list(gate(lock_timeout=5.0).hold({8000: "x"})) == [8000]


def test_lock_is_free_after_every_call(tmp_path: Path) -> None:
    subject = gate(lock_path=str(tmp_path / "lock"))
    subject.check()
    subject.hold({8000: "x"})
    with pytest.raises(GateError):
        subject.hold({8000: "x", 99999: "no such port"})
    with open(tmp_path / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- when something fails


def test_failed_change_leaves_nothing_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    run("iptables-legacy", "-w", "-A", "INPUT", "-s", "10.0.0.1", "-j", "ACCEPT")
    subject = gate()
    before = rules()
    with monkeypatch.context() as patched:
        patched.setattr(iptc.Table, "commit", fail_with(iptc.IPTCError("can't commit: b'Invalid argument'")))
        with pytest.raises(GateError, match=r"table filter, IPv4.*Invalid argument"):
            subject.hold({8000: "x"})
    assert rules() == before
    subject.hold({})
    assert rules() == before


def test_port_closed_in_one_family_is_not_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(100.0)
    subject = gate(clock=clock)
    subject.hold({8000: "x"})
    with monkeypatch.context() as patched:
        patched.setattr(iptc.Table6, "commit", fail_with(iptc.IPTCError("can't commit: b'Invalid argument'")))
        with pytest.raises(GateError, match="IPv6"):
            subject.hold({8000: "x", 8001: "y"})
    clock.now = 101.0
    assert subject.hold({8000: "x", 8001: "y"}) == {8000: 100.0, 8001: 101.0}


def test_lost_commit_that_reports_success_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = gate()
    with monkeypatch.context() as patched:
        patched.setattr(iptc.Table6, "commit", lambda _: None)
        assert subject.hold({8000: "x"}) == {}
    assert list(subject.hold({8000: "x"})) == [8000]


@pytest.mark.parametrize(
    ("message", "kind", "advice"),
    [
        ("can't initialize filter: b'Permission denied (you must be root)'", GatePermissionError, "NET_ADMIN"),
        ("can't initialize filter: b'Table does not exist (do you need to insmod?)'", GatePermissionError, "modprobe"),
        ("can't commit: b'No chain/target/match by that name.'", GatePermissionError, "xt_time"),
        ("can't commit: b'Resource temporarily unavailable'", GateError, "iptables -w"),
    ],
)
def test_errors_say_where_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, message: str, kind: type[GateError], advice: str
) -> None:
    monkeypatch.setattr(iptc.Table, "refresh", fail_with(iptc.IPTCError(message)))
    with pytest.raises(GateError, match=rf"table filter, IPv4.*{advice}") as caught:
        gate().hold({8000: "x"})
    assert type(caught.value) is kind
    assert "b'" not in str(caught.value)


# --- check


def test_check_removes_what_a_killed_check_left(keep: ExitStack) -> None:
    port = listen_on_both(keep)
    gate().hold({port: "x"})
    before = rules()
    run("iptables-legacy", "-w", "-N", PROBE_CHAIN)
    gate().check()
    assert rules() == before
    assert open_addresses(port) == []


def test_check_finds_a_kernel_without_the_match(monkeypatch: pytest.MonkeyPatch) -> None:
    before = rules()
    subject = gate()
    subject.hold({})
    pattern, _ = subject._chains[0]._patterns
    pattern.raw = pattern.raw.replace(b"time\0", b"tyme\0")  # a match that no kernel has
    with pytest.raises(GatePermissionError, match=r"No chain/target/match.*xt_time"):
        subject.check()
    assert rules() == before


_UNPRIVILEGED = """
import os, sys, time
from supervisor_rolling.core.errors import GatePermissionError
from supervisor_rolling.listener.gates import make_gate
from supervisor_rolling.core.policy import GatePolicy
from tests.support.port_gate import PortGate
import supervisor_rolling.listener.gates.iptables
if "nobody" in sys.argv:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for method in ("reject", "redirect"):
    for call in ("check", "hold"):
        gate = PortGate(make_gate(GatePolicy("iptables", method), "x", time.monotonic))
        try:
            gate.check() if call == "check" else gate.hold({8000: "x"})
        except GatePermissionError as error:
            print(error)
print("alive")
"""


@pytest.mark.parametrize(
    "command",
    [
        ["setpriv", "--bounding-set=-net_admin", sys.executable, "-W", "ignore", "-c", _UNPRIVILEGED],
        ["setpriv", "--bounding-set=-net_raw", sys.executable, "-W", "ignore", "-c", _UNPRIVILEGED],
        [sys.executable, "-W", "ignore", "-c", _UNPRIVILEGED, "nobody"],
    ],
    ids=["without CAP_NET_ADMIN", "without CAP_NET_RAW", "as nobody"],
)
def test_without_rights_every_call_raises_a_permission_error(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(lines) == 5
    assert all("run it as root; in a container, add NET_ADMIN and NET_RAW" in line for line in lines[:4])


# --- make_gate


def test_missing_library_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("supervisor_rolling.listener.gates.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "iptc", None)
    with pytest.raises(GatePermissionError, match=r"Fix: install the package `iptables`.*pip install python-iptables"):
        make_gate(GatePolicy("iptables"), OWNER, time.monotonic)


# --- IPv6


def test_without_ipv6_addresses_only_ipv4_is_closed() -> None:
    assert ipv6_in_use()
    program = (
        "from tests.support.netns import enter_private_network as enter; enter()\n"
        "import subprocess, time\n"
        "from supervisor_rolling.listener.gates import make_gate\n"
        "from supervisor_rolling.core.policy import GatePolicy\n"
        "from tests.support.port_gate import PortGate\n"
        "off = '/proc/sys/net/ipv6/conf/all/disable_ipv6'\n"
        "open(off, 'w').write('1')\n"
        "now = 1.0; gate = PortGate(make_gate(GatePolicy('iptables'), 'x', lambda: now))\n"
        "print(gate.hold({8000: 'x'}), open('/proc/net/ip6_tables_names').read().split())\n"
        "now = 2.0; open(off, 'w').write('0')\n"
        "print(gate.hold({8000: 'x'}), open('/proc/net/ip6_tables_names').read().split())\n"
    )
    done = run(sys.executable, "-W", "ignore", "-c", program).splitlines()
    assert done == ["{8000: 1.0} []", "{8000: 2.0} ['filter']"]


# --- what others have put above our jump

ABOVE = {
    "-j ACCEPT": True,
    "-i lo -j ACCEPT": True,
    "-p tcp -j ACCEPT": True,
    "-p tcp --dport 8000 -j ACCEPT": True,
    "-p tcp --dport 7000:9000 --syn -j ACCEPT": True,
    "-p tcp ! --dport 9000 -m comment --comment ours -j ACCEPT": True,
    "-p tcp --dport 8001 -j ACCEPT": False,
    "-p tcp ! --dport 8000 -j ACCEPT": False,
    "-p tcp ! --syn -j ACCEPT": False,
    "-p udp -j ACCEPT": False,
    "-i wg0 -j ACCEPT": False,
    "! -i eth0 -j ACCEPT": False,
    "-s 192.0.2.1 -j ACCEPT": False,
    "-d 192.0.2.1 -p tcp --dport 8000 -j ACCEPT": False,
    "-p tcp --sport 53 -j ACCEPT": False,
    "-p tcp -m conntrack --ctstate ESTABLISHED -j ACCEPT": False,
    "-p tcp --dport 8000 -j LOG": False,
}


@pytest.mark.parametrize("rule", ABOVE)
def test_only_rules_that_accept_everything_above_are_found(rule: str) -> None:
    subject = gate()
    subject.hold({8000: "x"})
    run("iptables-legacy", "-w", "-I", "INPUT", *rule.split())
    found = subject.inspect({8000: "app-8000"})
    run("iptables-legacy", "-w", "-D", "INPUT", *rule.split())
    assert [one.where for one in found] == (["table filter, IPv4, rule 1 of INPUT"] if ABOVE[rule] else [])


def test_accepting_rules_of_ipv6_and_nat_are_found() -> None:
    subject = gate(method="redirect")
    subject.hold({8000: "x"})
    run("ip6tables-legacy", "-w", "-t", "nat", "-I", "OUTPUT", "-p", "tcp", "-j", "ACCEPT")
    found = subject.inspect({8000: "app-8000"})
    run("ip6tables-legacy", "-w", "-t", "nat", "-D", "OUTPUT", "-p", "tcp", "-j", "ACCEPT")
    assert [one.where for one in found] == ["table nat, IPv6, rule 1 of OUTPUT"]


def test_without_a_jump_no_rule_is_found() -> None:
    run("iptables-legacy", "-w", "-I", "INPUT", "-j", "ACCEPT")
    found = gate().inspect({8000: "app-8000"})
    run("iptables-legacy", "-w", "-D", "INPUT", "-j", "ACCEPT")
    assert list(found) == []
