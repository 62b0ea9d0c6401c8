"""Restarts behind nginx's keepalive pool: ``python -m tests.soak.pools tornado gunicorn`` (as root).

Two processes of each server behind ``keepalive 32``, eight clients, half of the requests POSTs, which nginx does not
ask twice. One process after the other is restarted, in three ways in the same run: bare, after a second behind a closed
gate, and after a drain behind the gate with the status lines said to be HTTP/1.0. Exit status 0 when the last way
lost nothing.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor_rolling.core.endpoint import tcp
from supervisor_rolling.core.policy import GatePolicy
from supervisor_rolling.listener.gates.iptables import IptablesGate
from supervisor_rolling.listener.kernel_sockets import KernelSockets
from tests.support.keepalive_stack import Clients, is_listening, nginx, status_lines
from tests.support.netns import enter_private_network
from tests.support.waiting import wait_until

PORTS = (8000, 8001)
CLIENTS, PAUSE = 8, 0.01
SERVICE = 0.02  # seconds that an answer takes
QUIET, DEADLINE, LEASE = 1.0, 20.0, 30.0

APPLICATION = f"""
import time

def application(environ, start_response):
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    time.sleep({SERVICE})
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"fine\\n"]
"""

TORNADO = f"""
import asyncio, sys, tornado.web

class Main(tornado.web.RequestHandler):
    async def get(self):
        await asyncio.sleep({SERVICE})
        self.write("fine\\n")
    post = get

async def main():
    tornado.web.Application([("/", Main)]).listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()

asyncio.run(main())
"""

SERVERS: dict[str, tuple[str, ...]] = {
    "tornado": ("python", "tornado_app.py", "PORT"),
    "gunicorn": ("python", "-m", "gunicorn", "-k", "gthread", "--threads", "8", "-b", "127.0.0.1:PORT", "app"),
    "waitress": ("python", "-m", "waitress", "--threads=8", "--listen=127.0.0.1:PORT", "app:application"),
    "uwsgi": (
        *("uwsgi", "--http11-socket", "127.0.0.1:PORT", "--wsgi-file", "app.py", "--threads", "8", "--master"),
        *("--die-on-term", "--add-header", "Connection: keep-alive", "--so-keepalive"),
    ),
}
"""uWSGI keeps connections with ``http11-socket`` alone."""


@dataclass(frozen=True)
class Way:
    """``leave`` waits until a process may be stopped, and gives the seconds that it took; ``end`` opens its port."""

    name: str
    leave: Callable[[int], float]
    end: Callable[[], object]


class Servers:
    """The two processes of a server."""

    def __init__(self, name: str, python: str, directory: Path, number: signal.Signals) -> None:
        where = {"python": python, "uwsgi": str(Path(python).with_name("uwsgi"))}
        self._command = [where.get(word, word) for word in SERVERS[name]]
        self._directory = directory
        self._signal = number
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, port: int) -> None:
        command = [word.replace("PORT", str(port)) for word in self._command]
        out = (self._directory / "out").open("ab")
        with out:
            self._children[port] = subprocess.Popen(
                command, cwd=self._directory, stdout=out, stderr=out, start_new_session=True
            )
        wait_until(lambda: is_listening(port), f"port {port} listens")

    def stop(self, port: int) -> None:
        """The whole of it: a master's workers would go on."""
        child = self._children.pop(port)
        if self._signal is signal.SIGTERM:
            child.terminate()
        else:
            subprocess.run(["kill", "-KILL", "--", f"-{child.pid}"], check=True)
        child.wait(DEADLINE)
        wait_until(lambda: not is_listening(port), f"port {port} is free")

    def stop_all(self) -> None:
        for port in list(self._children):
            self.stop(port)


def ways() -> list[Way]:
    gate = IptablesGate(GatePolicy(lease=LEASE), "pools", time.monotonic)
    lines = status_lines("pools")

    def wait(port: int) -> float:
        gate.hold({tcp(port): "restarts"})
        time.sleep(1.0)
        return 1.0

    def drain(port: int) -> float:
        gate.hold({tcp(port): "restarts"})
        closed_at = time.monotonic()

        def is_drained() -> bool:
            lines.hold([port], LEASE)
            found = KernelSockets().connections([tcp(port)], oldest=1)[tcp(port)]
            return not found.peers or min(time.monotonic() - closed_at, found.idle_for) >= QUIET

        return wait_until(is_drained, f"port {port} is drained", DEADLINE)

    def end() -> None:
        gate.hold({})
        lines.hold((), 0.0)

    return [
        Way("bare", lambda port: 0.0, lambda: None),
        Way("gate + 1 s", wait, end),
        Way("gate + status line", drain, end),
    ]


def restarted(servers: Servers, way: Way, number: int) -> tuple[Clients, list[float]]:
    """So many restarts in one way, under load; and how long each drain took."""
    drains = []
    with Clients(CLIENTS, PAUSE) as clients:
        clients.wait_more(50)  # the pools fill
        for turn in range(number):
            port = PORTS[turn % len(PORTS)]
            drains.append(way.leave(port))
            servers.stop(port)
            servers.start(port)
            way.end()
            clients.wait_more(20)  # the pool of the new one fills
    return clients, drains


def tried(name: str, python: str, number: int, how: signal.Signals) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / "app.py").write_text(APPLICATION, encoding="utf-8")
        (directory / "tornado_app.py").write_text(TORNADO, encoding="utf-8")
        servers = Servers(name, python, directory, how)
        try:
            for port in PORTS:
                servers.start(port)
            with nginx(directory, [f"127.0.0.1:{port}" for port in PORTS]):
                told = [_told(name, way, number, *restarted(servers, way, number)) for way in ways()]
                return all(told)
        finally:
            servers.stop_all()


def _told(name: str, way: Way, number: int, clients: Clients, drains: Sequence[float]) -> bool:
    """Whether all is well with it: what other ways lose is what they are here for."""
    posts, gets, total = clients.failed("POST"), clients.failed("GET"), sum(clients.counts.values())
    ordered = sorted(drains)
    median, p95 = statistics.median(ordered), ordered[int(len(ordered) * 0.95)]
    print(
        f"{name:9} {way.name:19} {number} restarts, {total} requests: {posts} POSTs and {gets} GETs failed, "
        f"drain median {median * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms",
        flush=True,
    )
    return "status line" not in way.name or not posts + gets


def main() -> int:
    parser = argparse.ArgumentParser(description="Restart servers behind nginx's keepalive pool.")
    parser.add_argument("servers", nargs="*", help=f"of {', '.join(SERVERS)}; all, if none is named")
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--signal", default="SIGKILL", choices=["SIGKILL", "SIGTERM"])
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has the servers")
    arguments = parser.parse_args()
    enter_private_network()
    how = signal.Signals[arguments.signal]
    names = arguments.servers or list(SERVERS)
    outcomes = [tried(name, arguments.python, arguments.restarts, how) for name in names]
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
