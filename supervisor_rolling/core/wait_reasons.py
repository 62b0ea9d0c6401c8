"""What a rollout waits for, in words without running numbers: each change of them is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from supervisor_rolling.core.availability import is_awaited, unavailable_text
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.process_states import UNDER_WAY
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Status
from supervisor_rolling.core.text import MAX_LISTED, listed

LONG = 5.0
"""Seconds of waiting that are worth a line in the log, and in the output of supervisorctl."""


def waiting_for(rollout: Rollout, text: str, since: float, at: float) -> Rollout:
    """The rollout with what it waits for since then; empty: for nothing."""
    text = text if rollout.status is Status.RUNNING else ""
    is_long = bool(text) and at - since >= LONG
    if (rollout.waits_for, rollout.waits_long) == (text, is_long):
        return rollout
    return replace(rollout, waits_for=text, waits_long=is_long)


def wait_reason(rollout: Rollout, observed: Observation) -> tuple[str, float]:
    """What a rollout waits for between its hooks, and since when."""
    if rollout.status is not Status.RUNNING or rollout.final_status or rollout.paused:
        return "", 0.0
    if any(member.stage in UNDER_WAY for member in rollout.members):
        found = (_for_a_warm_up(rollout, observed), _for_a_worker(rollout, observed))
        return min([one for one in found if one[0]], key=lambda one: one[1], default=("", 0.0))
    if not rollout.stuck_since:
        return "", 0.0
    awaited = [member.name for member in rollout.members if is_awaited(observed.guarded.get(member.name))]
    room = f"room under max_unavailable: {unavailable_text(rollout, observed, MAX_LISTED)}"
    return _for_the_guard(awaited, observed) if awaited else room, rollout.stuck_since


def stuck_text(rollout: Rollout, observed: Observation, waited: float) -> str:
    """Why a rollout that found no room for so many seconds has failed."""
    down = unavailable_text(rollout, observed)
    if down:
        why = f"only {rollout.limit} may be unavailable (max_unavailable), and {down}"
        fix = "repair the processes that are not available"
        return f"no process could be restarted for {waited:g} s, because {why}. Fix: {fix}"
    why = "only one process serves. Fix: start another one, or accept an outage with --force"
    return f"no process could be restarted for {waited:g} s, because {why}"


def _for_a_warm_up(rollout: Rollout, observed: Observation) -> tuple[str, float]:
    """The warm-up that lasts longest, where that is long, and since when."""
    under_way = [m for m in rollout.members if m.stage in (Stage.RESTARTING, Stage.WARMING)]
    found = [(m.since, m.name, _hindrance(m, observed)) for m in under_way if observed.at - m.since >= LONG]
    since, name, why = min([one for one in found if one[2]], default=(0.0, "", ""))
    return (f"{name} to be warm: {why}", since) if name else ("", 0.0)


def _for_a_worker(rollout: Rollout, observed: Observation) -> tuple[str, float]:
    """The process without a port that has taken longest to finish its job, where that is long, and since when."""
    leaving = [m for m in rollout.members if m.stage in (Stage.DRAINING, Stage.RESTARTING) and not m.endpoints]
    late = [(m.since, m.name, _end_text(m, rollout, observed)) for m in leaving if observed.at - m.since >= LONG]
    since, name, text = min([one for one in late if one[2]], default=(0.0, "", ""))
    return (f"{name} {text}", since) if name else ("", 0.0)


def _end_text(member: Member, rollout: Rollout, observed: Observation) -> str:
    """When a process that was asked to exit is ended; empty where it was not asked."""
    process, drain = observed.processes.get(member.name), rollout.policy.drain
    if process is not None and process.state == "STOPPING":
        return f"to exit, for up to {process.stopwaitsecs:g} s (stopwaitsecs)"
    if member.stage is Stage.DRAINING and drain.signal:
        return f"to exit after SIG{drain.signal}, for up to {drain.timeout:g} s (drain.timeout)"
    return ""


def _hindrance(member: Member, observed: Observation) -> str:
    """What keeps a new process from being warm, as far as it is known: above all, what else holds its port."""
    status = observed.warmups.get(member.name) if member.stage is Stage.WARMING else None
    return observed.held.get(member.name) or (status.why if status else "")


def _for_the_guard(names: Sequence[str], observed: Observation) -> str:
    return f"the crash guard to finish {listed(f'{name} ({observed.guarded[name].stage.value})' for name in names)}"
