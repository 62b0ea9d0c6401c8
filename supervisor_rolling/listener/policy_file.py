"""The policies as the YAML file says them now, for the guard: it needs them all the time, and not only when somebody
asks.

A rollout reads the file when it begins, and the client is told what is wrong with it. No client asks for the guard, so
it goes on with what was valid last: of the whole file, or of one group. A typing error must not open a gate, and one
group's error must not reach another group. ``problem`` is for ``rolling_status``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace

from supervisor_rolling.core.errors import ConfigError
from supervisor_rolling.core.policy import Config

log = logging.getLogger("supervisor_rolling")

BY_LAST_VALID = "the crash guard{there} uses the last valid version"
WITHOUT_VALID = "no process{there} is guarded until it is fixed, unless its group already was"
"""Of a file or a group that this listener has never read without a mistake. An earlier listener may have."""


class Policies:
    """One file. ``load`` reads it and raises ConfigError; ``mark`` gives something else when it is to be read again.
    ``problem``: what was wrong with it when it was last read for the guard and what that costs, in one line; empty:
    nothing."""

    def __init__(self, path: str, load: Callable[[str], Config], mark: Callable[[str], object]) -> None:
        self._path = path
        self._load = load
        self._mark = mark
        self._read: object = None
        self._config: Config | None = None
        self.problem = ""

    def fresh(self) -> Config:
        """The file as it is. Raises ConfigError."""
        return self._load(self._path)

    def latest(self) -> Config | None:
        """The last good one, read again when the file has changed; None where there has been none."""
        mark = self._mark(self._path)
        if mark != self._read:
            self._read = mark
            try:
                self._take(self.fresh())
            except ConfigError as error:
                guard = BY_LAST_VALID if self._config else WITHOUT_VALID
                self._complain(f"no rollout can start, and {guard.format(there='')}", str(error))
        return self._config

    def _take(self, config: Config) -> None:
        """A file that is valid, but for some groups: these keep their last valid policy, where there is one."""
        before = self._config.groups if self._config else {}
        kept = {group: before[group] for group in config.invalid if group in before}
        self._config, self.problem = replace(config, groups={**config.groups, **kept}), ""
        if config.invalid:
            costs = _cost(kept, BY_LAST_VALID), _cost(config.invalid.keys() - kept, WITHOUT_VALID)
            self._complain("; ".join(filter(None, costs)), "\n".join(config.invalid.values()))

    def _complain(self, cost: str, lines: str) -> None:
        self.problem = f"{cost}: {_in_one_line(lines)}"
        log.warning("%s is invalid: %s: %s", self._path, cost, lines)


def _cost(groups: Collection[str], guard: str) -> str:
    """What it costs that the policies of these groups are invalid; empty where there are none."""
    names = ", ".join(sorted(groups))
    return f"no rollout of {names} can start, and {guard.format(there=' there')}" if names else ""


def _in_one_line(text: str) -> str:
    first, *more = text.splitlines() or [text]
    return f"{first}; and {len(more)} more" if more else first
