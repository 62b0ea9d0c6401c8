"""How long a turn may wait for the next one: as long as nothing can have happened that has to be seen at once."""

from __future__ import annotations

from supervisor_rolling.model import Roll, Seen, Stage, Status, Watch

DRAIN_LOOK_EVERY = 0.02
"""Seconds between two looks at the connections of a port that drains: what a drain takes longer than it must."""

MOVE_LOOK_EVERY = 0.05
"""Seconds between two looks while a process restarts or warms up; events and ended warm-ups wake the roller earlier."""

REST_LOOK_EVERY = 0.5
"""Seconds between two looks while a roll waits, settles or is paused."""

BARELY = 0.002
"""Seconds after the end of startsecs at which supervisord, woken by a look, calls a process RUNNING."""

IDLE_LOOK_EVERY = 5.0
"""Seconds between two looks when there is nothing to do. supervisord's TICK_5 asks for as many; but events can be lost,
and whoever asks for a roll is told after ten seconds that nobody answers."""


def pause(roll: Roll | None, watch: Watch | None, seen: Seen) -> float:
    """Seconds for which a group can do without a look."""
    found = _roll_pause(roll, seen) if roll else IDLE_LOOK_EVERY
    return min(found, _watch_pause(watch, seen)) if watch else found


def _roll_pause(roll: Roll, seen: Seen) -> float:
    stages = {member.stage for member in roll.members}
    if roll.status is not Status.RUNNING:
        return roll.gate.lease / 4 if Stage.FAILED in stages else IDLE_LOOK_EVERY
    if Stage.DRAINING in stages:
        return DRAIN_LOOK_EVERY
    if stages & {Stage.RESTARTING, Stage.WARMING}:
        return _move_pause(seen)
    return REST_LOOK_EVERY


def _watch_pause(watch: Watch, seen: Seen) -> float:
    """Those that are down come with an event, and the end of a warm-up rings."""
    stages = {ward.stage for ward in watch.wards}
    retries = [max(0.0, ward.retry_at - seen.at) for ward in watch.wards if ward.stage is Stage.FAILED]
    rest = min([REST_LOOK_EVERY if Stage.SETTLING in stages else IDLE_LOOK_EVERY, *retries])
    rest = min(rest, watch.gate.lease / 4) if any(ward.closed for ward in watch.wards) else rest
    if Stage.WARMING not in stages:
        return rest
    starts = any(process.state == "STARTING" for process in seen.processes.values())
    return min(rest, _move_pause(seen) if starts else REST_LOOK_EVERY)  # the end of a warm-up rings


def _move_pause(seen: Seen) -> float:
    booting = [process.running_in + BARELY for process in seen.processes.values() if process.state == "STARTING"]
    return min([MOVE_LOOK_EVERY, *booting])
