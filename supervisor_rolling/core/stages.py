"""One process on its way through a rollout: the diagram in ``machine.py``, one function for each stage.

``step`` takes a member of a rollout and what a look found, and gives the member as it stands now. It makes one move at
a time, changes nothing where nothing has to be, and gives every wait a deadline. ``action`` says what supervisord must
do for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Callable

from supervisor_rolling.core.actions import Action, Verb
from supervisor_rolling.core.connections import Connection, KeepaliveReuse
from supervisor_rolling.core.endpoint import Endpoint, described
from supervisor_rolling.core.jobs import WarmupStatus
from supervisor_rolling.core.lingering import aged, count_text, left_texts
from supervisor_rolling.core.nginx_config import NO_POOL
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import DrainPolicy, Policy, WarmupPolicy
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.proxy_config import PROGRAMS
from supervisor_rolling.core.rollout import Member, Rollout, Stage
from supervisor_rolling.core.text import printable
from supervisor_rolling.core.transitions import to

ALIVE = frozenset({"STARTING", "RUNNING"})
STARTABLE = frozenset({"STOPPED", "EXITED", "FATAL"})
DOWN = frozenset({"BACKOFF", "FATAL", "EXITED"})  # serves nobody, and not because an operator wanted it
NOT_UP = frozenset({"STOPPED", "STOPPING", "UNKNOWN"})  # serves nobody, and somebody or something wanted it

CLOSED_STAGES = frozenset({Stage.DRAINING, Stage.RESTARTING, Stage.WARMING, Stage.FAILED})
UNDER_WAY = frozenset({Stage.DRAINING, Stage.RESTARTING, Stage.WARMING, Stage.READY})

POOL_REFUSED = ("refuse", "application")
"""Of ``drain.keepalive``: with these a rollout ends where requests still come over a pool."""

GATE_PATIENCE = 10.0
"""Seconds to wait for a gate that does not close: longer than another tool holds the xtables lock, shorter than an
operator's patience."""

LEAST_DRAIN = 0.02
"""Seconds behind a closed gate: enough for a second look, without which nobody who comes through it can be seen."""

SEALED_PATIENCE = 3.0
"""Seconds in which a process that answers in TLS or HTTP/2 may show an answer in plain HTTP/1.1 as well."""

MANUAL_STOP_GRACE = 3.0
"""Seconds after which a process that is down without our order is taken for stopped by hand, and not for the middle of
a ``supervisorctl restart``."""


WARMUP_REPORT_GRACE = 0.5
"""Seconds beyond its deadline that a warm-up is waited for. It began a moment after the stage did, ends itself, and
says better than anybody what kept it."""


REUSE_PATIENCE = 1.0
"""Seconds behind a closed gate before a keepalive pool is refused: one that runs dry by itself, because the application
closes its connections, has its chance; and there is something to count."""

REUSE_TIMES = 3
"""Requests over one connection behind a closed gate. An application that closes its connections while it drains may
have been too late to say so in its first answer, but not in the second."""

SOON = 60.0
"""Seconds of service after which nobody would set startsecs so high that a death is found before it."""


def step(member: Member, rollout: Rollout, observed: Observation) -> Member:
    """The member after one look."""
    process = observed.processes.get(member.name)
    if process is None:
        return _left_alone(member, observed, "is gone from supervisord's configuration")
    if _was_stopped_by_hand(member, process):
        return _left_alone(member, observed, "was stopped by hand and is left so")
    if member.name in observed.dead and not _is_long_dead(member, rollout, observed):
        return member
    return _STEPS[member.stage](member, process, rollout, observed)


def _was_stopped_by_hand(member: Member, process: Process) -> bool:
    """Whether it is down for good by an order that was not the rollout's."""
    is_new = member.stage is Stage.RESTARTING and process.spawned != member.old_spawned
    is_watched = member.stage in (Stage.DRAINING, Stage.WARMING, Stage.READY) or is_new
    is_down = process.state == "STOPPED" and process.down_for >= MANUAL_STOP_GRACE
    return is_watched and is_down and process.is_stopped_by_other


