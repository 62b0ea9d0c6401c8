"""The event listener's side of supervisord's protocol: frames in, two tokens out.

An event is acknowledged as soon as it is read, whatever comes of it: to lose one costs a delay, never correctness.

Bytes that are no frame are skipped, up to the next line that is a header. There are such: supervisord counts a payload
in characters, so that one that is not ASCII is longer than its header says, and every client of ``sendProcessStdin``
writes here. The log has only their number: they may hold the listener's key, and XML-RPC clients can read the log.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from supervisor_rolling.core.process import Change

log = logging.getLogger("supervisor_rolling")

READY = b"READY\n"
OK = b"RESULT 2\nOK"
STATE_EVENT = "PROCESS_STATE_"
KEY_EVENT = "ROLLING_REQUEST"
MAX_HEADER = 4096
MAX_PAYLOAD = 16 << 20

FRAME_TIMEOUT = 5.0
"""Seconds without a byte after which an incomplete frame is given up: supervisord writes a frame at once."""

LOG_EVERY = 60.0
"""Seconds between two lines in the log about what was skipped."""

_LENGTH = re.compile(rb"[0-9]{1,9}")


@dataclass(frozen=True)
class Event:
    """One event: supervisord's name for it, and its payload as it came."""

    name: str
    payload: bytes


def changes_in(events: Iterable[Event]) -> Iterator[Change]:
    """The changes in the PROCESS_STATE events among these. Other events, and unreadable ones, lead to a reconcile."""
    for event in events:
        if event.name.startswith(STATE_EVENT):
            fields = dict(token.split(b":", 1) for token in event.payload.split() if b":" in token)
            with contextlib.suppress(KeyError, ValueError):
                yield _change(event.name[len(STATE_EVENT) :], {key: text.decode() for key, text in fields.items()})


def _change(state: str, fields: Mapping[bytes, str]) -> Change:
    return Change(
        group=fields[b"groupname"],
        name=fields[b"processname"],
        state=state,
        from_state=fields[b"from_state"],
        pid=int(fields.get(b"pid", "0")),
    )


def keys_in(events: Iterable[Event]) -> Iterator[str]:
    """The listener's key, from each doorbell among these."""
    for event in events:
        name, _, key = event.payload.partition(b":")
        if event.name == KEY_EVENT and name == b"key":
            yield key.decode("ascii", "replace")


class Frames:
    """Cuts a stream of bytes, in whatever pieces it comes, into events. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buffer = bytearray()
        self._fed_at = clock()
        self._awaited = 0  # bytes up to the payload of the frame that is not complete yet; 0: there is none
        self.skipped = 0  # bytes that were no frame, since they were logged last

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete with these bytes."""
        self._buffer += data
        self._fed_at = self._clock()
        return self._cut(0)

    def overdue(self) -> list[Event]:
        """Give up a frame that has stayed incomplete for too long, because its length is wrong. Returns the events that
        were taken for its payload."""
        if not self._awaited or self._clock() - self._fed_at < FRAME_TIMEOUT:
            return []
        self.skipped += self._awaited
        return self._cut(self._awaited)

    def _cut(self, at: int) -> list[Event]:
        """All events from there on; what is not complete stays in the buffer."""
        events: list[Event] = []
        buffer, self._awaited = self._buffer, 0
        while (end := buffer.find(b"\n", at)) >= 0:
            skipped, name, length = _header(bytes(buffer[max(at, end - MAX_HEADER) : end]))
            after = end + 1
            if length >= 0 and len(buffer) < after + length:
                self._awaited = after - at
                break
            self.skipped += max(0, end - MAX_HEADER - at) + skipped
            if length >= 0:
                events.append(Event(name, bytes(buffer[after : after + length])))
            at = after + max(0, length)
        del buffer[:at]
        self._forget_what_is_too_long()
        return events

    def _forget_what_is_too_long(self) -> None:
        """Of a line without an end, only its last bytes can be a header."""
        too_long = len(self._buffer) - MAX_HEADER
        if too_long > 0 and not self._awaited:
            self.skipped += too_long
            del self._buffer[:too_long]


def _header(line: bytes) -> tuple[int, str, int]:
    """How many bytes of the line are no header, and the event's name and length; -1 where there is no header in it.

    A header stands at the end of its line. The name of a supervisord, which is in it, may hold blanks and anything.
    """
    begin = 0 if line.startswith(b"ver:") else line.find(b"ver:3.0 server:")
    name, length = _value_of(b" eventname:", line), _value_of(b" len:", line)
    if begin < 0 or not name or not _LENGTH.fullmatch(length) or int(length) > MAX_PAYLOAD:
        return len(line) + 1, "", -1
    return begin, name.decode("ascii", "replace"), int(length)


def _value_of(key: bytes, line: bytes) -> bytes:
    at = line.rfind(key)
    return line[at + len(key) :].partition(b" ")[0] if at >= 0 else b""


class Channel:
    """Events from one file descriptor, acknowledged on another."""

    def __init__(self, reading: int, writing: int, clock: Callable[[], float]) -> None:
        self._reading = reading
        self._writing = writing
        self._clock = clock
        self._frames = Frames(clock)
        self._log_from = clock()
        self.key = ""  # the listener's, in the last event with one

    def begin(self) -> None:
        """Ask supervisord for events."""
        os.write(self._writing, READY)

    def fileno(self) -> int:
        """For ``select``."""
        return self._reading

    def receive(self) -> list[Event] | None:
        """Read once, which must not block now, and acknowledge. None at the end of the file: supervisord is gone."""
        data = os.read(self._reading, 65536)
        return self._acknowledged(self._frames.feed(data)) if data else None

    def overdue(self) -> list[Event] | None:
        """Events that a wrong length had hidden. Call it now and then. None: supervisord is gone."""
        return self._acknowledged(self._frames.overdue())

    def _acknowledged(self, events: list[Event]) -> list[Event] | None:
        """Once for all: supervisord sends the next event when the last one is acknowledged, so of several at once only
        one is its own, and one acknowledgement too many ends the events of this listener for ever."""
        self._log_skipped()
        self.key = [self.key, *keys_in(events)][-1]
        try:
            if events:
                os.write(self._writing, OK + READY)
        except BrokenPipeError:
            return None
        return events

    def _log_skipped(self) -> None:
        if self._frames.skipped and self._clock() >= self._log_from:
            log.warning(
                "skipped %d bytes on standard input that are no event: supervisord counts a name with an accent too "
                "short, and supervisorctl fg and sendProcessStdin write there. If no events come any more, gates close "
                "a little later. Fix: supervisorctl restart rolling",
                self._frames.skipped,
                extra={"code": "listener.input"},
            )
            self._frames.skipped = 0
            self._log_from = self._clock() + LOG_EVERY
