"""``rolling_check`` with the real supervisord, nginx, HAProxy and kernel: wrong set-ups, made for real."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from supervisor_rolling.listener.gates.iptables_chain import xtables_lock
from tests.support import haproxy, older_plugin, proc, reconcile_times
from tests.support.look import assert_no_failures, listener_log, pids, rolling, rules, users, wait_running
from tests.support.stack import Stack

NGINX = {"nginx": "%(here)s/nginx.conf"}
SOUND = "startsecs=1\nstopwaitsecs=30"
ODD = f"{shlex.quote(sys.executable)} -m tests.support.bad_programs"

Report = dict[str, Any]


@pytest.fixture
def unguarded(start: Callable[..., Stack]) -> Callable[..., Stack]:
    """A group of three without a guard, so that nothing has been closed yet."""

    def unguarded(setup: dict[str, Any] | None = None, **given: Any) -> Stack:
        sound = {"application": "tests.support.light_app", "program": "stopwaitsecs=30", **(setup or {})}
        stack = start(
            3, setup=sound, guard=False, warmup={"requests": ["/"]}, balancer=NGINX, min_ready_seconds="auto", **given
        )
        wait_running(stack)
        return stack

    return unguarded


@pytest.fixture
def group(light: Callable[..., Stack]) -> Callable[..., Stack]:
    """A group that nothing is wrong with, unless it is given."""

    def group(processes: int = 3, setup: dict[str, Any] | None = None, **given: Any) -> Stack:
        sound = {"startsecs": 1, "program": "stopwaitsecs=30", **(setup or {})}
        stack = light(processes, sound, **{"balancer": NGINX, "min_ready_seconds": "auto", **given})
        wait_running(stack)
        return stack

    return group


def checked(stack: Stack, name: str = "app") -> Report:
    """The report of the command, which has the same exit status."""
    done = stack.ctl("rolling_check", name, "--json")
    report: Report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 1), done.stdout
    return report


def checked_by_status(stack: Stack, name: str) -> Report:
    """The report, whatever its exit status."""
    report: Report = json.loads(stack.ctl("rolling_check", name, "--json").stdout)
    return report


def found(report: Report) -> dict[str, dict[str, Any]]:
    return {finding["code"]: finding for finding in report["findings"]}


def rewrite(stack: Stack, changes: Callable[[dict[str, Any]], None]) -> None:
    """Change the policy on disk: it is read again by every rollout and every check."""
    path = stack.directory / "rolling.yaml"
    policy = yaml.safe_load(path.read_text(encoding="utf-8"))
    changes(policy)
    path.write_text(yaml.safe_dump(policy), encoding="utf-8")


def name_balancer(path: str, policy: dict[str, Any]) -> None:
    policy["groups"]["app"]["balancer"] = {"nginx": path}


def groups(stack: Stack, **those: dict[str, Any]) -> None:
    rewrite(stack, lambda policy: policy["groups"].update({n: {"guard": False, **one} for n, one in those.items()}))


def test_good_setup_has_no_finding_and_stays_untouched(group: Callable[..., Stack]) -> None:
    stack = group()
    stack.wait_until(lambda: rules() == [], 20.0, "the guard has opened all")
    before, closed = pids(stack), rules()
    done = stack.ctl("rolling_check", "app")
    assert done.returncode == 0, done.stdout
    (line,) = done.stdout.strip().splitlines()
    assert line.startswith("app: no finding. Checked: 3 processes and their ports, supervisord's settings, the gate (")
    assert f"nginx ({stack.nginx_conf}, min_ready_seconds 0)" in line
    assert (pids(stack), rules()) == (before, closed)
    report = checked(stack)
    assert (report["ok"], report["findings"], report["skipped"]) == (True, [], [])


def test_half_done_upgrade_is_named(start: Callable[..., Stack]) -> None:
    """supervisord has the plugin of before, and the listener and the commands are new."""
    setup = {"application": "tests.support.light_app", "supervisord": "tests.support.older_plugin"}
    stack = start(2, setup=setup, warmup={"requests": ["/"]})
    loaded = f"supervisord has version {older_plugin.VERSION} of the plugin loaded, and this"
    stack.wait_until(lambda: f"{loaded} listener is version" in listener_log(stack), 20.0, "the listener says so")
    done = stack.ctl("rolling_check", "app")
    assert (done.returncode, done.stdout.startswith(f"ERROR: {loaded} command is version")) == (7, True), done.stdout
    assert "the crash guard are stalled. Fix: at a quiet moment stop supervisord and start it" in done.stdout
    assert stack.ctl("rolling_status").stdout.startswith(loaded)
    assert listener_log(stack).count(loaded) == 1, "once, and not in each reconcile"


def test_defaults_have_one_warning_about_max_fails(start: Callable[..., Stack]) -> None:
    """A program without options, a tutorial's nginx, and the shortest rolling.yaml."""
    stack = start(4, setup={"application": "tests.support.light_app", "peer": "", "balance": ""})
    wait_running(stack)
    policy = {"groups": {"app": {"balancer": {"nginx": str(stack.nginx_conf)}}}}  # which no nginx -T prints here
    (stack.directory / "rolling.yaml").write_text(yaml.safe_dump(policy), encoding="utf-8")
    report = checked(stack)
    assert (report["ok"], len(report["findings"]), report["skipped"]) == (True, 1, []), report
    (finding,) = report["findings"]
    assert finding["fix"].startswith("set max_fails=0 at each server of the upstream: saves 11 s for each process")


