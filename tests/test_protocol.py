"""supervisord's events as bytes: in whatever pieces they come, and whatever else comes."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supervisor import events
from supervisor.states import ProcessStates, getProcessStateDescription
from supervisor.tests.base import DummyOptions, DummyPConfig, DummyPGroupConfig, DummyProcess, DummyProcessGroup

from supervisor_rolling.in_listener.protocol import (
    LONGEST_HEADER,
    LONGEST_PAYLOAD,
    Channel,
    Event,
    Frames,
    ProtocolError,
    changes_in,
)
from supervisor_rolling.model import Change

HEADER = b"ver:3.0 server:supervisor serial:21 pool:rolling poolserial:10 eventname:%s len:%d\n"

NAMES = st.sampled_from(["TICK_5", "ROLLING_ASKED", "PROCESS_STATE_EXITED"])
EVENTS = st.lists(st.builds(Event, NAMES, st.binary(max_size=60)), max_size=6)


def frame(name: str, payload: bytes = b"") -> bytes:
    return HEADER % (name.encode(), len(payload)) + payload


def stream(events: list[Event]) -> bytes:
    return b"".join(frame(event.name, event.payload) for event in events)


def fed(pieces: Iterator[bytes] | list[bytes]) -> list[Event]:
    frames = Frames()
    return [event for piece in pieces for event in frames.feed(piece)]


# --- frames


def test_an_event_that_comes_byte_by_byte_is_one_event() -> None:
    events = [Event("TICK_5", b"when:1201063880"), Event("ROLLING_ASKED", b"group:app roll:1\n{}")]
    data = stream(events)
    assert fed([data[n : n + 1] for n in range(len(data))]) == events


def test_an_event_is_given_with_its_last_byte_and_not_before() -> None:
    frames, data = Frames(), frame("TICK_5", b"when:1")
    assert frames.feed(data[:-1]) == []
    assert frames.feed(data[-1:]) == [Event("TICK_5", b"when:1")]
    assert frames.feed(b"") == []


def test_many_events_in_one_piece_are_given_at_once_and_the_rest_is_kept() -> None:
    frames = Frames()
    data = frame("TICK_5", b"a") + frame("TICK_5") + frame("TICK_60", b"b")
    assert [event.payload for event in frames.feed(data[:-1])] == [b"a", b""]
    assert frames.feed(data[-1:]) == [Event("TICK_60", b"b")]


def test_a_payload_is_given_as_it_came_whatever_it_holds() -> None:
    payload = b"\n\xff\xfe ver:3.0 len:5\n\0\r\n"
    assert fed([frame("TICK_5", payload)]) == [Event("TICK_5", payload)]


@given(EVENTS, st.data())
@settings(deadline=None)
def test_how_the_stream_is_cut_makes_no_difference(events: list[Event], data: st.DataObject) -> None:
    text = stream(events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    assert fed([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]) == events


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_no_bytes_do_anything_but_give_events_or_raise_a_protocol_error(junk: bytes) -> None:
    frames = Frames()
    with contextlib.suppress(ProtocolError):
        assert all(isinstance(event, Event) for event in frames.feed(junk) + frames.feed(b"\n"))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"hello",
        b"ver:3.0 len:5",
        b"ver:3.0 eventname:TICK_5",
        b"eventname:TICK_5 len:",
        b"eventname:TICK_5 len:five",
        b"eventname:TICK_5 len:1.5",
        b"eventname:TICK_5 len:0x10",
        b"eventname:TICK_5 len:-1",
        b"eventname:TICK_5 len:%d" % (LONGEST_PAYLOAD + 1),
        b"eventname:TICK_5 len:" + b"9" * 4000,
        b"eventname:TICK_5 colon len:5",
        b"eventname:T\xc3\x84CK len:5",
        b"\xff\xfe\x00 eventname:TICK_5 len:5",
        b"GET / HTTP/1.1\r",
    ],
    ids=lambda header: repr(header[:40]),
)
def test_what_is_no_header_raises_and_is_shown(header: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        Frames().feed(header + b"\nxxxxx")
    assert repr(header[:80])[2:-1] in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_header_without_an_end_is_not_collected_for_ever() -> None:
    frames = Frames()
    assert frames.feed(b"x" * LONGEST_HEADER) == []
    with pytest.raises(ProtocolError, match="header of more than 4096 bytes"):
        frames.feed(b"x")


def test_a_payload_may_be_as_long_as_it_is_allowed_to_be() -> None:
    payload = b"x" * LONGEST_PAYLOAD
    assert fed([HEADER % (b"TICK_5", LONGEST_PAYLOAD), payload]) == [Event("TICK_5", payload)]


# --- what the events say


def told(kind: type, from_state: int, pid: int = 0, **arguments: object) -> Event:
    """An event as supervisord itself words it."""
    process = DummyProcess(DummyPConfig(DummyOptions(), "web_1", "/bin/true"))
    process.group, process.pid = DummyProcessGroup(DummyPGroupConfig(DummyOptions(), "app")), pid
    payload: str = kind(process, from_state, **arguments).payload()
    return Event(events.getEventNameByType(kind), payload.encode())


@pytest.mark.parametrize(
    ("state", "kind", "from_state", "pid"),
    [
        ("STARTING", events.ProcessStateStartingEvent, ProcessStates.STOPPED, 0),
        ("RUNNING", events.ProcessStateRunningEvent, ProcessStates.STARTING, 100),
        ("BACKOFF", events.ProcessStateBackoffEvent, ProcessStates.STARTING, 0),
        ("STOPPING", events.ProcessStateStoppingEvent, ProcessStates.RUNNING, 100),
        ("EXITED", events.ProcessStateExitedEvent, ProcessStates.RUNNING, 100),
        ("STOPPED", events.ProcessStateStoppedEvent, ProcessStates.STOPPING, 100),
        ("FATAL", events.ProcessStateFatalEvent, ProcessStates.BACKOFF, 0),
        ("UNKNOWN", events.ProcessStateUnknownEvent, ProcessStates.RUNNING, 0),
    ],
)
def test_a_change_is_what_supervisords_event_says(state: str, kind: type, from_state: int, pid: int) -> None:
    came_from = getProcessStateDescription(from_state)
    assert list(changes_in([told(kind, from_state, pid)])) == [Change("app", "web_1", state, came_from, pid)]


def test_changes_come_in_the_order_of_the_events_and_other_events_say_nothing() -> None:
    exited = told(events.ProcessStateExitedEvent, ProcessStates.RUNNING, 100)
    starting = told(events.ProcessStateStartingEvent, ProcessStates.EXITED)
    others = [Event("TICK_5", b"when:1"), Event("ROLLING_PROCESS", starting.payload)]
    found = changes_in([others[0], exited, others[1], starting])
    assert [(change.state, change.pid) for change in found] == [("EXITED", 100), ("STARTING", 0)]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"hello",
        b"processname:web_1 from_state:RUNNING pid:100",
        b"groupname:app from_state:RUNNING pid:100",
        b"processname:web_1 groupname:app pid:100",
        b"processname:web_1 groupname:app from_state:RUNNING pid:many",
        b"processname:\xff\xfe groupname:app from_state:RUNNING pid:100",
    ],
)
def test_a_change_that_cannot_be_read_says_nothing_and_hides_no_other(payload: bytes) -> None:
    good = told(events.ProcessStateExitedEvent, ProcessStates.RUNNING, 100)
    assert [change.pid for change in changes_in([Event("PROCESS_STATE_EXITED", payload), good])] == [100]


@given(st.binary(max_size=100))
@settings(deadline=None)
def test_no_payload_does_anything_but_give_a_change_or_nothing(junk: bytes) -> None:
    found = changes_in([Event("PROCESS_STATE_EXITED", b"processname:a groupname:b from_state:c pid:" + junk)])
    assert all(isinstance(change.pid, int) for change in found)


# --- the channel: real pipes


class Pipes:
    """supervisord's ends of a listener's stdin and stdout, and a channel at the others."""

    def __init__(self, keep: contextlib.ExitStack) -> None:
        self.reading, self.to_listener = os.pipe()
        self.from_listener, self.writing = os.pipe()
        self._open = {self.reading, self.to_listener, self.from_listener, self.writing}
        keep.callback(self._close_all)
        self.channel = Channel(self.reading, self.writing)

    def send(self, data: bytes) -> None:
        os.write(self.to_listener, data)

    def _close_all(self) -> None:
        for fd in self._open:
            os.close(fd)

    def close(self, fd: int) -> None:
        self._open.remove(fd)
        os.close(fd)

    def answered(self) -> bytes:
        """All that the listener has written so far."""
        found = b""
        while select.select([self.from_listener], [], [], 0)[0]:
            found += os.read(self.from_listener, 4096)
        return found


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    with contextlib.ExitStack() as stack:
        yield Pipes(stack)


def test_the_channel_says_ready_once_at_the_beginning(pipes: Pipes) -> None:
    pipes.channel.begin()
    assert pipes.answered() == b"READY\n"


def test_every_event_is_acknowledged_when_it_is_complete(pipes: Pipes) -> None:
    data = frame("TICK_5", b"when:1")
    pipes.send(data[:40])
    assert pipes.channel.receive() == []
    assert pipes.answered() == b""
    pipes.send(data[40:] + frame("TICK_60"))
    assert pipes.channel.receive() == [Event("TICK_5", b"when:1"), Event("TICK_60", b"")]
    assert pipes.answered() == b"RESULT 2\nOKREADY\n" * 2


def test_the_channel_can_be_waited_for(pipes: Pipes) -> None:
    assert select.select([pipes.channel], [], [], 0)[0] == []
    pipes.send(b"v")
    assert select.select([pipes.channel], [], [], 5)[0] == [pipes.channel]


def test_the_end_of_the_file_is_none_also_in_the_middle_of_an_event(pipes: Pipes) -> None:
    pipes.send(frame("TICK_5", b"when:1")[:-3])
    assert pipes.channel.receive() == []
    pipes.close(pipes.to_listener)
    assert pipes.channel.receive() is None
    assert pipes.answered() == b""


def test_a_supervisord_that_dies_before_its_event_is_acknowledged_is_gone_and_no_error(pipes: Pipes) -> None:
    pipes.send(frame("TICK_5", b"when:1"))
    pipes.close(pipes.from_listener)
    assert pipes.channel.receive() is None


def test_what_cannot_be_understood_is_not_acknowledged(pipes: Pipes) -> None:
    pipes.send(b"hello\n")
    with pytest.raises(ProtocolError):
        pipes.channel.receive()
    assert pipes.answered() == b""
