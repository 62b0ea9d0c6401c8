"""A queue worker for tests: ``python -m tests.support.job_worker DIRECTORY``.

A job is a file in ``DIRECTORY/jobs`` with the seconds that it takes. The worker moves it to ``taken`` when it begins,
under its name and pid, and to ``done`` when it ends. SIGTERM and SIGUSR1 let it finish its job, and then exit. What a
killed worker had begun stays in ``taken``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

IDLE = 0.05  # seconds between two looks for a job

STEPS = ("jobs", "taken", "done")


def fill(directory: Path, seconds: list[float]) -> None:
    """Make a queue with these jobs."""
    for step in STEPS:
        (directory / step).mkdir(parents=True, exist_ok=True)
    for number, takes in enumerate(seconds):
        add(directory, f"{number:04}", takes)


def add(directory: Path, name: str, seconds: float) -> None:
    """Add a job, which is there as a whole or not at all. Workers take them by their names."""
    new = directory / f"new-{name}"
    new.write_text(str(seconds))
    new.rename(directory / "jobs" / name)


def names(directory: Path, step: str) -> list[str]:
    """The jobs that are at this step."""
    return sorted(path.name.partition(".")[0] for path in (directory / step).iterdir())


def main() -> None:
    """Work until told to stop."""
    directory, told = Path(sys.argv[1]), []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: told.append(number))
    while not told:
        if not _work(directory):
            time.sleep(IDLE)


def _work(directory: Path) -> bool:
    """Do the next job. False: there is none."""
    for job in sorted((directory / "jobs").iterdir()):
        taken = directory / "taken" / f"{job.name}.{os.getpid()}"
        try:
            job.rename(taken)
        except FileNotFoundError:  # another worker was faster
            continue
        until = time.monotonic() + float(taken.read_text())
        while (left := until - time.monotonic()) > 0:
            time.sleep(left)  # a signal interrupts nothing
        taken.rename(directory / "done" / taken.name)
        return True
    return False


if __name__ == "__main__":
    main()
