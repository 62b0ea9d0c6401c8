"""The stage DRAINING: the port is closed, and the process finishes what it has.

It ends when no connection is left, or at ``drain.timeout``. A process that still gets new requests is not stopped: its
port is opened again, and the rollout has failed on it. A process without a port has no connection: it goes on at once
or, if ``drain.signal`` asks it to finish, when it has exited or its time is over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from supervisor_rolling.core.actions import Action, Verb
from supervisor_rolling.core.connections import Connection, KeepaliveReuse
from supervisor_rolling.core.endpoint import Endpoint, endpoints_text, unix_paths
from supervisor_rolling.core.lingering import aged, count_text, left_texts
from supervisor_rolling.core.nginx_config import NO_POOL
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import DrainPolicy
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.process_states import DOWN, closed_since
from supervisor_rolling.core.proxy_config import PROGRAMS
from supervisor_rolling.core.reason import Reason
from supervisor_rolling.core.rollout import Member, Rollout, Stage
from supervisor_rolling.core.text import printable
from supervisor_rolling.core.transitions import enter_stage, fail_and_put_back, put_back, with_failure

POOL_REFUSED = ("refuse", "application")
"""The values of ``drain.keepalive`` with which requests on old keep-alive connections end a rollout."""

GATE_TIMEOUT = 10.0
"""Seconds to wait for a gate that does not close: longer than another program holds the xtables lock."""

MIN_DRAIN = 0.02
"""Seconds that a drain takes at least: a leak is found only by a second observation behind the closed gate."""

OPAQUE_GRACE = 3.0
"""Seconds in which a process that answers in TLS or HTTP/2 may show an answer in plain HTTP/1.1 as well."""

REUSE_GRACE = 1.0
"""Seconds behind a closed gate before requests on old connections count as a keep-alive pool: an application that
closes its connections has its chance."""

REUSE_TIMES = 3
"""Requests on one connection behind a closed gate after which it counts as one of a pool. An application that closes
its connections while it drains may be too late for its first answer, but not for the second."""


def draining(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    """A DRAINING member after one observation."""
    is_finishing = _is_asked_to_finish(member, rollout.policy.drain) and process.state != "STARTING"
    if rollout.aborting and not is_finishing:  # a worker that was asked to finish will exit, abort or not
        return replace(put_back(member, observed), attempted=False)
    if process.is_stopped_by_other or process.state == "UNKNOWN":
        return _wait_for_state(member, process, rollout, observed)
    if process.incarnation != member.old or process.state in DOWN:
        return _exited(member, process, rollout, observed)
    if member.name in observed.leaks:
        text = _leak_text(member, rollout.gate.backend, observed.leaks[member.name])
        return fail_and_put_back(member, observed, Reason("drain.leak", text))
    waited = drained_for(member, observed.at, observed.closed)
    if waited < 0 or member.name not in observed.connections:
        return _wait_for_gate(member, observed)
    return _behind_gate(member, rollout, observed, waited)


def drained_for(member: Member, at: float, closed: Mapping[Endpoint, float]) -> float:
    """For how many seconds a process drains at the moment ``at``; below 0 while its gate is not known to be closed. A
    gate that was open meanwhile lets the wait begin anew."""
    closed_at = closed_since(member, closed)
    return at - max(member.since, closed_at) if closed_at <= at else -math.inf


def is_overdue(member: Member, at: float, closed: Mapping[Endpoint, float], policy: DrainPolicy) -> bool:
    """Whether a drain has lasted as long as it may. A process that an earlier failure kept closed drains since then:
    what is left is mostly the warm-up that it never answered."""
    waited = drained_for(member, at, closed)
    lasted = at - closed_since(member, closed) if member.is_unused else waited
    return waited >= MIN_DRAIN and lasted >= policy.timeout


def drain_signal(
    member: Member, rollout: Rollout, observed: Observation, closed: Mapping[Endpoint, float]
) -> Action | None:
    """The signal to send to a DRAINING member now, if any: once, behind a gate that is known to be closed."""
    process, signal = observed.processes.get(member.name), rollout.policy.drain.signal
    if not signal or member.name in observed.signalled or member.name in observed.dead:
        return None
    return Action(Verb.SIGNAL, member.name, member.old, signal) if can_be_notified(member, process, closed) else None


def can_be_notified(member: Member, process: Process | None, closed: Mapping[Endpoint, float]) -> bool:
    """Whether a DRAINING member can be told that it drains. One that is STARTING may not have its signal handler yet,
    and would die of the signal; one that was kept closed has no users to send away."""
    is_there = process is not None and process.state == "RUNNING" and process.incarnation == member.old
    return is_there and not member.is_unused and closed_since(member, closed) < math.inf


def _wait_for_state(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    timeout = rollout.policy.restart.timeout
    within = timeout + (process.stopwaitsecs if process.state == "STOPPING" else 0.0)
    if observed.at - member.since < within:
        return member
    text = f"was not replaced, because it has been {process.state} for {within:g} s"
    return fail_and_put_back(member, observed, Reason("restart.other", text))


def _is_asked_to_finish(member: Member, policy: DrainPolicy) -> bool:
    """Whether ``drain.signal`` makes it exit: one without a port has no connections to send away."""
    return bool(policy.signal) and not member.endpoints


def _exited(member: Member, process: Process, rollout: Rollout, observed: Observation) -> Member:
    """A process that the drain signal has killed fails the rollout, so that no other is sent it."""
    after, signal = _drained(member, observed), rollout.policy.drain.signal
    if not member.endpoints or process.stopped_on_request or member.failed:
        return after
    if not signal or member.name not in observed.signalled:
        return after
    text = (
        f"exited after SIG{signal} (drain.signal): requests in flight were lost. Fix: give it a handler for this "
        "signal, or remove drain.signal"
    )
    return with_failure(after, Reason("drain.signal", text))


def _wait_for_gate(member: Member, observed: Observation) -> Member:
    """One observation that fails in the middle of a drain, because another program holds the lock, is no reason."""
    if observed.at - observed.unclosed.get(member.name, observed.at) < GATE_TIMEOUT:
        return member
    reason = observed.gate_problem or "the kernel does not show the rule"
    text = f"its port could not be closed within {GATE_TIMEOUT:g} s, so it was not stopped: {reason}"
    return fail_and_put_back(member, observed, Reason("drain.gate", text))


def _behind_gate(member: Member, rollout: Rollout, observed: Observation, waited: float) -> Member:
    policy, left = rollout.policy.drain, observed.connections[member.name]
    overdue = is_overdue(member, observed.at, observed.closed, policy)
    is_finishing = _is_asked_to_finish(member, policy)
    if is_finishing and overdue and policy.on_timeout == "fail":
        return fail_and_put_back(member, observed, Reason("drain.timeout", _unfinished_text(policy)))
    is_told = overdue or not (is_finishing or member.name in observed.being_notified)
    if left == 0 and waited >= max(policy.min_seconds, MIN_DRAIN) and is_told:
        return _drained(member, observed)
    if policy.keepalive == "nginx":
        member = _with_closed_pool(member, policy, observed, waited)
        if member.stage is not Stage.DRAINING:
            return member
    reuse = observed.reuses.get(member.name, KeepaliveReuse())
    if policy.keepalive in POOL_REFUSED and _is_pool(reuse, waited, overdue):
        return fail_and_put_back(member, observed, Reason("drain.keepalive", _reuse_text(member, reuse)))
    member = replace(member, lingering_connections=left)
    return _timed_out(member, rollout, observed, waited) if overdue else member


def _with_closed_pool(member: Member, policy: DrainPolicy, observed: Observation, waited: float) -> Member:
    """With ``keepalive: nginx``, pooled connections are closed after their next answer. Those that nginx does not use
    again stay, and count as idle when no byte has moved for ``drain.idle_after`` behind the closed gate."""
    if min(waited, observed.idle_for.get(member.name, 0.0)) >= max(policy.idle_after, policy.min_seconds):
        return _drained_with_lingering(member, observed, waited)
    if member.name in observed.opaque and waited >= OPAQUE_GRACE:
        return fail_and_put_back(member, observed, Reason("drain.tls", _opaque_text(member)))
    if member.name in observed.reuses:
        text = _not_nginx_text(member, observed.reuses[member.name])
        return fail_and_put_back(member, observed, Reason("drain.not_nginx", text))
    return member


def _is_pool(reuse: KeepaliveReuse, waited: float, overdue: bool) -> bool:
    """Whether old connections keep carrying requests, so that a restart would lose some."""
    return reuse.most >= (2 if overdue else REUSE_TIMES) and (overdue or waited >= REUSE_GRACE)


def _timed_out(member: Member, rollout: Rollout, observed: Observation, waited: float) -> Member:
    if rollout.policy.drain.on_timeout == "fail" and not member.is_unused:
        member = replace(member, oldest_lingering=_oldest_left(member, observed, waited))
        return fail_and_put_back(member, observed, Reason("drain.timeout", _timeout_text(member, rollout)))
    return _drained_with_lingering(member, observed, waited)


def _drained(member: Member, observed: Observation) -> Member:
    timing = replace(member.timing, drained=observed.at - member.since)
    return replace(
        enter_stage(member, Stage.RESTARTING, observed), timing=timing, lingering_connections=0, oldest_lingering=()
    )


def _drained_with_lingering(member: Member, observed: Observation, waited: float) -> Member:
    """The member after a drain that is over while connections are left, which the restart ends."""
    left, oldest = observed.connections[member.name], _oldest_left(member, observed, waited)
    return replace(_drained(member, observed), lingering_connections=left, oldest_lingering=oldest)


def _oldest_left(member: Member, observed: Observation, waited: float) -> tuple[Connection, ...]:
    """What is left has been there since this drain began behind its gate: what came later is a leak."""
    return aged(observed.oldest.get(member.name, ()), waited)


# --- why a process was not stopped


def _leak_text(member: Member, backend: str, peer: str) -> str:
    where = f"from {peer} to {endpoints_text(member.endpoints)}"
    if unix_paths(member.endpoints):
        return (
            f"still receives new connections although its socket is closed ({where}), so it was not stopped: clients "
            "reach it by another name than this one. Fix: find that name; in a container mount the directory of the "
            "socket, and not the socket alone"
        )
    if backend == "haproxy":
        return (
            f"still receives requests that HAProxy's backend does not count ({where}), so it was not stopped: another "
            "backend of HAProxy, or another load balancer, sends to it. Fix: set gate.backend_name to the backend that "
            "serves it, and let no other send to it"
        )
    return (
        f"still receives new connections although its port is closed ({where}), so it was not stopped. Fix: find the "
        "firewall rule that accepts them before ours (iptables-legacy -S INPUT), or that marks or redirects them "
        "(iptables-legacy-save, nft list ruleset)"
    )


def _opaque_text(member: Member) -> str:
    return (
        f"has TLS or HTTP/2 on connections opened before its port was closed ({endpoints_text(member.endpoints)}), and "
        "drain.keepalive: nginx cannot close these, so it was not stopped and keeps serving traffic. Fix: in nginx's "
        f"upstream, {NO_POOL}; or proxy_pass to it in plain HTTP"
    )


def _reuse_text(member: Member, reuse: KeepaliveReuse) -> str:
    return (
        f"still receives requests on keep-alive connections opened before its port was closed ({reuse.requests} in "
        f"{reuse.seconds:.1f} s over {count_text(reuse.connections)}, from {_peer_text(reuse)} to "
        f"{endpoints_text(member.endpoints)}), so it was not stopped: a restart would cut off these requests. Fix, one "
        f"of: {_pool_fix(reuse.program)}; the middleware supervisor_rolling.wsgi or .asgi in the application, which "
        "closes them while it drains; or accept it: drain: {keepalive: ignore}"
    )


def _not_nginx_text(member: Member, reuse: KeepaliveReuse) -> str:
    return (
        f"receives requests on connections that an HTTP/1.0 answer should have closed (from {_peer_text(reuse)} to "
        f"{endpoints_text(member.endpoints)}): drain.keepalive is nginx, and this client is not nginx, so it was "
        f"not stopped and its port is open again. Fix, one of: {_pool_fix(reuse.program)}; the middleware "
        "supervisor_rolling.wsgi or .asgi in the application, with drain: {keepalive: application}"
    )


def _peer_text(reuse: KeepaliveReuse) -> str:
    program = PROGRAMS.get(reuse.program)
    name = program.title if program else printable(reuse.program)
    return f"{name} at {reuse.peer}" if name else reuse.peer


def _pool_fix(name: str) -> str:
    """What makes a load balancer keep no connections, or copes with them."""
    program = PROGRAMS.get(name)
    if program and program.pool_fix:
        return f"for {program.title}: {program.pool_fix}"
    return f"no keep-alive in the load balancer: for nginx, {NO_POOL}, or in rolling.yaml drain: {{keepalive: nginx}}"


def _timeout_text(member: Member, rollout: Rollout) -> str:
    left = member.lingering_connections
    oldest = "; ".join(left_texts(left, member.oldest_lingering))
    return (
        f"still had {count_text(left)} to {endpoints_text(member.endpoints)} after {rollout.policy.drain.timeout:g} s "
        f"of drain{f' ({oldest})' if oldest else ''}, so it was not stopped and keeps serving traffic "
        "(drain.on_timeout: fail). Fix: wait until they end, close them at the client, or raise drain.timeout"
    )


def _unfinished_text(policy: DrainPolicy) -> str:
    return (
        f"has not exited {policy.timeout:g} s after SIG{policy.signal} (drain.signal), so it was not stopped "
        "(drain.on_timeout: fail). Fix: raise drain.timeout above its longest job, or set drain.on_timeout: continue"
    )