def test_the_examples_have_no_finding(group: Callable[..., Stack]) -> None:
    """conf/nginx.conf and conf/haproxy.cfg, beside eight processes."""
    conf = Path(__file__).resolve().parents[2] / "conf" / "nginx.conf"
    stack = group(8, balancer={"nginx": str(conf)})
    assert checked(stack)["findings"] == []


def test_the_example_for_haproxy_has_no_finding(group: Callable[..., Stack]) -> None:
    stack = group(setup={"balancer": "haproxy"}, gate=haproxy.gate("%(here)s"), balancer={})
    report = checked(stack)
    assert report["findings"] == []
    assert "the gate (haproxy)" in report["checked"]


def test_wrong_haproxy_settings_are_found(group: Callable[..., Stack]) -> None:
    upstream = "cookie SRV insert\n    stick-table type ip size 1k\n    stick on src"
    stack = group(setup={"balancer": "haproxy", "upstream": upstream}, gate=haproxy.gate("%(here)s"), balancer={})
    report = checked(stack)
    assert [finding["code"] for finding in report["findings"]] == ["haproxy.persistence"] * 2
    haproxy.ask(stack, "set server app/app-8001 state maint")
    assert "app-8001 in maintenance" in found(checked(stack))["haproxy.down"]["text"]
    rewrite(
        stack, lambda policy: policy["groups"]["app"].update(ports={"app-8000": 8000, "app-8001": 8001, "app-8002": 9})
    )
    assert "app-8002 (port 9)" in found(checked(stack))["haproxy.server"]["text"]


# --- a rollout


def test_nginx_defaults_refuse_a_fast_rollout(
    group: Callable[..., Stack],
) -> None:
    stack = group(setup={"peer": ""}, min_ready_seconds=0)
    (finding,) = checked(stack)["findings"]
    assert (finding["code"], finding["severity"], finding["where"].rpartition(":")[0]) == (
        "nginx.max_fails",
        "error",
        str(stack.nginx_conf),
    )
    before = pids(stack)
    refused = stack.ctl("rolling_restart", "app")
    assert refused.returncode == 1
    assert "nginx sends nothing to a process for up to 11 s" in refused.stdout
    assert "rolling_check app" in refused.stdout
    assert pids(stack) == before
    with users(stack) as load:
        assert stack.ctl("rolling_restart", "app", "--force").returncode == 0
    lost = load.report()
    assert lost.gets_failed + lost.posts_failed > 0, "it costs nothing: then why refuse it?"


def test_min_ready_seconds_comes_from_nginx(group: Callable[..., Stack]) -> None:
    stack = group(2, setup={"peer": "fail_timeout=2s"})
    found_now = checked(stack)
    assert [(one["code"], one["severity"]) for one in found_now["findings"]] == [("nginx.min_ready_seconds", "warning")]
    assert found_now["ok"]
    with users(stack) as load:
        assert stack.ctl("rolling_restart", "app").returncode == 0
    assert_no_failures(load.report())
    assert min(process["ready"] for process in rolling(stack)["processes"]) >= 3.0


def test_unreadable_nginx_means_ten_seconds_of_min_ready(group: Callable[..., Stack]) -> None:
    stack = group(balancer={"nginx": "/no/such/nginx.conf"})
    finding = found(checked(stack))["nginx.unreadable"]
    assert finding["where"] == "balancer.nginx: /no/such/nginx.conf"
    assert finding["text"].startswith("cannot be read: No such file or directory, so it is not known what nginx")
    assert finding["text"].endswith("min_ready_seconds: auto is 10")
    assert finding["severity"] == "warning"
    assert stack.ctl("rolling_restart", "app:app-8000", "--no-wait").returncode == 0
    stack.wait_until(lambda: rolling(stack)["processes"][0]["stage"] == "ready", 30.0, "it is ready")
    assert stack.ctl("rolling_abort", "app").returncode == 0


