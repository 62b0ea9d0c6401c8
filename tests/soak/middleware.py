"""Restarts behind nginx, with the middleware: ``python -m tests.soak.middleware --restarts 100`` (as root).

Four processes of a small application on each of four servers, in the middleware that belongs to it, behind nginx with
``keepalive 32``, and half of the requests POSTs of 0.3 s, which nginx does not send twice. Rollouts restart them, and
none of the servers is asked to be graceful: the pool has run dry before. Exit status 0 when no request failed."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import plugin
from tests.support.load import Load, Plan, Report, quantile
from tests.support.look import wait_open
from tests.support.netns import enter_private_network
from tests.support.pooled_clients import SERVERS
from tests.support.stack import Setup, Stack, StackError

PROCESSES = 4
RATE = 60.0  # requests a second
POSTS = 0.5
ROLLOUT_WITHIN = 200.0

POOL = """
        proxy_http_version 1.1;
        proxy_set_header Connection "";
"""
WARMUP = {"timeout": 20, "ready": "/health", "requests": ["/"]}


@dataclass(frozen=True)
class Result:
    """Of one server. ``drains``: seconds of each restart, ordered."""

    server: str
    drains: list[float]
    report: Report

    @property
    def line(self) -> str:
        report, ms = self.report, [quantile(self.drains, share) * 1000 for share in (0.5, 0.95, 1.0)]
        failed = f"{report.requests:8d}  {report.posts_failed:11d}  {report.gets_failed:10d}"
        return f"{self.server:8s}  {len(self.drains):8d}  {failed}  {ms[0]:8.0f}  {ms[1]:8.0f}  {ms[2]:8.0f}"


HEAD = "server    restarts  requests  failed POST  failed GET  drain ms    p95 ms    max ms"


def setup_of(server: str, bare: bool = False) -> dict[str, Any]:
    """What the stack of a server has otherwise."""
    application = f"tests.support.pooled_clients --server {server}{' --bare' if bare else ''}"
    return {
        "application": application,
        "startsecs": 0,
        "balance": "",
        "upstream": "keepalive 32;",
        "server": POOL,
    }


def restarted(stack: Stack, server: str, restarts: int, say: Callable[[str], None] = lambda _: None) -> Result:
    """So many restarts under load, whole rollouts of the group. Raises StackError where a rollout fails."""
    drains: list[float] = []
    plan = Plan(stack.url, rate=RATE, posts=POSTS, seconds=restarts * 30.0)
    with Load(plan, stack.directory / "load") as load:
        while len(drains) < restarts:
            names = [f"app:app-{stack.setup.first_port + n}" for n in range(min(PROCESSES, restarts - len(drains)))]
            drains += _rolled(stack, names)
            say(f"{server}: {len(drains)} restarts")
        wait_open(stack)
    return Result(server, sorted(drains), load.report())


def _rolled(stack: Stack, names: list[str]) -> list[float]:
    done = stack.ctl("rolling_restart", *names, "--json", timeout=ROLLOUT_WITHIN)
    if done.returncode:
        raise StackError(f"rolling_restart: exit status {done.returncode}: {done.stdout}\n{stack.logs()}")
    rollout = json.loads(done.stdout.splitlines()[-1])
    return [process["drained"] for process in rollout["processes"] if process["replaced"]]


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--servers", nargs="+", choices=sorted(SERVERS), default=sorted(SERVERS))
    arguments = parser.parse_args()
    enter_private_network()
    results = [run(server, arguments.restarts) for server in arguments.servers]
    print(HEAD, *(result.line for result in results), sep="\n")
    return 1 if any(result.report.failures for result in results) else 0


def run(server: str, restarts: int) -> Result:
    with tempfile.TemporaryDirectory(prefix="pools") as directory:
        files = {"rolling.yaml": plugin.policy(warmup=WARMUP)}
        sections = plugin.sections(Path("%(here)s") / "rolling.yaml")
        with Stack(Path(directory), Setup(PROCESSES, supervisor=sections, files=files, **setup_of(server))) as stack:
            stack.release("old")
            wait_open(stack)
            return restarted(stack, server, restarts, lambda text: print(text, file=sys.stderr, flush=True))


if __name__ == "__main__":
    sys.exit(main())
