"""What supervisord remembers for us: what was asked, how far each rollout got, what the guard has in hand, and the
ledger of warm processes.

Plain dicts in supervisord's memory, so that they live exactly as long as the processes that they speak of. The
mailbox decides nothing and understands little: it lets the listener write a rollout only on top of the version that it
has read (compare-and-set), so that an operator's abort is never overwritten by a turn that had not seen it. A watch
is written by the listener alone, so it is simply replaced.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from supervisor_rolling.plugin.process_delta import Table
from supervisor_rolling.plugin.process_times import ProcessTimes

Wire = dict[str, Any]  # a Rollout or a Watch as wire.py writes it, parsed

ACTIVE = "running"
RESUMABLE = ("failed", "aborted")
LOOKING = ("plan", "check", "history", "record")  # requests that change nothing
NOTHING = (0, 0.0, 0.0)  # in the ledger
REQUESTS_KEPT = 100  # of those without an answer, so that clients cannot fill supervisord's memory

REMEMBERED = 60.0
"""Seconds for which the rollout of a group that is gone can be asked for: whoever watched it is to read how it
ended."""

REMOVED_TEXT = "supervisord removed the group, or made it anew (supervisorctl update), and stopped all its processes"


class Records:
    """One record for each group, with a version that never comes again."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self._numbers = numbers
        self._found: dict[str, tuple[int, Wire]] = {}

    def get(self, group: str) -> Wire | None:
        """The record of a group, if there is one."""
        return self._found[group][1] if group in self._found else None

    def __getitem__(self, group: str) -> Wire:
        return self._found[group][1]

    def __iter__(self) -> Iterator[str]:
        """The groups that have a record, in order."""
        return iter(sorted(self._found))

    def version(self, group: str) -> int:
        """0 where there is none."""
        return self._found[group][0] if group in self._found else 0

    def write(self, group: str, record: Wire) -> int:
        """Returns the version that it now has."""
        self._found[group] = (next(self._numbers), record)
        return self.version(group)

    def forget(self, group: str) -> None:
        """Nothing known of it means anything now."""
        self._found.pop(group, None)

    def news(self, known: Mapping[str, int]) -> dict[str, list[Any]]:
        """``{group: [version, record]}`` of those whose version is another than the one known."""
        return {g: [version, record] for g, (version, record) in self._found.items() if version != known.get(g, 0)}


