"""What a test can observe of a stack with the plugin: rules, refused ports, the rollout, the listener."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.load import Load, Plan, Report
from tests.support.stack import GROUP, Stack

RULES = ("iptables-legacy-save", "ip6tables-legacy-save")


def rules() -> list[str]:
    """Every rule and chain of iptables, and the contents of our tables of nftables."""
    lines = [line for command in RULES for line in _said(command).splitlines()]
    return [line for line in lines if line.startswith(("-A", ":SUPERVISOR"))] + _nft_rules()


def _nft_rules() -> list[str]:
    """Our tables, and a line in iptables' words for each port that one has closed."""
    found: list[str] = []
    for one in json.loads(_said("nft", "-j", "list", "ruleset"))["nftables"]:
        if one.get("table", {}).get("name", "").startswith("supervisor-rolling"):
            found.append(f"table {one['table']['name']}")
        if one.get("set", {}).get("table", "").startswith("supervisor-rolling"):
            found += [f"--dport {element['elem']['val']}" for element in one["set"].get("elem", [])]
    return found


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def closed_ports() -> set[str]:
    """What ``--dport`` the rules have; the times in them move with the lease."""
    return {line.split("--dport ")[1].split()[0] for line in rules() if "--dport" in line}


def refuses(port: int, family: str = "127.0.0.1") -> bool:
    """Whether a new connection is refused."""
    with socket.socket(socket.AF_INET6 if ":" in family else socket.AF_INET) as probe:
        probe.settimeout(2.0)
        return probe.connect_ex((family, port)) != 0


def all_open(stack: Stack) -> bool:
    """Whether every port of the group takes a new connection."""
    return not any(refuses(port) for port in stack.setup.ports)


def pids(stack: Stack) -> list[int]:
    """The pids of the group's processes, by port."""
    return [process.pid for process in stack.processes()]


def rolling(stack: Stack, group: str = GROUP) -> Any:
    """The rollout that runs, or the last one."""
    return stack.rpc().rolling.getRollout(group)


def standing(stack: Stack) -> dict[str, dict[str, Any]]:
    """``rolling.getProcesses``, by name."""
    found: Any = stack.rpc().rolling.getProcesses(GROUP)
    return {process["name"]: process for process in found}


def is_warm_and_open(stack: Stack) -> bool:
    """Whether every process of the group is warm and open, by the listener's record."""
    return all(process["warm"] and process["gate"] == "open" for process in standing(stack).values())


def wait_open(stack: Stack, timeout: float = 60.0) -> None:
    """Until every process of the group is warm and open."""
    stack.wait_until(lambda: is_warm_and_open(stack), timeout, "every process is warm and open")


def wait_running(stack: Stack, timeout: float = 30.0) -> None:
    """Until supervisord counts every process of the group as started, which is startsecs after it began to serve."""
    stack.wait_until(lambda: all(p.state == "RUNNING" for p in stack.processes()), timeout, "all are RUNNING")


def wait_ended(stack: Stack, timeout: float = 60.0, group: str = GROUP) -> Any:
    """Until the rollout has ended; returns it."""
    stack.wait_until(lambda: rolling(stack, group)["status"] != "running", timeout, "the rollout has ended")
    return rolling(stack, group)


def wait_stage(stack: Stack, stage: str, name: str = "", timeout: float = 30.0) -> dict[str, Any]:
    """Until a process of the rollout (this one, or any) is in that stage; returns it."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        rollouts: Any = stack.rpc().rolling.getAllRollouts()
        members = [member for rollout in rollouts for member in rollout["processes"]]
        found[:] = [m for m in members if m["stage"] == stage and name in ("", m["name"])]
        return bool(found)

    stack.wait_until(is_there, timeout, f"{name or 'a process'} is {stage}")
    return found[0]


@contextlib.contextmanager
def draining(stack: Stack, port: int = 8000) -> Iterator[None]:
    """A rollout in which the first process is closed and drains until the block ends. What the record says open is
    opened a moment later."""
    stack.wait_until(lambda: not refuses(port), 5.0, "the gate is open")
    with socket.create_connection(("127.0.0.1", port)):
        assert stack.ctl("rolling_restart", "app", "--no-wait").returncode == 0
        wait_stage(stack, "draining")
        stack.wait_until(lambda: refuses(port) and refuses(port, "::1"), 5.0, "the gate is closed")
        yield


def listener_pid(stack: Stack) -> int:
    """The listener's pid; 0 while there is none."""
    info: Any = stack.rpc().supervisor.getProcessInfo("rolling")
    return int(info["pid"])


def listener_log(stack: Stack) -> str:
    """The log of all listeners of this stack."""
    logs: list[Path] = sorted(stack.directory.glob("rolling-stderr*.log"))
    return "".join(log.read_text(encoding="utf-8") for log in logs)


@contextlib.contextmanager
def users(stack: Stack, rate: float = 40.0, posts: float = Plan.posts, around: float = 1.0) -> Iterator[Load]:
    """A load while the block runs, and the requests of ``around`` seconds before and after it."""
    with Load(Plan(stack.url, rate=rate, posts=posts), stack.directory / "load.jsonl", stack.setup.elsewhere) as load:
        load.wait_more(round(rate * around))
        yield load
        load.wait_more(round(rate * around))


def assert_no_failures(report: Report) -> None:
    """No request failed, and none met a cold process."""
    assert report.requests > 0
    assert (report.gets_failed, report.posts_failed, report.cold) == (0, 0, 0), report.failures


def popen_ctl(stack: Stack, *arguments: str) -> subprocess.Popen[str]:
    """A supervisorctl that runs in the background."""
    return subprocess.Popen(
        stack.ctl_command(*arguments),
        env=stack.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
