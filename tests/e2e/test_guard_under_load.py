"""The guard with the real supervisord, nginx, netfilter and load, and the fastest binder."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import race
from tests.support import plugin
from tests.support.load import Load, Plan
from tests.support.look import is_warm_and_open, standing, wait_open
from tests.support.stack import Setup, Stack
from tests.support.waiting import stays

POLICY = "rolling.yaml"


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Stack]]:
    """A guarded group in which every process is warm and open."""
    stacks: list[Stack] = []

    def start(processes: int = 4, **changes: Any) -> Stack:
        setup = Setup(
            processes=processes,
            supervisor=plugin.sections(Path("%(here)s") / POLICY),
            files={POLICY: plugin.policy(**changes)},
        )
        stacks.append(Stack(tmp_path_factory.mktemp("g"), setup))
        stack = stacks[-1].__enter__()
        wait_open(stack)
        return stack

    yield start
    for stack in stacks:
        stack.__exit__(None, None, None)


def kill(stack: Stack, number: int) -> int:
    pid = stack.processes()[number].pid
    os.kill(pid, signal.SIGKILL)
    return pid


def unavailable(stack: Stack) -> int:
    """How many processes of the group are not warm or not open."""
    return sum(not process["warm"] or process["gate"] != "open" for process in standing(stack).values())


def test_crashed_processes_get_no_request_until_warm(start: Callable[..., Stack]):
    stack, chance = start(), random.Random(7)
    with Load(Plan(stack.url, rate=50.0, posts=0.0), stack.directory / "load.jsonl") as load:
        for _ in range(8):
            load.wait_more(chance.randint(75, 125))
            stack.wait_until(lambda: unavailable(stack) < 2, 30.0, "the guard may close another (max_closed)")
            kill(stack, chance.randrange(4))
        wait_open(stack)
    report = load.report()
    assert (report.gets_failed, report.cold) == (0, 0)
    assert report.requests > 400


@pytest.mark.parametrize("verbs", [("restart",), ("stop", "start")])
def test_manual_restart_is_warm_before_it_serves(start: Callable[..., Stack], verbs: tuple[str, ...]):
    stack = start(processes=3)
    with Load(Plan(stack.url, rate=50.0, posts=0.0), stack.directory / "load.jsonl") as load:
        for verb in verbs:
            stack.ctl(verb, "app:app-8001")
            load.wait_more(25)
        wait_open(stack)
    assert (load.report().gets_failed, load.report().cold) == (0, 0)


def test_listener_restart_leaves_warm_processes_alone(start: Callable[..., Stack]):
    stack = start(processes=3)
    before = standing(stack)
    log = next(stack.directory.glob("rolling-stderr*.log"))
    listener: Any = stack.rpc().supervisor.getProcessInfo("rolling")
    os.kill(listener["pid"], signal.SIGKILL)
    stack.wait_until(lambda: log.read_text(encoding="utf-8").count("is running with") == 2, 20.0, "another listens")
    assert stays(lambda: is_warm_and_open(stack), seconds=1.0)
    assert {n: p["pid"] for n, p in standing(stack).items()} == {n: p["pid"] for n, p in before.items()}
    later = log.read_text(encoding="utf-8").rpartition("is running with")[2]
    assert "guard" not in later, "it found nothing to do"


def test_failed_warmup_keeps_port_closed_and_retries(start: Callable[..., Stack]):
    stack = start(processes=3)
    stack.fault("500")
    kill(stack, 1)
    stack.wait_until(lambda: standing(stack)["app-8001"]["stage"] == "failed", 30.0, "it has failed")
    found = standing(stack)["app-8001"]
    assert (found["gate"], found["warm"], found["tries"]) == ("closed", False, 1)
    shown = stack.ctl("rolling_status", "app").stdout
    assert "answered 500" in shown
    assert "1 attempt, next in" in shown
    stack.fault()
    kill(stack, 1)  # the new process is good, and is warmed at once
    stack.wait_until(lambda: standing(stack)["app-8001"]["warm"], 4.0, "it is warm")
    wait_open(stack)


def test_boot_loop_stays_closed_between_attempts(start: Callable[..., Stack]):
    stack = start(processes=3)
    stack.fault("die")
    kill(stack, 1)
    observed = set()

    def is_fatal() -> bool:
        found = standing(stack)["app-8001"]
        observed.add((found["stage"], found["gate"]))
        return bool(found["statename"] == "FATAL")

    stack.wait_until(is_fatal, 20.0, "supervisord has given up")
    assert {gate for _, gate in observed} <= {"closed", "open"}
    assert ("down", "closed") in observed
    assert standing(stack)["app-8001"]["gate"] == "closed"


def test_crash_of_whole_group_serves_again_and_warms(start: Callable[..., Stack]):
    stack = start()
    for process in stack.processes():
        os.kill(process.pid, signal.SIGKILL)
    stack.wait_serving(20.0)
    wait_open(stack)


def test_guard_false_leaves_a_group_alone(tmp_path: Path):
    setup = Setup(
        processes=2,
        supervisor=plugin.sections(Path("%(here)s") / POLICY),
        files={POLICY: plugin.policy(guard=False)},
    )
    with Stack(tmp_path, setup) as stack:
        kill(stack, 0)

        def is_left_alone() -> bool:
            return all(process["gate"] == "open" and not process["warm"] for process in standing(stack).values())

        assert stays(is_left_alone, seconds=2.0)


def test_gate_closes_before_the_fastest_process_binds():
    crashes = race.measure(8, 60)
    ahead = sorted(crash.bound - crash.closed for crash in crashes)
    assert all(crash.closed for crash in crashes)
    assert ahead[len(ahead) // 10] > 0, "nine times in ten at least, however busy the machine"
    assert sum(crash.cold for crash in crashes) <= 1
