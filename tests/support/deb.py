"""The Debian package on a clean host: ``python -m tests.support.deb``, as root.

A Debian with the supervisor and the nginx of apt runs four HTTP processes under load. The package is installed, set
up, upgraded in the middle of a rollout, removed in the middle of another one, installed again and purged. Outside the
restarts of supervisord no request fails; no program is stopped; no rule is left; supervisor's own supervisorctl works
at each step; and supervisord starts after the removal. The exit status is 1 where one of these is not so.

The host is made with debootstrap, or is a copy of ``--chroot``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.support import look
from tests.support.apt_host import AptHost, bootstrap, copied, temporary_root
from tests.support.load import Load, Plan
from tests.support.two_steps import PROCESSES, SITE, Outcome
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
NEXT_VERSION = "9.0"
LAST_PORT = 8000 + PROCESSES - 1

SUPERVISORD = ("supervisord", "-c", "/etc/supervisor/supervisord.conf")
DROP_IN = "/etc/supervisor/conf.d/rolling.conf"
LEFT_BY_NONE = (
    "/etc/supervisor/rolling.yaml",
    "/etc/supervisor/rolling.conf.removed",
    "/usr/lib/python3/dist-packages/supervisor_rolling",
    "/usr/share/supervisor-rolling",
    "/var/lib/supervisor_rolling",
)

PROGRAM = """\
[program:app]
command = /usr/bin/python3 /srv/app.py %(process_num)d
process_name = app-%(process_num)d
numprocs = 4
numprocs_start = 8000
user = www-data
"""

APPLICATION = """\
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("X-Pid", str(os.getpid()))
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"fine\\n")

    do_POST = do_GET

    def log_message(self, *arguments):
        pass

class Server(ThreadingHTTPServer):
    request_queue_size = 128

Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

NO_SERVICE = "#!/bin/sh\nexit 101\n"