def _is_long_dead(member: Member, rollout: Rollout, observed: Observation) -> bool:
    """Whether supervisord has had the time of a restart to come round to a death, so that it has lost track of it."""
    return member.stage in UNDER_WAY and observed.at - observed.dead[member.name] >= rollout.policy.restart.timeout


def _open(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    return _watch(member, process, observed) if member.replaced else member


def _draining(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    if rollout.aborting:
        return replace(_back(member, observed), attempted=False)
    if process.is_stopped_by_other or process.state == "UNKNOWN":
        return _up_in_time(member, process, rollout, observed)
    if process.incarnation != member.old or process.state in DOWN:
        return _died_draining(member, process, rollout, observed)
    if member.name in observed.leaks:
        return _failed_back(member, observed, _leak_text(member, rollout.gate.backend, observed.leaks[member.name]))
    return _drain(member, rollout, observed)


def _died_draining(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    """One that died of being told is brought back, and no other is told: the next one would die as well."""
    after, signal = _drained(member, observed), rollout.policy.drain.signal
    if not signal or member.name not in observed.told or process.told_to_stop or member.failed:
        return after
    return replace(after, failed=True, why=_signalled_text(signal))


def _up_in_time(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    timeout = rollout.policy.restart.timeout
    if observed.at - member.since < timeout:
        return member
    return _failed_back(member, observed, f"was left alone, because it is {process.state} for {timeout:g} s")


def _drain(member: Member, rollout: Rollout, observed: Observation) -> Member:
    left = observed.connections.get(member.name)
    waited = drained_for(member, observed.at, observed.closed)
    if waited < 0 or left is None:
        return _gate_in_time(member, observed)
    overdue = is_overdue(member, observed.at, observed.closed, rollout.policy.drain)
    if (
        left == 0
        and waited >= max(rollout.policy.drain.min_seconds, LEAST_DRAIN)
        and (overdue or member.name not in observed.telling)
    ):
        return _drained(member, observed)
    if rollout.policy.drain.keepalive == "nginx":
        member = _pooled(member, rollout, observed, waited)
        if member.stage is not Stage.DRAINING:
            return member
    reuse = observed.reuses.get(member.name, KeepaliveReuse())
    if rollout.policy.drain.keepalive in POOL_REFUSED and _is_pool(reuse, waited, overdue):
        return _failed_back(member, observed, _reuse_text(member, reuse))
    member = replace(member, lingering_connections=left)
    return _outlasted(member, rollout, observed) if overdue else member


def _pooled(member: Member, rollout: Rollout, observed: Observation, waited: float) -> Member:
    """One whose pooled connections are closed after their next answer. Those that nginx does not pick again stay, and
    are idle when nothing has moved for ``drain.idle_after`` behind the closed gate: before it, nginx may
    still use them."""
    policy = rollout.policy.drain
    if min(waited, observed.silent.get(member.name, 0.0)) >= max(policy.idle_after, policy.min_seconds):
        return _drained_but(member, observed, waited)
    if member.name in observed.sealed and waited >= SEALED_PATIENCE:
        return _failed_back(member, observed, _sealed_text(member))
    if member.name in observed.reuses:
        return _failed_back(member, observed, _kept_text(member, observed.reuses[member.name]))
    return member


def _is_pool(reuse: KeepaliveReuse, waited: float, is_over: bool) -> bool:
    """Whether a restart would cost requests: the old connections are used on and on. When the drain's time is over,
    even by little: there has been time to stop."""
    return reuse.most >= (2 if is_over else REUSE_TIMES) and (is_over or waited >= REUSE_PATIENCE)


def drained_for(member: Member, at: float, closed: Mapping[Endpoint, float]) -> float:
    """For how many seconds a process drains at the moment ``at``; below 0 while its gate is not known closed. A gate
    that was open meanwhile lets the wait begin anew."""
    closed_at = closed_since(member, closed)
    return at - max(member.since, closed_at) if closed_at <= at else -math.inf


def is_overdue(member: Member, at: float, closed: Mapping[Endpoint, float], policy: DrainPolicy) -> bool:
    """Whether a drain has lasted as long as it may. One that an earlier failure kept closed drains since then: what is
    left is mostly the warm-up that it never answered."""
    waited = drained_for(member, at, closed)
    lasted = at - closed_since(member, closed) if member.was_closed else waited
    return waited >= LEAST_DRAIN and lasted >= policy.timeout


def _outlasted(member: Member, rollout: Rollout, observed: Observation) -> Member:
    """Whoever is left has been there since this drain began behind its gate: one who came later is a leak."""
    waited = drained_for(member, observed.at, observed.closed)
    if rollout.policy.drain.on_timeout == "fail" and not member.was_closed:
        member = replace(member, oldest_lingering=_oldest_left(member, observed, waited))
        return _failed_back(member, observed, _outlasted_text(member, rollout))
    return _drained_but(member, observed, waited)


def _drained_but(member: Member, observed: Observation, waited: float) -> Member:
    """The member whose drain is over while connections are left, which the restart ends."""
    left, told = observed.connections[member.name], _oldest_left(member, observed, waited)
    return replace(_drained(member, observed), lingering_connections=left, oldest_lingering=told)


def _oldest_left(member: Member, observed: Observation, waited: float) -> tuple[Connection, ...]:
    return aged(observed.oldest.get(member.name, ()), waited)


def _gate_in_time(member: Member, observed: Observation) -> Member:
    """One look that fails in the middle of a drain, because somebody holds the lock, is no reason."""
    if observed.at - observed.unclosed.get(member.name, observed.at) < GATE_PATIENCE:
        return member
    reason = observed.gate_problem or "the kernel does not show the rule"
    return _failed_back(member, observed, f"its gate could not be closed within {GATE_PATIENCE:g} s: {reason}")


def _restarting(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    if process.pid and process.incarnation != member.old and process.state in ALIVE:
        return _to_warming(member, process, observed)
    if still_runs(member, process) and closed_since(member, observed.closed) > member.since:
        return to(member, Stage.DRAINING, observed)  # open meanwhile, or a new listener cannot know: drain again
    if _was_overtaken(member, process):
        return to(member, Stage.DRAINING, observed)
    refusal = observed.refusals.get(member.name)
    if refusal:
        return _failed(member, observed, f"supervisord refuses the order to {refusal}")
    if process.state == "STOPPING" and process.incarnation == member.old:
        return _stopping(member, process, rollout, observed)
    return _starting(_stopped(member, process, rollout, observed), process, rollout, observed)


def _was_overtaken(member: Member, process: Process) -> bool:
    """Whether another client stopped the old one before the rollout did, and may wait for that: the rollout must not
    start it. What an earlier failure has left STOPPED was so before it left."""
    was_left_so = member.was_closed and not member.old_pid
    return process.is_stopped_by_other and process.spawned == member.old_spawned and not was_left_so


def _stopping(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    """Told to stop. What does not is killed by supervisord, and then started as any: this rollout has stopped it. The
    order may have come late: how long the stop takes is what supervisord says."""
    waited, timeout = process.stop_took, rollout.policy.restart.timeout
    within = _stop_within(process, timeout)
    if waited >= within + timeout:
        return _failed(member, observed, _unkilled_text(process, waited))
    return _unstopped(member, process, rollout) if waited >= within else member


def _stop_within(process: Process, timeout: float) -> float:
    """Seconds after which it is killed. Where nobody knows, or supervisord was told another number since the rollout
    began, which a rollout that begins would refuse, restart.timeout bounds it: no rollout runs for longer than it
    says."""
    return min(process.stopwaitsecs or timeout, timeout)


def _unstopped(member: Member, process: Process, rollout: Rollout) -> Member:
    """One that has to be killed: the rollout has failed on it, unless that was accepted."""
    if member.failed or _is_kill_accepted(member, rollout.policy):
        return member
    return replace(member, failed=True, why=_unstopped_text(process, rollout.policy.restart.timeout))


def _is_kill_accepted(member: Member, policy: Policy) -> bool:
    """Whether the policy accepts that requests may be lost with it, or there are none: one that was kept closed,
    because an earlier deploy failed on it, serves no users. What an idle pool leaves is no request."""
    is_idle = policy.drain.keepalive == "nginx" and member.timing.drained < policy.drain.timeout
    is_cut = member.lingering_connections > 0 and not is_idle
    return policy.restart.on_kill == "continue" or is_cut or member.was_closed


def _stopped(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    """The old process, if it is down; a kill is known by how long it took, because supervisord does not tell."""
    if member.stopped_at or process.state in ALIVE or process.state == "STOPPING":
        return member
    took = observed.at - member.since
    killed = 0 < process.stopwaitsecs <= process.stop_took
    member = replace(member, stopped_at=observed.at, killed=killed, timing=replace(member.timing, stopped=took))
    return _unstopped(member, process, rollout) if killed else member


def _starting(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    spawned_again = process.spawned != member.old_spawned
    if spawned_again and is_down_for_good(process):
        return _failed(member, observed, f"did not come up: {_fall_text(member, process, observed)}")
    is_due = not spawned_again and process.state in STARTABLE and member.name not in observed.dead
    began = member.stopped_at or member.since  # a new process has its own patience, however long the old one took
    if not is_due and observed.at - began >= rollout.policy.restart.timeout:
        text = f"was not restarted within {rollout.policy.restart.timeout:g} s (restart.timeout)"
        return _failed(member, observed, f"{text}: {_fall_text(member, process, observed)}")
    return member


def _warming(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    if process.is_stopped_by_other:
        return _stopped_in_time(member, process, rollout, observed)
    if process.pid and process.incarnation != member.new and process.state in ALIVE:
        return _warmed_again(member, process, observed)
    if is_down_for_good(process):
        return _failed(member, observed, f"went down while it was warmed up: {_fall_text(member, process, observed)}")
    warmup_status = observed.warmups.get(member.name)
    if warmup_status is None or warmup_status.incarnation != process.incarnation:
        return _warm_in_time(
            member, rollout, observed, WarmupStatus(process.pid, "late", why=_fall_text(member, process, observed))
        )
    member = replace(
        member, requests=warmup_status.requests, first_ms=warmup_status.first_ms, last_ms=warmup_status.last_ms
    )
    member = replace(member, latencies=warmup_status.latencies, statuses=warmup_status.statuses)
    if warmup_status.state == "warm":
        return _warm(member, process, rollout, observed)
    if warmup_status.state == "failed":
        return _not_warm(member, rollout, observed, warmup_status)
    return _warm_in_time(
        member, rollout, observed, replace(warmup_status, why=warmup_status.why or state_text(process))
    )


def _stopped_in_time(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    """Another client stops it: whether that leaves it stopped or starts it again is seen when it is down, which may
    take longer than a warm-up has time."""
    timeout = rollout.policy.restart.timeout
    within = rollout.policy.warmup.timeout + _stop_within(process, timeout) + timeout
    if process.state == "STOPPED" or observed.at - member.since < within:
        return member
    return _failed(member, observed, _unkilled_text(process, observed.at - member.since))


def _warmed_again(member: Member, process: Process, observed: Observation) -> Member:
    """Another incarnation: it is warmed instead. It has the time that is left; when another client has restarted it,
    all of it."""
    member = replace(member, pid=process.pid, spawned=process.spawned)
    if process.told_to_stop:
        return to(member, Stage.WARMING, observed)
    return replace(member, deaths=member.deaths + 1)


def _warm(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    if process.state == "RUNNING":
        timing = replace(member.timing, warmed=observed.at - member.since)
        return replace(to(member, Stage.READY, observed), timing=timing)
    if observed.at - member.since >= rollout.policy.restart.timeout:
        text = f"is warm but not RUNNING after {rollout.policy.restart.timeout:g} s: startsecs is above restart.timeout"
        return _failed(member, observed, f"{text}, raise that")
    return member


def _warm_in_time(member: Member, rollout: Rollout, observed: Observation, warmup_status: WarmupStatus) -> Member:
    patience = rollout.policy.warmup.timeout + (WARMUP_REPORT_GRACE if warmup_status.state == "warming" else 0.0)
    if observed.at - member.since - warmup_status.queued < patience:
        return member
    return _not_warm(member, rollout, observed, replace(warmup_status, state="late"))


def _not_warm(member: Member, rollout: Rollout, observed: Observation, warmup_status: WarmupStatus) -> Member:
    times = "once" if member.deaths == 1 else f"{member.deaths} times"
    died = f"; it died {times} meanwhile" if member.deaths else ""
    return _failed(member, observed, cold_text(warmup_status, rollout.policy.warmup) + died)


def cold_text(warmup_status: WarmupStatus, policy: WarmupPolicy) -> str:
    """What is wrong with a process whose warm-up has failed, or was not done in time."""
    after = f" after {policy.timeout:g} s (warmup.timeout)" if warmup_status.state == "late" else ""
    return f"is not warm{after}: {warmup_status.why}"


def _settling(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    if not _is_as_opened(member, process) or observed.at - member.since < rollout.policy.min_ready_seconds:
        return _watch(member, process, observed)
    timing = replace(member.timing, ready=observed.at - member.since)
    return replace(to(member, Stage.OPEN, observed), replaced=True, timing=timing)


def _watch(member: Member, process: Process, observed: Observation) -> Member:
    """A process that this rollout has opened: when it dies the rollout has failed on it, and to close it and warm it
    again is the guard's work. One that somebody restarts is not replaced before that one is warm."""
    known = not member.pid or (member.failed and member.stage is Stage.OPEN)
    if known or _is_as_opened(member, process) or process.state in ("STOPPING", "STOPPED"):
        return member
    if process.told_to_stop and process.pid and process.state in ALIVE:
        timing = replace(member.timing, warmed=0.0, ready=0.0)
        member = replace(member, pid=process.pid, spawned=process.spawned, replaced=False, timing=timing)
        return to(member, Stage.WARMING, observed)
    why = _then(member, _death_text(member, process, observed.at - member.since + member.timing.ready))
    return replace(to(member, Stage.OPEN, observed), failed=True, why=why)


def _is_as_opened(member: Member, process: Process) -> bool:
    return process.incarnation == member.new and process.state == "RUNNING"


def _stay(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    return member


_STEPS: Mapping[Stage, Callable[[Member, Process, Rollout, Observation], Member]] = {
    Stage.OPEN: _open,
    Stage.DRAINING: _draining,
    Stage.RESTARTING: _restarting,
    Stage.WARMING: _warming,
    Stage.READY: _settling,
    Stage.FAILED: _stay,
}


def _drained(member: Member, observed: Observation) -> Member:
    timing = replace(member.timing, drained=observed.at - member.since)
    return replace(to(member, Stage.RESTARTING, observed), timing=timing, lingering_connections=0, oldest_lingering=())


def _to_warming(member: Member, process: Process, observed: Observation) -> Member:
    down_at = member.stopped_at or observed.at
    stopped = member.timing.stopped or observed.at - member.since
    timing = replace(member.timing, stopped=stopped, started=observed.at - down_at)
    new = replace(member, pid=process.pid, spawned=process.spawned, stopped_at=down_at, timing=timing)
    return to(new, Stage.WARMING, observed)


def _failed(member: Member, observed: Observation, why: str) -> Member:
    return replace(to(member, Stage.FAILED, observed), failed=True, why=_then(member, why))


def _then(member: Member, why: str) -> str:
    """What is to be said of a member, after what the rollout has failed on already."""
    return f"{member.why}; then {why}" if member.failed else why


def _back(member: Member, observed: Observation) -> Member:
    """Where it was before it left: one that was kept closed is not opened as it is."""
    return to(member, Stage.FAILED if member.was_closed else Stage.OPEN, observed)


def _failed_back(member: Member, observed: Observation, why: str) -> Member:
    return replace(_back(member, observed), failed=True, why=why)


def _left_alone(member: Member, observed: Observation, why: str) -> Member:
    is_alone = not member.selected and member.stage is Stage.OPEN
    return member if is_alone else replace(to(member, Stage.OPEN, observed), selected=False, why=_then(member, why))


def closed_since(member: Member, closed: Mapping[Endpoint, float]) -> float:
    """Since when all endpoints of a process have been closed without a gap; infinity where one is open."""
    return max((closed.get(endpoint, math.inf) for endpoint in member.endpoints), default=-math.inf)


def still_runs(member: Member, process: Process) -> bool:
    """Whether the incarnation that is to be replaced is there and has not been told to stop."""
    return bool(process.pid) and process.incarnation == member.old and process.state in ALIVE


def is_down_for_good(process: Process) -> bool:
    """Whether supervisord will not start it again by itself."""
    lasting = process.state in ("EXITED", "STOPPED") and process.down_for >= MANUAL_STOP_GRACE
    return process.state == "FATAL" or lasting


def is_kept_down(process: Process) -> bool:
    """Whether it cannot come up: it has tried, or has been down for too long."""
    return process.state == "BACKOFF" or is_down_for_good(process)


def state_text(process: Process) -> str:
    """What supervisord says of a process that is not as it should be."""
    return f"{process.state}: {process.spawn_error}" if process.spawn_error else f"it is {process.state}"


def _fall_text(member: Member, process: Process, observed: Observation) -> str:
    """What supervisord says, and which process holds its port, if that keeps it down."""
    held = observed.held.get(member.name)
    return f"{state_text(process)}; {held}" if held else state_text(process)


def _death_text(member: Member, process: Process, lived: float) -> str:
    is_back = process.pid and process.incarnation != member.new
    now = "it was started again" if is_back else state_text(process)
    text = f"died {lived:.1f} s after it came back: {now}"
    return f"{text}; a larger startsecs keeps one closed that dies so soon" if lived < SOON else text


def _unstopped_text(process: Process, timeout: float) -> str:
    waits = process.stopwaitsecs
    late = f"{timeout:g} s (restart.timeout), so supervisord kills it after its stopwaitsecs"
    how = f"{waits:g} s (stopwaitsecs), so supervisord kills it" if 0 < waits <= timeout else late
    return (
        f"did not stop within {how} and the rollout brings it back. Mend how it stops, or "
        "raise stopwaitsecs; to go on with those that still run, accept it: restart: {on_kill: continue} in its policy"
    )


def _unkilled_text(process: Process, waited: float) -> str:
    killed = ", and SIGKILL should have ended it" if 0 < process.stopwaitsecs <= waited else ""
    return (
        f"is still STOPPING after {waited:.0f} s{killed}: look at its pid {process.pid}, and start it when that is gone"
    )


def _signalled_text(signal: str) -> str:
    return (
        f"died in its drain, when it had been told by {signal} (drain.signal): it seems to have no handler for that, "
        "and what it was answering is lost. The rollout brings it back: give it a handler, or take drain.signal away"
    )


def _leak_text(member: Member, backend: str, peer: str) -> str:
    where = described(member.endpoints)
    if backend == "haproxy":
        return (
            f"still gets requests that HAProxy's backend does not know of (from {peer} to {where}), so it was not "
            "stopped: another backend of HAProxy, or another load balancer, sends to it. Name the right one in "
            "gate.backend_name, and let it be the only one"
        )
    return (
        f"still gets new connections through its closed gate (from {peer} to {where}), so it was not stopped: "
        "look for a firewall rule that accepts them before ours (iptables-legacy -S INPUT), or that marks or redirects "
        "them (iptables-legacy-save, nft list ruleset)"
    )


def _sealed_text(member: Member) -> str:
    where = described(member.endpoints)
    return (
        f"answers on the old connections to {where} in TLS or HTTP/2, where nginx cannot be told to close them "
        "(drain.keepalive: nginx), so it was not stopped and goes on serving. Fix: in nginx's upstream, "
        f"{NO_POOL}; or proxy_pass to it in plain HTTP"
    )


def _reuse_text(member: Member, reuse: KeepaliveReuse) -> str:
    where = described(member.endpoints)
    return (
        f"still receives requests on keep-alive connections opened before its port was closed ({reuse.requests} in "
        f"{reuse.seconds:.1f} s over {count_text(reuse.connections)}, from {_peer_text(reuse)} to {where}), so it "
        f"was not stopped: a restart would cut off these requests. Fix, one of: {_pool_fix(reuse.program)}; the "
        "middleware supervisor_rolling.wsgi or .asgi in the application, which closes them while it drains; or accept "
        "it: drain: {keepalive: ignore}"
    )


def _kept_text(member: Member, reuse: KeepaliveReuse) -> str:
    where = described(member.endpoints)
    return (
        f"receives requests on connections that were told to close by an HTTP/1.0 answer (from {_peer_text(reuse)} to "
        f"{where}): drain.keepalive is nginx, and this is not nginx, so it was not stopped and its port is open "
        f"again. Fix, one of: {_pool_fix(reuse.program)}; the middleware supervisor_rolling.wsgi or .asgi in the "
        "application, with drain: {keepalive: application}"
    )


def _peer_text(reuse: KeepaliveReuse) -> str:
    program = PROGRAMS.get(reuse.program)
    name = program.title if program else printable(reuse.program)
    return f"{name} at {reuse.peer}" if name else reuse.peer


def _pool_fix(name: str) -> str:
    """What makes a load balancer keep no connections, or copes with them; of all that are known where it is not."""
    program = PROGRAMS.get(name)
    if program and program.pool_fix:
        return f"for {program.title}: {program.pool_fix}"
    return f"no keep-alive in the load balancer: for nginx, {NO_POOL}, or in the policy drain: {{keepalive: nginx}}"


def _outlasted_text(member: Member, rollout: Rollout) -> str:
    where = described(member.endpoints)
    left, told = (
        member.lingering_connections,
        "; ".join(left_texts(member.lingering_connections, member.oldest_lingering)),
    )
    return (
        f"still had {count_text(left)} to {where} after {rollout.policy.drain.timeout:g} s of drain"
        f"{f' ({told})' if told else ''}, so it was not stopped and goes on serving (drain.on_timeout: fail): "
        "wait until they end, end them, or raise drain.timeout"
    )


def action(member: Member, observed: Observation, closed: Mapping[Endpoint, float]) -> Action | None:
    """What supervisord must be told now to bring a RESTARTING member on, if anything.

    ``closed`` is what the gate said after the rollout was recorded. A process that runs is stopped only if its
    gate is known to have been closed since before the look that found it drained; one that is down is started behind
    a closed gate, but not left down for ever where the gate does not work. What has died is started when supervisord
    says that it is down: whoever stopped it meanwhile, and waits for that, would wait for ever.
    """
    process = observed.processes.get(member.name)
    if process is None or member.name in observed.dead:
        return None
    since = closed_since(member, closed)
    if still_runs(member, process):
        return Action(Verb.STOP, member.name, process.incarnation) if since <= member.since else None
    if process.spawned != member.old_spawned:
        return None  # started again already
    if process.state == "BACKOFF":
        return Action(Verb.STOP, member.name, process.incarnation)
    if process.state in STARTABLE:
        waited_long = member.stopped_at and observed.at - member.stopped_at >= GATE_PATIENCE
        return Action(Verb.START, member.name, process.incarnation) if since <= observed.at or waited_long else None
    return None


def notice(member: Member, rollout: Rollout, observed: Observation, closed: Mapping[Endpoint, float]) -> Action | None:
    """The signal that a DRAINING member must be sent now, if any: once, behind a gate that is known to be closed.

    Nobody is there to be told where the process is down or has died. One that is STARTING may not have its handler yet,
    and would die of the signal; one that was kept closed has no users to send away.
    """
    process, selected = observed.processes.get(member.name), rollout.policy.drain.signal
    if not selected or member.name in observed.told or member.name in observed.dead:
        return None
    return Action(Verb.SIGNAL, member.name, member.old, selected) if can_be_told(member, process, closed) else None


def can_be_told(member: Member, process: Process | None, closed: Mapping[Endpoint, float]) -> bool:
    """Whether a DRAINING member is there to be told that it drains, behind a closed gate."""
    is_there = process is not None and process.state == "RUNNING" and process.incarnation == member.old
    return is_there and not member.was_closed and closed_since(member, closed) < math.inf
