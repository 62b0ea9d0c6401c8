"""What supervisord remembers for us: what was asked, how far each roll got, and the ledger of warm pids.

Plain dicts in supervisord's memory, so that they live exactly as long as the processes that they speak of. The mailbox
decides nothing and understands little: it lets the listener write a roll only on top of the version that it has read
(compare-and-set), so that an operator's abort is never overwritten by a turn that had not seen it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Wire = dict[str, Any]  # a Roll as wire.py writes it, parsed

ACTIVE = "running"
RESUMABLE = ("failed", "aborted")
REQUESTS_KEPT = 100  # beyond this the oldest are dropped


class Mailbox:
    """One per supervisord, shared by all its HTTP servers."""

    def __init__(self) -> None:
        self.rolls: dict[str, Wire] = {}
        self.versions: dict[str, int] = {}
        self.requests: dict[int, Wire] = {}
        self.ledger: dict[str, dict[str, int]] = {}
        self.looked_at = 0.0  # when the listener last did; 0.0: never
        self._last_id = 0
        self._last_version = 0

    def ask(self, kind: str, group: str, at: float, details: Mapping[str, Any]) -> Wire:
        """Leave a request for the listener. ``kind``: restart, plan or resume. Returns it; the answer will stand in
        it."""
        self._last_id += 1
        request = {**details, "id": self._last_id, "kind": kind, "group": group, "asked_at": at, "state": "asked"}
        self.requests[self._last_id] = request
        for old in list(self.requests)[:-REQUESTS_KEPT]:
            del self.requests[old]
        return request

    def answer(self, number: int, state: str, code: int = 0, text: str = "", plan: Wire | None = None) -> None:
        """Note the answer to a request: accepted, refused or planned."""
        request = self.requests.get(number)
        if request is not None:
            request.update(state=state, code=code, text=text, plan=plan or {})

    def is_asked(self, number: int) -> bool:
        """Whether somebody still waits for the answer to a request."""
        return number in self.requests and self.requests[number]["state"] == "asked"

    def asked(self, since: float) -> list[Wire]:
        """The requests that wait for an answer and are not older than ``since``."""
        return [r for r in self.requests.values() if r["state"] == "asked" and r["asked_at"] >= since]

    def holder(self, group: str, since: float) -> Wire | None:
        """The roll or the request that has the group now, if any."""
        roll = self.rolls.get(group)
        if roll is not None and roll["status"] == ACTIVE:
            return roll
        waiting = [r for r in self.asked(since) if r["group"] == group and r["kind"] != "plan"]
        return waiting[0] if waiting else None

    def record(self, group: str, version: int, roll: Wire) -> bool:
        """Write a roll on top of ``version`` (0: there is none). False when somebody else wrote since."""
        if version != (self.versions[group] if group in self.rolls else 0):
            return False
        self._write(group, roll)
        return True

    def flag(self, group: str, **flags: bool) -> bool:
        """Set an operator's wish on the roll that runs. False when none runs."""
        roll = self.rolls.get(group)
        if roll is None or roll["status"] != ACTIVE:
            return False
        self._write(group, {**roll, **flags})
        return True

    def forget(self, groups: Iterable[str]) -> None:
        """These groups are gone from supervisord: nothing known or asked of them means anything now."""
        for group in groups:
            for known in (self.rolls, self.versions, self.ledger):
                known.pop(group, None)
            for request in [r for r in self.requests.values() if r["group"] == group and r["state"] == "asked"]:
                self.answer(request["id"], "gone")

    def groups(self) -> set[str]:
        """Every group of which something is known or asked."""
        return {*self.rolls, *self.ledger, *(r["group"] for r in self.requests.values() if r["state"] == "asked")}

    def news(self, known: Mapping[str, int]) -> dict[str, list[Any]]:
        """``{group: [version, roll]}`` of the rolls whose version is another than the one known."""
        return {
            group: [self.versions[group], roll]
            for group, roll in self.rolls.items()
            if self.versions[group] != known.get(group, 0)
        }

    def is_warm(self, group: str, name: str, pid: int) -> bool:
        """Whether this pid is the one that was warmed."""
        return bool(pid) and self.ledger.get(group, {}).get(name) == pid

    def _write(self, group: str, roll: Wire) -> None:
        self._last_version += 1  # one counter for all, so that no version ever comes again
        self.rolls[group] = roll
        self.versions[group] = self._last_version
        self.ledger.setdefault(group, {}).update(_warm_pids(roll["members"]))


def _warm_pids(members: Iterable[Wire]) -> dict[str, int]:
    return {m["name"]: m["pid"] for m in members if m["pid"] and m["stage"] in ("settling", "open")}
