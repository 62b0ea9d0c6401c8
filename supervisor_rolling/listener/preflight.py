"""A check of one group: what is read and tried for it, and the report of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from supervisor_rolling.core.checks import clients, conntrack, nginx, processes, settings
from supervisor_rolling.core.checks.clients import Front, front
from supervisor_rolling.core.checks.nginx import Behind, behind, min_ready_for, min_ready_why
from supervisor_rolling.core.checks.processes import Listening, is_up
from supervisor_rolling.core.endpoint import Endpoints, tcp_ports
from supervisor_rolling.core.errors import ConfigError, GateError, RefusedError, RollingError, SocketsError
from supervisor_rolling.core.nginx_config import Nginx
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.policy import Config, Policy
from supervisor_rolling.core.preflight_report import Finding, Report, Settings, Severity, error_if
from supervisor_rolling.core.rollout import Rollout
from supervisor_rolling.core.snapshot import Request
from supervisor_rolling.listener.contracts import NO_ANSWER, Balancers, Clients, GateProbes, Sockets
from supervisor_rolling.listener.gatekeeper import Gatekeeper, gate_finding
from supervisor_rolling.listener.request_handler import objections

log = logging.getLogger("supervisor_rolling")

PATIENCE = 4.0
"""Seconds for a configuration to be read: whoever asked is told after ten that nobody answers."""


@dataclass(frozen=True)
class _Settle:
    """How long to settle by what was read, for processes with these ports, None where that does not say; and why."""

    read: tuple[object, ...]  # nginx's configuration, and what connects to the ports
    endpoints: Endpoints
    seconds: float | None
    why: str


class Preflight:
    """Looks at set-ups, and touches no process but for a connection that says nothing. For the turn's thread."""

    def __init__(
        self,
        sockets: Sockets,
        gatekeeper: Gatekeeper,
        balancers: Balancers,
        gate_probes: GateProbes,
        connected: Clients,
        clock: Callable[[], float],
    ) -> None:
        self._connected = connected
        self._trials = gate_probes
        self._sockets = sockets
        self._gatekeeper = gatekeeper
        self._balancers = balancers
        self._clock = clock
        self._asked: dict[int, tuple[float, Policy | None, tuple[int, ...]]] = {}
        self._settles: dict[str, _Settle] = {}

    def ready(self, policy: Policy, endpoints: Endpoints) -> Policy:
        """The policy with the time to settle that the load balancer's configuration asks for, as it was last read."""
        if not policy.min_ready_auto:
            return policy
        read = (self._balancers.last_read(policy.balancer), self._connected.last_found(policy.group))
        known = self._settles.get(policy.group)
        if known is None or not _are_same(known.read, read) or known.endpoints != endpoints:
            known = _Settle(read, dict(endpoints), *self._settle_for(policy, endpoints))
            self._settles[policy.group] = known
        if known.seconds is None:
            return policy
        return replace(policy, min_ready_seconds=known.seconds, min_ready_why=known.why, min_ready_read=True)

    def _settle_for(self, policy: Policy, endpoints: Endpoints) -> tuple[float | None, str]:
        """None where it is not known of all that send to the group."""
        group, others = self._behind(policy, endpoints), self._front(policy, endpoints)
        found = (min_ready_for(group), min_ready_why(group)) if group else (None, "")
        if not others.balancers:
            return found
        by_others = others.unavailable_for
        return (None, "") if by_others is None else max((found[0] or 0.0, found[1]), by_others)

    def expect(self, requests: Collection[int]) -> None:
        """Only these requests wait for an inspection."""
        self._asked = {request: asked for request, asked in self._asked.items() if request in requests}

    def is_ready(
        self, request: Request, load_config: Callable[[], Config], make: Callable[[Request, Config], Rollout]
    ) -> bool:
        """Whether what takes time has been read since this was asked, or has been waited for long enough: then what was
        read before has to do. Until then nothing else of the request is looked at, turn by turn."""
        if request.id not in self._asked:
            self._asked[request.id] = (self._clock(), *_looked_at(request, load_config, make))
        since, policy, ports = self._asked[request.id]
        if policy is None or self._clock() - since >= PATIENCE:
            return True
        is_read = self._balancers.read(policy.balancer, since) is not None
        are_seen = not ports or self._connected.find(policy.group, ports, since) is not None
        return is_read and are_seen

    def waited(self, request: Request) -> float:
        """Seconds since a request that waits for an inspection was seen first."""
        return self._clock() - self._asked[request.id][0]

    def draft(
        self,
        request: Request,
        observed: Observation,
        load_config: Callable[[], Config],
        check_pools: Callable[[], None],
        make: Callable[[Request, Config], Rollout],
    ) -> tuple[Rollout | None, list[Finding]]:
        """The rollout that is to be looked at, and what would refuse it at once; no rollout where none can be made."""
        try:
            config = load_config()
        except ConfigError as error:
            return None, [Finding("config", "config", line, "", severity=Severity.ERROR) for line in _lines(error)]
        found = [*_invalid(config, request.group), *self._of_metrics(config.metrics.listen)]
        try:
            self._gatekeeper.prove(config.gate)
        except GateError as error:
            found.append(gate_finding(error))
        try:
            rollout = make(request, config)
            found += [
                _objection(error, request.group)
                for error in objections(rollout, observed.processes, self._sockets, self._gatekeeper.closes)
            ]
        except (ConfigError, RefusedError, SocketsError) as error:
            refusal = [] if request.group in config.invalid else [_objection(error, request.group)]
            return None, [*found, *refusal]
        try:
            if rollout.policy.drain.keepalive == "nginx":
                check_pools()
        except GateError as error:
            found.append(Finding("gate.status_line", "drain.keepalive", str(error), "", severity=Severity.ERROR))
        return replace(rollout, policy=self.ready(rollout.policy, _endpoints_of(rollout))), found

    def _of_metrics(self, address: str) -> Iterable[Finding]:
        try:
            why, fix = self._trials.metrics(address) if address else ("", "")
        except SocketsError:  # who listens there cannot be seen, as ``report`` says
            return
        if why:
            yield Finding("metrics", "metrics.listen", f"{why}, so nobody gets the figures", fix)

    @property
    def can_try(self) -> bool:
        """Whether a gate may be tried: besides what is closed, so that has to be known before."""
        return self._gatekeeper.knows

    def report(
        self,
        rollout: Rollout,
        observed: Observation,
        given: Settings,
        found: Sequence[Finding] = (),
        may_try: bool = True,
    ) -> Report:
        """Everything, where ``is_ready``. ``found``: what is known to be wrong already; ``may_try``: close a spare
        port, and connect to the processes."""
        findings, looked = list(found), []
        skipped: list[str] = []
        listening = self._listening(rollout, observed, skipped)
        findings += processes.findings(rollout, observed, listening, given)
        looked.append(f"{len(rollout.members)} processes and their ports")
        skipped += _starting(rollout, observed)
        if given.processes:
            findings += settings.findings(given, rollout.policy)
            looked.append("supervisord's settings")
        if not any(finding.code == "gate" for finding in found):
            findings += self._of_gate(rollout, observed, listening, looked, skipped, may_try)
        findings += self._of_nginx(rollout, listening, looked, skipped)
        findings += self._of_clients(rollout, looked, skipped)
        looked.append("which users can change the files that the listener executes")
        findings += self._trials.distrust(rollout.policy)
        return Report(rollout.group, tuple(findings), tuple(looked), tuple(skipped))

    def _of_nginx(
        self, rollout: Rollout, listening: Listening, looked: list[str], skipped: list[str]
    ) -> Iterable[Finding]:
        endpoints = _endpoints_of(rollout)
        group = self._behind(rollout.policy, endpoints)
        if group is None:
            reason = f"it takes longer than {PATIENCE:g} s to read; ask again"
            skipped.append(f"nginx's configuration{_named(rollout.policy)}: {reason}")
        elif not group.servers and (unread := self._unread(rollout.policy, endpoints, group.nginx)):
            yield from unread
        elif group.nginx.is_absent:
            skipped.append(f"nginx's configuration: {group.nginx.problem}")
        elif group.nginx.problem or (rollout.policy.balancer.nginx and not group.servers):
            yield nginx.unreadable(group.nginx, rollout.policy)
        elif not group.servers:
            skipped.append(
                f"nginx's configuration ({group.nginx.source}): no upstream in it has a port of the group. Where the "
                f"load balancer is elsewhere, name it: groups.{rollout.group}.balancer: {{nginx: FILE}}"
            )
        elif rollout.gate.backend == "haproxy":
            looked.append(f"nginx ({group.nginx.source})")
            yield from nginx.beside_haproxy(group)
        else:
            sure = "" if group.is_certain else ", by its ports alone, so that nothing in it refuses a rollout"
            looked.append(f"nginx ({group.nginx.source}, settle {rollout.policy.min_ready_seconds:g} s{sure})")
            by_port = {port: name for name, those in endpoints.items() for port in tcp_ports(those)}
            yield from nginx.findings(group, rollout.policy, rollout.limit, by_port, listening.addresses or {})

    def _of_clients(self, rollout: Rollout, looked: list[str], skipped: list[str]) -> Iterable[Finding]:
        if rollout.gate.backend == "haproxy":
            return
        if self._connected.last_found(rollout.group) is None:
            skipped.append("what connects to the processes: it is not known yet; ask again")
            return
        endpoints = _endpoints_of(rollout)
        group, others = self._behind(rollout.policy, endpoints), self._front(rollout.policy, endpoints)
        looked += [f"{one.program.title} ({one.where})" for one in others.balancers]
        yield from clients.findings(others, rollout.policy, bool(group and group.servers))

    def _unread(self, policy: Policy, endpoints: Endpoints, read: Nginx) -> Sequence[Finding]:
        """Where the configuration that was read is not that of the nginx which sends to the group."""
        if policy.balancer.nginx or (read.problem and not read.is_absent):
            return ()
        return list(clients.unread(self._front(policy, endpoints), policy, read.source))

    def _front(self, policy: Policy, endpoints: Endpoints) -> Front:
        return front(
            self._connected.last_found(policy.group) or (),
            [port for those in endpoints.values() for port in tcp_ports(those)],
        )

    def _behind(self, policy: Policy, endpoints: Endpoints) -> Behind | None:
        configuration = self._balancers.last_read(policy.balancer)
        if configuration is None:
            return None
        return behind(
            configuration,
            [port for those in endpoints.values() for port in tcp_ports(those)],
            bool(policy.balancer.nginx),
        )

    def _listening(self, rollout: Rollout, observed: Observation, skipped: list[str]) -> Listening:
        """What can be seen of it. Which ports accept can be seen without rights; which process has them cannot, where
        the process runs as another user."""
        try:
            addresses = self._sockets.listeners([port for member in rollout.members for port in member.ports])
        except SocketsError as error:
            skipped.append(f"where the processes listen: {error}")
            return Listening(addresses=None)
        try:
            return replace(self._owned(rollout, observed, addresses), addresses=addresses)
        except SocketsError as error:
            skipped.append(f"which process listens where: {error}")
            return Listening(addresses)

    def _owned(self, rollout: Rollout, observed: Observation, addresses: Mapping[int, Sequence[str]]) -> Listening:
        """Which process has which sockets. Raises SocketsError where /proc does not show that."""
        running = [member for member in rollout.members if is_up(member, observed.processes)]
        pids = {observed.processes[member.name].pid: member for member in running}
        alive = [process.pid for process in observed.processes.values() if process.pid]
        held, unix = self._sockets.ports_of(alive), self._sockets.unix_of(list(pids))
        own = {port for pid in alive for port in held[pid]}
        down = {port for m in rollout.members if not observed.processes[m.name].pid for port in m.ports}
        others = [port for port, listeners in addresses.items() if (listeners or port in down) and port not in own]
        wrappers = self._sockets.wrappers_of({pid: m.ports for pid, m in pids.items() if set(m.ports) & set(held[pid])})
        return Listening(
            ports={member.name: held[pid] for pid, member in pids.items()},
            unix={member.name: unix[pid] for pid, member in pids.items()},
            wrappers={pids[pid].name: wrapper for pid, wrapper in wrappers.items()},
            holders=self._sockets.holders_of(others) if others else {},
        )

    def _of_gate(
        self,
        rollout: Rollout,
        observed: Observation,
        listening: Listening,
        looked: list[str],
        skipped: list[str],
        may_try: bool,
    ) -> Iterable[Finding]:
        """What others have done, and the gate closed and opened for real on a spare port, and past it to each process.

        Where a rule of nat would turn connection tracking on for the trial alone, and that does what it does to
        connections that exist, there is none."""
        looked.append(f"the gate ({self._gatekeeper.describe()})")
        yield from self._gatekeeper.inspect({one: m.name for m in rollout.members if m.selected for one in m.endpoints})
        tracked = self._trials.conntrack() if self._gatekeeper.is_firewall else None
        if tracked is not None:
            looked.append(str(tracked))
            yield from conntrack.findings(tracked, rollout.gate)
        if not may_try:
            return
        # A rollout or the guard has those that are closed in hand, and would take us for somebody who gets through.
        closed = self._gatekeeper.closed_since.keys()
        up = [m for m in rollout.members if m.ports and is_up(m, observed.processes) and not closed & set(m.endpoints)]
        bypass = rollout.gate.bypass
        heard = {m.name: listening.listeners(m.ports[0]) for m in up}  # a process is warmed by the first
        doors = {m.name: (self._trials.door(heard[m.name], bypass), m.ports[0]) for m in up if heard[m.name]}
        reached = {door: name for name, door in doors.items() if door[0]}
        if rollout.gate.method == "redirect" and tracked is not None and not tracked.count:
            skipped.append("whether the gate closes: to try it would turn connection tracking on")
        elif self._gatekeeper.is_firewall and self.can_try:
            yield from self._tried({address for address, _ in reached}, bypass)
        for (address, port), why in self._trials.connect(list(reached), bypass).items():
            if why:
                yield _unreached(f"{rollout.group}:{reached[address, port]}", bypass, f"{address} port {port}", why)
        for name, (address, port) in doors.items():
            if not address:
                yield _of_ipv6_alone(f"{rollout.group}:{name}", port, heard[name])

    def _tried(self, addresses: Collection[str], bypass: str) -> Iterable[Finding]:
        """On a spare port at these addresses."""
        try:
            for text in self._trials.try_gate(self._gatekeeper.tried, addresses, bypass):
                yield Finding(
                    "gate.trial",
                    "gate",
                    f"on a spare port of this host the gate {text}",
                    "look for what other rules do with new connections: iptables-legacy-save, nft list ruleset",
                    severity=Severity.ERROR,
                )
        except GateError as error:
            yield gate_finding(error)
        except OSError as error:
            log.warning("the gate was not tried, for want of a port to try it on: %s", error)


