"""Rewrites the commands in messages, such as ``supervisorctl tail …``, so that they work when they are pasted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from supervisor_rolling.ctl.usage import COMMANDS, PREFIX, verb

WHERE = ("-c", "--configuration", "-s", "--serverurl")
"""supervisorctl's options that say which supervisord is meant."""

NOT_FILES = ("/dev/", "/proc/")
"""Where the path of a log begins that is really the output of supervisord, or of its container."""

_VERBS = "|".join(map(verb, COMMANDS))
_SUPERVISORS = "tail|maintail|start|stop|restart|status|reload|update|signal"
_OUR_COMMAND = re.compile(rf"(?<![\w./-])(?:supervisorctl )?(help )?{PREFIX}({_VERBS})(?![\w-])")
_OTHER_COMMAND = re.compile(rf"(?<![\w./-])supervisorctl (?=(?:{_SUPERVISORS})\b)")
_ANY_COMMAND = re.compile(rf"(?<![\w./-])supervisorctl (?=(?:{_SUPERVISORS}|(?:help )?{PREFIX}(?:{_VERBS}))\b)")
_TAIL = re.compile(r"(?<![\w./-])(supervisorctl tail (\S+)) stderr(?![\w-])")


def rewrite_commands(text: str, program: str, where: str = "") -> str:
    """A text with its commands called as the operator called ours. ``program``: the program that has our commands as
    verbs, empty for supervisorctl. ``where``: as from ``where_options``. A single word is a name and stays."""
    if " " not in text:
        return text
    at = f"{where} " if where else ""
    if not program:
        return _ANY_COMMAND.sub(lambda found: found[0] + at, text)
    text = _OUR_COMMAND.sub(lambda found: f"{program} {found[1] or at}{found[2]}", text)
    return _OTHER_COMMAND.sub(lambda found: found[0] + at, text)


def where_options(given: Sequence[tuple[str, str]]) -> str:
    """Those options of supervisorctl that say which supervisord is meant, as a shell reads them."""
    return shlex.join(word for flag, value in given if flag in WHERE for word in (flag, value))


def with_logs(text: str, info_of: Callable[[str], Mapping[str, Any]]) -> str:
    """A text in which each ``supervisorctl tail NAME stderr`` names a log that exists. ``info_of`` gives supervisord's
    struct of a process, as ``getProcessInfo`` does, or nothing."""
    return _TAIL.sub(lambda found: _log_text(found, info_of(found[2])), text)


def _log_text(found: re.Match[str], info: Mapping[str, Any]) -> str:
    if not info or _is_kept(info, "stderr"):
        return found[0]
    if _is_kept(info, "stdout"):
        return f"{found[1]} stdout"
    return f"the output of {found[2]}, which supervisord writes to no file (in a container: the log of the container)"


def _is_kept(info: Mapping[str, Any], stream: str) -> bool:
    path = str(info.get(f"{stream}_logfile") or "")
    return bool(path) and (path.startswith("/dev/shm/") or not path.startswith(NOT_FILES))
