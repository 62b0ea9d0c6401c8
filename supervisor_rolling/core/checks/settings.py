"""Findings in supervisord.conf: the settings of a group and of the listener."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from supervisor_rolling.core.policy import DrainPolicy, Policy
from supervisor_rolling.core.preflight_report import Finding, ListenerSettings, ProcessSettings, Settings, Severity

EVENTS_EACH = 3
"""Events of a process that may wait for the listener when all start: STARTING, RUNNING, and one more."""


def findings(settings: Settings, policy: Policy) -> Iterator[Finding]:
    """What is wrong with them."""
    yield from _of_processes(settings.processes, policy)
    for listener in settings.listeners:
        yield from _of_listener(listener, settings.total)


def _of_processes(processes: Sequence[ProcessSettings], policy: Policy) -> Iterator[Finding]:
    timeout, drain = policy.restart.timeout, policy.drain.timeout
    group = policy.group
    if late := _names(processes, lambda one: one.startsecs > timeout):
        longest = max(one.startsecs for one in processes)
        yield Finding(
            "supervisor.startsecs",
            f"{group}:{late}",
            f"startsecs is {longest:g}, but restart.timeout {timeout:g}: no process is RUNNING in time, and every "
            "rollout fails",
            f"lower startsecs, or raise groups.{group}.restart.timeout above it",
            Severity.ERROR,
        )
    if at_once := _names(processes, lambda one: one.startsecs == 0):
        yield Finding(
            "supervisor.startsecs",
            f"{group}:{at_once}",
            "startsecs is 0: a process that dies as it starts counts as RUNNING, and is started again without end",
            "set startsecs=1, or longer than a bad deploy takes to exit; the warm-up does not wait for startsecs",
        )
    killed = _names(processes, lambda one: one.stopwaitsecs < drain)
    if killed and drain != DrainPolicy.timeout:  # the default does not say that any request takes so long
        least, work = min(one.stopwaitsecs for one in processes), "job" if policy.ports.none else "request"
        yield Finding(
            "supervisor.stopwaitsecs",
            f"{group}:{killed}",
            f"stopwaitsecs is {least:g}, but drain.timeout {drain:g}: a manual stop kills the process after {least:g} "
            f"s, even in the middle of a {work} that a rollout would wait for",
            f"set stopwaitsecs={drain:g}, or lower drain.timeout to the longest {work} there is",
        )
    if never := _names(processes, lambda one: one.autorestart == "false"):
        yield Finding(
            "supervisor.autorestart",
            f"{group}:{never}",
            "autorestart is false: a process that crashes stays down, and the group has one process less",
            "set autorestart=true, or remove the line (unexpected)",
        )


def _of_listener(listener: ListenerSettings, total: int) -> Iterator[Finding]:
    where = f"[eventlistener:{listener.name}]"
    if listener.buffer_size < EVENTS_EACH * total:
        yield Finding(
            "listener.buffer_size",
            where,
            f"buffer_size is {listener.buffer_size}, but {total} processes cause {EVENTS_EACH * total} events when "
            "they start: supervisord drops the oldest, and the listener notices these up to 5 s late",
            "set buffer_size=4096",
        )
    if listener.startsecs > 0:
        yield Finding(
            "listener.startsecs",
            where,
            f"startsecs is {listener.startsecs:g}: the listener gets no events in the first {listener.startsecs:g} s "
            "after its start",
            "set startsecs=0",
        )
    if listener.lacks:
        yield Finding(
            "listener.events",
            where,
            f"events lacks {', '.join(listener.lacks)}: the listener notices these up to 5 s late, and a process that "
            "was restarted may serve before it is warm",
            "set events=ROLLING_REQUEST,PROCESS_STATE,PROCESS_GROUP,TICK_5,SUPERVISOR_STATE_CHANGE",
        )
    if listener.processes > 1:
        yield Finding(
            "listener.numprocs",
            where,
            f"numprocs is {listener.processes}: each event goes to one of them, and each undoes what the others do",
            "set numprocs=1",
            Severity.ERROR,
        )


def _names(processes: Sequence[ProcessSettings], is_meant: Callable[[ProcessSettings], bool]) -> str:
    """The processes that are meant: * for all, so that one section is one finding."""
    found = [one.name for one in processes if is_meant(one)]
    return "*" if found and len(found) == len(processes) else " ".join(found)
