"""The XML-RPC methods, from their docstrings, which supervisord reads too; and the faults of the namespace."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from from_code.rst import comments, definitions, escaped, joined, section
from supervisor_rolling.core import errors
from supervisor_rolling.plugin.listener_api import ListenerMethods
from supervisor_rolling.plugin.rpc import RollingNamespaceRPCInterface

_TAG = re.compile(r"@(param|return) +(\w+) +(\w+) *(.*)", re.DOTALL)


@dataclass(frozen=True)
class Value:
    """A parameter, or what is returned."""

    name: str
    kind: str  # such as struct
    text: str
    default: str = ""  # empty: it has none


@dataclass(frozen=True)
class Method:
    """A method that clients call."""

    name: str
    text: str
    parameters: tuple[Value, ...]
    returned: Value


def methods() -> Iterator[Method]:
    """Those for clients, in the order of the code; the listener has its own."""
    for name, function in vars(RollingNamespaceRPCInterface).items():
        if inspect.isfunction(function) and not name.startswith("_") and not hasattr(ListenerMethods, name):
            yield _method(name, function)


def reference() -> str:
    """A section for each method."""
    return joined(*map(_section, methods()))


def faults() -> str:
    """The numbers of the faults."""
    texts = comments(errors)
    known = {name: number for name, number in vars(errors.Fault).items() if name.isupper()}
    return definitions({f"{number} ``{name}``": texts["Fault", name] for name, number in known.items()})


def _method(name: str, function: Any) -> Method:
    head, *tags = re.split(r"\n(?=@)", inspect.getdoc(function) or "")
    found = [_TAG.fullmatch(tag) for tag in tags]
    assert all(found), f"{name}: a line of its docstring is not '@param type name text' or '@return type name text'"
    defaults = inspect.signature(function).parameters
    values = [(tag[1], Value(tag[3], tag[2], _line(tag[4]), _default(defaults.get(tag[3])))) for tag in found if tag]
    parameters = tuple(value for role, value in values if role == "param")
    (returned,) = (value for role, value in values if role == "return")
    return Method(name, f"{_line(head)}.", parameters, returned)


def _section(method: Method) -> str:
    signature = f"``rolling.{method.name}({', '.join(one.name + one.default for one in method.parameters)})``"
    taken = {f"``{one.name}`` ({one.kind})": f"{one.text}." for one in method.parameters}
    given = {f"Returns ``{method.returned.name}`` ({method.returned.kind})": f"{method.returned.text or 'See above'}."}
    return section(method.name, signature, method.text, definitions({**taken, **given}))


def _default(parameter: inspect.Parameter | None) -> str:
    if parameter is None or parameter.default is inspect.Parameter.empty:
        return ""
    return f"={'{}' if parameter.default is None else repr(parameter.default).lower()}"


def _line(text: str) -> str:
    return escaped(" ".join(text.split()))
