"""Holds closed what the groups need closed: gates, keep-alive pools, drain flags."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence

from supervisor_rolling.core import machine
from supervisor_rolling.core.endpoint import Endpoint
from supervisor_rolling.core.group import Group
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.core.poll_interval import gate_interval
from supervisor_rolling.core.rollout import Member, Rollout, Status
from supervisor_rolling.listener.contracts import DrainFlags
from supervisor_rolling.listener.gatekeeper import Gatekeeper
from supervisor_rolling.listener.group_errors import GroupErrors
from supervisor_rolling.listener.keepalive_pools import KeepalivePools, is_for_pools

log = logging.getLogger("supervisor_rolling")


class Applier:
    """For the loop's thread. A group that fails here keeps closed what it had closed."""

    def __init__(self, gatekeeper: Gatekeeper, pools: KeepalivePools, flags: DrainFlags, errors: GroupErrors) -> None:
        self._gatekeeper = gatekeeper
        self._pools = pools
        self._flags = flags
        self._errors = errors
        self._closed: Mapping[str, Mapping[Endpoint, str]] = {}

    def hold_gates(self, groups: Mapping[str, Group]) -> None:
        """One gate for all: that of the newest rollout that closes anything, else that of a guard."""
        self._closed = {
            name: self._errors.attempt(name, group.closed, self._closed.get(name, {})) for name, group in groups.items()
        }
        closing = [groups[name] for name, held in self._closed.items() if held]
        closed = {one: text for held in self._closed.values() for one, text in held.items()}
        policy = _gate_of(closing)
        if policy is None:
            self._gatekeeper.hold({})
        else:
            finishing = [one for group in closing for one in group.finishing()]
            self._gatekeeper.hold_by(policy, closed, frozenset(closed).difference(finishing))

    def hold_pools(self, groups: Mapping[str, Group]) -> None:
        """Empty the keep-alive pools of what drains behind its gate, until it is replaced: close nginx's, and raise the
        drain flags that the middlewares read."""
        leaving = self._leaving(groups)
        self._pools.hold(leaving, self._gatekeeper.closed_since)
        self._flags.hold([(rollout.group, member.name) for rollout, member in leaving if is_for_pools(rollout)])

    def renew(self) -> None:
        """Hold what was held: close again what is found open."""
        self._gatekeeper.renew()

    def gate_interval(self) -> float:
        """Seconds until ``renew`` is due."""
        return gate_interval(self._gatekeeper.is_holding, self._gatekeeper.is_busy)

    def release(self) -> None:
        """Open every gate: the listener exits."""
        self._gatekeeper.hold({})
        if self._gatekeeper.problem:
            log.error(
                "exiting; some ports may still be closed, until their lease expires", extra={"code": "listener.exit"}
            )
        else:
            log.info("exiting; all ports are open")
        self._pools.release()
        self._flags.hold(())

    def _leaving(self, groups: Mapping[str, Group]) -> list[tuple[Rollout, Member]]:
        """The members behind a closed gate that are to be replaced, each with its rollout."""
        rollouts = {name: group.rollout for name, group in groups.items() if group.rollout}
        none: Sequence[Member] = ()
        return [
            (rollout, member)
            for name, rollout in rollouts.items()
            for member in self._errors.attempt(
                name, functools.partial(machine.leaving, rollout, self._gatekeeper.closed_since), none
            )
        ]


def _gate_of(closing: Sequence[Group]) -> GatePolicy | None:
    """The gate by which these groups are held."""
    rollouts = [
        g.rollout for g in closing if g.rollout and (g.rollout.status is Status.RUNNING or g.guard_state is None)
    ]
    if rollouts:
        return max(rollouts, key=lambda rollout: rollout.id).gate
    return next((g.guard_state.gate for g in closing if g.guard_state), None)
