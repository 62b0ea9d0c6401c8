"""Views of ``core/public_view.py`` as the structs that XML-RPC and events carry, and what ``getProcesses`` shows."""

from __future__ import annotations

import json
import xmlrpc.client
from typing import Any

from supervisor.states import getProcessStateDescription

from supervisor_rolling.codec import struct_of
from supervisor_rolling.core.endpoint import tcp_ports, unix_paths
from supervisor_rolling.core.guard_state import GuardedProcess
from supervisor_rolling.core.process import Incarnation
from supervisor_rolling.core.process_states import CLOSED_STAGES
from supervisor_rolling.core.public_view import DIGITS, ProcessView
from supervisor_rolling.core.rollout import Member, Rollout, Stage, Status
from supervisor_rolling.core.snapshot import Request
from supervisor_rolling.core.text import plain
from supervisor_rolling.packing import compressed
from supervisor_rolling.plugin.mailbox import Mailbox

BUSY = "a rollout of %s is already running: %s. Fix: wait until it has ended: supervisorctl rolling_status %s"
"""With the group, ``holder_text`` and the group."""


def struct(view: Any) -> dict[str, Any]:
    """A view as a struct, with texts of printable ASCII."""
    return struct_of(view, plain)


def packed(answer: Any) -> xmlrpc.client.Binary:
    """A struct as XML-RPC's base64: its JSON, compressed by zlib, a hundredth of a struct of a thousand processes."""
    return xmlrpc.client.Binary(compressed(json.dumps(answer)))


def holds_ports(rollout: Rollout) -> bool:
    """Whether it runs, or has left a failed process closed that no crash guard takes over."""
    if rollout.status is Status.RUNNING or rollout.policy.is_guarded:
        return rollout.status is Status.RUNNING
    return any(member.stage is Stage.FAILED for member in rollout.members)


def holder_text(holder: Rollout | Request) -> str:
    """What has a group now, for a client that is refused."""
    by = f" by {holder.by}" if holder.by else ""
    if isinstance(holder, Request):
        return f"a rollout was asked for{by} a moment ago"
    selected = [member for member in holder.members if member.selected]
    replaced = sum(member.replaced for member in selected)
    return f"rollout {holder.id}{by} has replaced {replaced} of {holder.total}{', paused' if holder.paused else ''}"


class ProcessViews:
    """The views of the processes of a group. ``closed`` is the word for a closed gate."""

    def __init__(self, mailbox: Mailbox, group: str, now: float, closed: str) -> None:
        self._mailbox, self._group, self._now, self._closed = mailbox, group, now, closed
        rollout, guard_state = mailbox.rollouts.get(group), mailbox.guard_states.get(group)
        self._is_guarded = guard_state is not None
        self._is_running = rollout is not None and rollout.status is Status.RUNNING
        self._holds = rollout is not None and (self._is_running or not rollout.policy.is_guarded)
        self._members = {member.name: member for member in rollout.members} if rollout else {}
        self._guarded = {one.name: one for one in guard_state.guarded} if guard_state else {}

    def of(self, name: str, process: Any) -> ProcessView:
        """What supervisord, the rollout and the crash guard know of it: the rollout first, while it has it."""
        incarnation = Incarnation(process.pid, self._mailbox.times.attempt(self._group, name, process))
        is_warm = self._mailbox.is_warm(self._group, name, incarnation)
        member, guarded = self._members.get(name), self._guarded.get(name)
        if member and (not self._is_guarded or (self._is_running and member.stage is not Stage.OPEN)):
            guarded, is_closed = None, self._holds and member.stage in CLOSED_STAGES and bool(member.endpoints)
            one: Member | GuardedProcess | None = member
        else:
            one, is_closed = guarded, guarded is not None and guarded.closed
        warm_since = self._mailbox.warm_since(self._group, name) if is_warm else 0.0
        since = one.since if one else warm_since
        endpoints = one.endpoints if one else member.endpoints if member else ()
        return ProcessView(
            name=name,
            statename=getProcessStateDescription(process.get_state()) or "UNKNOWN",
            pid=process.pid,
            warm=is_warm,
            gate=self._closed if is_closed else "open",
            stage=one.stage if one else Stage.OPEN,
            seconds=round(self._now - since, DIGITS) if since else 0.0,
            ports=tcp_ports(endpoints),
            sockets=unix_paths(endpoints),
            tries=guarded.tries if guarded else 0,
            retry_in=self._retry_in(guarded) if guarded else 0.0,
            why=one.why if one else "",
            code=one.code if one and one.stage is Stage.FAILED else "",
            guarded=self._is_guarded,
        )

    def _retry_in(self, guarded: GuardedProcess) -> float:
        is_due = guarded.stage is Stage.FAILED
        return max(0.0, round(guarded.retry_at - self._now, DIGITS)) if is_due else 0.0
