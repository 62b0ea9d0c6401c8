"""A supervisord with the plugin and as many processes of ``binder.c`` as wanted: so light that ours is what shows.

``with running(Many(1000)) as rig:``, in a network namespace of one's own; all are warm when it begins.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import binder, plugin
from tests.support.stack import ROOT, StackError, UnixTransport

FIRST_PORT = 20000
START_WITHIN = 180.0
REQUESTS_TO_WARM = 3

CONF = """\
[unix_http_server]
file={here}/s.sock
[supervisord]
logfile={here}/supervisord.log
pidfile={here}/supervisord.pid
childlogdir={here}
nodaemon=true
minfds={fds}
[supervisorctl]
serverurl=unix://{here}/s.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[program:app]
command={binder} --port %(process_num)d --stamp {stamps} --warm-after {requests}
process_name=app-%(process_num)d
numprocs={size}
numprocs_start={first}
startsecs={startsecs}
startretries=100
stdout_logfile=NONE
stderr_logfile=NONE
{sections}
"""


@dataclass(frozen=True)
class Many:
    """``listener``: the module that is run as the listener; ``environment``: what it gets besides, made for the
    directory of the rig."""

    size: int
    listener: str = "supervisor_rolling.listener"
    environment: Callable[[Path], Mapping[str, str]] = lambda _: {}
    startsecs: int = 0


@dataclass
class Rig:
    """What runs. ``conf``: for supervisorctl."""

    directory: Path
    size: int
    stamps: binder.Stamps
    supervisord: int

    @property
    def conf(self) -> Path:
        return self.directory / "supervisord.conf"

    def rpc(self) -> Any:
        return xmlrpc.client.ServerProxy("http://supervisord", transport=UnixTransport(self.directory / "s.sock", 30.0))

    def standing(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.rpc().rolling.getProcesses("app")
        return found

    def wait_warm(self) -> None:
        deadline = time.monotonic() + START_WITHIN
        while time.monotonic() < deadline:
            try:
                if all(process["warm"] and process["gate"] == "open" for process in self.standing()):
                    return
            except (OSError, xmlrpc.client.Error):
                pass
            time.sleep(0.5)
        raise StackError(f"not all warm within {START_WITHIN:g} s; see {self.directory}")


@contextmanager
def running(many: Many) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="many-") as name, binder.Stamps() as stamps:
        directory = Path(name)
        program = binder.compile(directory)
        warmup = {"timeout": 20, "requests": [{"path": "/warm", "count": REQUESTS_TO_WARM}]}
        group = {"ports": r"app-(\d+)", "warmup": warmup, "min_ready_seconds": 0}
        policy = {"history": {"file": str(directory / "rollouts.jsonl")}, "groups": {"app": group}}
        (directory / "rolling.yaml").write_text(json.dumps(policy), encoding="ascii")
        text = CONF.format(
            here=directory,
            binder=program,
            size=many.size,
            first=FIRST_PORT,
            fds=max(1024, 8 * many.size),
            startsecs=many.startsecs,
            stamps=stamps.port,
            requests=REQUESTS_TO_WARM,
            sections=plugin.sections(directory / "rolling.yaml", module=many.listener),
        )
        (directory / "supervisord.conf").write_text(text, encoding="ascii")
        environment = {**os.environ, **many.environment(directory), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(directory / "supervisord.conf")]
        with (directory / "out").open("wb") as out:
            child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        rig = Rig(directory, many.size, stamps, child.pid)
        try:
            rig.wait_warm()
            yield rig
        finally:
            child.terminate()
            child.wait(60)
