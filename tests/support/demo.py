"""What ``make demo`` shows: a deploy by a rolling restart under load, and a report of all requests.

The set-up is the post's: supervisord, eight processes of the demo application, nginx with ``fair`` before them, all in
a network namespace of the demo's own. What runs in the middle is the real ``supervisorctl rolling_restart app``, on the
user's terminal. Nothing is left behind at the end, nor after Ctrl-C, but the empty lock file that every
user of iptables shares (/run/xtables.lock).

Exit status: 0 the rollout was done, nothing failed, nothing was cold; 1 otherwise; 3 no namespace can be made; 130
Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tests.benchmarks.measuring import NEW, NOISY, OLD
from tests.benchmarks.results import aligned
from tests.support import plugin
from tests.support.load import Load, Plan, Report
from tests.support.netns import NoNamespaceError, enter_private_network
from tests.support.site.views import SLOW_SECONDS
from tests.support.stack import GROUP, ROOT, Setup, Stack, StackError

AS_PROMISED, NOT_AS_PROMISED, NO_NAMESPACE, INTERRUPTED = 0, 1, 3, 130
"""Exit statuses. 130 is what a shell says of a program that SIGINT ended."""

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, kill, and a terminal that is closed: each ends the demo in order."""

ROLLOUT_WITHIN = 120.0
"""Seconds for the rollout; it takes about two for a process."""

LAST_WORDS = 1.0
"""Seconds for supervisorctl to say goodbye: Ctrl-C reaches it too."""


@dataclass(frozen=True)
class Show:
    """``seconds``: how long the load is watched before the rollout, and again after it. ``rate``: new connections a
    second."""

    processes: int
    seconds: float
    rate: float


@dataclass(frozen=True)
class Outcome:
    """What the demo's rollout came to."""

    periods: Mapping[str, Report]  # of the requests before, during and after the rollout
    new: Mapping[str, int]  # answers of the new release in each period
    rollout: Mapping[str, Any]  # supervisord's own view
    kept: Sequence[str]  # processes that were not replaced


# --- the show


def play(show: Show, directory: Path) -> int:
    """Run the whole demo; returns the exit status."""
    say(f"Starting supervisord, {show.processes} processes of a Django application, and nginx.")
    with _stack(show, directory) as stack, undisturbed_end():
        say("Warming up: one request for every page of every process.")
        stack.warm()
        outcome = _deploy(show, stack)
        faults = shortfalls(outcome) if outcome else ["the rollout was not done"]
        logs = stack.logs() if faults else ""
    if outcome:
        print("\n" + "\n".join(table(outcome)))
        _say_noise(outcome)
    if faults or not outcome:
        print("\n".join(["\nThe demo FAILED:", *faults, "\nThe ends of the logs:", logs]))
        return NOT_AS_PROMISED
    print("\n" + praise(outcome))
    return AS_PROMISED


def _stack(show: Show, directory: Path) -> Stack:
    """A stack with the plugin, not yet started."""
    policy_file = directory / "rolling.yaml"
    policy_file.write_text(plugin.policy(), encoding="utf-8")
    setup = Setup(processes=show.processes, supervisor=plugin.sections(policy_file))
    stack = Stack(directory, setup)
    stack.release(OLD)
    return stack


def _deploy(show: Show, stack: Stack) -> Outcome | None:
    """Deploy a new release under load. None if supervisorctl has reported that it failed."""
    plan = Plan(stack.url, show.rate)
    before = stack.processes()
    say(
        f"Load: {plan.rate:.0f} new connections a second, {100 * plan.posts:.0f} % a POST of {SLOW_SECONDS} s. "
        f"No restart for {show.seconds:.0f} s."
    )
    with contextlib.ExitStack() as under_way:
        with undivided():
            load = under_way.enter_context(Load(plan, stack.directory / "load.jsonl"))
        time.sleep(show.seconds)
        say("A new release is deployed. The processes still run the old one. Now the rollout:")
        stack.release(NEW)
        began = time.monotonic()
        if _rollout(stack) != 0:
            return None
        done = time.monotonic()
        after = {process.pid for process in stack.processes()}
        say(f"\n{show.seconds:.0f} s more of load, for late failures.")
        time.sleep(show.seconds)
        rollout: Any = stack.rpc().rolling.getRollout(GROUP)
    kept = [process.name for process in before if process.pid in after]
    return _outcome(load, {"before": load.began, "during": began, "after": done}, rollout, kept)


def _rollout(stack: Stack) -> int:
    """The real command, on the user's terminal; gives its exit status."""
    print(f"\n$ supervisorctl rolling_restart {GROUP}", flush=True)
    command = stack.ctl_command("rolling_restart", GROUP)
    with undivided():
        ctl = subprocess.Popen(command, cwd=ROOT, env=stack.environment, stdin=subprocess.DEVNULL)
    try:
        return ctl.wait(ROLLOUT_WITHIN)
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            ctl.wait(LAST_WORDS)
        ctl.kill()
        ctl.wait()


