"""``supervisor_rolling complete``: what the last word of a command line may become, a line for each possibility.

The completions of bash and zsh (``conf/completion``) call it for each press of the key. So it neither prints anything
else nor takes longer than ``WITHIN``, whatever supervisord does.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence

from supervisor_rolling.ctl.supervisorctl_shell import completions
from supervisor_rolling.ctl.usage import COMMANDS, PREFIX, verb
from supervisor_rolling.help import entries

WITHIN = 2.0
"""Seconds: a shell that waits for longer seems to hang."""

OPTIONS_WITH_VALUE = ("-c", "-s", "-u", "-p")
OPTIONS = (*OPTIONS_WITH_VALUE, "-h", "--version")

Processes = Callable[[Sequence[str]], Sequence[Mapping[str, str]]]
"""Gives supervisord's processes, structs with group and name; takes the options that say where supervisord is."""


def print_completions(words: Sequence[str], processes: Processes) -> int:
    """Print the possibilities for the last of these words, which follow the name of the program."""
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))  # in the middle of a call to supervisord, too
    signal.setitimer(signal.ITIMER_REAL, WITHIN)
    for one in candidates(words, processes):
        print(one)
    return 0


def candidates(words: Sequence[str], processes: Processes) -> list[str]:
    """What the last of these words may become. supervisord is asked only for the name of a group or a process."""
    *before, text = words or [""]
    at = 0
    while at < len(before) and before[at].startswith("-"):
        at += 2 if before[at] in OPTIONS_WITH_VALUE else 1
    options, rest = before[:at], before[at:]
    if at > len(before):  # the value of an option
        return []
    if not rest or rest == ["help"]:
        found = OPTIONS if text.startswith("-") else (*map(verb, COMMANDS), *(entries() if rest else ["help"]))
        return [one for one in found if one.startswith(text)]
    line = " ".join([PREFIX + rest[0], *rest[1:], text])
    return [one.rstrip() for one in completions(line, text, lambda: _asked(processes, options), COMMANDS) or ()]


def _asked(processes: Processes, options: Sequence[str]) -> Sequence[Mapping[str, str]]:
    try:
        return processes(options)
    except Exception:  # noqa: BLE001 - nothing may be printed into the command line
        return ()
