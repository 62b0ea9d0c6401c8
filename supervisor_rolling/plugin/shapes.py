"""The shapes of what the listener writes into supervisord's memory, checked before it is written.

Whatever is kept has been checked, so that nothing that is kept can make a look or an answer fail. supervisord has one
thread and a rollout may have a thousand members, so a member that is as it was before is not looked at again.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any, Union

from supervisor_rolling.packing import unpack

STATUSES = frozenset({"running", "done", "failed", "aborted", "planned"})
STAGES = frozenset({"open", "down", "draining", "restarting", "warming", "ready", "failed"})

TEXT, TRUTH, WHOLE, NUMBER = "text", "true or false", "a whole number", "a number"
MAX_WHOLE = 2**31 - 1
"""XML-RPC has no larger number."""
MAX_NUMBER = 1e15
"""Far above what a clock shows, far below infinity; NaN is not below it."""


class ListOf:
    """The shape of a list; ``items``: that of each item."""

    def __init__(self, items: Shape) -> None:
        self.items = items


class TableOf:
    """The shape of an object whose keys are names; ``values``: that of each value."""

    def __init__(self, values: Shape) -> None:
        self.values = values


class RowOf:
    """The shape of a list with one item for each of these shapes."""

    def __init__(self, *items: Shape) -> None:
        self.items = items


class Added:
    """The shape of a key that came with a later version: a listener that is older does not write it."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape


Shape = Union[str, frozenset[str], ListOf, RowOf, TableOf, Added, Mapping[str, "Shape"]]

_SHARE: Shape = {"number": WHOLE, "percent": NUMBER}
_REQUEST: Shape = {
    "method": TEXT,
    "path": TEXT,
    "headers": TableOf(TEXT),
    "body": TEXT,
    "expect": ListOf(WHOLE),
    "count": WHOLE,
}
GATE: Shape = {
    "backend": TEXT,
    "method": TEXT,
    "lease": NUMBER,
    "bypass": TEXT,
    "socket": Added(TEXT),
    "backend_name": Added(TEXT),
}
_HOOK: Shape = {"command": ListOf(TEXT), "timeout": NUMBER}
POLICY: Shape = {
    "group": TEXT,
    "ports": {"pattern": TEXT, "by_name": TableOf(ListOf(WHOLE)), "auto": TRUTH},
    "max_unavailable": _SHARE,
    "canary": WHOLE,
    "max_failures": WHOLE,
    "drain": {
        "timeout": NUMBER,
        "min_seconds": NUMBER,
        "on_timeout": TEXT,
        "signal": Added(TEXT),
        "request": Added(TEXT),
        "keepalive": Added(TEXT),
        "idle_after": Added(NUMBER),
    },
    "restart": {"timeout": NUMBER, "on_kill": Added(TEXT)},
    "warmup": {
        "timeout": NUMBER,
        "ready": TEXT,
        "headers": TableOf(TEXT),
        "requests": ListOf(_REQUEST),
        "proxies": Added(ListOf(TEXT)),
    },
    "min_ready_seconds": NUMBER,
    "guard": {"enabled": TRUTH, "max_closed": _SHARE},
    "min_ready_auto": Added(TRUTH),
    "min_ready_why": Added(TEXT),
    "min_ready_read": Added(TRUTH),
    "balancer": Added({"nginx": TEXT, "retries": Added(TRUTH)}),
    "hooks": Added(dict.fromkeys(("before_rollout", "after_warmup", "on_failure", "after_rollout"), _HOOK)),
}
_CONNECTION: Shape = {"peer": TEXT, "age": NUMBER, "idle": NUMBER, "last": TEXT, "state": TEXT}
MEMBER: Shape = {
    "name": TEXT,
    "endpoints": ListOf(RowOf(TEXT, TEXT)),
    "selected": TRUTH,
    "stage": STAGES,
    "since": NUMBER,
    "attempted": TRUTH,
    "replaced": TRUTH,
    "failed": TRUTH,
    "was_closed": TRUTH,
    "old_pid": WHOLE,
    "old_spawned": NUMBER,
    "pid": WHOLE,
    "stopped_at": NUMBER,
    "killed": Added(TRUTH),
    "deaths": Added(WHOLE),
    "timing": {"drained": NUMBER, "stopped": NUMBER, "started": NUMBER, "warmed": NUMBER, "ready": NUMBER},
    "lingering_connections": WHOLE,
    "oldest_lingering": Added(ListOf(_CONNECTION)),
    "requests": WHOLE,
    "first_ms": NUMBER,
    "last_ms": NUMBER,
    "why": TEXT,
    "steps": Added(ListOf(RowOf(STAGES, NUMBER))),
    "latencies": Added(ListOf(NUMBER)),
    "statuses": Added(ListOf(WHOLE)),
    "spawned": Added(NUMBER),
}
WARD: Shape = {
    "name": TEXT,
    "endpoints": ListOf(RowOf(TEXT, TEXT)),
    "stage": STAGES,
    "since": NUMBER,
    "closed": TRUTH,
    "pid": WHOLE,
    "tries": WHOLE,
    "retry_at": NUMBER,
    "requests": WHOLE,
    "first_ms": NUMBER,
    "last_ms": NUMBER,
    "problem": TEXT,
    "why": TEXT,
    "spawned": Added(NUMBER),
}
ORDERS: Shape = ListOf(
    {"verb": frozenset({"stop", "start", "signal"}), "name": TEXT, "signal": TEXT, "pid": WHOLE, "spawned": NUMBER}
)
ROLLOUT: dict[str, Shape] = {
    "id": WHOLE,
    "group": TEXT,
    "limit": WHOLE,
    "force": TRUTH,
    "by": TEXT,
    "status": STATUSES,
    "paused": TRUTH,
    "aborting": TRUTH,
    "started_at": NUMBER,
    "ended_at": NUMBER,
    "stuck_since": NUMBER,
    "least_available": WHOLE,
    "why": TEXT,
    "user": Added(TEXT),
    "client": Added(TEXT),
    "began": Added(NUMBER),
    "forecast": Added(NUMBER),
    "levels": Added(ListOf(RowOf(NUMBER, WHOLE))),
    "prepared": Added(TRUTH),
    "verdict": Added(TEXT),
    "waits": Added(TEXT),
    "waits_long": Added(TRUTH),
    "rests": Added(ListOf(RowOf(NUMBER, NUMBER, TEXT))),
}
"""But for ``policy``, ``gate`` and ``members``, which have shapes of their own."""

