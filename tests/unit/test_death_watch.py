"""Deaths by pidfd: real processes."""

from __future__ import annotations

import select
import subprocess
from collections.abc import Iterator

import pytest

from supervisor_rolling.core.process import Incarnation
from supervisor_rolling.listener import death_watch as module
from supervisor_rolling.listener.death_watch import PidfdDeaths

SOON = 5000  # milliseconds


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
    yield started
    for process in started:
        process.kill()
        process.wait()


def incarnations(processes: list[subprocess.Popen[bytes]]) -> list[Incarnation]:
    return [Incarnation(process.pid, 1.0) for process in processes]


def wait_for(deaths: PidfdDeaths, timeout: int = SOON) -> bool:
    poll = select.poll()
    poll.register(deaths.fileno(), select.POLLIN)
    return bool(poll.poll(timeout))


def test_death_is_returned_while_watched(processes: list[subprocess.Popen[bytes]]):
    deaths, guarded_groups = PidfdDeaths(), incarnations(processes)
    deaths.watch(guarded_groups)
    assert not wait_for(deaths, 0)
    assert set(deaths.take()) == set()
    processes[1].kill()
    assert wait_for(deaths)
    assert set(deaths.take()) == {guarded_groups[1]}
    deaths.watch(guarded_groups)
    assert set(deaths.take()) == {guarded_groups[1]}, "supervisord has not come round to it"
    assert not wait_for(deaths, 0), "it rings once"
    deaths.watch([guarded_groups[0], guarded_groups[2]])
    assert set(deaths.take()) == set()


def test_reused_pid_is_another_process(processes: list[subprocess.Popen[bytes]]):
    deaths, (first, *_) = PidfdDeaths(), incarnations(processes)
    deaths._gone.add(first)  # the kernel cannot be made to use a pid again in time
    deaths.watch([first])
    assert set(deaths.take()) == {first}
    deaths.watch([first._replace(spawned=2.0)])
    assert set(deaths.take()) == set()
    processes[0].kill()
    assert wait_for(deaths)
    assert set(deaths.take()) == {first._replace(spawned=2.0)}


def test_one_that_is_dead_already_has_died(processes: list[subprocess.Popen[bytes]]):
    processes[0].kill()
    processes[0].wait()
    deaths = PidfdDeaths()
    deaths.watch(incarnations(processes[:1]))
    assert set(deaths.take()) == set(incarnations(processes[:1]))


def test_unwatched_process_wakes_nothing(processes: list[subprocess.Popen[bytes]]):
    deaths = PidfdDeaths()
    deaths.watch(incarnations(processes[:2]))
    deaths.watch(incarnations(processes[1:2]))
    processes[0].kill()
    processes[0].wait()
    assert not wait_for(deaths, 100)
    assert set(deaths.take()) == set()


def test_all_may_die_at_once(processes: list[subprocess.Popen[bytes]]):
    deaths = PidfdDeaths()
    deaths.watch(incarnations(processes))
    for process in processes:
        process.kill()
        process.wait()
    assert wait_for(deaths)
    assert set(deaths.take()) == set(incarnations(processes))


@pytest.mark.parametrize("error", [OSError(38, "Function not implemented"), OSError(24, "Too many open files")])
def test_missing_pidfds_are_logged_once(
    error: OSError,
    processes: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    def refuse(pid: int) -> int:
        raise error

    monkeypatch.setattr(module.os, "pidfd_open", refuse)
    deaths = PidfdDeaths()
    for _ in range(3):
        deaths.watch(incarnations(processes))
    assert set(deaths.take()) == set()
    assert [record.message for record in caplog.records] == [
        f"deaths are seen only by supervisord's events, which come later: {error}"
    ]
