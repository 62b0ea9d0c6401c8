"""The turn: look, decide, record, hold, order.

The roller joins the pure machine to the world. It remembers nothing that cannot be lost: what it keeps between two
turns are observations (since when a port is closed, who was connected then), and a new roller that lacks them looks
again.

The order of a turn is what makes it safe to die anywhere in it. A roll is recorded before its gates move, gates
close before supervisord is told to stop anything, and an order is given only for what the gate said after that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from supervisor_rolling.errors import (
    ConfigError,
    ConflictError,
    GateError,
    RefusedError,
    SocketsError,
    SupervisorError,
    fault_of,
)
from supervisor_rolling.in_listener.answers import roll_for
from supervisor_rolling.in_listener.contracts import Sockets, Supervisor, Warmups
from supervisor_rolling.in_listener.gatekeeper import Gatekeeper
from supervisor_rolling.model import Config, Member, Request, Roll, Seen, Stage, Status, Warmth, World
from supervisor_rolling.pure import machine
from supervisor_rolling.pure.leaks import Leaks
from supervisor_rolling.pure.sentences import changes, summary
from supervisor_rolling.pure.stages import Order, Verb, closed_since

log = logging.getLogger("supervisor_rolling")
T = TypeVar("T")

DRAIN_LOOK_EVERY = 0.02
"""Seconds between two looks at the connections of a port that drains: what a drain takes longer than it must."""

MOVE_LOOK_EVERY = 0.05
"""Seconds between two looks while a process restarts or warms up; events and ended warm-ups wake the roller earlier."""

REST_LOOK_EVERY = 0.5
"""Seconds between two looks while a roll waits, settles or is paused."""

BARELY = 0.002
"""Seconds after the end of startsecs at which supervisord, woken by a look, calls a process RUNNING."""

IDLE_LOOK_EVERY = 60.0
"""Seconds between two looks when there is nothing to do: supervisord's TICK_5 comes earlier."""

CONFLICT_PAUSE = 0.01
"""Seconds until the next turn when somebody else wrote: an operator's wish, which the next look finds."""

LONGEST_GAP = 2.0
"""Seconds between two looks at a roll beyond which nobody could act: the listener was away, or kept waiting."""

ANSWER_SEEN_AFTER = 0.06
"""Seconds after an answer at which one more look lets supervisord hand it on: it asks its deferred answers every
0.05 s, but only when something wakes it."""

RETRY_EVERY = 1.0
"""Seconds until the next turn when supervisord or the kernel did not answer."""


