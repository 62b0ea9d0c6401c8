"""Writes and removes the files of ``setup``: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile

from supervisor_rolling.core.setup_facts import FileChange
from supervisor_rolling.ctl.exit_status import FAILED, NO_PERMISSION, CommandError

MODE = 0o644
"""Root obeys no file that others may write, and supervisorctl of another user reads them."""


def read(path: str) -> str | None:
    """The text of a file; None where there is none. Raises CommandError where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _failed(path, "read", error) from None


def write(change: FileChange) -> None:
    """Put a file in its place at once, so that no program reads half of it. Raises CommandError."""
    path = os.path.realpath(change.path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=".rolling-", dir=os.path.dirname(path))
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
                os.fchmod(file.fileno(), MODE)
                file.write(change.text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise _failed(change.path, "written", error) from None


def remove(path: str) -> None:
    """Raises CommandError where the file cannot be removed."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _failed(path, "removed", error) from None


def _failed(path: str, what: str, error: OSError) -> CommandError:
    if isinstance(error, PermissionError):
        return CommandError(f"{path} cannot be {what}: {error.strerror}. Fix: use sudo", NO_PERMISSION)
    return CommandError(f"{path} cannot be {what}: {error.strerror}", FAILED)
