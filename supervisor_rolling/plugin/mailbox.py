"""What supervisord remembers for us: requests, rollouts, what the crash guard does, and the ledger of warm processes.

It lives in supervisord's memory, exactly as long as the processes that it describes. The mailbox decides nothing: the
listener may write a rollout only on top of the version that it has read (compare-and-set), so that it never overwrites
an operator's abort that it has not seen. Guard states are written by the listener alone and simply replaced.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.process import Incarnation
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Status
from supervisor_rolling.core.snapshot import Request
from supervisor_rolling.plugin.process_delta import Table
from supervisor_rolling.plugin.process_times import ProcessTimes

T = TypeVar("T")

RESUMABLE = (Status.FAILED, Status.ABORTED)
READ_ONLY = ("plan", "check", "history", "record")  # requests that change nothing
REQUESTS_KEPT = 100  # of those without an answer, so that clients cannot fill supervisord's memory

FOLLOWS_WITHIN = 300.0
"""Seconds for which the next of several groups waits for a listener."""

REMEMBERED = 60.0
"""Seconds for which the ended rollout of a removed group can still be read: a client that watched it reads its end."""

REMOVED_TEXT = "supervisord removed the group, or replaced it (supervisorctl update), and stopped all its processes"


@dataclass(eq=False, repr=False)
class PendingRequest:
    """A request and what became of it. The client's deferred answer holds it, too."""

    request: Request
    at: float
    state: str = "asked"  # then accepted, refused, answered, abandoned or gone
    rollout: int = 0  # the number of the rollout that it led to
    code: int = 0  # the fault of a refusal
    text: str = ""  # of the refusal
    answer: Any = None  # of a plan: a Rollout, of a check: a Report, of a history: RolloutViews, of a record: JSON
    after: str = ""  # the group with the rollout that this one follows; no client waits for the answer
    after_id: int = 0  # the number of that rollout