@dataclass
class Roller:
    """Turns of all the rolls of one supervisord. For one thread."""

    supervisor: Supervisor
    sockets: Sockets
    warmups: Warmups
    gatekeeper: Gatekeeper
    load_config: Callable[[], Config]
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._leaks: dict[str, Leaks] = {}
        self._refusals: dict[str, str] = {}
        self._complaint = ""
        self._answered_at = float("-inf")

    def begin(self) -> None:
        """Say at once what would keep every roll from working."""
        try:
            self.gatekeeper.prove(self.load_config().gate)
        except (ConfigError, GateError) as error:
            log.warning("no roll can begin until this is mended: %s", error)

    def turn(self) -> float:
        """One pass over all rolls. Returns the seconds until the next one is due, unless an event comes earlier."""
        try:
            pause = self._turn()
        except ConflictError:
            self.gatekeeper.renew()
            return CONFLICT_PAUSE
        except (SupervisorError, SocketsError) as error:
            self._complain(str(error))
            self.gatekeeper.renew()
            return RETRY_EVERY
        except Exception:  # whatever else it is: a listener that ends over it leaves every gate to its lease
            log.exception("a defect of supervisor_rolling; this turn is left and the next one looks anew")
            self.gatekeeper.renew()
            return RETRY_EVERY
        self._complain("")
        return pause

    def release(self) -> None:
        """Open every gate: the listener ends."""
        self.gatekeeper.hold({})

    def _turn(self) -> float:
        world = self._look()
        self.gatekeeper.renew()  # supervisord may have kept us waiting for longer than the lease
        old = {group: roll for group, (_, roll) in world.rolls.items()}
        warmths = self.warmups.tend(
            {_key(g, name): job for g, roll in old.items() for name, job in machine.jobs(roll).items()}
        )
        seen = {group: self._see(roll, world, warmths) for group, roll in old.items()}
        new = {group: self._decide(roll, version, seen[group]) for group, (version, roll) in world.rolls.items()}
        self._hold(new)
        for group, roll in new.items():
            self._order(roll, seen[group])
        if any(_has_moved(old[group], roll) for group, roll in new.items()):
            self._answered_at = self.clock()  # the end of a roll answers those who wait for it
            return 0.0
        pauses = [_pause(new[group], seen[group]) for group in new]
        hand_on = self._answered_at + ANSWER_SEEN_AFTER - self.clock()
        return min([IDLE_LOOK_EVERY, *pauses, *([hand_on] if hand_on > 0 else [])])

    # --- look

    def _look(self) -> World:
        world = self.supervisor.look()
        if not world.requests:
            return world
        for request in world.requests:
            self._answer(request, world)
        self._answered_at = self.clock()
        return self.supervisor.look()

    def _answer(self, request: Request, world: World) -> None:
        version, previous = world.rolls.get(request.group, (0, None))
        try:
            config = self.load_config()
            self.gatekeeper.prove(config.gate)
            number = 1 + max((known.id for _, known in world.rolls.values()), default=0)
            roll = roll_for(number, request, config, world.processes[request.group], previous, self.sockets, self.clock)
        except (ConfigError, RefusedError, GateError, SocketsError) as error:
            log.warning("%s of %s refused: %s", request.kind, request.group, error)
            self.supervisor.refuse(request.id, fault_of(error), str(error))
            return
        if request.kind == "plan":
            self.supervisor.plan(request.id, machine.planned(roll, world.processes[request.group]))
        else:
            self.supervisor.record(roll, version, request.id)
            self._refusals = {key: text for key, text in self._refusals.items() if not key.startswith(f"{roll.group}:")}
            log.info("%s roll %d begins: %s, %d at a time", roll.group, roll.id, summary(roll), roll.limit)

    def _see(self, roll: Roll, world: World, warmths: Mapping[str, Warmth]) -> Seen:
        at = self.clock()
        draining = [member for member in roll.members if member.stage is Stage.DRAINING]
        peers = self._peers(draining)
        since = {member.name: closed_since(member, self.gatekeeper.closed_since) for member in draining}
        return Seen(
            at=at,
            processes=world.processes.get(roll.group, {}),
            gap=world.idle if world.idle > LONGEST_GAP else 0.0,
            closed=self.gatekeeper.closed_since,
            gate_problem=self.gatekeeper.problem,
            connections={name: len(found) for name, found in peers.items()},
            leaks=self._leaks.setdefault(roll.group, Leaks()).find(peers, since, at),
            warmths=_of_group(roll.group, warmths),
            refusals=_of_group(roll.group, self._refusals),
        )

    def _peers(self, draining: list[Member]) -> dict[str, frozenset[str]]:
        ports = [port for member in draining for port in member.ports]
        found = self.sockets.connections(ports) if ports else {}
        return {m.name: frozenset(peer for port in m.ports for peer in found[port].peers) for m in draining}

    # --- decide, record, hold, order

    def _decide(self, roll: Roll, version: int, seen: Seen) -> Roll:
        advanced = machine.advance(roll, seen)
        if advanced != roll:
            self.supervisor.record(advanced, version)
            for sentence in changes(roll, advanced):
                log.info("%s", sentence)
        return advanced

    def _hold(self, rolls: Mapping[str, Roll]) -> None:
        closing = [roll for roll in rolls.values() if machine.closed(roll)]
        closed = {port: text for roll in closing for port, text in machine.closed(roll).items()}
        if closing:
            self.gatekeeper.hold_by(max(closing, key=lambda roll: roll.id).gate, closed)
        else:
            self.gatekeeper.hold({})

    def _order(self, roll: Roll, seen: Seen) -> None:
        for order in machine.orders(roll, seen, self.gatekeeper.closed_since):
            self.gatekeeper.renew()  # each order may have taken its time, and the lease goes on
            if order in machine.orders(roll, seen, self.gatekeeper.closed_since):
                self._give(roll.group, order)

    def _give(self, group: str, order: Order) -> None:
        key = _key(group, order.name)
        give = self.supervisor.stop if order.verb is Verb.STOP else self.supervisor.start
        self._refusals.pop(key, None)
        refusal = give(group, order.name)
        if refusal:
            self._refusals[key] = f"{order.verb.value} it: {refusal}"
        log.info("%s: %s ordered%s", key, order.verb.value, f", refused: {refusal}" if refusal else "")

    def _complain(self, complaint: str) -> None:
        """Log what keeps a turn from being taken once, not every time."""
        if complaint and complaint != self._complaint:
            log.error("%s", complaint)
        self._complaint = complaint


def _key(group: str, name: str) -> str:
    return f"{group}:{name}"


def _of_group(group: str, found: Mapping[str, T]) -> dict[str, T]:
    start = f"{group}:"
    return {key[len(start) :]: value for key, value in found.items() if key.startswith(start)}


def _has_moved(old: Roll, new: Roll) -> bool:
    """Whether there may be more to do at once: one small move, then look again."""
    return old.status is not new.status or any(a.stage is not b.stage for a, b in zip(old.members, new.members))


def _pause(roll: Roll, seen: Seen) -> float:
    """How long a roll can do without a look."""
    stages = {member.stage for member in roll.members}
    if roll.status is not Status.RUNNING:
        return roll.gate.lease / 4 if Stage.FAILED in stages else IDLE_LOOK_EVERY
    if Stage.DRAINING in stages:
        return DRAIN_LOOK_EVERY
    if stages & {Stage.RESTARTING, Stage.WARMING}:
        booting = [p.running_in + BARELY for p in seen.processes.values() if p.state == "STARTING"]
        return min([MOVE_LOOK_EVERY, *booting])
    return REST_LOOK_EVERY
