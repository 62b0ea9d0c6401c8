"""The guard: no process serves before it is warm, whoever started it.

The ledger in supervisord knows which incarnation of each process is warm (its pid, and when it was started: a pid comes
again). A process whose incarnation is not in it has crashed, booted, been restarted by hand or by another listener; it
makes no difference which. It becomes a *ward*::

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

DOWN, WARMING and FAILED are *cold*: closed, as far as the group can bear it. READY is open, and its pid stands in the
ledger; one that was never closed has nothing to settle. What a rollout has in hand is not the guard's: it gets it back
when it is open, or when the rollout is over.

A process that is down is closed too, because the next one may accept connections before anybody has seen it.

Never too much. With ``max_closed`` 50 % of 8 processes::

    crashed    closed    why
    1          1         the seven others are warm and open
    4          4         50 % of 8
    5          4         the fifth serves cold while it is warmed: slow answers beat none
    8          0         none is warm and open, so all serve cold; when the first is warm, four of the others are closed

* The closed of a rollout that runs count too: with 3 of them the guard closes one more. It opens none for them.
* Those that will not come by themselves (STOPPED, FATAL, …) are closed and count for nothing: nobody could use them.
* Who is closed stays closed before another is, the longest first; so no port goes open and shut without need.
* A warm-up that failed is tried again after 5, 10, 20, 40, then every 60 seconds. A process that is open serves users
  meanwhile: it is tried again after 10, 20, 40, … and then every 300 seconds, one such process at a time.
* A warm-up has a deadline (``warmup.timeout``). It begins anew when the policy of warm-ups has changed, and what had
  failed by the old one is tried again at once.
* A group that comes under guard for the first time: what has run for a minute has been warmed by its users.

Answers come from the present, as in ``machine.py``. ``observed.at`` is the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from supervisor_rolling.core.endpoint import Endpoint, Endpoints
from supervisor_rolling.core.guard_state import GuardedProcess, GuardState
from supervisor_rolling.core.hook_steps import warmup_job
from supervisor_rolling.core.jobs import WarmupJob
from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import GatePolicy, Policy
from supervisor_rolling.core.process import Change, Process
from supervisor_rolling.core.process_states import ALIVE, CLOSED_STAGES, MANUAL_STOP_GRACE, state_text
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Status
from supervisor_rolling.core.share import limit_for
from supervisor_rolling.core.transitions import check_guarded
from supervisor_rolling.core.warming import WARMUP_REPORT_GRACE, not_warm_text

FIRST_RETRY = 5.0
"""Seconds from a warm-up that failed to the next: what it failed of may pass, as a database that starts."""

LONGEST_RETRY = 60.0
"""Seconds between two warm-ups beyond which the pauses do not grow."""

FIRST_OPEN_RETRY, LONGEST_OPEN_RETRY = 10.0, 300.0
"""The same for a process that is open: each warm-up costs the users whom it serves."""

SHOWN_AFTER = 2.0
"""Seconds of a warm-up after which the status says what it waits for."""

NEW = "a new process, not warm yet"

WARMED_BY_USERS = 60.0
"""Seconds that a process has served, when its group comes under guard, after which it is taken for warm."""

COLD = frozenset({Stage.DOWN, Stage.WARMING, Stage.FAILED})
GONE = frozenset({"STOPPED", "FATAL", "UNKNOWN"})  # down, and supervisord will not start it by itself


# --- the questions that the reconciler asks


def advance(
    guard_state: GuardState, observed: Observation, endpoints: Endpoints, rollout: Rollout | None
) -> GuardState:
    """The watch after one look. ``endpoints`` of every process of the group: one that has none cannot be guarded.
    ``rollout`` is the group's rollout, running or ended."""
    held = _held_by(rollout, observed.processes)
    known = {guarded.name: _extend_deadlines(guarded, observed) for guarded in guard_state.guarded}
    found = {name: guarded for name, guarded in known.items() if name in held and _is_to_be_noted(guarded, observed)}
    for name, process in observed.processes.items():
        if process.warm and process.state in ALIVE and name not in known:
            continue  # as nearly all are, at nearly every look
        if name in endpoints and endpoints[name] and name not in held:
            guarded = _step(known.get(name), process, endpoints[name], guard_state, observed)
            guarded = _handed_over(guarded, process, rollout, observed) if guarded and name not in known else guarded
            if guarded:
                found[name] = guarded
    found = _one_at_a_time(found, known)
    check_guarded(known, found)
    return (
        replace(guard_state, guarded=_shut(found, guard_state, observed, endpoints, held))
        if found or guard_state.guarded
        else guard_state
    )


