"""Commands to supervisord, and their outcome."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from supervisor_rolling.core.process import Incarnation


class Verb(str, enum.Enum):
    """What supervisord can do with a process."""

    STOP = "stop"
    START = "start"
    SIGNAL = "signal"


@dataclass(frozen=True)
class Action:
    """One command to supervisord, for this incarnation of a process and no other."""

    verb: Verb
    name: str
    incarnation: Incarnation
    signal: str = ""  # its name without SIG, of SIGNAL


@dataclass(frozen=True)
class Outcome:
    """What became of an action."""

    why: str = ""  # why supervisord refuses it for good; or that the process was already stopped
    already_stopped: bool = False  # the process was stopped or replaced before, so nothing was done
