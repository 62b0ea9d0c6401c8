"""Which process keeps another one from listening: asked while that one cannot come up, and seldom."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.core.port_use import Holder
from supervisor_rolling.core.ports import held_text, may_hold
from supervisor_rolling.core.process import Process
from supervisor_rolling.listener.contracts import Sockets

ASK_EVERY = 5.0
"""Seconds for which an answer holds while the state of the process is the same: to find a holder is to read the open
files of every process of the host."""

ASK_TIMES = 100
"""Times as long as asking took, for which it holds at least: a turn waits for the answer, and gates for the turn."""


class HeldPorts:
    """Remembers what ``Sockets.holders_of`` answered. For one thread."""

    def __init__(self, sockets: Sockets, clock: Callable[[], float]) -> None:
        self._sockets = sockets
        self._clock = clock
        self._found: dict[tuple[int, str], tuple[float, Holder | None]] = {}  # until when it holds

    def of(self, group: str, down: Mapping[str, tuple[Process, tuple[int, ...]]]) -> dict[str, str]:
        """What holds a port of each of these processes, in words; nothing of those whose ports are free. ``down``: each
        with its ports, by name."""
        keys = {(port, process.state): name for name, (process, ports) in down.items() for port in ports}
        asked_at = self._clock()
        fresh = {key: one for key, one in self._found.items() if asked_at < one[0]}
        found = self._ask([port for port, state in keys if (port, state) not in fresh])
        now = self._clock()
        until = now + max(ASK_EVERY, ASK_TIMES * (now - asked_at))
        self._found = {**fresh, **{key: (until, found.get(key[0])) for key in keys if key not in fresh}}
        held = [(name, key[0], self._found[key][1]) for key, name in keys.items()]
        return {
            name: held_text(port, holder, f"{group}:{name}")
            for name, port, holder in held
            if holder is not None and may_hold(holder, f"{group}:{name}")
        }

    def _ask(self, ports: list[int]) -> Mapping[int, Holder]:
        try:
            return self._sockets.holders_of(ports) if ports else {}
        except SocketsError:  # the message then says less
            return {}