def begin(empty: GuardState, processes: Mapping[str, Process], endpoints: Endpoints, at: float) -> GuardState:
    """The watch of a group that nobody guarded before: what has run for long is warm, the rest will be found cold."""
    old = [p for p in processes.values() if p.state == "RUNNING" and not p.warm and p.up_for >= WARMED_BY_USERS]
    guarded = tuple(
        GuardedProcess(p.name, endpoints[p.name], Stage.OPEN, at, pid=p.pid, spawned=p.spawned)
        for p in old
        if endpoints.get(p.name)
    )
    return replace(empty, guarded=guarded)


def by_policy(guard_state: GuardState, policy: Policy, gate: GatePolicy, at: float) -> GuardState:
    """The watch by the policy of now: warm-ups by another one begin anew, and what failed by it is tried at once."""
    before, now = ((one.warmup, one.hooks.after_warmup) for one in (guard_state.policy, policy))
    guarded = guard_state.guarded if before == now else tuple(_anew(guarded, at) for guarded in guard_state.guarded)
    return replace(guard_state, policy=policy, gate=gate, guarded=guarded)


def apply_event(process: Process, change: Change) -> Process:
    """The process after an event, as far as the event fits to what is known of it: another may be old, or come after
    one that was lost, and the next look tells. So it does of when a new one was started."""
    follows = change.pid == process.pid if change.pid and process.pid else change.from_state == process.state
    if not follows or change.state == process.state:
        return process
    lives = change.state in ("RUNNING", "STOPPING")
    pid = (change.pid or process.pid) if lives else 0
    spawned = 0.0 if change.state == "STARTING" else process.spawned
    warm = process.warm and lives
    return replace(process, state=change.state, pid=pid, spawned=spawned, warm=warm, down_for=0.0, up_for=0.0)


def died(process: Process) -> Process:
    """The process when it is known to be dead, before supervisord knows why: an order was for the one before it."""
    return replace(process, state="EXITED", pid=0, warm=False, down_for=0.0, up_for=0.0, told_to_stop=False)


def closed(guard_state: GuardState) -> dict[Endpoint, str]:
    """The endpoints that the guard has closed, each with a comment for whoever lists the rules."""
    return {
        endpoint: f"supervisor_rolling {guard_state.group}:{guarded.name} (guard)"
        for guarded in guard_state.guarded
        if guarded.closed
        for endpoint in guarded.endpoints
    }


def jobs(guard_state: GuardState) -> dict[str, WarmupJob]:
    """The processes that must be warmed now, by name."""
    return {
        guarded.name: warmup_job(guard_state, guarded)
        for guarded in guard_state.guarded
        if guarded.stage is Stage.WARMING
    }


# --- one process


def _step(
    guarded: GuardedProcess | None,
    process: Process,
    endpoints: tuple[Endpoint, ...],
    guard_state: GuardState,
    observed: Observation,
) -> GuardedProcess | None:
    """The ward that a process is now; None when it is warm and open."""
    if process.state not in ALIVE or not process.pid:
        return _down(guarded, process, endpoints, observed)
    if guarded is None or guarded.stage is Stage.DOWN or guarded.incarnation != process.incarnation:
        return None if process.warm else _new(guarded, process, endpoints, observed)
    guarded = replace(guarded, endpoints=endpoints)
    if process.warm:
        settles = guarded.stage is Stage.READY and observed.at - guarded.since < guard_state.policy.min_ready_seconds
        return guarded if settles else None
    if guarded.stage is Stage.READY and observed.at > guarded.since:
        return _to(guarded, Stage.READY, observed)  # the ledger did not get it: written anew, it will
    if guarded.stage is Stage.FAILED:
        return _to(guarded, Stage.WARMING, observed) if observed.at >= guarded.retry_at else guarded
    return _warming(guarded, process, guard_state, observed) if guarded.stage is Stage.WARMING else guarded


