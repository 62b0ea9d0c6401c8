"""The wake-up of supervisord, with supervisor's own poller and real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from supervisor import events
from supervisor.events import (
    ProcessStateBackoffEvent,
    ProcessStateEvent,
    ProcessStateExitedEvent,
    ProcessStateStoppedEvent,
    SupervisorStoppingEvent,
)
from supervisor.poller import PollPoller
from supervisor.tests.base import DummyOptions, DummySupervisor

from supervisor_rolling.plugin.wakeup import WakeUp, install

LONG = 20.0  # seconds; a wait that ends by itself fails the test
SOON = 10.0


class Loop:
    """supervisord's loop around the poller: runforever() without its processes."""

    def __init__(self) -> None:
        self.options = DummyOptions()
        self.supervisord = DummySupervisor(self.options)
        self.socket_map: dict[int, WakeUp] = self.options.get_socket_map()
        self.poller = PollPoller(self.options)

    def turn(self, timeout: float) -> bool:
        """Whether something ended the wait before its time."""
        for fd, dispatcher in self.socket_map.items():
            if dispatcher.readable():
                self.poller.register_readable(fd)
            if dispatcher.writable():
                self.poller.register_writable(fd)
        readable, writable = self.poller.poll(timeout)
        for fd in readable:
            self.socket_map[fd].handle_read_event()
        return bool(readable or writable)

    @property
    def wakeup(self) -> WakeUp:
        (found,) = self.socket_map.values()
        return found


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Signals, the wake-up descriptor and the subscriptions are the test run's own again; no descriptor is lost."""
    handler = signal.signal(signal.SIGCHLD, lambda *_: None)  # supervisord has one; without it nothing is written
    before = signal.set_wakeup_fd(-1)
    events.clear()
    yield
    events.notify(SupervisorStoppingEvent())
    events.clear()
    signal.set_wakeup_fd(before)
    signal.signal(signal.SIGCHLD, handler)


@pytest.fixture
def loop() -> Loop:
    return Loop()


def installed(loop: Loop) -> Loop:
    install(loop.supervisord)
    return loop


def descriptors() -> set[str]:
    """The open ones; the one that reads the directory is gone when they are looked at."""
    names = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return {os.readlink(name) for name in names if os.path.lexists(name)}


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def wakeup_fd() -> int:
    """The descriptor that is in force, left as it is."""
    found = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(found, warn_on_full_buffer=False)
    return found


def in_thread(do: Callable[[], object]) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            do()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert raised == []


def child_exits(loop: Loop) -> float:
    """Seconds from the exit of a child, in the middle of a long wait, to the end of that wait."""
    child = subprocess.Popen(["sleep", "0.1"])
    began = time.monotonic()
    assert loop.turn(LONG), "the exit of a child did not end the wait"
    took = time.monotonic() - began
    assert child.wait(SOON) == 0
    return took


def reaped(lived: float = 3600.0, kind: type[ProcessStateEvent] = ProcessStateExitedEvent) -> None:
    """supervisord tells that it has reaped a child which lived for so many seconds."""
    process = SimpleNamespace(laststart=time.time() - lived, pid=1, backoff=1)
    events.notify(kind(process, 0, expected=False))


def test_without_wakeup_child_exit_ends_no_wait(loop: Loop) -> None:
    child = subprocess.Popen(["sleep", "0.05"])
    assert not loop.turn(0.4)
    assert child.wait(SOON) == 0


def test_child_exit_ends_a_long_wait(loop: Loop) -> None:
    assert child_exits(installed(loop)) < SOON


def test_echo_ends_only_the_next_wait(loop: Loop) -> None:
    child_exits(installed(loop))
    reaped()
    assert loop.turn(LONG)
    assert not loop.turn(0.1)
    assert not loop.turn(0.0)


def test_every_exit_wakes_anew(loop: Loop) -> None:
    installed(loop)
    for _ in range(3):
        assert child_exits(loop) < SOON
        reaped()
        assert [loop.turn(0.1), loop.turn(0.1)] == [True, False]


def test_exit_within_a_second_gets_no_echo(loop: Loop) -> None:
    child_exits(installed(loop))
    reaped(lived=0.2)
    assert not loop.turn(0.1)


def test_signal_of_short_life_is_read_when_reaped(loop: Loop) -> None:
    installed(loop)
    os.kill(os.getpid(), signal.SIGCHLD)  # after the wait, before supervisord reaps
    reaped(lived=0.2)
    assert not loop.turn(0.1)


@pytest.mark.parametrize("kind", [ProcessStateBackoffEvent, ProcessStateStoppedEvent])
def test_short_life_without_quick_retry_gets_echo(loop: Loop, kind: type[ProcessStateEvent]) -> None:
    installed(loop)
    reaped(0.2, kind)
    assert [loop.turn(LONG), loop.turn(0.1)] == [True, False]


@pytest.mark.parametrize("action", [(0.2, 3600.0), (3600.0, 0.2)])
def test_crash_beside_a_flapping_process_gets_echo(loop: Loop, action: tuple[float, float]) -> None:
    installed(loop)
    os.kill(os.getpid(), signal.SIGCHLD)
    for lived in action:
        reaped(lived)
    assert [loop.turn(LONG), loop.turn(0.1)] == [True, False]


def test_signal_beside_a_flapping_process_ends_the_wait(loop: Loop) -> None:
    installed(loop)
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    os.kill(os.getpid(), signal.SIGUSR1)
    reaped(lived=0.2)
    assert [loop.turn(LONG), loop.turn(0.1)] == [True, False]
    signal.signal(signal.SIGUSR1, before)


