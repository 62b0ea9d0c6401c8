"""The policies as the YAML file says them now, for the guard: it needs them all the time, and not only when somebody
asks.

A roll reads the file when it begins, and whoever asked is told what is wrong with it. Nobody asks for the guard, so
it goes on with the last file that was good: a typing error must not open a gate.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from supervisor_rolling.errors import ConfigError
from supervisor_rolling.model import Config

log = logging.getLogger("supervisor_rolling")


class Policies:
    """One file. ``load`` reads it and raises ConfigError."""

    def __init__(self, path: str, load: Callable[[str], Config]) -> None:
        self._path = path
        self._load = load
        self._read: object = None
        self._config: Config | None = None

    def fresh(self) -> Config:
        """The file as it is. Raises ConfigError."""
        return self._load(self._path)

    def latest(self) -> Config | None:
        """The last good one, read again when the file has changed; None where there has been none."""
        mark = self._mark()
        if mark != self._read:
            self._read = mark
            try:
                self._config = self.fresh()
            except ConfigError as error:
                log.warning("the guard goes on with the policies that it has, because the file is wrong: %s", error)
        return self._config

    def _mark(self) -> object:
        try:
            found = os.stat(self._path)
        except OSError:
            return "missing"
        return (found.st_mtime_ns, found.st_size, found.st_ino)
