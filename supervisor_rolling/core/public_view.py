"""What others see of a rollout: one shape for ``rolling.getRollout``, ``--json``, events, the history and the report.

``schema/`` has its JSON Schema, which is made from these classes. Durations are seconds, ``*_ms`` are milliseconds.
The policy, which may hold secrets, is not part of it. A new field needs a default: the history has rollouts without it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import NamedTuple

from supervisor_rolling.core.connections import Connection
from supervisor_rolling.core.endpoint import unix_paths
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

    stage: Stage  # the stage
    at: float  # seconds since the rollout began


class AvailabilityView(NamedTuple):
    """How many processes were available from a moment on."""

    at: float  # seconds since the rollout began
    available: int  # processes that were available


class InterruptionView(NamedTuple):
    """The time between an end of the rollout and its resume."""

    begin: float  # its end, in seconds since the rollout began
    end: float  # its resume, likewise
    why: str  # why it had ended


@dataclass  # not frozen, which is quicker: supervisord makes a thousand for each answer
class MemberView:
    """One process of a rollout."""

    name: str  # the name of the process
    ports: tuple[int, ...]  # the ports that it listens on
    selected: bool  # this rollout is to replace it
    attempted: bool  # the rollout closed its gate to replace it
    replaced: bool  # it is open again as a new process
    failed: bool  # the rollout failed on it
    stage: Stage  # where it stands
    seconds: float  # in this stage; 0 while it has not left open
    why: str  # what happened to it; empty: nothing special
    old_pid: int  # 0: it did not run
    pid: int  # of the new process; 0: none yet
    killed: bool  # the old process did not stop in time
    deaths: int  # new processes that exited during their warm-up
    drained: float  # seconds that its drain took; 0: not over yet
    stopped: float  # seconds until the old process was down
    started: float  # seconds from then until there was a new process
    warmed: float  # seconds that its warm-up took
    ready: float  # seconds between opening and counting as available
    lingering_connections: int  # connections that were left at the deadline of its drain
    oldest_lingering: tuple[Connection, ...]  # the oldest few of the lingering connections
    requests: int  # requests of its warm-up
    first_ms: float  # duration of the first request of its warm-up
    last_ms: float  # duration of the last one
    statuses: tuple[int, ...]  # statuses of the first requests of its warm-up; empty: all were 200
    code: str = ""  # of why, which `supervisor_rolling help CODE` explains; empty unless it failed
    sockets: tuple[str, ...] = ()  # the unix sockets that it listens on
    latencies_ms: tuple[float, ...] = ()  # durations of the same requests; with the course only
    stages: tuple[StageView, ...] = ()  # its stages, from the first after open on; with the course only


@dataclass(frozen=True)
class RolloutView:
    """One rolling restart of a group."""

    id: int  # the number of the rollout, in the history too
    group: str  # the group
    status: Status  # where the rollout stands
    by: str  # the client, as it names itself
    user: str  # the client's user, as its connection tells; empty: unknown
    client: str  # the address of the client, or "unix socket"
    began: float  # Unix time of its beginning
    seconds: float  # seconds that it took or has taken, without interruptions
    interrupted: float  # seconds between an end of it and its resume
    forecast: float  # seconds that were expected at its beginning; 0: unknown
    limit: int  # processes that may be unavailable at a time
    canary: int  # processes that are replaced alone, first
    force: bool  # failed checks are ignored
    paused: bool  # it starts no further restarts
    aborting: bool  # it is being aborted
    why: str  # why it ended like this; empty: nothing special
    waits_for: str  # what a running rollout waits for; empty: nothing
    waits_long: bool  # it has waited for 5 seconds or longer
    total: int  # processes to replace
    replaced: int  # processes that were replaced
    size: int  # processes of the group, without spares
    min_available: int  # processes that were available at any moment, at least
    min_ready_seconds: float  # seconds that a port is open before its process counts as available
    min_ready_auto: bool  # min_ready_seconds was read from the load balancer's configuration, not from rolling.yaml
    min_ready_why: str  # what in that configuration says so; empty: nothing
    min_ready_known: bool  # false: the load balancer may avoid a new process for longer
    code: str = ""  # of why: supervisor_rolling help CODE says more; empty unless it failed
    listener: bool = True  # it is running; false: the rollout is stalled
    following: tuple[str, ...] = ()  # the groups that are restarted after this one, in this order, when it is done
    next_problem: str = ""  # why the first of them was not restarted; empty: nothing
    processes: tuple[MemberView, ...] = ()  # the processes of the group; empty in getHistory
    availability: tuple[AvailabilityView, ...] = ()  # how many processes were available; with the course only
    interruptions: tuple[InterruptionView, ...] = ()  # ends and resumes; with the course only


@dataclass(frozen=True)
class ProcessView:
    """One process of a group, as supervisord, the rollout and the crash guard know it."""

    name: str  # the name of the process
    statename: str  # the state of the process, in supervisord's words
    pid: int  # its pid; 0: it does not run
    warm: bool  # it is warm
    gate: str  # open, closed, or unknown: the listener is not running
    stage: Stage  # where it stands
    seconds: float  # in this stage
    ports: tuple[int, ...]  # the ports that it listens on
    tries: int  # warm-ups that failed
    retry_in: float  # seconds until the next warm-up; 0: none is due
    why: str  # what happened to it; empty: nothing special
    code: str  # of why, which `supervisor_rolling help CODE` explains; empty unless it failed
    guarded: bool  # the crash guard is on for this group
    sockets: tuple[str, ...] = ()  # the unix sockets that it listens on


@dataclass(frozen=True)
class ReportView:
    """What a preflight check found."""

    group: str  # the group
    ok: bool  # no finding is an error
    findings: tuple[Finding, ...]  # what is wrong
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
        total=rollout.total,
        replaced=sum(member.replaced for member in selected),
        size=rollout.capacity or len(rollout.members),
        min_available=rollout.min_available,
        min_ready_seconds=policy.min_ready_seconds,
        min_ready_auto=policy.min_ready_auto,
        min_ready_why=policy.min_ready_why,
        min_ready_known=is_min_ready_known(policy),
        code=rollout.code,
        listener=listener,
        following=rollout.following,
        next_problem=rollout.next_problem,
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
        sockets=unix_paths(member.endpoints),
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
        code=member.code,
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
    return replace(view, status=Status.LOST, why=LOST_TEXT, code="rollout.lost")


def _since(began: float, at: float) -> float:
    return round(max(0.0, at - began), DIGITS)


def report_view(report: Report) -> ReportView:
    """The report, and whether it has no error."""
    is_ok = not any(finding.is_error for finding in report.findings)
    return ReportView(report.group, is_ok, report.findings, report.checked, report.skipped)
