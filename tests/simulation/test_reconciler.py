"""Whole rollouts in the simulated world."""

from __future__ import annotations

import collections
import itertools
import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from supervisor_rolling.core.actions import Action, Outcome
from supervisor_rolling.core.connections import Connections
from supervisor_rolling.core.endpoint import Endpoint, tcp
from supervisor_rolling.core.errors import ConfigError, Fault, GateBusyError, SocketsError
from supervisor_rolling.core.jobs import WarmupJob, WarmupStatus
from supervisor_rolling.core.nginx_config import Nginx, ProxyPass, Server, Upstream
from supervisor_rolling.core.policy import (
    BalancerPolicy,
    Config,
    DrainPolicy,
    GuardPolicy,
    PortRule,
    Share,
)
from supervisor_rolling.core.port_use import Client, Holder
from supervisor_rolling.core.preflight_report import Report
from supervisor_rolling.core.reason import with_see
from supervisor_rolling.core.rollout import Stage, Status
from supervisor_rolling.core.snapshot import Snapshot
from supervisor_rolling.core.warming import WARMUP_REPORT_GRACE
from supervisor_rolling.listener.actions import ACTIONS_AT_ONCE
from supervisor_rolling.listener.contracts import NO_ANSWER
from supervisor_rolling.listener.prometheus import PrometheusMetrics
from supervisor_rolling.listener.reconciler import ACTIONS_TIMEOUT, RETRY_EVERY, Reconciler
from supervisor_rolling.listener.rollout_requests import LOCK_TIMEOUT, READ_TIMEOUT
from tests.simulation.kernel import FakeGate, FakeSockets
from tests.simulation.supervisord import FakeSupervisor
from tests.simulation.world import GROUP, Killed, World, fast_policy


def rolled(world: World, seconds: float = 60.0, **details: Any) -> World:
    world.ask(**details)
    world.run(world.reconciler(), seconds)
    return world


def stages(world: World) -> dict[str, str]:
    return {member.name: member.stage.value for member in world.rollout().members}


def test_rollout_replaces_every_process_without_loss():
    world = rolled(World())
    assert world.rollout().status is Status.DONE
    assert [len(process.releases) for process in world.processes.values()] == [1, 1, 1, 1]
    assert (world.lost, world.cold) == (0, 0)
    assert all(member.replaced for member in world.rollout().members)


def test_max_unavailable_is_never_exceeded():
    assert rolled(World(8)).least_serving == 7
    assert rolled(World(8), max_unavailable="3").least_serving == 5


def test_least_available_is_what_users_had():
    world = rolled(World(8), max_unavailable="2")
    assert world.rollout().min_available == 6


def test_two_at_a_time_take_half_as_long():
    one, two = rolled(World(9)).rollout(), rolled(World(9), max_unavailable="2").rollout()
    assert (two.ended_at - two.started_at) < 0.65 * (one.ended_at - one.started_at)


def test_next_process_leaves_as_one_returns():
    world = World(5, fast_policy(max_unavailable=Share(number=2), canary=0))
    world.processes["app-1"].warm_takes = 3.0  # while the slow one warms, the others pass it one after another
    stops = [entry for entry in rolled(world).log if entry.startswith("stop")]
    assert stops == [f"stop app-{n}" for n in (1, 2, 3, 4, 5)]
    rollout = world.rollout()
    assert rollout.ended_at - rollout.started_at < 4.2


def test_the_canary_goes_alone():
    world = rolled(World(4, fast_policy(max_unavailable=Share(number=3), canary=1)))
    first_stop = world.log.index("stop app-1")
    second_stop = next(i for i, entry in enumerate(world.log) if entry.startswith("stop") and i > first_stop)
    assert world.log[first_stop:second_stop].count("start app-1") == 1


def test_processes_go_in_natural_order():
    world = rolled(World(11))
    assert [e.split()[1] for e in world.log if e.startswith("stop")] == [f"app-{n}" for n in range(1, 12)]


def test_process_without_traffic_goes_first_undrained():
    world = World()
    world.processes["app-3"].state, world.processes["app-3"].pid = "FATAL", 0
    actions = [e for e in rolled(world).log if e.startswith(("stop", "start"))]
    assert actions[0] == "start app-3"
    assert world.rollout().status is Status.DONE


def test_a_process_in_backoff_is_stopped_and_started():
    world = World()
    process = world.processes["app-2"]
    process.state, process.pid, process.retries, process.down_at = "BACKOFF", 0, 50, world.now
    actions = [e for e in rolled(world).log if e.startswith(("stop", "start"))]
    assert actions[:2] == ["stop app-2", "start app-2"]


def test_manually_stopped_process_is_left_stopped():
    world = World()
    world.processes["app-2"].state, world.processes["app-2"].pid = "STOPPED", 0
    rolled(world)
    assert world.processes["app-2"].state == "STOPPED"
    assert (world.rollout().status, sum(m.replaced for m in world.rollout().members)) == (Status.DONE, 3)


def test_only_the_named_processes_are_replaced():
    world = rolled(World(), processes=["app-2", "app-4"])
    assert [name for name, process in world.processes.items() if process.releases] == ["app-2", "app-4"]
    assert world.rollout().status is Status.DONE


def test_a_drain_waits_for_the_longest_connection():
    world = World()
    world.connection_takes = 1.2
    rolled(world)
    assert world.lost == 0
    assert world.rollout().members[0].timing.drained == pytest.approx(1.2, abs=0.1)


def test_a_drain_lasts_at_least_min():
    world = rolled(World(2, fast_policy(drain=DrainPolicy(timeout=2.0, min_seconds=0.7))))
    assert all(member.timing.drained >= 0.7 for member in world.rollout().members)


def test_drain_deadline_restarts_and_counts_connections():
    world = World(2)
    world.connection_takes = 100.0
    rolled(world)
    assert world.rollout().status is Status.DONE
    assert all(m.lingering_connections > 0 for m in world.rollout().members)
    assert all(m.timing.drained == pytest.approx(2.0, abs=0.1) for m in world.rollout().members)


