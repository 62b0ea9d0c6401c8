"""The guard: no process serves before it is warm, whoever started it.

The ledger in supervisord knows which incarnation of each process is warm (its pid, and when it was started: a pid comes
again). A process whose incarnation is not in it has crashed, booted, been restarted by hand or by another listener; it
makes no difference which. It becomes a *ward*::

               down                   new pid             warm and RUNNING          settled
    (warm) ──────────▶ DOWN ──────────────────▶ WARMING ──────────────────▶ SETTLING ────────▶ (warm)
                        ▲                       ▲     │
                        │ down             later│     │ the warm-up failed
                        └────────── any    at once, when the pid is new
                                                │     ▼
                                                FAILED

DOWN, WARMING and FAILED are *cold*: closed, as far as the group can bear it. SETTLING is open, and its pid stands in
the ledger; one that was never closed has nothing to settle. What a rollout has in hand is not the guard's: it gets it back
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

Answers come from the present, as in ``machine.py``. ``seen.at`` is the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from supervisor_rolling.core.hook_steps import warmup_job
from supervisor_rolling.core.model import (
    Change,
    GatePolicy,
    Member,
    Policy,
    Process,
    Rollout,
    Seen,
    Stage,
    Status,
    Ward,
    WarmupJob,
    Watch,
)
from supervisor_rolling.core.natural_order import natural
from supervisor_rolling.core.share import limit_for
from supervisor_rolling.core.stages import ALIVE, CLOSED_STAGES, HAND_PATIENCE, LATE_WORDS, cold_text, state_text

Ports = Mapping[str, tuple[int, ...]]

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


def advance(watch: Watch, seen: Seen, ports: Ports, rollout: Rollout | None) -> Watch:
    """The watch after one look. ``ports`` of every process of the group: one that has none cannot be guarded.
    ``rollout`` is the group's rollout, running or ended."""
    held = _held_by(rollout, seen.processes)
    known = {ward.name: _excused(ward, seen) for ward in watch.wards}
    found = {name: ward for name, ward in known.items() if name in held and _is_to_be_noted(ward, seen)}
    for name, process in seen.processes.items():
        if process.warm and process.state in ALIVE and name not in known:
            continue  # as nearly all are, at nearly every look
        if name in ports and ports[name] and name not in held:
            ward = _step(known.get(name), process, ports[name], watch, seen)
            ward = _handed_over(ward, process, rollout, seen) if ward and name not in known else ward
            if ward:
                found[name] = ward
    found = _one_at_a_time(found, known)
    return replace(watch, wards=_shut(found, watch, seen, ports, held)) if found or watch.wards else watch


def begin(empty: Watch, processes: Mapping[str, Process], ports: Ports, at: float) -> Watch:
    """The watch of a group that nobody guarded before: what has run for long is warm, the rest will be found cold."""
    old = [p for p in processes.values() if p.state == "RUNNING" and not p.warm and p.up_for >= WARMED_BY_USERS]
    wards = tuple(
        Ward(p.name, ports[p.name], Stage.OPEN, at, pid=p.pid, spawned=p.spawned) for p in old if ports.get(p.name)
    )
    return replace(empty, wards=wards)


def by_policy(watch: Watch, policy: Policy, gate: GatePolicy, at: float) -> Watch:
    """The watch by the policy of now: warm-ups by another one begin anew, and what failed by it is tried at once."""
    before, now = ((one.warmup, one.hooks.after_warmup) for one in (watch.policy, policy))
    wards = watch.wards if before == now else tuple(_anew(ward, at) for ward in watch.wards)
    return replace(watch, policy=policy, gate=gate, wards=wards)


def heard(process: Process, change: Change) -> Process:
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


def closed(watch: Watch) -> dict[int, str]:
    """The ports that the guard has closed, each with a comment for whoever lists the rules."""
    return {
        port: f"supervisor_rolling {watch.group}:{ward.name} (guard)"
        for ward in watch.wards
        if ward.closed
        for port in ward.ports
    }


def jobs(watch: Watch) -> dict[str, WarmupJob]:
    """The processes that must be warmed now, by name."""
    return {ward.name: warmup_job(watch, ward) for ward in watch.wards if ward.stage is Stage.WARMING}


# --- one process


