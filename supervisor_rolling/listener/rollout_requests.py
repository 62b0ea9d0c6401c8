"""Requests for a rollout, its plan or its check, and what each becomes.

What takes time is read and tried in the background, step by step: ``answer`` returns False, and the next reconcile
finds the result. So a check of one group never delays the rollout of another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from supervisor_rolling.core import machine
from supervisor_rolling.core.admission import (
    begin,
    check_max_failures,
    check_not_last_serving,
    kept_closed,
    limited,
    narrowed,
    resumed,
)
from supervisor_rolling.core.endpoint import Endpoints, tcp_ports
from supervisor_rolling.core.errors import (
    ConfigError,
    GateBusyError,
    GateError,
    RefusedError,
    RollingError,
    SocketsError,
    fault_of,
)
from supervisor_rolling.core.forecast import forecast
from supervisor_rolling.core.guard_state import GuardState
from supervisor_rolling.core.log_messages import summary
from supervisor_rolling.core.observation import Observation
from supervisor_rolling.core.preflight_report import Finding, Report, Settings
from supervisor_rolling.core.process import Process
from supervisor_rolling.core.reason import with_see
from supervisor_rolling.core.rollout import Rollout, Status
from supervisor_rolling.core.share import parse_share
from supervisor_rolling.core.snapshot import Request, Snapshot
from supervisor_rolling.core.text import MAX_LISTED
from supervisor_rolling.listener.contracts import History, Supervisor
from supervisor_rolling.listener.gatekeeper import Gatekeeper, gate_finding
from supervisor_rolling.listener.load_balancers import LoadBalancers
from supervisor_rolling.listener.preflight import Draft, Preflight, Subject, config_findings, finding_of

log = logging.getLogger("supervisor_rolling")

READ_TIMEOUT = 4.0
"""Seconds for the load balancers' configuration to be read; after that a check goes by what was read before. The client
gives up after ten."""

LOCK_TIMEOUT = 2.0
"""Seconds for which a request waits for the firewall's lock while another program holds it."""


@dataclass
class _Waiting:
    """A request that is being worked on."""

    since: float
    is_verified: bool = False  # the gate of its policy works
    findings: tuple[Finding, ...] = ()  # of the gate, where it does not


@dataclass(frozen=True)
class _Group:
    """What supervisord knows of the group that a request is for."""

    number: int  # of the next rollout
    version: int
    previous: Rollout | None
    guard_state: GuardState | None
    observed: Observation

    @property
    def known(self) -> Endpoints:
        """The endpoints that processes had, as far as a rollout or the crash guard remembers them."""
        before = {member.name: member.endpoints for member in self.previous.members} if self.previous else {}
        return {**before, **{name: one.endpoints for name, one in self.observed.guarded.items()}}

    @property
    def held(self) -> Collection[str]:
        """The processes that are kept closed until they are warm, at the endpoints that they had."""
        return {*kept_closed(self.previous, self.guard_state), *self.observed.guarded}


