"""What others see of a rollout: one shape for ``rolling.getRollout``, ``--json``, events, the history and the report.

``schema/`` has its JSON Schema, which is made from these classes. Durations are seconds, ``*_ms`` are milliseconds.
The policy, which may hold secrets, is not part of it. A new field needs a default: the history has rollouts without it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import NamedTuple

from supervisor_rolling.core.connections import Connection
from supervisor_rolling.core.min_ready import is_min_ready_known
from supervisor_rolling.core.preflight_report import Finding, Report
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Status
from supervisor_rolling.core.timeline import active, interrupted_for

LOST_TEXT = "supervisord ended during the rollout"

UNIX_SOCKET = "unix socket"
"""What supervisord has for the address of a client on this host."""

MAX_HISTORY = 500
"""Rollouts in one answer of ``getHistory``."""

DIGITS = 3
"""Decimal places of a second."""


class Detail(enum.Enum):
    """How much of a rollout is shown."""

    SUMMARY = "summary"  # no processes: getHistory
    PROCESSES = "processes"  # each process as it stands: getRollout, getAllRollouts, events
    COURSE = "course"  # and its course: getRecord, the history file, the report


class StageView(NamedTuple):
    """A stage that a process entered."""

    stage: Stage
    at: float  # seconds since the rollout began


class AvailabilityView(NamedTuple):
    """How many processes were available from a moment on."""

    at: float  # seconds since the rollout began
    available: int


class InterruptionView(NamedTuple):
    """The time between an end of the rollout and its resume."""

    begin: float  # seconds since the rollout began
    end: float
    why: str  # it had ended


@dataclass  # not frozen, which is quicker: supervisord makes a thousand for each answer
class MemberView:
    """One process of a rollout."""

    name: str
    ports: tuple[int, ...]
    selected: bool  # this rollout is to replace it
    attempted: bool  # the rollout closed its gate to replace it
    replaced: bool  # it is open again as a new process
    failed: bool  # the rollout failed on it
    stage: Stage
    seconds: float  # in this stage; 0 while it has not left open
    why: str  # what happened to it; empty: nothing special
    old_pid: int  # 0: it did not run
    pid: int  # of the new process; 0: none yet
    killed: bool  # the old process did not stop in time
    deaths: int  # new processes that exited during their warm-up
    drained: float  # seconds that the stage took; 0: not over yet
    stopped: float  # seconds until the old process was down
    started: float  # seconds from then until there was a new one
    warmed: float  # seconds
    ready: float  # seconds between opening and counting as available
    lingering_connections: int  # at the deadline of its drain
    oldest_lingering: tuple[Connection, ...]  # the oldest few of them
    requests: int  # of its warm-up
    first_ms: float
    last_ms: float
    statuses: tuple[int, ...]  # of the first requests; empty: all were 200
    latencies_ms: tuple[float, ...] = ()  # of the same requests; with the course only
    stages: tuple[StageView, ...] = ()  # from the first after open on; with the course only


@dataclass(frozen=True)
class RolloutView:
    """One rolling restart of a group."""

    id: int
    group: str
    status: Status
    by: str  # the client, as it names itself
    user: str  # the client's user, as its connection tells; empty: unknown
    client: str  # an address or "unix socket"
    began: float  # Unix time
    seconds: float  # that it took or has taken, without interruptions
    interrupted: float  # seconds between an end of it and a resume
    forecast: float  # seconds that were expected at its beginning; 0: unknown
    limit: int  # processes that may be unavailable at a time
    canary: int  # processes that are replaced alone, first
    force: bool
    paused: bool
    aborting: bool
    why: str  # why it ended like this; empty: nothing special
    waits_for: str  # what a running rollout waits for; empty: nothing
    waits_long: bool  # for 5 seconds or longer
    total: int  # processes to replace
    replaced: int
    size: int  # processes of the group
    min_available: int
    min_ready_seconds: float
    min_ready_auto: bool  # read from the load balancer's configuration, not from rolling.yaml
    min_ready_why: str  # what in that configuration says so; empty: nothing
    min_ready_known: bool  # false: the load balancer may avoid a new process for longer
    listener: bool = True  # it is running; false: the rollout is stalled
    processes: tuple[MemberView, ...] = ()  # not in getHistory
    availability: tuple[AvailabilityView, ...] = ()  # with the course only
    interruptions: tuple[InterruptionView, ...] = ()  # with the course only


@dataclass(frozen=True)
class ProcessView:
    """One process of a group, as supervisord, the rollout and the crash guard know it."""

    name: str
    statename: str  # supervisord's
    pid: int
    warm: bool
    gate: str  # open, closed, or unknown: the listener is not running
    stage: Stage
    seconds: float  # in this stage
    ports: tuple[int, ...]
    tries: int  # warm-ups that failed
    retry_in: float  # seconds until the next warm-up; 0: none is due
    why: str
    guarded: bool  # the crash guard is on for this group


@dataclass(frozen=True)
class ReportView:
    """What a preflight check found."""

    group: str
    ok: bool  # no finding is an error
    findings: tuple[Finding, ...]
    checked: tuple[str, ...]  # what was read or tried, with or without findings
    skipped: tuple[str, ...]  # what could not be read or tried, and why


def rollout_view(rollout: Rollout, now: float, detail: Detail = Detail.PROCESSES, listener: bool = True) -> RolloutView:
    """The rollout at ``now`` (CLOCK_MONOTONIC)."""
    selected = [member for member in rollout.members if member.selected]
    is_running, policy, began = rollout.status is Status.RUNNING, rollout.policy, rollout.started_at
    has_course = detail is Detail.COURSE
    return RolloutView(
        id=rollout.id,
        group=rollout.group,
        status=rollout.status,
        by=rollout.by,
        user=rollout.user,
        client=rollout.client,
        began=round(rollout.began, DIGITS),
        seconds=round(active(rollout, now), DIGITS),
        interrupted=round(interrupted_for(rollout), DIGITS),
        forecast=round(rollout.forecast, DIGITS),
        limit=rollout.limit,
        canary=policy.canary,
        force=rollout.force,
        paused=rollout.paused,
        aborting=rollout.aborting,
        why=rollout.why,
        waits_for=rollout.waits_for if is_running else "",
        waits_long=rollout.waits_long and is_running,
        total=len(selected),
        replaced=sum(member.replaced for member in selected),
        size=len(rollout.members),
        min_available=rollout.min_available,
        min_ready_seconds=policy.min_ready_seconds,
        min_ready_auto=policy.min_ready_auto,
        min_ready_why=policy.min_ready_why,
        min_ready_known=is_min_ready_known(policy),
        listener=listener,
        processes=tuple(member_view(member, now, began if has_course else None) for member in rollout.members)
        if detail is not Detail.SUMMARY
        else (),
        availability=tuple(AvailabilityView(_since(began, at), number) for at, number in rollout.levels)
        if has_course
        else (),
        interruptions=tuple(
            InterruptionView(_since(began, begin), _since(began, end), why) for begin, end, why in rollout.interruptions
        )
        if has_course
        else (),
    )


def member_view(member: Member, now: float, course_since: float | None = None) -> MemberView:
    """One process of a rollout; with its course where it is known since when that counts."""
    timing, has_course = member.timing, course_since is not None
    return MemberView(
        name=member.name,
        ports=member.ports,
        selected=member.selected,
        attempted=member.attempted,
        replaced=member.replaced,
        failed=member.failed,
        stage=member.stage,
        seconds=round(now - member.since, DIGITS) if member.since else 0.0,
        why=member.why,
        old_pid=member.old_pid,
        pid=member.pid,
        killed=member.killed,
        deaths=member.deaths,
        drained=round(timing.drained, DIGITS),
        stopped=round(timing.stopped, DIGITS),
        started=round(timing.started, DIGITS),
        warmed=round(timing.warmed, DIGITS),
        ready=round(timing.ready, DIGITS),
        lingering_connections=member.lingering_connections,
        oldest_lingering=tuple(
            replace(one, age=round(one.age, DIGITS), idle=round(one.idle, DIGITS)) for one in member.oldest_lingering
        ),
        requests=member.requests,
        first_ms=member.first_ms,
        last_ms=member.last_ms,
        statuses=() if set(member.statuses) <= {200} else member.statuses,
        latencies_ms=member.latencies if has_course else (),
        stages=tuple(StageView(stage, _since(course_since, at)) for stage, at in member.steps)
        if course_since is not None
        else (),
    )


def summary_of(view: RolloutView) -> RolloutView:
    """The rollout without its processes and its course."""
    return replace(view, processes=(), availability=(), interruptions=())


def lost(view: RolloutView) -> RolloutView:
    """The rollout, which was running when supervisord ended."""
    return replace(view, status=Status.LOST, why=LOST_TEXT)


def _since(began: float, at: float) -> float:
    return round(max(0.0, at - began), DIGITS)


def report_view(report: Report) -> ReportView:
    """The report, and whether it has no error."""
    is_ok = not any(finding.is_error for finding in report.findings)
    return ReportView(report.group, is_ok, report.findings, report.checked, report.skipped)
