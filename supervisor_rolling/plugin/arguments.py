"""Checks of the arguments of the ``rolling`` methods: names that supervisord knows, bounded numbers, truth values."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from supervisor.options import split_namespec
from supervisor.xmlrpc import Faults, RPCError

from supervisor_rolling.codec import load
from supervisor_rolling.core.share import parse_share
from supervisor_rolling.core.text import plain

T = TypeVar("T")

ANSWER_TIMEOUT = 10.0
"""Seconds that the listener has to accept or refuse a request; then its client learns that it does not answer."""

MAX_NAME = 64
"""Characters of a client's name, and of a wrong name in an answer."""


def incorrect(text: str) -> RPCError:
    """The fault for a wrong argument."""
    return RPCError(Faults.INCORRECT_PARAMETERS, plain(text))


def bad_name(name: str) -> RPCError:
    """The fault for a name that supervisord does not know."""
    return RPCError(Faults.BAD_NAME, plain(name[:MAX_NAME]))


def valid(kind: type[T], value: Any, name: str) -> T:
    """The argument as a value of this type, or the fault."""
    return valid_by(lambda: load(kind, value, name))


def valid_by(read: Callable[[], T]) -> T:
    """What ``read`` returns, or the fault where it raises ValueError."""
    try:
        return read()
    except ValueError as error:
        raise incorrect(str(error)[:200]) from None


@dataclass(frozen=True)
class Options:
    """The options of a restart."""

    max_unavailable: object = ""  # a number or 'N%'; empty: as the policy says
    force: bool = False
    processes: tuple[str, ...] = ()  # empty: all
    dry_run: bool = False
    by: str = ""  # the client, as it names itself

    def check_share(self) -> None:
        """Raise the fault where ``max_unavailable`` is neither a number nor a percentage."""
        if self.max_unavailable != "":
            valid_by(lambda: parse_share(self.max_unavailable))

    @property
    def client_name(self) -> str:
        """``by`` without characters that a shell or a terminal obeys."""
        return re.sub(r"[^\w@./:-]", "_", plain(self.by[:MAX_NAME]))[:MAX_NAME]


def options_of(given: Any) -> Options:
    """The options of a restart, with the defaults of those that are left out."""
    options = valid(Options, given, "options")
    known = vars(options)
    unknown = sorted(str(key)[:MAX_NAME] for key in given if key not in known)
    if unknown:
        raise incorrect("unknown options: %s; known: %s" % (", ".join(unknown[:3]), ", ".join(known)))
    options.check_share()
    return options


def group_of(supervisord: Any, name: Any) -> str:
    """The group that a name means: ``app``, ``app:*``, or ``app:web`` where that is the only process of it."""
    text = valid(str, name, "group")
    group, colon, process = text.partition(":")
    if group not in supervisord.process_groups:
        raise bad_name(text)
    processes = supervisord.process_groups[group].processes
    if not colon or process == "*" or list(processes) == [process]:
        return group
    if process not in processes:
        raise bad_name(text)
    raise incorrect("a whole group is needed, and %s is one of %d processes of %s" % (text, len(processes), group))


def groups_of(supervisord: Any, names: Any) -> list[str]:
    """Several groups, each as in ``group_of``."""
    groups = [group_of(supervisord, name) for name in valid(tuple[str, ...], names, "groups")]
    twice = [group for group in groups if groups.count(group) > 1]
    if twice or not groups:
        raise incorrect("%s is named twice" % twice[0] if twice else "groups: no group is named")
    return groups


def processes_of(supervisord: Any, name: Any, processes: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The group and the processes of it that ``name`` and ``processes`` mean; no processes: all."""
    if isinstance(name, str) and ":" in name and not name.endswith(":*"):
        name, process = split_namespec(name)
        processes = (process or "", *processes)
    group = group_of(supervisord, name)
    for process in processes:
        if process not in supervisord.process_groups[group].processes:
            raise bad_name("%s:%s" % (group, process))
    return group, tuple(dict.fromkeys(processes))
