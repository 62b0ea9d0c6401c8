"""Makes functions of ours raise, inside of supervisord: in this process, or in a real one as an rpcinterface.

::

    [rpcinterface:sabotage]
    supervisor.rpcinterface_factory = tests.support.sabotage:make_sabotage_rpcinterface

A target is ``module:name`` or ``module:Class.name``. Modules that imported the function by name get it, too.
"""

from __future__ import annotations

import builtins
import dataclasses
import functools
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

from supervisor_rolling.plugin import fault_barrier

PACKAGE = "supervisor_rolling"
MODULES = ("core.share", "core.text", *(f"plugin.{name}" for name in (
    "rpc", "arguments", "listener_api", "listener_health", "events", "event_subscriptions", "process_times", "mailbox",
    "process_delta", "views", "wakeup",
)))  # fmt: skip
"""All that runs in supervisord, but ``fault_barrier``, the net below the others, and what tests call themselves."""

ERRORS = (
    "ValueError",
    "KeyError",
    "TypeError",
    "RuntimeError",
    "UnicodeError",
    "RecursionError",
    "MemoryError",
    "OSError",
)

CONSTANT = (
    "plugin.events:RollingEvent.payload",
    "plugin.events:RollingRequestEvent.payload",
    "plugin.wakeup:WakeUp.readable",
    "plugin.wakeup:WakeUp.stay",
    "plugin.wakeup:WakeUp.writable",
    "plugin.wakeup:WakeUp.handle_write_event",
)
"""What supervisord calls without a net. Each returns a constant or what was made before, or writes into a dict."""

NETS = (
    "plugin.rpc:make_rolling_rpcinterface",
    "plugin.event_subscriptions:_without_exceptions",
    "plugin.event_subscriptions:subscribe_events",
    "plugin.wakeup:install",
    "plugin.wakeup:WakeUp.handle_error",
    "plugin.wakeup:WakeUp.close",
    "plugin.wakeup:WakeUp.reaped",
)
"""What catches, and is not called by what it would have to catch itself."""


def targets() -> list[str]:
    """Every function that can be made to raise."""
    return [name for name in all_functions() if name not in CONSTANT + NETS]


def all_functions() -> list[str]:
    """Everything of ours that runs in supervisord."""
    return [name for module in MODULES for name in _functions(module)]


def _functions(module: str) -> Iterator[str]:
    loaded = importlib.import_module(f"{PACKAGE}.{module}")
    for name, value in vars(loaded).items():
        if getattr(value, "__module__", "") != loaded.__name__:
            continue
        if isinstance(value, types.FunctionType):
            yield f"{module}:{name}"
        if isinstance(value, type):
            made = dataclasses.is_dataclass(value)  # its dunder methods are Python's own
            methods = [key for key, found in vars(value).items() if isinstance(found, types.FunctionType)]
            yield from (f"{module}:{name}.{key}" for key in methods if not (made and key.startswith("__")))


class Sabotage:
    """What is armed, and how often it has raised."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []
        self.hits = 0

    def arm(self, target: str, error: str) -> None:
        """Let it raise, from now on."""
        module, _, path = target.partition(":")
        owner: Any = importlib.import_module(f"{PACKAGE}.{module}")
        *classes, name = path.split(".")
        for one in classes:
            owner = getattr(owner, one)
        original = vars(owner)[name]
        kind = getattr(builtins, error)

        @functools.wraps(original)
        def raising(*_: Any, **__: Any) -> Any:
            self.hits += 1
            raise kind("sabotage")

        is_method = hasattr(original, "__wrapped__")  # a public one: what its net holds raises
        put = fault_barrier._contained(raising) if is_method else raising

        for place in [owner, *_importers(original)]:
            for key in [key for key, value in vars(place).items() if value is original]:
                self._before.append((place, key, original))
                setattr(place, key, put)

    def disarm(self) -> None:
        """Let everything work again."""
        while self._before:
            setattr(*self._before.pop())


def _importers(original: Any) -> list[Any]:
    ours = [module for name, module in sys.modules.items() if name.startswith(PACKAGE) and module is not None]
    return [module for module in ours if any(value is original for value in vars(module).values())]


_sabotage = Sabotage()
"""Of a whole process: supervisord keeps its modules when it is reloaded."""


def make_sabotage_rpcinterface(supervisord: Any) -> Any:
    return SabotageNamespaceRPCInterface(supervisord)


class SabotageNamespaceRPCInterface:
    """For tests; over XML-RPC."""

    def __init__(self, supervisord: Any) -> None:
        self._supervisord = supervisord

    def arm(self, target: str, error: str) -> bool:
        _sabotage.hits = 0
        _sabotage.arm(target, error)
        return True

    def disarm(self) -> int:
        """How often it has raised."""
        _sabotage.disarm()
        return _sabotage.hits

    def hits(self) -> int:
        """How often it has raised so far."""
        return _sabotage.hits

    def key(self) -> str:
        """The listener's key, so that a test can be the listener."""
        from supervisor_rolling.plugin.rpc import _mailboxes

        return str(_mailboxes[self._supervisord].key)
