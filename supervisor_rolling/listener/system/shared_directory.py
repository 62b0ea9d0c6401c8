"""A directory that only the listener writes to and every process may read, in a place where others may write, too."""

from __future__ import annotations

import os
import stat

from supervisor_rolling.draining import DIRECTORY_VARIABLE

_MODE = 0o755

ANOTHER = f"Fix: name another directory by {DIRECTORY_VARIABLE} in the environment of [supervisord]"
"""What to do where one cannot be used."""


def prepare(path: str) -> None:
    """Make the directory where it does not exist. Raises OSError where that fails, or where what exists is no directory
    of root's or this user's that no other may write to: another user could lead the listener to any file.

    A new one is readable for all users, whatever the umask. One that exists is left as it is: it may be a home.
    """
    try:
        os.mkdir(path, _MODE)
        os.chmod(path, _MODE)
    except FileExistsError:
        pass
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        raise PermissionError(f"{path} is not a directory of root or of this user that no other user may write to")


def is_open_to_all(path: str) -> bool:
    """Whether processes of other users may look up files in a directory by name. Raises OSError."""
    return bool(os.stat(path).st_mode & stat.S_IXOTH)
