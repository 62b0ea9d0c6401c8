"""The operator's commands: when they run, what they get, and what happens to a rollout when they fail."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.jobs import HookJob, WarmupJob
from supervisor_rolling.core.policy import Hook, HooksPolicy, WarmupPolicy
from supervisor_rolling.core.rollout import Stage, Status
from supervisor_rolling.listener.hook_runner import CommandHooks
from supervisor_rolling.listener.kernel_sockets import KernelSockets
from supervisor_rolling.listener.system.command import run
from supervisor_rolling.listener.warmup import HttpWarmups
from tests.simulation.world import World, fast_policy
from tests.support.look import assert_no_failures, listener_pid, pids, rolling, standing, users
from tests.support.stack import Stack
from tests.support.waiting import eventually, wait_until

MAX_SHOWN = Hook(("/bin/true",))
ALL = HooksPolicy(before_rollout=MAX_SHOWN, on_failure=MAX_SHOWN, after_rollout=MAX_SHOWN)


def a_world(processes: int = 3, hooks: HooksPolicy = ALL) -> World:
    return World(processes, replace(fast_policy(), hooks=hooks))


def begun(world: World) -> list[tuple[str, str]]:
    """The hooks that have begun, each with the result that it got."""
    return [(name, variables["ROLLING_RESULT"]) for name, variables in world.hooks.begun]


# --- in the simulated world


def test_hooks_run_before_and_after_the_rollout() -> None:
    world = a_world()
    world.hooks.takes["before_rollout"] = 3.0
    world.ask()
    reconciler = world.live(world.reconciler(), 2.0)
    assert begun(world) == [("before_rollout", "")]
    assert [member.stage for member in world.rollout().members] == [Stage.OPEN] * 3
    world.run(reconciler)
    assert begun(world) == [("before_rollout", ""), ("after_rollout", "done")]
    rollout = world.rollout()
    assert (rollout.status, rollout.final_status, rollout.why) == (Status.DONE, "", "")
    assert (world.lost, world.cold) == (0, 0)


def test_failed_before_hook_touches_nothing() -> None:
    world = a_world()
    world.hooks.fails["before_rollout"] = "exited with 1: the database is not migrated"
    before = {name: process.pid for name, process in world.processes.items()}
    world.ask()
    world.run(world.reconciler())
    rollout = world.rollout()
    assert rollout.status is Status.FAILED
    assert rollout.why == "before_rollout: exited with 1: the database is not migrated"
    assert {name: process.pid for name, process in world.processes.items()} == before
    assert [member.steps for member in rollout.members] == [()] * 3
    assert begun(world) == [("before_rollout", ""), ("on_failure", "failed"), ("after_rollout", "failed")]


def test_failure_hook_gets_process_and_reason() -> None:
    world = a_world()
    world.processes["app-1"].deploy = {"warms": "failed"}
    world.ask()
    world.run(world.reconciler())
    assert [name for name, _ in world.hooks.begun] == ["before_rollout", "on_failure", "after_rollout"]
    given = world.hooks.begun[1][1]
    assert (given["ROLLING_GROUP"], given["ROLLING_PROCESS"], given["ROLLING_PORT"]) == ("app", "app-1", "8001")
    assert "app:app-1 is not warm" in given["ROLLING_WHY"]


def test_failed_last_hook_is_reported_without_changing_result() -> None:
    world = a_world()
    world.hooks.fails["after_rollout"] = "exited with 3"
    world.ask()
    world.run(world.reconciler())
    assert (world.rollout().status, world.rollout().why) == (Status.DONE, "after_rollout: exited with 3")


def test_group_is_busy_until_last_hook_ends() -> None:
    world = a_world()
    world.hooks.takes["after_rollout"] = 30.0
    world.ask()
    reconciler = world.live(
        world.reconciler(), 60.0, lambda: bool(world.rollout_or_none() and world.rollout().final_status)
    )
    ended = world.rollout().ended_at
    reconciler = world.live(reconciler, 20.0)
    assert (world.rollout().status, world.rollout().final_status) == (Status.RUNNING, "done")
    world.run(reconciler)
    assert (world.rollout().status, world.rollout().ended_at) == (Status.DONE, ended)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_abort_waits_for_no_command(moment: str) -> None:
    world = a_world(2)
    world.hooks.takes["before_rollout" if moment == "before" else "after_rollout"] = 1000.0
    world.ask()
    reconciler = world.live(world.reconciler(), 1.0)
    if moment == "after":
        reconciler = world.live(reconciler, 60.0, lambda: bool(world.rollout().final_status))
    world.mailbox.flag("app", aborting=True)
    world.run(reconciler, 5.0)
    assert world.rollout().status is (Status.ABORTED if moment == "before" else Status.DONE)
    if moment == "before":
        assert [member.steps for member in world.rollout().members] == [()] * 2


def test_last_hook_gets_aborted_result() -> None:
    world = a_world(3)
    world.ask()
    reconciler = world.live(
        world.reconciler(), 60.0, lambda: bool(world.rollout_or_none() and world.rollout().members[0].replaced)
    )
    world.mailbox.flag("app", aborting=True)
    world.run(reconciler)
    assert world.rollout().status is Status.ABORTED
    assert begun(world) == [("before_rollout", ""), ("after_rollout", "aborted")]


def test_next_listener_runs_the_hook_again() -> None:
    for kill_after in range(5, 100, 7):
        world = a_world(2)
        world.kill_after = kill_after
        world.ask()
        world.run(world.reconciler())
        assert "KILLED" in world.log
        assert world.rollout().status is Status.DONE, kill_after
        names = [name for name, _ in world.hooks.begun]
        assert names[0] == "before_rollout"
        assert names[-1] == "after_rollout"
        assert sorted(names, reverse=True) == names, "the one before is run no more when anything was touched"
        assert (world.lost, world.cold) == (0, 0)


def test_a_resumed_rollout_is_prepared_again() -> None:
    world = a_world(2)
    world.processes["app-1"].deploy = {"warms": "failed"}
    world.ask()
    reconciler = world.run(world.reconciler())
    world.processes["app-1"].deploy = {"warms": "warm"}
    world.ask("resume")
    world.live(reconciler, 60.0, lambda: world.rollout().status is Status.DONE)
    assert begun(world)[-2:] == [("before_rollout", ""), ("after_rollout", "done")]


def test_resumed_rollout_counts_its_hook_anew() -> None:
    world = a_world(2)
    world.processes["app-1"].deploy = {"warms": "failed"}
    world.ask()
    reconciler = world.run(world.reconciler())
    world.hooks.takes["before_rollout"] = 3.0
    world.pass_time(60.0)
    world.ask("resume")
    world.live(reconciler, 2.0)
    assert (world.rollout().waits_for, world.rollout().waits_long) == ("its before_rollout hook", False)


# --- real commands


def a_script(directory: Path, text: str, name: str = "hook") -> str:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def is_gone(group: int) -> bool:
    """Whether nothing of a process group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def ran(*command: str, timeout: float = 10.0, within: float = 10.0, **variables: str) -> str:
    return run(Hook(command, timeout), variables, threading.Event(), within)


