"""Rollouts with a kill at a random moment of each: ``python -m tests.soak.kills --rollouts 100`` (as root).

Four processes of the light application under load; in every rollout the listener, or the client, gets a SIGKILL. A
rollout has survived if every process was replaced exactly once, all are warm and open in the end, and no rule is
left. Exit status 0 if all have, and no request failed."""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.support import plugin
from tests.support.load import Load, Plan, Report
from tests.support.look import (
    all_open,
    is_warm_and_open,
    listener_pid,
    pids,
    popen_ctl,
    rolling,
    rules,
    wait_ended,
    wait_open,
)
from tests.support.netns import enter_private_network
from tests.support.stack import Setup, Stack, StackError
from tests.support.waiting import eventually

LATEST = 1.6
"""Seconds after the command by which its rollout of four light processes is over, most of the time."""

BEGINS_WITHIN = 2.0  # seconds after a request
CLIENT_PATIENCE = 60.0


@dataclass(frozen=True)
class Outcome:
    """One rollout with a kill."""

    victim: str
    after: float  # seconds from the command to the kill
    stages: str  # of the processes at the kill
    problem: str = ""  # empty if it survived

    @property
    def survived(self) -> bool:
        return not self.problem


def rollout_and_kill(stack: Stack, chance: random.Random, victim: str = "listener") -> Outcome:
    """Do a rollout of the group, and kill the victim at a random moment of it."""
    before, starts = pids(stack), starts_of(stack)
    number = last_rollout(stack)
    client = popen_ctl(stack, "rolling_restart", "app", "--json")
    after = chance.uniform(0.0, LATEST)
    time.sleep(after)
    stages = stages_of(stack, number)
    os.kill(client.pid if victim == "client" else listener_pid(stack), signal.SIGKILL)
    said, _ = client.communicate(timeout=CLIENT_PATIENCE)
    outcome = Outcome(victim, round(after, 3), stages)
    # What it has asked for begins when the checks before it are done.
    if victim == "client" and not eventually(lambda: last_rollout(stack) != number, BEGINS_WITHIN):
        return Outcome(victim, round(after, 3), "not asked yet", untouched_problem(stack, before))
    try:
        rollout = wait_ended(stack)
        wait_open(stack, 30.0)
    except StackError as error:
        return Outcome(victim, outcome.after, stages, str(error))
    if victim == "listener" and client.returncode != 0:
        return Outcome(victim, outcome.after, stages, f"exit status {client.returncode}: {said}")
    if rollout["status"] != "done":
        return Outcome(victim, outcome.after, stages, f"{rollout['status']}: {rollout['why']}")
    return Outcome(victim, outcome.after, stages, replaced_problem(stack, before, starts))


def replaced_problem(stack: Stack, before: list[int], starts: Counter[str]) -> str:
    """What is wrong with the group after a rollout, if anything."""
    if set(before) & set(pids(stack)):
        return "a process was not replaced"
    again = starts_of(stack) - starts
    if set(again.values()) != {1}:
        return f"not every process was started exactly once: {dict(again)}"
    return open_problem(stack)


def untouched_problem(stack: Stack, before: list[int]) -> str:
    return open_problem(stack) if pids(stack) == before else "a process was replaced without a request"


def open_problem(stack: Stack) -> str:
    if not all_open(stack):
        return f"a port is closed: {rules()}"
    return f"rules are left: {rules()}" if rules() else ""


def starts_of(stack: Stack) -> Counter[str]:
    """How often each process of the group was started so far, by supervisord's log."""
    log = (stack.directory / "supervisord.log").read_text(encoding="utf-8")
    return Counter(re.findall(r"spawned: '(app-\d+)'", log))


def last_rollout(stack: Stack) -> int:
    """The number of the last rollout; 0: none."""
    rollouts: list[dict[str, int]] = stack.rpc().rolling.getAllRollouts()  # type: ignore[assignment]  # XML-RPC has no types
    return max((rollout["id"] for rollout in rollouts), default=0)


def stages_of(stack: Stack, before: int) -> str:
    """The stages of the processes that are not open, in the rollout after number ``before``."""
    if last_rollout(stack) == before:
        return "not begun"
    rollout = rolling(stack)
    return " ".join(p["stage"] for p in rollout["processes"] if p["stage"] != "open") or rollout["status"]


# --- the program


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=100)
    parser.add_argument("--victim", choices=["listener", "client"], default="listener")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    enter_private_network()
    print(
        f"{arguments.rollouts} rollouts, the {arguments.victim} is killed in each; --seed {arguments.seed}", flush=True
    )
    outcomes, report = run(arguments.rollouts, arguments.victim, random.Random(arguments.seed))
    return tell(outcomes, report)


def run(rollouts: int, victim: str, chance: random.Random) -> tuple[list[Outcome], Report]:
    with tempfile.TemporaryDirectory(prefix="kills") as directory:
        policy = plugin.policy(warmup={"timeout": 10, "ready": "/health", "requests": ["/"]})
        files = {"rolling.yaml": policy}
        sections = plugin.sections(Path("%(here)s") / "rolling.yaml")
        setup = Setup(processes=4, application="tests.support.light_app", startsecs=0, supervisor=sections, files=files)
        with Stack(Path(directory), setup) as stack:
            wait_open(stack)
            with Load(Plan(stack.url, rate=60.0, seconds=rollouts * CLIENT_PATIENCE), stack.directory / "load") as load:
                outcomes = [one_told(stack, chance, victim) for _ in range(rollouts)]
            assert is_warm_and_open(stack)
            return outcomes, load.report()


def one_told(stack: Stack, chance: random.Random, victim: str) -> Outcome:
    outcome = rollout_and_kill(stack, chance, victim)
    print(f"after {outcome.after:.2f} s, {outcome.stages}: {outcome.problem or 'survived'}", flush=True)
    return outcome


def tell(outcomes: list[Outcome], report: Report) -> int:
    survived = sum(outcome.survived for outcome in outcomes)
    moments = Counter(outcome.stages for outcome in outcomes)
    print(f"{survived} of {len(outcomes)} survived; killed when: {dict(moments.most_common())}")
    failed = report.gets_failed + report.posts_failed
    print(f"{report.requests} requests, {failed} failed, {report.cold} cold; GETs p99 {report.p99 * 1000:.0f} ms")
    return 0 if survived == len(outcomes) and failed == 0 and report.cold == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
