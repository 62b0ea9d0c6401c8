"""``drain.keepalive: nginx``: whole rollouts in the simulated world, with a keepalive pool before each process."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor_rolling.core.errors import Fault
from supervisor_rolling.core.policy import DrainPolicy
from supervisor_rolling.core.port_use import Client
from supervisor_rolling.core.reason import with_see
from supervisor_rolling.core.rollout import Status
from tests.simulation.world import GROUP, World, fast_policy


def pooled(keepalive: str = "nginx", picks_every: float = 0.1, **drain: Any) -> World:
    """A world of two processes, each with five pooled connections."""
    policy = DrainPolicy(**{"timeout": 8.0, "keepalive": keepalive, "idle_after": 1.0, **drain})
    world = World(2, fast_policy(drain=policy))
    world.keepalive_closer.picks_every = picks_every
    world.keepalive_closer.fill(5)
    return world


def rolled(world: World) -> World:
    world.ask()
    world.run(world.reconciler(), 60.0)
    return world


def drains(world: World) -> list[float]:
    return [member.timing.drained for member in world.rollout().members]


def test_a_pool_that_is_used_runs_dry_and_no_request_is_lost() -> None:
    world = rolled(pooled())
    assert (world.rollout().status, world.lost) == (Status.DONE, 0)
    assert max(drains(world)) < 1.0


def test_without_it_the_same_pool_holds_each_drain_until_its_deadline() -> None:
    world = rolled(pooled("ignore"))
    assert min(drains(world)) >= 8.0


def test_a_pool_that_is_not_used_is_idle_after_quiet() -> None:
    world = rolled(pooled(picks_every=1e9))
    assert (world.rollout().status, world.lost) == (Status.DONE, 0)
    assert all(1.0 <= drained < 1.5 for drained in drains(world))


def test_a_request_that_takes_longer_than_quiet_is_waited_for() -> None:
    world = pooled(picks_every=1e9)
    for pool in world.keepalive_closer.by_port.values():
        pool[0].busy_until = pool[0].moved_at = 1007.0
    rolled(world)
    assert world.lost == 0
    assert drains(world)[0] > 3.0


def test_a_pool_that_speaks_tls_stops_the_rollout_before_anything_is_stopped() -> None:
    world = pooled()
    world.keepalive_closer.is_opaque = True
    rolled(world)
    assert world.rollout().status is Status.FAILED
    assert "has TLS or HTTP/2 on connections" in world.rollout().members[0].why
    assert (world.lost, [process.releases for process in world.processes.values()]) == (0, [[], []])
    assert not any(world.gate.is_closed(process.port) for process in world.processes.values())


@pytest.mark.parametrize("kill_after", range(1, 40, 3))
def test_the_reconciler_may_die_anywhere_and_the_next_one_empties_the_pools_on(kill_after: int) -> None:
    world = pooled()
    world.kill_after = kill_after
    rolled(world)
    assert (world.rollout().status, world.lost) == (Status.DONE, 0)


def test_where_it_cannot_work_the_rollout_is_refused_with_the_reason() -> None:
    world = pooled()
    world.keepalive_closer.problem = "drain.keepalive: nginx cannot work here"
    answer = world.ask()
    world.reconciler().reconcile()
    text = with_see("drain.keepalive: nginx cannot work here", "gate.permission")
    assert (answer.code, answer.text) == (Fault.NO_PERMISSION, text)
    assert GROUP not in world.mailbox.rollouts


def test_where_it_fails_in_the_middle_a_drain_waits_for_its_deadline() -> None:
    world = pooled(picks_every=1e9)
    world.ask()
    reconciler = world.live(world.reconciler(), 0.1)
    world.keepalive_closer.problem = "nftables: Device or resource busy"
    world.run(reconciler)
    assert drains(world)[0] >= 8.0


def test_peer_that_ignores_http_1_0_stops_the_rollout() -> None:
    world = pooled(timeout=30.0)
    world.keepalive_closer.is_deaf, world.request_sniffer.asks_every = True, 0.1
    world.clients.found = [Client("caddy", 1, "127.0.0.1")]
    world.ask(force=True)
    world.run(world.reconciler(), 60.0)
    rollout = world.rollout()
    assert (rollout.status, world.lost) == (Status.FAILED, 0)
    assert "connections that an HTTP/1.0 answer should have closed (from Caddy at 10.0.0.9:" in rollout.members[0].why
    assert "for Caddy: keepalive off in the block transport http of reverse_proxy" in rollout.members[0].why
    assert max(drains(world)) < 2.0
    assert not world.gate.is_closed(rollout.members[0].ports[0])
