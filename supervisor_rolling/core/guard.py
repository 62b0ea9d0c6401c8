"""The crash guard: no process accepts traffic before it is warm, whatever started it.

The ledger in supervisord knows which incarnation of each process is warm (its pid, and when it was started: a pid is
used again). A process with another incarnation than the ledger has crashed, booted or been restarted; all three are
handled alike. It becomes a guarded process::

    (warm) ─▶ DOWN ─▶ WARMING ─▶ READY ─▶ (warm)

    (warm)     ─▶ DOWN        it exits
               ─▶ WARMING     it runs and is not warm
               ─▶ FAILED      a rollout that has ended failed to warm it
    DOWN       ─▶ WARMING     it has a new pid
               ─▶ (warm)      a rollout takes it over, or it is warm
    WARMING    ─▶ READY       it is warm, and RUNNING
               ─▶ OPEN        the same, where its port was never closed
               ─▶ FAILED      its warm-up fails or times out
               ─▶ DOWN        it exits
               ─▶ (warm)      a rollout takes it over, or has warmed it
    READY      ─▶ (warm)      it was ready for min_ready_seconds
               ─▶ DOWN        it exits
               ─▶ WARMING     it has a new pid
    OPEN       ─▶ (warm)      supervisord has noted that it is warm
               ─▶ DOWN        it exits
               ─▶ WARMING     it has a new pid
    FAILED     ─▶ WARMING     the next try is due, or it has a new pid
               ─▶ DOWN        it exits
               ─▶ (warm)      a rollout takes it over

DOWN, WARMING and FAILED are *cold*: closed, up to ``max_closed``. READY is open, and its incarnation is in the ledger.
The guard leaves a process alone that a rollout is replacing, until that is open again or the rollout is over. A process
that is down is closed, too, because the next one may accept connections before it is observed.

With ``max_closed`` 50 % of 8 processes::

    crashed    closed    why
    1          1         the seven others are warm and open
    4          4         50 % of 8
    5          4         the fifth serves cold while it is warmed: slow answers beat none
    8          0         none is warm and open, so all serve cold; when the first is warm, four of the others are closed

* Those that a running rollout has closed count: with 3 of them, the guard closes one more. It opens none for them.
* Those beyond the capacity of a group with spares (``surge``) are closed, drained and stopped; they count for nothing.
* Those that supervisord will not start by itself (STOPPED, FATAL, …) are closed, and count for nothing.
* What is closed stays closed before another is, the longest first, so that no port opens and closes without need.
* A warm-up that failed is tried again after 5, 10, 20, 40, then every 60 seconds. A process that is open serves users
  meanwhile: it is tried again after 10, 20, 40, … and then every 300 seconds, one such process at a time.
* A warm-up has a deadline (``warmup.timeout``). When the policy of warm-ups changes it begins anew, and what had failed
  is tried at once.
* When a group comes under guard, what has run for a minute has been warmed by its users.

Decisions follow from the present state, as in ``machine.py``. ``observed.at`` is the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from supervisor_rolling.core import spares
from supervisor_rolling.core.endpoint import Endpoint, Endpoints
from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.hook_steps import warmup_job
from supervisor_rolling.core.jobs import WarmupJob
from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import GatePolicy, Policy
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.process_states import ALIVE, CLOSED_STAGES, MANUAL_STOP_GRACE, state_text
from supervisor_rolling.core.reason import Reason
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Status
from supervisor_rolling.core.share import limit_for
from supervisor_rolling.core.transitions import check_guarded
from supervisor_rolling.core.warming import WARMUP_REPORT_GRACE, not_warm

MIN_RETRY, MAX_RETRY = 5.0, 60.0
"""Seconds from a warm-up that failed to the next, at first and at most: the reason may pass, such as a database that
is not up yet."""

MIN_OPEN_RETRY, MAX_OPEN_RETRY = 10.0, 300.0
"""The same for a process that is open: each warm-up slows down the requests that it serves."""

SHOWN_AFTER = 2.0
"""Seconds of a warm-up after which the status says what it waits for."""

ASSUMED_WARM_AFTER = 60.0
"""Seconds for which a process has run, when its group comes under guard, after which it counts as warm."""

NEW = "a new process, not warm yet"
COLD = frozenset({Stage.DOWN, Stage.WARMING, Stage.FAILED})
GONE = frozenset({"STOPPED", "FATAL", "UNKNOWN"})  # down, and supervisord will not start it by itself


# --- the questions that the reconciler asks


def advance(
    guard_state: GuardState, observed: Observation, endpoints: Endpoints, rollout: Rollout | None
) -> GuardState:
    """The guard's state after one observation. ``endpoints``: of every process of the group; one that has none cannot
    be guarded. ``rollout``: the group's, running or ended."""
    held = _held_by(rollout, observed.processes)
    known = {guarded.name: _extend_deadline(guarded, observed) for guarded in guard_state.guarded}
    found = {name: guarded for name, guarded in known.items() if name in held and _is_unrecorded(guarded, observed)}
    for name, process in observed.processes.items():
        if process.warm and process.state in ALIVE and name not in known:
            continue  # the usual case
        if endpoints.get(name) and name not in held:
            guarded = _step(known.get(name), process, endpoints[name], guard_state, observed)
            guarded = _taken_over(guarded, process, rollout, observed) if guarded and name not in known else guarded
            if guarded:
                found[name] = guarded
    found = _one_retry_at_a_time(found, known)
    check_guarded(known, found)
    if not found and not guard_state.guarded:
        return guard_state
    is_rolling = rollout is not None and rollout.status is Status.RUNNING
    resting = () if is_rolling else spares.to_rest(guard_state.policy, known.values(), observed)
    found = {name: replace(one, spare=one.stage in COLD and name in resting) for name, one in found.items()}
    return replace(guard_state, guarded=_with_gates(found, guard_state, observed, endpoints, held))


