"""The files of conf/: each is what its program reads, and they agree with each other."""

from __future__ import annotations

import re
import subprocess
from configparser import RawConfigParser
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest
from supervisor.datatypes import RestartUnconditionally
from supervisor.events import ProcessGroupEvent, ProcessStateEvent, SupervisorStateChangeEvent, Tick5Event
from supervisor.options import ClientOptions, ServerOptions

from supervisor_rolling import __version__
from supervisor_rolling.core.checks.nginx import group_in_nginx, min_ready_for
from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.policy import Config, Policy
from supervisor_rolling.listener import config
from supervisor_rolling.listener.balancer_config import read_nginx
from supervisor_rolling.plugin.events import RollingRequestEvent

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
PORTS = list(range(8000, 8008))
NAMES = [f"app-{port}" for port in PORTS]


def options(conf: Path) -> ServerOptions:
    """A configuration as supervisord reads it; nothing is started."""
    found = ServerOptions()
    found.realize(["-c", str(conf)], doc="")
    return found


@pytest.fixture
def supervisord(tmp_path: Path) -> ServerOptions:
    """conf/supervisord.conf, with the folders of a machine that has been set up."""
    text = (CONF / "supervisord.conf").read_text(encoding="utf-8")
    for folder in ("/run", "/var/log/supervisor"):
        (tmp_path / folder[1:]).mkdir(parents=True)
        text, replaced = re.subn(rf"(?<== ){folder}|(?<=unix://){folder}", f"{tmp_path}{folder}", text)
        assert replaced, f"{folder} stands nowhere in conf/supervisord.conf"
    copy = tmp_path / "supervisord.conf"
    copy.write_text(text, encoding="utf-8")
    return options(copy)


@pytest.fixture
def rolling() -> Config:
    return config.load(str(CONF / "rolling.yaml"))


@pytest.fixture
def policy(rolling: Config) -> Policy:
    (found,) = rolling.groups.values()
    return found


def group(supervisord: ServerOptions, name: str) -> Any:
    return next(found for found in supervisord.process_group_configs if found.name == name)


