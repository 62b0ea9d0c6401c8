"""The turn: look, decide, record, hold, order; and what comes before it, when an event says that a process has died.

The reconciler joins the pure machine and the pure guard to the snapshot. It remembers nothing that cannot be lost: what
it keeps between two turns are observations (since when a port is closed, who was connected then), and a new reconciler
that lacks them looks again.

The order of a turn is what makes it safe to die anywhere in it. A rollout is recorded before its gates move, gates
close before supervisord is told to stop anything, and an order is given only for what the gate said after that.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from supervisor_rolling.core import guard, hook_steps, machine
from supervisor_rolling.core.actions import Action, Outcome, Verb
from supervisor_rolling.core.connections import Arrival, Connections, KeepaliveReuse
from supervisor_rolling.core.drain import POOL_REFUSED, is_overdue
from supervisor_rolling.core.endpoint import Endpoint, Endpoints, tcp_ports
from supervisor_rolling.core.errors import (
    ConfigError,
    ConflictError,
    Fault,
    FaultError,
    GateBusyError,
    GateError,
    NoKeyError,
    RefusedError,
    SocketsError,
    SupervisorError,
    fault_of,
)
from supervisor_rolling.core.flapping import Flaps
from supervisor_rolling.core.forecast import forecast
from supervisor_rolling.core.gate_leaks import Leaks
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.jobs import (
    HookJob,
    HookResult,
    NotificationJob,
    NotificationStatus,
    WarmupJob,
    WarmupStatus,
)
from supervisor_rolling.core.keepalive_reuse import Reuses
from supervisor_rolling.core.lingering import MAX_SHOWN, oldest
from supervisor_rolling.core.log_messages import changes, guard_changes, summary
from supervisor_rolling.core.metrics_snapshot import GroupMetrics, group_metrics
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import Config
from supervisor_rolling.core.poll_interval import IDLE_LOOK_EVERY, MOVE_LOOK_EVERY, gate_pause, pause
from supervisor_rolling.core.preflight_report import Report
from supervisor_rolling.core.process import Change, Incarnation, Process
from supervisor_rolling.core.process_states import ALIVE, closed_since, is_kept_down
from supervisor_rolling.core.records import is_running, record
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Status
from supervisor_rolling.core.snapshot import Request, Snapshot
from supervisor_rolling.listener.contracts import (
    Balancers,
    Clients,
    DeathWatch,
    DrainFlags,
    DrainNotifications,
    GateProbes,
    History,
    Hooks,
    KeepaliveCloser,
    Metrics,
    RequestSniffer,
    Sockets,
    Supervisor,
    Warmups,
)
from supervisor_rolling.listener.crash_guard import CrashGuard
from supervisor_rolling.listener.gatekeeper import Gatekeeper
from supervisor_rolling.listener.group_errors import GroupErrors
from supervisor_rolling.listener.held_ports import HeldPorts
from supervisor_rolling.listener.preflight import Preflight
from supervisor_rolling.listener.request_handler import objections, raise_if_blocked, rollout_for

log = logging.getLogger("supervisor_rolling")
T = TypeVar("T")
J = TypeVar("J", WarmupJob, NotificationJob)

CONFLICT_PAUSE = 0.01
"""Seconds until the next turn when somebody else wrote: an operator's wish, which the next look finds."""

LONGEST_GAP = 2.0
"""Seconds between two looks at a rollout beyond which nobody could act: the listener was away, or kept waiting."""

ANSWER_SEEN_AFTER = 0.06
"""Seconds after an answer at which one more look lets supervisord hand it on: it asks its deferred answers every
0.05 s, but only when something wakes it."""

ORDERS_AT_ONCE = 4
"""Orders in one call: supervisord answers nobody while it carries them out, and to start one among a thousand takes it
several milliseconds."""

ORDERS_WITHIN = 0.03
"""Seconds of a turn after which it begins no further call with orders: the next turn looks first, and goes on."""

TOLD_OF = ("history", "record")
"""The kinds of requests that ask about the rollouts that were."""

NEVER = float("inf")
"""Seconds until a turn that an event asks for which concerns no group of ours."""

LOCK_PATIENCE = 2.0
"""Seconds for which a request waits for a lock of the firewall that another program holds."""

RETRY_EVERY = 1.0
"""Seconds until the next turn when supervisord or the kernel did not answer."""


@dataclass(frozen=True)
class Group:
    """One group in one turn: its rollout and its watch, of which it has at least one, and what was seen of it."""

    rollout: Rollout | None
    guard_state: GuardState | None
    observed: Observation
    endpoints: Endpoints

    def with_event(self, change: Change) -> Group:
        """The group after an event."""
        process = self.observed.processes.get(change.name)
        if process is None:
            return self
        now = guard.apply_event(process, change)
        if now is process:
            return self
        return replace(self, observed=replace(self.observed, processes={**self.observed.processes, change.name: now}))

    def without_dead(self, dead: Mapping[Incarnation, float]) -> Group:
        """The group without the processes that have died, whatever supervisord says of them still. ``dead``: since when
        each is known to be."""
        lost = {name: p for name, p in self.observed.processes.items() if p.incarnation in dead and p.state in ALIVE}
        if not lost:
            return self
        processes = {**self.observed.processes, **{name: guard.died(process) for name, process in lost.items()}}
        since = {name: dead[process.incarnation] for name, process in lost.items()}
        return replace(self, observed=replace(self.observed, processes=processes, dead={**self.observed.dead, **since}))

    def guarded(self) -> Group:
        """The group with its watch advanced."""
        if self.guard_state is None:
            return self
        guard_state = guard.advance(self.guard_state, self.observed, self.endpoints, self.rollout)
        observed = replace(self.observed, guarded={guarded.name: guarded for guarded in guard_state.guarded})
        return replace(self, guard_state=guard_state, observed=observed)

    def closed(self) -> dict[Endpoint, str]:
        """The endpoints to be closed. What an ended rollout left failed is the guard's, where there is one."""
        rollout, guard_state = self.rollout, self.guard_state
        holds = rollout and (
            rollout.status is Status.RUNNING or (guard_state is None and not rollout.policy.guard.enabled)
        )
        by_rollout = machine.closed(rollout) if rollout and holds else {}
        return {**by_rollout, **(guard.closed(guard_state) if guard_state else {})}

    def draining(self) -> list[Endpoint]:
        """The endpoints on which a process of the rollout still answers requests that came before it was closed."""
        members = self.rollout.members if self.rollout and self.rollout.status is Status.RUNNING else ()
        return [one for m in members if m.stage is Stage.DRAINING and not m.was_closed for one in m.endpoints]


