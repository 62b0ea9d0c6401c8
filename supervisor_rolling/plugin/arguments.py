"""Checks of the arguments of the ``rolling`` methods: names that supervisord knows, bounded numbers, truth values."""

from __future__ import annotations

import re
from typing import Any

from supervisor.options import split_namespec
from supervisor.xmlrpc import Faults, RPCError

from supervisor_rolling.core.share import parse_share
from supervisor_rolling.core.text import plain

ANSWER_WITHIN = 10.0
"""Seconds that the listener has to accept or refuse a request; then its client learns that it does not answer."""

OPTIONS = ("max_unavailable", "force", "processes", "dry_run", "by")

MAX_NAME = 64
"""Characters of a client's name, and of a wrong name in an answer."""


def incorrect(text: str) -> RPCError:
    """The fault for a wrong argument."""
    return RPCError(Faults.INCORRECT_PARAMETERS, plain(text))


def bad_name(name: str) -> RPCError:
    """The fault for a name that supervisord does not know."""
    return RPCError(Faults.BAD_NAME, plain(name[:MAX_NAME]))


def truth_of(name: str, value: Any) -> bool:
    """The argument, which has to be a boolean."""
    if not isinstance(value, bool):
        raise incorrect("%s must be a boolean" % name)
    return value


def text_of(name: str, value: Any) -> str:
    """The argument, which has to be a string."""
    if not isinstance(value, str):
        raise incorrect("%s must be a string" % name)
    return value


def whole_of(name: str, value: Any) -> int:
    """The argument, which has to be a whole number, 0 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise incorrect("%s must be a whole number, 0 or more" % name)
    return value


def options_of(options: Any) -> dict[str, Any]:
    """The options of a restart, with the defaults of those that are left out."""
    if not isinstance(options, dict):
        raise incorrect("options must be a struct")
    unknown = sorted(str(key)[:MAX_NAME] for key in options if key not in OPTIONS)
    if unknown:
        raise incorrect("unknown options: %s; known: %s" % (", ".join(unknown[:3]), ", ".join(OPTIONS)))
    processes = options.get("processes", [])
    if not isinstance(processes, list) or not all(isinstance(name, str) for name in processes):
        raise incorrect("processes must be an array of names")
    return {
        "max_unavailable": _share(options.get("max_unavailable", "")),
        "force": truth_of("force", options.get("force", False)),
        "dry_run": truth_of("dry_run", options.get("dry_run", False)),
        "processes": processes,
        "by": re.sub(r"[^\w@./:-]", "_", plain(text_of("by", options.get("by", ""))[:MAX_NAME]))[:MAX_NAME],
    }


def group_of(supervisord: Any, name: Any) -> str:
    """The group that a name means: ``app``, ``app:*``, or ``app:web`` where that is the only process of it."""
    if not isinstance(name, str):
        raise incorrect("a group is named by a string")
    group, colon, process = name.partition(":")
    if group not in supervisord.process_groups:
        raise bad_name(name)
    processes = supervisord.process_groups[group].processes
    if not colon or process == "*" or list(processes) == [process]:
        return group
    if process not in processes:
        raise bad_name(name)
    raise incorrect("a whole group is needed, and %s is one of %d processes of %s" % (name, len(processes), group))


def processes_of(supervisord: Any, name: Any, processes: list[str]) -> tuple[str, tuple[str, ...]]:
    """The group and the processes of it that ``name`` and ``processes`` mean; no processes: all."""
    if isinstance(name, str) and ":" in name and not name.endswith(":*"):
        name, process = split_namespec(name)
        processes = [process or "", *processes]
    group = group_of(supervisord, name)
    for process in processes:
        if process not in supervisord.process_groups[group].processes:
            raise bad_name("%s:%s" % (group, process))
    return group, tuple(dict.fromkeys(processes))


def _share(value: Any) -> str:
    if value == "":
        return ""
    try:
        parse_share(value)
    except ValueError as error:
        raise incorrect("max_unavailable: %s" % error) from None
    return str(value)
