"""Records of rollouts, as ``rolling_report`` draws them: made up, the same at every call, of any size."""

from __future__ import annotations

import random
from typing import Any

Record = dict[str, Any]

BEGAN = 1795548307.25
"""Tuesday 24 November 2026, 19:25:07 UTC."""

NOT_WARM = "is not warm: GET / answered 500, expected 2xx"


def a_process(number: int, begin: float, dice: random.Random, slow: float = 1.0) -> Record:
    """A process that left at ``begin``, and is new, warm and open."""
    drained, started, warmed = dice.uniform(0.1, 1.1), dice.uniform(0.9, 1.1) * slow, dice.uniform(0.6, 0.9) * slow
    moments = [begin, begin + drained, begin + drained + started, begin + drained + started + warmed]
    words = ("draining", "restarting", "warming", "ready", "open")
    latencies = [dice.uniform(600, 900) * slow, *(dice.uniform(2, 14) for _ in range(10))]
    return {
        "name": f"app-{8000 + number}",
        "ports": [8000 + number],
        "selected": True,
        "attempted": True,
        "replaced": True,
        "failed": False,
        "killed": False,
        "stage": "open",
        "seconds": 0.0,
        "deaths": 0,
        "why": "",
        "old_pid": 28000 + number,
        "pid": 29000 + number,
        "lingering_connections": 0,
        "oldest_lingering": [],
        "requests": len(latencies),
        "first_ms": latencies[0],
        "last_ms": latencies[-1],
        "latencies_ms": [round(ms, 1) for ms in latencies],
        "statuses": [],
        "stages": [[word, round(at, 3)] for word, at in zip(words, [*moments, moments[-1] + 0.1])],
        "drained": drained,
        "stopped": 0.0,
        "started": started,
        "warmed": warmed,
        "ready": 0.1,
    }


def a_rollout(number: int = 8, limit: int = 1, slow: float = 1.0, **changes: Any) -> Record:
    """A rollout of so many processes, so many at a time, that ended well; ``changes`` are of its keys."""
    dice = random.Random(number)
    free = [0.0] * limit
    processes = []
    for n in range(number):
        begin = min(free)
        processes.append(a_process(n, begin, dice, slow))
        free[free.index(begin)] = processes[-1]["stages"][-1][1] + 0.01
    seconds = round(max(free), 2)
    return {
        "id": 12,
        "group": "app",
        "status": "done",
        "by": "root@web1",
        "user": "root",
        "client": "unix socket",
        "began": BEGAN,
        "seconds": seconds,
        "forecast": round(seconds * 0.97, 1),
        "limit": limit,
        "canary": 1,
        "force": False,
        "paused": False,
        "aborting": False,
        "waits_for": "",
        "waits_long": False,
        "size": number,
        "why": "",
        "total": number,
        "replaced": number,
        "min_available": number - limit,
        "min_ready_seconds": 0.1,
        "min_ready_auto": False,
        "min_ready_why": "",
        "min_ready_known": True,
        "interrupted": 0.0,
        "interruptions": [],
        "availability": availability(processes, number),
        "processes": processes,
        **changes,
    }


def availability(processes: list[Record], number: int) -> list[list[float]]:
    """How many were available, from the stages."""
    moves = sorted((at, step) for p in processes for at, step in _moves(p["stages"]))
    changes: list[list[float]] = [[0.0, number]]
    for at, step in moves:
        changes.append([at, changes[-1][1] + step])
    return changes


def _moves(stages: list[list[Any]]) -> list[tuple[float, int]]:
    leaves = [(stages[0][1], -1)] if stages else []
    return leaves + [(at, 1) for word, at in stages[1:] if word == "open"]


def a_failed_rollout(number: int = 8, bad: int = 2) -> Record:
    """A rollout that stopped at a process that answers 500: those before are new, those behind are old."""
    record = a_rollout(number)
    processes = record["processes"]
    left = processes[bad]
    left["stages"] = [*left["stages"][:3], ["failed", left["stages"][3][1]]]
    left.update(failed=True, replaced=False, why=NOT_WARM, requests=1, latencies_ms=[12.2], warmed=0.0, ready=0.0)
    for process in processes[bad + 1 :]:
        process.update(untouched(process))
    seconds = left["stages"][-1][1] + 0.2
    return {
        **record,
        "status": "failed",
        "seconds": seconds,
        "replaced": bad,
        "min_available": number - 1,
        "availability": availability(processes, number),
    }


def an_aborted_rollout(number: int = 8, done: int = 3) -> Record:
    """An aborted rollout: the rest was not touched."""
    record = a_rollout(number)
    for process in record["processes"][done:]:
        process.update(untouched(process))
    seconds = record["processes"][done - 1]["stages"][-1][1] + 0.3
    changes = availability(record["processes"], number)
    why = "aborted by root@web1"
    return {**record, "status": "aborted", "why": why, "seconds": seconds, "replaced": done, "availability": changes}


def a_lost_rollout(number: int = 8) -> Record:
    """A rollout of which only the line of its beginning was written: supervisord and the listener were killed."""
    record = a_rollout(number)
    for process in record["processes"]:
        process.update(untouched(process))
    known = {"seconds": 0.0, "replaced": 0, "min_available": number, "availability": [[0.0, number]]}
    return {**record, **known, "status": "lost", "why": "supervisord ended in the middle of it"}


def a_running_rollout(number: int = 8, done: int = 3) -> Record:
    """A rollout that is under way: one process is warming, the others wait."""
    record = an_aborted_rollout(number, done)
    begin, now = record["seconds"], record["seconds"] + 2.0
    moving = {
        "stages": [["draining", begin], ["restarting", begin + 0.5], ["warming", begin + 1.5]],
        "drained": 0.5,
        "started": 1.0,
    }
    record["processes"][done].update(moving, selected=True, requests=1, latencies_ms=[730.0])
    changes = availability(record["processes"], number)
    return {**record, "status": "running", "why": "", "seconds": now, "forecast": 14.0, "availability": changes}


def untouched(process: Record) -> Record:
    """What differs in a process that was not restarted."""
    never = dict.fromkeys(("drained", "stopped", "started", "warmed", "ready"), 0.0)
    pids = {"pid": process["old_pid"]}
    return {**never, **pids, "replaced": False, "requests": 0, "latencies_ms": [], "stages": []}