@dataclass
class Reconciler:
    """Turns of all the rollouts and watches of one supervisord. For one thread."""

    supervisor: Supervisor
    sockets: Sockets
    warmups: Warmups
    deaths: DeathWatch
    gatekeeper: Gatekeeper
    load_config: Callable[[], Config]
    latest_config: Callable[[], Config | None]
    clock: Callable[[], float]
    notifications: DrainNotifications
    keepalive_closer: KeepaliveCloser
    flags: DrainFlags
    request_sniffer: RequestSniffer
    balancers: Balancers
    gate_probes: GateProbes
    history: History
    hooks: Hooks
    metrics: Metrics
    clients: Clients

    def __post_init__(self) -> None:
        self._inspector = Preflight(
            self.sockets, self.gatekeeper, self.balancers, self.gate_probes, self.clients, self.clock
        )
        self._errors = GroupErrors()
        self._closed: Mapping[str, Mapping[Endpoint, str]] = {}
        self._held_ports = HeldPorts(self.sockets, self.clock)
        self._watches = CrashGuard(self.sockets, self.latest_config, self._inspector.ready)
        self._groups: dict[str, Group] = {}
        self._leaks: dict[str, Leaks] = {}
        self._reuses: dict[str, Reuses] = {}
        self._arrived: Sequence[Arrival] = ()
        self._refusals: dict[str, tuple[float, str]] = {}  # with when the incarnation was started
        self._died: dict[Incarnation, float] = {}
        self._flaps = Flaps()
        self._told: dict[str, Incarnation] = {}
        self._complaint = ""
        self._answered: Mapping[int, str] = {}
        self._emptied_since: Mapping[Endpoint, float] = {}
        self._unclosed: dict[str, float] = {}
        self._pools_problem = ""
        self._programs: dict[str, str] = {}
        self._hooked: Mapping[str, HookResult] = {}
        self._counted: Mapping[str, Group] = {}
        self._answered_at = float("-inf")
        self._is_locked_out = False  # a request waits for the lock of the firewall
        self._looked_at = 0.0

    def begin(self) -> None:
        """Say at once what would keep every rollout from working."""
        try:
            self.gatekeeper.prove(self.load_config().gate)
        except GateBusyError as error:
            log.info("the gate is proved later: %s", error)
        except ConfigError as error:  # what is guarded by a policy that supervisord has still is
            log.warning("no rollout can start until this is fixed: %s", error)
        except GateError as error:
            log.warning("rollouts are refused and no port can be closed: %s", error)

    def hear(self, changes: Sequence[Change]) -> float:
        """Close what must be closed by what the events say, and by what the last turn knew, before anything else: a
        look takes milliseconds, and a new process may accept in as many.

        Returns the seconds within which a turn has to look: at once where there is news, soon where an event is old or
        comes after one that was lost, or is of a process that flaps, never where nobody is concerned. A thousand
        processes that start together tell three thousand events, most of which the first looks have overtaken.
        """
        groups = dict(self._groups)
        for change in changes:
            if change.group in groups:
                groups[change.group] = groups[change.group].with_event(change)
        self._flaps.exited([_key(c.group, c.name) for c in changes if c.state == "EXITED"], self.clock())
        if self._take(groups):
            return 0.0
        return MOVE_LOOK_EVERY if any(change.group in groups for change in changes) else NEVER

    def notice_deaths(self) -> float:
        """Close what must be closed because processes have died. May be called while a turn waits for supervisord.
        Returns the seconds within which a turn has to look."""
        return 0.0 if self._take(self._groups) else MOVE_LOOK_EVERY

    def _take(self, groups: Mapping[str, Group]) -> bool:
        """Close what follows from these groups, less those that have died. Whether a turn has to look at once. Whatever
        goes wrong is for the log and the next turn: a listener that ends over it opens all gates."""
        try:
            old, new = self._groups, self._now(groups, self._groups)
            self._groups = new
            if any(new[name] is not old[name] for name in new):
                self._hold(new)
            return any(self._is_news(name, old[name], new[name]) for name in new)
        except Exception:  # as in ``turn``: a listener that ends over it leaves every gate to its lease
            log.exception("a defect of supervisor_rolling; the next turn looks anew")
            return True

    def _is_news(self, group: str, old: Group, new: Group) -> bool:
        """Whether another process than those that flap has changed."""
        before, after, now = old.observed.processes, new.observed.processes, self.clock()
        changed = [name for name in after if after[name] is not before.get(name)] if new is not old else []
        return any(not self._flaps.has(_key(group, name), now) for name in changed)

    def _now(self, groups: Mapping[str, Group], before: Mapping[str, Group]) -> dict[str, Group]:
        """The groups less those that have died, guarded anew where that makes them other than before; what warm-ups
        found is for the next turn."""
        dead = self._dead()

        def now(name: str, group: Group) -> Group:
            left = group.without_dead(dead)
            return left if left is before[name] else self._again(left)

        return {
            name: self._errors.attempt(name, functools.partial(now, name, group), before[name])
            for name, group in groups.items()
        }

    def _dead(self) -> Mapping[Incarnation, float]:
        """Since when each that has died is known to be dead."""
        now = self.clock()
        self._died = {one: self._died.get(one, now) for one in self.deaths.take()}
        return self._died

    def _again(self, group: Group) -> Group:
        return replace(group, observed=replace(group.observed, at=self.clock(), warmups={})).guarded()

    def turn(self) -> float:
        """One pass over all groups. Returns the seconds until the next one is due, unless an event comes earlier."""
        try:
            pause = self._turn()
        except ConflictError:
            self._hold_on()
            return CONFLICT_PAUSE
        except NoKeyError:  # it comes with an event, in a moment
            self._hold_on()
            return RETRY_EVERY
        except (SupervisorError, SocketsError) as error:
            self._complain(str(error))
            self._hold_on()
            return RETRY_EVERY
        except Exception:  # whatever else it is: a listener that ends over it leaves every gate to its lease
            log.exception("a defect of supervisor_rolling; this turn is left and the next one looks anew")
            self._hold_on()
            return RETRY_EVERY
        self._complain("")
        return pause

    def _hold_on(self) -> None:
        """A turn was left: what was closed stays closed, and what this turn has learnt of deaths is not lost."""
        try:
            self.gatekeeper.renew()
            self.notice_deaths()
            self._empty_pools()
        except Exception:  # as in ``turn``, which may have been left for the same reason
            log.exception("a defect of supervisor_rolling; what is closed stays so until its lease is over")

    def gate_pause(self) -> float:
        """Seconds from one look at the gate to the next, whatever turns look at besides."""
        return gate_pause(self.gatekeeper.is_holding, self.gatekeeper.is_busy)

    def look_at_gate(self) -> None:
        """Close again what is to be closed and is found open, without asking supervisord for anything."""
        try:
            self.gatekeeper.renew()
        except Exception:  # as in ``turn``: a listener that ends over it leaves every gate to its lease
            log.exception("a defect of supervisor_rolling; what is closed stays so until its lease is over")

    def release(self, is_orphan: bool = False) -> None:
        """Open every gate: the listener ends. ``is_orphan``: because supervisord has."""
        self.gatekeeper.hold({})
        if self.gatekeeper.problem:
            log.error("this listener ends, and gates may still be closed")
        else:
            log.info("this listener ends; all its gates are open")
        self.keepalive_closer.hold((), 0.0)
        self.flags.hold(())
        self.request_sniffer.watch(())
        rollouts = [group.rollout for group in self._groups.values() if group.rollout]
        self.history.close(rollouts, self._looked_at, is_orphan)
        self.hooks.end()
        self.warmups.end()

    def _turn(self) -> float:
        began = self.clock()
        self._errors.begin()
        self._is_locked_out = False
        snapshot = self._look()
        self._looked_at = self.clock()
        self.gatekeeper.renew()  # supervisord may have kept us waiting for longer than the lease
        self._errors.each(self._watches.ended(snapshot), self.supervisor.unguard)
        there = [process for table in snapshot.processes.values() for process in table.values()]
        self.deaths.watch([process.incarnation for process in there if process.state in ALIVE])
        guard_states = dict(self._watches.of(snapshot, self.clock(), self._errors.each))
        guard_states.update(
            {group: snapshot.guard_states[group] for group in self._errors.failed & snapshot.guard_states.keys()}
        )
        warmups = self.warmups.tend(_by(self.gatekeeper.bypass, self._jobs(snapshot, guard_states)))
        self._leaks = {group: leaks for group, leaks in self._leaks.items() if group in snapshot.rollouts}
        self._reuses = {group: reuses for group, reuses in self._reuses.items() if group in snapshot.rollouts}
        self.request_sniffer.watch(_pooled_ports(snapshot))
        self._arrived = self.request_sniffer.take()
        told = self.notifications.give(_by(self.gatekeeper.bypass, self._notices(snapshot)))
        self._hooked = self.hooks.tend(self._hook_jobs(snapshot))
        names = {**snapshot.rollouts, **guard_states}
        old = self._errors.each(names, lambda name: self._see(name, snapshot, guard_states.get(name), warmups, told))
        new = self._errors.each(old, lambda name: self._decide(old[name], name, snapshot))
        every = {name: new[name] if name in new else self._kept(name, snapshot) for name in names}
        self._groups = self._now(every, every)  # less those that have died since the look
        self._hold(self._groups)
        self._empty_pools()
        self.flags.hold([(rollout.group, member.name) for rollout, member in self._leaving() if _is_for_pools(rollout)])
        until = began + ORDERS_WITHIN
        are_left = self._errors.each(new, lambda name: self._order(new[name], until))
        _beside(lambda: self._count(every, warmups))
        if any(_has_moved(old[name], new[name]) for name in new):
            self._answered_at = self.clock()  # the end of a rollout answers those who wait for it
            return 0.0
        return 0.0 if any(are_left.values()) else self._pause(new)

    def _pause(self, groups: Mapping[str, Group]) -> float:
        """Seconds for which all can do without a turn."""
        pauses = self._errors.each(
            groups, lambda name: pause(groups[name].rollout, groups[name].guard_state, groups[name].observed)
        )
        hand_on = self._answered_at + ANSWER_SEEN_AFTER - self.clock()
        is_soon = self.deaths.take() or self._is_locked_out  # supervisord has not yet come round to those that died
        late = [MOVE_LOOK_EVERY] if is_soon else []
        failed = [CONFLICT_PAUSE] if self._errors.conflicts else [RETRY_EVERY] if self._errors.failed else []
        return min([IDLE_LOOK_EVERY, *pauses.values(), *late, *failed, *([hand_on] if hand_on > 0 else [])])

    def _kept(self, name: str, snapshot: Snapshot) -> Group:
        """A group that failed in this turn: as the last turn left it or, where that is not known, as supervisord has
        it. Its closed ports stay closed."""
        rollout, guard_state = snapshot.rollouts.get(name, (0, None))[1], snapshot.guard_states.get(name)
        before = self._groups.get(name)
        if before and (before.rollout.id if before.rollout else 0) == (rollout.id if rollout else 0):
            return before
        endpoints = {m.name: m.endpoints for m in rollout.members} if rollout else {}
        endpoints.update({guarded.name: guarded.endpoints for guarded in guard_state.guarded} if guard_state else {})
        return Group(rollout, guard_state, Observation(self.clock(), snapshot.processes.get(name, {})), endpoints)

    # --- look

    def _look(self) -> Snapshot:
        guarded = self._watches.guarded()
        snapshot = self.supervisor.look(guarded)
        _beside(
            lambda: self.history.keep([rollout for _, rollout in snapshot.rollouts.values()])
        )  # before another takes its place
        if not snapshot.requests:
            return snapshot
        self._inspector.expect([request.id for request in snapshot.requests])
        answered = [self._answered_soundly(request, snapshot) for request in _at_a_time(snapshot.requests)]
        if not any(answered):
            return snapshot
        self._answered_at = self.clock()
        again = self.supervisor.look(guarded)
        return replace(again, idle=max(again.idle, snapshot.idle))  # the first look has ended the time without any

    def _answered_soundly(self, request: Request, snapshot: Snapshot) -> bool:
        """``_answer``; where that fails, the request is refused, and the other requests are answered all the same."""
        try:
            return self._answer(request, snapshot)
        except ConflictError:  # it comes again
            return False
        except FaultError as error:
            why = str(error)
            log.warning("%s of %s cannot be answered: %s", request.kind, request.group, why)
        except SupervisorError:
            raise
        except Exception as error:  # as in ``turn``
            log.exception("a defect of supervisor_rolling: %s of %s", request.kind, request.group)
            why = f"a defect of supervisor_rolling: {type(error).__name__}: {error}"
        with contextlib.suppress(FaultError):
            self.supervisor.refuse(request.id, Fault.DEFECT, why)
        return True

    def _answer(self, request: Request, snapshot: Snapshot) -> bool:
        """Whether it has been answered: what takes time is being read, and then the request comes again."""
        if request.kind in TOLD_OF:
            self._tell(request, snapshot)
            return True
        version, previous = snapshot.rollouts.get(request.group, (0, None))
        guard_state = snapshot.guard_states.get(request.group)
        guarded = {guarded.name: guarded for guarded in guard_state.guarded} if guard_state else {}
        observed = Observation(self.clock(), snapshot.processes[request.group], guarded=guarded)
        number = 1 + max(self.history.last_id(), *(known.id for _, known in snapshot.rollouts.values()), 0)
        make = functools.partial(
            rollout_for, number, observed=observed, previous=previous, guard_state=guard_state, sockets=self.sockets
        )
        if not self._inspector.is_ready(request, self.load_config, make):
            return False
        if request.kind == "check":
            return self._check(request, make, observed)
        try:
            config = self.load_config()
            self.gatekeeper.prove(config.gate)
            rollout = make(request, config)
            for objection in objections(rollout, observed.processes, self.sockets, self.gatekeeper.closes):
                raise objection
            if rollout.policy.drain.keepalive == "nginx":
                self.keepalive_closer.check()
            rollout = self._inspected(rollout, observed, request)
            if request.kind != "resume":  # how long a half of one takes the last ones do not tell
                rollout = replace(rollout, forecast=forecast(rollout, self.history.cycles(rollout.group)))
        except (ConfigError, RefusedError, GateError, SocketsError) as error:
            if isinstance(error, GateBusyError) and self._inspector.waited(request) < LOCK_PATIENCE:
                self._is_locked_out = True
                return False
            log.warning("%s of %s refused: %s", request.kind, request.group, error)
            self.supervisor.refuse(request.id, fault_of(error), str(error))
            return True
        if request.kind == "plan":
            self.supervisor.plan(request.id, machine.planned(rollout, observed))
        else:
            self.supervisor.record(rollout, version, request.id)
            self._refusals = {
                key: text for key, text in self._refusals.items() if not key.startswith(f"{rollout.group}:")
            }
            log.info(
                "%s rollout %d begins: %s, %d at a time", rollout.group, rollout.id, summary(rollout), rollout.limit
            )
        return True

    def _inspected(self, rollout: Rollout, observed: Observation, request: Request) -> Rollout:
        """The rollout with the time to settle that its load balancer asks for. Raises RefusedError where it would lose
        requests, unless it is forced; one that goes on was looked at when it began, and a plan only reads."""
        rollout = replace(
            rollout, policy=self._inspector.ready(rollout.policy, {m.name: m.endpoints for m in rollout.members})
        )
        if request.kind == "resume":
            return rollout
        report = self._inspector.report(rollout, observed, request.settings, may_try=request.kind != "plan")
        for finding in report.findings:
            log.warning("%s: %s %s: %s", rollout.group, finding.code, finding.where, finding.text)
        if not rollout.force:
            raise_if_blocked(report)
        return rollout

    def _tell(self, request: Request, snapshot: Snapshot) -> None:
        """Answer a question about the rollouts that were, or are."""
        if request.kind == "history":
            self.supervisor.tell(request.id, {"rollouts": self.history.heads(request.group, request.number)})
            return
        found = self.history.find(request.group, request.rollout)
        live = {rollout.id: rollout for _, rollout in snapshot.rollouts.values() if rollout.status is Status.RUNNING}
        if found is None:
            which = " ".join(filter(None, ("rollout", request.rollout, request.group and f"of {request.group}")))
            self.supervisor.refuse(request.id, Fault.NOT_ROLLING, f"no {which} is known: see rolling_history")
        elif is_running(found) and found["id"] in live:
            self.supervisor.tell(request.id, {"record": json.dumps(record(live[found["id"]], self.clock()))})
        else:
            self.supervisor.tell(request.id, {"record": json.dumps(found)})

    def _check(self, request: Request, make: Callable[[Request, Config], Rollout], observed: Observation) -> bool:
        """Answer a check with all that there is to say; what would refuse a rollout at once is a finding like
        others."""
        rollout, found = self._inspector.draft(request, observed, self.load_config, self.keepalive_closer.check, make)
        if rollout is None:
            self.supervisor.report(request.id, Report(request.group, tuple(found)))
        elif not self._inspector.can_try:
            return False
        else:
            self.supervisor.report(request.id, self._inspector.report(rollout, observed, request.settings, found))
        return True

    def _see(
        self,
        group: str,
        snapshot: Snapshot,
        guard_state: GuardState | None,
        warmups: Mapping[str, WarmupStatus],
        notifications: Mapping[str, NotificationStatus],
    ) -> Group:
        rollout = snapshot.rollouts[group][1] if group in snapshot.rollouts else None
        at = self.clock()
        processes = snapshot.processes.get(group, {})
        draining = [member for member in rollout.members if member.stage is Stage.DRAINING] if rollout else []
        found = self._connections(draining, rollout, at) if rollout and draining else {}
        self._forget_told(group, draining)
        ours = self.notifications.peers()  # asked after the look, so that none is missing that it found
        peers = {m.name: frozenset(peer for one in m.endpoints for peer in found[one].peers) - ours for m in draining}
        unclosed = self._unclosed_of(group, draining, at)
        left = self.gatekeeper.left(found) if found else None
        leaks = self._leaks_of(group, draining, peers, at)
        if left is not None and rollout:
            leaks = self._past_the_balancer(leaks, draining, found, rollout, at)
        observed = Observation(
            at=at,
            processes=processes,
            gap=snapshot.idle if snapshot.idle > LONGEST_GAP else 0.0,
            closed=self.gatekeeper.closed_since,
            gate_problem=self.gatekeeper.problem,
            unclosed=unclosed,
            connections={m.name: len(peers[m.name]) if left is None else _sum(m, left) for m in draining},
            oldest={
                m.name: oldest(one for endpoint in m.endpoints for one in found[endpoint].oldest) for m in draining
            },
            leaks=leaks,
            reuses=self._reuses_of(rollout, draining, peers, at) if rollout else {},
            warmups=_of_group(group, warmups),
            refusals=self._refusals_of(group, processes),
            held=self._held_ports.of(group, _kept_down(rollout, guard_state, processes)),
            hook=self._hooked.get(_hook_key(rollout)) if rollout else None,
            signalled=frozenset(_of_group(group, self._told)),
            being_notified=frozenset(
                name for name, notice in _of_group(group, notifications).items() if not notice.is_over
            ),
            silent={m.name: min(found[one].silent for one in m.endpoints) for m in draining if self._is_emptied(m)},
            sealed=frozenset(m.name for m in draining if self._is_emptied(m) and self._is_sealed(m)),
        )
        endpoints = self._watches.endpoints(guard_state, processes) if guard_state else {}
        return Group(rollout, guard_state, observed, endpoints).without_dead(self._dead())

    def _refusals_of(self, group: str, processes: Mapping[str, Process]) -> dict[str, str]:
        """What supervisord refuses, of the incarnations that are there now."""
        found = _of_group(group, self._refusals)
        return {
            name: text
            for name, (spawned, text) in found.items()
            if name in processes and processes[name].spawned == spawned
        }

    def _forget_told(self, group: str, draining: list[Member]) -> None:
        """A process is told once in a drain, as far as this listener knows; another drain tells it again."""
        old = {_key(group, member.name): member.old for member in draining}
        of_others = {key: one for key, one in self._told.items() if not key.startswith(f"{group}:")}
        self._told = {**of_others, **{key: one for key, one in old.items() if self._told.get(key) == one}}

    def _leaks_of(
        self, group: str, draining: list[Member], peers: Mapping[str, frozenset[str]], at: float
    ) -> dict[str, str]:
        """Who got through a closed gate. Where one was open for a moment, between the last look at it and that at the
        connections (somebody flushed the rules), it is closed anew, and nobody got through."""
        since = self._closed_since(draining)
        found = self._leaks.setdefault(group, Leaks()).find(peers, since, at)
        if found:
            self.gatekeeper.renew()
        now = self._closed_since(draining)
        return {name: peer for name, peer in found.items() if now[name] == since[name]}

    def _past_the_balancer(
        self,
        leaks: Mapping[str, str],
        draining: list[Member],
        found: Mapping[Endpoint, Connections],
        rollout: Rollout,
        at: float,
    ) -> dict[str, str]:
        """With a gate that stands in the load balancer a newcomer may be the balancer's own, a check or what it had
        queued; and who has been sent by another ends soon or does not. So only where there are still newcomers of
        somebody else's when the time of a drain is over, it is a leak."""
        closed, policy = self.gatekeeper.closed_since, rollout.policy.drain
        late = [m for m in draining if m.name in leaks and is_overdue(m, at, closed, policy)]
        strangers = self.gatekeeper.strangers(found) if late else frozenset()
        return {m.name: leaks[m.name] for m in late if strangers.intersection(m.endpoints)}

    def _reuses_of(
        self, rollout: Rollout, draining: list[Member], peers: Mapping[str, frozenset[str]], at: float
    ) -> dict[str, KeepaliveReuse]:
        """Who is asked over and over on connections that are older than its gate."""
        arrived = {m.name: self._arrivals_of(m, rollout) for m in draining}
        reuses = self._reuses.setdefault(rollout.group, Reuses())
        found = reuses.find(arrived, peers, self._closed_since(draining), at)
        kept = {_key(rollout.group, m.name) for m in draining}
        self._programs = {
            key: name for key, name in self._programs.items() if key in kept or not key.startswith(f"{rollout.group}:")
        }
        return {m.name: self._named(rollout.group, m, found[m.name]) for m in draining if m.name in found}

    def _arrivals_of(self, member: Member, rollout: Rollout) -> list[Arrival]:
        """The requests that came to a process that drains; where nginx is told to close its connections, those on
        connections that have been told."""
        arrived = [one for one in self._arrived if one.port in member.ports]
        if rollout.policy.drain.keepalive != "nginx":
            return arrived
        told = {port for port in member.ports if self._is_emptied(member) and self._answered[port] == "http"}
        return [one for one in arrived if one.port in told and one.peer not in self.keepalive_closer.waiting]

    def _named(self, group: str, member: Member, reuse: KeepaliveReuse) -> KeepaliveReuse:
        """With the program that its peer is: looked for once in a drain."""
        key = _key(group, member.name)
        if key not in self._programs:
            names = (self.clients.program_of(reuse.peer, port) for port in member.ports)
            self._programs[key] = next(filter(None, names), "")
        return replace(reuse, program=self._programs[key])

    def _unclosed_of(self, group: str, draining: list[Member], at: float) -> dict[str, float]:
        """Since when each of those whose gate is not known to be closed has been seen so."""
        open_ones = [name for name, since in self._closed_since(draining).items() if since == math.inf]
        of_others = {key: since for key, since in self._unclosed.items() if not key.startswith(f"{group}:")}
        found = {name: self._unclosed.get(_key(group, name), at) for name in open_ones}
        self._unclosed = {**of_others, **{_key(group, name): since for name, since in found.items()}}
        return found

    def _closed_since(self, members: list[Member]) -> dict[str, float]:
        return {member.name: closed_since(member, self.gatekeeper.closed_since) for member in members}

    def _is_emptied(self, member: Member) -> bool:
        """Whether its pooled connections are being closed, on all of its ports."""
        return bool(member.ports) and self._answered.keys() >= set(member.ports)

    def _is_sealed(self, member: Member) -> bool:
        answered = {self._answered[port] for port in member.ports}
        return "sealed" in answered and "http" not in answered

    def _connections(self, draining: list[Member], rollout: Rollout, at: float) -> Mapping[Endpoint, Connections]:
        """Of all endpoints that drain; how old they are is asked where the time of one is over, and when bytes last moved
        where pools are emptied."""
        endpoints = [one for member in draining for one in member.endpoints]
        closed, policy = self.gatekeeper.closed_since, rollout.policy.drain
        is_overdue_one = any(is_overdue(member, at, closed, policy) for member in draining)
        is_asked = is_overdue_one or policy.keepalive == "nginx"
        return self.sockets.connections(endpoints, oldest=MAX_SHOWN if is_asked else 0) if endpoints else {}

    # --- what runs beside the turn

    def _jobs(self, snapshot: Snapshot, guard_states: Mapping[str, GuardState]) -> dict[str, WarmupJob]:
        guards = self._errors.each(guard_states, lambda group: guard.jobs(guard_states[group]))
        rollouts = self._errors.each(snapshot.rollouts, lambda group: machine.jobs(snapshot.rollouts[group][1]))
        return {**_keyed(guards), **_keyed(rollouts)}

    def _notices(self, snapshot: Snapshot) -> dict[str, NotificationJob]:
        closed, dead = self.gatekeeper.closed_since, self.deaths.take()
        rollouts = {
            group: rollout for group, (_, rollout) in snapshot.rollouts.items() if rollout.status is Status.RUNNING
        }
        found = self._errors.each(
            rollouts, lambda group: machine.notifications(rollouts[group], snapshot.processes.get(group, {}), closed)
        )
        return {key: job for key, job in _keyed(found).items() if job.incarnation not in dead}

    def _hook_jobs(self, snapshot: Snapshot) -> dict[str, HookJob]:
        rollouts = {group: rollout for group, (_, rollout) in snapshot.rollouts.items()}
        found = self._errors.each(rollouts, lambda group: hook_steps.job(rollouts[group]))
        return {_hook_key(rollouts[group]): job for group, job in found.items() if job}

    # --- decide, record, hold, order

    def _decide(self, old: Group, name: str, snapshot: Snapshot) -> Group:
        """The guard first, so that the rollout knows who is not warm; and once more, for what the rollout leaves or
        takes."""
        new = old.guarded()
        if new.rollout is not None:
            advanced = machine.advance(new.rollout, new.observed)
            if advanced != new.rollout:
                self.supervisor.record(advanced, snapshot.rollouts[name][0])
                _tell(changes(new.rollout, advanced))
                new = replace(new, rollout=advanced).guarded()
        if new.guard_state is not None and new.guard_state != snapshot.guard_states.get(name):
            self.supervisor.guard(new.guard_state)
            _tell(guard_changes(snapshot.guard_states.get(name, replace(new.guard_state, guarded=())), new.guard_state))
        return new

    def _hold(self, groups: Mapping[str, Group]) -> None:
        """One gate for all: that of the newest rollout that closes anything, else that of the guard."""
        self._closed = {
            name: self._errors.attempt(name, group.closed, self._closed.get(name, {})) for name, group in groups.items()
        }
        found = [(group, self._closed[name]) for name, group in groups.items()]
        closed = {one: text for _, held in found for one, text in held.items()}
        closing = [group for group, held in found if held]
        rollouts = [
            g.rollout for g in closing if g.rollout and (g.rollout.status is Status.RUNNING or g.guard_state is None)
        ]
        gates = (
            [max(rollouts, key=lambda rollout: rollout.id).gate]
            if rollouts
            else [g.guard_state.gate for g in closing if g.guard_state]
        )
        if gates:
            draining = [one for group in closing for one in group.draining()]
            self.gatekeeper.hold_by(gates[0], closed, frozenset(closed).difference(draining))
        else:
            self.gatekeeper.hold({})

    def _empty_pools(self) -> None:
        """Make nginx let go of what drains behind its gate, until it is replaced. What goes wrong there only makes a
        drain last: it ends at its deadline."""
        leaving = [(rollout, member) for rollout, member in self._leaving() if _is_for_pools(rollout, "nginx")]
        endpoints = [one for _, member in leaving for one in member.endpoints]
        lease = max((rollout.gate.lease for rollout, _ in leaving), default=0.0)
        since = {one: self.gatekeeper.closed_since[one] for one in endpoints}
        reopened = {one for one in endpoints if since[one] > self._emptied_since.get(one, since[one])}
        self._emptied_since = since
        try:
            if reopened:  # nginx may have connected meanwhile: what it has now is to be taken up
                self.keepalive_closer.hold(tcp_ports(one for one in endpoints if one not in reopened), lease)
            self._answered = self.keepalive_closer.hold(tcp_ports(endpoints), lease)
            problem = ""
        except GateError as error:
            self._answered, problem = {}, str(error)
        if problem and problem != self._pools_problem:
            log.error("nginx is not made to close its connections (drain.keepalive: nginx): %s", problem)
        self._pools_problem = problem

    def _leaving(self) -> list[tuple[Rollout, Member]]:
        """Those behind a closed gate that are to be replaced, each with its rollout."""
        rollouts = {name: group.rollout for name, group in self._groups.items() if group.rollout}
        none: Sequence[Member] = ()
        return [
            (rollout, member)
            for name, rollout in rollouts.items()
            for member in self._errors.attempt(name, functools.partial(self._leaving_of, rollout), none)
        ]

    def _leaving_of(self, rollout: Rollout) -> Sequence[Member]:
        return machine.leaving(rollout, self.gatekeeper.closed_since)

    def _order(self, group: Group, until: float) -> bool:
        """Give the orders of a group, a few at a time, and no more of them when it is ``until``. Whether some are left
        for the next turn."""
        given: set[Action] = set()
        while True:
            left = [action for action in self._orders(group) if action not in given]
            if not left:
                return False
            if given and self.clock() >= until:
                return True
            self.gatekeeper.renew()  # each order may have taken its time, and the lease goes on
            batch, still = left[:ORDERS_AT_ONCE], self._orders(group)
            self._give(group, [action for action in batch if action in still])
            given.update(batch)

    def _orders(self, group: Group) -> Sequence[Action]:
        return machine.actions(group.rollout, group.observed, self.gatekeeper.closed_since) if group.rollout else ()

    def _give(self, group: Group, actions: Sequence[Action]) -> None:
        assert group.rollout is not None
        outcomes = self.supervisor.action(group.rollout.group, actions) if actions else ()
        for action, outcome in zip(actions, outcomes):
            if action.verb is Verb.SIGNAL:
                self._note_signal(group.rollout.group, action, outcome)
            else:
                self._note_move(group.rollout.group, action, outcome)

    def _note_signal(self, group: str, action: Action, outcome: Outcome) -> None:
        """Whatever becomes of it the drain goes on: it then lasts as long as it would have without."""
        key = _key(group, action.name)
        self._told[key] = action.incarnation
        if outcome.why:
            log.warning("%s: drains without the signal %s of drain.signal: %s", key, action.signal, outcome.why)
        else:
            log.info("%s: told by the signal %s that it drains", key, action.signal)

    def _note_move(self, group: str, action: Action, outcome: Outcome) -> None:
        key, refusal = _key(group, action.name), outcome.why
        self._refusals.pop(key, None)
        if outcome.already_stopped:
            log.info("%s: %s skipped: it was already stopped or restarted", key, action.verb.value)
            return
        if refusal:
            self._refusals[key] = (action.incarnation.spawned, f"{action.verb.value} it: {refusal}")
        log.info("%s: %s ordered%s", key, action.verb.value, f", refused: {refusal}" if refusal else "")

    def _count(self, groups: Mapping[str, Group], warmups: Mapping[str, WarmupStatus]) -> None:
        if self.metrics.is_on():
            found = self._errors.each(groups, lambda name: _metrics(self._counted.get(name), groups[name]))
            self.metrics.update(found, warmups)
            counted = {name: groups[name] for name in found}
            self._counted = {**self._counted, **counted}  # a group that was skipped is counted by the next turn
            self._counted = {name: group for name, group in self._counted.items() if name in groups}

    def _complain(self, complaint: str) -> None:
        """Log what keeps a turn from being taken once, not every time."""
        if complaint and complaint != self._complaint:
            log.error("%s", complaint)
        self._complaint = complaint