class Mailbox:
    """One per supervisord, shared by all its HTTP servers. ``key``: what the listener shows to be the listener."""

    def __init__(self) -> None:
        self.key = secrets.token_hex(32)
        numbers = itertools.count(1)
        self.rollouts = Records(numbers)
        self.guard_states = Records(numbers)
        self.table = Table()
        self.lives = ProcessTimes()
        self.requests: dict[int, Wire] = {}  # those without an answer
        self.ledger: dict[str, dict[str, tuple[int, float, float]]] = {}  # pid, spawned, since when
        self.looked_at = 0.0  # when the listener last did; 0.0: never
        self.problem = ""  # what it then found wrong with rolling.yaml
        self._last_id = 0

    # --- requests

    def ask(self, kind: str, group: str, at: float, details: Mapping[str, Any]) -> Wire:
        """Leave a request for the listener. ``kind``: restart, plan, resume, check, history or record. Returns it; the
        answer will stand in it."""
        self._last_id += 1
        request = {**details, "id": self._last_id, "kind": kind, "group": group, "asked_at": at, "state": "asked"}
        self.requests[self._last_id] = request
        return request

    def is_full(self, since: float) -> bool:
        """Whether no more can be asked now. What is older than ``since`` is forgotten first: its client, if it still
        waits, has the request itself, and is told that the listener does not answer."""
        self.requests = {request["id"]: request for request in self.asked(since)}
        return len(self.requests) >= REQUESTS_KEPT

    def answer(self, number: int, state: str, code: int = 0, text: str = "", plan: Wire | None = None) -> None:
        """Note the answer to a request: accepted, refused, planned, checked or told (``plan`` then is what is told).
        Whoever asked has the request, and nobody else needs it any more."""
        request = self.requests.pop(number, None)
        if request is not None:
            request.update(state=state, code=code, text=text, plan=plan or {})

    def asked(self, since: float) -> list[Wire]:
        """The requests that wait for an answer and are not older than ``since``."""
        return [r for r in self.requests.values() if r["asked_at"] >= since]

    def holder(self, group: str, since: float) -> Wire | None:
        """The rollout or the request that has the group now, if any."""
        rollout = self.rollouts.get(group)
        if rollout is not None and rollout["status"] == ACTIVE:
            return rollout
        waiting = [r for r in self.asked(since) if r["group"] == group and r["kind"] not in LOOKING]
        return waiting[0] if waiting else None

    # --- rollouts and watches

    def record(self, group: str, version: int, rollout: Wire, at: float) -> bool:
        """Write a rollout on top of ``version`` (0: there is none). False when somebody else wrote since."""
        if version != self.rollouts.version(group):
            return False
        self._note_warm(group, _moved(self.rollouts.get(group), rollout), at)
        self.rollouts.write(group, rollout)
        return True

    def flag(self, group: str, **flags: bool) -> bool:
        """Set an operator's wish on the rollout that runs. False when none runs, or when the rollout is being aborted,
        which no other wish changes."""
        rollout = self.rollouts.get(group)
        if rollout is None or rollout["status"] != ACTIVE or (rollout["aborting"] and not flags.get("aborting")):
            return False
        self.rollouts.write(group, {**rollout, **flags})
        return True

    def guard(self, group: str, guard_state: Wire | None, at: float) -> None:
        """Write a watch; None: the group is no longer guarded."""
        if guard_state is None:
            self.guard_states.forget(group)
        else:
            self._note_warm(group, guard_state["guarded"], at)
            self.guard_states.write(group, guard_state)

    def remove(self, group: str, at: float) -> tuple[Wire | None, Wire | None]:
        """A group is gone from supervisord, perhaps to come again at once with other processes. The rollout that ran
        ends with it: returned as it was, and as it is. One that had just ended can be asked for a while."""
        rollout = self.rollouts.get(group)
        self._forget(group)
        self.lives.forget(group)
        if rollout is None or rollout["status"] != ACTIVE:
            if rollout is not None and at - rollout["ended_at"] <= REMEMBERED:
                self.rollouts.write(group, rollout)
            return rollout, None
        members = [{**member, "stage": "open"} for member in rollout["members"]]
        ended = {**rollout, "status": "aborted", "ended_at": at, "why": REMOVED_TEXT, "members": members}
        self.rollouts.write(group, ended)
        return rollout, ended

    def tidy(self, present: Collection[str], at: float) -> None:
        """Of groups that are not in supervisord nothing known or asked means anything now, but how a rollout has
        ended."""
        for group in self.groups() - set(present):
            rollout = self.rollouts.get(group)
            if rollout is None or rollout["status"] == ACTIVE or at - rollout["ended_at"] > REMEMBERED:
                self._forget(group)

    def _forget(self, group: str) -> None:
        self.rollouts.forget(group)
        self.guard_states.forget(group)
        self.ledger.pop(group, None)
        for request in [r for r in self.requests.values() if r["group"] == group]:
            self.answer(request["id"], "gone")

    def groups(self) -> set[str]:
        """Every group of which something is known or asked."""
        asked = (r["group"] for r in self.requests.values() if r["group"])
        return {*self.rollouts, *self.guard_states, *self.ledger, *asked}

    # --- the ledger

    def is_warm(self, group: str, name: str, pid: int, spawned: float) -> bool:
        """Whether this incarnation is the one that was warmed."""
        return bool(pid) and self.ledger.get(group, {}).get(name, NOTHING)[:2] == (pid, spawned)

    def warm_since(self, group: str, name: str) -> float:
        """When the incarnation in the ledger came into it; 0.0 where there is none."""
        return self.ledger.get(group, {}).get(name, NOTHING)[2]

    def _note_warm(self, group: str, those: Iterable[Wire], at: float) -> None:
        """``those``: members of a rollout or wards. Those that are open with a pid have been warmed."""
        ledger = self.ledger.setdefault(group, {})
        for one in those:
            found = one["name"], one["pid"], one.get("spawned", 0.0)
            if one["pid"] and one["stage"] in ("ready", "open") and not self.is_warm(group, *found):
                ledger[one["name"]] = (*found[1:], at)


def _moved(old: Wire | None, new: Wire) -> list[Wire]:
    """The members that this record brings to another stage or incarnation. The others may have died since, and have
    been warmed by the guard: their incarnations are history."""
    known = set(map(_place, old["members"])) if old and old["id"] == new["id"] else set()
    return [member for member in new["members"] if _place(member) not in known]


def _place(member: Wire) -> tuple[Any, ...]:
    return member["name"], member["pid"], member.get("spawned", 0.0), member["stage"]