CHANGES: Shape = {
    "changes": {},
    "members": ListOf(RowOf(WHOLE, {})),
    "levels": RowOf(WHOLE, ListOf(RowOf(NUMBER, WHOLE))),
}
"""Of a rollout, on top of the one that is kept: see ``wire.dump_changes``."""

REPORT: Shape = {
    "group": TEXT,
    "findings": ListOf(
        {"code": TEXT, "where": TEXT, "text": TEXT, "fix": TEXT, "severity": frozenset({"error", "warning"})}
    ),
    "checked": ListOf(TEXT),
    "skipped": ListOf(TEXT),
}

HEAD: dict[str, Shape] = {
    **dict.fromkeys(("group", "status", "by", "user", "client", "why"), TEXT),
    **dict.fromkeys(("id", "limit", "total", "replaced", "least_available", "size"), WHOLE),
    **dict.fromkeys(("began", "seconds", "rested", "forecast"), NUMBER),
    "force": TRUTH,
    "min_ready_known": TRUTH,
}
MAX_SHOWN: Mapping[str, Shape] = {"history": {"rollouts": ListOf(HEAD)}, "record": {"record": TEXT}}
"""By the kind of the request."""

KNOWN: Shape = {
    "rollouts": TableOf(WHOLE),
    "guard_states": TableOf(WHOLE),
    "table": WHOLE,
    "guarded": ListOf(TEXT),
    "packed": Added(TRUTH),
    "problem": Added(TEXT),
}


def read_rollout(text: Any, group: str, old: Mapping[str, Any] | None) -> dict[str, Any]:
    """The rollout of a group from its JSON, or from that of what has changed; ``old`` is the one that is kept. Raises
    ValueError for anything else."""
    rollout = _read(text)
    if "changes" in rollout:
        rollout = _changed(old, rollout)
        check(_BUT_LEVELS, rollout, "rollout")
    else:
        check(ROLLOUT, rollout, "rollout")
    _check_record(rollout, group, old or {}, "members", MEMBER)
    return rollout


def read_watch(text: Any, group: str, old: Mapping[str, Any] | None) -> dict[str, Any]:
    """The watch of a group from its JSON, likewise."""
    guard_state = _read(text)
    check({"group": TEXT}, guard_state, "watch")
    _check_record(guard_state, group, old or {}, "guarded", WARD)
    return guard_state


def read_report(text: Any, group: str) -> dict[str, Any]:
    """The report of a check from its JSON, likewise."""
    report = _read(text)
    check(REPORT, report, "report")
    if report["group"] != group:
        raise ValueError("group: it is of another group")
    return report


