"""A directory that is the listener's to write and everybody's to read, in a place that others may write to as well."""

from __future__ import annotations

import os
import stat

from supervisor_rolling.draining import DIRECTORY_VARIABLE

_READABLE = 0o755

ANOTHER = f"Another directory: {DIRECTORY_VARIABLE} in the environment of [supervisord]"
"""What to do where one cannot be used."""


def prepare(path: str) -> None:
    """Make it, where it is not there. Raises OSError where that does not work, or where what is there is no directory
    of root's or our own that nobody else may write: whoever could write there could lead us to another file.

    What is made here processes of other users can look into, whatever the umask. What was there stays as it is: it may
    be somebody's home.
    """
    try:
        os.mkdir(path, _READABLE)
        os.chmod(path, _READABLE)
    except FileExistsError:
        pass
    found = os.lstat(path)
    is_fit = stat.S_ISDIR(found.st_mode) and found.st_uid in (0, os.geteuid()) and not found.st_mode & 0o022
    if not is_fit:
        what = "is not a directory of ours that nobody else may write"
        raise PermissionError(f"{path} {what}: remove it, or take another")


def is_open_to_all(path: str) -> bool:
    """Whether processes of other users can look at a file in a directory by its name. Raises OSError."""
    return bool(os.stat(path).st_mode & stat.S_IXOTH)
