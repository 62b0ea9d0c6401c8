"""Which exits of the listener are followed by a pause, as supervisord takes it from a process."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from supervisor.datatypes import RestartUnconditionally, RestartWhenExitUnexpected
from supervisor.dispatchers import EventListenerStates
from supervisor.events import ProcessStateEvent, ProcessStateExitedEvent
from supervisor.states import ProcessStates

from supervisor_rolling.plugin.events import RollingRequestEvent
from supervisor_rolling.plugin.listener_brake import BETWEEN_STARTS, delay_restart

POOL = SimpleNamespace(config=SimpleNamespace(pool_events=[RollingRequestEvent]))


def exited(expected: bool = True, autorestart: Any = RestartUnconditionally, **process: Any) -> Any:
    """A process of the listener, after its exit was handled."""
    there = {
        "group": POOL,
        "pid": 7,
        "listener_state": EventListenerStates.ACKNOWLEDGED,
        "config": SimpleNamespace(autorestart=autorestart, startretries=3, name="rolling"),
        "state": ProcessStates.EXITED,
        "backoff": 0,
        "delay": 0,
        "laststart": time.time(),
    }
    found = SimpleNamespace(**{**there, **process})
    delay_restart(ProcessStateExitedEvent(found, ProcessStates.RUNNING, expected))
    return found


def test_listener_that_never_worked_waits() -> None:
    before = time.time()
    found = exited()
    assert (found.state, found.backoff) == (ProcessStates.BACKOFF, BETWEEN_STARTS)
    assert before + BETWEEN_STARTS <= found.delay <= time.time() + BETWEEN_STARTS
    assert found.config.startretries >= found.backoff, "else supervisord gives up"


def test_configuration_of_the_group_stays() -> None:
    config = SimpleNamespace(autorestart=RestartUnconditionally, startretries=3)
    assert exited(config=config).config is not config
    assert config.startretries == 3


@pytest.mark.parametrize("state", [EventListenerStates.READY, EventListenerStates.BUSY])
def test_listener_that_worked_starts_at_once(state: int) -> None:
    assert exited(listener_state=state).state == ProcessStates.EXITED


@pytest.mark.parametrize(
    ("autorestart", "expected", "waits"),
    [(False, False, False), (RestartWhenExitUnexpected, True, False), (RestartWhenExitUnexpected, False, True)],
)
def test_only_a_process_that_supervisord_restarts_waits(autorestart: Any, expected: bool, waits: bool) -> None:
    found = exited(expected, autorestart)
    assert found.state == (ProcessStates.BACKOFF if waits else ProcessStates.EXITED)


@pytest.mark.parametrize("config", [{}, {"pool_events": [ProcessStateEvent]}])
def test_other_processes_are_left(config: Any) -> None:
    assert exited(group=SimpleNamespace(config=SimpleNamespace(**config))).state == ProcessStates.EXITED


def test_clock_that_was_set_back_makes_no_longer_pause() -> None:
    assert exited(laststart=time.time() + 3600).delay <= time.time() + BETWEEN_STARTS
