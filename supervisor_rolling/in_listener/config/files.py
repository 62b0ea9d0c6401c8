"""The bytes of rolling.yaml, if root may trust them.

The listener is root, and the file says which ports root closes and what it asks for. So, as sshd does with its own, a
file that others could have written is refused: one that is not root's or that others may write, and one that lies in,
or is reached through, a directory in which others could put another in its place. Who is not root is not so strict.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Iterator

from supervisor_rolling.errors import ConfigError

BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
MOST_LINKS = 40
"""Symbolic links on one path; the kernel follows no more."""


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
        way = [(step, info.st_mode, info.st_uid) for step, info in _way(path)] if os.geteuid() == 0 else []
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
    if os.geteuid() != 0:
        return
    problems = [*_problems(path, opened), *(text for step, info in _way(path) for text in _problems(step, info))]
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def _problems(path: str, info: os.stat_result) -> Iterator[str]:
    is_directory, name = stat.S_ISDIR(info.st_mode), shlex.quote(path)
    harm = "others could put another rolling.yaml there" if is_directory else "others could write what root is to do"
    if info.st_uid != 0:
        yield f"{path}: belongs to the user {info.st_uid} and not to root: {harm}; chown {_itself(info)}root {name}"
    # As /tmp: what lies in it is its owner's, who is looked at.
    is_fenced = is_directory and info.st_mode & stat.S_ISVTX
    if info.st_mode & BY_OTHERS and not is_fenced and not stat.S_ISLNK(info.st_mode):
        mode = stat.S_IMODE(info.st_mode)
        yield f"{path}: others than root may write it (mode {mode:04o}): {harm}; chmod go-w {name}"


def _itself(info: os.stat_result) -> str:
    return "-h " if stat.S_ISLNK(info.st_mode) else ""


def _way(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """All that leads to a file, from the root directory on: directories, symbolic links and what leads to their
    targets, but not the file itself. Raises OSError."""
    yield "/", os.lstat("/")
    here, ahead, links = "/", _parts(path if path.startswith("/") else os.path.join(os.getcwd(), path)), 0
    while ahead:
        name = ahead.pop()
        if name == "..":
            here = os.path.dirname(here)
            continue
        here = os.path.join(here, name)
        info = os.lstat(here)
        if stat.S_ISLNK(info.st_mode):
            links += 1
            if links > MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            yield here, info
            target = os.readlink(here)
            ahead += _parts(target)
            here = "/" if target.startswith("/") else os.path.dirname(here)
        elif ahead:
            yield here, info


def _parts(path: str) -> list[str]:
    """The names in a path, the last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]
