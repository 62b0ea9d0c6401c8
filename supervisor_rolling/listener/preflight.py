"""The slow part of a request: what it needs from rolling.yaml, the kernel and a try of the gate, in the background.

It stops no process, and closes no port but a spare one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from supervisor_rolling.core.checks import clients, conntrack, nginx, processes, settings, shared, workers
from supervisor_rolling.core.checks.processes import Listening, Wrapper, is_up
from supervisor_rolling.core.endpoint import Endpoint, Endpoints, unix_paths
from supervisor_rolling.core.errors import ConfigError, GateError, RollingError, SocketsError
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.own_warmup import result_of
from supervisor_rolling.core.policy import Config, Policy, PortRule, SocketRule
from supervisor_rolling.core.ports import are_shared, endpoints_for
from supervisor_rolling.core.preflight_report import Finding, Report, Settings, Severity, error_if
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.rollout import Rollout
from supervisor_rolling.core.snapshot import Request
from supervisor_rolling.core.text import MAX_LISTED
from supervisor_rolling.listener.contracts import NO_ANSWER, Background, GateProbes, Sockets, WhileClosed
from supervisor_rolling.listener.gatekeeper import GateFacts, gate_finding
from supervisor_rolling.listener.load_balancers import LoadBalancerFacts
from supervisor_rolling.listener.own_endpoints import seen

log = logging.getLogger("supervisor_rolling")


@dataclass(frozen=True)
class Draft:
    """What a request needs of rolling.yaml and of the kernel."""

    config: Config
    endpoints: Endpoints  # of each process of the group
    problem: RollingError | None = None  # why there can be no rollout
    findings: tuple[Finding, ...] = ()  # for a check


@dataclass(frozen=True)
class Subject:
    """What is inspected, with everything that the loop knows of it."""

    kind: str  # of the request
    rollout: Rollout
    observed: Observation
    settings: Settings
    gate: GateFacts
    balancers: LoadBalancerFacts
    findings: tuple[Finding, ...] = ()  # known already


class Preflight:
    """Drafts and inspections, each in the background. ``closed``: see ``SparePorts.closed``."""

    def __init__(
        self,
        background: Background,
        load_config: Callable[[], Config],
        sockets: Sockets,
        probes: GateProbes,
        check_keepalive: Callable[[], None],
        closed: WhileClosed,
    ) -> None:
        self._background = background
        self._load_config = load_config
        self._sockets = sockets
        self._probes = probes
        self._check_keepalive = check_keepalive
        self._closed = closed
        self._subjects: dict[int, Subject] = {}

    def keep(self, requests: Collection[int]) -> None:
        """Forget the results for all other requests."""
        self._subjects = {request: one for request, one in self._subjects.items() if request in requests}
        self._background.keep([(request, step) for request in requests for step in ("draft", "inspection")])

    def draft(
        self, request: Request, there: Mapping[str, Process], known: Endpoints, held: Collection[str]
    ) -> Draft | None:
        """The draft for a request; None while it is being made. ``there``: the processes of its group; ``known``: the
        endpoints that they had; ``held``: those for which these count until they are warm. Raises ConfigError where
        rolling.yaml cannot be read."""
        return self._background.run((request.id, "draft"), lambda: self._draft(request, there, known, held))

    def inspect(self, request: int, make: Callable[[], Subject]) -> Report | None:
        """The report on a subject; None while it is being made. Unless the request is a check, it raises ConfigError,
        SocketsError or GateError for what refuses the rollout even with ``force``, or because nothing else needs to be
        known then."""
        if request not in self._subjects:
            self._subjects[request] = make()
        subject = self._subjects[request]
        return self._background.run((request, "inspection"), lambda: self._inspect(subject))

    # --- in the background

    def _draft(self, request: Request, there: Mapping[str, Process], known: Endpoints, held: Collection[str]) -> Draft:
        config = self._load_config()
        findings: tuple[Finding, ...] = ()
        if request.kind == "check":
            findings = (*_invalid(config, request.group), *self._of_metrics(config.metrics.listen))
        try:
            policy, *_ = [policy_of(config, group) for group in (request.group, *request.following)]
            pids = [process.pid for process in there.values() if process.pid]
            listening = seen(self._sockets, policy, pids) if policy.is_auto else {}
            if policy.is_auto and (request.settings.is_fcgi or are_shared(listening.values())):
                policy = replace(policy, ports=PortRule(shared=True), sockets=SocketRule())
                config = replace(config, groups={**config.groups, policy.group: policy})
            endpoints = _endpoints(policy, there, listening, known, held)
        except RollingError as error:
            return Draft(config, {}, error, findings)
        return Draft(config, endpoints, None, findings)

    def _inspect(self, subject: Subject) -> Report:
        rollout, found = subject.rollout, list(subject.findings)
        try:
            if not rollout.force:
                self._check_ports(rollout, subject.observed.processes)
        except ConfigError as error:
            if subject.kind != "check":
                raise
            found.append(finding_of(error, rollout.group))
        try:
            if rollout.policy.drain.keepalive == "nginx":
                self._check_keepalive()
        except GateError as error:
            if subject.kind != "check":
                raise
            found.append(Finding("gate.status_line", "drain.keepalive", str(error), "", severity=Severity.ERROR))
        return Report(rollout.group) if subject.kind == "resume" else self._report(subject, found)

    def _check_ports(self, rollout: Rollout, there: Mapping[str, Process]) -> None:
        """Raise ConfigError if a process listens elsewhere than the policy says: the wrong port would be closed. A
        process that listens on no port may have its port through another one, such as a container's proxy."""
        running = [m for m in rollout.members if m.endpoints and is_up(m, there)]
        pids = [there[member.name].pid for member in running]
        try:
            ports = self._sockets.ports_of(pids)
            astray = [
                (m.name, pid, path)
                for m, pid in zip(running, pids)
                for path in unix_paths(m.endpoints)
                if not self._sockets.listens_at(path, pid)
            ]
            paths = self._sockets.unix_of(pids) if astray else {}
        except SocketsError as error:
            log.info("cannot check that %s listens where rolling.yaml says: %s", rollout.group, error)
            return
        wrong = [
            f"{m.name} listens on {', '.join(map(str, ports[pid]))} and not on {m.ports[0]}"
            for m, pid in zip(running, pids)
            if m.ports and ports[pid] and not set(ports[pid]) & set(m.ports)
        ]
        wrong += [
            f"{n} listens on {', '.join(paths[pid]) or 'no unix socket'}, not on {path}" for n, pid, path in astray
        ]
        if wrong:
            more = f"; and {len(wrong) - MAX_LISTED} more" if len(wrong) > MAX_LISTED else ""
            key = f"groups.{rollout.group}.{'sockets' if rollout.policy.sockets.is_used else 'ports'}"
            by_auto = f"let each listen where it listened before, or name the ports in {key}"
            fix = by_auto if rollout.policy.is_auto else f"correct {key} in rolling.yaml"
            raise ConfigError(f"{'; '.join(wrong[:MAX_LISTED])}{more}. Fix: {fix}")

    def _of_metrics(self, address: str) -> Iterator[Finding]:
        try:
            why, fix = self._probes.metrics(address) if address else ("", "")
        except SocketsError:  # what listens there cannot be seen, as the report says
            return
        if why:
            yield Finding("metrics", "metrics.listen", f"{why}, so no metrics are served", fix)

    def _report(self, subject: Subject, found: list[Finding]) -> Report:
        rollout, observed, given = subject.rollout, subject.observed, subject.settings
        checked: list[str] = []
        skipped: list[str] = []
        listening = self._listening(rollout, observed, skipped)
        found += processes.findings(rollout, observed, listening, given)
        ports = rollout.policy.ports
        if ports.none:
            found += workers.listening(rollout.group, listening.ports, listening.families)
        if ports.shared:
            found += self._of_shared_socket(rollout, observed)
            checked.append("ports: shared, nothing is closed")
        has_ports = any(member.endpoints for member in rollout.members)
        theirs = "sockets" if any(unix_paths(member.endpoints) for member in rollout.members) else "ports"
        number = len(rollout.members)
        of_them = f" and their {theirs}" if has_ports else ""
        checked.append(f"{number} process{'es' if number != 1 else ''}{of_them}")
        skipped += _starting(rollout, observed)
        if given.processes:
            found += settings.findings(given, rollout.policy)
            work = "job" if ports.none else "request"
            found += workers.findings(rollout.group, listening.families, given, rollout.policy.drain.signal, work)
            checked.append("supervisord's settings")
        if has_ports:
            if not any(finding.where == "gate" for finding in found):
                found += self._of_gate(subject, listening, checked, skipped)
            found += _of_nginx(subject, listening, checked, skipped)
            found += _of_clients(subject, checked, skipped)
        checked.append("which users can change the files that the listener executes")
        found += self._probes.untrusted_files(rollout.policy)
        return Report(rollout.group, tuple(found), tuple(checked), tuple(skipped))

    def _of_shared_socket(self, rollout: Rollout, observed: Observation) -> Iterator[Finding]:
        """Whether its application warms itself up: that of one process tells."""
        up = [observed.processes[m.name].pid for m in rollout.members if is_up(m, observed.processes)]
        result = result_of(self._sockets.memory_files_of(up[0])) if up else None
        yield from shared.findings(rollout.group, rollout.policy.warmup, result is not None)
        for port in self._sockets.reuseport_of(up):
            yield from shared.reuseport(rollout.group, port, self._probes.migrates())

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
            return Listening(addresses, families=self._families(rollout, observed))

    def _families(self, rollout: Rollout, observed: Observation) -> Mapping[str, Wrapper]:
        """The processes without a port, each with its descendants. Which signals a process handles can be seen without
        rights."""
        running = [m for m in rollout.members if not m.ports and is_up(m, observed.processes)]
        names = {observed.processes[member.name].pid: member.name for member in running}
        return {names[pid]: family for pid, family in self._sockets.families_of(list(names)).items()}

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
            families=self._families(rollout, observed),
            wrappers={pids[pid].name: wrapper for pid, wrapper in wrappers.items()},
            holders=self._sockets.holders_of(others) if others else {},
        )

    def _of_gate(
        self, subject: Subject, listening: Listening, checked: list[str], skipped: list[str]
    ) -> Iterator[Finding]:
        """What others have done to the firewall; the gate closed and opened for real on a spare port; and whether a
        warm-up would reach each process. A plan only reads.

        Where a rule of nat would turn connection tracking on for the probe alone, with what that does to connections
        that exist, there is no probe."""
        rollout, gate = subject.rollout, subject.gate
        checked.append(f"the gate ({gate.description})")
        yield from gate.findings
        tracked = self._probes.conntrack() if gate.is_firewall else None
        if tracked is not None:
            checked.append(str(tracked))
            yield from conntrack.findings(tracked, rollout.gate)
        if subject.kind == "plan":
            return
        # A closed port is a rollout's or the guard's, and would take this connection for a leak.
        processes_ = subject.observed.processes
        up = [m for m in rollout.members if m.ports and is_up(m, processes_) and not gate.closed & set(m.endpoints)]
        bypass = rollout.gate.bypass
        listening_at = {m.name: listening.listeners(m.ports[0]) for m in up}  # a process is warmed by the first
        targets = {
            m.name: (self._probes.warmup_address(listening_at[m.name], bypass), m.ports[0])
            for m in up
            if listening_at[m.name]
        }
        reached = {target: name for name, target in targets.items() if target[0]}
        if rollout.gate.method == "redirect" and tracked is not None and not tracked.count:
            skipped.append("whether the gate closes: to try it would turn connection tracking on")
        elif gate.is_firewall and gate.is_known:
            yield from self._probed({address for address, _ in reached}, bypass)
        for (address, port), why in self._probes.connect(list(reached), bypass).items():
            if why:
                yield _unreached(f"{rollout.group}:{reached[address, port]}", bypass, f"{address} port {port}", why)
        for name, (address, port) in targets.items():
            if not address:
                yield _of_ipv6_alone(f"{rollout.group}:{name}", port, listening_at[name])

    def _probed(self, addresses: Collection[str], bypass: str) -> Iterator[Finding]:
        """On a spare port at these addresses."""
        try:
            for text in self._probes.probe_gate(self._closed, addresses, bypass):
                yield Finding(
                    "gate.probe",
                    "gate",
                    f"on a spare port of this host the gate {text}",
                    "look for other rules that apply to new connections: iptables-legacy-save, nft list ruleset",
                    severity=Severity.ERROR,
                )
        except GateError as error:
            yield gate_finding(error)
        except OSError as error:
            log.warning("the gate was not probed: no spare port could be used: %s", error, extra={"code": "gate.probe"})