def test_success_has_no_reason(tmp_path: Path) -> None:
    assert ran(a_script(tmp_path, "echo fine")) == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo first; echo it is broken >&2; exit 3", "exited with 3: it is broken"),
        ("printf 'no line end'; exit 1", "exited with 1: no line end"),
        ("exit 1", "exited with 1"),
        ("printf 'a\\033[2Jb\\rc\\n'; exit 1", "exited with 1: a\\x1b[2Jb\\rc"),
        ("printf 'half \\033]0;t\\007'; exit 1", "exited with 1: half \\x1b]0;t\\x07"),
        ("kill -9 $$", "was killed by signal 9"),
    ],
)
def test_failure_has_exit_status_and_last_line(tmp_path: Path, text: str, why: str) -> None:
    assert ran(a_script(tmp_path, text)) == why


def test_missing_program_is_reported() -> None:
    assert ran("/no/such/program") == "/no/such/program cannot be run: No such file or directory"


def test_arguments_pass_no_shell(tmp_path: Path) -> None:
    path = tmp_path / "said"
    script = a_script(tmp_path, f'printf "%s|" "$@" "$ROLLING_GROUP" > {path}')
    assert ran(script, "$(id); a b", "*", ROLLING_GROUP="a;b") == ""
    assert path.read_text(encoding="utf-8") == "$(id); a b|*|a;b|"