def _anew(guarded: GuardedProcess, at: float) -> GuardedProcess:
    if guarded.stage is Stage.FAILED:
        return replace(guarded, tries=1, retry_at=at)
    return replace(guarded, since=at) if guarded.stage is Stage.WARMING else guarded


def _extend_deadlines(guarded: GuardedProcess, observed: Observation) -> GuardedProcess:
    """Where nobody looked for a while, a listener was away: its warm-ups ended with it, and begin anew."""
    return replace(guarded, since=observed.at) if observed.gap and guarded.stage is Stage.WARMING else guarded


def _one_at_a_time(found: dict[str, GuardedProcess], known: Mapping[str, GuardedProcess]) -> dict[str, GuardedProcess]:
    """Of those that are open and whose warm-up failed before, at most one is tried again at a time."""
    retried = [
        guarded for guarded in found.values() if guarded.stage is Stage.WARMING and guarded.tries and not guarded.closed
    ]
    new = [guarded for guarded in retried if guarded.name in known and known[guarded.name].stage is Stage.FAILED]
    new.sort(key=lambda guarded: known[guarded.name].retry_at)
    wait = new if len(new) < len(retried) else new[1:]
    return (
        {**found, **{guarded.name: replace(known[guarded.name], endpoints=guarded.endpoints) for guarded in wait}}
        if wait
        else found
    )


def _is_to_be_noted(guarded: GuardedProcess, observed: Observation) -> bool:
    """Whether it was found warm, and the ledger does not have it yet."""
    process = observed.processes.get(guarded.name)
    is_there = process is not None and process.incarnation == guarded.incarnation and not process.warm
    return guarded.stage is Stage.OPEN and is_there


def _down(
    guarded: GuardedProcess | None, process: Process, endpoints: tuple[Endpoint, ...], observed: Observation
) -> GuardedProcess:
    if guarded is not None and guarded.stage is Stage.DOWN:
        return replace(guarded, endpoints=endpoints)
    was_closed = guarded is not None and guarded.closed
    return GuardedProcess(process.name, endpoints, Stage.DOWN, observed.at, was_closed)


def _new(
    guarded: GuardedProcess | None, process: Process, endpoints: tuple[Endpoint, ...], observed: Observation
) -> GuardedProcess:
    was_closed = guarded is not None and guarded.closed
    return GuardedProcess(
        process.name, endpoints, Stage.WARMING, observed.at, was_closed, process.pid, spawned=process.spawned
    )


def _warming(
    guarded: GuardedProcess, process: Process, guard_state: GuardState, observed: Observation
) -> GuardedProcess:
    warmup_status = observed.warmups.get(guarded.name)
    if warmup_status is None or warmup_status.incarnation != guarded.incarnation:
        return guarded
    if warmup_status.state in ("failed", "late"):
        return _failed(guarded, not_warm_text(warmup_status, guard_state.policy.warmup), observed)
    if warmup_status.state == "warm" and process.state == "RUNNING":
        guarded = replace(
            guarded,
            requests=warmup_status.requests,
            first_ms=warmup_status.first_ms,
            last_ms=warmup_status.last_ms,
            problem="",
        )
        return _to(guarded, Stage.READY if guarded.closed else Stage.OPEN, observed)
    if (
        warmup_status.state == "warming"
        and observed.at - guarded.since - warmup_status.queued
        >= guard_state.policy.warmup.timeout + WARMUP_REPORT_GRACE
    ):
        late = replace(warmup_status, state="late", why=warmup_status.why or state_text(process))
        return _failed(guarded, not_warm_text(late, guard_state.policy.warmup), observed)
    return guarded


def _failed(guarded: GuardedProcess, problem: str, observed: Observation) -> GuardedProcess:
    first, longest = (FIRST_RETRY, LONGEST_RETRY) if guarded.closed else (FIRST_OPEN_RETRY, LONGEST_OPEN_RETRY)
    pause = min(longest, first * 2.0 ** min(guarded.tries, 10))
    return replace(
        _to(guarded, Stage.FAILED, observed), tries=guarded.tries + 1, retry_at=observed.at + pause, problem=problem
    )


def _to(guarded: GuardedProcess, stage: Stage, observed: Observation) -> GuardedProcess:
    return replace(guarded, stage=stage, since=observed.at)


