"""The names that a unix socket has while a gate closes it, in the directory of its public name.

``/run/app/a.sock`` is the public name, to which the load balancer connects. While it is closed a *placeholder* has that
name, a socket on which nothing listens: a new connection is refused, as on a closed port. The socket itself is
``/run/app/.a.sock~`` then, where a warm-up connects to it.
"""

from __future__ import annotations

import os
import stat

MAX_PATH = 105
"""Bytes of a public name, so that the kernel takes the hidden one, which may have 107."""

MARK = 1_000_000_000_000_000_000
"""The modification time of a placeholder, in ns: no socket that a process has made has it."""


def hidden(path: str) -> str:
    """The name of the socket while it is closed."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}~")


def spare(path: str) -> str:
    """The name of the next placeholder, until it is needed."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}+")


def unready(path: str) -> str:
    """The name of a placeholder while it is made."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}-")


def is_placeholder(found: os.stat_result) -> bool:
    """Whether it is a socket that a gate has put in place of another one."""
    return stat.S_ISSOCK(found.st_mode) and found.st_mtime_ns == MARK


def current(path: str) -> str:
    """The name at which the socket can be reached now, closed or not."""
    return hidden(path) if os.path.lexists(hidden(path)) else path


def bound(path: str) -> str:
    """The name that the process has bound: another one where the public name is a symbolic link to it."""
    now = current(path)
    try:
        return os.path.join(os.path.dirname(path), os.readlink(now))
    except OSError:  # no symbolic link
        return path


def is_named(path: str, name: str) -> bool:
    """Whether a process that has bound ``name``, maybe by a relative path, has bound this path."""
    return path == name or (not name.startswith(("/", "@")) and path.endswith(os.path.normpath(f"/{name}")))
