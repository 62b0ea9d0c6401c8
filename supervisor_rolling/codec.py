"""Dataclasses as JSON or XML-RPC structs, and back: dump, load and validate follow from the type hints of their fields.

A dataclass is an object with the names of its fields, a NamedTuple an array, an enum its value. A key that is missing
takes the default of its field; an unknown key is ignored. Everything else that does not fit is a ValueError that names
the place: ``members[1].pid: '7' is not a whole number``. A method ``problem`` of a NamedTuple
says what else is wrong with it.

This runs inside supervisord, which has one thread: readers and writers are made once for each type, and of a rollout
only what has changed is sent, and so only that is validated.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import typing
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple, NoReturn, TypeVar

from supervisor_rolling.core.rollout import Level, Member, Rollout

Convert = Callable[[Any], Any]
T = TypeVar("T")

MAX_WHOLE = 2**31 - 1
"""XML-RPC has no larger number."""

MAX_NUMBER = 1e15
"""No time or duration is as large; infinity is larger, and a comparison with NaN is false."""


class Misfit(ValueError):
    """A value that does not fit its type; ``path`` leads to it."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.path.lstrip("."), self.problem)))

    def raise_within(self, key: str) -> NoReturn:
        """Raise it with the key in front of its path."""
        self.path = key + self.path
        raise self


# --- to JSON and structs


def dump(value: Any) -> str:
    """The value as JSON text, ASCII only: XML-RPC in supervisord takes nothing else."""
    return json.dumps(value, default=_plain)


def dump_changes(rollout: Rollout, before: Rollout) -> str:
    """What has changed in a rollout, for ``load_changes``; all of it where it is another one, or has other members."""
    if rollout.id != before.id or len(rollout.members) != len(before.members):
        return dump(rollout)
    names = {field.name for field in dataclasses.fields(rollout)} - {"members", "levels"}
    kept = len(before.levels) if rollout.levels[: len(before.levels)] == before.levels else 0
    return dump(
        _Changes(
            {name: getattr(rollout, name) for name in names if getattr(rollout, name) != getattr(before, name)},
            tuple(
                _MemberChange(index, member)
                for index, (member, was) in enumerate(zip(rollout.members, before.members))
                if member is not was and member != was
            ),
            _NewLevels(kept, rollout.levels[kept:]),
        )
    )


def struct_of(value: Any, text: Callable[[str], str] = str) -> dict[str, Any]:
    """The dataclass as dicts, lists, texts and numbers; each text goes through ``text``."""
    kind: Any = type(value)
    write = _writer(kind)
    assert write
    struct: dict[str, Any] = write(value, text)
    return struct


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else vars(value)


# --- from JSON and structs


def load(kind: type[T], data: Any, path: str = "") -> T:
    """The value of this type. Raises ValueError, with the place below ``path``, where data does not fit."""
    hint: Any = kind
    value: T = _read(_reader(hint), data, path)
    return value


def load_changes(before: Rollout, data: Mapping[str, Any]) -> Rollout:
    """The rollout after the changes that ``dump_changes`` wrote, from the parsed JSON. Raises ValueError likewise."""
    changes = load(_Changes, data)
    readers = _readers(Rollout)
    fields = {name: _read(readers[name], changes.values[name], f".{name}") for name in readers.keys() & changes.values}
    members = list(before.members)
    for position, member in changes.members:
        if position >= len(members):
            raise Misfit(f"members: there is none at position {position}")
        members[position] = member
    levels = (*before.levels[: changes.levels.kept], *changes.levels.added)
    return dataclasses.replace(before, **fields, members=tuple(members), levels=levels)


class _MemberChange(NamedTuple):
    position: int
    member: Member


class _NewLevels(NamedTuple):
    kept: int
    added: tuple[Level, ...]


@dataclasses.dataclass(frozen=True)
class _Changes:
    """Of a rollout."""

    values: Mapping[str, object]  # by the names of its other fields
    members: tuple[_MemberChange, ...]
    levels: _NewLevels


# --- readers: each returns the value of its type, or raises Misfit


def _misfit(value: Any, wanted: str) -> NoReturn:
    raise Misfit(f"{repr(value)[:40] if isinstance(value, str) else repr(str(value)[:38])} is not {wanted}")


def _read(reader: Convert, data: Any, key: str) -> Any:
    try:
        return reader(data)
    except Misfit as misfit:
        misfit.raise_within(key)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _misfit(value, "a text")


def _truth(value: Any) -> bool:
    return value if isinstance(value, bool) else _misfit(value, "true or false")


