"""A fleet: hosts, each with a supervisord, an nginx and a group of its own, behind one HAProxy, and Ansible.

A host is a network namespace (``tests.support.hosts``); the HAProxy for all their clients is on this side of the
cables. ``with Fleet(directory, 6) as fleet:`` starts them. The first host, the canary, has its own environment with
supervisord and without the plugin: ``fleet.play("install.yml", "--limit", CANARY)`` installs it. Ansible and its
playbooks are the real ones; only the connection plugin is ours (``connections/netns.py``)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import yaml

from tests.support import look, plugin, venvs
from tests.support.hosts import Host
from tests.support.load import Load, Plan
from tests.support.stack import GROUP, ROOT, Setup, Stack, answers

PLAYBOOKS = ROOT / "conf" / "ansible"
CONNECTIONS = ROOT / "tests" / "support" / "connections"
PLAY_WITHIN = 180.0  # seconds; a run takes ten to thirty
SERVE_WITHIN = 20.0
AT_A_TIME = 3  # hosts that start

PORT = 8080
"""Of the nginx of each host, and of the front."""

# Nothing is tried twice: a request that a host refuses has failed.
FRONT = """\
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    retries 0

frontend web
    bind 127.0.0.1:{port}
    default_backend fleet

backend fleet
    balance roundrobin
{servers}
"""

CANARY = "web1"

POLICY: dict[str, Any] = {
    "ports": r"app-(\d+)",
    "warmup": {"timeout": 10, "ready": "/health", "requests": ["/"]},
    "balancer": {"nginx": "%(here)s/nginx.conf"},
}

SHARED = {
    "ansible_connection": "netns",
    "ansible_become": False,  # the tests are root
    "ansible_python_interpreter": sys.executable,
    "rolling_system_packages": [],  # make has installed them
}


class Member(NamedTuple):
    """One host of the fleet."""

    name: str
    host: Host
    stack: Stack


class Played(NamedTuple):
    """What a run of ansible-playbook came to."""

    status: int
    output: str

    @property
    def table(self) -> list[list[str]]:
        """The rows of the table: host, status, replaced, seconds, least available, why. None where none was printed."""
        head, *rows = [json.loads(line.strip().rstrip(",")) for line in _table_lines(self.output)] or [""]
        begins = [match.start() for match in re.finditer(r"(?<!\S)\S+( \S+)*", head)]
        return [[row[begin:end].strip() for begin, end in zip(begins, [*begins[1:], None])] for row in rows]


class Fleet:
    """See the module. ``members`` are in the order of the inventory."""

    def __init__(self, directory: Path, hosts: int, processes: int = 3) -> None:
        self.directory = directory
        self.members: list[Member] = []
        self.venv = venvs.make(directory / "venv")
        self.wheel = venvs.wheel(directory)
        self._configuration = directory / "ansible.cfg"
        self._configuration.touch()  # it is empty, whatever the user of this machine has
        self._hosts = hosts
        self._processes = processes
        self._kept = contextlib.ExitStack()

    def __enter__(self) -> Fleet:
        try:
            self.members += [self._member(f"web{number}") for number in range(1, self._hosts + 1)]
            with ThreadPoolExecutor(AT_A_TIME) as pool:
                list(pool.map(self._start, self.members))
            self._kept.enter_context(self._front())
        except BaseException:
            self._kept.close()
            raise
        self.inventory()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kept.__exit__(kind, error, trace)

    # --- what an operator does

    def inventory(self, **changes: dict[str, Any]) -> None:
        """Write it anew. ``changes``: more variables, by host."""
        hosts = {m.name: {**self._variables(m), **changes.get(m.name, {})} for m in self.members}
        told = {"app": {"hosts": hosts, "vars": SHARED}}
        (self.directory / "inventory.json").write_text(json.dumps(told), encoding="utf-8")

    def play(self, playbook: str, *arguments: str) -> Played:
        """ansible-playbook on the whole fleet; both of its outputs are one."""
        inventory = str(self.directory / "inventory.json")
        program = [sys.executable, "-m", "ansible", "playbook", "-i", inventory, str(PLAYBOOKS / playbook)]
        child = subprocess.Popen(
            [*program, *arguments],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = child.communicate(timeout=PLAY_WITHIN)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.communicate()
        return Played(child.returncode, output)

    @contextlib.contextmanager
    def users(self, rate: float = 40.0) -> Iterator[Load]:
        """They come to the front while the block lasts; the report is complete behind it."""
        with Load(Plan(f"http://127.0.0.1:{PORT}", rate=rate), self.directory / "load.jsonl") as load:
            yield load

    def pids(self) -> dict[str, list[int]]:
        """Of every host's group."""
        return {member.name: look.pids(member.stack) for member in self.members}

    # --- inside

    def _member(self, name: str) -> Member:
        directory, host = self.directory / name, self._kept.enter_context(Host())
        is_bare = name == CANARY
        setup = Setup(
            processes=self._processes,
            application="tests.support.light_app",
            venv=str(self.venv) if is_bare else "",
            startsecs=0,  # there is advice against it
            program="stopwaitsecs=30",
            supervisor="" if is_bare else plugin.sections(directory / "rolling.yaml"),
            balance="least_conn;",
            nginx_port=PORT,
            server=f"        listen {host.away.v4}:{PORT};",
            files={} if is_bare else {"rolling.yaml": _policy()},
        )
        return Member(name, host, Stack(directory, setup))

    def _start(self, member: Member) -> None:
        member.stack.release("old")
        with member.host.there():
            self._kept.enter_context(member.stack)

    @contextlib.contextmanager
    def _front(self) -> Iterator[None]:
        conf = self.directory / "front.cfg"
        servers = [f"    server {member.name} {member.host.away.v4}:{PORT}" for member in self.members]
        conf.write_text(FRONT.format(port=PORT, servers="\n".join(servers)), encoding="utf-8")
        child = subprocess.Popen(["haproxy", "-db", "-f", str(conf)], stdin=subprocess.DEVNULL)
        try:
            self.members[0].stack.wait_until(lambda: answers(PORT), SERVE_WITHIN, "the front serves")
            yield
        finally:
            child.kill()
            child.wait()

    def _variables(self, member: Member) -> dict[str, Any]:
        here = str(member.stack.directory)
        told = {"ansible_netns": member.host.path, "here": here, "rolling_supervisord_conf": f"{here}/supervisord.conf"}
        if member.name != CANARY:
            return {**told, "rolling_supervisorctl": member.stack.ctl_command()}
        return {
            **told,
            "rolling_venv": str(self.venv),
            "rolling_package": str(self.wheel),
            "rolling_yaml": f"{here}/rolling.yaml",
            "rolling_policy": yaml.safe_load(_policy().replace("%(here)s", here)),
            "rolling_restart_supervisord": shlex.join(member.stack.ctl_command("reload")),
        }

    def _environment(self) -> dict[str, str]:
        here = str(self.directory / "ansible")
        return {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_CONFIG": str(self._configuration),
            "ANSIBLE_HOME": here,
            "ANSIBLE_REMOTE_TEMP": here,
            "ANSIBLE_CONNECTION_PLUGINS": str(CONNECTIONS),
            "ANSIBLE_NOCOLOR": "1",
        }


def _policy() -> str:
    return str(yaml.safe_dump({"history": False, "groups": {GROUP: POLICY}}))


def _table_lines(output: str) -> list[str]:
    """The lines of the table, its head first; the callback prints a list, a text a line."""
    found = re.search(r'^ *"HOST .*?(?=^ *\])', output, re.MULTILINE | re.DOTALL)
    return found.group().splitlines() if found else []