def begin(empty: GuardState, processes: Mapping[str, Process], endpoints: Endpoints, at: float) -> GuardState:
    """The state of a guard that takes over a group: what has run for long counts as warm."""
    old = [p for p in processes.values() if p.state == "RUNNING" and not p.warm and p.up_for >= ASSUMED_WARM_AFTER]
    guarded = tuple(
        GuardedProcess(p.name, endpoints[p.name], Stage.OPEN, at, pid=p.pid, spawned=p.spawned)
        for p in old
        if endpoints.get(p.name)
    )
    return replace(empty, guarded=guarded)


def with_policy(guard_state: GuardState, policy: Policy, gate: GatePolicy, at: float) -> GuardState:
    """The guard's state by the present policy: where that warms in another way, warm-ups begin anew, and what had
    failed is tried at once."""
    before, now = ((one.warmup, one.hooks.after_warmup) for one in (guard_state.policy, policy))
    guarded = (
        guard_state.guarded if before == now else tuple(_restarted(guarded, at) for guarded in guard_state.guarded)
    )
    return replace(guard_state, policy=policy, gate=gate, guarded=guarded)


def closed(guard_state: GuardState) -> dict[Endpoint, str]:
    """The endpoints that the guard has closed, each with a comment for a list of the rules."""
    return {
        endpoint: f"supervisor_rolling {guard_state.group}:{guarded.name} (guard)"
        for guarded in guard_state.guarded
        if guarded.closed
        for endpoint in guarded.endpoints
    }


def jobs(guard_state: GuardState) -> dict[str, WarmupJob]:
    """The processes to warm now, by name."""
    return {
        guarded.name: warmup_job(guard_state, guarded)
        for guarded in guard_state.guarded
        if guarded.stage is Stage.WARMING and not guarded.spare
    }


# --- one process


def _step(
    guarded: GuardedProcess | None,
    process: Process,
    endpoints: tuple[Endpoint, ...],
    guard_state: GuardState,
    observed: Observation,
) -> GuardedProcess | None:
    """The guarded process after one observation; None when it is warm and open."""
    was_closed, at = guarded is not None and guarded.closed, observed.at
    if process.state not in ALIVE or not process.pid:
        if guarded is not None and guarded.stage is Stage.DOWN:
            return replace(guarded, endpoints=endpoints)
        return GuardedProcess(process.name, endpoints, Stage.DOWN, at, was_closed)
    if guarded is None or guarded.stage is Stage.DOWN or guarded.incarnation != process.incarnation:
        new = GuardedProcess(
            process.name, endpoints, Stage.WARMING, at, was_closed, process.pid, spawned=process.spawned
        )
        return None if process.warm else new
    guarded = replace(guarded, endpoints=endpoints)
    if process.warm:
        is_ready = guarded.stage is Stage.READY and at - guarded.since < guard_state.policy.min_ready_seconds
        return guarded if is_ready else None
    if guarded.stage is Stage.READY and at > guarded.since:
        return _to(guarded, Stage.READY, observed)  # the ledger does not have it: record it again
    if guarded.stage is Stage.FAILED:
        return _to(guarded, Stage.WARMING, observed) if at >= guarded.retry_at else guarded
    return _warming(guarded, process, guard_state, observed) if guarded.stage is Stage.WARMING else guarded


