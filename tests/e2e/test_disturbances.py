"""What others do in the middle of a rollout: to supervisord, to the firewall, to the clock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.load import Load, Plan
from tests.support.look import (
    all_open,
    assert_no_failures,
    closed_ports,
    draining,
    listener_log,
    pids,
    popen_ctl,
    refuses,
    rolling,
    rules,
    standing,
    users,
    wait_ended,
    wait_open,
    wait_stage,
)
from tests.support.netns import XTABLES_LOCK
from tests.support.refused_connections import REFUSE_FILE
from tests.support.stack import Stack
from tests.support.variants import first
from tests.support.waiting import stays

SLOW = {"startsecs": 1}
"""A rollout of four takes four seconds: time enough to do something in the middle."""


def drain_for(stage: str) -> dict[str, float]:
    """A drain that lasts long enough for a command of supervisorctl on a busy machine, where the test needs that."""
    return {"min_seconds": 2.0 if stage == "draining" else 0.5}


def disturbed(stack: Stack, act: Callable[[], object], stage: str = "warming") -> tuple[int, str]:
    """Rollout, and act when the first process is in that stage. The exit status and the words of supervisorctl."""
    watcher = popen_ctl(stack, "rolling_restart", "app")
    wait_stage(stack, stage)
    act()
    said, _ = watcher.communicate(timeout=60)
    assert "Traceback" not in said
    return watcher.returncode, said


def assert_whole(stack: Stack, stopped: tuple[str, ...] = ()) -> None:
    """Every process runs, warm and open; only the ports of manually stopped ones are closed."""
    names = {f"app-{port}" for port in stack.setup.ports} - set(stopped)
    stack.wait_until(lambda: all(standing(stack)[name]["warm"] for name in names), 30.0, "all are warm")
    stack.wait_until(lambda: len(closed_ports()) == len(stopped), 5.0, "no other port is closed")
    assert {name for name, found in standing(stack).items() if found["statename"] == "STOPPED"} == set(stopped)
    assert not any(refuses(int(name.rpartition("-")[2])) for name in names)


# --- to supervisord


def test_reload_ends_the_rollout_and_says_so(light: Callable[..., Stack]):
    stack = light(processes=2, setup=SLOW)
    status, said = disturbed(stack, lambda: stack.ctl("reload"))
    ends = "supervisord is shutting down or restarting", "supervisord was restarted: rollout"
    assert status == 1
    assert any(words in said for words in ends), said
    stack.wait_serving()
    wait_open(stack)
    assert rules() == []
    assert "No rollout of app" in stack.ctl("rolling_status", "app").stdout
    assert stack.ctl("rolling_restart", "app").returncode == 0


def reconfigure(stack: Stack, old: str, new: str) -> None:
    """Edit supervisord's configuration, and ``supervisorctl update``."""
    text = stack.supervisord_conf.read_text(encoding="utf-8")
    assert old in text
    stack.supervisord_conf.write_text(text.replace(old, new), encoding="utf-8")
    assert stack.ctl("update").returncode == 0


@pytest.mark.parametrize("stage", first(1, ["draining", "warming"]))
def test_update_of_the_group_ends_the_rollout(light: Callable[..., Stack], stage: str):
    stack = light(processes=2, setup=SLOW, drain=drain_for(stage))
    change = ("[program:app]", "[program:app]\nstopwaitsecs = 7")
    status, said = disturbed(stack, lambda: reconfigure(stack, *change), stage)
    assert (status, " update), and stopped all its processes" in said) == (1, True), said
    assert re.search("ABORTED: [01] of 2 replaced", said), "a busy machine may replace the first meanwhile"
    assert_whole(stack)
    assert stack.ctl("rolling_restart", "app").returncode == 0


def test_update_that_removes_group_leaves_no_rule(light: Callable[..., Stack]):
    stack = light(setup=SLOW)
    status, said = disturbed(stack, lambda: reconfigure(stack, "[program:app]", "[program:other]"))
    assert (status, "supervisord removed the group" in said) == (1, True), said
    stack.wait_until(lambda: rules() == [], 5.0, "no rule is left")
    stack.wait_serving()
    assert stack.ctl("rolling_restart", "app").returncode == 5


@pytest.mark.parametrize("stage", first(1, ["draining", "warming", "ready"]))
def test_manual_stop_is_kept_and_rollout_continues(light: Callable[..., Stack], stage: str):
    stack = light(processes=3, setup=SLOW, drain=drain_for(stage), min_ready_seconds=1 if stage == "ready" else 0)
    status, said = disturbed(stack, lambda: stack.ctl("stop", "app:app-8000"), stage)
    assert (status, "2 of 2 replaced" in said) == (0, True), said
    assert any(line.startswith("app-8000") and "was stopped manually" in line for line in said.splitlines())
    assert_whole(stack, stopped=("app-8000",))


