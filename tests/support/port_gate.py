"""A gate of TCP ports that a test speaks to by their numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from supervisor_rolling.core.connections import Connections
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.preflight_report import Finding


class PortGate:
    """The calls of a ``Gate``, by port; all else is the gate's own."""

    def __init__(self, gate: Any) -> None:
        self.gate = gate

    def hold(self, closed: Mapping[int, str], drained: Collection[int] = ()) -> dict[int, float]:
        found = self.gate.hold({tcp(port): text for port, text in closed.items()}, list(map(tcp, drained)))
        return {endpoint.port: since for endpoint, since in found.items()}

    def inspect(self, ports: Mapping[int, str]) -> Sequence[Finding]:
        found: Sequence[Finding] = self.gate.inspect({tcp(port): name for port, name in ports.items()})
        return found

    def in_flight(self, found: Mapping[int, Connections]) -> dict[int, int]:
        left = self.gate.in_flight({tcp(port): those for port, those in found.items()})
        return {endpoint.port: number for endpoint, number in left.items()}

    def bypassed(self, found: Mapping[int, Connections]) -> frozenset[int]:
        return frozenset(one.port for one in self.gate.bypassed({tcp(port): c for port, c in found.items()}))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.gate, name)
