"""What ``--json`` prints, from the JSON Schemas that the package ships: the fields of each kind of object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from from_code.rst import definitions, escaped, joined, section
from supervisor_rolling.schema.generate import FILES

TITLES = {"rollout.json": "A rollout", "process.json": "A process of a group", "report.json": "A report of a check"}


def reference() -> str:
    """A section for each file, and in it one for each object that its fields hold."""
    return joined(*(_file(name) for name in FILES))


def schemas() -> Mapping[str, Any]:
    """The schemas by the names of their files."""
    folder = resources.files("supervisor_rolling.schema")
    return {name: json.loads(folder.joinpath(name).read_text(encoding="utf-8")) for name in FILES}


def _file(name: str) -> str:
    schema = schemas()[name]
    inner = [_object(name, title, found) for title, found in schema["$defs"].items() if "enum" not in found]
    where = f"{schema['description']} Its schema is ``supervisor_rolling/schema/{name}``."
    return section(TITLES[name], where, _fields_text(name, schema), *inner)


def _object(file: str, title: str, found: Mapping[str, Any]) -> str:
    about = [found["description"]] if found["type"] == "object" else [found["description"], "An array of these values:"]
    return joined(f".. _{_label(file, title)}:", section(_name(title), *about, _fields_text(file, found), line="~"))


def _fields_text(file: str, found: Mapping[str, Any]) -> str:
    return definitions({f"``{name}`` ({_type(file, field)})": sentence(field) for name, field in fields(found)})


def fields(found: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The fields of an object or of an array of fixed values."""
    yield from found.get("properties", {}).items()
    yield from ((item["title"], item) for item in found.get("prefixItems", ()))


def sentence(field: Mapping[str, Any]) -> str:
    """What a field means; empty if the code does not say it."""
    text: str = field.get("description", "")
    return escaped(f"{text[0].upper()}{text[1:]}.") if text else ""


def _type(file: str, field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        title = field["$ref"].rpartition("/")[2]
        return f":ref:`{_name(title)} <{_label(file, title)}>`"
    if "enum" in field:
        return ", ".join(f"``{word}``" for word in field["enum"])
    if field["type"] == "array" and "items" in field:
        return f"array of: {_type(file, field['items'])}"
    return str(field["type"])


def _name(title: str) -> str:
    return title.replace("View", "")


def _label(file: str, title: str) -> str:
    return f"json-{file.partition('.')[0]}-{_name(title).lower()}"