def _step(ward: Ward | None, process: Process, ports: tuple[int, ...], watch: Watch, seen: Seen) -> Ward | None:
    """The ward that a process is now; None when it is warm and open."""
    if process.state not in ALIVE or not process.pid:
        return _down(ward, process, ports, seen)
    if ward is None or ward.stage is Stage.DOWN or ward.incarnation != process.incarnation:
        return None if process.warm else _new(ward, process, ports, seen)
    ward = replace(ward, ports=ports)
    if process.warm:
        settles = ward.stage is Stage.SETTLING and seen.at - ward.since < watch.policy.settle
        return ward if settles else None
    if ward.stage is Stage.SETTLING and seen.at > ward.since:
        return _to(ward, Stage.SETTLING, seen)  # the ledger did not get it: written anew, it will
    if ward.stage is Stage.FAILED:
        return _to(ward, Stage.WARMING, seen) if seen.at >= ward.retry_at else ward
    return _warming(ward, process, watch, seen) if ward.stage is Stage.WARMING else ward


def _anew(ward: Ward, at: float) -> Ward:
    if ward.stage is Stage.FAILED:
        return replace(ward, tries=1, retry_at=at)
    return replace(ward, since=at) if ward.stage is Stage.WARMING else ward


def _excused(ward: Ward, seen: Seen) -> Ward:
    """Where nobody looked for a while, a listener was away: its warm-ups ended with it, and begin anew."""
    return replace(ward, since=seen.at) if seen.gap and ward.stage is Stage.WARMING else ward


def _one_at_a_time(found: dict[str, Ward], known: Mapping[str, Ward]) -> dict[str, Ward]:
    """Of those that are open and whose warm-up failed before, at most one is tried again at a time."""
    retried = [ward for ward in found.values() if ward.stage is Stage.WARMING and ward.tries and not ward.closed]
    new = [ward for ward in retried if ward.name in known and known[ward.name].stage is Stage.FAILED]
    new.sort(key=lambda ward: known[ward.name].retry_at)
    wait = new if len(new) < len(retried) else new[1:]
    return {**found, **{ward.name: replace(known[ward.name], ports=ward.ports) for ward in wait}} if wait else found


def _is_to_be_noted(ward: Ward, seen: Seen) -> bool:
    """Whether it was found warm, and the ledger does not have it yet."""
    process = seen.processes.get(ward.name)
    is_there = process is not None and process.incarnation == ward.incarnation and not process.warm
    return ward.stage is Stage.OPEN and is_there


def _down(ward: Ward | None, process: Process, ports: tuple[int, ...], seen: Seen) -> Ward:
    if ward is not None and ward.stage is Stage.DOWN:
        return replace(ward, ports=ports)
    was_closed = ward is not None and ward.closed
    return Ward(process.name, ports, Stage.DOWN, seen.at, was_closed)


def _new(ward: Ward | None, process: Process, ports: tuple[int, ...], seen: Seen) -> Ward:
    was_closed = ward is not None and ward.closed
    return Ward(process.name, ports, Stage.WARMING, seen.at, was_closed, process.pid, spawned=process.spawned)


def _warming(ward: Ward, process: Process, watch: Watch, seen: Seen) -> Ward:
    warmth = seen.warmths.get(ward.name)
    if warmth is None or warmth.incarnation != ward.incarnation:
        return ward
    if warmth.state in ("failed", "late"):
        return _failed(ward, cold_text(warmth, watch.policy.warmup), seen)
    if warmth.state == "warm" and process.state == "RUNNING":
        ward = replace(ward, requests=warmth.requests, first_ms=warmth.first_ms, last_ms=warmth.last_ms, problem="")
        return _to(ward, Stage.SETTLING if ward.closed else Stage.OPEN, seen)
    if warmth.state == "warming" and seen.at - ward.since - warmth.queued >= watch.policy.warmup.timeout + LATE_WORDS:
        late = replace(warmth, state="late", why=warmth.why or state_text(process))
        return _failed(ward, cold_text(late, watch.policy.warmup), seen)
    return ward


def _failed(ward: Ward, problem: str, seen: Seen) -> Ward:
    first, longest = (FIRST_RETRY, LONGEST_RETRY) if ward.closed else (FIRST_OPEN_RETRY, LONGEST_OPEN_RETRY)
    pause = min(longest, first * 2.0 ** min(ward.tries, 10))
    return replace(_to(ward, Stage.FAILED, seen), tries=ward.tries + 1, retry_at=seen.at + pause, problem=problem)