def _starting(rollout: Rollout, observed: Observation) -> list[str]:
    """What is not known of processes that supervisord does not yet count as started."""
    names = [
        f"{rollout.group}:{m.name}"
        for m in rollout.members
        if m.selected and observed.processes[m.name].state == "STARTING"
    ]
    if not names:
        return []
    return [f"the ports of {', '.join(names)}: STARTING. Fix: run the check again after startsecs"]


def _unreached(where: str, bypass: str, door: str, why: str) -> Finding:
    return Finding(
        "gate.bypass",
        where,
        f"a warm-up (bypass: {bypass}) does not reach it at {door}: {why}",
        "let it listen on an address that this host reaches, look for a firewall rule that stops connections of this "
        "host to it, or use the other gate.bypass",
        severity=error_if(why != NO_ANSWER),
    )


def _of_ipv6_alone(where: str, port: int, addresses: Sequence[str]) -> Finding:
    return Finding(
        "gate.bypass",
        where,
        f"port {port} listens on {', '.join(addresses)} alone, and bypass: address goes by IPv4",
        "say gate: {bypass: mark}, or let it listen on an IPv4 address too",
        severity=Severity.ERROR,
    )


def _looked_at(
    request: Request, load_config: Callable[[], Config], make: Callable[[Request, Config], Rollout]
) -> tuple[Policy | None, tuple[int, ...]]:
    """The policy and the ports of which something is to be read. No policy where there is nothing to read: then the
    request is answered with what is wrong; no ports where what connects to them makes no difference."""
    try:
        config = load_config()
        policy = config.groups.get(request.group)
        if policy is None or config.gate.backend == "haproxy":
            return policy, ()
        return policy, tuple(port for member in make(request, config).members for port in member.ports)
    except ConfigError:
        return None, ()
    except RollingError:
        return policy, ()


def _are_same(old: Sequence[object], new: Sequence[object]) -> bool:
    return all(one is other for one, other in zip(old, new))


def _endpoints_of(rollout: Rollout) -> Endpoints:
    return {member.name: member.endpoints for member in rollout.members}


def _invalid(config: Config, group: str) -> Iterable[Finding]:
    """The mistakes in the groups of rolling.yaml, a finding for each: those of this group refuse its rollouts."""
    for name, text in config.invalid.items():
        for line in text.splitlines():
            yield Finding("config", "config", line, "", severity=error_if(name == group))


def _lines(error: ConfigError) -> list[str]:
    return str(error).splitlines() or [type(error).__name__]


def _objection(error: RollingError, group: str) -> Finding:
    code = {ConfigError: "config", RefusedError: "refused"}.get(type(error), "sockets")
    return Finding(code, group, str(error), "", severity=Severity.ERROR)


def _named(policy: Policy) -> str:
    return f" ({policy.balancer.nginx})" if policy.balancer.nginx else ""
