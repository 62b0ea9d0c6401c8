"""Wakes supervisord at once when a child exits.

supervisord waits in ``poll()`` for up to a second, and since Python 3.5 a signal does not end that wait: a dead
child is noticed up to a second late. Here the interpreter writes a byte into a pipe for every signal, and the pipe
is in supervisord's socket map, so that ``poll()`` ends.

One exit takes two passes of supervisord's loop: the first reaps the child and puts the event into the listeners'
buffers, the second hands the events out and starts the program again. So when a child was reaped, a byte of our own,
the echo, ends the next wait as well.

There is no echo for a process that exits within a second of its start: with ``startsecs=0`` supervisord would start
such a process hundreds of times a second. Without an echo it does so about once a second, as without this module. The
signal's byte may come after the pass that reaped the process: then it is read when the event says so, or it would end
the next wait like an echo.

Contract: never raises into supervisord; acts once per supervisord, however many HTTP servers it has; before a
``reload`` closes all file descriptors the pipe is taken out again, and the new Supervisor gets its own.

Others use the map, too. A connection from before a reload may still be in it, under the number that the pipe has now:
when it is closed at last, it removes the pipe. So the pipe is put back with the next tick.
"""

from __future__ import annotations

import os
import signal
import time
import weakref
from typing import Any

from supervisor.events import (
    ProcessStateBackoffEvent,
    ProcessStateExitedEvent,
    ProcessStateStoppedEvent,
    SupervisorStoppingEvent,
    Tick5Event,
    subscribe,
)

ECHO = b"\0"  # no signal has number 0
CHILD = bytes([signal.SIGCHLD])

SHORT_LIFE = 1.0
"""Seconds from its start within which a process that exits gets no echo: supervisord starts it up to 1 s later."""

_installed: weakref.WeakSet[Any] = weakref.WeakSet()


def install(supervisord: Any) -> None:
    """Wake this supervisord on signals from now until it stops. Does nothing, and says so in its log, where it
    cannot."""
    if supervisord in _installed:
        return
    try:
        WakeUp(supervisord.options.get_socket_map())
    except Exception as error:  # noqa: BLE001 - whatever it is: supervisord does without, and starts
        supervisord.options.logger.warn("rolling: no wake-up, exits are noticed up to a second late: %s" % error)
    _installed.add(supervisord)


class WakeUp:
    """A dispatcher, as supervisord's loop wants it, for the reading end of the pipe."""

    def __init__(self, socket_map: dict[int, Any]) -> None:
        self.socket_map = socket_map
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        os.set_blocking(self.writing, False)
        try:
            self.previous = signal.set_wakeup_fd(self.writing, warn_on_full_buffer=False)
        except ValueError:  # only the main thread may
            self._close_pipe()
            raise
        self.is_open = True
        self.stay()
        for event in (ProcessStateBackoffEvent, ProcessStateExitedEvent, ProcessStateStoppedEvent):
            subscribe(event, self.reaped)
        subscribe(Tick5Event, self.stay)
        subscribe(SupervisorStoppingEvent, self.close)

    def stay(self, event: Any = None) -> None:
        """Be in the map, also after something took it out."""
        if self.is_open:
            self.socket_map[self.reading] = self

    def readable(self) -> bool:
        """Always true: ``poll`` waits for the pipe."""
        return True

    def writable(self) -> bool:
        """Always false: nothing is written here."""
        return False

    def handle_read_event(self) -> None:
        """Take the bytes out; after a signal other than SIGCHLD, end the next wait as well. There may be none: what
        supervisord reaps in the same pass, for a client that starts or stops a process, takes them out as well."""
        if self._drained().strip(ECHO + CHILD):
            os.write(self.writing, ECHO)

    def reaped(self, event: Any) -> None:
        """End the next wait after an exit, but not after one within a second of its start. Never raises: supervisord
        would end."""
        if not self.is_open:
            return
        try:
            if not _is_flapping(event) or self._drained().strip(CHILD):
                os.write(self.writing, ECHO)
        except Exception:  # noqa: BLE001 - see above; without an echo supervisord goes on after up to a second
            return

    def _drained(self) -> bytes:
        """The bytes in the pipe, which is empty then."""
        try:
            return os.read(self.reading, 4096)
        except BlockingIOError:
            return b""

    def handle_write_event(self) -> None:
        """Never called."""

    def handle_error(self) -> None:
        """supervisord calls this after an exception of a handler: remove the pipe, as if it had never been
        installed."""
        self.close()

    def close(self, event: Any = None) -> None:
        """Remove the pipe, and restore the previous wake-up descriptor. Never raises: supervisord would exit."""
        if not self.is_open:
            return
        self.is_open = False
        try:
            if self.socket_map.get(self.reading) is self:
                del self.socket_map[self.reading]
            _put_back(self.previous)
            self._close_pipe()
        except Exception:  # noqa: BLE001 - supervisord would die of it, and there is nothing left to put back
            return

    def _close_pipe(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


def _is_flapping(event: Any) -> bool:
    """Whether a process exited so soon that to start it again at once would only repeat it. What supervisord stopped,
    or starts again after a delay (BACKOFF), cannot repeat itself."""
    lived = time.time() - event.process.laststart  # below 0: the clock was set back
    return isinstance(event, ProcessStateExitedEvent) and 0 <= lived < SHORT_LIFE


def _put_back(previous: int) -> None:
    """If ours stayed when it is closed, signals would be written into whatever file gets its number."""
    try:
        signal.set_wakeup_fd(previous)
    except (OSError, ValueError):  # it was closed meanwhile
        signal.set_wakeup_fd(-1)
