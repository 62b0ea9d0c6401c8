"""The file in which a gate records what it has closed, for the next listener, where no lease opens it.

It is small and JSON, and exists only while something is closed. Its directory needs no root and no other user can write
there: for root, and where the operator has named one, that of the drain flags; else ``supervisor_rolling-UID`` in the
directory for temporary files. Like HAProxy's memory it need not outlive a reboot.
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


class StateFile:
    """What one gate has closed: ``states`` maps a name to its state. ``place`` tells this gate from all others of this
    user. Raises GateError where no directory is found for it."""

    def __init__(self, place: Collection[str], directory: Path | None = None) -> None:
        self._place = list(place)
        digest = hashlib.sha256("\n".join(place).encode()).hexdigest()[:12]
        self.path = (directory or _directory()) / f"{digest}.json"
        self.states = self._read()

    def write(self, states: Mapping[str, str]) -> None:
        """Replace what is recorded, as a whole or not at all; without states there is no file. Raises GateError."""
        if states == self.states:
            return
        try:
            if states:
                self.prepare()
                new = self.path.with_suffix(".new")
                text = json.dumps({"gate": self._place, "closed": states}, sort_keys=True)
                new.write_text(f"{text}\n", encoding="utf-8")
                new.replace(self.path)
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise GateError(f"Nothing was closed, because the gate's state file cannot be written: {error}") from None
        self.states = dict(states)

    def prepare(self) -> None:
        """Make the directory. Raises GateError where it is another user's, or cannot be written."""
        directory = str(self.path.parent)
        try:
            shared_directory.prepare(directory)
        except OSError as error:
            raise _no_directory(error) from None
        if not os.access(directory, os.W_OK | os.X_OK):
            raise _no_directory(f"the listener's user may not write to {directory}")

    def _read(self) -> dict[str, str]:
        """A file of another user does not count; ``prepare`` raises before anything is closed."""
        try:
            if self.path.lstat().st_uid != os.geteuid():
                return {}
            found = json.loads(self.path.read_text(encoding="utf-8"))["closed"]
            return {str(name): str(state) for name, state in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning(
                "cannot read what the previous listener has closed from %s: %s. Fix: supervisorctl rolling_check GROUP "
                "names the servers of HAProxy that are still drained; set them to ready",
                self.path,
                error,
                extra={"code": "gate.state_file"},
            )
            return {}


def _directory() -> Path:
    user = os.geteuid()
    if user == 0 or os.environ.get(DIRECTORY_VARIABLE):
        return Path(directory_of(os.environ))
    try:
        return Path(tempfile.gettempdir(), f"supervisor_rolling-{user}")
    except OSError as error:
        raise _no_directory(error) from None


def _no_directory(why: object) -> GateError:
    return GateError(f"No directory for the gate's state file: {why}. {shared_directory.ANOTHER}")
