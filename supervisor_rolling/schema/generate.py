"""JSON Schemas of the public views, from their dataclasses: ``python -m supervisor_rolling.schema.generate``.

``rollout.json`` is what ``getRollout``, ``getRecord``, ``--json``, events and the history file have, ``process.json``
an element of ``getProcesses``, ``report.json`` what ``check`` returns.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supervisor_rolling.codec import MAX_WHOLE
from supervisor_rolling.core.public_view import ProcessView, ReportView, RolloutView

FILES = {"rollout.json": RolloutView, "process.json": ProcessView, "report.json": ReportView}

_COMMENTED = re.compile(r"^    (\w+):[^#\n]*#\s*(.+)$", re.MULTILINE)

_SCALARS: Mapping[Any, Mapping[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer", "minimum": 0, "maximum": MAX_WHOLE},
    float: {"type": "number"},
}


def json_schema(kind: Any) -> dict[str, Any]:
    """The JSON Schema of what ``codec.struct_of`` makes of this dataclass. The comments at the fields are its texts."""
    definitions: dict[str, Any] = {}
    _schema_of(kind, definitions)
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {**draft, **definitions.pop(kind.__name__), "$defs": definitions}


def text_of(kind: Any) -> str:
    """The text of the file that has it."""
    return json.dumps(json_schema(kind), indent=2) + "\n"


def main() -> None:
    """Write the files."""
    for name, kind in FILES.items():
        (Path(__file__).parent / name).write_text(text_of(kind), encoding="utf-8")


def _schema_of(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if hint in _SCALARS:
        return dict(_SCALARS[hint])
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"type": "string", "enum": [member.value for member in hint]}
    if dataclasses.is_dataclass(hint) or (isinstance(hint, type) and issubclass(hint, tuple)):
        name = getattr(hint, "__name__", "")
        if name not in definitions:
            definitions[name] = {}  # its place in the order
            definitions[name] = _definition(hint, definitions)
        return {"$ref": f"#/$defs/{name}"}
    return {"type": "array", "items": _schema_of(typing.get_args(hint)[0], definitions)}


def _definition(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    comments = dict(_COMMENTED.findall(inspect.getsource(kind)))
    fields = {
        name: {**_schema_of(hint, definitions), **({"description": comments[name]} if name in comments else {})}
        for name, hint in typing.get_type_hints(kind).items()
    }
    head = {"description": inspect.getdoc(kind)}
    if not dataclasses.is_dataclass(kind):  # a NamedTuple
        items = [{"title": name, **field} for name, field in fields.items()]
        return {**head, "type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    return {
        **head,
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


if __name__ == "__main__":
    main()
