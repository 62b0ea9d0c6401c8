"""A rollout of ten, a hundred and a thousand processes, a tenth of them at a time: what it costs.

``python -m tests.benchmarks.sizes`` (as root) rollouts a group of ``--sizes`` light processes under one supervisord,
each in turn, and prints for each: the listener's and supervisord's time on the processor for each process replaced, how
long the listener's reconciles took and kept the processor, how long ``supervisor.getState`` waited all the while
(supervisord's time has the answers to it, ten a second), what the listener held in memory at most, and how long
``rolling_status`` took. ``--profile`` prints what the reconciles spent their time on, instead."""

from __future__ import annotations

import argparse
import pstats
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks import timed_reconciler
from tests.benchmarks.many import Many, Rig, running
from tests.benchmarks.states import asking_for_the_state
from tests.support import footprint, proc
from tests.support.load import quantile
from tests.support.netns import enter_private_network
from tests.support.stack import StackError

AT_A_TIME = "10%"
STATE_EVERY = 0.1  # seconds between two calls of getState: each costs supervisord a few passes over its processes
ROLLOUT_WITHIN = 900.0
STATUS_TIMES = 5
QUIET = 5.0  # seconds: the events of the start are worked off
SHOWN = 45  # lines of a profile


@dataclass(frozen=True)
class Cost:
    """Seconds; ``listener`` and ``supervisord``: on the processor, for each process replaced; ``peak_mb``: the largest
    the listener has been."""

    size: int
    rollout: float
    listener: float
    supervisord: float
    reconciles: Sequence[float]
    busy: Sequence[float]
    states: Sequence[float]
    status: float
    peak_mb: float


def measure(size: int, startsecs: int) -> Cost:
    """Of one rollout."""
    enter_private_network()
    with running(_timed(size, startsecs, {})) as rig:
        time.sleep(QUIET + size / 50)
        listener = rig.rpc().supervisor.getProcessInfo("rolling")["pid"]
        pids = listener, rig.supervisord
        before = [proc.cpu_seconds(pid) for pid in pids]
        known = len(_reconciles(rig))
        with asking_for_the_state(rig.rpc(), STATE_EVERY) as states:
            began = time.monotonic()
            _rollout(rig)
            took = time.monotonic() - began
        listens, supervises = (proc.cpu_seconds(pid) - then for pid, then in zip(pids, before))
        reconciles = _reconciles(rig)[known:]
        return Cost(
            size,
            took,
            listens / size,
            supervises / size,
            sorted(seconds for seconds, _ in reconciles),
            sorted(busy for _, busy in reconciles),
            sorted(states),
            _status(rig),
            footprint.kilobytes(listener, "VmHWM") / 1024,
        )


def profile(size: int, startsecs: int) -> None:
    """Print what the reconciles of one rollout spent their time on."""
    enter_private_network()
    with running(_timed(size, startsecs, {timed_reconciler.PROFILE: "profile"})) as rig:
        time.sleep(QUIET + size / 50)
        _rollout(rig)
        rig.rpc().supervisor.stopProcess("rolling", True)
        statistics = pstats.Stats(str(rig.directory / "profile"))
        for action in ("cumulative", "tottime"):
            statistics.sort_stats(action).print_stats(SHOWN)


def _timed(size: int, startsecs: int, names: Mapping[str, str]) -> Many:
    files = {timed_reconciler.FILE: "reconciles", **names}
    return Many(
        size,
        timed_reconciler.__name__,
        lambda directory: {variable: str(directory / name) for variable, name in files.items()},
        startsecs,
    )


def _rollout(rig: Rig) -> None:
    done = _ctl(rig, "rolling_restart", "app", "--max-unavailable", AT_A_TIME)
    if done.returncode:
        raise StackError(f"rolling_restart ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def _ctl(rig: Rig, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(rig.conf), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=ROLLOUT_WITHIN, check=False)


def _status(rig: Rig) -> float:
    """Seconds of one ``rolling_status`` with all that belongs to a command; the middle of a few."""
    took = []
    for _ in range(STATUS_TIMES):
        began = time.monotonic()
        _ctl(rig, "rolling_status", "app")
        took.append(time.monotonic() - began)
    return sorted(took)[STATUS_TIMES // 2]


def _reconciles(rig: Rig) -> list[tuple[float, float]]:
    lines = (rig.directory / "reconciles").read_text(encoding="ascii").splitlines()
    found = [line.split() for line in lines]
    return [(float(seconds), float(busy)) for seconds, busy in found]


COLUMNS = (
    "processes  rollout s  listener ms  supervisord ms  reconciles  p99 ms  max ms  busy p99 ms  max ms  "
    "getState p50  p99 ms  max ms  status s  peak MB"
)


def row(cost: Cost) -> str:
    """As wide as COLUMNS."""
    cells = (
        f"{cost.size}",
        f"{cost.rollout:.1f}",
        f"{1000 * cost.listener:.1f}",
        f"{1000 * cost.supervisord:.1f}",
        f"{len(cost.reconciles)}",
        f"{1000 * quantile(cost.reconciles, 0.99):.1f}",
        f"{1000 * cost.reconciles[-1]:.1f}",
        f"{1000 * quantile(cost.busy, 0.99):.1f}",
        f"{1000 * cost.busy[-1]:.1f}",
        f"{1000 * quantile(cost.states, 0.5):.1f}",
        f"{1000 * quantile(cost.states, 0.99):.1f}",
        f"{1000 * cost.states[-1]:.1f}",
        f"{cost.status:.2f}",
        f"{cost.peak_mb:.0f}",
    )
    return "  ".join(cell.rjust(len(title)) for cell, title in zip(cells, COLUMNS.split("  ")))


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that supervisord is stopped
    parser = argparse.ArgumentParser(description="What a rollout of many costs. Needs root.")
    parser.add_argument("--sizes", default="10,100,1000", help="processes (default: %(default)s)")
    parser.add_argument("--startsecs", type=int, default=1, help="of each process (default: %(default)s)")
    parser.add_argument("--profile", action="store_true", help="print what the reconciles spend their time on")
    arguments = parser.parse_args()
    if not arguments.profile:
        print(COLUMNS)
    for size in map(int, arguments.sizes.split(",")):
        if arguments.profile:
            profile(size, arguments.startsecs)
        else:
            print(row(measure(size, arguments.startsecs)), flush=True)


if __name__ == "__main__":
    main()