def _warming(
    guarded: GuardedProcess, process: Process, guard_state: GuardState, observed: Observation
) -> GuardedProcess:
    policy, status = guard_state.policy.warmup, observed.warmups.get(guarded.name)
    if status is None or status.incarnation != guarded.incarnation:
        return guarded
    if status.state in ("failed", "late"):
        return _failed(guarded, not_warm(status, policy), observed)
    if status.state == "warm" and process.state == "RUNNING":
        warm = _to(guarded, Stage.READY if guarded.closed else Stage.OPEN, observed)
        requests, first_ms, last_ms = status.requests, status.first_ms, status.last_ms
        return replace(warm, requests=requests, first_ms=first_ms, last_ms=last_ms, problem="", code="")
    waited = observed.at - guarded.since - status.queued
    if status.state == "warming" and waited >= policy.timeout + WARMUP_REPORT_GRACE:
        late = replace(status, state="late", why=status.why or state_text(process))
        return _failed(guarded, not_warm(late, policy), observed)
    return guarded


def _failed(guarded: GuardedProcess, reason: Reason, observed: Observation) -> GuardedProcess:
    first, longest = (MIN_RETRY, MAX_RETRY) if guarded.closed else (MIN_OPEN_RETRY, MAX_OPEN_RETRY)
    pause = min(longest, first * 2.0 ** min(guarded.tries, 10))
    failed = _to(guarded, Stage.FAILED, observed)
    return replace(failed, tries=guarded.tries + 1, retry_at=observed.at + pause, problem=reason.text, code=reason.code)


def _to(guarded: GuardedProcess, stage: Stage, observed: Observation) -> GuardedProcess:
    return replace(guarded, stage=stage, since=observed.at)


def _restarted(guarded: GuardedProcess, at: float) -> GuardedProcess:
    if guarded.stage is Stage.FAILED:
        return replace(guarded, tries=1, retry_at=at)
    return replace(guarded, since=at) if guarded.stage is Stage.WARMING else guarded


def _extend_deadline(guarded: GuardedProcess, observed: Observation) -> GuardedProcess:
    """After a time without a listener the warm-up starts again: it ended with that listener."""
    return replace(guarded, since=observed.at) if observed.gap and guarded.stage is Stage.WARMING else guarded


def _is_unrecorded(guarded: GuardedProcess, observed: Observation) -> bool:
    """Whether it was found warm, and the ledger does not have it yet."""
    process = observed.processes.get(guarded.name)
    is_there = process is not None and process.incarnation == guarded.incarnation and not process.warm
    return guarded.stage is Stage.OPEN and is_there


def _one_retry_at_a_time(
    found: dict[str, GuardedProcess], known: Mapping[str, GuardedProcess]
) -> dict[str, GuardedProcess]:
    """Of the open processes that have failed a warm-up before, at most one is warmed at a time."""
    retried = [g for g in found.values() if g.stage is Stage.WARMING and g.tries and not g.closed]
    new = [guarded for guarded in retried if guarded.name in known and known[guarded.name].stage is Stage.FAILED]
    new.sort(key=lambda guarded: known[guarded.name].retry_at)
    wait = new if len(new) < len(retried) else new[1:]
    return {**found, **{g.name: replace(known[g.name], endpoints=g.endpoints) for g in wait}}


# --- the rollout and the guard


def _held_by(rollout: Rollout | None, processes: Mapping[str, Process]) -> dict[str, bool]:
    """The processes that a running rollout takes care of, and whether it keeps them closed.

    One that exits while it is READY is the guard's at once: the rollout would close it only after the next observation.
    """
    if rollout is None or rollout.status is not Status.RUNNING:
        return {}
    held = [member for member in rollout.members if member.stage is not Stage.OPEN]
    return {m.name: m.stage in CLOSED_STAGES for m in held if m.stage in CLOSED_STAGES or _still_runs(m, processes)}


def _still_runs(member: Member, processes: Mapping[str, Process]) -> bool:
    process = processes.get(member.name)
    return process is not None and process.incarnation == member.new and process.state in ALIVE


