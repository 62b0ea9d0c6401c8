"""How long a turn may wait for the next one: as long as nothing can have happened that has to be seen at once."""

from __future__ import annotations

import math

from supervisor_rolling.core.drain import drained_for
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import DrainPolicy
from supervisor_rolling.core.rollout import Rollout, Stage, Status

DRAIN_LOOK_EVERY = 0.02
"""Seconds between two looks at the connections of a port that drains, at least: what a short drain takes longer than it
must. Each costs the listener and supervisord a few milliseconds of the processor."""

DRAIN_SHARE = 0.25
"""Of the time that a drain has lasted, after which it is looked at again: what it then takes longer than it must, at
most."""

DRAIN_LOOK_AT_MOST = 0.1
"""Seconds between two looks at a drain, however old: who comes through its closed gate is found by being there."""

MOVE_LOOK_EVERY = 0.05
"""Seconds between two looks while a process restarts; events wake the reconciler earlier."""

WARM_LOOK_EVERY = 0.1
"""Seconds between two looks while a process warms up, behind a gate that somebody may flush. Its death, and the end of
its warm-up, wake the reconciler."""

REST_LOOK_EVERY = 0.5
"""Seconds between two looks while a rollout waits, settles or is paused."""

BARELY = 0.002
"""Seconds after the end of startsecs at which supervisord, woken by a look, calls a process RUNNING; likewise after the
end of a settle."""

IDLE_LOOK_EVERY = 5.0
"""Seconds between two looks when there is nothing to do. supervisord's TICK_5 asks for as many; but events can be lost,
and whoever asks for a rollout is told after ten seconds that nobody answers."""

GATE_LOOK_EVERY = 0.5
"""Seconds between two looks at what is closed: for so long a flush of the firewall lets users in. A look costs a read
of the gate, 0.1 to 0.4 ms, and asks supervisord for nothing."""


LOCK_TRY_EVERY = 0.05
"""Seconds between two tries to change the firewall while another program holds its lock."""


def gate_pause(is_holding: bool, is_busy: bool) -> float:
    """Seconds until the next look at the gate; ``is_holding``: it has a port to be closed; ``is_busy``: another program
    keeps it from a change."""
    if is_busy:
        return LOCK_TRY_EVERY
    return GATE_LOOK_EVERY if is_holding else math.inf


def pause(rollout: Rollout | None, guard_state: GuardState | None, observed: Observation) -> float:
    """Seconds for which a group can do without a look."""
    found = _rollout_pause(rollout, observed) if rollout else IDLE_LOOK_EVERY
    return min(found, _watch_pause(guard_state, observed)) if guard_state else found


def _rollout_pause(rollout: Rollout, observed: Observation) -> float:
    if rollout.status is not Status.RUNNING:
        return IDLE_LOOK_EVERY
    stages = {member.stage for member in rollout.members}
    draining = [member for member in rollout.members if member.stage is Stage.DRAINING]
    found = [
        REST_LOOK_EVERY,
        *(_drain_pause(drained_for(m, observed.at, observed.closed), rollout.policy.drain) for m in draining),
    ]
    if Stage.RESTARTING in stages:
        found.append(MOVE_LOOK_EVERY)
    if Stage.WARMING in stages:
        found += [WARM_LOOK_EVERY, *_starting_for(observed)]
    ready = [
        rollout.policy.min_ready_seconds - (observed.at - m.since) for m in rollout.members if m.stage is Stage.READY
    ]
    return min([*found, *(left + BARELY for left in ready if left > 0)])


def _drain_pause(age: float, policy: DrainPolicy) -> float:
    """``age``: seconds for which it drains; below 0: its gate is not known closed. Its end by the clock is not
    missed, but for a cold one's, which counts from an earlier close: that is found a look later."""
    ends = [end - age for end in (policy.min_seconds, policy.timeout) if end > age]
    return max(DRAIN_LOOK_EVERY, min(DRAIN_LOOK_AT_MOST, DRAIN_SHARE * age, *ends))


def _watch_pause(guard_state: GuardState, observed: Observation) -> float:
    """Those that are down come with an event, and the end of a warm-up rings. One whose time to be tried again is over
    waits for another that is tried now."""
    stages = {guarded.stage for guarded in guard_state.guarded}
    retries = [
        guarded.retry_at - observed.at
        for guarded in guard_state.guarded
        if guarded.stage is Stage.FAILED and guarded.retry_at > observed.at
    ]
    rest = min([REST_LOOK_EVERY if Stage.READY in stages else IDLE_LOOK_EVERY, *retries])
    if Stage.WARMING not in stages:
        return rest
    starting = _starting_for(observed)
    return min([rest, REST_LOOK_EVERY, *([WARM_LOOK_EVERY, *starting] if starting else [])])


def _starting_for(observed: Observation) -> list[float]:
    """Of each that supervisord will call RUNNING when its startsecs are over and something wakes it: how long until
    then."""
    return [process.running_in + BARELY for process in observed.processes.values() if process.state == "STARTING"]