def _beside(observe: Callable[[], None]) -> None:
    """Let somebody see what a turn does, on whom nothing in it depends."""
    try:
        observe()
    except Exception:  # a defect in what is only told must keep no gate from its turn
        log.exception("a defect of supervisor_rolling; the turn goes on without what it would have told")


def _at_a_time(requests: Sequence[Request]) -> list[Request]:
    """What is answered in one turn: of the questions about the rollouts that were only the first, because each may take
    a tenth of a second to read, and whoever dies meanwhile waits for its gate. The others come again."""
    asked = [request for request in requests if request.kind in TOLD_OF]
    return [request for request in requests if request.kind not in TOLD_OF or request is asked[0]]


def _kept_down(
    rollout: Rollout | None, guard_state: GuardState | None, processes: Mapping[str, Process]
) -> dict[str, tuple[Process, tuple[int, ...]]]:
    """The processes that cannot come up, each with its ports: another process may hold one."""
    members = [m for m in rollout.members if m.stage in (Stage.RESTARTING, Stage.WARMING)] if rollout else []
    guarded = [guarded for guarded in guard_state.guarded if guarded.stage is Stage.DOWN] if guard_state else []
    ports = {
        **{guarded.name: tcp_ports(guarded.endpoints) for guarded in guarded},
        **{member.name: member.ports for member in members},
    }
    found = {name: (processes[name], those) for name, those in ports.items() if name in processes}
    return {name: (process, those) for name, (process, those) in found.items() if is_kept_down(process)}


