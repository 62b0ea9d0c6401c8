"""The bytes of rolling.yaml, if root may trust them.

The file says which ports root closes and what it executes: see ``file_trust``.
"""

from __future__ import annotations

import os
import stat

from supervisor_rolling import file_trust
from supervisor_rolling.core.errors import ConfigError

_OTHER_FILE = "Fix: name another file with --config"


def read(path: str, most: int) -> bytes:
    """The first ``most`` bytes of a file. Raises ConfigError where it cannot be read or must not be trusted."""
    try:
        # Non-blocking: a FIFO without a writer would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigError(f"{path}: does not exist. Fix: create it, or name another file with --config") from None
    except PermissionError:
        raise ConfigError(f"{path}: permission denied. Fix: let the listener's user read it") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}. {_OTHER_FILE}") from None
    except ValueError:
        raise ConfigError(f"{path!r}: the name has a NUL. {_OTHER_FILE}") from None
    try:
        _require_trust(path, os.fstat(handle))
        with os.fdopen(handle, "rb", closefd=False) as stream:
            return stream.read(most)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}. {_OTHER_FILE}") from None
    finally:
        os.close(handle)


def mark(path: str) -> object:
    """A value that changes when the file may be valid or invalid in another way than before."""
    try:
        info = os.stat(path)
        is_root = os.geteuid() == 0
        way = [(step, there.st_mode, there.st_uid) for step, there in file_trust.way_to(path)] if is_root else []
    except (OSError, ValueError):
        return "missing"
    return (info.st_mtime_ns, info.st_size, info.st_ino, info.st_mode, info.st_uid, *way)


def _require_trust(path: str, opened: os.stat_result) -> None:
    """Checks the file that was opened, not the one that has its name now."""
    if not stat.S_ISREG(opened.st_mode):
        what = "is a directory" if stat.S_ISDIR(opened.st_mode) else "is not a regular file"
        raise ConfigError(f"{path}: {what}. {_OTHER_FILE}")
    problems = file_trust.of_opened(path, opened)
    if problems:
        raise ConfigError("\n".join(map(str, problems)))
