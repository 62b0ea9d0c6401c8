"""Gives supervisord the actions of a rollout, and remembers what came of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from supervisor_rolling.core.actions import Action, Outcome, Verb
from supervisor_rolling.core.group import Group, draining
from supervisor_rolling.core.process import Incarnation, Process
from supervisor_rolling.core.rollout import Rollout
from supervisor_rolling.listener.contracts import Supervisor
from supervisor_rolling.listener.gatekeeper import Gatekeeper

log = logging.getLogger("supervisor_rolling")

ACTIONS_AT_ONCE = 4
"""Actions in one call: supervisord answers no other client meanwhile, and to start one of a thousand processes takes it
several milliseconds."""


class Actions:
    """For the loop's thread."""

    def __init__(self, supervisor: Supervisor, gatekeeper: Gatekeeper, clock: Callable[[], float]) -> None:
        self._supervisor = supervisor
        self._gatekeeper = gatekeeper
        self._clock = clock
        self._refusals: dict[str, tuple[int, dict[str, tuple[float, str]]]] = {}  # of a rollout, with an incarnation
        self._signalled: dict[str, dict[str, Incarnation]] = {}

    def give(self, group: Group, until: float) -> bool:
        """Give the actions of a group, a few at a time, and begin no further call after ``until``. Whether some are
        left for the next reconcile."""
        given: set[Action] = set()
        while True:
            left = [action for action in self._due(group) if action not in given]
            if not left:
                return False
            if given and self._clock() >= until:
                return True
            self._gatekeeper.renew()  # each call may have taken its time, and the lease goes on
            batch, still = left[:ACTIONS_AT_ONCE], self._due(group)
            self._call(group, [action for action in batch if action in still])
            given.update(batch)

    def refusals(self, rollout: Rollout, processes: Mapping[str, Process]) -> dict[str, str]:
        """The actions of this rollout that supervisord refused, for the incarnations that are there now."""
        return {
            name: text
            for name, (spawned, text) in self._refusals_of(rollout).items()
            if name in processes and processes[name].spawned == spawned
        }

    def signalled(self, rollout: Rollout) -> frozenset[str]:
        """The draining members that got the signal of their drain: once in a drain, as far as this object knows."""
        old = {member.name: member.old for member in draining(rollout)}
        found = self._signalled.get(rollout.group, {})
        self._signalled[rollout.group] = {name: one for name, one in found.items() if old.get(name) == one}
        return frozenset(self._signalled[rollout.group])

    def _refusals_of(self, rollout: Rollout) -> dict[str, tuple[float, str]]:
        number, found = self._refusals.get(rollout.group, (0, {}))
        if number != rollout.id:
            found = {}
            self._refusals[rollout.group] = (rollout.id, found)
        return found

    def _due(self, group: Group) -> Sequence[Action]:
        return group.actions(self._gatekeeper.closed_since)

    def _call(self, group: Group, actions: Sequence[Action]) -> None:
        holder = group.rollout or group.guard_state
        assert holder is not None, "a group without either has no action"
        outcomes = self._supervisor.action(holder.group, actions) if actions else ()
        for action, outcome in zip(actions, outcomes):
            if action.verb is Verb.SIGNAL:
                self._note_signal(holder.group, action, outcome)
            else:
                self._note_move(holder.group, group.rollout, action, outcome)

    def _note_signal(self, group: str, action: Action, outcome: Outcome) -> None:
        """If it failed, the drain lasts as long as it would have without."""
        self._signalled.setdefault(group, {})[action.name] = action.incarnation
        if outcome.why:
            log.warning(
                "%s:%s: SIG%s (drain.signal) failed: %s",
                group,
                action.name,
                action.signal,
                outcome.why,
                extra={"code": "drain.signal"},
            )
        else:
            log.info("%s:%s: sent SIG%s (drain.signal)", group, action.name, action.signal)

    def _note_move(self, group: str, rollout: Rollout | None, action: Action, outcome: Outcome) -> None:
        verb, refusals = action.verb.value, self._refusals_of(rollout) if rollout else {}
        refusals.pop(action.name, None)
        if outcome.already_stopped:
            log.info("%s:%s: %s skipped: it was already stopped or restarted", group, action.name, verb)
            return
        if outcome.why:
            refusals[action.name] = (action.incarnation.spawned, f"{verb} it: {outcome.why}")
        refused = f", refused: {outcome.why}" if outcome.why else ""
        log.info("%s:%s: %s%s", group, action.name, verb, refused)
