"""The running supervisord as a process: its user, its Python, its configuration file; and programs run as it would.

Nothing of it is executed with more rights than it has: where another user runs supervisord, its Python and the listener
are run as that user.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supervisor_rolling.core.reason import with_see
from supervisor_rolling.core.text import printable
from supervisor_rolling.ctl.exit_status import FAILED, NO_PERMISSION, CommandError

RUN_TIMEOUT = 90.0
"""Seconds for a program: the listener's reads nginx's configuration and looks who connects."""

_NO_SCRIPT = ("-m", "-c")
"""Options of Python that name what to run."""

_REPLACED = " (deleted)"
"""What the kernel adds to the path of a program that an upgrade has replaced."""

_CONFIGURATION = ("-c", "--configuration")

_IMPORT = """
import sys
if sys.path and sys.path[0] == "":
    sys.path[0] = sys.argv[1]
import json, os, sysconfig
found = {"version": "", "problem": "", "scripts": [], "python": sys.executable}
try:
    import supervisor_rolling
    import supervisor_rolling.rpcinterface
    found["version"] = supervisor_rolling.__version__
    found["scripts"] = [sysconfig.get_path("scripts"), os.path.dirname(sys.executable)]
except BaseException as error:
    found["problem"] = "%s: %s" % (type(error).__name__, error)
print(json.dumps(found))
"""
"""What supervisord's Python runs. A script has its directory as the first entry of sys.path, `python -m` the working
directory, and `python -c` an empty one."""


class ProgramError(Exception):
    """A program failed; the text is its last line."""


@dataclass(frozen=True)
class Supervisord:
    """The process."""

    pid: int
    uid: int
    user: str
    groups: tuple[int, ...]  # the numbers of its groups, the effective one first
    python: str  # as it was called: that of a virtual environment is a link
    flags: tuple[str, ...]  # of Python
    first_path: str  # sys.path[0]
    configuration: str  # its -c; empty: it searched for one
    environment: Mapping[str, str]
    directory: str

    def rights(self) -> dict[str, Any]:
        """The arguments with which ``subprocess`` gives a program the rights of supervisord, and not those of root."""
        if os.geteuid() != 0 or self.uid == 0:
            return {}
        return {"user": self.uid, "group": self.groups[0], "extra_groups": list(self.groups[1:])}

    def run(self, command: Sequence[str], given: str = "") -> str:
        """What a program prints that gets a text, run as supervisord would. Raises ProgramError."""
        try:
            done = subprocess.run(
                command,
                input=given,
                capture_output=True,
                text=True,
                errors="replace",
                env=dict(self.environment),
                cwd=self.directory,
                timeout=RUN_TIMEOUT,
                check=False,
                **self.rights(),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ProgramError(printable(error)) from None
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise ProgramError(printable(lines[-1]))
        return str(done.stdout)

    def import_plugin(self) -> Mapping[str, Any]:
        """Whether its Python can import the plugin: ``version`` or ``problem``; ``scripts``: directories of programs.
        Raises ProgramError."""
        text = self.run([self.python, *self.flags, "-c", _IMPORT, self.first_path])
        try:
            found: Mapping[str, Any] = json.loads(text.splitlines()[-1])
        except (IndexError, ValueError):
            raise ProgramError(f"it printed no answer: {printable(text)}") from None
        return found


def find_supervisord(pid: int) -> Supervisord:
    """The process that says it has this pid. Raises CommandError where it cannot be seen from here."""
    try:
        words = _strings(pid, "cmdline")
        environment = dict(one.partition("=")[::2] for one in _strings(pid, "environ"))
        exe, directory = os.readlink(f"/proc/{pid}/exe"), os.readlink(f"/proc/{pid}/cwd")
        groups = _groups("\n".join(_strings(pid, "status")))
        uid = os.stat(f"/proc/{pid}").st_uid
        is_here = os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino
    except PermissionError:
        raise CommandError(f"no permission to look at supervisord (pid {pid}). Fix: use sudo", NO_PERMISSION) from None
    except OSError:
        is_here, words = False, []
    if not is_here or not any("supervisord" in os.path.basename(word) for word in words):
        text = (
            f"supervisord says that it is process {pid}, and that is not so here: it runs in a container or on another "
            "host. Fix: run setup where it runs"
        )
        raise CommandError(with_see(text, "setup.elsewhere"), FAILED)
    flags, script = _split(words[1:])
    is_script = bool(script) and script[0] not in _NO_SCRIPT
    first_path = os.path.dirname(os.path.join(directory, script[0])) if is_script else directory
    named = _configuration(script[1:] if is_script else script[2:])
    return Supervisord(
        pid,
        uid,
        _user(uid),
        groups,
        _python(words[0], exe.removesuffix(_REPLACED), environment),
        tuple(flags),
        first_path,
        os.path.join(directory, named) if named else "",
        environment,
        directory,
    )


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags of Python, and the rest from the script, ``-m`` or ``-c`` on."""
    flags: list[str] = []
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] not in _NO_SCRIPT:
        taken = 2 if rest[0] in ("-W", "-X") else 1
        flags, rest = flags + rest[:taken], rest[taken:]
    return flags, rest


def _configuration(words: Sequence[str]) -> str:
    for word, after in zip(words, [*words[1:], ""]):
        if word in _CONFIGURATION:
            return after
        for option in ("--configuration=", "-c"):
            if word.startswith(option):
                return word[len(option) :]
    return ""


def _python(called: str, exe: str, environment: Mapping[str, str]) -> str:
    """The interpreter by the path that it was called by, if that leads to the file that runs: Python finds a virtual
    environment by it."""
    path = called if called.startswith("/") else shutil.which(called, path=environment.get("PATH", "")) or ""
    return path if path and os.path.realpath(path) == os.path.realpath(exe) else exe


def _groups(status: str) -> tuple[int, ...]:
    """Those of a process, from its /proc/PID/status: the effective one, and the others."""
    effective = re.search(r"^Gid:\t\d+\t(\d+)", status, re.MULTILINE)
    others = re.search(r"^Groups:\t([\d ]*)", status, re.MULTILINE)
    return tuple(int(one) for found in (effective, others) if found for one in found[1].split())


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _strings(pid: int, name: str) -> list[str]:
    with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="surrogateescape") as file:
        return [one for one in file.read().split("\0") if one]
