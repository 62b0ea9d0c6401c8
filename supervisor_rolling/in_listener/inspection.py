"""A check of one group: what is read and tried for it, and the report of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from supervisor_rolling.errors import ConfigError, GateError, RefusedError, RollingError, SocketsError
from supervisor_rolling.in_listener.answers import objections
from supervisor_rolling.in_listener.contracts import NO_ANSWER, Balancers, Sockets, Trials
from supervisor_rolling.in_listener.gatekeeper import Gatekeeper, gate_finding
from supervisor_rolling.model import Config, Finding, Policy, Report, Request, Roll, Seen, Settings
from supervisor_rolling.pure.checks import conntrack, nginx, processes
from supervisor_rolling.pure.checks import settings as supervisord
from supervisor_rolling.pure.checks.nginx import Behind, behind, settle_for
from supervisor_rolling.pure.checks.processes import Listening, is_up
from supervisor_rolling.pure.nginx import Nginx

log = logging.getLogger("supervisor_rolling")

PATIENCE = 4.0
"""Seconds for a configuration to be read: whoever asked is told after ten that nobody answers."""

_MEND = "a roll is refused with these words, too"

Ports = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Settle:
    """How long to settle by a configuration, for processes with these ports; None where it does not say."""

    configuration: Nginx | None
    ports: Ports
    seconds: float | None


class Inspector:
    """Looks at set-ups, and touches no process but for a connection that says nothing. For the turn's thread."""

    def __init__(
        self,
        sockets: Sockets,
        gatekeeper: Gatekeeper,
        balancers: Balancers,
        trials: Trials,
        clock: Callable[[], float],
    ) -> None:
        self._trials = trials
        self._sockets = sockets
        self._gatekeeper = gatekeeper
        self._balancers = balancers
        self._clock = clock
        self._asked: dict[int, float] = {}
        self._settles: dict[str, _Settle] = {}

    def settled(self, policy: Policy, ports: Ports) -> Policy:
        """The policy with the time to settle that the load balancer's configuration asks for, as it was last read."""
        if not policy.settle_auto:
            return policy
        configuration = self._balancers.last(policy.balancer)
        known = self._settles.get(policy.group)
        if known is None or known.configuration is not configuration or known.ports != ports:
            group = self._behind(policy, ports)
            known = _Settle(configuration, dict(ports), settle_for(group) if group else None)
            self._settles[policy.group] = known
        return policy if known.seconds is None else replace(policy, settle=known.seconds)

    def draft(
        self,
        request: Request,
        seen: Seen,
        load_config: Callable[[], Config],
        check_pools: Callable[[], None],
        make: Callable[[Request, Config], Roll],
    ) -> tuple[Roll | None, list[Finding]]:
        """The roll that is to be looked at, and what would refuse it at once; no roll where none can be made."""
        try:
            config = load_config()
        except ConfigError as error:
            return None, [Finding("config", "rolling.yaml", line, "mend it", refuses=True) for line in _lines(error)]
        found = []
        try:
            self._gatekeeper.prove(config.gate)
        except GateError as error:
            found.append(gate_finding(error))
        roll = None
        try:
            roll = make(request, config)
            found += [_objection(error, request.group) for error in objections(roll, seen.processes, self._sockets)]
        except (ConfigError, RefusedError, SocketsError) as error:
            found.append(_objection(error, request.group))
        if roll is not None and roll.policy.drain.keepalive == "nginx":
            try:
                check_pools()
            except GateError as error:
                found.append(Finding("gate.status_line", "drain.keepalive", str(error), _MEND, refuses=True))
        if roll is not None:
            roll = replace(roll, policy=self.settled(roll.policy, {m.name: m.ports for m in roll.members}))
        return roll, found

    def expect(self, requests: Iterable[int]) -> None:
        """Only these requests wait for an inspection."""
        now = self._clock()
        self._asked = {request: self._asked.get(request, now) for request in requests}

    def is_ready(self, request: int, policy: Policy) -> bool:
        """Whether what takes time has been read since this was asked, or has been waited for long enough: then what was
        read before has to do."""
        now = self._clock()
        since = self._asked.get(request, now)
        return self._balancers.read(policy.balancer, since) is not None or now - since >= PATIENCE

    @property
    def can_try(self) -> bool:
        """Whether a gate may be tried: besides what is closed, so that has to be known before."""
        return self._gatekeeper.knows

    def report(self, roll: Roll, seen: Seen, given: Settings, found: Sequence[Finding] = ()) -> Report:
        """Everything, where ``is_ready``. ``found``: what is known to be wrong already."""
        findings, looked, skipped = list(found), [], []
        ports = {member.name: member.ports for member in roll.members}
        listening = Listening()
        try:
            listening = self._listening(roll, seen)
        except SocketsError as error:
            skipped.append(f"where the processes listen: {error}")
        findings += processes.findings(roll, seen, listening, given)
        looked.append(f"{len(roll.members)} processes and their ports")
        if given.processes:
            findings += supervisord.findings(given, roll.policy)
            looked.append("supervisord's settings")
        if not any(finding.code == "gate" for finding in found):
            tracked = self._trials.conntrack() if self._gatekeeper.is_firewall else None
            findings += self._of_gate(roll, seen, listening)
            looked.append(f"the gate ({self._gatekeeper.describe()})")
            if tracked is not None:
                findings += conntrack.findings(tracked, roll.gate)
                looked.append(str(tracked))
        group = self._behind(roll.policy, ports)
        if group is None or group.nginx.problem:
            reason = group.nginx.problem if group else f"it takes longer than {PATIENCE:g} s to read; ask again"
            skipped.append(f"nginx's configuration{_named(roll.policy)}: {reason}")
        elif not group.servers:
            skipped.append(
                f"nginx's configuration ({group.nginx.source}): no upstream in it has a port of the group. Where the "
                f"load balancer is elsewhere, name it: groups.{roll.group}.balancer: {{nginx: FILE}}"
            )
        else:
            by_port = {port: name for name, those in ports.items() for port in those}
            findings += nginx.findings(group, roll.policy, roll.limit, by_port)
            looked.append(f"nginx ({group.nginx.source}, settle {roll.policy.settle:g} s)")
        return Report(roll.group, tuple(findings), tuple(looked), tuple(skipped))

    def _behind(self, policy: Policy, ports: Ports) -> Behind | None:
        configuration = self._balancers.last(policy.balancer)
        if configuration is None:
            return None
        return behind(configuration, [port for those in ports.values() for port in those], bool(policy.balancer.nginx))

    def _listening(self, roll: Roll, seen: Seen) -> Listening:
        running = [member for member in roll.members if is_up(member, seen.processes)]
        ports = [port for member in running for port in member.ports]
        found = self._sockets.connections(ports)
        pids = {seen.processes[member.name].pid: member for member in running}
        held, unix = self._sockets.ports_of(list(pids)), self._sockets.unix_of(list(pids))
        shells = {
            member.name: shell
            for pid, member in pids.items()
            if (shell := self._sockets.shell_of(pid)) and set(member.ports) & set(held[pid])
        }
        return Listening(
            addresses={port: those.listeners for port, those in found.items()},
            ports={member.name: held[pid] for pid, member in pids.items()},
            unix={member.name: unix[pid] for pid, member in pids.items()},
            shells=shells,
        )

    def _of_gate(self, roll: Roll, seen: Seen, listening: Listening) -> Iterable[Finding]:
        """Closed and opened for real on a spare port, and past it to each process."""
        bypass = roll.gate.bypass
        yield from self._gatekeeper.inspect({p: m.name for m in roll.members if m.wanted for p in m.ports})
        doors = {
            (address, port): member.name
            for member in roll.members
            if is_up(member, seen.processes)
            for port in member.ports[:1]  # a process is warmed by the first
            if listening.addresses.get(port) and (address := self._trials.door(listening.addresses[port], bypass))
        }
        if self._gatekeeper.is_firewall and self.can_try:
            try:
                wrong = self._trials.try_gate(self._gatekeeper.tried, {address for address, _ in doors}, bypass)
            except GateError as error:
                yield gate_finding(error)
                return
            except OSError as error:
                log.warning("the gate was not tried, for want of a port to try it on: %s", error)
                wrong = ()
            for text in wrong:
                yield Finding(
                    "gate.trial",
                    "gate",
                    f"on a spare port of this host the gate {text}",
                    "look for what other rules do with new connections: iptables-legacy-save, nft list ruleset",
                    refuses=True,
                )
        for door, why in self._trials.connect(list(doors), bypass).items():
            if why:
                yield Finding(
                    "gate.bypass",
                    f"{roll.group}:{doors[door]}",
                    f"a warm-up (bypass: {bypass}) does not reach it at {door[0]} port {door[1]}: {why}",
                    "let it listen on an address that this host reaches, or use the other gate.bypass",
                    refuses=why != NO_ANSWER,
                )
        for member in roll.members:
            first = listening.addresses.get(member.ports[0]) if member.ports else None
            if first and is_up(member, seen.processes) and not self._trials.door(first, bypass):
                yield Finding(
                    "gate.bypass",
                    f"{roll.group}:{member.name}",
                    f"port {member.ports[0]} listens on {', '.join(first)} alone, and bypass: address goes by IPv4",
                    "say gate: {bypass: mark}, or let it listen on an IPv4 address too",
                    refuses=True,
                )


def _lines(error: ConfigError) -> list[str]:
    return str(error).splitlines() or [type(error).__name__]


def _objection(error: RollingError, group: str) -> Finding:
    code = {ConfigError: "config", RefusedError: "refused"}.get(type(error), "sockets")
    return Finding(code, group, str(error), _MEND, refuses=True)


def _named(policy: Policy) -> str:
    return f" ({policy.balancer.nginx})" if policy.balancer.nginx else ""
