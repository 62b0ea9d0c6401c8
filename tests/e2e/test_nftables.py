"""A whole rollout with nftables, as on a kernel without legacy xtables, and between the backends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import yaml

from tests.support.look import (
    assert_no_failures,
    closed_ports,
    draining,
    listener_log,
    pids,
    refuses,
    rules,
    users,
    wait_ended,
)
from tests.support.stack import Stack

WITHOUT_XTABLES = f"{sys.executable} -m tests.support.missing_libraries xtables "


def test_kernel_without_xtables_rolls_out_through_nftables(light: Callable[..., Stack]):
    stack = light(processes=4, prefix=WITHOUT_XTABLES)
    before = pids(stack)
    with users(stack, rate=60.0) as load:
        with draining(stack):
            assert (closed_ports(), [line for line in rules() if line.startswith("-A")]) == ({"8000"}, [])
        rollout = wait_ended(stack)
    assert (rollout["status"], rollout["replaced"]) == ("done", 4), rollout["why"]
    assert not set(before) & set(pids(stack))
    assert_no_failures(load.report())
    assert "gate.backend auto: nftables, because iptables cannot be used: " in listener_log(stack)


def test_kernel_without_both_backends_refuses_the_rollout(light: Callable[..., Stack]):
    stack = light(processes=2, prefix=f"{sys.executable} -m tests.support.missing_libraries xtables,nftables ")
    before = pids(stack)
    done = stack.ctl("rolling_check", "app")
    assert (done.returncode, "error: gate.permission: gate: No backend can close ports" in done.stdout) == (1, True)
    done = stack.ctl("rolling_restart", "app")
    assert done.returncode == 4, done.stdout
    assert "modprobe -a iptable_filter" in done.stdout
    assert "modprobe nf_tables" in done.stdout
    assert pids(stack) == before


def test_expired_nftables_lease_drains_again(
    light: Callable[..., Stack],
):
    stack = light(processes=2, gate={"backend": "nftables", "lease": 15})
    with draining(stack):
        stack.rpc().supervisor.signalProcess("rolling", "STOP")
        stack.wait_until(lambda: not refuses(8000), 20.0, "the lease is over")
        assert closed_ports() == set()
        stack.rpc().supervisor.signalProcess("rolling", "CONT")
        stack.wait_until(lambda: refuses(8000), 5.0, "the gate is closed again")
    assert wait_ended(stack)["status"] == "done"


def test_changed_backend_takes_over_closed_ports(light: Callable[..., Stack]):
    stack = light(processes=2)
    path = stack.directory / "rolling.yaml"
    for backend in ("nftables", "iptables", "auto", "nftables", "auto"):
        policy = yaml.safe_load(path.read_text(encoding="utf-8"))
        policy["gate"]["backend"] = backend
        path.write_text(yaml.safe_dump(policy), encoding="utf-8")
        with draining(stack):
            is_nft = "table" in subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout
            assert (is_nft, closed_ports()) == (backend == "nftables", {"8000"})
        assert wait_ended(stack)["status"] == "done"
        assert rules() == []