@pytest.mark.parametrize("text", ["sleep 60", "trap '' TERM; sleep 60 & wait; sleep 60"])
def test_hook_timeout_kills_its_whole_process_group(tmp_path: Path, text: str) -> None:
    pid = tmp_path / "pid"
    began = time.monotonic()
    why = ran(a_script(tmp_path, f"echo $$ > {pid}; {text}"), timeout=0.3)
    assert why == "did not end within 0.3 s, and was killed"
    assert time.monotonic() - began < 10
    group = int(pid.read_text(encoding="ascii"))
    assert eventually(lambda: is_gone(group))


def test_the_shorter_time_counts(tmp_path: Path) -> None:
    assert ran(a_script(tmp_path, "sleep 60"), timeout=60, within=0.2) == "did not end within 0.2 s, and was killed"


def test_hook_with_a_daemon_on_its_output_ends(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    began = time.monotonic()
    assert ran(a_script(tmp_path, f"sleep 30 & echo $! > {pid}; exit 0")) == ""
    assert time.monotonic() - began < 10
    os.kill(int(pid.read_text(encoding="ascii")), signal.SIGKILL)


def test_large_output_does_not_block_and_is_cut(tmp_path: Path) -> None:
    assert ran(a_script(tmp_path, "head -c 5000000 /dev/zero | tr '\\0' x; echo; echo end; exit 1")).endswith("1: end")


def test_output_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        ran(a_script(tmp_path, "echo shown; echo off >&2"))
    assert ["hook: shown" in caplog.messages, "hook: off" in caplog.messages] == [True, True]


def test_jobs_run_in_parallel_commands_in_order(tmp_path: Path) -> None:
    path = tmp_path / "action"
    script = a_script(tmp_path, f'echo "$1" >> {path}; exit "$2"')
    rung = threading.Event()
    hooks = CommandHooks(rung.set)
    named = (("on_failure", Hook((script, "1", "4"))), ("after_rollout", Hook((script, "2", "0"))))
    jobs = {"app 1 failed": HookJob(named, {})}
    assert hooks.tend("app", jobs)["app 1 failed"].state == "running"
    assert rung.wait(10)
    result = hooks.tend("app", jobs)["app 1 failed"]
    assert (result.state, result.why) == ("over", "on_failure: exited with 4")
    assert path.read_text(encoding="ascii") == "1\n2\n"
    assert hooks.tend("app", {}) == {}


def test_listener_exit_ends_running_hooks(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    hooks = CommandHooks()
    hooks.tend(
        "app", {"a": HookJob((("before_rollout", Hook((a_script(tmp_path, f"echo $$ > {pid}; sleep 60"),))),), {})}
    )
    wait_until(lambda: pid.exists() and pid.read_text(), "the command runs")
    hooks.end()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text(encoding="ascii")), 0)


