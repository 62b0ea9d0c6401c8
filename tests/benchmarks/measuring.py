"""How one way is measured: a stack of its own, a load, and what was seen from the order until all is back."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import bound, ours, versions
from tests.benchmarks.catalogue import Way
from tests.benchmarks.results import Latencies, Result
from tests.benchmarks.watching import ProcessTime, Watcher, busy, least, processor_time
from tests.support import proc
from tests.support.load import Answer, Load, Plan, Report, summarise
from tests.support.netns import enter_private_network
from tests.support.site.life import UP, read
from tests.support.stack import Stack, StackError

NOISY = 0.05
"""Seconds. A generator that sends later than this was kept from the processor, and so were the servers."""

OLD, NEW = "old", "new"
"""The releases before and after; a way that leaves an old process behind has not done its work."""

UP_WITHIN = 300.0
"""Seconds until all processes take requests, all of them at once on two processors."""

LAST_DEATHS = 0.2
"""Seconds in which the watch hears of those that have died."""

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """How each way is measured: ``lead`` and ``tail`` are the seconds of load before and after it, ``steady`` those of
    no restart."""

    rate: float = 100.0
    lead: float = 10.0
    tail: float = 3.0
    steady: float = 15.0


QUICK = Measure(rate=40.0, lead=3.0, tail=2.0, steady=4.0)


@dataclass(frozen=True)
class Times:
    """When the order was given, when it was said to be done, and when all new processes took requests; what the tool
    had cost by then, and how busy the machine was before and during."""

    began: float
    returned: float
    back: float
    cpu: Mapping[str, float]
    busy: tuple[float, float]


def measure(way: Way, size: int, how: Measure) -> Result:
    """Run one way in a new network namespace and a new stack."""
    enter_private_network()
    with tempfile.TemporaryDirectory(prefix="rollouts-") as directory:
        stack = Stack(Path(directory), way.setup)
        stack.release(OLD)
        with stack:
            _wait_up(stack, size, 0.0)
            way.warm(stack)
            stack.release(NEW)
            return _under_load(way, size, how, stack)


def _under_load(way: Way, size: int, how: Measure, stack: Stack) -> Result:
    plan = Plan(stack.url, rate=how.rate, posts=way.posts, seconds=3600.0)
    with Watcher(stack, _daemons(way, stack), _membership(way, stack)) as watcher:
        with Load(plan, stack.directory / "load.jsonl") as load:
            record, times = _run(way, size, how, stack, watcher)
            time.sleep(how.tail)
        time.sleep(LAST_DEATHS)
    answers = [answer for answer in load.answers() if answer.scheduled < times.back + how.tail]
    _require_order(way, answers, times)
    explained = _explained(record, watcher.lives(), way) if record else {}
    return _result(way, size, how, answers, times, watcher, explained)


def _run(way: Way, size: int, how: Measure, stack: Stack, watcher: Watcher) -> tuple[Record, Times]:
    spent = processor_time()
    time.sleep(how.lead)
    quiet, spent = busy(spent, processor_time()), processor_time()
    daemons, script, began = watcher.daemons_cost(), watcher.script_cost(), time.monotonic()
    record = way.run(stack) or {}
    returned, script = time.monotonic(), watcher.script_cost() - script
    back = max(returned, _wait_up(stack, size, began)) if way.deploys else returned
    cpu = {name: cost - daemons[name] for name, cost in watcher.daemons_cost().items()}
    return record, Times(began, returned, back, {**cpu, "commands": script}, (quiet, busy(spent, processor_time())))


def _wait_up(stack: Stack, size: int, since: float) -> float:
    """Wait until so many have come up since; gives when the last of them did."""

    def ups() -> list[float]:
        return [note.at for note in read(stack.directory / "life") if note.word == UP and note.at > since]

    stack.wait_until(lambda: len(ups()) >= size, UP_WITHIN, f"{size} processes take requests")
    return ups()[size - 1]


def _require_order(way: Way, answers: Sequence[Answer], times: Times) -> None:
    """What is measured is worth nothing where it was no steady state before, or is no new release after."""
    lead = summarise(before(answers, times.began))
    if lead.failures or lead.cold:
        raise StackError(f"{way.name}: before it began {lead.cold} GETs were cold, and these failed: {lead.failures}")
    old = sum(answer.release == OLD and answer.scheduled >= times.back for answer in answers)
    if way.deploys and old:
        raise StackError(f"{way.name}: {old} answers of the old release after it was done")


def before(answers: Iterable[Answer], began: float) -> list[Answer]:
    """Those that had been answered when the order was given; what was in flight then is the way's to lose."""
    return [answer for answer in answers if answer.scheduled + answer.latency < began]


def _daemons(way: Way, stack: Stack) -> dict[str, int]:
    """The processes of the tool: the master of a peer, or supervisord and our listener."""
    if way.is_own_master:
        return {"master": stack.processes()[0].pid}
    found = {"supervisord": stack.supervisord_pid, "listener": ours.listener_pid(stack)}
    return {name: pid for name, pid in found.items() if pid}


def _membership(way: Way, stack: Stack) -> functools.partial[bool]:
    """The load balancer counts for no way, and supervisord is no part of a peer."""
    others = {one.pid for one in proc.descendants(stack.nginx_pid)}
    others |= {stack.supervisord_pid} if way.is_own_master else set()
    return functools.partial(_is_no_other, frozenset(others))


def _is_no_other(others: frozenset[int], pid: int) -> bool:
    return pid not in others


def _explained(record: Record, lives: Sequence[ProcessTime], way: Way) -> Record:
    found = bound.explained(record, lives, way.setup.startsecs, record["started"])
    same = {key: record[key] for key in ("min_available", "state_p99", "listener_mb") if key in record}
    return {**asdict(found), "ratio": found.ratio, "packed_ratio": found.packed_ratio, **same}


def _result(
    way: Way,
    size: int,
    how: Measure,
    answers: Sequence[Answer],
    times: Times,
    watcher: Watcher,
    rollout: Record,
) -> Result:
    earlier = before(answers, times.began)
    lead, report = summarise(earlier), summarise(set(answers).difference(earlier))
    fewest = least(watcher.lives(), times.began, times.back)
    return Result(
        size=size,
        way=way.name,
        about=way.about,
        side=way.side,
        seconds=times.back - times.began,
        requests=report.requests,
        gets_failed=report.gets_failed,
        posts_failed=report.posts_failed,
        cold=report.cold,
        failures=report.failures,
        before=_latencies(lead),
        during=_latencies(report),
        least=min(fewest, rollout.get("min_available", fewest)),
        megabytes=watcher.heaviest(times.began, times.back),
        cpu=times.cpu,
        late=max(lead.late, report.late),
        busy=times.busy,
        rate=how.rate,
        machine=versions.machine(),
        when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        rollout=rollout,
    )


def _latencies(report: Report) -> Latencies:
    return Latencies(report.p50, report.p99, report.max)
