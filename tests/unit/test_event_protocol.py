"""supervisord's events as bytes: in whatever pieces they come, and whatever else comes."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supervisor import events
from supervisor.process import EventListenerPool
from supervisor.states import ProcessStates, getProcessStateDescription
from supervisor.tests.base import DummyOptions, DummyPConfig, DummyPGroupConfig, DummyProcess, DummyProcessGroup

from supervisor_rolling.core.process import Change
from supervisor_rolling.listener.event_protocol import (
    FRAME_TIMEOUT,
    LOG_EVERY,
    MAX_HEADER,
    MAX_PAYLOAD,
    Channel,
    Event,
    Frames,
    changes_in,
)

HEADER = b"ver:3.0 server:supervisor serial:21 pool:rolling poolserial:10 eventname:%s len:%d\n"

NAMES = st.sampled_from(["TICK_5", "ROLLING_REQUEST", "PROCESS_STATE_EXITED"])
EVENTS = st.lists(st.builds(Event, NAMES, st.binary(max_size=60)), max_size=6)


def frame(name: str, payload: bytes = b"") -> bytes:
    return HEADER % (name.encode(), len(payload)) + payload


def stream(events: list[Event]) -> bytes:
    return b"".join(frame(event.name, event.payload) for event in events)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def fed(pieces: Iterator[bytes] | list[bytes]) -> list[Event]:
    frames = Frames(Clock())
    return [event for piece in pieces for event in frames.feed(piece)]


# --- frames


def test_event_in_single_bytes_is_one_event() -> None:
    events = [Event("TICK_5", b"when:1201063880"), Event("ROLLING_REQUEST", b"group:app rollout:1\n{}")]
    data = stream(events)
    assert fed([data[n : n + 1] for n in range(len(data))]) == events


def test_event_is_complete_with_its_last_byte() -> None:
    frames, data = Frames(Clock()), frame("TICK_5", b"when:1")
    assert frames.feed(data[:-1]) == []
    assert frames.feed(data[-1:]) == [Event("TICK_5", b"when:1")]
    assert frames.feed(b"") == []


def test_many_events_in_one_read_are_returned() -> None:
    frames = Frames(Clock())
    data = frame("TICK_5", b"a") + frame("TICK_5") + frame("TICK_60", b"b")
    assert [event.payload for event in frames.feed(data[:-1])] == [b"a", b""]
    assert frames.feed(data[-1:]) == [Event("TICK_60", b"b")]


def test_payload_is_unchanged() -> None:
    payload = b"\n\xff\xfe ver:3.0 len:5\n\0\r\n"
    assert fed([frame("TICK_5", payload)]) == [Event("TICK_5", payload)]


@given(EVENTS, st.data())
@settings(deadline=None)
def test_how_the_stream_is_cut_makes_no_difference(events: list[Event], data: st.DataObject) -> None:
    text = stream(events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    assert fed([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]) == events


# --- what is no frame

JUNK = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([b"\n", b"\n\n", b" eventname:X len:3", b"len:999\n", b"x" * MAX_HEADER * 2, b"\xff\xfe\r\n"]),
).filter(lambda junk: b"ver:" not in junk)


@given(st.lists(st.tuples(JUNK, st.builds(Event, NAMES, st.binary(max_size=60))), max_size=5), JUNK, st.data())
@settings(deadline=None)
def test_events_between_other_bytes_are_found(
    parts: list[tuple[bytes, Event]], end: bytes, data: st.DataObject
) -> None:
    text = b"".join(junk + frame(event.name, event.payload) for junk, event in parts) + end
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    assert fed([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]) == [event for _, event in parts]


@given(st.lists(st.one_of(st.binary(max_size=100), st.just(b"ver:3.0 server: eventname:A len:"), st.just(b"7\n"))))
@settings(deadline=None)
def test_no_bytes_do_anything_but_give_events(pieces: list[bytes]) -> None:
    clock = Clock()
    frames = Frames(clock)
    for piece in pieces:
        assert all(isinstance(event, Event) for event in frames.feed(piece))
    clock.now += FRAME_TIMEOUT
    assert all(isinstance(event, Event) for event in frames.overdue())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"ver:3.0 len:5",
        b"ver:3.0 eventname:TICK_5",
        b"ver:3.0 eventname:TICK_5 len:",
        b"ver:3.0 eventname:TICK_5 len:five",
        b"ver:3.0 eventname:TICK_5 len:1.5",
        b"ver:3.0 eventname:TICK_5 len:0x10",
        b"ver:3.0 eventname:TICK_5 len:1_0",
        b"ver:3.0 eventname:TICK_5 len:-1",
        b"ver:3.0 eventname:TICK_5 len:%d" % (MAX_PAYLOAD + 1),
        b"ver:3.0 eventname:TICK_5 len:" + b"9" * 4000,
        b"ver:3.0 eventname: len:5",
        b"eventname:TICK_5 len:5",
        b"\xff\xfe\x00 eventname:TICK_5 len:5",
        b"GET / HTTP/1.1\r",
        b"ver:3.0 eventname:TICK_5 len:5\r",
    ],
    ids=lambda line: repr(line[:40]),
)
def test_line_without_header_is_skipped_and_counted(line: bytes) -> None:
    frames = Frames(Clock())
    assert frames.feed(line + b"\n" + frame("TICK_5", b"when:1")) == [Event("TICK_5", b"when:1")]
    assert frames.skipped == len(line) + 1


def test_endless_line_is_not_collected() -> None:
    frames = Frames(Clock())
    for _ in range(100):
        assert frames.feed(b"x" * MAX_HEADER) == []
        assert len(frames._buffer) <= MAX_HEADER
    assert frames.feed(frame("TICK_5")) == [Event("TICK_5", b"")]
    assert frames.skipped == 100 * MAX_HEADER


def test_payload_counted_in_characters_hides_no_event() -> None:
    class Pool:
        class config:
            name = "rolling"

            class options:
                identifier = "my très own supervisord"

    def sent(payload: str) -> bytes:
        text: str = EventListenerPool._eventEnvelope(Pool(), events.ProcessGroupAddedEvent, 1, 1, payload)
        return text.encode()

    for name in ("web", "wéb", "wéé", "é" * 50, "é €" * 300):
        found = fed([sent(f"groupname:{name}\n") + sent("groupname:other\n")])
        assert [event.name for event in found] == ["PROCESS_GROUP_ADDED"] * 2
        assert found[1].payload == b"groupname:other\n"


def test_too_large_length_hides_events_for_seconds() -> None:
    clock = Clock()
    frames = Frames(clock)
    liar, event = HEADER % (b"TICK_5", 10_000), frame("TICK_60", b"when:1")
    assert frames.feed(liar + event) == []
    clock.now += FRAME_TIMEOUT - 0.1
    assert frames.overdue() == []
    clock.now += 0.2
    assert frames.overdue() == [Event("TICK_60", b"when:1")]
    assert frames.skipped == len(liar)
    assert frames.overdue() == []
    assert frames.feed(event) == [Event("TICK_60", b"when:1")]


def test_slow_long_event_is_not_given_up() -> None:
    clock = Clock()
    payload = b"x" * 5 * MAX_HEADER
    frames, data = Frames(clock), frame("TICK_5", payload)
    for n in range(0, len(data) - 1000, 1000):
        assert frames.feed(data[n : n + 1000]) == []
        clock.now += FRAME_TIMEOUT - 0.1
        assert frames.overdue() == []
    assert frames.feed(data[n + 1000 :]) == [Event("TICK_5", payload)]


def test_half_a_header_is_kept() -> None:
    clock = Clock()
    frames, data = Frames(clock), frame("TICK_5", b"when:1")
    assert frames.feed(data[:20]) == []
    clock.now += 100 * FRAME_TIMEOUT
    assert frames.overdue() == []
    assert frames.feed(data[20:]) == [Event("TICK_5", b"when:1")]


@pytest.mark.parametrize(("size", "number"), [(65536, 1_000_000), (100_000_000, 200_000), (100, 100_000)])
def test_a_million_events_are_read_in_seconds(size: int, number: int) -> None:
    one = frame("PROCESS_STATE_EXITED", b"processname:app-8000 groupname:app from_state:RUNNING expected:0 pid:1234")
    block = one * min(number, max(1, size // len(one) + 1))
    frames, found, began = Frames(Clock()), 0, time.monotonic()
    while found < number:
        for n in range(0, len(block), size):
            found += len(frames.feed(block[n : n + size]))
    assert time.monotonic() - began < 30.0  # 4 s on two idle cores; to copy what is left for each event takes minutes


def test_longest_payload_is_accepted() -> None:
    payload = b"x" * MAX_PAYLOAD
    assert fed([HEADER % (b"TICK_5", MAX_PAYLOAD), payload]) == [Event("TICK_5", payload)]


# --- what the events say


def state_event(kind: type, from_state: int, pid: int = 0, **arguments: object) -> Event:
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
    assert list(changes_in([state_event(kind, from_state, pid)])) == [Change("app", "web_1", state, came_from, pid)]


def test_changes_keep_the_order_of_events() -> None:
    exited = state_event(events.ProcessStateExitedEvent, ProcessStates.RUNNING, 100)
    starting = state_event(events.ProcessStateStartingEvent, ProcessStates.EXITED)
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
def test_unreadable_change_hides_no_other(payload: bytes) -> None:
    good = state_event(events.ProcessStateExitedEvent, ProcessStates.RUNNING, 100)
    assert [change.pid for change in changes_in([Event("PROCESS_STATE_EXITED", payload), good])] == [100]


@given(st.binary(max_size=100))
@settings(deadline=None)
def test_any_payload_gives_a_change_or_nothing(junk: bytes) -> None:
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
        self.clock = Clock()
        self.channel = Channel(self.reading, self.writing, self.clock)

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
    pipes.send(data[40:])
    assert pipes.channel.receive() == [Event("TICK_5", b"when:1")]
    assert pipes.answered() == b"RESULT 2\nOKREADY\n"
    pipes.send(frame("TICK_60"))
    assert pipes.channel.receive() == [Event("TICK_60", b"")]
    assert pipes.answered() == b"RESULT 2\nOKREADY\n"


def test_several_events_get_one_acknowledgement(pipes: Pipes) -> None:
    pipes.send(frame("TICK_5") + frame("TICK_60"))
    assert pipes.channel.receive() == [Event("TICK_5", b""), Event("TICK_60", b"")]
    assert pipes.answered() == b"RESULT 2\nOKREADY\n"


def test_the_channel_can_be_waited_for(pipes: Pipes) -> None:
    assert select.select([pipes.channel], [], [], 0)[0] == []
    pipes.send(b"v")
    assert select.select([pipes.channel], [], [], 5)[0] == [pipes.channel]


def test_end_of_file_returns_none(pipes: Pipes) -> None:
    pipes.send(frame("TICK_5", b"when:1")[:-3])
    assert pipes.channel.receive() == []
    pipes.close(pipes.to_listener)
    assert pipes.channel.receive() is None
    assert pipes.answered() == b""


def test_broken_pipe_means_supervisord_is_gone(pipes: Pipes) -> None:
    pipes.send(frame("TICK_5", b"when:1"))
    pipes.close(pipes.from_listener)
    assert pipes.channel.receive() is None


def test_skipped_bytes_are_not_acknowledged(pipes: Pipes) -> None:
    pipes.send(b"hello\n")
    assert pipes.channel.receive() == []
    assert pipes.answered() == b""
    pipes.send(frame("TICK_5"))
    assert pipes.channel.receive() == [Event("TICK_5", b"")]
    assert pipes.answered() == b"RESULT 2\nOKREADY\n"


def test_hidden_event_is_acknowledged_when_found(pipes: Pipes) -> None:
    pipes.send(HEADER % (b"TICK_5", 10_000) + frame("TICK_60"))
    assert pipes.channel.receive() == []
    assert pipes.channel.overdue() == []
    pipes.clock.now += FRAME_TIMEOUT
    assert pipes.answered() == b""
    assert pipes.channel.overdue() == [Event("TICK_60", b"")]
    assert pipes.answered() == b"RESULT 2\nOKREADY\n"
    assert pipes.channel.overdue() == []
    assert pipes.answered() == b""


def test_skipped_bytes_are_counted_and_never_logged(pipes: Pipes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for _ in range(100):
            pipes.send(b"key:5ec2e7\n")
            pipes.channel.receive()
        pipes.clock.now += LOG_EVERY
        pipes.send(frame("TICK_5"))
        pipes.channel.receive()
    said = [record.getMessage() for record in caplog.records]
    assert [text.split()[1] for text in said] == ["11", "1089"]
    assert "5ec2e7" not in caplog.text


def test_channel_keeps_the_last_key(pipes: Pipes) -> None:
    assert pipes.channel.key == ""
    for event, key in {
        frame("TICK_5", b"key:nothing"): "",
        frame("ROLLING_REQUEST", b""): "",
        frame("ROLLING_REQUEST", b"key:one"): "one",
        frame("ROLLING_PROCESS", b"key:none"): "one",
        frame("ROLLING_REQUEST", b"key:tw\xff"): "tw\ufffd",
    }.items():
        pipes.send(event)
        pipes.channel.receive()
        assert pipes.channel.key == key
