"""The policies of rolling.yaml as the crash guard needs them: at any time, also while the file is invalid.

A rollout reads the file when it starts, and its client gets the problems. The guard has no client, so it uses what was
valid last: of the whole file, or of one group. A typing error must not open a gate, and one group's error must not
affect another group. ``problem`` is for ``rolling_status``. A changed file is read in the background: a large one takes
longer than a reconcile may.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable
from dataclasses import replace

from supervisor_rolling.core.errors import ConfigError
from supervisor_rolling.core.policy import Config
from supervisor_rolling.listener.contracts import Background

log = logging.getLogger("supervisor_rolling")

BY_LAST_VALID = "the crash guard{there} uses the last valid version"
WITHOUT_VALID = "no process{there} is guarded until it is fixed, unless its group already was"
"""Of a file or a group that this listener has never read without a problem. An earlier listener may have."""


class Policies:
    """One file. ``load`` reads it and raises ConfigError; ``mark`` returns another value when it has changed."""

    def __init__(
        self, path: str, load: Callable[[str], Config], mark: Callable[[str], Hashable], background: Background
    ) -> None:
        self._path = path
        self._load = load
        self._mark = mark
        self._background = background
        self._read: Hashable = None  # the mark of the file when it was read for the guard
        self._config: Config | None = None
        self.problem = ""  # what was wrong with it then, and the consequence, in one line; empty: nothing

    def fresh(self) -> Config:
        """The file as it is. Raises ConfigError. From any thread."""
        return self._load(self._path)

    def latest(self) -> Config | None:
        """The last valid one, read again when the file has changed; None where there has been none."""
        mark = self._mark(self._path)
        if mark == self._read:
            return self._config
        self._background.keep([mark])
        try:
            config = self.fresh() if self._read is None else self._background.run(mark, self.fresh)
            if config is None:
                return self._config
            self._take(config)
        except ConfigError as error:
            guard = BY_LAST_VALID if self._config else WITHOUT_VALID
            self._warn(f"no rollout can start, and {guard.format(there='')}", str(error))
        self._read = mark
        return self._config

    def groups(self) -> list[str]:
        """The groups that the file has, in its order, as ``latest`` read them."""
        return list(self._config.groups) if self._config else []

    def _take(self, config: Config) -> None:
        """Invalid groups keep their last valid policy, where there is one."""
        before = self._config.groups if self._config else {}
        kept = {group: before[group] for group in config.invalid if group in before}
        self._config, self.problem = replace(config, groups={**config.groups, **kept}), ""
        if config.invalid:
            of_both = (_consequence(kept, BY_LAST_VALID), _consequence(config.invalid.keys() - kept, WITHOUT_VALID))
            self._warn("; ".join(filter(None, of_both)), "\n".join(config.invalid.values()))

    def _warn(self, consequence: str, lines: str) -> None:
        first, *more = lines.splitlines() or [lines]
        self.problem = f"{consequence}: {first}{f'; and {len(more)} more' if more else ''}"
        log.warning("%s is invalid: %s: %s", self._path, consequence, lines, extra={"code": "config"})


def _consequence(groups: Collection[str], guard: str) -> str:
    """Of these groups being invalid; empty where there are none."""
    names = ", ".join(sorted(groups))
    return f"no rollout of {names} can start, and {guard.format(there=' there')}" if names else ""