# --- the group


def _held_by(rollout: Rollout | None, processes: Mapping[str, Process]) -> dict[str, bool]:
    """The processes that a running rollout has in hand, and whether it keeps them closed.

    One that dies while it settles is the guard's at once: the rollout would close it only after the next look.
    """
    if rollout is None or rollout.status is not Status.RUNNING:
        return {}
    held = [member for member in rollout.members if member.stage is not Stage.OPEN]
    return {m.name: m.stage in CLOSED_STAGES for m in held if m.stage in CLOSED_STAGES or _lives_on(m, processes)}


def _lives_on(member: Member, processes: Mapping[str, Process]) -> bool:
    process = processes.get(member.name)
    return process is not None and process.incarnation == member.new and process.state in ALIVE


def _handed_over(
    guarded: GuardedProcess, process: Process, rollout: Rollout | None, observed: Observation
) -> GuardedProcess:
    """What a rollout that is over left failed goes on as it was: closed, and tried again after a pause."""
    if rollout is None or rollout.status is Status.RUNNING or guarded.stage is not Stage.WARMING:
        return guarded
    left = next((m for m in rollout.members if m.name == guarded.name and m.stage is Stage.FAILED), None)
    if left is None or left.new != process.incarnation:
        return guarded
    return _failed(replace(guarded, closed=True), left.why, observed)


def _shut(
    guarded: Mapping[str, GuardedProcess],
    guard_state: GuardState,
    observed: Observation,
    endpoints: Endpoints,
    held: Mapping[str, bool],
) -> tuple[GuardedProcess, ...]:
    """The wards, each with its gate as it shall be, in natural order."""
    if not guarded:
        return ()
    there = [name for name, process in observed.processes.items() if endpoints.get(name) and not _is_gone(process)]
    limit = limit_for(guard_state.policy.guard.max_closed, len(there))
    serves = _is_one_warm_and_open(guarded, observed, endpoints, held)
    by_rollout = sum(held.values())
    count = 0
    decided: list[GuardedProcess] = []
    for one in sorted(guarded.values(), key=lambda g: (not g.closed, g.since, natural(g.name))):
        process = observed.processes[one.name]
        counts = one.stage in COLD and not _is_gone(process)
        is_room = count < limit if one.closed else count + by_rollout < limit
        shut = one.stage in COLD and serves and (is_room or not counts)
        count += counts and shut
        because = "" if shut else _open_text(guard_state, serves)
        if shut and not one.closed and one.stage is Stage.FAILED:
            one = replace(one, retry_at=min(one.retry_at, observed.at + FIRST_RETRY))
        decided.append(replace(one, closed=shut, why=_why(one, process, because, observed)))
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
    """Why a ward stands where it stands, for ``rolling_status``. ``because``: why it is open; empty where it is not."""
    if guarded.stage not in COLD:
        return ""
    if guarded.stage is Stage.DOWN:
        fate = f"serves before it is warm, {because}" if because else "is to be kept closed until it is warm"
        held = observed.held.get(guarded.name)
        text = f"{state_text(process)}: the next one {fate}{f'; {held}' if held else ''}"
    else:
        cold = _cold_text(guarded, observed)
        text = f"{cold}; open all the same, {because}" if because else cold
    is_open = not because and not observed.closed.keys() >= set(guarded.endpoints)
    return f"{text}; its port is not closed yet: {observed.gate_problem}" if observed.gate_problem and is_open else text


def _cold_text(guarded: GuardedProcess, observed: Observation) -> str:
    if guarded.problem:
        return guarded.problem if guarded.stage is Stage.FAILED else f"tried again, it {guarded.problem}"
    warmup_status = observed.warmups.get(guarded.name)
    is_long = (
        warmup_status is not None
        and warmup_status.incarnation == guarded.incarnation
        and observed.at - guarded.since >= SHOWN_AFTER
    )
    return f"{NEW}: {warmup_status.why}" if warmup_status and warmup_status.why and is_long else NEW


def _open_text(guard_state: GuardState, serves: bool) -> str:
    if not serves:
        return "because none of the group is warm and open"
    share = guard_state.policy.guard.max_closed
    most = f"{share.number}" if share.number else f"{share.percent:g}%"
    return f"because no more may be closed (guard.max_closed: {most})"
