"""The reconciler: each reconcile observes, decides, records, holds gates and gives actions.

The listener may be killed at any point, and the next one continues, because of the order:

1. A rollout is recorded in supervisord before its gates move.
2. Gates close before supervisord is told to stop anything.
3. An action is given only for what the gate said after that.
4. What is remembered between two reconciles are observations, such as since when a port is closed and which clients
   were connected then. A new reconciler without them observes again.

A group that fails is skipped for the rest of a reconcile, with a log line; its closed ports stay closed, and the other
groups continue. Ports that must be closed after an event or a death are closed at once, before the next reconcile
(``live_groups.py``). Slow work runs in the background, and a later reconcile finds its result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from supervisor_rolling.core.errors import (
    ConflictError,
    NoKeyError,
    SocketsError,
    SupervisorError,
)
from supervisor_rolling.core.group import Group
from supervisor_rolling.core.log_messages import changes, guard_changes
from supervisor_rolling.core.poll_interval import IDLE_POLL, RESTART_POLL, poll_interval
from supervisor_rolling.core.process import Change
from supervisor_rolling.core.reason import with_see
from supervisor_rolling.core.snapshot import Snapshot
from supervisor_rolling.listener.actions import Actions
from supervisor_rolling.listener.contracts import Supervisor
from supervisor_rolling.listener.group_errors import GroupErrors
from supervisor_rolling.listener.live_groups import LiveGroups
from supervisor_rolling.listener.observe import Observer
from supervisor_rolling.listener.publisher import Publisher
from supervisor_rolling.listener.request_handler import RequestHandler

log = logging.getLogger("supervisor_rolling")

CONFLICT_PAUSE = 0.01
"""Seconds until the next reconcile after a conflict: another client, such as an operator's abort, wrote first."""

ANSWER_SEEN_AFTER = 0.06
"""Seconds after an answer at which one more observation wakes supervisord, so that it sends the answer to the client:
it checks its deferred answers every 0.05 s, but only when something wakes it."""

ACTIONS_TIMEOUT = 0.03
"""Seconds of a reconcile after which no further call with actions begins: the next reconcile observes first."""

RETRY_EVERY = 1.0
"""Seconds until the next reconcile after supervisord or the kernel did not answer."""


