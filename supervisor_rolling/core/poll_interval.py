"""Seconds until the next observation of a group or check of the gate, as long as no event comes earlier."""

from __future__ import annotations

import math

from supervisor_rolling.core.drain import drained_for
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import DrainPolicy
from supervisor_rolling.core.rollout import Rollout, Stage, Status

# Seconds between two observations:

DRAIN_POLL = 0.02
"""The shortest interval of a drain: its end is noticed so much later. Each observation costs the listener and
supervisord a few milliseconds of CPU time."""

DRAIN_SHARE = 0.25
"""The interval of a drain, as a share of the time that it has lasted: so much of it is lost at most."""

MAX_DRAIN_POLL = 0.1
"""The longest interval of a drain: a connection through the closed gate is found only while it is open."""

RESTART_POLL = 0.05
"""The shortest interval while a process restarts; events wake the reconciler earlier."""

RESTART_SHARE = 0.02
"""The interval of a restart, as a share of the time that it has lasted: a worker may take an hour to finish its job."""

WARMUP_POLL = 0.1
"""The interval while a process warms up: another program may flush its gate. Its exit, and the end of its warm-up, wake
the reconciler."""

WAIT_POLL = 0.5
"""The interval of a rollout that waits, is paused, or has a process in READY."""

IDLE_POLL = 5.0
"""The interval of a group with nothing to do. TICK_5 events wake the listener as often; but events can be lost, and a
client that asks for a rollout gives up after ten seconds."""

GATE_POLL = 0.5
"""The interval of checks of the gate: for so long a flush of the firewall leaves ports open. A check takes 0.1 to
0.4 ms."""

LOCK_POLL = 0.05
"""The interval of checks of the gate while another program holds the lock of the firewall."""

MARGIN = 0.002
"""Seconds after the end of startsecs, or of min_ready_seconds, at which to observe: supervisord then calls the process
RUNNING."""


def gate_interval(is_holding: bool, is_busy: bool) -> float:
    """Seconds until the next check of the gate. ``is_holding``: some port is to be closed; ``is_busy``: another program
    holds the lock of the firewall."""
    if is_busy:
        return LOCK_POLL
    return GATE_POLL if is_holding else math.inf


def poll_interval(rollout: Rollout | None, guard_state: GuardState | None, observed: Observation) -> float:
    """Seconds until the next observation of a group."""
    found = _of_rollout(rollout, observed) if rollout else IDLE_POLL
    return min(found, _of_guard(guard_state, observed)) if guard_state else found


def _of_rollout(rollout: Rollout, observed: Observation) -> float:
    if rollout.status is not Status.RUNNING:
        return IDLE_POLL
    found = [WAIT_POLL]
    for member in rollout.members:
        if member.stage is Stage.DRAINING and not member.endpoints:
            found.append(_of_worker(observed.at - member.since, rollout.policy.drain))
        elif member.stage is Stage.DRAINING:
            found.append(_of_drain(drained_for(member, observed.at, observed.closed), rollout.policy.drain))
        if member.stage is Stage.READY:
            left = rollout.policy.min_ready_seconds - (observed.at - member.since)
            found += [left + MARGIN] if left > 0 else []
        if member.stage is Stage.RESTARTING:
            found.append(max(RESTART_POLL, RESTART_SHARE * (observed.at - max(member.since, member.stopped_at))))
    if any(member.stage is Stage.WARMING for member in rollout.members):
        found += [WARMUP_POLL, *_starting_for(observed)]
    return min(found)


def _of_drain(age: float, policy: DrainPolicy) -> float:
    """``age``: seconds for which it drains; below 0: its gate is not known to be closed. The moment at which it ends by
    the clock is not missed, but for a member that was closed before, which counts from an earlier moment."""
    ends = [end - age for end in (policy.min_seconds, policy.timeout) if end > age]
    return max(DRAIN_POLL, min(MAX_DRAIN_POLL, DRAIN_SHARE * age, *ends))


def _of_worker(age: float, policy: DrainPolicy) -> float:
    """``age``: seconds since it was asked to finish. Its exit is an event; only the end of its time is not."""
    left = policy.timeout - age
    return max(DRAIN_POLL, min(WAIT_POLL, DRAIN_SHARE * age, *([left] if left > 0 else [])))


def _of_guard(guard_state: GuardState, observed: Observation) -> float:
    """A process that goes down sends an event, and the end of a warm-up wakes the reconciler. A retry that is overdue
    waits for another process's warm-up."""
    stages = {guarded.stage for guarded in guard_state.guarded}
    retry_in = [g.retry_at - observed.at for g in guard_state.guarded if g.stage is Stage.FAILED]
    rest = min([WAIT_POLL if Stage.READY in stages else IDLE_POLL, *(one for one in retry_in if one > 0)])
    if Stage.WARMING not in stages:
        return rest
    starting = _starting_for(observed)
    return min([rest, WAIT_POLL, *([WARMUP_POLL, *starting] if starting else [])])


def _starting_for(observed: Observation) -> list[float]:
    """For each STARTING process, how long until supervisord, when something wakes it, will call it RUNNING."""
    return [process.running_in + MARGIN for process in observed.processes.values() if process.state == "STARTING"]