class CountingSockets(FakeSockets):
    """Notes when connections were read, and whether with their age."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.reads: list[tuple[float, bool]] = []

    def connections(self, endpoints: Collection[Endpoint], oldest: int = 0) -> dict[Endpoint, Connections]:
        self.reads.append((self._world.now, oldest > 0))
        return super().connections(endpoints, oldest)


def test_connection_age_is_read_once_at_deadline():
    world = World(2, fast_policy(drain=DrainPolicy(timeout=1.0)))
    sockets = world.sockets = CountingSockets(world)
    world.connection_takes = 100.0
    rolled(world, processes=["app-1"])
    began = world.rollout().started_at
    assert [at - began for at, is_asked in sockets.reads if is_asked] == [pytest.approx(1.0, abs=0.1)]
    assert len(sockets.reads) > 20
    assert len(world.rollout().members[0].oldest_lingering) == 3


def test_on_timeout_fail_leaves_the_process_serving():
    world = World(2, fast_policy(drain=DrainPolicy(timeout=1.0, on_timeout="fail")))
    world.connection_takes = 100.0
    rolled(world)
    assert world.rollout().status is Status.FAILED
    assert "on_timeout: fail" in world.rollout().why
    assert not any(process.releases for process in world.processes.values())
    assert not world.gate.is_closed(8001)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"boots": "crash"}, "FATAL"),
        ({"boots": "never"}, "is not warm after 5 s (warmup.timeout): nothing listens"),
        ({"lives": 0.2}, "FATAL"),
        ({"boot_takes": 20.0}, "is not warm after 5 s"),
        ({"warms": "GET / answered 500"}, "500"),
    ],
)
def test_bad_deploy_costs_one_process(fault: dict[str, Any], words: str):
    world = World(4)
    for process in world.processes.values():
        process.deploy = fault
    rolled(world)
    rollout = world.rollout()
    assert (rollout.status, world.lost, world.cold) == (Status.FAILED, 0, 0)
    assert words in rollout.why
    assert sum(bool(process.releases) for process in world.processes.values()) == 1
    assert world.gate.is_closed(8001)


def test_failed_process_stays_closed_after_the_rollout():
    world = World(3)
    world.processes["app-1"].warms = "GET / answered 500"
    world.ask()
    reconciler = world.run(world.reconciler())
    for _ in range(10):
        pause = reconciler.reconcile()
        world.pass_time(pause)
        assert world.gate.is_closed(8001)


def test_resume_continues_after_the_fix():
    world = World(4)
    world.processes["app-3"].warms = "GET / answered 500"
    rolled(world)
    assert world.rollout().status is Status.FAILED
    world.processes["app-3"].warms = "warm"
    rolled(world, kind="resume")
    assert world.rollout().status is Status.DONE
    assert [len(process.releases) for process in world.processes.values()] == [1, 1, 2, 1]
    assert world.gate.closed_until == {}


def test_new_rollout_keeps_failed_process_closed():
    world = World(3)
    world.processes["app-1"].warms = "GET / answered 500"
    rolled(world)
    world.processes["app-1"].warms = "warm"
    rolled(world)
    assert (world.rollout().status, world.cold, world.lost) == (Status.DONE, 0, 0)


def test_max_failures_lets_a_rollout_go_on():
    world = World(4, fast_policy(max_failures=1, max_unavailable=Share(number=2)))
    world.processes["app-1"].warms = "GET / answered 500"
    rolled(world)
    assert world.rollout().status is Status.FAILED
    assert [member.replaced for member in world.rollout().members] == [False, True, True, True]


def test_abort_while_draining_reopens_port():
    world = World(3)
    world.connection_takes = 1.0
    world.ask()
    reconciler = world.reconciler()
    world.run(reconciler, 0.5)
    assert stages(world)["app-1"] == "draining"
    world.mailbox.flag("app", aborting=True)
    world.run(reconciler)
    assert world.rollout().status is Status.ABORTED
    assert set(stages(world).values()) == {"open"}
    assert not any(process.releases for process in world.processes.values())
    assert world.gate.closed_until == {}


def test_abort_lets_restarting_process_warm_up():
    world = World(3)
    world.ask()
    reconciler = world.reconciler()
    world.run(reconciler, 0.2)
    assert stages(world)["app-1"] in ("restarting", "warming")
    world.mailbox.flag("app", aborting=True)
    world.run(reconciler)
    assert world.rollout().status is Status.ABORTED
    assert [len(process.releases) for process in world.processes.values()] == [1, 0, 0]
    assert (world.cold, world.lost, world.gate.closed_until) == (0, 0, {})


def test_pause_starts_no_restart_until_resume():
    world = World(3)
    world.ask()
    reconciler = world.reconciler()
    world.run(reconciler, 0.2)
    world.mailbox.flag("app", paused=True)
    world.run(reconciler, 20.0)
    assert world.rollout().status is Status.RUNNING
    assert [len(process.releases) for process in world.processes.values()] == [1, 0, 0]
    world.mailbox.flag("app", paused=False)
    world.run(reconciler)
    assert world.rollout().status is Status.DONE


def test_leaking_gate_stops_nothing():
    world = World(3)
    world.gate.leaks = {8001}
    world.connection_takes = 0.3
    rolled(world)
    assert world.rollout().status is Status.FAILED
    assert "new connections although its port is closed" in world.rollout().why
    assert not any(entry.startswith("stop") for entry in world.log)


def test_drain_flag_lasts_until_replaced():
    world = World(3)
    world.connection_takes = 0.5
    world.ask()
    reconciler = world.reconciler()
    flagged: dict[str, set[str]] = {}

    def note() -> bool:
        for name in world.drain_flags.flagged:
            flagged.setdefault(name, set()).add(stages(world)[name])
        return world.rollout().status is not Status.RUNNING

    world.live(reconciler, 60.0, note)
    assert flagged == {f"app-{n}": {"draining", "restarting"} for n in (1, 2, 3)}
    assert world.drain_flags.flagged == set()


def test_reopened_process_loses_its_drain_flag():
    world = World(3)
    world.connection_takes = 100.0
    world.ask()
    reconciler = world.reconciler()
    world.run(reconciler, 0.5)
    assert world.drain_flags.flagged == {"app-1"}
    world.mailbox.flag("app", aborting=True)
    world.run(reconciler)
    assert world.drain_flags.flagged == set()


def test_keepalive_pool_fails_before_a_stop():
    world = World(3)
    world.connection_takes = 100.0
    world.request_sniffer.asks_every = 0.2
    world.ask()
    world.run(world.reconciler()).reconcile()
    assert world.rollout().status is Status.FAILED
    assert "requests on keep-alive connections opened before its port was closed" in world.rollout().why
    assert not any(entry.startswith("stop") for entry in world.log)
    assert not world.gate.is_closed(8001)
    assert (world.lost, world.request_sniffer.watched) == (0, [])


def test_accepted_keepalive_pool_is_ignored():
    world = World(3, fast_policy(drain=DrainPolicy(timeout=0.5, keepalive="ignore")))
    world.connection_takes = 100.0
    world.request_sniffer.asks_every = 0.1
    rolled(world)
    assert world.rollout().status is Status.DONE
    assert world.lost > 0


class FlushedBeforeARead(FakeSockets):
    """Once, another program flushes the rules and a user connects, both between the gate's read and this one."""

    reads = 0

    def connections(self, endpoints: Collection[Endpoint], oldest: int = 0) -> dict[Endpoint, Connections]:
        world = self._world
        self.reads += tcp(8001) in endpoints and 8001 in world.gate.closed_until
        if self.reads == 3:
            self.reads, world.gate.closed_until = 4, {}
            world.processes["app-1"].connections.append(world.now + 0.3)
        return super().connections(endpoints, oldest)


def test_client_after_a_flush_is_no_leak():
    world = World(3)
    sockets = world.sockets = FlushedBeforeARead(world)
    world.connection_takes = 0.3
    rolled(world)
    assert sockets.reads > 4
    assert (world.rollout().status, world.lost) == (Status.DONE, 0), world.rollout().why


def test_failing_gate_stops_nothing():
    world = World(3)
    world.ask()
    reconciler = world.reconciler()
    reconciler.reconcile()
    world.gate.problem = "the table is locked"
    world.run(reconciler)
    assert world.rollout().status is Status.FAILED
    assert "the table is locked" in world.rollout().why
    assert not any(entry.startswith("stop") for entry in world.log)


class LockedGate(FakeGate):
    """Another program holds the lock of the firewall for so many seconds from the first time that it is asked for."""

    def __init__(self, world: World, seconds: float) -> None:
        super().__init__(world)
        self._seconds = seconds
        self._asked_at = math.inf

    def check(self) -> None:
        self._asked_at = min(self._asked_at, self._world.now)
        if self._world.now < self._asked_at + self._seconds:
            raise GateBusyError("another program holds the lock", {})


def locked(seconds: float) -> World:
    world = World(3)
    world.gate = LockedGate(world, seconds)
    return world


def test_lock_taken_at_start_is_no_warning(caplog: pytest.LogCaptureFixture):
    locked(1.0).reconciler()
    assert [record.levelname for record in caplog.records if "lock" in record.getMessage()] in ([], ["INFO"])
    world = World(3)
    world.gate.problem = "no rights"
    world.reconciler()
    assert caplog.messages[-1] == "no port can be closed, and rollouts of groups with ports are refused: no rights"


def test_invalid_policy_at_start_ends_nothing(caplog: pytest.LogCaptureFixture):
    def invalid() -> Config:
        raise ConfigError("a typing error")

    World(3).reconciler(load_config=invalid)
    assert not caplog.messages  # the crash guard logs it, once


def test_request_waits_for_a_short_lock():
    world = locked(1.0)
    request = world.ask()
    world.run(world.reconciler())
    assert (request.state, world.rollout().status) == ("accepted", Status.DONE)


