"""The bytes of rolling.yaml, if root may trust them.

The file says which ports root closes and what it executes: see ``trust``.
"""

from __future__ import annotations

import os
import stat

from supervisor_rolling.core.errors import ConfigError
from supervisor_rolling.listener.system import file_trust


def read(path: str, most: int) -> bytes:
    """The first ``most`` bytes of a file. Raises ConfigError where it cannot be read or must not be trusted."""
    try:
        # A fifo without a writer would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; write it, or name another with --config") from None
    except PermissionError:
        raise ConfigError(f"{path}: may not be read by this user; let the listener's user read it") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError:
        raise ConfigError(f"{path!r}: no file can have a NUL in its name; name another with --config") from None
    try:
        _require_trust(path, os.fstat(handle))
        with os.fdopen(handle, "rb", closefd=False) as stream:
            return stream.read(most)
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(handle)


def mark(path: str) -> object:
    """Another one when a file that was wrong, or good, may be otherwise now."""
    try:
        found = os.stat(path)
        way = [(step, info.st_mode, info.st_uid) for step, info in file_trust.way_to(path)] if os.geteuid() == 0 else []
    except (OSError, ValueError):
        return "missing"
    return (found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode, found.st_uid, *way)


def _unreadable(path: str, error: OSError) -> ConfigError:
    return ConfigError(f"{path}: cannot be read: {error.strerror}; name another file with --config")


def _require_trust(path: str, opened: os.stat_result) -> None:
    """What was opened is looked at, and not what has the name now."""
    if stat.S_ISDIR(opened.st_mode):
        raise ConfigError(f"{path}: is a directory; name the file in it with --config")
    if not stat.S_ISREG(opened.st_mode):
        raise ConfigError(f"{path}: is no regular file; name another file with --config")
    problems = file_trust.of_opened(path, opened)
    if problems:
        raise ConfigError("\n".join(map(str, problems)))
