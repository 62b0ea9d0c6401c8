"""One gate for ports at a time, that for unix sockets beside it, and what is known of both: the listener's memory of
what it holds closed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from supervisor_rolling.core.connections import Connections
from supervisor_rolling.core.endpoint import Endpoint, endpoints_text
from supervisor_rolling.core.errors import GateBusyError, GateError, PartlyClosedError
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.core.preflight_report import Finding, Severity
from supervisor_rolling.listener.contracts import Gate, RequestCounter, SparePorts

log = logging.getLogger("supervisor_rolling")

T = TypeVar("T")

Place = tuple[object, ...]

PROBE_COMMENT = "a probe, gone in a moment"


@dataclass(frozen=True)
class GateFacts:
    """What the loop knows of the gate in force, for a check in the background."""

    description: str  # see ``Gate``
    is_firewall: bool  # it closes any port, and not only those that a load balancer knows
    is_known: bool  # what is closed is known: before the first ``hold``, an earlier listener may have closed others
    closed: frozenset[Endpoint]
    findings: tuple[Finding, ...]  # what others have done so that it could not close a port


class Gatekeeper:
    """Holds ports closed with the gate of the policy in force. For the loop's thread.

    Another gate comes into force when it holds all that is to be closed, and only then does the first one let go: a
    policy with a typing error opens nothing.
    """

    def __init__(self, make_gate: Callable[[GatePolicy], Gate], path_gate: Gate, spare_ports: SparePorts) -> None:
        self._make_gate = make_gate
        self._path_gate = path_gate
        self._spare_ports = spare_ports
        self._policy: GatePolicy | None = None
        self._gate: Gate | None = None
        self._next: tuple[GatePolicy, Gate] | None = None
        self._old_gates: dict[Place, Gate] = {}
        self._policy_problem = ""  # with the policy that is to be in force, and is not
        self._held: Mapping[Endpoint, str] = {}
        self._drained: Collection[Endpoint] = ()
        self.knows = False  # what is closed: there has been a ``hold``
        self.closed_since: Mapping[Endpoint, float] = {}  # as the last ``hold`` found it
        self.problem = ""  # of the last ``hold``
        self.is_busy = False  # another program holds the lock: worth a try soon

    @property
    def is_holding(self) -> bool:
        """Whether any port is to be closed."""
        return bool(self._held)

    @property
    def bypass(self) -> str:
        """How a warm-up passes the gate in force; empty where there is none yet."""
        return self._policy.bypass if self._policy else ""

    def verify(self, policy: GatePolicy) -> None:
        """Hold with a gate of this policy from now on, and prove that it can work. Raises GateError where it cannot;
        then the one before it holds on."""
        gate = self._gate_of(policy)
        gate.check()
        problem = self._replace(policy, gate, self._held, self._drained) if gate is not self._gate else ""
        if problem:
            raise GateError(problem)

    def hold_by(self, policy: GatePolicy, closed: Mapping[Endpoint, str], drained: Collection[Endpoint] = ()) -> None:
        """``hold`` with the gate of a rollout's own policy: a new listener goes on with it, whatever the YAML says now.
        Where that does not work the one before it still holds the ports, and ``problem`` says so."""
        if closed.keys() <= _of(self._path_gate, closed).keys():
            self._policy_problem = ""
            self._hold(closed, drained)
            return
        try:
            gate = self._gate_of(policy)
        except GateError as error:
            self._policy_problem = str(error)
            self._hold(closed, drained)
            self.is_busy = isinstance(error, GateBusyError)
            return
        is_in_force = gate is self._gate
        self._policy_problem = "" if is_in_force else self._replace(policy, gate, closed, drained)
        if is_in_force or self._policy_problem:
            self._hold(closed, drained)

    def hold(self, closed: Mapping[Endpoint, str]) -> None:
        """Close exactly these endpoints. One that did not close is not in ``closed_since``; ``problem`` says why."""
        self._policy_problem = ""
        self._hold(closed)

    def _hold(self, closed: Mapping[Endpoint, str], drained: Collection[Endpoint] = ()) -> None:
        self._held, self._drained = closed, drained
        self.knows = True
        of_paths, path_problem = self._held_by(self._path_gate, closed, drained)
        found, problem = self._hold_ports(closed, drained) if self._gate is not None else ({}, self._policy_problem)
        self._note({**found, **of_paths}, path_problem or problem)

    def _hold_ports(
        self, closed: Mapping[Endpoint, str], drained: Collection[Endpoint]
    ) -> tuple[Mapping[Endpoint, float], str]:
        assert self._gate is not None
        spare = self._spare_ports.wanted()
        found, problem = self._held_by(self._gate, {**closed, **dict.fromkeys(spare, PROBE_COMMENT)}, drained)
        if not self.is_busy:
            self._spare_ports.report_held(found, problem)
        if spare:
            found = {port: since for port, since in found.items() if port in closed}
        opened = [one for one, since in found.items() if since > self.closed_since.get(one, since)]
        if opened:
            log.warning(
                "%s: the firewall rule was missing and has been restored (another program removed it, its lease "
                "expired, or HAProxy was reloaded)",
                endpoints_text(opened),
                extra={"code": "gate.restored"},
            )
        return found, problem or self._open_old_gates() or self._policy_problem

    def facts(self, endpoints: Mapping[Endpoint, str]) -> GateFacts:
        """What is known of the gates for these endpoints, and what keeps them from being closed."""
        gates = [gate for gate in (self._gate, self._path_gate) if gate is not None and _of(gate, endpoints)]
        return GateFacts(
            "; ".join(gate.description for gate in gates) or "none",
            self._gate in gates and not isinstance(self._gate, RequestCounter),
            self.knows,
            frozenset(self.closed_since),
            tuple(finding for gate in gates for finding in _inspected(gate, endpoints)),
        )

    def renew(self) -> None:
        """Hold what was held, so that ``closed_since`` is true of now; also open what a lock kept closed, and close or
        open spare ports."""
        if self._held or self.is_busy or self._spare_ports.is_pending:
            self._hold(self._held, self._drained)

    def in_flight(self, found: Mapping[Endpoint, Connections]) -> Mapping[Endpoint, int] | None:
        """How much is left on each of these ports, where the gate knows better than the kernel, which found these
        connections; None where it does not. One that cannot tell now leaves all that the kernel found."""
        if not isinstance(self._gate, RequestCounter):
            return None
        counted = {endpoint: len(those.peers) for endpoint, those in found.items()}
        try:
            return {**counted, **self._gate.in_flight(_of(self._gate, found))}
        except GateError as error:
            self._note(self.closed_since, str(error))
            return counted

    def bypassed(self, found: Mapping[Endpoint, Connections]) -> frozenset[Endpoint]:
        """The endpoints that get connections past the gate; see ``RequestCounter.bypassed``."""
        try:
            return (
                self._gate.bypassed(_of(self._gate, found)) if isinstance(self._gate, RequestCounter) else frozenset()
            )
        except GateError as error:
            self._note(self.closed_since, str(error))
            return frozenset()

    def _gate_of(self, policy: GatePolicy) -> Gate:
        """That in force, or the one that was to be before, or a new one."""
        if self._gate is not None and policy == self._policy:
            return self._gate
        if self._next is None or self._next[0] != policy:
            self._next = (policy, self._make_gate(policy))
        return self._next[1]

    def _replace(
        self, policy: GatePolicy, gate: Gate, closed: Mapping[Endpoint, str], drained: Collection[Endpoint]
    ) -> str:
        """Put a gate in force that holds all of ``closed``, or return why it does not. It opens nothing yet if nothing
        is known to be closed: the first observation may find what an earlier listener has closed."""
        wanted = _of(gate, closed)
        found, problem = self._held_by(gate, wanted, drained) if wanted else ({}, "")
        old, old_place = self._gate, _place(self._gate, self._policy)
        place = _place(gate, policy)
        if old is not None and not found.keys() >= wanted.keys():
            if found and place != old_place:
                self._old_gates[place] = gate
            return problem or "the gate of the changed policy could not close all ports"
        self._gate, self._policy, self._next = gate, policy, None
        self._held, self._drained = closed, drained
        self.closed_since = _of(self._path_gate, self.closed_since)  # a new gate knows nothing of what it finds
        self._old_gates.pop(place, None)
        if old is not None and old_place != place:
            self._old_gates[old_place] = old
        self._note({**_of(self._path_gate, self.closed_since), **found}, problem or self._open_old_gates())
        return ""

    def _open_old_gates(self) -> str:
        """Have the gates that are not in force open all; one that did not is asked again the next time: a firewall
        forgets by itself, HAProxy does not. What went wrong, if anything."""
        problems = {place: self._held_by(gate, {})[1] for place, gate in self._old_gates.items()}
        self._old_gates = {place: self._old_gates[place] for place, problem in problems.items() if problem}
        return "; ".join(filter(None, problems.values()))

    def _held_by(
        self, gate: Gate, closed: Mapping[Endpoint, str], drained: Collection[Endpoint] = ()
    ) -> tuple[Mapping[Endpoint, float], str]:
        """What a gate holds of this, each endpoint that it can close with its moment; and what went wrong, if
        anything."""
        self.is_busy = False
        try:
            return gate.hold(_of(gate, closed), [one for one in drained if one.kind in gate.closes]), ""
        except PartlyClosedError as error:
            self.is_busy = isinstance(error, GateBusyError)
            return error.closed, str(error)
        except GateError as error:
            return {}, str(error)

    def _note(self, closed_since: Mapping[Endpoint, float], problem: str) -> None:
        if problem and problem != self.problem:
            log.error("the gate could not close or open all ports: %s", problem, extra={"code": "gate"})
        elif self.problem and not problem:
            log.info("the gate works again")
        self.closed_since, self.problem = closed_since, problem


def _of(gate: Gate, found: Mapping[Endpoint, T]) -> dict[Endpoint, T]:
    """Those that a gate can close."""
    return {endpoint: value for endpoint, value in found.items() if endpoint.kind in gate.closes}


def _inspected(gate: Gate, endpoints: Mapping[Endpoint, str]) -> Sequence[Finding]:
    try:
        return gate.inspect(_of(gate, endpoints))
    except GateError as error:
        return [gate_finding(error)]


def gate_finding(error: GateError) -> Finding:
    """That a gate does not work, as a finding."""
    return Finding(error.code, "gate", str(error), "", severity=Severity.ERROR)


def _place(gate: Gate | None, policy: GatePolicy | None) -> Place:
    """Where a gate keeps what it closes: two in one place write over each other, and need no letting go. Not the
    backend's name: that is no other place where it was ``auto`` and says now what ``auto`` had found."""
    return (type(gate), policy.method, policy.socket, policy.backend_name) if policy else ()