def test_nginx_file_without_the_group_is_a_finding(group: Callable[..., Stack]) -> None:
    stack = group(2)
    useless = stack.directory / "hosts"
    useless.write_text("127.0.0.1 localhost\n", encoding="utf-8")
    (stack.directory / "empty").write_text("", encoding="utf-8")
    whys = []
    for path in (str(useless), "/dev/zero", str(stack.directory / "empty")):
        rewrite(stack, partial(name_balancer, path))
        whys.append(found(checked(stack))["nginx.unreadable"]["text"].partition(", so it is")[0])
    assert whys == [
        "is not a configuration of nginx",
        "is not a regular file",
        "no upstream in it has a port of the group",
    ]


def test_address_without_listener_is_found(group: Callable[..., Stack]) -> None:
    stack = group(2)
    text = stack.nginx_conf.read_text(encoding="utf-8")
    stack.nginx_conf.write_text(text.replace("127.0.0.1:8001", "127.0.0.2:8001"), encoding="utf-8")
    finding = found(checked(stack))["nginx.address"]
    assert "nothing listens at 127.0.0.2:8001" in finding["text"]
    assert "port 8001 listens at 127.0.0.1" in finding["text"]


def test_haproxy_that_does_not_run_is_an_error(group: Callable[..., Stack]) -> None:
    stack = group(2, setup={"balancer": "haproxy"}, gate=haproxy.gate("%(here)s"), balancer={})
    for pid in (stack.nginx_pid, int(haproxy.worker(stack))):
        os.kill(pid, signal.SIGKILL)
    finding = found(checked(stack))["gate"]
    assert (finding["severity"], finding["text"].startswith("HAProxy is not running: ")) == ("error", True)
    haproxy.admin_socket(stack.directory).unlink()
    assert "Fix: start HAProxy; if it is running, correct gate.socket" in found(checked(stack))["gate"]["text"]


def test_an_nginx_that_goes_past_haproxy_refuses(group: Callable[..., Stack]) -> None:
    stack = group(2, gate={"backend": "haproxy", "socket": "/no/such.sock", "backend_name": "app"})
    finding = found(checked(stack))["nginx.beside_haproxy"]
    assert finding["severity"] == "error"
    assert "upstream app sends requests directly to 127.0.0.1:8000" in finding["text"]


# --- the gate


def test_a_rule_of_others_before_ours_is_found(group: Callable[..., Stack]) -> None:
    stack = group(gate={"backend": "iptables"})
    stack.fault("500:/")
    assert stack.ctl("rolling_restart", "app:app-8000").returncode == 1  # it stays closed, and so our chain is there
    foreign = ["INPUT", "-p", "tcp", "--dport", "8001", "-m", "comment", "--comment", "ours first", "-j", "ACCEPT"]
    subprocess.run(["iptables-legacy", "-I", *foreign], check=True)
    try:
        finding = found(checked(stack))["gate.foreign"]
    finally:
        subprocess.run(["iptables-legacy", "-D", *foreign], check=True)
    assert (finding["severity"], "port 8001" in finding["text"]) == ("error", True)
    assert finding["where"] == "table filter, IPv4, rule 1 of INPUT"
    assert "gate.foreign" not in found(checked(stack))
    stack.fault()
    assert stack.ctl("rolling_restart", "app:app-8000").returncode == 0


def test_held_xtables_lock_is_reported_with_its_holder(group: Callable[..., Stack]) -> None:
    stack = group(gate={"backend": "iptables"})
    with xtables_lock("/run/xtables.lock", 2.0):
        finding = found(checked(stack))["gate.busy"]
    assert finding["severity"] == "error"
    assert "another program holds the xtables lock /run/xtables.lock" in finding["text"]


def test_listener_without_rights_names_the_missing_one(unguarded: Callable[..., Stack]) -> None:
    stack = unguarded(prefix="setpriv --bounding-set=-all --inh-caps=-all ")
    assert "run it as root; in a container, add NET_ADMIN" in found(checked(stack))["gate.permission"]["text"]


def test_bypass_that_reaches_no_process_is_an_error(unguarded: Callable[..., Stack]) -> None:
    stack = unguarded(setup={"address": "::1", "host": "[::1]"})
    assert checked(stack)["findings"] == []
    rewrite(stack, lambda policy: policy["gate"].update(bypass="address"))
    report = checked(stack)
    assert [(one["code"], one["where"]) for one in report["findings"]] == [
        ("gate.bypass", f"app:app-800{n}") for n in range(3)
    ]


