"""Commands to supervisord, and their outcome."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from supervisor_rolling.core.process import Incarnation


class Verb(str, enum.Enum):
    """What supervisord can be told to do with a process."""

    STOP = "stop"
    START = "start"
    SIGNAL = "signal"


@dataclass(frozen=True)
class Action:
    """One order to supervisord, for this ``incarnation`` of a process and no other; ``signal``: which one."""

    verb: Verb
    name: str
    incarnation: Incarnation
    signal: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of an order. ``why``: supervisord refuses for good, and why. ``already_stopped``: the process was
    stopped or replaced before the order came, so nothing was done; ``why`` says so, too."""

    why: str = ""
    already_stopped: bool = False