def test_clock_set_back_hides_no_crash(loop: Loop) -> None:
    installed(loop)
    reaped(lived=-3600.0)
    assert loop.turn(LONG)


def test_event_of_an_exit_never_raises(loop: Loop) -> None:
    ours = installed(loop).wakeup
    events.notify(ProcessStateExitedEvent(SimpleNamespace(laststart=None, pid=1), 0, expected=False))
    os.close(ours.writing)
    reaped()
    ours.writing = os.dup(ours.reading)  # for the end of the test


def test_many_signals_cause_one_wakeup(loop: Loop) -> None:
    installed(loop)
    for _ in range(200):
        os.kill(os.getpid(), signal.SIGCHLD)
    assert [loop.turn(LONG), loop.turn(0.1)] == [True, False]


def test_signals_beyond_the_pipe_size_are_harmless(loop: Loop, capfd: pytest.CaptureFixture[str]) -> None:
    installed(loop)
    while True:
        try:
            os.write(loop.wakeup.writing, b"\x11" * 4096)
        except BlockingIOError:
            break
    os.kill(os.getpid(), signal.SIGCHLD)
    assert loop.turn(0.1)
    assert capfd.readouterr().err == ""


def test_pipe_emptied_by_reaping_keeps_wake_up(loop: Loop) -> None:
    ours = installed(loop).wakeup
    assert not os.get_blocking(ours.writing)
    ours.handle_read_event()
    assert child_exits(loop) < SOON


def test_second_server_of_supervisord_changes_nothing(loop: Loop) -> None:
    installed(loop)
    first, fd = loop.wakeup, wakeup_fd()
    installed(loop)
    assert loop.wakeup is first
    assert wakeup_fd() == fd == first.writing


def test_the_supervisord_after_a_reload_gets_its_own(loop: Loop) -> None:
    installed(loop)
    events.notify(SupervisorStoppingEvent())
    events.clear()
    assert child_exits(installed(Loop())) < SOON


def test_shutdown_restores_the_state_before(loop: Loop) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    before = descriptors()
    ours = installed(loop).wakeup
    events.notify(SupervisorStoppingEvent())
    assert wakeup_fd() == writing
    assert loop.socket_map == {}
    assert descriptors() == before
    assert not is_open(ours.reading)
    signal.set_wakeup_fd(-1)
    os.close(reading)
    os.close(writing)


def test_error_leaves_supervisord_without_wakeup(loop: Loop) -> None:
    ours = installed(loop).wakeup
    os.close(ours.reading)
    with pytest.raises(OSError, match="Bad file descriptor"):
        ours.handle_read_event()
    ours.handle_error()
    assert loop.socket_map == {}
    assert wakeup_fd() == -1
    os.close(ours.writing)


def test_second_close_does_nothing(loop: Loop) -> None:
    ours = installed(loop).wakeup
    ours.handle_error()
    ours.handle_error()
    ours.close(SupervisorStoppingEvent())
    assert wakeup_fd() == -1


def test_an_error_in_a_thread_never_raises(loop: Loop) -> None:
    ours = installed(loop).wakeup
    in_thread(ours.handle_error)
    assert loop.socket_map == {}


def test_reused_descriptor_gets_no_signal_bytes(loop: Loop) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    ours = installed(loop).wakeup
    os.close(reading)
    os.close(writing)
    ours.handle_error()
    assert wakeup_fd() == -1
    assert not is_open(ours.writing)


def test_installation_in_a_thread_warns_only(loop: Loop) -> None:
    before = descriptors()
    in_thread(lambda: install(loop.supervisord))
    (warning,) = loop.options.logger.data
    assert warning.startswith("rolling: no wake-up, exits are noticed up to a second late: ")
    assert loop.socket_map == {}
    assert wakeup_fd() == -1
    assert descriptors() == before


def test_impossible_installation_warns_once(loop: Loop) -> None:
    in_thread(lambda: install(loop.supervisord))
    in_thread(lambda: install(loop.supervisord))
    assert len(loop.options.logger.data) == 1


def taken_out(loop: Loop) -> WakeUp:
    """Installed, and taken out of the map as asyncore does when an old connection of the same number is closed."""
    found = installed(loop).wakeup
    del loop.socket_map[found.reading]
    return found


def test_removed_from_map_returns_with_next_tick(loop: Loop) -> None:
    ours = taken_out(loop)
    events.notify(events.Tick5Event(5, loop.supervisord))
    assert loop.wakeup is ours
    assert child_exits(loop) < SOON


def test_removed_from_map_restores_at_shutdown(loop: Loop) -> None:
    before = descriptors()
    ours = taken_out(loop)
    events.notify(SupervisorStoppingEvent())
    assert wakeup_fd() == -1
    assert descriptors() == before
    events.notify(events.Tick5Event(5, loop.supervisord))
    assert loop.socket_map == {}
    assert not is_open(ours.reading)


def test_reused_number_stays_in_the_map(loop: Loop) -> None:
    ours = taken_out(loop)
    loop.socket_map[ours.reading] = other = object()  # type: ignore[assignment]
    ours.close()
    assert list(loop.socket_map.values()) == [other]
    loop.socket_map.clear()


def test_wakeup_is_never_writable(loop: Loop) -> None:
    ours = installed(loop).wakeup
    assert (ours.readable(), ours.writable()) == (True, False)
    ours.handle_write_event()