def _endpoints(
    policy: Policy,
    there: Mapping[str, Process],
    listening: Mapping[int, tuple[Endpoint, ...]],
    known: Endpoints,
    held: Collection[str],
) -> Endpoints:
    """The endpoints of each process. ``listening``: those of each pid; not what counts for one that is kept closed
    until it is warm."""
    if not policy.is_auto:
        return {name: endpoints_for(policy, name) for name in there}
    found = {
        name: listening.get(process.pid, ())
        for name, process in there.items()
        if process.warm or name not in held or not known.get(name)
    }
    return {name: found.get(name) or known.get(name, ()) for name in there}


def policy_of(config: Config, group: str) -> Policy:
    """The policy of a group. Raises ConfigError where there is none, or where it is invalid."""
    if group in config.invalid:
        raise ConfigError(config.invalid[group])
    if group not in config.groups:
        there = ", ".join(sorted({*config.groups, *config.invalid})) or "none"
        raise ConfigError(
            f"rolling.yaml has no policy for the group {group} (it has {there}). Fix: add groups.{group}",
            "config.group",
        )
    return config.groups[group]


def config_findings(text: str) -> list[Finding]:
    """A rolling.yaml that cannot be read, as findings: one for each line."""
    return [Finding("config", "config", line, "", severity=Severity.ERROR) for line in text.splitlines() or ["invalid"]]


