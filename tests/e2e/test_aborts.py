"""An abort at whatever moment brings every process back to OPEN, or leaves it FAILED and closed: never between.

In the simulated world at every step of time, with good and with bad deploys; and for real at every stage.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from supervisor_rolling.core.policy import RestartPolicy, Share, WarmupPolicy
from supervisor_rolling.core.rollout import Rollout, Stage, Status
from tests.simulation.test_properties import assert_guarded
from tests.simulation.world import World, fast_policy
from tests.support.load import Load, Plan
from tests.support.look import assert_no_failures, pids, refuses, rolling, wait_ended, wait_open, wait_stage
from tests.support.stack import Stack

# --- the simulated world

DEPLOYS: dict[str, dict[str, Any]] = {
    "good": {},
    "dies at import": {"boots": "crash"},
    "exits after a while": {"lives": 0.2},
    "answers 500": {"warms": "GET / answered 500"},
    "hangs or listens elsewhere": {"boots": "never"},
    "boots too slowly": {"boot_takes": 60.0},
    "dies when it has been opened": {"lives": 0.6},
}

EVERY = 0.02  # seconds between two moments at which it is tried
MOST = 60  # moments in a rollout: those of a long one are further apart
LONGEST = 12.0  # seconds of a rollout


def a_world(deploy: dict[str, Any], good: int, unstoppable: bool = False, on_kill: str = "fail") -> World:
    """Four processes, two at a time; the first ``good`` of them get a good deploy. ``unstoppable``: those that run do
    not stop."""
    policy = fast_policy(
        min_ready_seconds=0.2,
        max_unavailable=Share(number=2),
        warmup=WarmupPolicy(timeout=1.5 if deploy.get("boots") == "never" else 4.0),
        restart=RestartPolicy(timeout=3.0, on_kill=on_kill),
    )
    world = World(4, policy)
    for process in list(world.processes.values())[good:]:
        process.deploy = deploy
    for process in world.processes.values():
        process.stop_takes, process.stopwaitsecs = (60.0, 0.4) if unstoppable else (process.stop_takes, 3.0)
        process.deploy = {**process.deploy, "stop_takes": 0.05}
    return world


def aborted(world: World, at: float) -> Rollout:
    """The rollout after an abort ``at`` seconds into it."""
    world.ask()
    reconciler = world.live(world.reconciler(), at)
    world.mailbox.flag("app", aborting=True)
    world.run(reconciler, LONGEST)
    return world.rollout()


def assert_nothing_is_between(world: World, rollout: Rollout) -> None:
    assert rollout.status is not Status.RUNNING
    assert {member.stage for member in rollout.members} <= {Stage.OPEN, Stage.FAILED}
    assert_guarded(world)
    for member in rollout.members:
        process = world.processes[member.name]
        assert process.state not in ("STOPPED", "STOPPING"), "what the rollout has stopped is started again"
        if member.stage is Stage.FAILED:
            assert member.failed
            assert world.gate.is_closed(process.port)
        elif process.warm_pid == process.pid:
            assert not world.gate.is_closed(process.port)


def moments(make: Callable[[], World]) -> list[float]:
    """From the beginning of such a rollout until after its end."""
    world = make()
    world.ask()
    began = world.now
    world.run(world.reconciler(), LONGEST)
    assert world.rollout().status is not Status.RUNNING
    every = max(EVERY, (world.now - began) / MOST)
    return [n * every for n in range(round((world.now - began) / every) + 2)]


@pytest.mark.parametrize("good", [0, 1])
@pytest.mark.parametrize("deploy", DEPLOYS.values(), ids=DEPLOYS)
def test_abort_at_any_moment_leaves_no_process_halfway(deploy: dict[str, Any], good: int) -> None:
    statuses = set()
    for at in moments(lambda: a_world(deploy, good)):
        world = a_world(deploy, good)
        rollout = aborted(world, at)
        assert_nothing_is_between(world, rollout)
        assert (world.lost, world.cold) == (0, 0) or "lives" in deploy, "but what died with requests in it"
        statuses.add(rollout.status)
    assert statuses == {Status.ABORTED, Status.FAILED if deploy else Status.DONE}


@pytest.mark.parametrize("on_kill", ["fail", "continue"])
def test_abort_while_process_ignores_sigterm_leaves_none_stopped(on_kill: str) -> None:
    statuses = set()
    for at in moments(lambda: a_world({}, 0, True, on_kill)):
        world = a_world({}, 0, True, on_kill)
        rollout = aborted(world, at)
        assert_nothing_is_between(world, rollout)
        assert (world.lost, world.cold) == (0, 0)
        assert {member.stage for member in rollout.members} == {Stage.OPEN}
        assert all(member.killed and member.replaced for member in rollout.members if member.attempted)
        statuses.add(rollout.status)
    assert statuses == {Status.ABORTED, Status.FAILED if on_kill == "fail" else Status.DONE}


# --- the real thing


def started(start: Callable[..., Stack], fault: str = "", min_ready_seconds: float = 0.0) -> Stack:
    """Four warm processes; ``fault`` is theirs."""
    setup = {
        "application": "tests.support.light_app",
        "startsecs": 0,
        "program": "stopwaitsecs = 1",
        "balance": "least_conn;",
        "files": {"fault": fault},
    }
    warmup = {"timeout": 5, "ready": "/health", "requests": ["/"]}
    stack = start(4, setup=setup, max_unavailable=2, warmup=warmup, min_ready_seconds=min_ready_seconds)
    wait_open(stack)
    return stack


def abort_at(stack: Stack, stage: str) -> dict[str, Any]:
    """Rollout, abort when the first process is in that stage, and wait for the end; the first process as it then is.
    The others were not reached."""
    before = pids(stack)
    with Load(Plan(stack.url, rate=60.0), stack.directory / "load.jsonl") as load:
        assert stack.ctl("rolling_restart", "app", "--no-wait").returncode == 0
        wait_stage(stack, stage, "app-8000")
        assert "aborting" in stack.ctl("rolling_abort", "app").stdout
        rollout = wait_ended(stack)
    assert_no_failures(load.report())
    assert rollout["status"] == "aborted"
    first, *others = rollout["processes"]
    assert [(p["stage"], p["attempted"]) for p in others] == [("open", False)] * 3
    assert pids(stack)[1:] == before[1:]
    assert [refuses(port) for port in stack.setup.ports] == [first["stage"] == "failed", False, False, False]
    assert stack.processes()[0].state == "RUNNING"
    assert (first["pid"] or before[0]) == pids(stack)[0]
    return dict(first)


def test_abort_while_draining_reopens_port(start: Callable[..., Stack]) -> None:
    stack = started(start)
    with socket.create_connection(("127.0.0.1", 8000), timeout=10.0) as held:
        first = abort_at(stack, "draining")
        held.sendall(b"GET /health HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
        assert held.recv(100).startswith(b"HTTP/1.1 200 OK")
    assert (first["stage"], first["attempted"], first["failed"]) == ("open", False, False)
    assert rolling(stack)["replaced"] == 0


@pytest.mark.parametrize(
    ("stage", "old", "new", "min_ready_seconds"),
    [("restarting", "deaf", "", 0.0), ("warming", "", "slow 1", 0.0), ("ready", "", "", 4.0)],
)
def test_abort_after_stop_starts_and_warms_process(
    start: Callable[..., Stack], stage: str, old: str, new: str, min_ready_seconds: float
) -> None:
    stack = started(start, old, min_ready_seconds)
    stack.fault(new)
    first = abort_at(stack, stage)
    assert (first["stage"], first["replaced"], first["killed"]) == ("open", True, old == "deaf")
    assert rolling(stack)["replaced"] == 1


def test_abort_leaves_a_cold_process_closed_with_reason(start: Callable[..., Stack]) -> None:
    stack = started(start)
    stack.fault("hang everywhere")
    first = abort_at(stack, "warming")
    assert (first["stage"], first["replaced"]) == ("failed", False)
    assert first["why"] == "is not warm after 5 s (warmup.timeout): GET /health did not answer"