def test_starting_processes_are_reported_as_skipped(start: Callable[..., Stack]) -> None:
    setup = {"application": "tests.support.light_app", "startsecs": 50, "program": "stopwaitsecs=30"}
    stack = start(3, setup=setup, guard=False, warmup={"requests": ["/"]}, balancer=NGINX, min_ready_seconds="auto")
    report = checked(stack)
    assert report["findings"] == []
    assert report["skipped"] == [
        "the ports of app:app-8000, app:app-8001, app:app-8002: STARTING. Fix: run the check again after startsecs"
    ]


def test_nat_rule_without_tracking_is_found(unguarded: Callable[..., Stack]) -> None:
    stack = unguarded(gate={"method": "redirect"})
    assert "turns connection tracking on" in found(checked(stack))["conntrack.idle"]["text"]


# --- the rollouts of other groups


def test_slow_check_delays_no_rollout_of_another_group(light: Callable[..., Stack]) -> None:
    web = f"[program:web]\ncommand={ODD} shared 9100\n{SOUND}"
    stack = light(
        6,
        {"program": f"stopwaitsecs=30\n{web}"},
        prefix=f"env {reconcile_times.FILE}=%(here)s/times ",
        listener="tests.support.reconcile_times",
    )
    groups(stack, web={"ports": {"web": 9100}})
    stack.fault("slow 1")
    drop = ["INPUT", "-p", "tcp", "--dport", "9100", "-j", "DROP"]  # a connection costs a second
    subprocess.run(["iptables-legacy", "-I", *drop], check=True)
    try:
        assert stack.ctl("rolling_restart", "--no-wait", "app").returncode == 0
        began = time.monotonic()
        report = checked_by_status(stack, "web")
        ended = time.monotonic()
    finally:
        subprocess.run(["iptables-legacy", "-D", *drop], check=True)
    assert rolling(stack)["status"] == "running"
    stack.wait_until(lambda: rolling(stack)["status"] == "done", 60.0, "the rollout is done")
    assert "gate.bypass" in found(report)
    assert ended - began > 1.0
    times = [float(line) for line in (stack.directory / "times").read_text(encoding="ascii").splitlines()]
    during = [at for at in times if began <= at <= ended]
    assert max(after - before for before, after in zip(during, during[1:])) < 0.2


# --- the processes and supervisord


@pytest.fixture
def odd(group: Callable[..., Stack]) -> Iterator[Stack]:
    """Groups beside the good one, each with something wrong."""
    programs = {
        "unix": (f"{ODD} unix %(here)s/app.sock", ""),
        "shared": (f"{ODD} shared 9100", "process_name=%(program_name)s-%(process_num)d\nnumprocs=2"),
        "deaf": (f"{ODD} deaf", ""),
        "dead": (f"{ODD} dead", "startretries=0"),
        "shell": (f"sh -c '{ODD} shared 9300; true'", ""),
        "usr1": (f"sh -c 'trap \"trap - TERM; kill 0\" USR1; {ODD} shared 9700 & wait'", "stopsignal=USR1"),
        "heeding": (f"sh -c 'trap \"trap - TERM; kill 0\" TERM; {ODD} shared 9600 & wait'", ""),
        "hasty": (f"{ODD} shared 9400", "startsecs=0\nstopwaitsecs=5\nautorestart=false"),
        "slow": (f"{ODD} shared 9500", "startsecs=61\nautostart=false"),
    }
    sections = "\n".join(
        f"[program:{name}]\ncommand={command}\n{SOUND if 'startsecs' not in more else ''}\n{more}"
        for name, (command, more) in programs.items()
    )
    listener = (
        "[eventlistener:other]\ncommand=sleep 600\nevents=ROLLING_REQUEST\nnumprocs=2\nprocess_name=%(process_num)d"
    )
    stack = group(setup={"program": f"stopwaitsecs=30\n{sections}\n{listener}"})
    ports = {
        "unix": 9000,
        "deaf": 9200,
        "dead": 9250,
        "shell": 9300,
        "usr1": 9700,
        "heeding": 9600,
        "hasty": 9400,
        "slow": 9500,
    }
    those: dict[str, dict[str, Any]] = {name: {"ports": {name: port}} for name, port in ports.items()}
    those["hasty"]["drain"] = {"timeout": 20}
    groups(stack, **those, shared={"ports": {"shared-0": 9100, "shared-1": 9101}})
    (shell,) = [one["pid"] for one in infos(stack) if one["group"] == "shell"]
    children = proc.descendants(shell)
    yield stack
    stack.ctl("stop", "shell")
    proc.end(children)  # they outlive their shell: that is what is wrong with it


