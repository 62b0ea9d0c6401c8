"""One group in one reconcile: its rollout, its guard state and what was observed; and the decisions that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from supervisor_rolling.core import guard, machine, spares
from supervisor_rolling.core.actions import Action
from supervisor_rolling.core.endpoint import Endpoint, Endpoints, tcp_ports
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.process import Change, Incarnation, Process
from supervisor_rolling.core.process_states import ALIVE, after_event, exited, is_kept_down
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Status


@dataclass(frozen=True)
class Group:
    """A group that has a rollout, a crash guard, or both."""

    rollout: Rollout | None
    guard_state: GuardState | None
    observed: Observation
    endpoints: Endpoints  # of each guarded process

    def actions(self, closed: Mapping[Endpoint, float]) -> list[Action]:
        """The commands for supervisord now; ``closed`` is what the gate said after the rollout was recorded."""
        of_rollout = machine.actions(self.rollout, self.observed, closed) if self.rollout else ()
        is_rolling = self.rollout is not None and self.rollout.status is Status.RUNNING
        if self.guard_state is None or is_rolling:
            return list(of_rollout)
        policy, guarded = self.guard_state.policy, self.guard_state.guarded
        return [*of_rollout, *spares.surplus(policy, guarded, self.observed, self.endpoints, closed)]

    def with_event(self, change: Change) -> Group:
        """The group after an event of supervisord."""
        process = self.observed.processes.get(change.name)
        now = after_event(process, change) if process else None
        if process is None or now is None or now is process:
            return self
        return replace(self, observed=replace(self.observed, processes={**self.observed.processes, change.name: now}))

    def without_dead(self, dead: Mapping[Incarnation, float]) -> Group:
        """The group with these processes down, whatever supervisord says. ``dead`` has since when each is known to be
        dead."""
        lost = {name: p for name, p in self.observed.processes.items() if p.incarnation in dead and p.state in ALIVE}
        if not lost:
            return self
        processes = {**self.observed.processes, **{name: exited(process) for name, process in lost.items()}}
        since = {name: dead[process.incarnation] for name, process in lost.items()}
        return replace(self, observed=replace(self.observed, processes=processes, dead={**self.observed.dead, **since}))

    def guarded(self) -> Group:
        """The group with its guard advanced."""
        if self.guard_state is None:
            return self
        guard_state = guard.advance(self.guard_state, self.observed, self.endpoints, self.rollout)
        observed = replace(self.observed, guarded={guarded.name: guarded for guarded in guard_state.guarded})
        return replace(self, guard_state=guard_state, observed=observed)

    def guarded_at(self, at: float) -> Group:
        """The group with its guard advanced between two reconciles; the results of warm-ups wait for the next one."""
        return replace(self, observed=replace(self.observed, at=at, warmups={})).guarded()

    def decided(self) -> Group:
        """The group with its guard and its rollout advanced: the guard first, so that the rollout knows which processes
        are not warm, and again after the rollout has taken over processes or given them back."""
        guarded = self.guarded()
        if guarded.rollout is None:
            return guarded
        rollout = machine.advance(guarded.rollout, guarded.observed)
        return guarded if rollout == guarded.rollout else replace(guarded, rollout=rollout).guarded()

    def has_moved(self, before: Group) -> bool:
        """Whether a stage has changed, so that the next reconcile is due at once: each makes one small step."""
        if _stages_of(self.guard_state) != _stages_of(before.guard_state):
            return True
        new, old = self.rollout, before.rollout
        if old is None or new is None:
            return False
        is_over = (old.status, old.final_status) != (new.status, new.final_status)
        return is_over or any(a.stage is not b.stage for a, b in zip(old.members, new.members))

    def closed(self) -> dict[Endpoint, str]:
        """The endpoints to be closed, each with a comment. What an ended rollout left failed is the guard's, if any."""
        rollout, guard_state = self.rollout, self.guard_state
        holds = rollout and (
            rollout.status is Status.RUNNING or (guard_state is None and not rollout.policy.is_guarded)
        )
        by_rollout = machine.closed(rollout) if rollout and holds else {}
        return {**by_rollout, **(guard.closed(guard_state) if guard_state else {})}

    def finishing(self) -> list[Endpoint]:
        """The closed endpoints on which a process still answers requests that came before it was closed."""
        members = self.rollout.members if self.rollout and self.rollout.status is Status.RUNNING else ()
        return [one for m in members if m.stage is Stage.DRAINING and not m.was_closed for one in m.endpoints]


def draining(rollout: Rollout | None) -> list[Member]:
    """The members that drain."""
    return [member for member in rollout.members if member.stage is Stage.DRAINING] if rollout else []


def kept_down(
    rollout: Rollout | None, guard_state: GuardState | None, processes: Mapping[str, Process]
) -> dict[str, tuple[Process, tuple[int, ...]]]:
    """The processes that cannot start, each with its ports: another process may hold one of them."""
    members = [m for m in rollout.members if m.stage in (Stage.RESTARTING, Stage.WARMING)] if rollout else []
    guarded = [one for one in guard_state.guarded if one.stage is Stage.DOWN] if guard_state else []
    ports = {
        **{one.name: tcp_ports(one.endpoints) for one in guarded},
        **{member.name: member.ports for member in members},
    }
    found = {name: (processes[name], those) for name, those in ports.items() if name in processes}
    return {name: (process, those) for name, (process, those) in found.items() if is_kept_down(process)}


def _stages_of(guard_state: GuardState | None) -> list[tuple[str, Stage, Incarnation]]:
    return [(one.name, one.stage, one.incarnation) for one in guard_state.guarded] if guard_state else []