@pytest.mark.parametrize("verb", first(1, ["stop", "restart"]))
def test_manual_stop_or_restart_of_a_pending_process(light: Callable[..., Stack], verb: str):
    stack = light(setup=SLOW)
    status, said = disturbed(stack, lambda: stack.ctl(verb, "app:app-8002"))
    assert (status, ("3 of 3" if verb == "stop" else "4 of 4") in said) == (0, True), said
    assert_whole(stack, stopped=("app-8002",) if verb == "stop" else ())


@pytest.mark.parametrize("stage", first(1, ["warming", "draining"]))
def test_manual_restart_is_warmed_and_rollout_continues(light: Callable[..., Stack], stage: str):
    stack = light(processes=3, setup=SLOW, drain=drain_for(stage))
    status, said = disturbed(stack, lambda: stack.ctl("restart", "app:app-8000"), stage)
    assert (status, "3 of 3 replaced" in said) == (0, True), said
    assert_whole(stack)


def test_manual_restart_after_replacement_is_warmed(
    light: Callable[..., Stack],
):
    stack = light(processes=3, setup=SLOW)

    def restart_the_first() -> None:
        wait_stage(stack, "warming", "app-8001")
        stack.ctl("restart", "app:app-8000")

    status, said = disturbed(stack, restart_the_first)
    assert (status, "3 of 3 replaced" in said) == (0, True), said
    assert_whole(stack)


@pytest.mark.parametrize("warming", first(1, ["app-8000", "app-8001"]))
def test_manual_stop_of_the_group_ends_the_rollout(light: Callable[..., Stack], warming: str):
    stack = light(setup=SLOW)

    def stop_all() -> None:
        wait_stage(stack, "warming", warming)
        stack.ctl("stop", "app:*")

    status, said = disturbed(stack, stop_all)
    assert (status, "all processes to replace were stopped manually" in said) == (1, True), said
    assert {found["statename"] for found in standing(stack).values()} == {"STOPPED"}
    stack.ctl("start", "app:*")
    assert_whole(stack)


@pytest.mark.parametrize("warming", first(1, ["app-8002", "app-8000"]))
def test_restart_all_restarts_listener_and_rollout_continues(light: Callable[..., Stack], warming: str):
    stack = light(setup=SLOW)

    def restart_all() -> None:
        wait_stage(stack, "warming", warming)
        stack.ctl("restart", "all")

    status, said = disturbed(stack, restart_all)
    assert (status, "4 of 4 replaced" in said) == (0, True), said
    assert_whole(stack)


@pytest.mark.parametrize("warming", first(1, ["app-8002", "app-8000"]))
def test_stop_all_opens_gates_and_rollout_waits(light: Callable[..., Stack], warming: str):
    stack = light(setup=SLOW)

    def stop_all() -> None:
        wait_stage(stack, "warming", warming)
        stack.ctl("stop", "all")

    status, said = disturbed(stack, stop_all)
    assert (status, "the listener is not running: rollout 1 of app is stalled" in said) == (7, True), said
    assert rules() == []
    stack.ctl("start", "all")
    assert wait_ended(stack)["status"] == "done"
    assert_whole(stack)