def read_told(text: Any, kind: str) -> dict[str, Any]:
    """What is told of the rollouts that were, likewise."""
    told = _read(text)
    check(MAX_SHOWN[kind], told, kind)
    return told


def _read(text: Any) -> dict[str, Any]:
    check(TEXT, text, "JSON")
    try:
        found = json.loads(unpack(text))
    except RecursionError:
        raise ValueError("JSON: it is nested too deeply") from None
    check({}, found, "JSON")
    return dict(found)


_BUT_LEVELS: Shape = {key: shape for key, shape in ROLLOUT.items() if key != "levels"}


def _changed(old: Mapping[str, Any] | None, found: Mapping[str, Any]) -> dict[str, Any]:
    check(CHANGES, found, "rollout")
    if old is None:
        raise ValueError("changes: there is no rollout that they could change")
    members, (kept, levels) = list(old["members"]), found["levels"]
    for index, member in found["members"]:
        if index >= len(members):
            raise ValueError(f"members: there is none with the index {index}")
        members[index] = member
    return {**old, **found["changes"], "members": members, "levels": [*old.get("levels", [])[:kept], *levels]}


def _check_record(new: Mapping[str, Any], group: str, old: Mapping[str, Any], many: str, one: Shape) -> None:
    """What a rollout and a watch have in common; ``many`` is the key of those that it is about, ``one`` their shape."""
    if new["group"] != group:
        raise ValueError("group: it is of another group")
    for key, shape in (("policy", POLICY), ("gate", GATE)):
        if key not in old or new.get(key) != old[key]:
            check(shape, new.get(key), key)
    check(ListOf({}), new.get(many), many)
    for index, (found, was) in enumerate(itertools.zip_longest(new[many], old.get(many, ())[: len(new[many])])):
        if found is not was and found != was:
            check(one, found, f"{many}[{index}]")


def check(shape: Shape, value: Any, path: str) -> None:
    """Raise ValueError where a value has not this shape; more keys than it has do no harm."""
    if not _fits(shape, value):
        where, wrong = _misfit(shape, value, path)
        raise ValueError(f"{where}: is missing" if wrong is _MISSING else f"{where}: {str(wrong)[:40]!r} does not fit")


_MISSING = object()


def _fits(shape: Shape, value: Any) -> bool:
    if isinstance(shape, Added):
        return value is _MISSING or _fits(shape.shape, value)
    if isinstance(shape, str):
        return _SCALARS[shape](value)
    if isinstance(shape, frozenset):
        return isinstance(value, str) and value in shape
    if isinstance(shape, ListOf):
        return isinstance(value, list) and all(_fits(shape.items, item) for item in value)
    if isinstance(shape, RowOf):
        return isinstance(value, list) and len(value) == len(shape.items) and all(map(_fits, shape.items, value))
    if not isinstance(value, dict):
        return False
    if isinstance(shape, TableOf):
        return all(isinstance(key, str) and _fits(shape.values, item) for key, item in value.items())
    return all(_fits(inner, value.get(key, _MISSING)) for key, inner in shape.items())


def _misfit(shape: Shape, value: Any, path: str) -> tuple[str, Any]:
    """Where a value does not fit, and what stands there."""
    inner: list[tuple[Shape, Any, str]] = []
    if isinstance(shape, Added):
        return _misfit(shape.shape, value, path)
    if isinstance(shape, ListOf) and isinstance(value, list):
        inner = [(shape.items, item, f"{path}[{index}]") for index, item in enumerate(value)]
    elif isinstance(shape, RowOf) and isinstance(value, list) and len(value) == len(shape.items):
        inner = [(kind, item, f"{path}[{index}]") for index, (kind, item) in enumerate(zip(shape.items, value))]
    elif isinstance(shape, TableOf) and isinstance(value, dict):
        inner = [(shape.values, item, f"{path}.{str(key)[:40]}") for key, item in value.items()]
    elif isinstance(shape, Mapping) and isinstance(value, dict):
        inner = [(kind, value.get(key, _MISSING), f"{path}.{key}") for key, kind in shape.items()]
    return next((_misfit(*one) for one in inner if not _fits(one[0], one[1])), (path, value))


_SCALARS: dict[str, Callable[[Any], bool]] = {
    TEXT: lambda value: isinstance(value, str),
    TRUTH: lambda value: isinstance(value, bool),
    WHOLE: lambda value: type(value) is int and 0 <= value <= MAX_WHOLE,
    NUMBER: lambda value: (  # a whole one goes over XML-RPC as what it is
        -MAX_NUMBER < value < MAX_NUMBER if type(value) is float else type(value) is int and abs(value) <= MAX_WHOLE
    ),
}
