"""Which paths root may obey: files that it executes, files that tell it what to do, and files that it writes.

The rules are those of sshd: only root may write the file, and no directory and no symbolic link that leads to it may
let another user put a different file in its place. Only for root there are problems.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
MAX_LINKS = 40
"""Symbolic links on one path; the kernel follows no more."""

MAX_INTERPRETERS = 4
"""Scripts that are interpreters of scripts; the kernel follows no more."""

FIRST_LINE = 256
"""Bytes of a script in which the kernel looks for its interpreter."""


@dataclass(frozen=True)
class TrustProblem:
    """``path``: what another user can write, or owns; ``fix``: a command for a shell."""

    path: str
    text: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}. Fix: {self.fix}"


def of_file(path: str) -> list[TrustProblem]:
    """What lets another user change the file that a path leads to; nothing where it leads to none."""
    if os.geteuid() != 0:
        return []
    try:
        info = os.stat(path)
        return of_opened(path, info) if stat.S_ISREG(info.st_mode) else []
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        return [TrustProblem(path, f"cannot be checked: {error.strerror}", "use a path that root can follow")]


def of_opened(path: str, info: os.stat_result) -> list[TrustProblem]:
    """The same of a file that is open, which has the name no more where another took its place. Raises OSError."""
    if os.geteuid() != 0:
        return []
    replaced = f"another user could replace {os.path.basename(path)}"
    found = list(_of(path, info, "another user could change what root does"))
    found += [one for step, there in way_to(path) for one in _of(step, there, replaced)]
    return list(dict.fromkeys(found))


def of_place(path: str) -> list[TrustProblem]:
    """What lets another user choose which file a path leads to, where there need not be one yet."""
    if os.geteuid() != 0:
        return []
    folder = os.path.dirname(path)
    try:
        found = of_opened(folder, os.stat(folder))
        if os.path.islink(path):
            found += _of(path, os.lstat(path), "another user could change what root does")
    except OSError as error:
        return [TrustProblem(path, f"cannot be checked: {error.strerror}", "use a path that root can follow")]
    return list(dict.fromkeys([*found, *of_file(path)]))


def of_way(path: str) -> list[TrustProblem]:
    """What lets another user put a different directory in the place of the one that a path is in. That one itself may
    be another user's. Raises OSError."""
    if os.geteuid() != 0:
        return []
    folder = os.path.dirname(path)
    harm = f"another user could replace {folder}"
    return list(dict.fromkeys(one for step, there in way_to(folder) for one in _of(step, there, harm)))


def of_command(command: Sequence[str]) -> list[TrustProblem]:
    """What lets another user change what a command executes: its program, the interpreter of a script, and each
    argument that is the absolute path of a file, such as a script."""
    program = program_of(command)
    if program is None:
        return []
    files = [*_executed(program), *(one for one in command[1:] if one.startswith("/") and os.path.isfile(one))]
    return list(dict.fromkeys(problem for file in files for problem in of_file(file)))


def program_of(command: Sequence[str]) -> str | None:
    """The path of the file that a command executes, by PATH where it is a plain name. None where there is none."""
    found = shutil.which(command[0]) if command else None
    return os.path.abspath(found) if found else None


def way_to(path: str) -> Iterator[tuple[str, os.stat_result]]:
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
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            yield here, info
            target = os.readlink(here)
            ahead += _parts(target)
            here = "/" if target.startswith("/") else os.path.dirname(here)
        elif ahead:
            yield here, info


def _of(step: str, info: os.stat_result, harm: str) -> Iterator[TrustProblem]:
    """The problems of a file, or of a step on the way to one."""
    is_directory, name = stat.S_ISDIR(info.st_mode), shlex.quote(step)
    if info.st_uid != 0:
        link = "-h " if stat.S_ISLNK(info.st_mode) else ""
        yield TrustProblem(step, f"belongs to the user {info.st_uid}: {harm}", f"chown {link}root {name}")
    # As /tmp: only its owner can replace a file in it, and the owner is checked.
    is_fenced = is_directory and info.st_mode & stat.S_ISVTX
    if info.st_mode & BY_OTHERS and not is_fenced and not stat.S_ISLNK(info.st_mode):
        mode = stat.S_IMODE(info.st_mode)
        yield TrustProblem(step, f"other users may write it (mode {mode:04o}): {harm}", f"chmod go-w {name}")


def _executed(program: str, depth: int = 0) -> Iterator[str]:
    """A program and, where it is a script, its interpreter."""
    yield program
    words = _interpreter(program)
    if words and depth < MAX_INTERPRETERS:
        yield from _executed(words[0], depth + 1)
        if os.path.basename(words[0]) == "env" and (found := program_of(words[1:2])):
            yield from _executed(found, depth + 1)


def _interpreter(program: str) -> list[str]:
    """The words after ``#!``."""
    try:
        with open(program, "rb") as file:
            first = file.read(FIRST_LINE).split(b"\n")[0]
    except OSError:
        return []
    return os.fsdecode(first[2:]).split() if first.startswith(b"#!") else []


def _parts(path: str) -> list[str]:
    """The names in a path, the last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]