def _whole(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= MAX_WHOLE else _misfit(value, "a whole number")


def _number(value: Any) -> float:
    if (type(value) is float or type(value) is int) and -MAX_NUMBER < value < MAX_NUMBER:
        return float(value)
    _misfit(value, "a number")


def _as_it_is(value: Any) -> Any:
    return value


_SCALARS: Mapping[Any, Convert] = {str: _text, bool: _truth, int: _whole, float: _number, object: _as_it_is}


@functools.cache
def _reader(hint: Any) -> Convert:
    """What reads a value of this type. Type hints take long to resolve: once."""
    if hint in _SCALARS:
        return _SCALARS[hint]
    if dataclasses.is_dataclass(hint):
        kind: Any = hint
        return functools.partial(_object, kind, tuple(_readers(kind).items()), _required(kind))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return functools.partial(_enum, {member.value: member for member in hint})
    if isinstance(hint, type) and issubclass(hint, tuple):
        return functools.partial(_row, hint, [_reader(item) for item in typing.get_type_hints(hint).values()])
    items = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and items[1:] == (...,):
        return functools.partial(_list, _reader(items[0]))
    if typing.get_origin(hint) is frozenset:
        return functools.partial(_set, _reader(items[0]))
    if typing.get_origin(hint) is Mapping:
        return functools.partial(_table, _reader(items[1]))
    raise TypeError(f"the codec has no reader for {hint}")


@functools.cache
def _readers(kind: Any) -> dict[str, Convert]:
    """By the names of a dataclass's fields."""
    hints = typing.get_type_hints(kind)
    return {field.name: _reader(hints[field.name]) for field in dataclasses.fields(kind)}


def _required(kind: Any) -> frozenset[str]:
    missing = dataclasses.MISSING
    return frozenset(f.name for f in dataclasses.fields(kind) if f.default is missing and f.default_factory is missing)


def _object(kind: Any, fields: tuple[tuple[str, Convert], ...], required: frozenset[str], data: Any) -> Any:
    if not isinstance(data, dict):
        _misfit(data, "an object")
    values, name = {}, ""
    try:
        for name, read in fields:
            if name in data:
                values[name] = read(data[name])
            elif name in required:
                raise Misfit("is missing")
    except Misfit as misfit:
        misfit.raise_within(f".{name}")
    return kind(**values)


def _enum(members: Mapping[str, Any], value: Any) -> Any:
    if not isinstance(value, str) or value not in members:
        _misfit(value, f"one of {', '.join(members)}")
    return members[value]


def _list(read: Convert, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        _misfit(value, "a list")
    try:
        return tuple(map(read, value))
    except Misfit:  # again, and slower, to find which
        return tuple(_read(read, item, f"[{index}]") for index, item in enumerate(value))


def _set(read: Convert, value: Any) -> frozenset[Any]:
    return frozenset(_list(read, value))


def _row(kind: Any, readers: list[Convert], value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) != len(readers):
        _misfit(value, f"a list of {len(readers)}")
    try:
        row = kind(*[read(item) for read, item in zip(readers, value)])
    except Misfit:  # again, and slower, to find which
        row = kind(*[_read(read, item, f"[{index}]") for index, (read, item) in enumerate(zip(readers, value))])
    problem = row.problem() if hasattr(kind, "problem") else ""
    if problem:
        raise Misfit(problem)
    return row


def _table(read: Convert, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        _misfit(value, "an object")
    return {_text(key): _read(read, item, f".{key[:40]}") for key, item in value.items()}


# --- writers: each returns the struct of a value of its type; None: the value itself

Write = Callable[[Any, Callable[[str], str]], Any]


@functools.cache
def _writer(hint: Any) -> Write | None:
    if hint is str:
        return lambda value, text: text(value)
    if hint in _SCALARS:
        return None
    if dataclasses.is_dataclass(hint):
        writers = {name: _writer(one) for name, one in typing.get_type_hints(hint).items()}
        return functools.partial(_write_object, [(name, write) for name, write in writers.items() if write])
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return lambda value, text: value.value
    if isinstance(hint, type) and issubclass(hint, tuple):
        return functools.partial(_write_row, [_writer(item) for item in typing.get_type_hints(hint).values()])
    write = _writer(typing.get_args(hint)[-1 if typing.get_origin(hint) is Mapping else 0])
    if typing.get_origin(hint) is tuple:
        return functools.partial(_write_list, write)
    return lambda value, text: {text(key): write(item, text) if write else item for key, item in value.items()}


def _write_object(writers: list[tuple[str, Write]], value: Any, text: Callable[[str], str]) -> dict[str, Any]:
    struct = dict(vars(value))
    for name, write in writers:
        struct[name] = write(struct[name], text)
    return struct


def _write_list(write: Write | None, value: Any, text: Callable[[str], str]) -> list[Any]:
    return [write(item, text) for item in value] if write else list(value)


def _write_row(writers: list[Write | None], value: Any, text: Callable[[str], str]) -> list[Any]:
    return [write(item, text) if write else item for write, item in zip(writers, value)]
