"""From apt's supervisor to the first rollout: ``python -m tests.support.two_steps``, as root.

In a clean Debian with the supervisor and the nginx of apt, which run four gunicorns, two commands lead to a
``rolling_check`` without an error, and the third is the rollout: under a load of which no request fails. supervisor's
own supervisorctl works before, between and after. Then the plugin is removed: no rule and no file is left, and the
programs still run. The exit status is 1 where one of these is not so.

The host is made with debootstrap, or is a copy of ``--chroot``. pip gets the variables PIP_* of this environment.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import look, venvs
from tests.support.apt_host import AptHost, bootstrap, copied, temporary_root
from tests.support.load import Load, Plan, Report
from tests.support.waiting import wait_until

SECONDS = 60.0
"""In which the three commands are to be done."""

PROCESSES = 4
INSTALL = (
    "apt-get install -y --no-install-recommends python3-pip python3-iptables python3-requests python3-yaml && "
    "pip install --break-system-packages /root/{package}"
)
UNINSTALL = "pip uninstall -y --break-system-packages supervisor_rolling"
UNINSTALL_DEB = "apt-get purge -y supervisor-rolling"
INSTALL_DEB = "apt-get install -y --no-install-recommends /root/{package}"

PROGRAM = """\
[program:app]
command = /usr/bin/gunicorn --bind 127.0.0.1:%(process_num)d app
directory = /srv/app
process_name = app-%(process_num)d
numprocs = 4
numprocs_start = 8000
user = www-data
"""

APPLICATION = """\
import os

PID = str(os.getpid())

def application(environ, start_response):
    is_known = environ["PATH_INFO"] in ("/", "/health", "/slow")
    start_response("200 OK" if is_known else "404 Not Found", [("X-Pid", PID), ("Content-Length", "5")])
    return [b"fine\\n"]
