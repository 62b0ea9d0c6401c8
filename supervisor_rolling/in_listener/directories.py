"""A directory that is the listener's to write and everybody's to read, in a place that others may write to as well."""

from __future__ import annotations

import contextlib
import os
import stat

_READABLE = 0o755


def prepare(path: str) -> None:
    """Make it, where it is not there. Raises OSError where that does not work, or where what is there is no directory
    of root's or our own that nobody else may write: whoever could write there could lead us to another file.

    Whoever made it, under whatever umask: processes of other users look into it.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, _READABLE)
    found = os.lstat(path)
    is_fit = stat.S_ISDIR(found.st_mode) and found.st_uid in (0, os.geteuid()) and not found.st_mode & 0o022
    if not is_fit:
        raise PermissionError(f"{path} is not a directory of ours that nobody else may write")
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != _READABLE:
        os.chmod(path, _READABLE)