def finding_of(error: RollingError, group: str) -> Finding:
    """What would refuse a rollout at once, as a finding."""
    return Finding(error.code, group, str(error), "", severity=Severity.ERROR)


def _of_nginx(subject: Subject, listening: Listening, checked: list[str], skipped: list[str]) -> Iterator[Finding]:
    rollout, group = subject.rollout, subject.balancers.nginx
    policy, file = rollout.policy, rollout.policy.balancer.nginx
    if group is None:
        skipped.append(f"nginx's configuration{f' ({file})' if file else ''}: still being read. Fix: check again")
    elif not group.servers and (unread := _unread(subject)):
        yield from unread
    elif group.nginx.is_absent:
        skipped.append(f"nginx's configuration: {group.nginx.problem}")
    elif group.nginx.problem or (file and not group.servers):
        yield nginx.unreadable(group.nginx, policy)
    elif not group.servers:
        skipped.append(
            f"nginx's configuration ({group.nginx.source}): no upstream in it has a port of the group. If the "
            f"load balancer is elsewhere, name it: groups.{rollout.group}.balancer: {{nginx: FILE}}"
        )
    elif rollout.gate.backend == "haproxy":
        checked.append(f"nginx ({group.nginx.source})")
        yield from nginx.beside_haproxy(group)
    else:
        sure = "" if group.is_certain else ", by its ports alone, so that nothing in it refuses a rollout"
        checked.append(f"nginx ({group.nginx.source}, min_ready_seconds {policy.min_ready_seconds:g}{sure})")
        owners = {endpoint: m.name for m in rollout.members for endpoint in m.endpoints}
        yield from nginx.findings(group, policy, rollout.limit, owners, listening.addresses or {})


