"""The whole set-up of the post in one directory: supervisord, the demo application's processes, nginx before them.

``with Stack(directory, Setup(processes=8)) as stack:`` starts it in the network namespace that this process is in, and
waits until every process serves. At the end of the block everything is stopped, and that is proved: by the pids of all
that descended from it, and by a variable in the environment that every process inherits, which finds orphans too.
Every wait has a deadline. Durations are seconds.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import shlex
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from supervisor_rolling.draining import DIRECTORY_VARIABLE
from tests.support import balancers, haproxy, proc
from tests.support.site import FAULT_FILE, LIFE_FILE, PATHS, RELEASE_FILE
from tests.support.waiting import eventually, poll
from tests.support.wall import JUMP_FILE

ROOT = Path(__file__).resolve().parents[2]
GROUP = "app"
FAIR_MODULE = Path("/usr/lib/nginx/modules/ngx_http_upstream_fair_module.so")

MARK = "LAB_STACK"
"""The environment variable that marks the processes of a stack; its value is the stack's directory."""

START_WITHIN = 90.0
STOP_WITHIN = 30.0
RPC_TIMEOUT = 10.0

LONGEST_SOCKET_PATH = 100
"""The kernel allows 107 bytes; supervisord binds to a name with its pid behind first."""


class StackError(Exception):
    """The stack itself does not work: what happened, and where to look."""


@dataclass(frozen=True)
class Setup:
    """What may differ between two stacks."""

    processes: int = 8
    application: str = "tests.support.site"  # its module; tests.support.light_app is another
    supervisord: str = "supervisor.supervisord"  # the module with its ``main``
    venv: str = ""  # another environment (tests.support.venvs): its programs have nothing of this tree on their path
    first_port: int = 8000
    address: str = "127.0.0.1"  # that the application binds
    nginx_port: int = 8080  # of the balancer
    startsecs: int = 1
    program: str = ""  # more lines of [program:app]
    section: str = ""  # the whole of it, in place of the one that is made of the fields above
    supervisor: str = ""  # more sections of supervisord.conf
    loglevel: str = "info"  # supervisord's
    balance: str = "fair;"  # the first line of the upstream
    peer: str = "max_fails=0"  # the parameters of each server in it
    upstream: str = ""  # its last line
    server: str = ""  # lines of nginx's server block
    host: str = "127.0.0.1"  # of the processes, for nginx
    elsewhere: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    """Puts a thread on the host of nginx and its clients (tests.support.hosts)."""
    balancer: str = "nginx"  # or haproxy (tests.support.haproxy), or one of tests.support.balancers
    files: Mapping[str, str] = field(default_factory=dict)
    """Name and text of files that the directory has before the start. In them and in supervisord's configuration the
    directory is ``%(here)s``."""

    @property
    def ports(self) -> range:
        return range(self.first_port, self.first_port + self.processes)

    @property
    def direct(self) -> str:
        """The address at which a process is asked directly, from its own host."""
        first = self.address.split()[0]
        return "127.0.0.1" if first in ("0.0.0.0", "::") else first


class Process(NamedTuple):
    """``name`` is what supervisorctl takes: ``app:app-8000``. ``pid`` is 0 where there is none."""

    name: str
    port: int
    pid: int
    state: str


class Reply(NamedTuple):
    """An answer to ``ask``; the names of the headers are in lower case."""

    status: int
    headers: dict[str, str]


SUPERVISORD_CONF = """\
[unix_http_server]
file={here}/s.sock
[supervisord]
logfile={here}/supervisord.log
pidfile={here}/supervisord.pid
childlogdir={here}
nodaemon=true
loglevel={loglevel}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{here}/s.sock
{section}
{supervisor}
"""

PROGRAM = """\
[program:{group}]
command={python} -m {application} --port %(process_num)d --address {address}
directory={root}
process_name={group}-%(process_num)d
numprocs={processes}
numprocs_start={first_port}
startsecs={startsecs}
{program}
"""

