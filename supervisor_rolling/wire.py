"""Rolls and watches as JSON text and back: how they travel to the mailbox and outlive the listener that wrote them.

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
from typing import Any

from supervisor_rolling.model import Roll, Watch


def dump(record: Roll | Watch) -> str:
    """The record as JSON text, ASCII only: XML-RPC in supervisord takes nothing else."""
    return json.dumps(record, default=vars)


def load_roll(data: Mapping[str, Any]) -> Roll:
    """The roll that ``dump`` wrote, from the parsed JSON. Raises ValueError, KeyError or TypeError on other data."""
    roll: Roll = _build(Roll, data)
    return roll


def load_watch(data: Mapping[str, Any]) -> Watch:
    """The watch that ``dump`` wrote, from the parsed JSON. Raises ValueError, KeyError or TypeError on other data."""
    watch: Watch = _build(Watch, data)
    return watch


def _build(kind: Any, data: Mapping[str, Any]) -> Any:
    hints = _hints(kind)
    names = [field.name for field in dataclasses.fields(kind) if field.name in data]
    return kind(**{name: _value(hints[name], data[name]) for name in names})


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _value(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    if typing.get_origin(hint) is tuple:
        return tuple(_value(typing.get_args(hint)[0], item) for item in value)
    if typing.get_origin(hint) is Mapping:
        return {key: _value(typing.get_args(hint)[1], item) for key, item in value.items()}
    return value
