"""What our tables in nftables have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from supervisor_rolling.listener.system.libnftables import Command

FAMILY = "inet"


def entire(name: str) -> dict[str, Any]:
    """A table of ours, for a command that is about it."""
    return {"family": FAMILY, "name": name}


def inside(table: str, **what: Any) -> dict[str, Any]:
    """Something in a table of ours, likewise."""
    return {"family": FAMILY, "table": table, **what}


def removal(name: str) -> list[Command]:
    """Added first, so that the transaction does not fail over a table that is not there."""
    return [{"add": {"table": entire(name)}}, {"delete": {"table": entire(name)}}]


def leases(found: Mapping[str, Any]) -> Iterable[tuple[int, float]]:
    """Each port in a set, with the seconds that it has left; infinity for one that somebody added without a timeout."""
    for one in found.get("elem", []):
        element = one.get("elem", {}) if isinstance(one, dict) else {"val": one}
        if isinstance(element.get("val"), int):
            yield element["val"], element.get("expires", 0.0 if "timeout" in element else math.inf)
