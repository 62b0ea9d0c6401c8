"""Validates output by the JSON Schemas that the package ships."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator


def check_schema(name: str, found: Any) -> None:
    """Raises where it does not fit the shipped schema of this name."""
    schema = json.loads(resources.files("supervisor_rolling.schema").joinpath(name).read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(json.loads(json.dumps(found)))