class RolloutRequests:
    """For the loop's thread. ``is_retrying``: a request waits for something that does not wake the loop."""

    def __init__(
        self,
        supervisor: Supervisor,
        history: History,
        gatekeeper: Gatekeeper,
        balancers: LoadBalancers,
        preflight: Preflight,
        clock: Callable[[], float],
    ) -> None:
        self._supervisor = supervisor
        self._history = history
        self._gatekeeper = gatekeeper
        self._balancers = balancers
        self._preflight = preflight
        self._clock = clock
        self._waiting: dict[int, _Waiting] = {}
        self._last_number = 0  # of a rollout that was recorded after the snapshot
        self.is_retrying = False

    def begin(self, requests: Collection[int]) -> None:
        """Begin a reconcile in which these requests are there: forget the work for others."""
        self.is_retrying = False
        self._waiting = {request: waiting for request, waiting in self._waiting.items() if request in requests}
        self._preflight.keep(requests)

    def answer(self, request: Request, snapshot: Snapshot) -> bool:
        """Answer a request. False: it is not answered yet, and the next reconcile calls again."""
        waiting = self._waiting.setdefault(request.id, _Waiting(self._clock()))
        group = self._group(request, snapshot)
        try:
            return (self._check if request.kind == "check" else self._rollout)(request, waiting, group)
        except (ConfigError, RefusedError, GateError, SocketsError) as error:
            if isinstance(error, GateBusyError) and self._clock() - waiting.since < LOCK_TIMEOUT:
                self.is_retrying = True
                return False
            text = with_see(str(error), error.code)
            log.warning("%s of %s refused: %s", request.kind, request.group, text)
            self._supervisor.refuse(request.id, fault_of(error), text)
            return True

    def _group(self, request: Request, snapshot: Snapshot) -> _Group:
        version, previous = snapshot.rollouts.get(request.group, (0, None))
        guard_state = snapshot.guard_states.get(request.group)
        guarded = {guarded.name: guarded for guarded in guard_state.guarded} if guard_state else {}
        observed = Observation(self._clock(), snapshot.processes[request.group], guarded=guarded)
        known = (rollout.id for _, rollout in snapshot.rollouts.values())
        number = 1 + max(self._history.last_id(), self._last_number, *known)
        return _Group(number, version, previous, guard_state, observed)

    def _rollout(self, request: Request, waiting: _Waiting, group: _Group) -> bool:
        """A restart, a resume or a plan. Raises what refuses it."""
        draft = self._preflight.draft(request, group.observed.processes, group.known, group.held)
        if draft is None:
            return False
        if draft.problem:
            raise draft.problem
        self._verify(waiting, draft, request.group)
        rollout = rollout_for(request, draft, group)
        for objection in objections(rollout, group.observed.processes, request.settings):
            raise objection
        if not self._is_read(waiting, rollout):
            return False
        report = self._preflight.inspect(request.id, self._subject(request, rollout, group))
        if report is None:
            return False
        for finding in report.findings:
            log.warning(
                "%s: %s %s: %s", rollout.group, finding.code, finding.where, finding.text, extra={"code": finding.code}
            )
        if not rollout.force:
            raise_if_blocked(report)
        if request.kind == "plan":
            self._supervisor.plan(request.id, machine.planned(self._forecast(rollout), group.observed))
            return True
        if request.kind != "resume":  # the last rollouts do not say how long half of one takes
            rollout = self._forecast(rollout)
        self._supervisor.record(self._with_min_ready(rollout), group.version, request.id)
        self._last_number = rollout.id
        log.info("%s rollout %d begins: %s, %d at a time", rollout.group, rollout.id, summary(rollout), rollout.limit)
        return True

    def _check(self, request: Request, waiting: _Waiting, group: _Group) -> bool:
        """Answer with everything there is to say; what would refuse a rollout is a finding among others."""
        try:
            draft = self._preflight.draft(request, group.observed.processes, group.known, group.held)
        except ConfigError as error:
            self._supervisor.report(request.id, Report(request.group, tuple(config_findings(str(error)))))
            return True
        if draft is None:
            return False
        try:
            self._verify(waiting, draft, request.group)
        except GateError as error:
            waiting.is_verified, waiting.findings = True, (gate_finding(error),)
        found = [*draft.findings, *waiting.findings]
        try:
            if draft.problem:
                raise draft.problem
            rollout = rollout_for(request, draft, group)
        except (ConfigError, RefusedError, SocketsError) as error:
            if request.group not in draft.config.invalid:
                found.append(finding_of(error, request.group))
            self._supervisor.report(request.id, Report(request.group, tuple(found)))
            return True
        found += [
            finding_of(error, request.group)
            for error in objections(rollout, group.observed.processes, request.settings)
        ]
        if not self._gatekeeper.knows:  # so soon after the start, nothing was held yet
            self.is_retrying = True
            return False
        if not self._is_read(waiting, rollout):
            return False
        report = self._preflight.inspect(request.id, self._subject(request, rollout, group, found))
        if report is None:
            return False
        self._supervisor.report(request.id, report)
        return True

    def _verify(self, waiting: _Waiting, draft: Draft, group: str) -> None:
        """Once for a request. A group without ports of its own needs no firewall."""
        policy = draft.config.groups.get(group)
        every = [one for endpoints in draft.endpoints.values() for one in endpoints]
        needs_gate = policy is None or (policy.ports.are_own and not (every and not tcp_ports(every)))
        if not waiting.is_verified and needs_gate:
            self._gatekeeper.verify(draft.config.gate)
        waiting.is_verified = True

    def _is_read(self, waiting: _Waiting, rollout: Rollout) -> bool:
        are_read = self._balancers.are_read(rollout.policy, endpoints_of(rollout), rollout.gate.backend, waiting.since)
        return are_read or self._clock() - waiting.since >= READ_TIMEOUT

    def _subject(
        self, request: Request, rollout: Rollout, group: _Group, findings: Collection[Finding] = ()
    ) -> Callable[[], Subject]:
        """Made only when the inspection begins."""
        rollout = self._with_min_ready(rollout)

        def subject() -> Subject:
            return Subject(
                kind=request.kind,
                rollout=rollout,
                observed=group.observed,
                settings=request.settings,
                gate=self._gatekeeper.facts(
                    {one: m.name for m in rollout.members if m.selected for one in m.endpoints}
                ),
                balancers=self._balancers.found(rollout.policy, endpoints_of(rollout)),
                findings=tuple(findings),
            )

        return subject

    def _with_min_ready(self, rollout: Rollout) -> Rollout:
        policy = self._balancers.with_min_ready(rollout.policy, endpoints_of(rollout), rollout.gate.backend)
        return replace(rollout, policy=policy)

    def _forecast(self, rollout: Rollout) -> Rollout:
        rollout = self._with_min_ready(rollout)
        return replace(rollout, forecast=forecast(rollout, self._history.cycles(rollout.group)))