class PackagedHost:
    """The host, and what is promised of it."""

    def __init__(self, host: AptHost, outcome: Outcome, scratch: Path) -> None:
        self.host = host
        self.outcome = outcome
        self._scratch = scratch
        self._loads = 0

    def say(self, *command: str, check: bool = True) -> str:
        """Run a command, and print it and what it prints."""
        print("$ " + " ".join(command), flush=True)
        text = self.host.run(*command, check=check)
        print("".join(f"    {line}\n" for line in text.splitlines()), end="", flush=True)
        return text

    @contextlib.contextmanager
    def users(self, when: str) -> Iterator[None]:
        """A load while the block runs, of which no request fails."""
        self._loads += 1
        with Load(Plan("http://127.0.0.1/", rate=40.0), self._scratch / f"load-{self._loads}.jsonl") as load:
            load.wait_more(20)
            yield
            load.wait_more(40)
        report = load.report()
        failed = report.gets_failed + report.posts_failed
        text = f"{when}: {failed} of {report.requests} requests failed ({report.failures or 'none'})"
        self.outcome.require(report.requests > 0 and failed == 0, text)

    @contextlib.contextmanager
    def undisturbed(self, when: str) -> Iterator[None]:
        """No program is stopped or restarted in the block."""
        before = self.pids()
        yield
        self.outcome.require(len(before) == PROCESSES and self.pids() == before, f"{when}: every program runs on")

    def pids(self) -> set[str]:
        """Of the processes that run, by supervisor's own supervisorctl."""
        rows = [line.split() for line in self.host.run("supervisorctl", "status", "app:*", check=False).splitlines()]
        return {row[3].rstrip(",") for row in rows if len(row) > 3 and row[1] == "RUNNING"}

    def starts(self) -> int:
        """How often supervisord has started a listener."""
        log = self.host.root / "var/log/supervisor/supervisord.log"
        return log.read_text(encoding="utf-8").count("spawned: 'rolling'")

    def restart_supervisord(self) -> None:
        """Stop it and start it, as ``systemctl restart supervisor`` does."""
        self.say("supervisorctl", "shutdown")
        self._wait(lambda: not self.host.has("/run/supervisord.pid"), "supervisord has ended")
        self.start_supervisord()

    def start_supervisord(self) -> None:
        """Start it, and wait until the programs run."""
        self.say(*SUPERVISORD)
        self._wait(lambda: len(self.pids()) == PROCESSES, "the programs run")

    def in_the_middle(self) -> None:
        """Start a rollout, and return when its second process has left."""
        before = self.pids()
        self.say("supervisor_rolling", "restart", "app", "--no-wait")
        self._wait(lambda: len(self.pids() & before) <= PROCESSES - 2, "the second process has left")

    def wait_ended(self) -> str:
        """Until the rollout has ended; its status."""
        status: list[str] = []

        def has_ended() -> bool:
            status[:] = [self._rollout()["status"]]
            return status != ["running"]

        self._wait(has_ended, "the rollout has ended", 90.0)
        return status[0]

    def is_running(self) -> bool:
        """Whether the rollout has not ended."""
        return bool(self._rollout()["status"] == "running")

    def _rollout(self) -> dict[str, Any]:
        answer = json.loads(self.host.run("supervisor_rolling", "status", "--json"))
        found: dict[str, Any] = answer["rollouts"][0]
        return found

    def _wait(self, true: Callable[[], object], what: str, within: float = 30.0) -> None:
        wait_until(true, what, within, every=0.2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chroot", type=Path, help="a minimal Debian to copy (default: made with debootstrap)")
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument("--mirror", default="", help="for debootstrap")
    parser.add_argument("--recommends", action="store_true", help="install python3-iptables, too, as apt does")
    options = parser.parse_args(arguments)
    outcome = Outcome()
    with temporary_root() as root, tempfile.TemporaryDirectory() as scratch:
        if options.chroot:
            copied(options.chroot, root)
        else:
            bootstrap(root, options.suite, options.mirror)
        built = [
            _build(root / "root", Path(scratch, name), version) for name, version in (("a", ""), ("b", NEXT_VERSION))
        ]
        with AptHost(root) as host:
            packaged = PackagedHost(host, outcome, Path(scratch))
            _prepare(packaged)
            _install(packaged, built[0], options.recommends)
            _upgrade(packaged, built[1])
            _remove(packaged)
            _purge(packaged, built[1])
    print("FAILED: " + "; ".join(outcome.broken) if outcome.broken else "All promises are kept", flush=True)
    return 1 if outcome.broken else 0


def _build(into: Path, scratch: Path, version: str) -> str:
    """A package in the host; its path there."""
    began = time.monotonic()
    command = ["sh", "conf/debian/build.sh", sys.executable, version, str(scratch), str(scratch)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (made,) = scratch.glob("*.deb")
    (into / made.name).write_bytes(made.read_bytes())
    print(f"{made.name}: built in {time.monotonic() - began:.1f} s, {made.stat().st_size // 1024} kB", flush=True)
    return f"/root/{made.name}"


def _prepare(packaged: PackagedHost) -> None:
    host = packaged.host
    print("A clean host; apt-get install supervisor nginx", flush=True)
    host.write("/usr/sbin/policy-rc.d", NO_SERVICE)
    (host.root / "usr/sbin/policy-rc.d").chmod(0o755)
    host.run("apt-get", "update", online=True)
    host.run("apt-get", "install", "-y", "--no-install-recommends", "supervisor", "nginx", online=True)
    host.write("/srv/app.py", APPLICATION)
    host.write("/etc/supervisor/conf.d/app.conf", PROGRAM)
    servers = "\n".join(f"    server 127.0.0.1:{8000 + number} max_fails=0;" for number in range(PROCESSES))
    host.write("/etc/nginx/sites-available/default", SITE.format(servers=servers))
    host.run("nginx")
    packaged.start_supervisord()


def _install(packaged: PackagedHost, package: str, recommends: bool) -> None:
    """Until supervisord starts the next time, nothing changes; also not by ``supervisorctl update``."""
    host, outcome = packaged.host, packaged.outcome
    with packaged.users("installation"), packaged.undisturbed("installation"):
        print(f"$ apt-get install {package}", flush=True)
        with outcome.timed("install"):
            options = [] if recommends else ["--no-install-recommends"]
            text = host.run("apt-get", "install", "-y", *options, package, online=True)
        print(
            "".join(f"    {line}\n" for line in text.splitlines() if "very program" in line or "loaded" in line), end=""
        )
        packaged.say("supervisorctl", "update")
        wait_until(lambda: packaged.starts() == 1, "update has started the listener")
        packaged.say("supervisor_rolling", "setup", "--yes", "app")
        outcome.require(packaged.starts() == 1, "a listener without the plugin is started once")
    packaged.restart_supervisord()
    checked = packaged.say("supervisor_rolling", "check", "app", check=False)
    outcome.require("app: no finding" in checked, "rolling_check finds nothing")


def _upgrade(packaged: PackagedHost, package: str) -> None:
    with packaged.users("rollouts and upgrade"):
        before = packaged.pids()
        with packaged.outcome.timed("rollout"):
            packaged.say("supervisor_rolling", "restart", "app")
        packaged.outcome.require(not before & packaged.pids(), "every process is new")
        starts, before = packaged.starts(), packaged.pids()
        with socket.create_connection(("127.0.0.1", LAST_PORT)):  # its process drains until this is closed
            packaged.in_the_middle()
            packaged.say("dpkg", "--install", package)
            packaged.outcome.require(packaged.is_running(), "the rollout runs on during the upgrade")
        status = packaged.wait_ended()
        is_done = status == "done" and not before & packaged.pids()
        packaged.outcome.require(is_done, f"upgrade in a rollout: {status}, every process is new")
        packaged.outcome.require(packaged.starts() == starts, "the listener runs on with the code that it has loaded")
        packaged.outcome.require(look.rules() == [], "no rule is left")
    packaged.restart_supervisord()


def _remove(packaged: PackagedHost) -> None:
    host, outcome = packaged.host, packaged.outcome
    with packaged.users("rollout and removal"):
        with socket.create_connection(("127.0.0.1", LAST_PORT)):  # the rollout runs until it is aborted
            packaged.in_the_middle()
            text = packaged.say("dpkg", "--remove", "supervisor-rolling")
        outcome.require("aborting the rollout of app" in text, "the rollout is aborted")
        outcome.require(len(packaged.pids()) == PROCESSES, "removal in a rollout: every program runs")
        outcome.require(look.rules() == [], "no rule is left")
        outcome.require(not (host.root / DROP_IN.lstrip("/")).is_symlink(), "the drop-in is gone")
    packaged.restart_supervisord()
    outcome.require("rolling" not in host.run("supervisorctl", "status", check=False), "supervisord starts without it")


def _purge(packaged: PackagedHost, package: str) -> None:
    host, outcome = packaged.host, packaged.outcome
    with packaged.users("reinstallation and purge"), packaged.undisturbed("reinstallation and purge"):
        packaged.say("dpkg", "--install", package)
        outcome.require((host.root / DROP_IN.lstrip("/")).is_symlink(), "a reinstallation brings the drop-in back")
        packaged.say("dpkg", "--purge", "supervisor-rolling")
        left = [path for path in (DROP_IN, *LEFT_BY_NONE) if host.has(path) or (host.root / path[1:]).is_symlink()]
        outcome.require(not left, f"no file is left ({', '.join(left) or 'none'})")
    packaged.restart_supervisord()


if __name__ == "__main__":
    sys.exit(main())