def test_request_is_refused_when_a_lock_stays_taken():
    world = locked(60.0)
    request = world.ask()
    asked_at = world.now
    world.live(world.reconciler(), 10.0, lambda: request.state != "asked")
    assert (request.state, request.text) == ("refused", with_see("another program holds the lock", "gate.busy"))
    assert LOCK_TIMEOUT <= world.now - asked_at < LOCK_TIMEOUT + 1.0


def test_momentary_gate_failure_fails_no_rollout():
    world = World(3, fast_policy(drain=DrainPolicy(timeout=40.0)))
    world.connection_takes = 30.0
    world.ask()
    reconciler = world.reconciler()
    world.run(reconciler, 15.0)
    assert stages(world)["app-1"] == "draining"
    world.gate.problem = "the lock is held"
    world.run(reconciler, 1.0)
    world.gate.problem = ""
    world.connection_takes = 0.05
    world.run(reconciler)
    assert (world.rollout().status, world.lost) == (Status.DONE, 0), world.rollout().why


def test_repeated_defect_ends_no_listener(monkeypatch: pytest.MonkeyPatch):
    """It would open all gates in the middle of a rollout."""
    world = World(3)
    world.connection_takes = 5.0
    world.ask()
    reconciler = world.reconciler()
    world.run(reconciler, 1.0)

    def hold(ports: Collection[int], lease: float) -> dict[int, str]:
        raise KeyError("hit")

    monkeypatch.setattr(world.keepalive_closer, "hold", hold)
    assert reconciler.reconcile() == RETRY_EVERY
    assert world.gate.closed_until[8001] > world.now


def test_reopened_gate_takes_the_pool_up_again(monkeypatch: pytest.MonkeyPatch):
    """nginx may have connected meanwhile."""
    world = World(3, fast_policy(drain=DrainPolicy(keepalive="nginx", timeout=20.0)))
    world.connection_takes = 5.0
    held: list[list[int]] = []
    real = world.keepalive_closer.hold

    def hold(ports: Collection[int], lease: float) -> dict[int, str]:
        held.append(list(ports))
        return real(ports, lease)

    monkeypatch.setattr(world.keepalive_closer, "hold", hold)
    world.ask()
    reconciler = world.reconciler()
    world.run(reconciler, 1.0)
    assert stages(world)["app-1"] == "draining"
    assert held[-1] == [8001]
    held.clear()
    world.gate.closed_until.clear()
    reconciler.reconcile()
    reconciler.reconcile()
    assert held == [[], [8001], [8001]]


def test_warm_up_passes_the_gate_in_force(monkeypatch: pytest.MonkeyPatch):
    world = World(3)
    bypasses: list[str] = []
    real = world.warmups.tend

    def tend(group: str, selected: Mapping[str, WarmupJob]) -> Mapping[str, WarmupStatus]:
        bypasses.extend(job.bypass for job in selected.values())
        return real(group, selected)

    monkeypatch.setattr(world.warmups, "tend", tend)
    world.ask()
    reconciler = world.reconciler()
    world.run(reconciler, 0.5)
    world.gate_policy = replace(world.gate_policy, bypass="address")
    world.crash("app-3")
    world.run(reconciler, 3.0)
    assert {"app-1", "app-3"} <= world.warmups.warmed
    assert set(bypasses) == {"mark"}


def test_what_haproxy_drains_is_not_watched_for_pools():
    world = World(3)
    world.gate_policy = replace(world.gate_policy, backend="haproxy")
    world.connection_takes = 3.0
    world.ask()
    reconciler = world.reconciler()
    world.run(reconciler, 1.0)
    assert stages(world)["app-1"] == "draining"
    assert (list(world.request_sniffer.watched), world.drain_flags.flagged) == ([], set())


@pytest.mark.parametrize(
    ("problem", "logged"),
    [("", "exiting; all ports are open"), ("x", "exiting; some ports may still be closed, until their lease expires")],
)
def test_exiting_listener_logs_whether_ports_are_open(problem: str, logged: str, caplog: pytest.LogCaptureFixture):
    world = World(3)
    reconciler = world.reconciler()
    world.gate.problem = problem
    with caplog.at_level("INFO"):
        reconciler.release()
    assert caplog.messages[-1] == logged


def test_exiting_listener_drops_warm_ups():
    world = World(3)
    world.ask()
    reconciler = world.reconciler()
    while not world.warmups.running:
        world.pass_time(reconciler.reconcile())
    reconciler.release()
    assert not world.warmups.running