def _outcome(load: Load, starts: Mapping[str, float], rollout: Mapping[str, Any], kept: Sequence[str]) -> Outcome:
    """Cut the load, which has ended, into periods by the points in time at which they start."""
    ends = [*list(starts.values())[1:], float("inf")]
    windows = {name: (start, end) for (name, start), end in zip(starts.items(), ends)}
    new = Counter(
        name
        for answer in load.answers()
        for name, (start, end) in windows.items()
        if answer.release == NEW and start <= answer.scheduled < end
    )
    return Outcome({name: load.report(*window) for name, window in windows.items()}, new, rollout, kept)


def say(what: str) -> None:
    """What happens next. Flushed, as supervisorctl writes to the same terminal."""
    print(what, flush=True)


# --- the table


def table(outcome: Outcome) -> list[str]:
    """The lines of the table, with a column for each period."""
    names, reports, rollout = list(outcome.periods), list(outcome.periods.values()), outcome.rollout
    available = f"{rollout['min_available']} of {len(rollout['processes'])}"
    rows = [
        ("", "before", "during the rollout", "after"),
        ("requests", *(str(report.requests) for report in reports)),
        ("answered by the new release", *(str(outcome.new[name]) for name in names)),
        ("failed", *(str(failed(report)) for report in reports)),
        ("GETs answered by a cold process", *(str(report.cold) for report in reports)),
        ("GET p50", *(_ms(report.p50) for report in reports)),
        ("GET p99", *(_ms(report.p99) for report in reports)),
        ("GET max", *(_ms(report.max) for report in reports)),
        ("least available", "", available, ""),
        ("the rollout took", "", f"{rollout['seconds']:.1f} s", ""),
    ]
    return [line.rstrip() for line in aligned(rows)]


def failed(report: Report) -> int:
    """Requests of any kind that got no good answer."""
    return report.gets_failed + report.posts_failed


def shortfalls(outcome: Outcome) -> list[str]:
    """What is not as it should be, a sentence each."""
    faults = []
    for name, report in outcome.periods.items():
        if failed(report):
            reasons = ", ".join(f"{count} × {reason}" for reason, count in report.failures.items())
            faults.append(f"{failed(report)} of {report.requests} requests failed {name} the rollout: {reasons}")
        if report.cold:
            faults.append(f"{report.cold} GETs met a cold process {name} the rollout")
    if outcome.rollout["status"] != "done":
        faults.append(f"the rollout is {outcome.rollout['status']}")
    if outcome.kept:
        faults.append(f"still of the old release: {', '.join(outcome.kept)}")
    return faults


def praise(outcome: Outcome) -> str:
    """The last line, when all went well."""
    total = sum(report.requests for report in outcome.periods.values())
    return f"{outcome.rollout['total']} processes replaced. Of {total} requests none failed, none met a cold process."


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def _say_noise(outcome: Outcome) -> None:
    late = max(report.late for report in outcome.periods.values())
    if late > NOISY:
        print(f"The load itself was up to {_ms(late)} late: this machine is busy with other work.")


# --- the end


@contextlib.contextmanager
def undisturbed_end() -> Iterator[None]:
    """Put innermost: what is cleaned up around the block is no longer interrupted."""
    try:
        yield
    finally:
        _ignore_endings()


@contextlib.contextmanager
def undivided() -> Iterator[None]:
    """Put around the start of a process: defers a signal until the block has ended, so that no child is lost."""
    came: list[int] = []
    usual = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in ENDINGS}
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    if came:
        _interrupt(came[0], None)


def _ignore_endings() -> None:
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    """End in order, once: a second Ctrl-C would break the clean-up off."""
    _ignore_endings()
    raise KeyboardInterrupt


def main() -> int:
    for number in ENDINGS:
        signal.signal(number, _interrupt)
    arguments = _parser().parse_args()
    try:
        enter_private_network()
        with tempfile.TemporaryDirectory(prefix="rolling-") as directory:
            return play(Show(arguments.processes, arguments.seconds, arguments.rate), Path(directory))
    except NoNamespaceError as error:
        print(f"The demo needs a network namespace of its own: {error}", file=sys.stderr)
        return NO_NAMESPACE
    except KeyboardInterrupt:
        print("\nInterrupted: everything that the demo started is stopped.", file=sys.stderr)
        return INTERRUPTED
    except (StackError, OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"\nThe demo itself failed: {error}", file=sys.stderr)
        return NOT_AS_PROMISED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Show a rolling restart under load. Needs root.")
    parser.add_argument("--processes", type=int, default=8, help="of the application (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="of load before and after the rollout (default: %(default)s)"
    )
    parser.add_argument(
        "--rate", type=float, default=Plan.rate, help="of new connections (default: %(default)s a second)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