def _to(ward: Ward, stage: Stage, seen: Seen) -> Ward:
    return replace(ward, stage=stage, since=seen.at)


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


def _handed_over(ward: Ward, process: Process, rollout: Rollout | None, seen: Seen) -> Ward:
    """What a rollout that is over left failed goes on as it was: closed, and tried again after a pause."""
    if rollout is None or rollout.status is Status.RUNNING or ward.stage is not Stage.WARMING:
        return ward
    left = next((m for m in rollout.members if m.name == ward.name and m.stage is Stage.FAILED), None)
    if left is None or left.new != process.incarnation:
        return ward
    return _failed(replace(ward, closed=True), left.why, seen)


def _shut(
    wards: Mapping[str, Ward], watch: Watch, seen: Seen, ports: Ports, held: Mapping[str, bool]
) -> tuple[Ward, ...]:
    """The wards, each with its gate as it shall be, in natural order."""
    if not wards:
        return ()
    there = [name for name, process in seen.processes.items() if ports.get(name) and not _is_gone(process)]
    limit = limit_for(watch.policy.guard.max_closed, len(there))
    serves = _is_one_warm_and_open(wards, seen, ports, held)
    by_rollout = sum(held.values())
    count = 0
    decided: list[Ward] = []
    for ward in sorted(wards.values(), key=lambda ward: (not ward.closed, ward.since, natural(ward.name))):
        process = seen.processes[ward.name]
        counts = ward.stage in COLD and not _is_gone(process)
        is_room = count < limit if ward.closed else count + by_rollout < limit
        shut = ward.stage in COLD and serves and (is_room or not counts)
        count += counts and shut
        because = "" if shut else _open_text(watch, serves)
        if shut and not ward.closed and ward.stage is Stage.FAILED:
            ward = replace(ward, retry_at=min(ward.retry_at, seen.at + FIRST_RETRY))
        decided.append(replace(ward, closed=shut, why=_why(ward, process, because, seen)))
    return tuple(sorted(decided, key=lambda ward: natural(ward.name)))


def _is_one_warm_and_open(wards: Mapping[str, Ward], seen: Seen, ports: Ports, held: Mapping[str, bool]) -> bool:
    return any(
        process.state == "RUNNING" and name not in held and (name not in wards or wards[name].stage is Stage.OPEN)
        for name, process in seen.processes.items()
        if ports.get(name)
    )


def _is_gone(process: Process) -> bool:
    return process.state in GONE or (process.state == "EXITED" and process.down_for >= HAND_PATIENCE)


# --- sentences


def _why(ward: Ward, process: Process, because: str, seen: Seen) -> str:
    """Why a ward stands where it stands, for ``rolling_status``. ``because``: why it is open; empty where it is not."""
    if ward.stage not in COLD:
        return ""
    if ward.stage is Stage.DOWN:
        fate = f"serves before it is warm, {because}" if because else "is to be kept closed until it is warm"
        held = seen.held.get(ward.name)
        text = f"{state_text(process)}: the next one {fate}{f'; {held}' if held else ''}"
    else:
        cold = _cold_text(ward, seen)
        text = f"{cold}; open all the same, {because}" if because else cold
    is_open = not because and not seen.closed.keys() >= set(ward.ports)
    return f"{text}; its port is not closed yet: {seen.gate_problem}" if seen.gate_problem and is_open else text


def _cold_text(ward: Ward, seen: Seen) -> str:
    if ward.problem:
        return ward.problem if ward.stage is Stage.FAILED else f"tried again, it {ward.problem}"
    warmth = seen.warmths.get(ward.name)
    is_long = warmth is not None and warmth.incarnation == ward.incarnation and seen.at - ward.since >= SHOWN_AFTER
    return f"{NEW}: {warmth.why}" if warmth and warmth.why and is_long else NEW


def _open_text(watch: Watch, serves: bool) -> str:
    if not serves:
        return "because none of the group is warm and open"
    share = watch.policy.guard.max_closed
    most = f"{share.number}" if share.number else f"{share.percent:g}%"
    return f"because no more may be closed (guard.max_closed: {most})"
