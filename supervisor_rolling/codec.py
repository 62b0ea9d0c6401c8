"""Rollouts and watches as JSON text and back: how they travel to the mailbox and outlive the listener that wrote them.

Every dataclass becomes an object with the names of its fields; what an older version wrote and a newer one lacks,
or the other way round, takes the field's default.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import typing
from collections.abc import Mapping
from typing import Any, Callable, TypeVar

from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.nginx_config import Nginx
from supervisor_rolling.core.preflight_report import Report
from supervisor_rolling.core.rollout import Rollout

Reader = Callable[[Any], Any]
T = TypeVar("T")


def dump(record: Rollout | GuardState | Report | Nginx) -> str:
    """The record as JSON text, ASCII only: XML-RPC in supervisord takes nothing else."""
    return json.dumps(record, default=_plain)


def dump_changes(rollout: Rollout, before: Rollout) -> str:
    """What has changed in a rollout, as JSON text; the whole of it where it is another one, or has other members. Of a
    thousand members mostly a few have, and supervisord, which reads this, has one thread.

    ``{changes: {field: value}, members: [[index, member], …], levels: [how many are kept, [those that follow]]}``
    """
    if rollout.id != before.id or len(rollout.members) != len(before.members):
        return dump(rollout)
    names = {field.name for field in dataclasses.fields(rollout)} - {"members", "levels"}
    kept = len(before.levels) if rollout.levels[: len(before.levels)] == before.levels else 0
    found = {
        "changes": {name: getattr(rollout, name) for name in names if getattr(rollout, name) != getattr(before, name)},
        "members": [
            (index, member)
            for index, (member, was) in enumerate(zip(rollout.members, before.members))
            if member is not was and member != was
        ],
        "levels": (kept, rollout.levels[kept:]),
    }
    return json.dumps(found, default=_plain)


def load_rollout(data: Mapping[str, Any]) -> Rollout:
    """The rollout that ``dump`` wrote, from the parsed JSON. Raises ValueError, KeyError or TypeError on other data."""
    return load(Rollout, data)


def load_watch(data: Mapping[str, Any]) -> GuardState:
    """The watch that ``dump`` wrote, from the parsed JSON. Raises ValueError, KeyError or TypeError on other data."""
    return load(GuardState, data)


def load(kind: type[T], data: Mapping[str, Any]) -> T:
    """A value of this dataclass, from the parsed JSON. Raises ValueError, KeyError or TypeError on other data."""
    value: T = _build(kind, data)
    return value


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else vars(value)


def _build(kind: Any, data: Mapping[str, Any]) -> Any:
    return kind(**{name: read(data[name]) for name, read in _readers(kind).items() if name in data})


@functools.cache
def _readers(kind: Any) -> dict[str, Reader]:
    """For each field of a dataclass what makes its value of the parsed JSON. Type hints take long to resolve: once."""
    hints = typing.get_type_hints(kind)
    return {field.name: _reader(hints[field.name]) for field in dataclasses.fields(kind)}


def _reader(hint: Any) -> Reader:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return functools.partial(_build, hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint
    if isinstance(hint, type) and issubclass(hint, tuple):
        return functools.partial(_row, hint)
    if typing.get_origin(hint) is tuple:
        read_item = _reader(typing.get_args(hint)[0])
        return lambda value: tuple(map(read_item, value))
    if typing.get_origin(hint) is frozenset:
        return frozenset
    if typing.get_origin(hint) is Mapping:
        read_value = _reader(typing.get_args(hint)[1])
        return lambda value: {key: read_value(one) for key, one in value.items()}
    return _as_it_is


def _row(kind: Any, data: Any) -> Any:
    """A NamedTuple, which travels as an array."""
    return kind(*(_reader(hint)(item) for hint, item in zip(_hints(kind), data)))


@functools.cache
def _hints(kind: Any) -> tuple[Any, ...]:
    return tuple(typing.get_type_hints(kind).values())


def _as_it_is(value: Any) -> Any:
    return value
