"""How long processes live and lie down, whatever the wall clock does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from supervisor import events
from supervisor.datatypes import RestartUnconditionally
from supervisor.states import ProcessStates

from supervisor_rolling.plugin.process_times import ProcessTimes


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def wall() -> Clock:
    return Clock(1893456000.0)


@pytest.fixture
def lives(clock: Clock, wall: Clock) -> ProcessTimes:
    return ProcessTimes(clock, wall)


def a_process(name: str = "web_1", laststart: float = 0.0, laststop: float = 0.0) -> Any:
    config, group = SimpleNamespace(name=name), SimpleNamespace(config=SimpleNamespace(name="app"))
    return SimpleNamespace(config=config, group=group, pid=7, laststart=laststart, laststop=laststop, backoff=1)


def tell(lives: ProcessTimes, kind: type[events.ProcessStateEvent], process: Any) -> None:
    lives.note(kind(process, ProcessStates.UNKNOWN))


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_jump_of_wall_clock_changes_no_age(lives: ProcessTimes, clock: Clock, wall: Clock, jump: float):
    process = a_process(laststart=wall.now, laststop=wall.now)
    tell(lives, events.ProcessStateStartingEvent, process)
    clock.now += 5
    tell(lives, events.ProcessStateExitedEvent, process)
    clock.now += 2
    wall.now += 7 + jump
    assert (lives.up_for("app", "web_1", process), lives.down_for("app", "web_1", process)) == (7.0, 2.0)


@pytest.mark.parametrize(
    "kind", [events.ProcessStateExitedEvent, events.ProcessStateStoppedEvent, events.ProcessStateBackoffEvent]
)
def test_every_kind_of_end_counts_as_down(lives: ProcessTimes, clock: Clock, kind: type[events.ProcessStateEvent]):
    process = a_process()
    tell(lives, kind, process)
    clock.now += 4
    assert lives.down_for("app", "web_1", process) == 4.0


def test_last_end_says_whether_a_stop_was_ordered(lives: ProcessTimes):
    process = a_process()
    assert not lives.stopped_on_request("app", "web_1"), "no event has come"
    tell(lives, events.ProcessStateStoppedEvent, process)
    tell(lives, events.ProcessStateStartingEvent, process)
    tell(lives, events.ProcessStateRunningEvent, process)
    assert lives.stopped_on_request("app", "web_1")
    for kind in (events.ProcessStateExitedEvent, events.ProcessStateBackoffEvent):
        tell(lives, events.ProcessStateStoppedEvent, process)
        tell(lives, kind, process)
        assert not lives.stopped_on_request("app", "web_1")
    assert not lives.stopped_on_request("app", "web_2")


def test_stop_belongs_to_the_client_that_ordered_it(
    lives: ProcessTimes,
):
    process, other = a_process(), a_process("web_2")
    with lives.caused_by_rollout(process):
        tell(lives, events.ProcessStateStoppingEvent, process)
    tell(lives, events.ProcessStateStoppingEvent, other)
    assert (lives.stopped_by_rollout("app", "web_1"), lives.stopped_by_rollout("app", "web_2")) == (True, False)
    with lives.caused_by_rollout(other):
        tell(lives, events.ProcessStateStoppedEvent, process)
        tell(lives, events.ProcessStateStoppedEvent, other)
    assert (lives.stopped_by_rollout("app", "web_1"), lives.stopped_by_rollout("app", "web_2")) == (True, False)
    tell(lives, events.ProcessStateStartingEvent, process)
    tell(lives, events.ProcessStateStoppingEvent, process)
    assert not lives.stopped_by_rollout("app", "web_1"), "the next order is another"


@pytest.mark.parametrize("is_ours", [True, False])
def test_stop_in_backoff_belongs_to_its_client(lives: ProcessTimes, is_ours: bool):
    process = a_process()
    tell(lives, events.ProcessStateBackoffEvent, process)
    with lives.caused_by_rollout(process if is_ours else a_process()):
        tell(lives, events.ProcessStateStoppedEvent, process)
    assert (lives.stopped_by_rollout("app", "web_1"), lives.stopped_on_request("app", "web_1")) == (is_ours, True)


@pytest.mark.parametrize(("autorestart", "expected"), [(RestartUnconditionally, True), ("unexpected", False)])
def test_restart_by_supervisord_is_no_order(lives: ProcessTimes, clock: Clock, autorestart: Any, expected: bool):
    process = a_process()
    process.config.autorestart = autorestart
    with lives.caused_by_rollout(process):
        tell(lives, events.ProcessStateStartingEvent, process)
    lives.note(events.ProcessStateExitedEvent(process, ProcessStates.RUNNING, expected))
    tell(lives, events.ProcessStateStartingEvent, process)
    tell(lives, events.ProcessStateBackoffEvent, process)
    tell(lives, events.ProcessStateStartingEvent, process)
    assert lives.started_by_other_at("app", "web_1") == 0.0
    tell(lives, events.ProcessStateBackoffEvent, process)
    tell(lives, events.ProcessStateFatalEvent, process)
    tell(lives, events.ProcessStateStartingEvent, process)
    by_hand = lives.attempt("app", "web_1", process)
    assert lives.started_by_other_at("app", "web_1") == by_hand, "supervisord gives up, so it was started by hand"
    clock.now += 1
    tell(lives, events.ProcessStateBackoffEvent, process)
    tell(lives, events.ProcessStateStartingEvent, process)
    assert lives.started_by_other_at("app", "web_1") == by_hand < lives.attempt("app", "web_1", process)


@pytest.mark.parametrize(("autorestart", "expected"), [(False, False), ("unexpected", True)])
def test_start_of_exited_process_is_manual(lives: ProcessTimes, autorestart: Any, expected: bool):
    process = a_process()
    process.config.autorestart = autorestart
    with lives.caused_by_rollout(process):
        tell(lives, events.ProcessStateStartingEvent, process)
    lives.note(events.ProcessStateExitedEvent(process, ProcessStates.RUNNING, expected))
    tell(lives, events.ProcessStateStartingEvent, process)
    assert lives.started_by_other_at("app", "web_1") == lives.attempt("app", "web_1", process)


def test_stop_time_is_known_during_and_after(lives: ProcessTimes, clock: Clock):
    process = a_process()
    tell(lives, events.ProcessStateStoppingEvent, process)
    clock.now += 3
    assert lives.stop_took("app", "web_1") == 3.0
    tell(lives, events.ProcessStateStoppedEvent, process)
    clock.now += 5
    assert lives.stop_took("app", "web_1") == 3.0
    tell(lives, events.ProcessStateStartingEvent, process)
    tell(lives, events.ProcessStateExitedEvent, process)
    assert lives.stop_took("app", "web_1") == 0.0


def test_exit_by_itself_is_no_stop(lives: ProcessTimes):
    process = a_process()
    with lives.caused_by_rollout(process):
        tell(lives, events.ProcessStateStoppingEvent, process)
    tell(lives, events.ProcessStateStoppedEvent, process)
    tell(lives, events.ProcessStateStartingEvent, process)
    tell(lives, events.ProcessStateExitedEvent, process)
    assert not lives.stopped_by_rollout("app", "web_1")


def test_fatal_process_is_down_since_its_exit(lives: ProcessTimes, clock: Clock):
    process = a_process()
    tell(lives, events.ProcessStateBackoffEvent, process)
    clock.now += 4
    tell(lives, events.ProcessStateFatalEvent, process)
    assert lives.down_for("app", "web_1", process) == 4.0


def test_each_attempt_has_its_own_number(lives: ProcessTimes, clock: Clock):
    process = a_process(laststart=5.0)
    tell(lives, events.ProcessStateStartingEvent, process)
    first = lives.attempt("app", "web_1", process)
    process.laststart = 3.0  # the wall clock was set back
    assert lives.attempt("app", "web_1", process) == first
    clock.now += 0.001
    tell(lives, events.ProcessStateStartingEvent, process)
    assert lives.attempt("app", "web_1", process) != first


def test_without_events_supervisords_times_count(lives: ProcessTimes, wall: Clock):
    process = a_process(laststart=wall.now - 100, laststop=wall.now - 50)
    assert lives.attempt("app", "web_1", process) == wall.now - 100
    assert (lives.up_for("app", "web_1", process), lives.down_for("app", "web_1", process)) == (100.0, 50.0)
    assert lives.down_for("app", "web_1", a_process()) == 0.0, "it never went down"


def test_times_are_forgotten_with_the_group(lives: ProcessTimes, wall: Clock):
    process = a_process(laststart=wall.now - 1)
    tell(lives, events.ProcessStateStartingEvent, process)
    tell(lives, events.ProcessStateStoppedEvent, process)
    lives.forget("app")
    assert lives.attempt("app", "web_1", process) == wall.now - 1
    assert not lives.stopped_on_request("app", "web_1")


def test_event_of_process_without_group_is_ignored(lives: ProcessTimes):
    process = a_process()
    process.group = None
    tell(lives, events.ProcessStateStartingEvent, process)
    tell(lives, events.ProcessStateStoppedEvent, process)
    assert lives.attempt("app", "web_1", process) == 0.0
    assert not lives.stopped_on_request("app", "web_1")


@pytest.mark.parametrize("autostart", [True, False])
def test_start_at_boot_is_no_order_of_a_client(lives: ProcessTimes, clock: Clock, autostart: bool):
    process = a_process()
    process.config.autostart = autostart
    tell(lives, events.ProcessStateStartingEvent, process)
    assert (lives.started_by_other_at("app", "web_1") == 0.0) is autostart
    tell(lives, events.ProcessStateStoppedEvent, process)
    clock.now += 5
    tell(lives, events.ProcessStateStartingEvent, process)
    assert lives.started_by_other_at("app", "web_1") == clock.now