"""

SITE = """\
upstream app {{
{servers}
}}
server {{
    listen 127.0.0.1:80;
    location / {{ proxy_pass http://app; proxy_set_header Host $host; }}
}}
"""


@dataclass
class Outcome:
    """What was measured, and which promises were not kept."""

    seconds: dict[str, float] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Measure a command."""
        began = time.monotonic()
        yield
        self.seconds[what] = time.monotonic() - began
        print(f"    {self.seconds[what]:.1f} s", flush=True)

    def require(self, is_kept: bool, promise: str) -> None:
        """Note a promise that is not kept."""
        print(f"  {'ok   ' if is_kept else 'NOT  '} {promise}", flush=True)
        if not is_kept:
            self.broken.append(promise)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chroot", type=Path, help="a minimal Debian to copy (default: made with debootstrap)")
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument("--mirror", default="", help="for debootstrap")
    parser.add_argument("--bind", action="append", default=[], help="a directory of this machine that pip needs")
    parser.add_argument("--deb", type=Path, help="the package that make deb made, in place of pip")
    parser.add_argument("--nginx-defaults", action="store_true", help="leave max_fails out: 11 s more for each process")
    options = parser.parse_args(arguments)
    outcome = Outcome()
    with temporary_root() as root, tempfile.TemporaryDirectory() as scratch:
        if options.chroot:
            copied(options.chroot, root)
        else:
            bootstrap(root, options.suite, options.mirror)
        package = options.deb or venvs.wheel(Path(scratch))
        shutil.copy(package, root / "root")
        with AptHost(root, options.bind) as host:
            _prepare(host, "" if options.nginx_defaults else " max_fails=0")
            _install(host, package.name, outcome)
            with Load(Plan("http://127.0.0.1/", rate=40.0), Path(scratch, "load.jsonl")) as load:
                _roll_out(host, outcome)
                _remove(host, UNINSTALL_DEB if options.deb else UNINSTALL, outcome)
                load.wait_more(40)
            _require_no_failure(load.report(), outcome)
            _reload(host, outcome)
    total = sum(outcome.seconds.values())
    outcome.require(total < SECONDS, f"three commands in {total:.1f} s, fewer than {SECONDS:g}")
    print("FAILED: " + "; ".join(outcome.broken) if outcome.broken else "All promises are kept", flush=True)
    return 1 if outcome.broken else 0


def _prepare(host: AptHost, peer: str) -> None:
    """The host as an operator has it who followed a tutorial: apt's supervisor, gunicorn and nginx."""
    print("A clean Debian; apt-get install supervisor nginx gunicorn", flush=True)
    host.run("apt-get", "update", online=True)
    wanted = ["supervisor", "nginx-light", "gunicorn"]
    host.run("apt-get", "install", "-y", "--no-install-recommends", *wanted, online=True)
    host.write("/srv/app/app.py", APPLICATION)
    host.write("/etc/supervisor/conf.d/app.conf", PROGRAM)
    servers = "\n".join(f"    server 127.0.0.1:{8000 + number}{peer};" for number in range(PROCESSES))
    host.write("/etc/nginx/sites-available/default", SITE.format(servers=servers))
    host.run("nginx")
    host.run("supervisord", "-c", "/etc/supervisor/supervisord.conf")
    wait_until(lambda: len(_pids(host)) == PROCESSES, "gunicorn runs", 30.0)


def _install(host: AptHost, package: str, outcome: Outcome) -> None:
    outcome.require(_supervisorctl_works(host), "supervisorctl works before")
    install = (INSTALL_DEB if package.endswith(".deb") else INSTALL).format(package=package)
    print(f"1 $ {install}")
    with outcome.timed("install"):
        host.run("sh", "-c", install, online=True)
    outcome.require(_supervisorctl_works(host), "supervisorctl works between")
    outcome.require(not host.has("/usr/bin/gcc"), "no compiler was needed")
    print("2 $ supervisor_rolling setup --yes --reload")
    with outcome.timed("setup"):
        print(_indented(host.run("supervisor_rolling", "setup", "--yes", "--reload")))
    checked = host.run("supervisorctl", "status") and host.run("supervisor_rolling", "check", "app", check=False)
    outcome.require("error" not in checked and "app: " in checked, "rolling_check has no error")
    print(_indented(checked))


def _roll_out(host: AptHost, outcome: Outcome) -> None:
    before = _pids(host)
    print("3 $ supervisor_rolling restart app")
    with outcome.timed("rollout"):
        print(_indented(host.run("supervisor_rolling", "restart", "app")))
    outcome.require(not before & _pids(host), "every process is new")


def _require_no_failure(report: Report, outcome: Outcome) -> None:
    failed = report.gets_failed + report.posts_failed
    outcome.require(failed == 0, f"{failed} of {report.requests} requests failed ({report.failures or 'none'})")


def _remove(host: AptHost, uninstall: str, outcome: Outcome) -> None:
    before = _pids(host)
    print(f"$ supervisor_rolling setup --remove --yes && {uninstall}")
    print(_indented(host.run("supervisor_rolling", "setup", "--remove", "--yes")))
    host.run(*uninstall.split())
    left = [path for path in ("/etc/supervisor/conf.d/rolling.conf", "/etc/supervisor/rolling.yaml") if host.has(path)]
    outcome.require(not left, "no file of setup is left")
    outcome.require(look.rules() == [], "no rule is left")
    outcome.require(_pids(host) == before, "the programs still run")
    outcome.require(_supervisorctl_works(host), "supervisorctl works after")


def _reload(host: AptHost, outcome: Outcome) -> None:
    before = _pids(host)
    host.run("supervisorctl", "reload")
    _wait(lambda: len(_pids(host)) == PROCESSES and not _pids(host) & before)
    outcome.require("rolling" not in host.run("supervisorctl", "status", check=False), "a reload leaves no trace")


def _wait(true: Callable[[], bool]) -> None:
    wait_until(true, "the programs run again", 30.0, every=0.2)


def _supervisorctl_works(host: AptHost) -> bool:
    return host.run("supervisorctl", "status", check=False).count("RUNNING") >= PROCESSES


def _pids(host: AptHost) -> set[str]:
    """Of the processes that run."""
    rows = [line.split() for line in host.run("supervisorctl", "status", "app:*", check=False).splitlines()]
    return {row[3].rstrip(",") for row in rows if len(row) > 3 and row[1] == "RUNNING"}


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines())


if __name__ == "__main__":
    sys.exit(main())