def test_defect_in_publishing_keeps_rollouts_going(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("an unexpected defect")

    world = World(3)
    monkeypatch.setattr(world.history, "keep", broken)
    monkeypatch.setattr(PrometheusMetrics, "is_on", broken)
    world.ask()
    world.run(world.reconciler())
    assert world.rollout().status is Status.DONE
    assert (world.lost, world.cold) == (0, 0)
    assert "an unexpected defect" in caplog.text


def test_one_history_request_per_reconcile():
    world = World(2)
    asked = [world.ask("history") for _ in range(3)]
    plan = world.ask("plan")
    reconciler = world.reconciler()
    answered = []
    for _ in range(3):
        world.pass_time(reconciler.reconcile())
        answered.append([one.state for one in (*asked, plan)])
    assert answered == [
        ["answered", "asked", "asked", "answered"],
        ["answered", "answered", "asked", "answered"],
        ["answered", "answered", "answered", "answered"],
    ]


def test_actions_beyond_the_time_wait(
    monkeypatch: pytest.MonkeyPatch,
):
    world = World(30, fast_policy(max_unavailable=Share(number=20), canary=0))
    batches, action = [], world.supervisor.action

    def slow(group: str, actions: Sequence[Action]) -> list[Outcome]:
        batches.append((reconciles, len(actions)))
        world.now += ACTIONS_TIMEOUT * 0.7
        return action(group, actions)

    monkeypatch.setattr(world.supervisor, "action", slow)
    world.ask()
    reconciler = world.reconciler()
    reconciles = 0
    while sum(number for _, number in batches) < 20:
        world.pass_time(reconciler.reconcile())
        reconciles += 1
    assert {number for _, number in batches} == {ACTIONS_AT_ONCE}
    assert max(collections.Counter(number for number, _ in batches).values()) == 2
    monkeypatch.undo()
    world.run(reconciler)
    assert (world.rollout().status, world.lost, world.cold) == (Status.DONE, 0, 0)


# --- the set-up

LONE = Nginx(
    upstreams=(Upstream("app", "f:1", (Server("127.0.0.1", 8001, "f:2", max_fails=0),)),),
    proxy_passes=(ProxyPass("app", "f:9"),),
    own=frozenset({"127.0.0.1"}),
)
SLOW = Nginx(
    upstreams=(Upstream("app", "f:1", tuple(Server("::1", 8000 + n, "f:2", fail_timeout=3.0) for n in (1, 2, 3))),),
    proxy_passes=(ProxyPass("app", "f:9"),),
    own=frozenset({"::1"}),
)


def test_error_refuses_rollout_and_plan_unless_forced():
    world = World(3)
    world.balancers.nginx = LONE
    for kind in ("restart", "plan"):
        request = world.ask(kind)
        world.reconciler().reconcile()
        assert (request.state, request.code) == ("refused", Fault.REFUSED)
        head, finding, ways = request.text.splitlines()
        assert head == "a rollout of app is refused because of 1 error:"
        assert "has one server only" in finding
        assert ". Fix: " in finding
        assert ways.startswith("All of them: supervisorctl rolling_check app. ")
        assert request.text.endswith("To ignore them: supervisorctl rolling_restart app --force")
    world = World(3)
    world.balancers.nginx = LONE
    assert rolled(world, force=True).rollout().status is Status.DONE


def test_advice_refuses_nothing():
    world = World(3)
    servers = (Server("127.0.0.1", 8001, "f:2", max_fails=0), Server("192.0.2.7", 9, "f:3"))
    world.balancers.nginx = replace(LONE, upstreams=(Upstream("app", "f:1", servers),))
    assert rolled(world).rollout().status is Status.DONE


def test_gate_failing_its_probe_refuses_a_rollout():
    world = World(3)
    reconciler = world.reconciler()
    reconciler.reconcile()  # what another listener has closed is known from here on
    world.gate_probes.failures = ["lets new connections to ::1 through"]
    request = world.ask()
    reconciler.reconcile()
    assert (request.state, "on a spare port of this host the gate lets new" in request.text) == ("refused", True)


def test_a_request_waits_until_the_configuration_is_read():
    world = World(3)
    world.balancers.nginx = None
    request = world.ask()
    reconciler = world.reconciler()
    reconciler.reconcile()
    assert request.state == "asked"
    world.balancers.nginx = Nginx(problem="there is none")
    reconciler.reconcile()
    assert request.state == "accepted"


@pytest.mark.parametrize(("why", "state"), [("ECONNREFUSED", "refused"), (NO_ANSWER, "accepted"), ("", "accepted")])
def test_unreachable_process_refuses_a_rollout(why: str, state: str):
    world = World(3)
    world.gate_probes.unreached = why
    request = world.ask()
    world.reconciler().reconcile()
    assert request.state == state


def test_a_plan_tries_nothing():
    world = World(3)
    world.gate_probes.unreached, world.gate_probes.failures = "ECONNREFUSED", ["does nothing"]
    request = world.ask("plan")
    reconciler = world.reconciler()
    reconciler.reconcile()
    assert request.state == "answered"


def test_request_waits_while_configuration_is_read(monkeypatch: pytest.MonkeyPatch):
    world = World(3)
    world.balancers.nginx = None
    world.ask()
    loads: list[int] = []
    reconciler = world.reconciler()

    def load() -> Config:
        loads.append(1)
        return world.config

    world.load_config = load
    for _ in range(5):
        reconciler.reconcile()
    assert len(loads) == 1


def test_slow_configuration_delays_only_for_patience():
    world = World(3, fast_policy(min_ready_auto=True, min_ready_seconds=10.0))
    world.balancers.nginx = None
    request = world.ask()
    reconciler = world.reconciler()
    world.run(reconciler, READ_TIMEOUT + 1.0)
    assert request.state == "accepted"
    assert world.rollout().policy.min_ready_seconds == 10.0
    request = world.ask("check")
    world.run(reconciler, READ_TIMEOUT + 1.0)
    assert request.answer.skipped == ("nginx's configuration: still being read. Fix: check again",)


def test_rollout_keeps_nginx_min_ready_seconds():
    world = World(3, fast_policy(min_ready_auto=True))
    world.balancers.nginx = SLOW
    world.ask()
    reconciler = world.reconciler()
    reconciler.reconcile()
    assert (world.rollout().policy.min_ready_seconds, world.rollout().policy.min_ready_why) == (
        4.0,
        "max_fails=1, fail_timeout=3s",
    )
    world.balancers.nginx = LONE
    world.run(reconciler, 60.0)
    assert world.rollout().status is Status.DONE
    assert min(member.timing.ready for member in world.rollout().members) >= 4.0


def test_min_ready_needs_every_balancer():
    checks = "backend app\n option redispatch 1\n server a 127.0.0.1:8001 check inter 500 rise 4\n"
    read = Client("haproxy", 7, "127.0.0.1", files=(("/h.cfg", checks),))
    for clients, expected in [([read], (2.0, True)), ([read, Client("envoy", 8, "127.0.0.1")], (10.0, False))]:
        world = World(
            3, fast_policy(min_ready_auto=True, min_ready_seconds=10.0, balancer=BalancerPolicy(retries=True))
        )
        world.clients.found = list(clients)
        world.ask()
        world.reconciler().reconcile()
        assert (world.rollout().policy.min_ready_seconds, world.rollout().policy.min_ready_read) == expected


@pytest.mark.parametrize(
    ("nginx", "expected"), [(Nginx(problem="there is none"), (0.0, True)), (None, (0.0, True)), (SLOW, (4.0, True))]
)
def test_min_ready_is_zero_behind_haproxys_gate(nginx: Nginx | None, expected: tuple[float, bool]):
    """Unless nginx sends to the group, too. Clients that an earlier gate has looked up do not count."""
    world = World(3, fast_policy(min_ready_auto=True, min_ready_seconds=10.0))
    world.gate_policy = replace(world.gate_policy, backend="haproxy")
    world.balancers.nginx = nginx
    world.clients.found = [Client("envoy", 8, "127.0.0.1")]
    reconciler = world.reconciler()
    world.run(reconciler, 0.1)
    guard_policy = world.guard_state().policy
    world.ask(force=True)
    world.run(reconciler, READ_TIMEOUT + 1.0)
    policy = world.rollout().policy
    assert (policy.min_ready_seconds, policy.min_ready_read) == expected
    assert guard_policy.min_ready_seconds == expected[0]


def test_changed_gate_changes_min_ready():
    world = World(3, fast_policy(min_ready_auto=True, min_ready_seconds=10.0))
    world.balancers.nginx, world.clients.found = Nginx(problem="there is none"), []
    reconciler = world.reconciler()
    for backend, expected in [("haproxy", 0.0), ("auto", 10.0), ("haproxy", 0.0)]:
        world.gate_policy = replace(world.gate_policy, backend=backend)
        world.run(reconciler, 0.1)
        assert world.guard_state().policy.min_ready_seconds == expected


def test_rollout_waits_for_known_clients():
    world = World(3)
    world.clients.found = None
    request = world.ask()
    reconciler = world.reconciler()
    reconciler.reconcile()
    assert world.rollout_or_none() is None
    world.clients.found = [Client("caddy", 7, "127.0.0.1")]
    reconciler.reconcile()
    assert "Caddy sends requests to the group, and does not try another server" in request.text


def test_guard_uses_nginx_min_ready_seconds():
    world = World(3, fast_policy(min_ready_auto=True))
    world.balancers.nginx = SLOW
    world.run(world.reconciler(), 0.1)
    assert world.guard_state().policy.min_ready_seconds == 4.0


def checked(world: World, reconciler: Reconciler | None = None) -> Report:
    request = world.ask("check")
    reconciler = reconciler or world.reconciler()
    for _ in range(3):
        reconciler.reconcile()
    assert request.state == "answered"
    report: Report = request.answer
    return report


def test_unread_connected_nginx_is_a_warning():
    world = World(3)
    world.balancers.nginx = Nginx(source="/etc/nginx/nginx.conf")
    world.clients.found = [Client("nginx", 7, "127.0.0.1", files=(("/srv/n.conf", ""),))]
    report = checked(world)
    (finding,) = report.findings
    assert (finding.code, finding.severity) == ("balancer.unread", "warning")
    assert finding.fix == "set groups.app.balancer: {nginx: /srv/n.conf}"
    assert report.skipped == ()


def test_check_touches_nothing_and_lists_its_checks():
    world = World(3)
    report = checked(world)
    assert report.findings == ()
    assert report.checked == (
        "3 processes and their ports",
        "the gate (world)",
        "which users can change the files that the listener executes",
    )
    assert report.skipped == ("nginx's configuration: there is no nginx in this world",)
    assert not list(world.mailbox.rollouts)
    assert not world.gate.closed_until


def test_check_connects_to_no_closed_port():
    world = World(3, fast_policy(drain=DrainPolicy(timeout=40.0)))
    world.connection_takes = 100.0
    world.ask()
    reconciler = world.reconciler()
    world.run(reconciler, 1.0)
    assert {member.name: member.stage for member in world.rollout().members}["app-1"] is Stage.DRAINING
    world.gate_probes.connected.clear()
    checked(world, reconciler)
    assert world.gate_probes.connected == [8002, 8003]


def test_check_lists_all_errors_at_once():
    world = World(1, fast_policy(max_failures=3))
    world.gate.problem = "no CAP_NET_ADMIN"
    world.balancers.nginx = LONE
    found = [finding.code for finding in checked(world).findings]
    assert found == ["gate", "config.max_failures", "rollout.last_serving", "nginx.lone"]


def test_check_of_unconfigured_group_is_an_error():
    world = World(3)
    world.policy = replace(world.policy, group="web")
    config = Config(world.gate_policy, {"web": world.policy})
    reconciler = world.reconciler()
    world.load_config = lambda: config
    (finding,) = checked(world, reconciler).findings
    assert (finding.code, finding.severity) == ("config.group", "error")
    assert "rolling.yaml has no policy for the group app (it has web)" in finding.text


@pytest.mark.parametrize(
    ("method", "skipped"), [("ports_of", "which process listens where"), ("listeners", "where the processes listen")]
)
def test_unreadable_facts_are_skipped_without_a_finding(method: str, skipped: str):
    def hidden(*_: object, **__: object) -> dict[int, Any]:
        raise SocketsError("Cannot see which ports process 100 listens on")

    world = World(3)
    setattr(world.sockets, method, hidden)
    report = checked(world)
    assert report.findings == ()
    assert f"{skipped}: Cannot see which ports process 100 listens on" in report.skipped


def test_check_lists_errors_of_every_group():
    world = World(3)
    invalid = {"app": "f:1: groups.app.x: unknown\nf:2: groups.app.y: unknown", "web": "f:9: groups.web.z: unknown"}
    reconciler = world.reconciler()
    world.load_config = lambda: Config(world.gate_policy, {}, invalid=invalid)
    found = [(finding.text, finding.severity) for finding in checked(world, reconciler).findings]
    assert found == [
        ("f:1: groups.app.x: unknown", "error"),
        ("f:2: groups.app.y: unknown", "error"),
        ("f:9: groups.web.z: unknown", "warning"),
    ]


def test_resumed_rollout_is_not_checked_again():
    world = World(3)
    world.processes["app-2"].boots = "never"
    rolled(world)
    assert world.rollout().status is Status.FAILED
    world.processes["app-2"].boots = "up"
    world.balancers.nginx = LONE
    world.ask("resume")
    world.run(world.reconciler())
    assert world.rollout().status is Status.DONE


def test_stall_beyond_the_lease_drains_again():
    world = World(3)
    world.connection_takes = 0.5
    world.ask()
    reconciler = world.reconciler()
    world.run(reconciler, 0.3)
    assert stages(world)["app-1"] == "draining"
    world.pass_time(20.0)  # no reconcile: the lease ends, users come back
    assert not world.gate.is_closed(8001)
    world.run(reconciler)
    assert (world.rollout().status, world.lost) == (Status.DONE, 0)


def test_rollout_waits_for_a_crashed_process():
    world = World(4)
    world.processes["app-4"].startsecs = 2.0
    world.ask()
    reconciler = world.reconciler()
    world.run(reconciler, 0.1)
    lost = world.lost
    world.crash("app-4")
    world.lost = lost
    world.run(reconciler)
    assert world.rollout().status is Status.DONE
    assert world.least_serving >= 2


def test_dead_replacement_fails_the_rollout():
    world = World(4)
    world.ask()
    reconciler = world.reconciler()
    while world.rollout_or_none() is None or not world.rollout().members[0].replaced:
        reconciler.reconcile()
        world.pass_time(0.02)
    world.crash("app-1")
    world.cold = 0
    world.run(reconciler)
    assert world.rollout().status is Status.FAILED
    assert "s after its port was opened: " in world.rollout().why
    assert stages(world)["app-1"] == "open"
    assert world.processes["app-1"].warm_pid == world.processes["app-1"].pid


def test_holder_of_a_port_is_named():
    world = World(3)
    world.processes["app-1"].deploy = {"boots": "crash"}
    world.sockets.holders[8001] = Holder((41,), "python3", "app:app-1")
    rolled(world, 60.0)
    assert world.rollout().why == (
        "app:app-1 exited during its warm-up: it is FATAL; "
        "port 8001 is held by process 41 (python3), left by an earlier app:app-1. Fix: kill 41"
    )
    assert world.sockets.holders_asked == [[8001]] * 2, "while it is in BACKOFF, and when it is FATAL"


def test_a_rollout_that_can_never_go_on_ends():
    world = World(3)
    broken = world.processes["app-1"]
    broken.boots = "crash"
    broken.state, broken.pid = "STARTING", 999
    broken.retries = -1000
    rolled(world, 120.0)
    assert world.rollout().status is not Status.RUNNING


# --- requests


def refusal(world: World, **details: Any) -> tuple[int, str]:
    request = world.ask(**details)
    world.reconciler().reconcile()
    assert request.state == "refused"
    assert not any(entry.startswith(("stop", "start")) for entry in world.log)
    return request.code, request.text


def test_the_only_process_is_not_taken_without_force():
    code, text = refusal(World(1))
    assert code == Fault.REFUSED
    assert "--force" in text


def test_the_only_process_is_taken_with_force():
    world = rolled(World(1), force=True)
    assert world.rollout().status is Status.DONE


def test_stopped_group_has_nothing_to_replace():
    world = World(2)
    for process in world.processes.values():
        process.state, process.pid = "STOPPED", 0
    code, text = refusal(world)
    assert code == Fault.REFUSED
    assert "supervisorctl start app:*" in text


def test_a_group_without_a_policy_is_not_configured():
    world = World(2)
    world.policy = replace(world.policy, group="other")
    code, text = refusal_of_other_policy(world)
    assert code == Fault.NOT_CONFIGURED
    assert "groups.app" in text


def refusal_of_other_policy(world: World) -> tuple[int, str]:
    reconciler = world.reconciler()
    world.load_config = lambda: replace(world.config, groups={"other": world.policy})
    request = world.ask()
    reconciler.reconcile()
    return request.code, request.text


def test_process_without_port_names_place_of_group():
    world = World(2)
    config = replace(world.config, groups={"app": replace(world.policy, ports=PortRule())}, places={"app": "r.yaml:3"})
    reconciler = world.reconciler()
    world.load_config = lambda: config
    request = world.ask()
    reconciler.reconcile()
    assert request.text.startswith("r.yaml:3: groups.app.ports finds no port for app-1, app-2. Fix: correct ")
    assert request.text.endswith("See: supervisor_rolling help config.ports")


def test_shared_port_names_both_processes():
    world = World(3, fast_policy(ports=PortRule(by_name={"app-1": (8001,), "app-2": (8002,), "app-3": (8001,)})))
    code, text = refusal(world)
    assert code == Fault.NOT_CONFIGURED
    assert "8001 to app-1 and to app-3" in text


def test_process_without_port_is_refused():
    world = World(3, fast_policy(ports=PortRule(by_name={"web": (8001,)})))
    code, text = refusal(world)
    assert code == Fault.NOT_CONFIGURED
    assert "app-1, app-2, app-3" in text


def test_a_gate_that_cannot_work_refuses_the_rollout():
    world = World(3)
    world.gate.problem = "no CAP_NET_ADMIN"
    assert refusal(world)[1] == with_see("no CAP_NET_ADMIN", "gate")


def test_dry_run_touches_nothing():
    world = World(3)
    world.processes["app-3"].state, world.processes["app-3"].pid = "FATAL", 0
    request = world.ask("plan")
    world.reconciler().reconcile()
    assert request.state == "answered"
    plan = request.answer
    assert [member.name for member in plan.members] == ["app-3", "app-1", "app-2"]
    assert set(world.gate.closed_until) == {8003}  # the guard's: it does not run
    assert not list(world.mailbox.rollouts)


# --- deaths


class Dying(World):
    """Its reconcilers die after these operations, counted from the beginning."""

    def __init__(self, processes: int, *deaths: int) -> None:
        super().__init__(processes)
        self._deaths = list(deaths)
        self._next_death()

    def operation(self, what: str) -> None:
        try:
            super().operation(what)
        except Killed:
            self._next_death()
            raise

    def _next_death(self) -> None:
        self.kill_after = self._deaths.pop(0) if self._deaths else 0


def survived(world: World) -> World:
    """The world after a rollout in which listeners died."""
    try:
        reconciler = world.reconciler()
    except Killed:
        reconciler = world.reconciler()
    world.ask()
    world.run(reconciler)
    return world


def end_of(world: World) -> dict[str, Any]:
    """All that is left of a rollout in the end, but for pids and times."""
    processes = world.processes.values()
    return {
        "status": world.rollout().status,
        "members": [(m.stage, m.replaced, m.failed, m.why, m.lingering_connections) for m in world.rollout().members],
        "restarts": [len(process.releases) for process in processes],
        "warm": [world.mailbox.is_warm(GROUP, process.name, process.incarnation) for process in processes],
        "guarded": world.guard_state().guarded,
        "closed": world.gate.closed_until,
        "harm": (world.lost, world.cold),
    }


def quick(world: World) -> World:
    """With processes that take so little time that a rollout has few operations."""
    world.connection_takes = 0.02
    for process in world.processes.values():
        process.boot_takes = process.warm_takes = process.stop_takes = 0.02
        process.startsecs = 0.03
    return world


EVERY_PROCESS_ONCE = {
    "status": Status.DONE,
    "members": [(Stage.OPEN, True, False, "", 0)] * 3,
    "restarts": [1] * 3,
    "warm": [True] * 3,
    "guarded": (),
    "closed": {},
    "harm": (0, 0),
}


def test_the_reconciler_may_die_after_any_operation():
    whole = rolled(World(3))
    assert end_of(whole) == EVERY_PROCESS_ONCE
    for death in range(1, whole.operations + 1):
        assert end_of(survived(Dying(3, death))) == EVERY_PROCESS_ONCE, death


@pytest.mark.parametrize("sample", [400, pytest.param(None, marks=pytest.mark.soak)], ids=["sample", "all"])
def test_the_reconciler_may_die_after_any_two_operations(sample: int | None):
    """All pairs take two minutes, so that each run but a soak takes a sample of them: always the same, by its seed."""
    whole = survived(quick(World(2)))
    end = end_of(whole)
    assert (end["status"], end["restarts"], end["closed"]) == (Status.DONE, [1, 1], {})
    deaths = range(1, whole.operations + 8)  # what is done again after the first makes a rollout longer
    pairs = list(itertools.combinations(deaths, 2))
    for first, second in random.Random(19).sample(pairs, sample or len(pairs)):
        assert end_of(survived(quick(Dying(2, first, second)))) == end, (first, second)


# --- what operators and the world do meanwhile


def failed_at(world: World, name: str) -> World:
    """A world in which a rollout has failed at this process, and the code is fixed now."""
    world.processes[name].warms = "GET / answered 500"
    rolled(world)
    assert world.rollout().status is Status.FAILED
    world.processes[name].warms = "warm"
    return world


def test_resume_after_manual_restarts_closes_nothing():
    world = failed_at(World(4), "app-4")
    for name in ("app-1", "app-2", "app-3"):
        world.restart_by_hand(name)
    world.pass_time(1.0)
    world.least_serving = 4
    rolled(world, kind="resume")
    assert (world.rollout().status, world.least_serving) == (Status.DONE, 3)
    warm = {
        name for name, process in world.processes.items() if world.mailbox.is_warm("app", name, process.incarnation)
    }
    assert warm == set(world.processes)  # the guard has warmed the others


def test_group_dying_at_once_stays_open():
    world = World(4)
    world.ask()
    reconciler = world.reconciler()
    while world.rollout_or_none() is None or not world.rollout().members[2].replaced:
        reconciler.reconcile()
        world.pass_time(0.02)
    for name in world.processes:
        world.crash(name)
    world.run(reconciler)
    assert world.rollout().status is Status.FAILED
    assert len(world.gate.closed_until) <= 1


def test_unstartable_process_is_replaced_after_the_fix():
    world = World(4)
    world.refuses_to_start = "NO_FILE: can't find command"
    rolled(world)
    assert world.rollout().status is Status.FAILED
    assert "refused to start it: NO_FILE" in world.rollout().why
    world.refuses_to_start = ""
    rolled(world, kind="resume")
    assert world.rollout().status is Status.DONE
    assert all(process.state == "RUNNING" for process in world.processes.values())
    assert sum(member.replaced for member in world.rollout().members) == 4


def test_reopened_failed_process_is_drained_first():
    world = failed_at(World(3), "app-1")
    world.connection_takes = 0.5
    world.gate.closed_until = {}  # the listener was away, and the kernel opened the port
    world.pass_time(2.0)
    lost = world.lost
    rolled(world, kind="resume")
    assert (world.rollout().status, world.lost) == (Status.DONE, lost)


@pytest.mark.parametrize("away", [0.5, 30.0, 300.0])
def test_long_absence_fails_no_process(away: float):
    for until in ("draining", "restarting", "warming", "ready"):
        world = World(3, min_ready_seconds=0.3)
        world.connection_takes = 0.3
        world.ask()
        reconciler = world.reconciler()
        while world.rollout_or_none() is None or until not in stages(world).values():
            reconciler.reconcile()
            world.pass_time(0.01)
        world.pass_time(away)
        world.run(world.reconciler())
        assert (world.rollout().status, world.lost) == (Status.DONE, 0), until


def away_in_a_warm_up(boots: str) -> World:
    """The rollout when the listener is back after 40 s in which the deadline of the warm-up (5 s) has passed."""
    world = World(3)
    world.processes["app-1"].deploy = {"boots": "never"}
    world.ask()
    reconciler = world.reconciler()
    while world.rollout_or_none() is None or stages(world)["app-1"] != "warming":
        reconciler.reconcile()
        world.pass_time(0.01)
    reconciler.reconcile()
    world.pass_time(40.0)
    reconciler.reconcile()
    assert (stages(world)["app-1"], world.rollout().members[0].failed) == ("warming", False)
    world.processes["app-1"].boots = boots
    world.run(reconciler, 20.0)
    return world


def test_process_warm_after_an_absence_is_opened():
    world = away_in_a_warm_up("up")
    assert (world.rollout().status, world.cold) == (Status.DONE, 0)


def test_never_warm_process_fails_after_an_absence():
    world = away_in_a_warm_up("never")
    assert world.rollout().status is Status.FAILED
    assert world.rollout().ended_at - world.rollout().started_at < 40.0 + 5.0 + WARMUP_REPORT_GRACE + 0.5
    assert "is not warm after 5 s (warmup.timeout): nothing listens on its port" in world.rollout().why


@pytest.mark.parametrize("until", ["draining", "warming", "ready"])
def test_process_stopped_mid_rollout_is_left_stopped(until: str):
    world = World(3, min_ready_seconds=0.5)
    world.connection_takes = 0.5
    world.ask()
    reconciler = world.reconciler()
    while world.rollout_or_none() is None or stages(world)["app-1"] != until:
        reconciler.reconcile()
        world.pass_time(0.01)
    world.stop("app-1")
    world.run(reconciler)
    assert world.processes["app-1"].state == "STOPPED"
    assert world.rollout().status is Status.DONE
    assert set(world.gate.closed_until) == {8001}  # by the guard, for when it is started
    assert "stopped manually" in world.rollout().members[0].why


def left_failed() -> tuple[World, Reconciler]:
    """An ended rollout without a guard has left app-1 failed, and so closed."""
    world = World(3, fast_policy(guard=GuardPolicy(enabled=False)))
    world.processes["app-1"].deploy = {"warms": "GET / answered 500"}
    world.ask()
    reconciler = world.run(world.reconciler())
    assert (world.rollout().status, set(world.gate.closed_until)) == (Status.FAILED, {8001})
    return world, reconciler


def test_unguarded_failed_process_stays_closed():
    world, reconciler = left_failed()
    reconciler = world.live(reconciler, 10.0)
    world.crash("app-1")
    reconciler = world.live(reconciler, 10.0)
    assert world.processes["app-1"].state == "RUNNING"
    world.stop("app-1")
    world.live(reconciler, 10.0)
    assert (stages(world)["app-1"], set(world.gate.closed_until)) == ("failed", {8001})


def test_restart_by_supervisord_itself_opens_no_failed_process():
    world = World(3, fast_policy(guard=GuardPolicy(enabled=False)))
    world.processes["app-1"].deploy = {"warms": "GET / answered 500"}
    world.processes["app-1"].started_by_other_at = world.processes["app-1"].spawned  # by supervisord, at its begin
    world.connection_takes = 5.0
    world.ask()
    reconciler = world.live(world.reconciler(), 5.0, lambda: world.rollout().members[0].stage is Stage.DRAINING)
    world.crash("app-1")  # as one that exits when it is notified
    world.spawn(world.processes["app-1"])  # before the rollout can order it
    reconciler = world.run(reconciler)
    world.crash("app-1")
    reconciler = world.live(reconciler, 10.0)
    assert world.processes["app-1"].state == "RUNNING"
    assert (stages(world)["app-1"], set(world.gate.closed_until)) == ("failed", {8001})
    world.ask()
    world.live(reconciler, 0.2, lambda: world.rollout().id == 2)
    world.mailbox.flag("app", aborting=True)
    reconciler = world.run(reconciler)
    world.crash("app-1")
    world.live(reconciler, 10.0)
    assert (stages(world)["app-1"], set(world.gate.closed_until)) == ("failed", {8001})


@pytest.mark.parametrize("is_new_listener", [False, True])
def test_unguarded_failed_process_opens_after_manual_restart(is_new_listener: bool):
    world, reconciler = left_failed()
    world.restart_by_hand("app-1")
    reconciler = world.live(world.reconciler() if is_new_listener else reconciler, 2.0)
    member = world.rollout().members[0]
    assert (member.stage, member.failed, world.rollout().status) == (Stage.OPEN, True, Status.FAILED)
    assert "answered 500; then it was restarted manually, so its port is open" in member.why
    assert world.gate.closed_until == {}
    world.processes["app-1"].deploy = {"warms": "warm"}
    world.ask()
    world.run(reconciler)
    assert (world.rollout().status, world.rollout().members[0].replaced) == (Status.DONE, True)


@pytest.mark.parametrize("is_asked", [False, True])
def test_time_without_listener_counts_for_no_deadline(is_asked: bool):
    world = World(2)
    world.processes["app-1"].deploy = {"boot_takes": 31.0}
    world.ask()
    world.live(world.reconciler(), 5.0, lambda: world.rollout().members[0].stage is Stage.WARMING)
    world.pass_time(30.0)
    if is_asked:
        world.ask("history", number=1)
    world.run(world.reconciler())
    assert (world.rollout().status, world.rollout().why) == (Status.DONE, "")


class SlowToAct(FakeSupervisor):
    """A reconcile waits for the xtables lock between the record of a stop and its action."""

    def action(self, group: str, actions: Sequence[Action]) -> list[Outcome]:
        self._world.pass_time(1.5)
        return super().action(group, actions)


def test_late_stop_is_not_taken_for_a_kill():
    world = World(3)
    world.supervisor = SlowToAct(world)
    for process in world.processes.values():
        process.stopwaitsecs, process.stop_takes = 1.0, 0.1
    rolled(world)
    assert (world.rollout().status, world.rollout().why) == (Status.DONE, "")
    assert not any(member.killed for member in world.rollout().members)


class OperatorsProcess(World):
    """app-1 must not be started by the rollout: the operator who stopped it may wait for that."""

    def start(self, name: str) -> Outcome:
        assert name != "app-1", "the operator would wait for ever"
        return super().start(name)


class FasterOperator(FakeSupervisor):
    """The operator stops app-1 between the observation that found it drained and the rollout's own action."""

    def action(self, group: str, actions: Sequence[Action]) -> list[Outcome]:
        if not self._world.processes["app-1"].releases and actions[0].name == "app-1":
            self._world.stop("app-1")
        return super().action(group, actions)


def with_faster_operator() -> World:
    world = OperatorsProcess(3)
    world.supervisor = FasterOperator(world)
    return world


def test_operators_earlier_stop_is_left_stopped():
    world = with_faster_operator()
    rolled(world)
    assert world.processes["app-1"].state == "STOPPED"
    assert world.rollout().status is Status.DONE
    assert "stopped manually" in world.rollout().members[0].why


class StoppedAfterObservation(FakeSupervisor):
    """The operator stops app-1 while it drains, and it is dead before supervisord is asked again."""

    def observe(self, guarded: Collection[str]) -> Snapshot:
        world = self._world
        found = super().observe(guarded)
        if world.rollout_or_none() and stages(world)["app-1"] == "draining" and world.processes["app-1"].pid:
            world.stop("app-1")
            world.goes_down(world.processes["app-1"], "STOPPED")
        return found


def test_operators_unreported_stop_is_left_stopped():
    world = OperatorsProcess(3)
    world.supervisor = StoppedAfterObservation(world)
    world.connection_takes = 0.5
    rolled(world)
    assert world.rollout().status is Status.DONE
    assert "stopped manually" in world.rollout().members[0].why


def test_operators_earlier_restart_counts_as_replaced():
    world = with_faster_operator()
    world.ask()
    reconciler = world.run(world.reconciler(), 0.5)
    assert world.processes["app-1"].state == "STOPPED"
    world.spawn(world.processes["app-1"])
    world.run(reconciler)
    assert (world.rollout().status, world.cold) == (Status.DONE, 0)
    assert [len(process.releases) for process in world.processes.values()] == [1, 1, 1]


@pytest.mark.parametrize("until", ["restarting", "warming", "open"])  # the second; the first is replaced then
def test_manual_restart_after_replacement_is_warmed(until: str):
    world = World(5)
    world.ask()
    reconciler = world.reconciler()
    while world.rollout_or_none() is None or not world.rollout().members[0].replaced or stages(world)["app-2"] != until:
        reconciler = world.run(reconciler, 0.01)
    world.restart_by_hand("app-1")
    reconciler = world.run(reconciler)
    assert (world.rollout().status, world.cold) == (Status.DONE, 0)
    assert [len(process.releases) for process in world.processes.values()] == [2, 1, 1, 1, 1]
    assert world.mailbox.is_warm(GROUP, "app-1", world.processes["app-1"].incarnation)


@pytest.mark.parametrize("is_guarded", [True, False])
def test_cold_manual_restart_fails_the_rollout(is_guarded: bool):
    world = World(3, fast_policy(min_ready_seconds=0.5, guard=GuardPolicy(enabled=is_guarded)))
    world.ask()
    reconciler = world.reconciler()
    last = world.processes["app-3"]
    while not last.releases or stages(world)["app-3"] != "ready":
        reconciler = world.run(reconciler, 0.01)
    last.warms = "GET / answered 500"
    world.restart_by_hand("app-3")
    reconciler = world.run(reconciler)
    world.live(reconciler, 1.0)
    assert world.rollout().status is Status.FAILED
    assert "GET / answered 500" in world.rollout().why


def test_partly_replaced_stopped_group_aborts():
    world = World(3)
    world.ask()
    reconciler = world.reconciler()
    while world.rollout_or_none() is None or not world.rollout().members[0].replaced:
        reconciler = world.run(reconciler, 0.01)
    for name in world.processes:
        world.stop(name)
    world.run(reconciler)
    assert (world.rollout().status, "stopped manually" in world.rollout().why) == (Status.ABORTED, True)


def test_manually_stopped_group_aborts():
    world = World(3)
    world.connection_takes = 0.5
    world.ask()
    reconciler = world.reconciler()
    world.run(reconciler, 0.3)
    for name in world.processes:
        world.stop(name)
    world.run(reconciler)
    assert (world.rollout().status, world.rollout().members[0].selected) == (Status.ABORTED, False)
    assert "stopped manually" in world.rollout().why


@pytest.mark.parametrize("processes", [2, 3])
def test_flush_at_any_moment_costs_no_request(processes: int):
    """A wall clock that jumps over the end of the lease, or another program that flushes the rules."""
    for moment in range(1, rolled(World(processes)).operations + 1):
        world = Flushed(processes, moment)
        rolled(world)
        assert (world.rollout().status, world.lost) == (Status.DONE, 0), moment
        assert [len(process.releases) for process in world.processes.values()] == [1] * processes, moment


class Flushed(World):
    """The gates open after an operation, unknown to the reconciler."""

    def __init__(self, processes: int, moment: int) -> None:
        super().__init__(processes)
        self._moment = moment

    def operation(self, what: str) -> None:
        super().operation(what)
        if self.operations == self._moment:
            self.gate.closed_until = {}


def test_unknown_process_ends_the_rollout():
    world = World(3)
    world.connection_takes = 100.0
    world.ask()
    reconciler = world.reconciler()
    world.run(reconciler, 0.3)
    world.processes["app-1"].state = "UNKNOWN"
    world.run(reconciler, 60.0)
    assert world.rollout().status is Status.FAILED


def test_fix_may_be_in_the_gate_section():
    world = failed_at(World(3), "app-1")
    world.gate_policy = replace(world.gate_policy, method="redirect")
    rolled(world, kind="resume")
    assert (world.rollout().status, world.gate.closed_until) == (Status.DONE, {})


def test_too_large_max_failures_is_refused():
    code, text = refusal(World(4, fast_policy(max_failures=1)))
    assert code == Fault.NOT_CONFIGURED
    assert "max_failures" in text


def test_wrong_port_is_refused_before_closing():
    world = World(3)
    listens = {100: (9001,), 101: (8002,), 102: (8001, 9100)}  # the third has the port of the first, too
    world.sockets.ports_of = lambda pids: {pid: listens[pid] for pid in pids}  # type: ignore[method-assign]
    code, text = refusal(world)
    assert code == Fault.NOT_CONFIGURED
    assert "app-1 listens on 9001 and not on 8001; app-3 listens on 8001, 9100 and not on 8003" in text
    assert world.gate.closed_until == {}


AUTO = fast_policy(ports=PortRule(auto=True))


def test_auto_follows_processes_that_moved_since_the_last_rollout():
    world = rolled(World(3, AUTO))
    for name, process in world.processes.items():
        process.port += 1000
        world.restart_by_hand(name)
    world.pass_time(1.0)
    rolled(world)
    assert world.rollout().status is Status.DONE
    assert [member.ports for member in world.rollout().members] == [(9001,), (9002,), (9003,)]


def test_auto_resume_keeps_the_port_of_a_failed_process():
    world = failed_at(World(3, AUTO), "app-1")
    world.processes["app-1"].port = 9001
    rolled(world, kind="resume")
    assert world.rollout().members[0].ports == (8001,)


def test_auto_process_that_listens_nowhere_has_a_fix():
    world = World(3, AUTO)
    world.sockets.ports_of = lambda pids: dict.fromkeys(pids, ())  # type: ignore[method-assign]
    assert "Fix: wait until they listen, end an old process that still holds their port" in refusal(world)[1]


def test_unreadable_ports_start_the_rollout():
    world = World(3)

    def hidden(pids: Collection[int]) -> dict[int, tuple[int, ...]]:
        raise SocketsError("Cannot see which ports process 100 listens on")

    world.sockets.ports_of = hidden  # type: ignore[method-assign]
    rolled(world)
    assert world.rollout().status is Status.DONE


def test_proxied_port_is_rolled_out_normally():
    """A container: what supervisord has started listens on nothing itself."""
    world = World(3)
    world.sockets.ports_of = lambda pids: dict.fromkeys(pids, ())  # type: ignore[method-assign]
    rolled(world)
    assert world.rollout().status is Status.DONE


def test_resume_without_failure_is_refused():
    assert refusal(World(3), kind="resume")[0] == Fault.REFUSED


# --- drain notifications


def pooled(signal: str = "USR1", processes: int = 4, request: str = "") -> World:
    """A world with connections that are kept for ever, unless the process is notified."""
    world = World(processes, fast_policy(drain=DrainPolicy(timeout=2.0, signal=signal, request=request)))
    world.connection_takes = 1000.0
    for process in world.processes.values():
        process.heeds = request or "USR1"
    return world


both_ways = pytest.mark.parametrize("way", [{"signal": "USR1"}, {"signal": "", "request": "GET /drain"}])


@both_ways
def test_signalled_process_ends_kept_connections(way: dict[str, str]):
    world = rolled(pooled(**way))  # type: ignore[arg-type]
    assert world.rollout().status is Status.DONE
    assert world.lost == 0
    assert all(0.1 <= member.timing.drained < 0.5 for member in world.rollout().members)
    assert [len(process.notified) for process in world.processes.values()] == [1, 1, 1, 1]
    assert world.notified_while_open == 0
    lost = rolled(pooled(signal=""))
    assert lost.lost > 0
    assert all(not process.notified for process in lost.processes.values())


def test_failed_signal_is_not_repeated():
    world = pooled()
    world.refuses_to_signal = "BAD_SIGNAL"
    rolled(world)
    assert world.rollout().status is Status.DONE
    assert all(member.timing.drained == pytest.approx(2.0, abs=0.1) for member in world.rollout().members)


def test_fatal_signal_is_sent_to_no_other():
    world = pooled()
    for process in world.processes.values():
        process.heeds = ""
    rolled(world)
    assert world.rollout().status is Status.FAILED
    assert [member.replaced for member in world.rollout().members] == [True, False, False, False]
    assert [len(process.notified) for process in world.processes.values()] == [1, 0, 0, 0]
    assert world.processes["app-1"].state == "RUNNING"
    assert not world.gate.is_closed(8001)


@both_ways
def test_second_drain_signals_again(way: dict[str, str]):
    world = pooled(**way)  # type: ignore[arg-type]
    process = world.processes["app-1"]
    pid = process.pid
    world.ask()
    reconciler = world.live(world.reconciler(), 10.0, lambda: bool(process.notified))
    world.mailbox.flag(GROUP, aborting=True)
    world.run(reconciler)
    assert (world.rollout().status, process.pid) == (Status.ABORTED, pid)
    world.ask("resume")
    world.run(reconciler)
    assert process.notified == [(pid, process.heeds)] * 2
    assert world.rollout().status is Status.DONE


@both_ways
def test_killed_listener_notifies_only_closed_processes(way: dict[str, str]):
    operations = rolled(pooled(processes=2, **way)).operations
    for moment in range(1, operations + 1, 2):
        world = pooled(processes=2, **way)
        world.kill_after = moment
        rolled(world)
        assert world.rollout().status is Status.DONE
        assert (world.lost, world.notified_while_open) == (0, 0), f"killed after operation {moment}"
        for process in world.processes.values():
            assert 1 <= len(process.notified) <= 2, f"killed after operation {moment}"
            assert len({pid for pid, _ in process.notified}) == 1, f"killed after operation {moment}"


def test_notified_process_is_not_stopped_meanwhile():
    world = pooled(signal="", request="GET /drain")
    world.connection_takes, world.notifications.takes = 0.05, 0.7
    rolled(world)
    assert world.rollout().status is Status.DONE
    assert all(member.timing.drained == pytest.approx(0.7, abs=0.1) for member in world.rollout().members)


def test_unanswered_notification_ends_at_the_deadline():
    world = pooled(signal="", request="GET /drain")
    world.connection_takes, world.notifications.takes = 0.05, 1000.0
    rolled(world)
    assert world.rollout().status is Status.DONE
    assert all(member.timing.drained == pytest.approx(2.0, abs=0.1) for member in world.rollout().members)
