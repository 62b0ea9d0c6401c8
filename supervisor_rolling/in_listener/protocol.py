"""The event listener's side of supervisord's protocol: frames in, two tokens out.

An event is acknowledged as soon as it is read, whatever comes of it: losing one costs a delay, never correctness.

Whatever cannot be a frame raises ``ProtocolError``: there is no way to find the next frame
again, and supervisord starts a new listener, which loses nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from supervisor_rolling.model import Change

READY = b"READY\n"
OK = b"RESULT 2\nOK"
STATE_EVENT = "PROCESS_STATE_"
LONGEST_HEADER = 4096
LONGEST_PAYLOAD = 16 << 20


class ProtocolError(Exception):
    """What came is not supervisord's event protocol."""


@dataclass(frozen=True)
class Event:
    """One event: supervisord's name for it, and its payload as it came."""

    name: str
    payload: bytes


def changes_in(events: Iterable[Event]) -> Iterator[Change]:
    """What the PROCESS_STATE events among these say; others, and what cannot be read, say nothing: a look follows."""
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


class Frames:
    """Cuts a stream of bytes, in whatever pieces it comes, into events."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete with these bytes. Raises ProtocolError."""
        self._buffer += data
        events: list[Event] = []
        while True:
            event = self._cut()
            if event is None:
                return events
            events.append(event)

    def _cut(self) -> Event | None:
        line, newline, rest = self._buffer.partition(b"\n")
        if len(line) > LONGEST_HEADER:
            raise ProtocolError(f"a header of more than {LONGEST_HEADER} bytes: {line[:80]!r}…")
        if not newline:
            return None
        name, length = _header(line)
        if len(rest) < length:
            return None
        self._buffer = rest[length:]
        return Event(name, rest[:length])


def _header(line: bytes) -> tuple[str, int]:
    try:
        fields = dict(token.split(":", 1) for token in line.decode("ascii").split())
        name, length = fields["eventname"], int(fields["len"])
    except (UnicodeDecodeError, ValueError, KeyError):
        raise ProtocolError(f"not an event header: {line[:80]!r}") from None
    if not 0 <= length <= LONGEST_PAYLOAD:
        raise ProtocolError(f"an event of an impossible length: {line[:80]!r}")
    return name, length


class Channel:
    """Events from one file descriptor, acknowledged on another."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing
        self._frames = Frames()

    def begin(self) -> None:
        """Tell supervisord that we take events."""
        os.write(self._writing, READY)

    def fileno(self) -> int:
        """For ``select``."""
        return self._reading

    def receive(self) -> list[Event] | None:
        """Read once, which must not block now, and acknowledge. None at the end of the file: supervisord is gone."""
        data = os.read(self._reading, 65536)
        if not data:
            return None
        events = self._frames.feed(data)
        try:
            for _ in events:
                os.write(self._writing, OK + READY)
        except BrokenPipeError:
            return None
        return events
