"""What a rollout could not have taken less than, and where the time over that went.

The bound of one process is its drain, its stop, and the longer of startsecs and boot with warm-up: as long as its
requests, the application and supervisord's settings take, with any way to restart. The bound of a rollout is that of
the first process, which is alone, and of all others, divided by how many restart at a time. The delay beyond it is
given by stage, and the parts add up to the whole: a delay of one of several at a time counts as its share.

The record (``rolling.getRecord``) says when the listener saw what. When a process died, started and took requests comes
from the process itself (``watching.ProcessTime``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.watching import ProcessTime

BEGIN = "until the first leaves"
START = "from the old one's death to the new one's start"
RUNNING = "until it is seen RUNNING"
WARM = "until it is seen warm"
OPENING = "from that to open"
NEXT = "until the next leaves"
EMPTY = "places that stay empty at the end"
END = "from the last one open to the end"


@dataclass(frozen=True)
class Course:
    """One process in a rollout, seconds since the rollout began. ``warming``: how long the requests of its warm-up
    took."""

    name: str
    leaves: float
    restarting: float
    ready: float
    opened: float
    gone: float
    started: float
    up: float
    warming: float

    @property
    def boot(self) -> float:
        return self.up - self.started

    def least(self, startsecs: float) -> dict[str, float]:
        """The parts of its bound."""
        ready = self.boot + self.warming
        return {
            "drain": self.restarting - self.leaves,
            "stop": self.gone - self.restarting,
            "startsecs": max(startsecs, ready) if startsecs >= ready else 0.0,
            "boot and warm-up": ready if ready > startsecs else 0.0,
        }

    def over(self, startsecs: float) -> dict[str, float]:
        """What it took beyond that: with the bound, all of the time from leaving to open."""
        ready = self.boot + self.warming
        late = self.ready - self.started - max(startsecs, ready)
        waited_for = RUNNING if startsecs >= ready else WARM
        return {START: self.started - self.gone, waited_for: late, OPENING: self.opened - self.ready}


@dataclass(frozen=True)
class Explained:
    """``seconds``, ``bound`` and their ``ratio``; ``parts`` of the bound and what was ``over`` it, in seconds of the
    rollout. ``packed``: the bound of processes that are not divided: each goes to the place that is free first, so some
    places are empty while the last ones go."""

    seconds: float
    bound: float
    packed: float
    parts: Mapping[str, float]
    over: Mapping[str, float]

    @property
    def ratio(self) -> float:
        return self.seconds / self.bound if self.bound else math.inf

    @property
    def packed_ratio(self) -> float:
        return self.seconds / self.packed if self.packed else math.inf


def explained(record: Mapping[str, Any], known: Sequence[ProcessTime], startsecs: float, began: float) -> Explained:
    """``began``: of the rollout, on the clock of the lives. Raises ValueError where a process was not seen to be
    restarted: a rollout that was not done has no bound."""
    courses = sorted(_courses(record, known, began), key=lambda course: course.leaves)
    places = max(1, min(record["limit"], len(courses) - 1))
    weights = [1.0, *[1 / places] * (len(courses) - 1)]
    parts, over = Counter[str](), Counter[str]()
    for course, weight in zip(courses, weights):
        parts.update({what: seconds * weight for what, seconds in course.least(startsecs).items()})
        over.update({what: seconds * weight for what, seconds in course.over(startsecs).items()})
    over.update(between(courses, record["seconds"], places))
    least = [sum(course.least(startsecs).values()) for course in courses]
    return Explained(record["seconds"], sum(parts.values()), packed(least, places), dict(parts), dict(over))


def packed(least: Sequence[float], places: int) -> float:
    """The first alone, then each in the place that is free first."""
    first, *rest = least
    free = [first] * places
    for seconds in rest:
        place = free.index(min(free))
        free[place] += seconds
    return max(free)


def between(courses: Sequence[Course], seconds: float, places: int) -> dict[str, float]:
    """How long each place was empty, by the number of places."""
    first, *rest = courses
    free = [first.opened] * places
    waited = 0.0
    for course in rest:
        place = free.index(min(free))
        waited += course.leaves - free[place]
        free[place] = course.opened
    last = max(free)
    return {
        BEGIN: first.leaves,
        NEXT: waited / places,
        EMPTY: sum(last - one for one in free) / places,
        END: seconds - last,
    }


def _courses(record: Mapping[str, Any], known: Sequence[ProcessTime], began: float) -> list[Course]:
    by_pid = {one.pid: one for one in known}
    return [_course(process, by_pid, began) for process in record["processes"] if process["selected"]]


def _course(process: Mapping[str, Any], by_pid: Mapping[int, ProcessTime], began: float) -> Course:
    at = dict(reversed(process["stages"]))  # of one that drained twice the first time
    old, new = by_pid.get(process["old_pid"]), by_pid.get(process["pid"])
    if old is None or new is None or old is new or not math.isfinite(old.gone) or "open" not in at:
        raise ValueError(f"{process['name']} was not seen to be restarted: {process}")
    return Course(
        process["name"],
        at["draining"],
        at["restarting"],
        at["ready"],
        at["open"],
        gone=old.gone - began,
        started=new.started - began,
        up=new.up - began,
        warming=sum(process["latencies_ms"]) / 1000,
    )


def lines(rollout: Mapping[str, Any]) -> list[str]:
    """The summary of an ``Explained``, as the results have it: the bound, and what is over it."""
    head = f"took {rollout['seconds']:.2f} s, {rollout['ratio']:.3f} of the bound of {rollout['bound']:.2f} s"
    over = rollout["seconds"] - rollout["bound"]
    packed = f"{rollout['packed_ratio']:.3f} of the {rollout['packed']:.2f} s of processes that are not divided"
    return [f"{head} ({_listed(rollout['parts'])})", packed, f"over it by {over:.2f} s: {_listed(rollout['over'])}"]


def _listed(seconds: Mapping[str, float]) -> str:
    """The most first; what is under a hundredth of a second is left out."""
    most = sorted(seconds.items(), key=lambda item: -abs(item[1]))
    return ", ".join(f"{value:.2f} s {what}" for what, value in most if abs(value) >= 0.005)
