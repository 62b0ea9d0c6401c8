"""What a preflight check reads of supervisord.conf, and what it found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessSettings:
    """What supervisord.conf says of one process. ``autorestart``: true, false or unexpected. ``stopsignal``: its name
    without SIG; empty where an older supervisord does not tell it."""

    name: str
    startsecs: float = 1.0
    stopwaitsecs: float = 10.0
    autorestart: str = "unexpected"
    stopasgroup: bool = False
    stopsignal: str = ""


@dataclass(frozen=True)
class ListenerSettings:
    """What it says of an event listener that hears the doorbell. ``processes``: how many of it there are; ``lacks``:
    events that it does not hear, and should."""

    name: str
    processes: int = 1
    buffer_size: int = 10
    startsecs: float = 1.0
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What supervisord.conf says of a group and of its listener; ``total``: the processes of all groups."""

    processes: tuple[ProcessSettings, ...] = ()
    listeners: tuple[ListenerSettings, ...] = ()
    total: int = 0


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a set-up. ``code`` names it for programs, ``where`` is a file and line, a section or
    a process, ``fix`` what to do about it, empty where ``text`` says that; ``refuses``: no rollout begins, because it
    would lose requests, or fail."""

    code: str
    where: str
    text: str
    fix: str
    refuses: bool = False


@dataclass(frozen=True)
class Report:
    """What a check has found. ``looked_at``: what was read or tried, findings or not; ``not_looked_at``: what could
    not be, and why."""

    group: str
    findings: tuple[Finding, ...] = ()
    looked_at: tuple[str, ...] = ()
    not_looked_at: tuple[str, ...] = ()
