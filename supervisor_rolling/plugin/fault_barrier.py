"""Keeps our own defects from supervisord: every exception is logged there and answered as a fault.

supervisord answers an exception of a method with HTTP 500 and takes a TypeError for wrong parameters. An exception in a
deferred answer, an event or its loop tells even less, or ends supervisord and orphans its children.
"""

from __future__ import annotations

import functools
import inspect
import traceback
import types
from collections.abc import Callable
from typing import Any, TypeVar

from supervisor.xmlrpc import Faults, RPCError

from supervisor_rolling.core.errors import PAGES, Fault
from supervisor_rolling.core.reason import see, with_see
from supervisor_rolling.core.text import plain

T = TypeVar("T")

MAX_REPORTED = 100
"""Different defects that are logged; a defect is known by its kind and the line that raised it."""


class RollingFault(RPCError):
    """A fault of this namespace, with its name in the text as supervisor's own have it, and at its end the entry that
    says more: that of ``page``, or of the fault."""

    def __init__(self, code: int, text: str, page: str = "") -> None:
        RPCError.__init__(self, code)
        names = {value: name for name, value in vars(Fault).items() if isinstance(value, int)}
        self.text = f"{names[code]}: {plain(with_see(text, page or PAGES[code]))}"


class Defects:
    """The defects of one supervisord; each is logged once."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._reported: set[tuple[object, ...]] = set()

    def report(self, where: str, error: BaseException) -> None:
        """Log it, with its traceback, if it is new. Never raises."""
        try:
            text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            lines = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)[-1:]]
            defect = (where, type(error).__name__, *lines)
            if defect not in self._reported and len(self._reported) < MAX_REPORTED:
                self._reported.add(defect)
                self._logger.critical("rolling: a bug in supervisor_rolling in %s:\n%s" % (where, text))
        except Exception:  # noqa: BLE001 - there is nowhere left to report it
            return

    def fault(self, method: str, error: BaseException) -> RPCError:
        """Log it, and return the fault for the client. Uses nothing of ours that could be what is broken."""
        self.report("rolling.%s" % method, error)
        fault = RPCError(Fault.INTERNAL_ERROR)
        fault.text = (
            "INTERNAL_ERROR: %s failed because of a bug in supervisor_rolling (%s). Fix: see supervisord's log: "
            "supervisorctl maintail. %s" % (method, type(error).__name__, see("bug"))
        )
        return fault


def contained(kind: type[T]) -> type[T]:
    """The namespace, with public methods that raise RPCError alone; ``_defects`` makes one of every other exception."""
    for name, method in list(vars(kind).items()):
        if isinstance(method, types.FunctionType) and not name.startswith("_"):
            setattr(kind, name, _contained(method))
    return kind


def _contained(method: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(method)

    @functools.wraps(method)
    def answer(self: Any, *arguments: Any, **named: Any) -> Any:
        try:
            signature.bind(self, *arguments, **named)
        except TypeError:  # any other TypeError is a defect
            raise RPCError(Faults.INCORRECT_PARAMETERS) from None
        try:
            return method(self, *arguments, **named)
        except RPCError:
            raise
        except Exception as error:  # noqa: BLE001 - supervisord must not meet it
            raise self._defects.fault(method.__name__, error) from None

    return answer