def test_listener_exit_ends_warmup_command(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        hook = Hook((a_script(tmp_path, f"trap '' TERM; echo $$ > {pid}; sleep 60 & wait; sleep 60"),))
        job = WarmupJob(os.getpid(), (tcp(port),), WarmupPolicy(timeout=60.0), "none", hook)
        warmups = HttpWarmups(KernelSockets())
        warmups.tend("app", {"app:app-1": job})
        wait_until(lambda: pid.exists() and pid.read_text(), "the command runs")
        warmups.end()
    assert eventually(lambda: is_gone(int(pid.read_text(encoding="ascii"))))
    assert warmups.tend("app", {}) == {}


# --- on a real group


@pytest.fixture
def hooked(light: Callable[..., Stack], tmp_path: Path) -> Callable[..., Stack]:
    """A stack with commands that record their arguments; ``before``: the text of the first one."""

    def hooked(before: str = "exit 0", warm: str = "exit 0", processes: int = 3, **policy: Any) -> Stack:
        note = 'echo "$1 $ROLLING_GROUP $ROLLING_PROCESS $ROLLING_PORT $ROLLING_RESULT" >> ' + str(tmp_path / "calls")
        scripts = {
            "before_rollout": a_script(tmp_path, f"{note}; {before}", "before"),
            "after_warmup": a_script(tmp_path, f"{note}; {warm}", "warm"),
            "on_failure": a_script(tmp_path, note, "failed"),
            "after_rollout": a_script(tmp_path, note, "after"),
        }
        hooks = {key: {"command": [path, key], "timeout": 20} for key, path in scripts.items()}
        stack = light(processes, hooks=hooks, **policy)
        (tmp_path / "calls").write_text("", encoding="ascii")
        return stack

    return hooked


def calls(directory: Path) -> list[str]:
    return (directory / "calls").read_text(encoding="ascii").splitlines()


def test_rollout_runs_all_hooks_without_failure(hooked: Callable[..., Stack], tmp_path: Path) -> None:
    stack = hooked()
    with users(stack) as load:
        done = stack.ctl("rolling_restart", "app", "--json")
    assert done.returncode == 0, done.stdout
    assert_no_failures(load.report())
    warm = [f"after_warmup app app-{port} {port} warm" for port in (8000, 8001, 8002)]
    assert calls(tmp_path) == ["before_rollout app   ", *warm, "after_rollout app   done"]


def test_where_the_first_fails_no_process_is_touched(hooked: Callable[..., Stack], tmp_path: Path) -> None:
    stack = hooked(before="echo no disk; exit 1")
    before = pids(stack)
    done = stack.ctl("rolling_restart", "app")
    assert (done.returncode, "before_rollout: exited with 1: no disk" in done.stdout) == (1, True), done.stdout
    assert pids(stack) == before
    assert calls(tmp_path) == ["before_rollout app   ", "on_failure app   failed", "after_rollout app   failed"]


def test_failed_warmup_command_keeps_port_closed(hooked: Callable[..., Stack], tmp_path: Path) -> None:
    stack = hooked(warm=f'test "$ROLLING_PORT" != 8001 || test ! -e {tmp_path}/bad')
    (tmp_path / "bad").touch()
    with users(stack) as load:
        done = stack.ctl("rolling_restart", "app")
    assert (done.returncode, "FAILED: is not warm: after_warmup exited with 1" in done.stdout) == (1, True), done.stdout
    assert_no_failures(load.report())
    assert "on_failure app app-8001 8001 failed" in calls(tmp_path)
    (tmp_path / "bad").unlink()  # the guard tries again
    stack.wait_until(lambda: standing(stack)["app-8001"]["gate"] == "open", 30.0, "it is open again")


def test_guard_runs_after_warmup_hook_too(hooked: Callable[..., Stack], tmp_path: Path) -> None:
    stack = hooked()
    os.kill(pids(stack)[1], signal.SIGKILL)
    stack.wait_until(lambda: calls(tmp_path) == ["after_warmup app app-8001 8001 warm"], 20.0, "the hook has run")


def test_hook_runs_again_after_listener_is_killed(hooked: Callable[..., Stack], tmp_path: Path) -> None:
    stack = hooked(before="sleep 3")
    assert stack.ctl("rolling_restart", "app", "--no-wait").returncode == 0
    stack.wait_until(lambda: len(calls(tmp_path)) == 1, 10.0, "it runs")
    assert rolling(stack)["waits_for"] == "its before_rollout hook"
    os.kill(listener_pid(stack), signal.SIGKILL)
    stack.wait_until(lambda: rolling(stack)["status"] == "done", 60.0, "the rollout is done")
    assert [line.split()[0] for line in calls(tmp_path)][:2] == ["before_rollout", "before_rollout"]
    rollout = json.loads(stack.ctl("rolling_status", "app", "--json").stdout)["rollout"]
    assert (rollout["replaced"], rollout["waits_for"]) == (3, "")
