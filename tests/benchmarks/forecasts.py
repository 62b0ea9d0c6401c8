"""How far forecasts are off: rollouts of a group of eight under load, each with what was expected of it.

``python -m tests.benchmarks.forecasts`` (as root); ``--rollouts 12`` for more. The first has none to go by. Every other
one goes two at a time, so that a forecast is not just the last rollout again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.benchmarks import ours
from tests.support import plugin
from tests.support.load import Load, Plan
from tests.support.look import wait_open
from tests.support.netns import enter_private_network
from tests.support.stack import Stack, StackError

RATE = 100.0


def main() -> None:
    """Print a line for each rollout, and the median and the largest of how far off they were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=9, help="how many (default: %(default)s)")
    parser.add_argument(
        "--min-ready-seconds", type=float, default=0.0, help="min_ready_seconds of the group (default: 0)"
    )
    options = parser.parse_args()
    enter_private_network()
    history = {"file": "%(here)s/rollouts.jsonl"}
    setup = replace(
        ours.SETUP, files={ours.POLICY: plugin.policy(history=history, min_ready_seconds=options.min_ready_seconds)}
    )
    with tempfile.TemporaryDirectory() as directory, Stack(Path(directory), setup) as stack:
        stack.warm()
        wait_open(stack)
        with Load(Plan(stack.url, rate=RATE), Path(directory) / "load.jsonl", setup.elsewhere):
            offs = [off for number in range(options.rollouts) if (off := _rolled(stack, 1 + number % 2)) is not None]
    print(f"{len(offs)} forecasts: off by {statistics.median(offs):.1%} (median), {max(offs):.1%} at most")


def _rolled(stack: Stack, at_a_time: int) -> float | None:
    """How far off the forecast of one rollout was, as a share of it; None where there was none."""
    done = stack.ctl("rolling_restart", "app", "--json", "--max-unavailable", str(at_a_time), timeout=600)
    if done.returncode:
        raise StackError(f"rolling_restart ended with {done.returncode}: {done.stdout}")
    rollout = json.loads(done.stdout)
    took, expected = rollout["seconds"], rollout["forecast"]
    off = abs(took - expected) / expected if expected else None
    said = f"{expected:.1f} s, off by {off:.1%}" if off is not None else "none"
    print(f"rollout {rollout['id']}, {at_a_time} at a time: took {took:.1f} s, forecast {said}", flush=True)
    return off


if __name__ == "__main__":
    main()
