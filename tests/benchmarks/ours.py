"""Our way in the benchmark: the stack that it needs, the rollout, and what is asked of supervisord meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.states import asking_for_the_state
from tests.support import footprint, haproxy, plugin
from tests.support.load import quantile
from tests.support.look import wait_open
from tests.support.site import PATHS
from tests.support.stack import GROUP, Setup, Stack, StackError

POLICY = "rolling.yaml"
HISTORY = {"file": "%(here)s/rollouts.jsonl"}
WARMUP = {"timeout": 60, "ready": "/health", "requests": list(PATHS)}
"""Every page, and the default patience: in a large group several boot beside each other on two processors."""

STATE_EVERY = 0.02  # seconds between two calls of getState
ROLLOUT_WITHIN = 900.0
ANSWERS, ANSWERS_EVERY = 10, 0.05  # seconds

SETUP = Setup(supervisor=plugin.sections(Path("%(here)s") / POLICY), files={POLICY: plugin.policy()})


def setup(backend: str) -> Setup:
    """A stack with the plugin and a history, and this gate; behind HAProxy, where that is the gate."""
    gate = haproxy.gate("%(here)s") if backend == "haproxy" else {"backend": backend}
    balancer = "haproxy" if backend == "haproxy" else "nginx"
    policy = plugin.policy(gate=gate, history=HISTORY, warmup=WARMUP)
    return replace(SETUP, balancer=balancer, files={POLICY: policy})


def warm(stack: Stack) -> None:
    """Let the guard warm everybody; then there is nothing left to warm, which is tried."""
    wait_open(stack, ROLLOUT_WITHIN)
    stack.warm()


def rollout(stack: Stack, at_a_time: int) -> Mapping[str, Any]:
    """``supervisorctl rolling_restart app``; the record of the rollout, and when it ``started``, on CLOCK_MONOTONIC."""
    options = ("--json", "--max-unavailable", str(at_a_time))
    with ThreadPoolExecutor(1) as pool:
        rolling = pool.submit(stack.ctl, "rolling_restart", GROUP, *options, timeout=ROLLOUT_WITHIN)
        started = _start_of_rollout(stack, rolling.done)
        done = rolling.result()
    if done.returncode:
        raise StackError(f"rolling_restart ended with {done.returncode}: {done.stdout}")
    if started is None:
        raise StackError("no rollout was seen to run")
    return {**json.loads(str(stack.rpc().rolling.getRecord(GROUP))), "started": started}


def _start_of_rollout(stack: Stack, is_over: Callable[[], bool]) -> float | None:
    """By what supervisord says of a rollout that runs, for how many seconds it does: as exact as the quickest of some
    answers is quick. None where no rollout ran."""
    found: list[tuple[float, float]] = []
    proxy = stack.rpc()
    while len(found) < ANSWERS and not is_over():
        asked = time.monotonic()
        rollouts: Any = proxy.rolling.getAllRollouts()
        took = time.monotonic() - asked
        found += [
            (took, asked + took / 2 - rollout["seconds"]) for rollout in rollouts if rollout["status"] == "running"
        ]
        time.sleep(ANSWERS_EVERY)
    return min(found)[1] if found else None


def rollout_while_asked(stack: Stack, at_a_time: int) -> Mapping[str, Any]:
    """The same while ``supervisor.getState`` is called all the time; with the p99 of that, in seconds, and the resident
    memory of the listener at the end, in MB."""
    with asking_for_the_state(stack.rpc(), STATE_EVERY) as latencies:
        record = rollout(stack, at_a_time)
    return {
        **record,
        "state_p99": quantile(sorted(latencies), 0.99),
        "listener_mb": footprint.kilobytes(listener_pid(stack), "VmRSS") / 1024,
    }


def listener_pid(stack: Stack) -> int:
    """0 where there is none."""
    infos: Any = stack.rpc().supervisor.getAllProcessInfo()
    return next((info["pid"] for info in infos if info["name"] == "rolling"), 0)
