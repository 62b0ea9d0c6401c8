"""Finds out, in the background, which process holds the port of a process that cannot start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.core.port_use import Holder
from supervisor_rolling.core.ports import held_text, may_hold
from supervisor_rolling.core.process import Process
from supervisor_rolling.listener.contracts import Background, Sockets

ASK_EVERY = 5.0
"""Seconds for which an answer holds while the state of the process is the same: to find a holder is to read the open
files of every process of the host."""

ASK_TIMES = 100
"""An answer holds for at least this many times as long as it took to find, so that this costs 1 % of a core at most."""

Key = tuple[int, str]  # a port, and the state of the process that needs it


class HeldPorts:
    """Remembers what ``Sockets.holders_of`` found. For the loop's thread."""

    def __init__(self, sockets: Sockets, background: Background, clock: Callable[[], float]) -> None:
        self._sockets = sockets
        self._background = background
        self._clock = clock
        self._found: dict[Key, tuple[float, Holder | None]] = {}  # until when it holds
        self._asked: tuple[Key, ...] = ()  # being looked up

    def of(self, group: str, down: Mapping[str, tuple[Process, tuple[int, ...]]]) -> dict[str, str]:
        """For each of these processes, what holds one of its ports, in words; nothing where its ports are free, or
        are still being looked up for the first time. ``down``: each process with its ports, by name."""
        keys = {(port, process.state): name for name, (process, ports) in down.items() for port in ports}
        self._look_up(keys)
        held = [(name, key[0], self._last_found(key)) for key, name in keys.items()]
        return {
            name: held_text(port, holder, f"{group}:{name}")
            for name, port, holder in held
            if holder is not None and may_hold(holder, f"{group}:{name}")
        }

    def _last_found(self, key: Key) -> Holder | None:
        """What was found; while that is looked up anew, what was found when the process was in another state: a
        process that supervisord gives up (FATAL) has just been BACKOFF."""
        if key in self._found:
            return self._found[key][1]
        now, port = self._clock(), key[0]
        return next((one for (other, _), (until, one) in self._found.items() if other == port and now < until), None)

    def _look_up(self, keys: Mapping[Key, str]) -> None:
        now = self._clock()
        if not self._asked:
            self._asked = tuple(key for key in keys if now >= self._found.get(key, (0.0, None))[0])
        if not self._asked:
            return
        ports = [port for port, _ in self._asked]
        answer = self._background.run(self._asked, lambda: self._ask(ports))
        if answer is not None:
            found, took = answer
            until = self._clock() + max(ASK_EVERY, ASK_TIMES * took)
            still = {key: one for key, one in self._found.items() if now < one[0]}
            self._found = {**still, **{key: (until, found.get(key[0])) for key in self._asked}}
            self._asked = ()
            self._background.keep(())

    def _ask(self, ports: Sequence[int]) -> tuple[Mapping[int, Holder], float]:
        """The holders, and the seconds that it took. In the background."""
        began = self._clock()
        try:
            found = self._sockets.holders_of(ports)
        except SocketsError:  # the message then says less
            found = {}
        return found, self._clock() - began
