"""What ``supervisor_rolling_listener --inspect`` sees of a host."""

from __future__ import annotations

import http.server
import json
import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from supervisor_rolling.codec import load
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.policy import Policy, PortRule
from supervisor_rolling.core.setup_facts import Inspection
from supervisor_rolling.listener import inspection
from supervisor_rolling.listener.balancer_config import read_nginx

NOBODY = 65534


def inspected(policy: Path, text: str = "", **groups: dict[str, int]) -> Inspection:
    question = {"policy": str(policy), "policy_text": text, "groups": groups}
    return load(Inspection, json.loads(inspection.answer(json.dumps(question))))


def test_missing_policy_is_no_problem(tmp_path: Path) -> None:
    found = inspected(tmp_path / "rolling.yaml")
    assert (found.policy_groups, found.policy_problem, found.gate_problem) == ((), "", "")
    assert found.gate in {"iptables", "nftables"}


def test_text_is_read_in_place_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rolling.yaml"
    path.write_text("groups: {app: {}}\n", encoding="utf-8")
    assert inspected(path).policy_groups == ("app",)
    assert inspected(path, "groups: {api: {}}\n").policy_groups == ("api",)
    assert "rolling.yaml:1: what: unknown key" in inspected(path, "what: 1\n").policy_problem


@pytest.mark.parametrize("text", ["", "groups: {app: {}}\n"])
def test_place_that_root_must_not_trust_is_a_problem(tmp_path: Path, text: str) -> None:
    (folder := tmp_path / "srv").mkdir()
    os.chown(folder, NOBODY, NOBODY)
    found = inspected(folder / "rolling.yaml", text)
    assert f"{folder}: belongs to the user {NOBODY}" in found.policy_problem
    assert found.policy_groups == ()


class Application(http.server.BaseHTTPRequestHandler):
    """Answers what ``statuses`` has, else 404."""

    statuses: ClassVar[dict[str, int]] = {}

    def do_GET(self) -> None:
        self.send_response(self.statuses.get(self.path, 404))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """At which this process listens."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Application) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("statuses", "ready", "root"),
    [
        ({"/": 200, "/ping": 200}, "/ping", 200),
        ({"/": 302}, "", 302),
        ({"/healthz": 200, "/ping": 200}, "/healthz", 404),
    ],
)
def test_first_path_that_answers_200_is_ready(
    port: int, monkeypatch: pytest.MonkeyPatch, statuses: dict[str, int], ready: str, root: int
) -> None:
    monkeypatch.setattr(Application, "statuses", statuses)
    monkeypatch.setattr(inspection, "unfit", lambda _: "")  # one process
    monkeypatch.setattr(inspection, "_with_balancer", lambda group: group)
    (group,) = inspected(Path("/nowhere/rolling.yaml"), app={"app-0": os.getpid()}).groups
    assert (group.ports, group.ready, group.root_status) == ({"app-0": (port,)}, ready, root)


def test_group_on_a_unix_socket_is_asked_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Server(socketserver.ThreadingUnixStreamServer):
        def get_request(self) -> tuple[socket.socket, Any]:
            return super().get_request()[0], ("client", 0)  # http.server wants an address

    path = str(tmp_path / "a.sock")
    monkeypatch.setattr(Application, "statuses", {"/": 200, "/health": 200})
    monkeypatch.setattr(inspection, "unfit", lambda _: "")  # one process
    monkeypatch.setattr(inspection, "_with_balancer", lambda group: group)
    with Server(path, Application) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        (group,) = inspected(Path("/nowhere/rolling.yaml"), app={"app-0": os.getpid()}).groups
        server.shutdown()
        thread.join()
    assert (group.unix, group.ready, group.root_status) == ({"app-0": (path,)}, "/health", 200)


def test_group_that_does_not_fit_is_asked_nothing(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Application, "statuses", {"/": 200})
    (group,) = inspected(Path("/nowhere/rolling.yaml"), app={"app-0": os.getpid()}).groups
    assert (group.ports, group.root_status) == ({"app-0": (port,)}, 0)


NGINX = """\
pid {here}/nginx.pid;
error_log {here}/error.log;
events {{}}
http {{
    upstream app {{ server 127.0.0.1:{port}{parameters}; server 127.0.0.1:1{parameters}; }}
    server {{ listen 127.0.0.1:8080; location / {{ proxy_pass http://app; }} }}
}}
"""


@pytest.mark.parametrize(("parameters", "codes"), [("", {"nginx.min_ready_seconds"}), (" max_fails=0", set())])
def test_advice_on_nginx_is_that_of_a_check(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: str, codes: set[str]
) -> None:
    path = tmp_path / "nginx.conf"
    path.write_text(NGINX.format(here=tmp_path, port=port, parameters=parameters), encoding="utf-8")
    nginx = read_nginx(str(path))
    clock_only: Any = {"__init__": lambda self, clock: None}
    found = {"read": lambda self, *_: nginx, "last_read": lambda self, _: nginx}
    monkeypatch.setattr(inspection, "NginxConfigurations", type("Read", (), {**clock_only, **found}))
    nobody = {"find": lambda self, *_: (), "last_found": lambda self, _: ()}
    monkeypatch.setattr(inspection, "ConnectedClients", type("Found", (), {**clock_only, **nobody}))
    monkeypatch.setattr(inspection, "unfit", lambda _: "")  # one process
    (group,) = inspected(tmp_path / "rolling.yaml", app={"app-0": os.getpid()}).groups
    assert {finding.code for finding in group.findings} == codes
    assert group.balancer == f"nginx ({path})"
    _, policy = inspection._read_balancers(Policy("app", PortRule(auto=True)), {"app-0": (tcp(port),)})
    assert policy.min_ready_seconds == (0.0 if parameters else 11.0)  # as a rollout waits: findings of others compare