def rollout_for(request: Request, draft: Draft, group: _Group) -> Rollout:
    """The rollout that a request asks for, whatever ``objections`` there are. Raises ConfigError or RefusedError where
    there is none to make."""
    policy, processes = draft.config.groups[request.group], group.observed.processes
    failed = kept_closed(group.previous, group.guard_state)
    try:
        rollout = begin(group.number, policy, draft.config.gate, group.observed, draft.endpoints, failed)
    except ConfigError as error:
        place = draft.config.places.get(request.group)
        raise ConfigError(f"{place}: {error}" if place else str(error), error.code) from None
    if request.kind == "resume":
        rollout = _resumed(rollout, group.previous, processes)
    if request.max_unavailable:
        rollout = limited(rollout, parse_share(request.max_unavailable))
    if request.kind == "resume":
        return rollout
    rollout = replace(rollout, max_unavailable=request.max_unavailable, following=request.following)
    rollout = replace(rollout, force=request.force, by=request.by, user=request.user)
    return narrowed(replace(rollout, client=request.client, began=request.began), request.processes)


def objections(rollout: Rollout, processes: Mapping[str, Process], settings: Settings) -> Iterator[RollingError]:
    """Everything in the policy and the process table by which a rollout is refused before anything is touched:
    ConfigErrors and RefusedErrors."""
    checks: list[Callable[[], None]] = [
        lambda: check_max_failures(rollout),
        lambda: check_not_last_serving(rollout, processes, settings),
    ]
    for check in checks:
        try:
            check()
        except RollingError as error:
            yield error


def raise_if_blocked(report: Report) -> None:
    """Raise RefusedError if a check found errors, with a line for each."""
    errors = [finding for finding in report.findings if finding.is_error]
    if errors:
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        more = [f"and {len(errors) - MAX_LISTED} more"] if len(errors) > MAX_LISTED else []
        ways = (
            f"All of them: supervisorctl rolling_check {report.group}. To ignore them: supervisorctl rolling_restart "
            f"{report.group} --force"
        )
        head = f"a rollout of {report.group} is refused because of {count}:"
        raise RefusedError("\n".join([head, *map(_finding_text, errors[:MAX_LISTED]), *more, ways]))


def endpoints_of(rollout: Rollout) -> Endpoints:
    """The endpoints of each member."""
    return {member.name: member.endpoints for member in rollout.members}


def _finding_text(finding: Finding) -> str:
    fix = f". Fix: {finding.fix}" if finding.fix else ""
    return with_see(f"{finding.where}: {finding.text}{fix}" if finding.where else f"{finding.text}{fix}", finding.code)


def _resumed(rollout: Rollout, previous: Rollout | None, processes: Mapping[str, Process]) -> Rollout:
    if previous is None or previous.status is Status.RUNNING:
        raise RefusedError(
            f"no rollout of {rollout.group} has failed or was aborted: there is nothing to resume", "rollout.unknown"
        )
    return resumed(rollout, previous, processes)