# --- to the firewall


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Hold the lock of iptables while the block runs."""
    handle = os.open(XTABLES_LOCK, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def test_held_lock_stops_no_open_process(
    light: Callable[..., Stack],
):
    stack = light(drain={"timeout": 60})
    before = pids(stack)
    with users(stack) as load:
        with locked():
            client = popen_ctl(stack, "rolling_restart", "app")
            assert stays(lambda: (pids(stack), rules()) == (before, []), seconds=10.0)
        said, _ = client.communicate(timeout=60)
        again = stack.ctl("rolling_restart", "app")
    assert (client.returncode, "holds the xtables lock" in said) == (1, True), said
    assert again.returncode == 0, again.stdout
    assert_no_failures(load.report())


def test_rollout_waits_for_a_lock_taken_meanwhile(light: Callable[..., Stack]):
    stack = light(processes=3, gate={"lease": 30}, drain={"timeout": 60})
    before = pids(stack)
    with users(stack) as load:
        with draining(stack), locked():
            assert stays(lambda: refuses(8000), seconds=0.2)
        with locked():
            assert stays(lambda: replaced_of(stack, before) <= 1, seconds=8.0), "nothing else can be closed"
        rollout = wait_ended(stack)
    assert rollout["status"] == "done", rollout["why"]
    assert_no_failures(load.report())


BACKENDS = pytest.mark.parametrize("backend", first(1, ["nftables", "iptables"]))

FLUSHES = {
    "iptables-legacy -w -F": "iptables",
    "nft flush ruleset": "nftables",
    "iptables-legacy -w -F INPUT": "iptables",
    "nft flush ruleset inet": "nftables",
}


@pytest.mark.parametrize("command", first(2, FLUSHES))
def test_flushed_rules_return_and_the_drain_restarts(light: Callable[..., Stack], command: str):
    stack = light(processes=3, gate={"backend": FLUSHES[command]}, drain={"timeout": 60})
    with users(stack) as load:
        with draining(stack):
            for _ in range(5):
                does(*command.split())
                stack.wait_until(lambda: refuses(8000), 2.0, "the gate is closed again")
        rollout = wait_ended(stack)
    assert (rollout["status"], rollout["replaced"]) == ("done", 3), rollout["why"]
    assert_no_failures(load.report())


def test_crash_while_lock_is_held_closes_the_port_at_its_release(light: Callable[..., Stack]):
    stack = light(processes=3)
    stack.fault("500")
    with locked():
        os.kill(pids(stack)[0], signal.SIGKILL)
        held = "its port is not closed yet: another program holds the xtables lock /run/xtables.lock (pid "
        stack.wait_until(lambda: held in standing(stack)["app-8000"]["why"], 2.0, "the status names the lock")
        assert stays(lambda: seconds_to_read(stack) < 1.0, seconds=3.0), "supervisord answers meanwhile"
        assert not refuses(8000)
        released = time.monotonic()
    stack.wait_until(lambda: refuses(8000), 2.0, "the port is closed")
    assert time.monotonic() - released < 1.0
    stack.wait_until(lambda: "lock" not in standing(stack)["app-8000"]["why"], 5.0, "the status no longer names it")


@pytest.mark.parametrize("command", first(1, ["nft flush ruleset", "iptables-legacy -w -F"]))
def test_flushes_open_a_failed_process_for_half_a_second_each(light: Callable[..., Stack], command: str):
    """20 requests a second come to each of three processes. Each of six flushes may let a second of them through."""
    stack = light(processes=3, gate={"backend": FLUSHES[command]})
    stack.fault("500")
    assert stack.ctl("rolling_restart", "app").returncode == 1
    with users(stack, rate=60.0, posts=0.0) as load:
        for number in range(1, 7):
            does(*command.split())
            stack.wait_until(lambda: refuses(8000), 2.0, "the port is closed again")
            stack.wait_until(lambda number=number: closed_again(stack) == number, 2.0, "the log says so")  # type: ignore[misc]
    assert load.report().gets_failed <= 6 * 20
    assert closed_again(stack) == 6


def closed_again(stack: Stack) -> int:
    """How often the listener has found port 8000 open."""
    return listener_log(stack).count("port 8000: the firewall rule was missing")


def seconds_to_read(stack: Stack) -> float:
    """That supervisord takes to answer."""
    asked = time.monotonic()
    assert not standing(stack)["app-8001"]["why"]
    return time.monotonic() - asked


def replaced_of(stack: Stack, before: list[int]) -> int:
    return sum(new != old for new, old in zip(pids(stack), before))


def iptables(*arguments: str) -> None:
    does("iptables-legacy", "-w", *arguments)


def does(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, (command, done.stderr)


@BACKENDS
def test_rule_refused_by_kernel_stops_nothing(light: Callable[..., Stack], backend: str):
    stack = light(
        processes=3,
        gate={"backend": backend},
        prefix=f"env {REFUSE_FILE}=%(here)s/refuse ",
        listener="tests.support.refused_connections",
        drain={"min_seconds": 1.0},
    )
    before = pids(stack)
    with users(stack) as load:
        (stack.directory / "refuse").touch()
        refused = stack.ctl("rolling_restart", "app")
        forced = stack.ctl("rolling_restart", "app", "--force")
        (stack.directory / "refuse").unlink()
        again = stack.ctl("rolling_restart", "app")
    assert (refused.returncode, forced.returncode) == (1, 1)
    assert "refused because of 1 error:\n  gate: " in refused.stdout
    assert "app-8000" in forced.stdout
    assert "its port could not be closed" in forced.stdout
    assert "modprobe" in refused.stdout, "what to do"
    assert "modprobe" in forced.stdout, "what to do"
    assert again.returncode == 0, again.stdout
    assert not set(before) & set(pids(stack))
    assert_no_failures(load.report())


def test_iptables_keeps_all_rules_of_others(light: Callable[..., Stack]):
    stack = light(processes=3)
    iptables("-N", "FOREIGN")
    rolled = 0
    expected: list[str] = []
    with users(stack) as load:
        client = popen_ctl(stack, "rolling_restart", "app")
        for number in range(1000):  # an insertion or an appendage each, and every second is taken away again
            rule = f"-p tcp -m tcp --dport {20000 + number} -j ACCEPT"
            where = "-I" if number % 3 else "-A"
            iptables(where, "FOREIGN", *rule.split())
            expected.insert(0 if where == "-I" else len(expected), rule)
            if number % 2:
                iptables("-D", "FOREIGN", *rule.split())
                expected.remove(rule)
            else:
                iptables("-A", "INPUT", *rule.split())
            if client.poll() is not None:
                assert client.returncode == 0, client.stdout and client.stdout.read()
                rolled += 1
                client = popen_ctl(stack, "rolling_restart", "app")
        assert client.wait(60) == 0
    found = subprocess.run(["iptables-legacy", "-w", "-S"], capture_output=True, text=True, check=True).stdout
    lines = found.splitlines()
    assert [line for line in lines if line.startswith("-A FOREIGN")] == [f"-A FOREIGN {rule}" for rule in expected]
    inputs = [f"-A INPUT -p tcp -m tcp --dport {20000 + number} -j ACCEPT" for number in range(0, 1000, 2)]
    assert [line for line in lines if line.startswith("-A INPUT")] == inputs
    assert rolled >= 2
    assert_no_failures(load.report())
    iptables("-F")
    iptables("-X")


def test_nftables_keeps_all_rules_of_others(
    light: Callable[..., Stack],
):
    stack = light(processes=3, gate={"backend": "nftables"})
    does("nft", "add table inet foreign; add chain inet foreign input { type filter hook input priority 0; }")
    rolled = 0
    expected: list[str] = []
    with users(stack) as load:
        client = popen_ctl(stack, "rolling_restart", "app")
        for port in range(20000, 21000):
            first = port % 3 == 0
            does("nft", f"{'insert' if first else 'add'} rule inet foreign input tcp dport {port} accept")
            expected.insert(0 if first else len(expected), str(port))
            if client.poll() is not None:
                assert client.returncode == 0, client.stdout and client.stdout.read()
                rolled += 1
                client = popen_ctl(stack, "rolling_restart", "app")
        assert client.wait(60) == 0
    found = subprocess.run(["nft", "list", "table", "inet", "foreign"], capture_output=True, text=True, check=True)
    assert re.findall(r"dport (\d+) accept", found.stdout) == expected
    assert rolled >= 1
    assert_no_failures(load.report())
    does("nft", "delete table inet foreign")


@BACKENDS
def test_two_supervisords_on_one_host_do_not_interfere(light: Callable[..., Stack], backend: str):
    gate = {"backend": backend}
    other = {"first_port": 8100, "nginx_port": 8180}
    stacks = [light(processes=3, gate=gate), light(processes=3, gate=gate, setup=other)]
    with contextlib.ExitStack() as loads:
        found = [loads.enter_context(Load(Plan(s.url, rate=40.0), s.directory / "load")) for s in stacks]
        for load in found:
            load.wait_more(40)
        for _ in range(3):
            clients = [popen_ctl(stack, "rolling_restart", "app") for stack in stacks]
            assert [client.wait(60) for client in clients] == [0, 0]
    for load in found:
        assert_no_failures(load.report())
    assert all(all_open(stack) for stack in stacks)


# --- to the clock


@pytest.mark.parametrize(
    ("hours", "stage"),
    first(2, [(1, "draining"), (-1, "warming"), (1, "warming"), (1, "ready"), (-1, "draining"), (-1, "ready")]),
)
def test_wall_clock_jump_changes_nothing(light: Callable[..., Stack], hours: int, stage: str):
    stack = light(
        processes=2,
        setup={**SLOW, "supervisord": "tests.support.wall"},
        drain={"min_seconds": 0.5},
        min_ready_seconds=1,
    )
    with users(stack) as load:
        status, said = disturbed(stack, lambda: stack.jump(3600.0 * hours), stage)
    assert (status, "2 of 2 replaced" in said) == (0, True), said
    assert_no_failures(load.report())
    timings: list[dict[str, Any]] = rolling(stack)["processes"]
    assert all(timing["ready"] >= 1.0 and timing["drained"] >= 0.5 for timing in timings)


def test_manual_restart_during_clock_jump_is_no_stop(light: Callable[..., Stack]):
    stack = light(processes=3, setup={**SLOW, "supervisord": "tests.support.wall"})

    def restart_in_another_time() -> None:
        stack.ctl("stop", "app:app-8000")
        stack.jump(3600.0)
        time.sleep(1.0)  # less than makes it stopped for good
        stack.ctl("start", "app:app-8000")

    status, said = disturbed(stack, restart_in_another_time)
    assert (status, "3 of 3 replaced" in said, "by hand" in said) == (0, True, False), said