def _unread(subject: Subject) -> Sequence[Finding]:
    """If the configuration that was read is not that of the nginx which sends to the group."""
    group, policy = subject.balancers.nginx, subject.rollout.policy
    assert group is not None
    if policy.balancer.nginx or (group.nginx.problem and not group.nginx.is_absent):
        return ()
    return list(clients.unread(subject.balancers.clients, policy, group.nginx.source))


def _of_clients(subject: Subject, checked: list[str], skipped: list[str]) -> Iterator[Finding]:
    if subject.rollout.gate.backend == "haproxy":
        return
    if not any(member.ports for member in subject.rollout.members):
        skipped.append(
            "which programs connect to the unix sockets: of load balancers only nginx's configuration is read"
        )
        return
    if not subject.balancers.are_clients_known:
        skipped.append("what connects to the processes: not known yet. Fix: check again")
        return
    group, others = subject.balancers.nginx, subject.balancers.clients
    checked += [f"{one.program.title} ({one.where})" for one in others.balancers]
    yield from clients.findings(others, subject.rollout.policy, bool(group and group.servers))


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


def _unreached(where: str, bypass: str, target: str, why: str) -> Finding:
    return Finding(
        "gate.bypass",
        where,
        f"a warm-up (bypass: {bypass}) does not reach it at {target}: {why}",
        "let it listen on an address that this host reaches, look for a firewall rule that stops connections of this "
        "host to it, or use the other gate.bypass",
        severity=error_if(why != NO_ANSWER),
    )


def _of_ipv6_alone(where: str, port: int, addresses: Sequence[str]) -> Finding:
    return Finding(
        "gate.bypass",
        where,
        f"port {port} listens on {', '.join(addresses)} alone, and gate.bypass: address needs IPv4",
        "set gate: {bypass: mark}, or let it listen on an IPv4 address too",
        severity=Severity.ERROR,
    )


def _invalid(config: Config, group: str) -> Iterable[Finding]:
    """The mistakes in the groups of rolling.yaml, a finding for each: those of this group refuse its rollouts."""
    for name, text in config.invalid.items():
        for line in text.splitlines():
            yield Finding("config", "config", line, "", severity=error_if(name == group))
