"""What a preflight check reads of supervisord.conf, and what it found."""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessSettings:
    """What supervisord.conf says of one process."""

    name: str
    startsecs: float = 1.0
    stopwaitsecs: float = 10.0
    autorestart: str = "unexpected"  # or true, false
    stopasgroup: bool = False
    stopsignal: str = ""  # its name without SIG
    server: str = ""  # gunicorn or uwsgi, where its command runs one


@dataclass(frozen=True)
class ListenerSettings:
    """What supervisord.conf says of an event listener that gets the doorbell."""

    name: str
    processes: int = 1  # its numprocs
    buffer_size: int = 10
    startsecs: float = 1.0
    lacks: tuple[str, ...] = ()  # events that it needs and does not get


@dataclass(frozen=True)
class Settings:
    """What supervisord.conf says of a group and of our listener."""

    processes: tuple[ProcessSettings, ...] = ()
    listeners: tuple[ListenerSettings, ...] = ()
    total: int = 0  # processes of all groups
    is_fcgi: bool = False  # it is an [fcgi-program]: supervisord has a socket that all its processes share


class Severity(str, enum.Enum):
    """An error refuses a rollout, which would lose requests or fail; a warning does not."""

    ERROR = "error"
    WARNING = "warning"


def error_if(is_error: bool) -> Severity:
    """ERROR where this is so, else WARNING."""
    return Severity.ERROR if is_error else Severity.WARNING


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a set-up."""

    code: str  # names it for programs
    where: str  # a file and line, a section or a process
    text: str  # what is wrong, and what that costs
    fix: str  # what to do about it; empty where ``text`` says that
    severity: Severity = Severity.WARNING  # an error refuses a rollout, a warning does not

    @property
    def is_error(self) -> bool:
        """Whether it refuses a rollout."""
        return self.severity is Severity.ERROR


@dataclass(frozen=True)
class Report:
    """What a preflight check found."""

    group: str
    findings: tuple[Finding, ...] = ()
    checked: tuple[str, ...] = ()  # what was read or tried, with or without findings
    skipped: tuple[str, ...] = ()  # what could not be read or tried, and why