def _taken_over(
    guarded: GuardedProcess, process: Process, rollout: Rollout | None, observed: Observation
) -> GuardedProcess:
    """What a rollout that is over has left failed stays as it was: closed, and tried again after a pause."""
    if rollout is None or rollout.status is Status.RUNNING or guarded.stage is not Stage.WARMING:
        return guarded
    left = next((m for m in rollout.members if m.name == guarded.name and m.stage is Stage.FAILED), None)
    if left is None or left.new != process.incarnation:
        return guarded
    return _failed(replace(guarded, closed=True), Reason(left.code, left.why), observed)


# --- which are closed


def _with_gates(
    guarded: Mapping[str, GuardedProcess],
    guard_state: GuardState,
    observed: Observation,
    endpoints: Endpoints,
    held: Mapping[str, bool],
) -> tuple[GuardedProcess, ...]:
    """The guarded processes, each with its gate as it shall be, in natural order."""
    there = [name for name, process in observed.processes.items() if endpoints.get(name) and not _is_gone(process)]
    limit = limit_for(guard_state.policy.guard.max_closed, len(there))
    serves = _is_one_warm_and_open(guarded, observed, endpoints, held)
    by_rollout = sum(held.values())
    count = 0
    decided: list[GuardedProcess] = []
    for one in sorted(guarded.values(), key=lambda g: (not g.closed, g.since, natural(g.name))):
        process = observed.processes[one.name]
        counts = one.stage in COLD and not _is_gone(process) and not one.spare
        is_room = count < limit if one.closed else count + by_rollout < limit
        is_closed = one.spare or (one.stage in COLD and serves and (is_room or not counts))
        count += counts and is_closed
        because = "" if is_closed else _open_text(guard_state, serves)
        if is_closed and not one.closed and one.stage is Stage.FAILED:
            one = replace(one, retry_at=min(one.retry_at, observed.at + MIN_RETRY))
        decided.append(replace(one, closed=is_closed, why=_why(one, process, because, observed)))
    return tuple(sorted(decided, key=lambda guarded: natural(guarded.name)))


def _is_one_warm_and_open(
    guarded: Mapping[str, GuardedProcess], observed: Observation, endpoints: Endpoints, held: Mapping[str, bool]
) -> bool:
    return any(
        process.state == "RUNNING" and name not in held and (name not in guarded or guarded[name].stage is Stage.OPEN)
        for name, process in observed.processes.items()
        if endpoints.get(name)
    )


def _is_gone(process: Process) -> bool:
    return process.state in GONE or (process.state == "EXITED" and process.down_for >= MANUAL_STOP_GRACE)


# --- sentences


def _why(guarded: GuardedProcess, process: Process, because: str, observed: Observation) -> str:
    """Why a process is guarded, for ``rolling_status``. ``because``: why it is open; empty where it is closed."""
    if guarded.stage not in COLD:
        return ""
    if guarded.spare:
        text = spares.WILL_REST
    elif guarded.stage is Stage.DOWN:
        next_one = f"accepts traffic before it is warm, {because}" if because else "is kept closed until it is warm"
        held = observed.held.get(guarded.name)
        text = f"{state_text(process)}: its next process {next_one}{f'; {held}' if held else ''}"
    else:
        cold = _cold_text(guarded, observed)
        text = f"{cold}; it accepts traffic anyway, {because}" if because else cold
    is_open = not because and not observed.closed.keys() >= set(guarded.endpoints)
    return f"{text}; its port is not closed yet: {observed.gate_problem}" if observed.gate_problem and is_open else text


def _cold_text(guarded: GuardedProcess, observed: Observation) -> str:
    if guarded.problem and guarded.stage is Stage.FAILED:
        return guarded.problem
    if guarded.problem:
        return f"is being warmed up again, because it {guarded.problem}"
    status = observed.warmups.get(guarded.name)
    is_long = observed.at - guarded.since >= SHOWN_AFTER
    if status and status.why and status.incarnation == guarded.incarnation and is_long:
        return f"{NEW}: {status.why}"
    return NEW


def _open_text(guard_state: GuardState, serves: bool) -> str:
    if not serves:
        return "because no process of the group is warm and open"
    share = guard_state.policy.guard.max_closed
    most = f"{share.number}" if share.number else f"{share.percent:g}%"
    return f"because no more may be closed (guard.max_closed: {most})"