def _key(group: str, name: str) -> str:
    return f"{group}:{name}"


def _sum(member: Member, left: Mapping[Endpoint, int]) -> int:
    return sum(left[endpoint] for endpoint in member.endpoints)


def _of_group(group: str, found: Mapping[str, T]) -> dict[str, T]:
    start = f"{group}:"
    return {key[len(start) :]: value for key, value in found.items() if key.startswith(start)}


def _metrics(old: Group | None, new: Group) -> GroupMetrics:
    """``old``: the group as it was counted last; None: it was not."""
    before = (old.rollout, old.guard_state) if old else (new.rollout, new.guard_state)
    return group_metrics(before, (new.rollout, new.guard_state), new.observed, len(new.closed()))


def _hook_key(rollout: Rollout) -> str:
    """Another one at the end of a rollout than at its beginning."""
    return f"{rollout.group} {rollout.id} {rollout.started_at} {len(rollout.rests)} {rollout.verdict}"


def _by(bypass: str, jobs: Mapping[str, J]) -> dict[str, J]:
    """The jobs, past the gate in force: one policy may have another than the one that the gate is held by."""
    return {key: replace(job, bypass=bypass or job.bypass) for key, job in jobs.items()}


def _keyed(found: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    """What each group has by process, in one mapping."""
    return {_key(group, name): value for group, values in found.items() for name, value in values.items()}


def _pooled_ports(snapshot: Snapshot) -> list[int]:
    """The ports that drain, where requests over a pool are not to be ignored. HAProxy is told to send none."""
    rollouts = [rollout for _, rollout in snapshot.rollouts.values() if _is_for_pools(rollout, "nginx", *POOL_REFUSED)]
    return [port for rollout in rollouts for m in rollout.members if m.stage is Stage.DRAINING for port in m.ports]


def _is_for_pools(rollout: Rollout, *ways: str) -> bool:
    """Whether a load balancer's pool is to be dealt with, in one of these ways of ``drain.keepalive``. HAProxy's own
    is not: it sends no request to whom it drains."""
    return rollout.gate.backend != "haproxy" and (not ways or rollout.policy.drain.keepalive in ways)


def _tell(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        log.info("%s", sentence)


def _has_moved(old: Group, new: Group) -> bool:
    """Whether there may be more to do at once: one small move, then look again."""
    guarded = [(w.name, w.stage, w.incarnation) for w in old.guard_state.guarded] if old.guard_state else []
    if guarded != ([(w.name, w.stage, w.incarnation) for w in new.guard_state.guarded] if new.guard_state else []):
        return True
    if old.rollout is None or new.rollout is None:
        return False
    stages = zip(old.rollout.members, new.rollout.members)
    is_over = (old.rollout.status, old.rollout.verdict) != (new.rollout.status, new.rollout.verdict)
    return is_over or any(a.stage is not b.stage for a, b in stages)