class Reconciler:
    """Reconciles all groups of one supervisord. For one thread."""

    def __init__(
        self,
        supervisor: Supervisor,
        requests: RequestHandler,
        observer: Observer,
        live: LiveGroups,
        actions: Actions,
        publisher: Publisher,
        errors: GroupErrors,
        clock: Callable[[], float],
    ) -> None:
        self._supervisor = supervisor
        self._requests = requests
        self._observer = observer
        self._live = live
        self._actions = actions
        self._publisher = publisher
        self._errors = errors
        self._clock = clock
        self._answered_at = float("-inf")
        self._observed_at = 0.0
        self._last_error = ""

    def on_events(self, changes: Sequence[Change]) -> float:
        """Close what these events ask for. Returns the seconds within which a reconcile is due."""
        return self._live.on_events(changes)

    def on_deaths(self) -> float:
        """Close what the deaths ask for, also while a reconcile waits for supervisord. Returns the seconds within which
        a reconcile is due."""
        return self._live.on_deaths()

    def gate_interval(self) -> float:
        """Seconds from one check of the gate to the next, between reconciles."""
        return self._live.gate_interval()

    def check_gate(self) -> None:
        """Close again what is to be closed and is found open, without asking supervisord for anything."""
        self._live.check_gate()

    def release(self, is_orphan: bool = False) -> None:
        """Open every gate: the listener exits. ``is_orphan``: because supervisord has."""
        groups = list(self._live.by_name.values())
        self._live.release()
        self._publisher.close(groups, self._observed_at, is_orphan)
        self._observer.end()

    def reconcile(self) -> float:
        """One reconcile of all groups. Returns the seconds until the next one is due, unless an event comes earlier."""
        try:
            pause = self._reconcile()
        except ConflictError:
            return self._abandoned(CONFLICT_PAUSE)
        except NoKeyError:  # it comes with an event, in a moment
            return self._abandoned(RETRY_EVERY)
        except (SupervisorError, SocketsError) as error:
            return self._abandoned(RETRY_EVERY, with_see(str(error), error.code))
        except Exception:  # whatever else it is: a listener that ends opens every gate
            log.exception("a bug in supervisor_rolling; this reconcile is left, and the next observes again")
            return self._abandoned(RETRY_EVERY)
        self._last_error = ""
        return pause

    def _abandoned(self, pause: float, error_text: str = "") -> float:
        """A reconcile was left. ``error_text``: the error, which is logged once for as long as it lasts."""
        if error_text and error_text != self._last_error:
            log.error("%s", error_text)
        self._last_error = error_text or self._last_error
        self._live.keep_closed()
        return pause

    def _reconcile(self) -> float:
        until = self._clock() + ACTIONS_TIMEOUT
        self._errors.begin()
        snapshot = self._snapshot()
        self._observed_at = self._clock()
        self._live.watch(snapshot)
        self._errors.each(self._observer.ended(snapshot), self._supervisor.unguard)
        names = self._observer.begin(snapshot)
        observed: dict[str, Group] = {}
        decided = self._errors.each(names, lambda name: self._advance(name, snapshot, observed))
        before = self._live.by_name
        every = {
            name: decided[name] if name in decided else self._observer.kept(name, snapshot, before.get(name))
            for name in names
        }
        self._live.apply(every)
        are_left = self._errors.each(decided, lambda name: self._actions.give(decided[name], until))
        self._publisher.count(every)
        if any(group.has_moved(observed[name]) for name, group in decided.items()):
            self._answered_at = self._clock()  # the end of a rollout answers the clients that wait for it
            return 0.0
        return 0.0 if any(are_left.values()) else self._pause(decided)

    def _snapshot(self) -> Snapshot:
        """What supervisord knows, after the requests that can be answered are."""
        guarded = self._observer.guarded()
        snapshot = self._supervisor.observe(guarded)
        self._publisher.keep(snapshot)
        if not self._requests.answer(snapshot):
            return snapshot
        self._answered_at = self._clock()
        again = self._supervisor.observe(guarded)
        return replace(again, idle=max(again.idle, snapshot.idle))  # the gap ended with the first observation

    def _advance(self, name: str, snapshot: Snapshot, observed: dict[str, Group]) -> Group:
        """Observe a group, decide, and record."""
        old = observed[name] = self._observer.observe(name, snapshot)
        new = old.decided()
        if new.rollout is not None and old.rollout is not None and new.rollout != old.rollout:
            self._supervisor.record(new.rollout, snapshot.rollouts[name][0])
            _log_each(changes(old.rollout, new.rollout))
        self._observer.decided(name)
        guard_state, known = new.guard_state, snapshot.guard_states.get(name)
        if guard_state is not None and guard_state != known:
            self._supervisor.guard(guard_state)
            _log_each(guard_changes(known or replace(guard_state, guarded=()), guard_state))
        return new

    def _pause(self, groups: Mapping[str, Group]) -> float:
        """Seconds for which all groups can do without a reconcile."""
        pauses = self._errors.each(
            groups, lambda name: poll_interval(groups[name].rollout, groups[name].guard_state, groups[name].observed)
        )
        found = [IDLE_POLL, *pauses.values()]
        if self._live.has_dead() or self._requests.is_retrying:  # supervisord has not noticed those deaths yet
            found.append(RESTART_POLL)
        if self._errors.failed:
            found.append(CONFLICT_PAUSE if self._errors.conflicts else RETRY_EVERY)
        hand_on = self._answered_at + ANSWER_SEEN_AFTER - self._clock()
        return min([*found, hand_on] if hand_on > 0 else found)


def _log_each(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        log.info("%s", sentence)