def infos(stack: Stack) -> list[dict[str, Any]]:
    found: Any = stack.rpc().supervisor.getAllProcessInfo()
    return list(found)


def without_listener(report: Report) -> dict[str, dict[str, Any]]:
    return {code: one for code, one in found(report).items() if not code.startswith("listener.")}


def test_wrong_process_and_listener_settings_are_found(odd: Stack) -> None:
    with ThreadPoolExecutor(3) as pool:
        names = ("unix", "shared", "deaf", "dead", "shell", "usr1", "heeding", "hasty", "slow", "app")
        reports = dict(zip(names, pool.map(lambda name: checked(odd, name), names)))
    those = {name: without_listener(report) for name, report in reports.items()}
    assert f"unix socket {odd.directory}/app.sock" in those["unix"]["ports.unix"]["text"]
    assert "shared-0 and shared-1 all listen on port 9100" in those["shared"]["ports.shared"]["text"]
    assert those["deaf"].keys() == {"ports.not_listening", "rollout.last_serving"}
    assert those["dead"]["process.down"]["text"].startswith("is FATAL")
    assert those["shell"].keys() == {"supervisor.stopasgroup", "rollout.last_serving"}
    assert those["shell"]["supervisor.stopasgroup"]["severity"] == "error"
    for heeding in ("heeding", "usr1"):
        assert those[heeding].keys() == {"rollout.last_serving"}, "a shell that hands on a signal is right"
    assert those["hasty"].keys() == {
        "rollout.last_serving",  # the only one of its group
        "supervisor.startsecs",
        "supervisor.stopwaitsecs",
        "supervisor.autorestart",
    }
    assert those["app"] == {}
    found_of_listener = {c: one["where"] for c, one in found(reports["app"]).items()}
    assert found_of_listener == dict.fromkeys(
        ("listener.buffer_size", "listener.startsecs", "listener.events", "listener.numprocs"), "[eventlistener:other]"
    )
    assert found(reports["app"])["listener.numprocs"]["severity"] == "error"


def test_wrong_port_in_the_policy_is_an_error(odd: Stack) -> None:
    groups(odd, hasty={"ports": {"hasty": 9401}})
    assert "hasty listens on 9400 and not on 9401" in json.dumps(checked(odd, "hasty"))


def test_wrong_supervisord_settings_refuse_the_rollout(odd: Stack) -> None:
    for words in (["--dry-run"], []):
        done = odd.ctl("rolling_restart", "app", *words)
        assert (done.returncode, "numprocs is 2" in done.stdout) == (1, True), done.stdout


def test_process_on_a_taken_port_says_so(group: Callable[..., Stack]) -> None:
    stack = group(2)
    with socket.socket() as other:
        stack.ctl("stop", "app:app-8001")
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 8001))
        other.listen()
        stack.ctl("start", "app:app-8001")
        stack.wait_until(lambda: infos_of(stack, "app-8001")["statename"] == "FATAL", 60.0, "it gives up")
        text = found(checked(stack))["process.down"]["text"]
    assert f"Its port 8001 is held by process {os.getpid()} (" in text


def infos_of(stack: Stack, name: str) -> dict[str, Any]:
    (one,) = [one for one in infos(stack) if one["name"] == name]
    return one


def test_each_typing_error_in_policy_is_found(group: Callable[..., Stack]) -> None:
    stack = group(2)
    path = stack.directory / "rolling.yaml"
    path.write_text("groups:\n  app:\n    ports: auto\n    drian: {}\n    min_ready_seconds: soon\n", encoding="utf-8")
    report = checked(stack)
    assert [one["code"] for one in report["findings"]] == ["config", "config"]
    assert "rolling.yaml:4: groups.app.drian: unknown key (did you mean drain?)" in report["findings"][0]["text"]
    assert checked_unknown(stack) == 5


def test_taken_metrics_port_is_a_warning(group: Callable[..., Stack]) -> None:
    stack = group(2, metrics={"listen": "127.0.0.1:9180"})
    assert checked(stack)["findings"] == [], "the listener has it itself"
    with socket.create_server(("127.0.0.1", 9181)):
        rewrite(stack, lambda policy: policy["metrics"].update(listen="127.0.0.1:9181"))
        (finding,) = checked(stack)["findings"]
    assert (finding["code"], finding["where"], finding["severity"]) == ("metrics", "metrics.listen", "warning")
    assert finding["text"].startswith("127.0.0.1:9181 cannot be listened on: Address already in use")
    assert checked(stack)["findings"] == []


def checked_unknown(stack: Stack) -> int:
    return stack.ctl("rolling_check", "missing").returncode