NGINX_CONF = """\
{load_module}
user root;
worker_processes 1;
worker_rlimit_nofile 16384;
daemon off;
pid nginx.pid;
error_log nginx-error.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path client_body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    proxy_connect_timeout 2s;
    proxy_http_version 1.0;
    proxy_set_header Host $host;
    upstream {group} {{
        {balance}
{peers}
{upstream}
    }}
    server {{
        listen 127.0.0.1:{nginx_port};
        location / {{ proxy_pass http://{group}; }}
{server}
    }}
}}
"""
# HTTP/1.0 to the application is the default of nginx before 1.29.7, and means: no keepalive.


class Stack:
    """See the module. ``url`` is nginx; the files of the stack are in ``directory``."""

    def __init__(self, directory: Path, setup: Setup | None = None) -> None:
        self.directory = directory.resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.setup = setup or Setup()
        self.url = f"http://127.0.0.1:{self.setup.nginx_port}"
        self.socket = self.directory / "s.sock"
        self.supervisord_conf = self.directory / "supervisord.conf"
        self.nginx_conf = self.directory / "nginx.conf"
        self.environment = {
            **os.environ,
            "PYTHONPATH": "" if self.setup.venv else str(ROOT),
            MARK: str(self.directory),
            RELEASE_FILE: str(self.directory / "release"),
            FAULT_FILE: str(self.directory / "fault"),
            LIFE_FILE: str(self.directory / "life"),
            JUMP_FILE: str(self.directory / "jump"),
            DIRECTORY_VARIABLE: str(self.directory / "draining"),
        }
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Stack:
        self._check()
        self._write_configurations()
        try:
            self._start("supervisord", [*self._program(self.setup.supervisord), "-n", "-c", str(self.supervisord_conf)])
            with self.setup.elsewhere():
                self._start(self.setup.balancer, self._balancer_command())
            self.wait_serving()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        forced = self.stop()
        if forced and error is None:
            raise StackError(f"these did not end with supervisord and nginx, and had to be killed: {'; '.join(forced)}")

    # --- what an operator has

    def ctl(self, *arguments: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """supervisorctl on this stack; never raises for an exit code, but TimeoutExpired."""
        command = self.ctl_command(*arguments)
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    def ctl_command(self, *arguments: str) -> list[str]:
        """The command of ``ctl``."""
        return [*self._program("supervisor.supervisorctl"), "-c", str(self.supervisord_conf), *arguments]

    @property
    def called(self) -> str:
        """How messages call supervisorctl, after ``ctl`` has called it."""
        return f"supervisorctl -c {self.supervisord_conf}"

    def rpc(self, timeout: float = RPC_TIMEOUT) -> xmlrpc.client.ServerProxy:
        """A new proxy of supervisord's XML-RPC, for one thread; ``timeout`` for each call."""
        return xmlrpc.client.ServerProxy("http://supervisord", transport=UnixTransport(self.socket, timeout))

    def processes(self) -> list[Process]:
        """The processes of the application, by port."""
        infos: Any = self.rpc().supervisor.getAllProcessInfo()
        return sorted((_process(info) for info in infos if info["group"] == GROUP), key=lambda found: found.port)

    @property
    def supervisord_pid(self) -> int:
        return self._children["supervisord"].pid

    @property
    def nginx_pid(self) -> int:
        return self._children[self.setup.balancer].pid

    # --- deploys and traffic

    def release(self, name: str) -> None:
        """Deploy: processes that start from now on say so in X-Release."""
        (self.directory / "release").write_text(name, encoding="utf-8")

    def fault(self, text: str = "") -> None:
        """Deploy a fault (see site/deploy.py), or none."""
        (self.directory / "fault").write_text(text, encoding="utf-8")

    def jump(self, seconds: float) -> None:
        """Set the wall clock of a supervisord that can be moved (tests.support.wall) so far from the real one."""
        (self.directory / "jump").write_text(str(seconds), encoding="utf-8")

    def ask(self, port: int, path: str, address: str = "", timeout: float = 10.0) -> Reply:
        """GET from a process directly; raises OSError."""
        return ask(address or self.setup.direct, port, path, timeout)

    def warm(self, ports: Iterable[int] | None = None, address: str = "") -> None:
        """Ask for every page of every process (or those of ``ports``), directly, when the guard has it open. Raises
        StackError unless all are 200."""
        with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
            list(pool.map(lambda port: self._warm_one(port, address or self.setup.direct), ports or self.setup.ports))

    def wait_serving(self, timeout: float = START_WITHIN) -> None:
        """Until every process and nginx answer ``/health``."""
        deadline = time.monotonic() + timeout
        for port in self.setup.ports:
            serves = functools.partial(answers, port, self.setup.direct)
            self.wait_until(serves, deadline - time.monotonic(), f"port {port} serves")
        with self.setup.elsewhere():
            serves = functools.partial(answers, self.setup.nginx_port)
            self.wait_until(serves, deadline - time.monotonic(), "nginx serves")

    def wait_until(self, true: Callable[[], bool], timeout: float, what: str) -> None:
        """Raises StackError with the ends of the logs at the deadline, or as soon as supervisord or nginx has ended."""

        def is_true() -> bool:
            if true():
                return True
            for name, child in self._children.items():
                if child.poll() is not None:
                    raise StackError(f"waited until {what}: {name} has ended.\n{self.logs()}")
            return False

        if not eventually(is_true, timeout, every=0.02):
            raise StackError(f"waited until {what}: not within {timeout:.0f} s.\n{self.logs()}")

    def logs(self, lines: int = 15) -> str:
        """The end of every log of the stack."""
        return "\n".join(_tails(sorted(self.directory.glob("*.log")) + sorted(self.directory.glob("*.out")), lines))

    # --- the end

    def everything(self) -> set[proc.Identity]:
        """All processes of the stack that live now."""
        family = (proc.descendants(child.pid) for child in self._children.values() if child.poll() is None)
        return proc.carrying(f"{MARK}={self.directory}").union(*family)

    def stop(self) -> list[str]:
        """End everything; gives the commands of those that had to be killed one by one (orphans, and the deaf).

        Raises StackError if something outlives that. Stopping what is stopped does nothing.
        """
        known = self.everything()
        for name in (self.setup.balancer, "supervisord"):
            if name in self._children:
                _terminate(self._children.pop(name))
        left = proc.wait_gone(known | self.everything(), 1.0)
        forced = [proc.command(process) for process in left]
        outlived = proc.end(left) | self.everything()
        if outlived:
            raise StackError(f"still there: {', '.join(f'{each.pid} {proc.command(each)}' for each in outlived)}")
        return forced

    # --- inside

    def _check(self) -> None:
        if len(str(self.socket)) > LONGEST_SOCKET_PATH:
            raise StackError(f"{self.socket}: too long for a unix socket; use a directory with a shorter name")
        if self._is_fair and not FAIR_MODULE.exists():
            raise StackError(
                f"{FAIR_MODULE} is missing: install libnginx-mod-http-upstream-fair, or set another balance"
            )

    def _write_configurations(self) -> None:
        setup = self.setup
        for name, content in setup.files.items():
            text = content.replace("%(here)s", str(self.directory))
            (self.directory / name).write_text(text, encoding="utf-8")
            (self.directory / name).chmod(0o644)  # whatever the umask: root obeys no policy that others may write
        text = SUPERVISORD_CONF.format(
            here=_escaped(self.directory),
            section=setup.section.replace("%(here)s", _escaped(self.directory)) or self._section(),
            supervisor=setup.supervisor,
            loglevel=setup.loglevel,
        )
        self.supervisord_conf.write_text(text, encoding="utf-8")
        self.nginx_conf.write_text(self._nginx_text(), encoding="utf-8")
        haproxy.conf(self.directory).write_text(haproxy.text(self.directory, setup), encoding="utf-8")
        if setup.balancer in balancers.NAMES:
            balancers.conf(self.directory, setup).write_text(balancers.text(self.directory, setup), encoding="utf-8")

    def _section(self) -> str:
        setup = self.setup
        return PROGRAM.format(
            python=_escaped(shlex.quote(sys.executable)),
            root=_escaped(ROOT),
            group=GROUP,
            application=setup.application,
            address=setup.address,
            processes=setup.processes,
            first_port=setup.first_port,
            startsecs=setup.startsecs,
            program=setup.program,
        )

    def _nginx_text(self) -> str:
        setup = self.setup
        peers = (f"        server {setup.host}:{port} {setup.peer};" for port in setup.ports)
        return NGINX_CONF.format(
            load_module=f"load_module {FAIR_MODULE};" if self._is_fair else "",
            group=GROUP,
            balance=setup.balance,
            peers="\n".join(peers),
            upstream=setup.upstream,
            nginx_port=setup.nginx_port,
            server=setup.server,
        )

    @property
    def _is_fair(self) -> bool:
        return self.setup.balancer == "nginx" and self.setup.balance.startswith("fair")

    def _program(self, module: str) -> list[str]:
        """The command of supervisord or supervisorctl: that of the environment, or of this very Python, whatever PATH
        says."""
        if self.setup.venv:
            return [f"{self.setup.venv}/bin/{module.rpartition('.')[2]}"]
        return [sys.executable, "-c", f"from {module} import main; main()"]

    def _balancer_command(self) -> list[str]:
        if self.setup.balancer == "haproxy":
            return haproxy.command(self.directory)
        if self.setup.balancer in balancers.NAMES:
            return balancers.command(self.directory, self.setup)
        return ["nginx", "-p", str(self.directory), "-c", str(self.nginx_conf)]

    def _start(self, name: str, command: list[str]) -> None:
        with (self.directory / f"{name}.out").open("wb") as out:
            self._children[name] = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _warm_one(self, port: int, address: str) -> None:
        deadline = time.monotonic() + START_WITHIN
        for path in PATHS:
            status = _patient_status(address, port, path, deadline)
            if status != 200:
                raise StackError(f"warming up: {address}:{port}{path} answered {status}")


@contextlib.contextmanager
def running(directory: Path, setup: Setup | None = None) -> Iterator[Stack]:
    """A stack in which every page of every process is warm."""
    with Stack(directory, setup) as stack:
        stack.warm()
        yield stack


def ask(address: str, port: int, path: str, timeout: float = 10.0, source: str = "") -> Reply:
    """GET on a connection of its own, from the address ``source`` if one is given; raises OSError."""
    connection = http.client.HTTPConnection(address, port, timeout, (source, 0) if source else None)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        response.read()
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()})
    except http.client.HTTPException as reason:
        raise ConnectionError(f"{address}:{port}{path}: {type(reason).__name__} {reason}") from reason
    finally:
        connection.close()


