"""Keeps an error in one group from the other groups.

A reconcile does its work for each group through ``each`` and ``attempt``. A group that fails is left out of the rest of
it, and tried again in the next. An error of every group, such as a supervisord that does not answer, is raised.
"""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Callable, Iterable
from typing import TypeVar

from supervisor_rolling.core.errors import ConflictError, FaultError, RollingError, SupervisorError

log = logging.getLogger("supervisor_rolling")
T = TypeVar("T")


class GroupErrors:
    """The groups that failed in this reconcile."""

    def __init__(self) -> None:
        self.failed: set[str] = set()
        self.conflicts: set[str] = set()  # those of them that only have to be observed again
        self._logged: dict[str, str] = {}

    def begin(self) -> None:
        """Begin a reconcile: try every group again."""
        for group in self._logged.keys() - self.failed:
            log.info("%s: no longer skipped", group)
            del self._logged[group]
        self.failed, self.conflicts = set(), set()

    def each(self, groups: Iterable[str], part: Callable[[str], T]) -> dict[str, T]:
        """What ``part`` returns for each of these groups; without those that have failed."""
        found: dict[str, T] = {}

        def run(group: str) -> None:
            found[group] = part(group)

        for group in groups:
            if group not in self.failed:
                self._run(group, functools.partial(run, group))
        return found

    def attempt(self, group: str, part: Callable[[], T], otherwise: T) -> T:
        """What ``part`` returns, also for a group that has failed before; ``otherwise`` where it raises."""
        found = [otherwise]
        self._run(group, lambda: found.append(part()))
        return found[-1]

    def _run(self, group: str, part: Callable[[], None]) -> None:
        try:
            part()
        except ConflictError:
            self.failed.add(group)
            self.conflicts.add(group)
        except RollingError as error:
            if isinstance(error, SupervisorError) and not isinstance(error, FaultError):
                raise
            self._fail(group, str(error), str(error), error.code)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this group's
            lines = traceback.format_exception(type(error), error, error.__traceback__)
            self._fail(group, f"a bug in supervisor_rolling\n{''.join(lines)}", "".join(lines[-2:-1]), "bug")

    def _fail(self, group: str, text: str, kind: str, code: str) -> None:
        """Log an error once for as long as errors of its kind last."""
        self.failed.add(group)
        if self._logged.get(group) != kind:
            log.error("%s: skipped, and its closed ports stay closed: %s", group, text, extra={"code": code})
        self._logged[group] = kind
