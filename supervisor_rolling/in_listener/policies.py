"""The policies as the YAML file says them now, for the guard: it needs them all the time, and not only when somebody
asks.

A roll reads the file when it begins, and whoever asked is told what is wrong with it. Nobody asks for the guard, so
it goes on with the last file that was good: a typing error must not open a gate. ``problem`` is for those who ask how
things are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from supervisor_rolling.errors import ConfigError
from supervisor_rolling.model import Config

log = logging.getLogger("supervisor_rolling")


class Policies:
    """One file. ``load`` reads it and raises ConfigError; ``mark`` gives something else when it is to be read again.
    ``problem``: what was wrong with it when it was last read for the guard, in one line; empty: nothing."""

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
                self._config, self.problem = self.fresh(), ""
            except ConfigError as error:
                self.problem = _in_one_line(str(error))
                log.warning("the guard goes on with the policies that it has, because the file is wrong: %s", error)
        return self._config


def _in_one_line(text: str) -> str:
    first, *more = text.splitlines() or [text]
    return f"{first}; and {len(more)} more" if more else first