class Versions(Generic[T]):
    """One value for each group, with a version number that is never reused."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self._numbers = numbers
        self._found: dict[str, tuple[int, T]] = {}

    def get(self, group: str) -> T | None:
        """The value of a group, if there is one."""
        return self._found[group][1] if group in self._found else None

    def __getitem__(self, group: str) -> T:
        return self._found[group][1]

    def __iter__(self) -> Iterator[str]:
        """The groups that have a value, in order."""
        return iter(sorted(self._found))

    def version(self, group: str) -> int:
        """0 where there is no value."""
        return self._found[group][0] if group in self._found else 0

    def write(self, group: str, value: T) -> int:
        """Returns the new version."""
        self._found[group] = (next(self._numbers), value)
        return self.version(group)

    def forget(self, group: str) -> None:
        """Remove the value of a group, if there is one."""
        self._found.pop(group, None)

    def news(self, known: Mapping[str, int]) -> dict[str, tuple[int, T]]:
        """``{group: (version, value)}`` of those with another version than the known one."""
        return {group: one for group, one in self._found.items() if one[0] != known.get(group, 0)}


class Mailbox:
    """One per supervisord, shared by all its HTTP servers."""

    def __init__(self) -> None:
        numbers = itertools.count(1)
        self.key = secrets.token_hex(32)  # with it the listener proves to be the listener
        self.rollouts: Versions[Rollout] = Versions(numbers)
        self.guard_states: Versions[GuardState] = Versions(numbers)
        self.table = Table()
        self.times = ProcessTimes()
        self.requests: dict[int, PendingRequest] = {}  # those without an answer
        self.ledger: dict[str, dict[str, tuple[Incarnation, float]]] = {}  # warm processes, and since when
        self.observed_at = 0.0  # when the listener asked last; 0.0: never
        self.problem = ""  # what the listener then said is wrong with rolling.yaml
        self.groups: tuple[str, ...] = ()  # those that rolling.yaml then had, in its order
        self._ids = itertools.count(1)

    # --- requests

    def ask(self, kind: str, group: str, at: float, after: Rollout | None = None, **details: Any) -> PendingRequest:
        """Leave a request for the listener; ``after``: the rollout that it follows; ``details``: the other fields of a
        ``Request``."""
        asked = PendingRequest(Request(next(self._ids), kind, group, **details), at)
        if after is not None:
            asked.after, asked.after_id = after.group, after.id
        self.requests[asked.request.id] = asked
        return asked

    def is_full(self, since: float) -> bool:
        """Whether no more can be asked now. Requests older than ``since`` are forgotten first: their clients, if they
        still wait, have them, and will report that the listener does not answer."""
        self.requests = {one.request.id: one for one in self.asked(since)}
        return len(self.requests) >= REQUESTS_KEPT

    def answer(self, number: int, state: str, **changes: Any) -> None:
        """Note the answer to a request in it, and forget it; ``changes``: other fields of
        ``PendingRequest``."""
        asked = self.requests.pop(number, None)
        if asked is None:
            return
        vars(asked).update(state=state, **changes)
        if asked.after and state != "accepted":
            problem = asked.text or "the group %s was removed from supervisord" % asked.request.group
            self.note_next(asked.after, asked.after_id, problem)

    def asked(self, since: float) -> list[PendingRequest]:
        """The requests that wait for an answer and are not older than ``since``. What follows a rollout waits longer
        for a listener (``tidy``)."""
        return [one for one in self.requests.values() if one.after or one.at >= since]

    def holder(self, group: str, since: float) -> Rollout | Request | None:
        """The running rollout of the group, or the request for one, if any."""
        rollout = self.rollouts.get(group)
        if rollout is not None and rollout.status is Status.RUNNING:
            return rollout
        waiting = (one.request for one in self.asked(since) if one.request.group == group)
        return next((request for request in waiting if request.kind not in READ_ONLY), None)

    # --- rollouts and guard states

    def record(self, group: str, version: int, rollout: Rollout, at: float) -> bool:
        """Write a rollout on top of ``version`` (0: there is none). False where it was changed since."""
        if version != self.rollouts.version(group):
            return False
        self._note_warm(group, _moved(self.rollouts.get(group), rollout), at)
        self.rollouts.write(group, rollout)
        return True

    def flag(self, group: str, **flags: Any) -> bool:
        """Set ``paused`` or ``aborting`` of the running rollout. False where none runs; one that is being aborted can
        be neither paused nor resumed."""
        rollout = self.rollouts.get(group)
        if rollout is None or rollout.status is not Status.RUNNING or (rollout.aborting and "aborting" not in flags):
            return False
        self.rollouts.write(group, replace(rollout, **flags))
        return True

    def follower_of(self, group: str) -> PendingRequest | None:
        """The request that follows the last rollout of a group, or that waits for its turn to begin one of the
        group."""
        waiting = (one for one in self.requests.values() if one.after and group in (one.after, one.request.group))
        return next(waiting, None)

    def note_next(self, group: str, number: int, problem: str) -> None:
        """Note in the rollout of this number, which is done, why the next group was not restarted, in one line."""
        rollout = self.rollouts.get(group)
        if rollout is not None and rollout.id == number:
            self.rollouts.write(group, replace(rollout, next_problem=" ".join(problem.split())))

    def guard(self, group: str, guard_state: GuardState | None, at: float) -> None:
        """Write a guard state; None: the group is no longer guarded."""
        if guard_state is None:
            self.guard_states.forget(group)
        else:
            self._note_warm(group, guard_state.guarded, at)
            self.guard_states.write(group, guard_state)

    def remove(self, group: str, at: float) -> tuple[Rollout | None, Rollout | None]:
        """supervisord has removed the group, perhaps to add it again with other processes. Its running rollout ends:
        returned as it was, and as it is. One that ended a moment ago can still be read for a while."""
        rollout = self.rollouts.get(group)
        self._forget(group)
        self.times.forget(group)
        if rollout is None or rollout.status is not Status.RUNNING:
            if rollout is not None and at - rollout.ended_at <= REMEMBERED:
                self.rollouts.write(group, rollout)
            return rollout, None
        members = tuple(replace(member, stage=Stage.OPEN) for member in rollout.members)
        ended = replace(
            rollout, status=Status.ABORTED, ended_at=at, why=REMOVED_TEXT, code="rollout.removed", members=members
        )
        self.rollouts.write(group, ended)
        return rollout, ended

    def tidy(self, present: Collection[str], at: float) -> None:
        """Forget all of the groups that supervisord no longer has, but how a rollout ended a moment ago; and what
        follows a rollout and has waited for too long: no client expects it any more."""
        for late in [one for one in self.requests.values() if one.after and at - one.at > FOLLOWS_WITHIN]:
            self.answer(late.request.id, "refused", text="no listener ran for %g s" % FOLLOWS_WITHIN)
        requested = {one.request.group for one in self.requests.values() if one.request.group}
        for group in {*self.rollouts, *self.guard_states, *self.ledger, *requested} - set(present):
            rollout = self.rollouts.get(group)
            if rollout is None or rollout.status is Status.RUNNING or at - rollout.ended_at > REMEMBERED:
                self._forget(group)

    def _forget(self, group: str) -> None:
        self.rollouts.forget(group)
        self.guard_states.forget(group)
        self.ledger.pop(group, None)
        for number in [one.request.id for one in self.requests.values() if one.request.group == group]:
            self.answer(number, "gone")

    # --- the ledger

    def is_warm(self, group: str, name: str, incarnation: Incarnation) -> bool:
        """Whether exactly this incarnation was warmed."""
        return bool(incarnation.pid) and self._warmed(group, name)[0] == incarnation

    def warm_since(self, group: str, name: str) -> float:
        """When the process in the ledger came into it; 0.0: there is none."""
        return self._warmed(group, name)[1]

    def _warmed(self, group: str, name: str) -> tuple[Incarnation, float]:
        return self.ledger.get(group, {}).get(name, (Incarnation(), 0.0))

    def _note_warm(self, group: str, processes: Iterable[Member | GuardedProcess], at: float) -> None:
        """An open process with a pid has been warmed."""
        ledger = self.ledger.setdefault(group, {})
        for one in processes:
            incarnation = Incarnation(one.pid, one.spawned)
            if one.pid and one.stage in (Stage.READY, Stage.OPEN) and not self.is_warm(group, one.name, incarnation):
                ledger[one.name] = (incarnation, at)


def _moved(old: Rollout | None, new: Rollout) -> list[Member]:
    """The members that this record brings to another stage or incarnation. The others may have died since, and the
    guard may have warmed new ones."""
    known = set(map(_place, old.members)) if old and old.id == new.id else set()
    return [member for member in new.members if _place(member) not in known]


def _place(member: Member) -> tuple[str | int | float, ...]:
    return member.name, member.pid, member.spawned, member.stage
