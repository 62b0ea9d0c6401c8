"""Reads, writes and removes the files of ``setup``: whole or not at all, and none that another user can exchange."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile

from supervisor_rolling import file_trust
from supervisor_rolling.core.reason import with_see
from supervisor_rolling.core.setup_facts import FileChange
from supervisor_rolling.ctl.exit_status import FAILED, NO_PERMISSION, CommandError

MODE = 0o644
"""Of a new file. Root obeys no file that others may write, and supervisorctl of another user reads them."""


def require_root_alone(path: str, user: str) -> None:
    """Raise CommandError where ``user``, as which supervisord runs, may lead root to another file: what is in it would
    be sent to a program of that user, and root would write it."""
    for problem in file_trust.of_place(path):
        text = (
            f"{path} is not read or written as root, because supervisord runs as {user}. {problem.path}: {problem.text}"
            f". Fix: run setup as {user}, or {problem.fix}"
        )
        raise CommandError(with_see(text, "setup.rights"), NO_PERMISSION)


def read(path: str) -> str | None:
    """The text of a file, its line ends as they are; None where there is none. Raises CommandError where it cannot be
    read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _failed(path, "read", error) from None


def write(change: FileChange) -> None:
    """Put a file in its place at once, so that no program reads half of it; without a text, remove it. The owner and
    the mode of an existing file stay. Raises CommandError, also where it has changed since the plan was made."""
    if read(change.path) != change.before:
        raise CommandError(f"{change.path} has changed meanwhile, and is kept. Fix: run setup again", FAILED)
    if not change.text:
        _remove(change.path)
        return
    path = os.path.realpath(change.path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=".rolling-", dir=os.path.dirname(path))
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                _take_over(file.fileno(), path, is_new=change.before is None)
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


def _take_over(handle: int, path: str, is_new: bool) -> None:
    """Give a new file the mode of such files, else those of the file that it replaces."""
    if is_new:
        os.fchmod(handle, MODE)
        return
    before = os.stat(path)
    os.fchown(handle, before.st_uid, before.st_gid)
    os.fchmod(handle, stat.S_IMODE(before.st_mode))


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError as error:
        raise _failed(path, "removed", error) from None


def _failed(path: str, what: str, error: OSError) -> CommandError:
    if isinstance(error, PermissionError):
        return CommandError(f"{path} cannot be {what}: {error.strerror}. Fix: use sudo", NO_PERMISSION)
    return CommandError(f"{path} cannot be {what}: {error.strerror}", FAILED)