def factory(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


# --- supervisord.conf


def test_supervisord_has_the_application_and_the_listener(supervisord: ServerOptions) -> None:
    assert sorted(found.name for found in supervisord.process_group_configs) == ["app", "rolling"]
    assert [process.name for process in group(supervisord, "app").process_configs] == NAMES


def test_each_process_gets_the_port_of_its_name(supervisord: ServerOptions) -> None:
    commands = {process.name: process.command for process in group(supervisord, "app").process_configs}
    assert all(commands[name].endswith(f"--port {port}") for name, port in zip(NAMES, PORTS))


def test_rpcinterface_is_ours(supervisord: ServerOptions) -> None:
    factories = {name: (made, settings) for name, made, settings in supervisord.rpcinterface_factories}
    ours = factory("supervisor_rolling.rpcinterface:make_rolling_rpcinterface")
    assert factories["rolling"] == (ours, {})


def test_supervisorctl_finds_its_plugin_in_the_same_file(supervisord: ServerOptions) -> None:
    client = ClientOptions()
    client.realize(["-c", str(supervisord.configfile)], doc="")
    ours = factory("supervisor_rolling.controllerplugin:make_rolling_controllerplugin")
    assert [(name, made) for name, made, _ in client.plugin_factories if name == "rolling"] == [("rolling", ours)]
    assert client.serverurl == f"unix://{supervisord.server_configs[0]['file']}"


def test_listener_starts_first_and_reads_events_at_once(supervisord: ServerOptions) -> None:
    pool = group(supervisord, "rolling")
    (listener,) = pool.process_configs
    assert (listener.startsecs, listener.priority, pool.priority) == (0, -1, -1)
    assert listener.autorestart is RestartUnconditionally
    assert pool.buffer_size >= 4096
    assert min(found.priority for found in supervisord.process_group_configs) == pool.priority


def test_listener_gets_doorbell_and_process_events(supervisord: ServerOptions) -> None:
    heard = tuple(group(supervisord, "rolling").pool_events)
    selected = (RollingRequestEvent, ProcessStateEvent, ProcessGroupEvent, Tick5Event, SupervisorStateChangeEvent)
    assert [event for event in selected if not issubclass(event, heard)] == []


def test_listener_command_is_an_installed_program(supervisord: ServerOptions) -> None:
    (listener,) = group(supervisord, "rolling").process_configs
    program, *arguments = listener.command.split()
    scripts = {script.name: script for script in metadata.distribution("supervisor_rolling").entry_points}
    assert callable(scripts[program].load())
    assert arguments == ["--config", "/etc/supervisor/rolling.yaml"]


def test_inventory_installs_this_version() -> None:
    inventory = (ROOT / "conf" / "ansible" / "inventory.yml").read_text(encoding="utf-8")
    assert metadata.version("supervisor_rolling") == __version__
    assert f"supervisor_rolling-{__version__}-py3-none-any.whl" in inventory


# --- rolling.yaml and supervisord.conf


def test_policy_and_supervisord_have_the_same_group(supervisord: ServerOptions, rolling: Config) -> None:
    assert list(rolling.groups) == ["app"]
    assert {found.name for found in supervisord.process_group_configs} >= set(rolling.groups)


def test_supervisord_deadlines_fit_into_the_policy(supervisord: ServerOptions, policy: Policy) -> None:
    for process in group(supervisord, "app").process_configs:
        assert process.stopwaitsecs + process.startsecs < policy.restart.timeout


# --- nginx.conf


def upstream() -> list[str]:
    """The parameters of each server of the upstream."""
    return re.findall(r"^\s*server\s+(127\.0\.0\.1:\d+[^;]*);", nginx_text(), re.MULTILINE)


def nginx_text() -> str:
    return (CONF / "nginx.conf").read_text(encoding="utf-8")


def test_nginx_has_the_ports_of_the_processes() -> None:
    assert [server.split()[0] for server in upstream()] == [f"127.0.0.1:{port}" for port in PORTS]


def test_zero_min_ready_means_nginx_retries_at_once(policy: Policy) -> None:
    assert {server.split(maxsplit=1)[1] for server in upstream()} == {"max_fails=0"}
    assert policy.min_ready_auto
    assert (
        min_ready_for(
            group_in_nginx(read_nginx(str(CONF / "nginx.conf")), [tcp(port) for port in PORTS], is_named=True)
        )
        == 0
    )


def test_nginx_accepts_its_file(tmp_path: Path) -> None:
    text = nginx_text()
    for path in ("/run/nginx.pid", "/var/log/nginx/error.log"):
        assert path in text
        text = text.replace(path, str(tmp_path / Path(path).name))
    text = text.replace("http {", f"http {{\n    access_log {tmp_path}/access.log;", 1)
    conf = tmp_path / "nginx.conf"
    conf.write_text(text, encoding="utf-8")
    tested = subprocess.run(
        ["nginx", "-t", "-p", "/usr/share/nginx", "-c", str(conf)], capture_output=True, text=True, timeout=30
    )
    assert tested.returncode == 0, tested.stderr
    assert "[warn]" not in tested.stderr


# --- haproxy.cfg


def haproxy_text() -> str:
    return (CONF / "haproxy.cfg").read_text(encoding="utf-8")


def test_haproxy_has_the_ports_of_the_processes() -> None:
    servers = re.findall(r"^\s*server (\S+) (\S+)$", haproxy_text(), re.MULTILINE)
    assert servers == [(name, f"127.0.0.1:{port}") for name, port in zip(NAMES, PORTS)]


def test_haproxy_accepts_its_file() -> None:
    tested = subprocess.run(
        ["haproxy", "-c", "-f", str(CONF / "haproxy.cfg")], capture_output=True, text=True, timeout=30
    )
    assert tested.returncode == 0, tested.stderr
    assert "WARNING" not in tested.stderr


def test_haproxy_example_fits_its_gate() -> None:
    text = " ".join(haproxy_text().replace("\n#", " ").split())
    gate = re.search(r"`(gate: .*?)` in rolling.yaml", text)
    assert gate
    found = config.parse(f"{gate[1]}\ngroups: {{app: {{ports: auto}}}}", "haproxy.cfg").gate
    assert f"stats socket {found.socket} mode 660 group haproxy level admin" in text
    assert f"\nbackend {found.backend_name}\n" in haproxy_text()


# --- the container


@pytest.mark.parametrize("balancer", ["nginx", "haproxy"])
def test_container_has_the_listener_of_conf(balancer: str) -> None:
    example, there = RawConfigParser(inline_comment_prefixes=(";",)), RawConfigParser()
    example.read(CONF / "supervisord.conf")
    there.read([CONF / "container" / "supervisord.conf", CONF / "container" / balancer / "supervisord.conf"])
    own = {"command", "user"}  # the program's full path, and no user
    listeners = [dict(one["eventlistener:rolling"]) for one in (example, there)]
    assert len({tuple(sorted((k, v) for k, v in one.items() if k not in own)) for one in listeners}) == 1
    assert dict(there["rpcinterface:rolling"]) == dict(example["rpcinterface:rolling"])
    text = (CONF / "container" / balancer / "rolling.yaml").read_text(encoding="utf-8")
    assert list(config.parse(text, "rolling.yaml").groups) == ["app"]