def answers(port: int, address: str = "127.0.0.1") -> bool:
    """Whether ``/health`` is answered with 200."""
    try:
        return ask(address, port, "/health", timeout=2.0).status == 200
    except OSError:
        return False


def _patient_status(address: str, port: int, path: str, deadline: float) -> int:
    """Of an answer; while the port is refused (the guard has closed it) it is asked again until the deadline."""

    def status() -> int:
        try:
            return ask(address, port, path, timeout=60.0).status
        except ConnectionRefusedError:
            return 0

    return poll(status, bool, within=deadline - time.monotonic())


def _process(info: dict[str, Any]) -> Process:
    name: str = info["name"]
    return Process(f"{GROUP}:{name}", int(name.rpartition("-")[2]), info["pid"], info["statename"])


def _escaped(path: object) -> str:
    """supervisord expands % in its configuration."""
    return str(path).replace("%", "%%")


def _terminate(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_WITHIN)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(STOP_WITHIN)


def _tails(paths: Iterable[Path], lines: int) -> Iterator[str]:
    for path in paths:
        end = path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        if end:
            yield "\n  ".join([f"{path}:", *end])


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("supervisord", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class UnixTransport(xmlrpc.client.Transport):
    """XML-RPC over a unix socket; supervisor's own has no timeout."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__()
        self._path = path
        self._timeout = timeout

    def make_connection(self, _host: object) -> http.client.HTTPConnection:
        return _UnixConnection(self._path, self._timeout)
