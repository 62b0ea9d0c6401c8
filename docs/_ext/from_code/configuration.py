"""The keys of rolling.yaml, from the dataclasses of ``core/policy.py``: a section for each, and in it its keys."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from from_code.rst import comments, directive, joined, section
from supervisor_rolling.core import policy
from supervisor_rolling.core.policy import (
    NOT_A_KEY,
    WEEK,
    BalancerPolicy,
    DrainPolicy,
    GatePolicy,
    GuardPolicy,
    HistoryPolicy,
    Hook,
    HooksPolicy,
    MetricsPolicy,
    OneOf,
    Policy,
    PortRule,
    Range,
    Ready,
    RestartPolicy,
    Share,
    SocketRule,
    WarmupPolicy,
    WarmupRequest,
)

SECTIONS: Mapping[str, tuple[Any, str]] = {
    "groups.NAME": (Policy, ""),
    "groups.NAME.drain": (DrainPolicy, "drain."),
    "groups.NAME.restart": (RestartPolicy, "restart."),
    "groups.NAME.warmup": (WarmupPolicy, "warmup."),
    "groups.NAME.warmup.requests": (WarmupRequest, "warmup.requests."),
    "groups.NAME.guard": (GuardPolicy, "guard."),
    "groups.NAME.balancer": (BalancerPolicy, "balancer."),
    "groups.NAME.hooks": (HooksPolicy, "hooks."),
    "groups.NAME.hooks.HOOK": (Hook, "hooks.HOOK."),
    "gate": (GatePolicy, "gate."),
    "history": (HistoryPolicy, "history."),
    "metrics": (MetricsPolicy, "metrics."),
}
"""By the title of a section: its dataclass, and what stands before each of its keys."""

KINDS: Mapping[Any, str] = {
    "seconds or auto": "seconds, or ``auto``",
    "path": "path of a URL",
    "method": "method of HTTP",
    "headers": "map of names to values",
    "statuses": "a status, or a list of them",
    "file": "full path of a file",
    "HAProxy name": "name",
    "signal": "name of a signal",
    "drain request": "a path, or ``{method, path}``",
    "program": "name",
    "command": "list of arguments",
    "address and port": "address and port",
    str: "text",
    bool: "``true`` or ``false``",
    Share: "number of processes, or percentage",
    SocketRule: "``auto``, a full path with ``{name}``, or a map of names to paths",
    PortRule: "``auto``, ``none``, a regex, or a map of names to ports",
    Ready: "a path, or ``{command, timeout}``",
    WarmupRequest: "a path, or a map",
    Hook: "list of arguments, or ``{command, timeout}``",
}
"""What a value is, by the annotation or the type of its field."""


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of rolling.yaml; all texts are reStructuredText."""

    name: str  # such as drain.timeout
    kind: str
    default: str  # empty: it is required
    meaning: str


def reference() -> str:
    """A section for each mapping of the file."""
    return joined(
        *(section(title, inspect.getdoc(kind) or "", _keys_text(title)) for title, (kind, _) in SECTIONS.items())
    )


def keys(title: str) -> Iterator[Key]:
    """The keys of a section. A key that is a mapping has a section of its own instead."""
    kind, prefix = SECTIONS[title]
    hints = typing.get_type_hints(kind, include_extras=True)
    inner = {found for found, _ in SECTIONS.values()} - {Hook, WarmupRequest}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if hint not in inner and NOT_A_KEY not in getattr(hint, "__metadata__", ()):
            meaning = comments(policy).get((kind.__name__, field.name), "")
            yield Key(f"{prefix}{field.name}", kind_of(hint), _default(hint, field), meaning)


def kind_of(hint: Any) -> str:
    """What a value of this type is."""
    special = hint.__metadata__[0] if typing.get_origin(hint) is typing.Annotated else hint
    if isinstance(special, Range):
        most = "a week" if special.most == WEEK else f"{special.most:g}"
        return f"{'whole number' if hint.__origin__ is int else 'seconds'}, {special.least:g} to {most}"
    if isinstance(special, OneOf):
        return ", ".join(f"``{word}``" for word in special)
    if special in KINDS:
        return KINDS[special]
    return f"list; each is: {kind_of(typing.get_args(hint)[0])}"


def _keys_text(title: str) -> str:
    return joined(*(directive("confval", key.name, _value_text(key), key.meaning) for key in keys(title)))


def _value_text(key: Key) -> str:
    """In a paragraph: the builder of man pages cannot show the options of ``confval``."""
    return f"Value: {key.kind}. {f'Default: {key.default}.' if key.default else 'Required.'}"


def _default(hint: Any, field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return "none"
    if field.default is dataclasses.MISSING:
        return ""
    return _shown(hint, field.default)


def _shown(hint: Any, value: Any) -> str:
    if hint == policy.SecondsOrAuto or value == PortRule(auto=True):
        return "``auto``"
    if isinstance(value, Share):
        return f"``{value.number}``" if value.number else f"``{value.percent:g}%``"
    if value in ("", (), Hook(), Ready(), SocketRule()):
        return "none"
    if isinstance(value, tuple):
        return f"``[{', '.join(value)}]``"
    if isinstance(value, bool):
        return f"``{str(value).lower()}``"
    return f"``{value}``" if isinstance(value, str) else f"``{value:g}``"
