"""The events that supervisord's event listeners can get, from ``plugin/events.py``."""

from __future__ import annotations

import inspect

from from_code.rst import definitions
from supervisor_rolling.plugin.events import EVENTS, RollingEvent


def reference() -> str:
    """Each event that a rollout emits."""
    emitted = {name: kind for name, kind in EVENTS.items() if issubclass(kind, RollingEvent)}
    return definitions({f"``{name}``": " ".join((inspect.getdoc(k) or "").split()) for name, k in emitted.items()})
