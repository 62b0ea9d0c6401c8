"""One gate at a time, and what is known of it: the roller's memory of what it holds closed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from supervisor_rolling.errors import GateError
from supervisor_rolling.in_listener.contracts import Counting, Gate
from supervisor_rolling.model import Connections, GatePolicy

log = logging.getLogger("supervisor_rolling")


class Gatekeeper:
    """Holds ports closed with the gate of the policy in force. ``closed_since`` and ``problem`` are of the last
    ``hold``."""

    def __init__(self, make_gate: Callable[[GatePolicy], Gate]) -> None:
        self._make_gate = make_gate
        self._policy: GatePolicy | None = None
        self._gate: Gate | None = None
        self._held: Mapping[int, str] = {}
        self.closed_since: Mapping[int, float] = {}
        self.problem = ""

    def prove(self, policy: GatePolicy) -> None:
        """Hold with a gate of this policy from now on, and prove that it can work. Raises GateError where it cannot."""
        self._take(policy).check()

    def hold_by(self, policy: GatePolicy, closed: Mapping[int, str]) -> None:
        """``hold`` with the gate of a roll's own policy: a new listener goes on with it, whatever the YAML says now."""
        try:
            self._take(policy)
        except GateError as error:
            self._note({}, str(error))
            return
        self.hold(closed)

    def hold(self, closed: Mapping[int, str]) -> None:
        """Close exactly these ports. One that did not close is not in ``closed_since``; ``problem`` says why."""
        self._held = closed
        if self._gate is None:
            return
        try:
            found = self._gate.hold(closed)
        except GateError as error:
            self._note({}, str(error))
            return
        opened = [str(port) for port, since in found.items() if since > self.closed_since.get(port, since)]
        if opened:
            log.warning(
                "found open and closed again: port %s (somebody removed the rule, its lease was over, or HAProxy was "
                "reloaded)",
                ", ".join(opened),
            )
        self._note(found, "")

    def renew(self) -> None:
        """Hold what was held, so that ``closed_since`` is true of now."""
        if self._held:
            self.hold(self._held)

    def left(self, found: Mapping[int, Connections]) -> Mapping[int, int] | None:
        """How much is left on each of these ports, where the gate knows better than the kernel, which found these
        connections; None where it does not. One that cannot tell now leaves all that the kernel found."""
        if not isinstance(self._gate, Counting):
            return None
        try:
            return self._gate.left(found)
        except GateError as error:
            self._note(self.closed_since, str(error))
            return {port: len(those.peers) for port, those in found.items()}

    def _take(self, policy: GatePolicy) -> Gate:
        """The gate of this policy. What is held is held by it before another lets go of it."""
        if self._gate is not None and policy == self._policy:
            return self._gate
        old, old_policy = self._gate, self._policy
        self._gate, self._policy = self._make_gate(policy), policy
        self.closed_since = {}  # a new gate knows nothing of what it finds
        self.renew()
        if old is not None and old_policy is not None and _place(old, old_policy) != _place(self._gate, policy):
            self._note(self.closed_since, _release(old))
        return self._gate

    def _note(self, closed_since: Mapping[int, float], problem: str) -> None:
        if problem and problem != self.problem:
            log.error("the gate does not hold: %s", problem)
        self.closed_since, self.problem = closed_since, problem


def _place(gate: Gate, policy: GatePolicy) -> tuple[object, ...]:
    """Where a gate keeps what it closes: two in one place write over each other, and need no letting go. Not the
    backend's name: that is no other place where it was ``auto`` and says now what ``auto`` had found."""
    return (type(gate), policy.method, policy.socket, policy.backend_name)


def _release(gate: Gate) -> str:
    """Let go of everything; what went wrong, if anything: the lease ends all the same."""
    try:
        gate.hold({})
    except GateError as error:
        return str(error)
    return ""
