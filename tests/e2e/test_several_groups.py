"""Several groups in one command: one after another, in this order, until one fails."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from supervisor_rolling.core.errors import Fault
from tests.support import plugin
from tests.support.look import listener_pid, popen_ctl, rolling, wait_ended, wait_stage
from tests.support.stack import Setup, Stack

GROUPS = ("web", "workers", "beat")
NUMBERS = {"web": 2, "workers": 2, "beat": 1, "resting": 1}
PROGRAM = """\
[program:{name}]
command = /bin/sh %(here)s/{name}.sh
process_name = {name}-%(process_num)d
numprocs = {number}
startsecs = {startsecs}
startretries = 0
autostart = {autostart}
"""
GOOD, BAD = "exec sleep 600\n", "exit 3\n"


@contextlib.contextmanager
def groups(directory: Path, startsecs: int = 0) -> Iterator[Stack]:
    """Four groups without ports, of which one is stopped; rolling.yaml has them in this order."""
    programs = [
        PROGRAM.format(name=name, number=number, startsecs=startsecs, autostart=name != "resting")
        for name, number in NUMBERS.items()
    ]
    policy = {"history": False, "groups": {name: {"ports": "none"} for name in ("resting", *GROUPS)}}
    sections = plugin.sections(directory / "rolling.yaml")
    setup = Setup(
        1,
        "tests.support.light_app",
        supervisor="\n".join([sections, *programs]).replace("%(here)s", str(directory)),
        files={"rolling.yaml": yaml.safe_dump(policy, sort_keys=False), **{f"{name}.sh": GOOD for name in NUMBERS}},
    )
    with Stack(directory, setup) as stack:
        stack.wait_until(lambda: all(pids(stack, name) for name in GROUPS), 30.0, "all groups run")
        yield stack


def pids(stack: Stack, group: str) -> list[int]:
    every: Any = stack.rpc().supervisor.getAllProcessInfo()
    return [one["pid"] for one in every if one["group"] == group and one["statename"] == "RUNNING"]


def of_all(stack: Stack) -> dict[str, list[int]]:
    return {name: pids(stack, name) for name in GROUPS}


def have_changed(stack: Stack, before: dict[str, list[int]]) -> list[str]:
    """The groups of which no process is an old one."""
    return [name for name, found in of_all(stack).items() if found and not set(found) & set(before[name])]


def test_groups_are_replaced_in_this_order_and_summed_up(tmp_path: Path) -> None:
    with groups(tmp_path) as stack:
        before = of_all(stack)
        done = stack.ctl("rolling_restart", "workers", "beat", "web")
        assert (done.returncode, done.stderr) == (0, "")
        assert have_changed(stack, before) == list(GROUPS)
        lines = done.stdout.splitlines()
        assert [line for line in lines if line.startswith("Then")] == ["Then: beat, web", "Then: web"]
        assert lines[-1].startswith("3 of 3 groups replaced in "), lines
        assert lines[-1].endswith(": workers, beat, web")
        numbers = [rolling(stack, name)["id"] for name in ("workers", "beat", "web")]
        assert numbers == sorted(numbers)
        before = of_all(stack)
        done = stack.ctl("rolling_restart", "--all", "--json")
        answer = json.loads(done.stdout)
        assert [rollout["group"] for rollout in answer["rollouts"]] == list(GROUPS), "in the order of rolling.yaml"
        assert {rollout["status"] for rollout in answer["rollouts"]} == {"done"}
        assert (answer["following"], answer["error"], done.returncode) == ([], "", 0)
        assert have_changed(stack, before) == list(GROUPS)
        assert not pids(stack, "resting"), "what was stopped stays stopped"
        planned = stack.ctl("rolling_restart", "--all", "--dry-run")
        assert planned.returncode == 0
        assert [name for name in GROUPS if f"{name}: would replace" in planned.stdout] == list(GROUPS)
        found: Any = stack.rpc().rolling.restartGroups(["beat", "web"], True, {})
        assert [(rollout["group"], rollout["status"]) for rollout in found] == [("beat", "done"), ("web", "done")]


def test_failure_stops_the_order_and_resume_continues_it(tmp_path: Path) -> None:
    with groups(tmp_path, startsecs=1) as stack:
        before = of_all(stack)
        (tmp_path / "workers.sh").write_text(BAD, encoding="utf-8")
        done = stack.ctl("rolling_restart", *GROUPS)
        assert done.returncode == 1
        assert have_changed(stack, before) == ["web"]
        assert pids(stack, "beat") == before["beat"]
        assert "Not restarted: beat. They follow when workers is resumed" in done.stdout
        assert done.stdout.splitlines()[-1].startswith("1 of 3 groups replaced in ")
        (tmp_path / "workers.sh").write_text(GOOD, encoding="utf-8")
        again = stack.ctl("rolling_resume", "workers")
        assert again.returncode == 0, again.stdout
        assert have_changed(stack, before) == list(GROUPS)
        (tmp_path / "web.sh").write_text(BAD, encoding="utf-8")
        with pytest.raises(xmlrpc.client.Fault) as failed:
            stack.rpc().rolling.restartGroups(["web", "beat"], True, {})
        assert failed.value.faultCode == Fault.ROLLOUT_FAILED


def test_order_needs_neither_its_client_nor_one_listener(tmp_path: Path) -> None:
    with groups(tmp_path, startsecs=1) as stack:
        before = of_all(stack)
        watching = popen_ctl(stack, "rolling_restart", *GROUPS)
        wait_stage(stack, "warming", "web-0")
        watching.send_signal(signal.SIGINT)
        shown, _ = watching.communicate(timeout=10.0)
        assert watching.returncode == 130
        assert "The rollout continues. Then: workers, beat." in shown
        wait_ended(stack, group="web")
        os.kill(listener_pid(stack), signal.SIGKILL)
        wait_stage(stack, "warming", "beat-0")
        assert wait_ended(stack, group="beat")["status"] == "done"
        assert have_changed(stack, before) == list(GROUPS)


def test_group_that_cannot_start_is_named_when_its_turn_comes(tmp_path: Path) -> None:
    with groups(tmp_path, startsecs=1) as stack:
        before = of_all(stack)
        watching = popen_ctl(stack, "rolling_restart", *GROUPS)
        wait_stage(stack, "warming", "web-0")
        assert stack.ctl("stop", "workers:*").returncode == 0
        shown, _ = watching.communicate(timeout=30.0)
        assert watching.returncode == 1
        assert "Not restarted: workers, beat: all processes of workers are stopped" in shown
        assert pids(stack, "beat") == before["beat"]
        for names, text in ((["web", "nothing"], "no such group"), (["web", "beat:beat-0"], "processes of one group")):
            refused = stack.ctl("rolling_restart", *names)
            assert refused.returncode in (2, 5)
            assert text in refused.stdout
        policy = yaml.safe_load((tmp_path / "rolling.yaml").read_text(encoding="utf-8"))
        del policy["groups"]["beat"]
        (tmp_path / "rolling.yaml").write_text(yaml.safe_dump(policy, sort_keys=False), encoding="utf-8")
        now = of_all(stack)
        refused = stack.ctl("rolling_restart", "web", "beat")
        assert refused.returncode == 6, "nothing begins that cannot come to its end"
        assert of_all(stack) == now
