"""``ports: none`` with real queue workers: every job that began ends, and the others keep pulling."""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import job_worker, plugin
from tests.support.look import listener_pid, rolling, wait_ended
from tests.support.stack import ROOT, Setup, Stack
from tests.support.waiting import wait_until

GROUP = "worker"
POLICY = "rolling.yaml"
NO_RIGHTS = "setpriv --bounding-set=-net_admin,-net_raw --inh-caps=-net_admin,-net_raw "

PROGRAM = f"""\
[program:{GROUP}]
command = {shlex.quote(sys.executable)} -m tests.support.job_worker %(here)s
directory = {ROOT}
process_name = {GROUP}-%(process_num)d
numprocs = {{processes}}
stopwaitsecs = {{stopwaitsecs}}
"""


@contextlib.contextmanager
def workers(
    directory: Path, jobs: list[float], processes: int = 8, stopwaitsecs: int = 3600, **policy: Any
) -> Iterator[Stack]:
    """A supervisord with so many workers, without the rights of a firewall, and a queue with these jobs."""
    job_worker.fill(directory, jobs)
    group = {"ports": "none", **policy}
    text = yaml.safe_dump({"history": False, "groups": {GROUP: group}})
    program = PROGRAM.format(processes=processes, stopwaitsecs=stopwaitsecs).replace("%(here)s", str(directory))
    setup = Setup(
        1,
        "tests.support.light_app",
        supervisor=f"{plugin.sections(directory / POLICY, NO_RIGHTS)}\n{program}",
        files={POLICY: text},
    )
    with Stack(directory, setup) as stack:
        wait_until(lambda: len(pids(stack)) == processes, "all workers run")
        yield stack


def pids(stack: Stack) -> dict[str, int]:
    """Of the workers that work or pull: RUNNING, or with a last job that they finish."""
    every: Any = stack.rpc().supervisor.getAllProcessInfo()
    there = ("RUNNING", "STARTING", "STOPPING")
    return {one["name"]: one["pid"] for one in every if one["group"] == GROUP and one["statename"] in there}


class Sampler(threading.Thread):
    """Counts the workers every 0.05 s, until it is stopped."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(daemon=True)
        self.least = sys.maxsize
        self._stack, self._is_over = stack, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._is_over.wait(0.05):
            self.least = min(self.least, len(pids(self._stack)))

    def end(self) -> int:
        """The least there were."""
        self._is_over.set()
        self.join()
        return self.least


def is_done(directory: Path) -> bool:
    return not job_worker.names(directory, "jobs") and not job_worker.names(directory, "taken")


KILLS = 2

FEW = [6.0, *[0.25] * 60]  # the first one takes longer than all the rest
ISSUED = [60.0, *(random.Random(5).uniform(0.0, 20.0) for _ in range(199))]


@pytest.mark.parametrize("jobs", [FEW, pytest.param(ISSUED, marks=pytest.mark.soak)], ids=["short", "whole"])
def test_every_job_that_began_ends_and_a_long_one_delays_none(tmp_path: Path, jobs: list[float]) -> None:
    with workers(tmp_path, jobs, max_unavailable=2) as stack:
        before, longest = pids(stack), max(jobs)
        sampler = Sampler(stack)
        done = stack.ctl("rolling_restart", GROUP, timeout=600.0)
        least, after = sampler.end(), pids(stack)
        assert (done.returncode, done.stderr) == (0, "")
        assert not set(before.values()) & set(after.values())
        assert least >= len(before) - 1, "one restarts, and one may finish its last job"
        stack.wait_until(lambda: is_done(tmp_path), 600.0, "the queue is empty")
        assert job_worker.names(tmp_path, "done") == [f"{number:04}" for number in range(len(jobs))]
        rollout = rolling(stack, GROUP)
        slow = max(rollout["processes"], key=lambda one: one["stopped"])
        others = [one for one in rollout["processes"] if one is not slow]
        assert slow["stopped"] > longest / 3, "it had the long job"
        assert slow["stopped"] > max(one["stopped"] for one in others)
        assert rollout["seconds"] < slow["stopped"] + sum(one["stopped"] + one["warmed"] + 1.0 for one in others)


def test_workers_that_are_asked_to_finish_exit_by_themselves(tmp_path: Path) -> None:
    drain = {"signal": "USR1", "timeout": 30}
    with workers(tmp_path, [1.0] * 8, processes=3, max_unavailable=3, canary=0, drain=drain) as stack:
        before = pids(stack)
        assert stack.ctl("rolling_restart", GROUP).returncode == 0
        assert not set(before.values()) & set(pids(stack).values())
        stack.wait_until(lambda: is_done(tmp_path), 30.0, "the queue is empty")
        assert len(job_worker.names(tmp_path, "done")) == 8
        assert all(one["stopped"] < 1.0 for one in rolling(stack, GROUP)["processes"]), "each had exited before"


def test_killed_worker_fails_the_rollout_and_is_named(tmp_path: Path) -> None:
    with workers(tmp_path, [30.0, 30.0], processes=2, stopwaitsecs=1) as stack:
        stack.wait_until(lambda: len(job_worker.names(tmp_path, "taken")) == 2, 10.0, "both work")
        done = stack.ctl("rolling_restart", GROUP)
        assert done.returncode == 1
        assert "worker-0  stopped 1." in done.stdout
        assert "FAILED: did not stop within 1 s (stopwaitsecs), so supervisord kills it" in done.stdout
        assert [one["failed"] for one in rolling(stack, GROUP)["processes"]] == [True, False]


def test_killed_listener_loses_no_job(tmp_path: Path) -> None:
    with workers(tmp_path, [0.4] * 40, processes=3) as stack:
        before = pids(stack)
        stack.rpc().rolling.restart(GROUP, False, {})
        moments = random.Random(7)
        for _ in range(KILLS):
            if pid := listener_pid(stack):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(moments.uniform(1.0, 3.0))
        assert wait_ended(stack, group=GROUP)["status"] == "done"
        assert not set(before.values()) & set(pids(stack).values())
        stack.wait_until(lambda: is_done(tmp_path), 30.0, "the queue is empty")
        assert len(job_worker.names(tmp_path, "done")) == 40
