"""Our way in the benchmark, and what is asked of it beyond the load's report.

``bound``: what the roll could not have taken less than: for each process its observed drain, stop, and the longer of
startsecs and boot with warm-up, divided by how many go at once; the canary goes alone. ``state_p99``: of
``supervisor.getState``, called all through the roll. ``listener_mb``: the listener's resident memory at the end.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.lab import haproxy, plugin
from tests.lab.load import quantile
from tests.lab.stack import LabError, Setup, Stack

POLICY = "rolling.yaml"
STATE_EVERY = 0.02  # seconds between two calls of getState

SETUP = Setup(supervisor=plugin.sections(Path("%(here)s") / POLICY), files={POLICY: plugin.policy()})
BEHIND_HAPROXY = replace(SETUP, balancer="haproxy", files={POLICY: plugin.policy(gate=haproxy.gate("%(here)s"))})


def roll(stack: Stack, at_a_time: int) -> dict[str, float]:
    """``supervisorctl rolling_restart app``; its figures."""
    with _asking_for_the_state(stack) as latencies:
        done = stack.ctl("rolling_restart", "app", "--json", "--max-unavailable", str(at_a_time))
    if done.returncode:
        raise LabError(f"rolling_restart ended with {done.returncode}: {done.stdout}")
    found = json.loads(done.stdout)
    return {
        "roll": found["seconds"],
        "bound": bound(found["processes"], stack.setup.startsecs, at_a_time),
        "least_available": found["least_available"],
        "state_p99": quantile(sorted(latencies), 0.99),
        "listener_mb": _resident_mb(stack),
    }


def bound(processes: list[Mapping[str, Any]], startsecs: float, at_a_time: int) -> float:
    """Seconds; see the module."""
    canary, *rest = [p["drained"] + p["stopped"] + max(startsecs, p["warmed"]) for p in processes]
    return canary + sum(rest) / at_a_time


def figures(own: Mapping[str, float]) -> str:
    """One line for a person."""
    return (
        f"took {own['roll']:.2f} s, {own['roll'] / own['bound']:.2f} of the bound of {own['bound']:.2f} s; "
        f"at least {own['least_available']:.0f} available; getState p99 {1000 * own['state_p99']:.1f} ms; "
        f"listener {own['listener_mb']:.0f} MB resident"
    )


@contextmanager
def _asking_for_the_state(stack: Stack) -> Iterator[list[float]]:
    latencies: list[float] = []
    over = threading.Event()
    asking = threading.Thread(target=_ask, args=(stack, latencies, over))
    asking.start()
    try:
        yield latencies
    finally:
        over.set()
        asking.join()


def _ask(stack: Stack, latencies: list[float], over: threading.Event) -> None:
    proxy = stack.rpc()
    while not over.wait(STATE_EVERY):
        began = time.monotonic()
        proxy.supervisor.getState()
        latencies.append(time.monotonic() - began)


def _resident_mb(stack: Stack) -> float:
    info: Any = stack.rpc().supervisor.getProcessInfo("rolling")
    status = Path(f"/proc/{info['pid']}/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024
