"""Findings in supervisord.conf: what supervisord itself was told of a group and of the listener."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from supervisor_rolling.core.policy import DrainPolicy, Policy
from supervisor_rolling.core.preflight_report import Finding, ListenerSettings, ProcessSettings, Settings, Severity

EVENTS_EACH = 3
"""Events that a process tells when it starts, and so as many may wait for each: STARTING, RUNNING, and one more."""


def findings(settings: Settings, policy: Policy) -> Iterator[Finding]:
    """What is wrong with the settings of a group, and of the listener that rollouts it."""
    yield from _of_processes(settings.processes, policy)
    for listener in settings.listeners:
        yield from _of_listener(listener, settings.total)


def _of_processes(processes: Sequence[ProcessSettings], policy: Policy) -> Iterator[Finding]:
    timeout, drain = policy.restart.timeout, policy.drain.timeout
    group = policy.group
    late = _names(processes, lambda one: one.startsecs > timeout)
    if late:
        longest = max(one.startsecs for one in processes)
        yield Finding(
            "supervisor.startsecs",
            f"{group}:{late}",
            f"startsecs is {longest:g} and restart.timeout {timeout:g}: none is RUNNING in time, and every rollout fails",
            f"lower startsecs, or raise groups.{group}.restart.timeout above it",
            severity=Severity.ERROR,
        )
    at_once = _names(processes, lambda one: one.startsecs == 0)
    if at_once:
        yield Finding(
            "supervisor.startsecs",
            f"{group}:{at_once}",
            "startsecs is 0: code that dies as it starts counts as RUNNING, and is started again without end",
            "say startsecs = 1, or as long as a bad deploy takes to die; the warm-up begins earlier all the same",
        )
    hasty = _names(processes, lambda one: one.stopwaitsecs < drain)
    if hasty and drain != DrainPolicy.timeout:  # the default does not say that any request takes so long
        least = min(one.stopwaitsecs for one in processes)
        yield Finding(
            "supervisor.stopwaitsecs",
            f"{group}:{hasty}",
            f"stopwaitsecs is {least:g} and drain.timeout {drain:g}: a manual stop kills the process after {least:g} "
            "s, even in the middle of a request that a rollout would wait for",
            f"set stopwaitsecs={drain:g}, or lower drain.timeout to the longest request there is",
        )
    left = _names(processes, lambda one: one.autorestart == "false")
    if left:
        yield Finding(
            "supervisor.autorestart",
            f"{group}:{left}",
            "autorestart is false: what crashes stays down, and each crash leaves one less to serve",
            "say autorestart = true, or leave the line out (unexpected)",
        )


def _of_listener(listener: ListenerSettings, total: int) -> Iterator[Finding]:
    where = f"[eventlistener:{listener.name}]"
    if listener.buffer_size < EVENTS_EACH * total:
        yield Finding(
            "listener.buffer_size",
            where,
            f"buffer_size is {listener.buffer_size}, and {total} processes tell {EVENTS_EACH * total} events when they "
            "start: supervisord drops the oldest, and what they would have told is noticed up to 5 s late",
            "say buffer_size = 4096",
        )
    if listener.startsecs > 0:
        yield Finding(
            "listener.startsecs",
            where,
            f"startsecs is {listener.startsecs:g}: the listener hears nothing for so long after it was started",
            "say startsecs = 0",
        )
    if listener.lacks:
        yield Finding(
            "listener.events",
            where,
            f"events lacks {', '.join(listener.lacks)}: what they tell is noticed up to 5 s late, and a process that "
            "came back may serve cold meanwhile",
            "say events = ROLLING_ASKED,PROCESS_STATE,PROCESS_GROUP,TICK_5,SUPERVISOR_STATE_CHANGE",
        )
    if listener.processes > 1:
        yield Finding(
            "listener.numprocs",
            where,
            f"numprocs is {listener.processes}: each event goes to one of them, and they undo what the others do",
            "say numprocs = 1",
            severity=Severity.ERROR,
        )


def _names(processes: Sequence[ProcessSettings], is_meant: Callable[[ProcessSettings], bool]) -> str:
    """The processes that are meant: * for all, so that one section is one finding."""
    found = [one.name for one in processes if is_meant(one)]
    return "*" if found and len(found) == len(processes) else " ".join(found)
