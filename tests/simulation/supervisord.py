"""supervisord of the simulated world: its process table and the mailbox in it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from supervisor_rolling.core.actions import Action, Outcome, Verb
from supervisor_rolling.core.errors import ConflictError
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.preflight_report import Report
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.public_view import RolloutView
from supervisor_rolling.core.rollout import Rollout
from supervisor_rolling.core.snapshot import Snapshot
from supervisor_rolling.plugin.mailbox import Mailbox

if TYPE_CHECKING:
    from tests.simulation.world import SimProcess, World

ALREADY_STOPPED = Outcome("NOT_RUNNING", already_stopped=True)


class FakeSupervisor:
    """The ``Supervisor`` of the world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.mailbox = Mailbox()
        self._observed_at = 0.0

    def rollout(self) -> Rollout:
        return self.mailbox.rollouts[self._world.group]

    def guard_state(self) -> GuardState:
        return self.mailbox.guard_states[self._world.group]

    def observe(self, guarded: Collection[str]) -> Snapshot:
        group, now = self._world.group, self._world.now
        rollouts = {g: (self.mailbox.rollouts.version(g), self.rollout()) for g in self.mailbox.rollouts if g == group}
        guard_states = {g: self.guard_state() for g in self.mailbox.guard_states if g == group}
        asked = self.mailbox.asked(now - 10)
        requests = tuple(one.request for one in asked if one.request.group == group)
        table = {p.name: self._row(p) for p in self._world.processes.values()}
        idle = now - self._observed_at if self._observed_at else 0.0
        self._observed_at = now
        return Snapshot(rollouts, requests, {group: table}, idle, guard_states)

    def record(self, rollout: Rollout, version: int, request: int = 0) -> None:
        if not self.mailbox.record(self._world.group, version, rollout, self._world.now):
            raise ConflictError("another client wrote")
        if request:
            self.mailbox.answer(request, "accepted")
        self._world.operation("record")

    def guard(self, guard_state: GuardState) -> None:
        self.mailbox.guard(self._world.group, guard_state, self._world.now)
        self._world.operation("guard")

    def unguard(self, group: str) -> None:
        self.mailbox.guard(group, None, self._world.now)
        self._world.operation("unguard")

    def refuse(self, request: int, code: int, text: str) -> None:
        self.mailbox.answer(request, "refused", code=code, text=text)
        self._world.operation("refuse")

    def report(self, request: int, report: Report) -> None:
        self.mailbox.answer(request, "answered", answer=report)

    def answer(self, request: int, answer: RolloutView | Sequence[RolloutView]) -> None:
        self._world.operation("answer")
        self.mailbox.answer(request, "answered", answer=answer)

    def plan(self, request: int, rollout: Rollout) -> None:
        self.mailbox.answer(request, "answered", answer=rollout)
        self._world.operation("plan")

    def action(self, group: str, actions: Sequence[Action]) -> list[Outcome]:
        return [self._act(one) for one in actions]

    def _act(self, action: Action) -> Outcome:
        world = self._world
        if action.incarnation != world.processes[action.name].incarnation:
            return ALREADY_STOPPED
        world.is_by_rollout = True
        try:
            if action.verb is Verb.SIGNAL:
                return world.signal(action.name, action.signal)
            return world.stop(action.name) if action.verb is Verb.STOP else world.start(action.name)
        finally:
            world.is_by_rollout = False

    def _row(self, p: SimProcess) -> Process:
        now = self._world.now
        left = max(0.0, p.spawned + p.startsecs - now) if p.state == "STARTING" else 0.0
        warm = self.mailbox.is_warm(self._world.group, p.name, p.incarnation)
        took = now - p.stopping_since if p.state == "STOPPING" else p.stop_took
        ends = p.stopwaitsecs, p.stopped_on_request, p.stopped_by_rollout, took, p.started_by_other_at
        return Process(p.name, p.state, p.pid, p.spawned, now - p.down_at, left, now - p.spawned, "", warm, *ends)
