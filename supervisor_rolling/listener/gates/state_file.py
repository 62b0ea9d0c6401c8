"""What a gate has closed, written down for the next listener, where nothing forgets by itself as the kernel does.

A small JSON file, in a directory that needs no root and that no other user can write to: that of the flags of
``draining.py``, where the operator has named one, and for root; else ``supervisor_rolling-UID`` in the directory for
temporary files. Like HAProxy's memory it need not outlive a reboot. It is there only while something is closed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from supervisor_rolling.core.errors import GateError
from supervisor_rolling.draining import DIRECTORY_VARIABLE, directory_of
from supervisor_rolling.listener.system import shared_directory

log = logging.getLogger("supervisor_rolling")


class Record:
    """What one gate has closed: ``states`` has a word for each name. ``place`` tells this gate from all others of this
    user. Made where there is no directory for it, it raises GateError."""

    def __init__(self, place: Collection[str], directory: Path | None = None) -> None:
        self._place = list(place)
        digest = hashlib.sha256("\n".join(place).encode()).hexdigest()[:12]
        self.path = (directory or _directory()) / f"{digest}.json"
        self.states = self._read()

    def write(self, states: Mapping[str, str]) -> None:
        """Replace what is recorded, at once or not at all; nothing is no file. Raises GateError."""
        if states == self.states:
            return
        try:
            if states:
                self.prepare()
                self._replace(json.dumps({"gate": self._place, "closed": states}, sort_keys=True) + "\n")
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise GateError(f"Cannot write down what is closed, so nothing is closed: {error}") from None
        self.states = dict(states)

    def prepare(self) -> None:
        """Make the directory. Raises GateError where it is somebody else's, or cannot be written."""
        directory = str(self.path.parent)
        try:
            shared_directory.prepare(directory)
        except OSError as error:
            raise _nowhere(error) from None
        if not os.access(directory, os.W_OK | os.X_OK):
            raise _nowhere(f"{directory} may not be written by the user of this listener")

    def _replace(self, text: str) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(self.path)

    def _read(self) -> dict[str, str]:
        """Whoever else could have written it is not believed: ``prepare`` says so before anything is closed."""
        try:
            if self.path.lstat().st_uid != os.geteuid():
                return {}
            found = json.loads(self.path.read_text(encoding="utf-8"))["closed"]
            return {str(name): str(state) for name, state in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("what the listener before this one has closed is not known: %s: %s", self.path, error)
            return {}


def _directory() -> Path:
    user = os.geteuid()
    if user == 0 or os.environ.get(DIRECTORY_VARIABLE):
        return Path(directory_of(os.environ))
    try:
        return Path(tempfile.gettempdir(), f"supervisor_rolling-{user}")
    except OSError as error:
        raise _nowhere(error) from None


def _nowhere(why: object) -> GateError:
    return GateError(f"Nowhere to write down what is closed: {why}. {shared_directory.ANOTHER}")
