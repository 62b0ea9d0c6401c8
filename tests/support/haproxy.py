"""HAProxy in a stack, in nginx's place: ``Setup(balancer="haproxy")``, with conf/haproxy.cfg and these servers.

It runs with a master, as Debian's service has it, so that it can be reloaded. What users copy is what is tested: paths,
ports and the list of servers alone are other than in the example.
"""

from __future__ import annotations

import csv
import os
import re
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.stack import Setup, Stack

EXAMPLE = Path(__file__).resolve().parents[2] / "conf" / "haproxy.cfg"
BACKEND = "app"
ANSWERS_WITHIN = 5.0  # seconds


def conf(directory: Path) -> Path:
    return directory / "haproxy.cfg"


def admin_socket(directory: Path) -> Path:
    return directory / "admin.sock"


def gate(directory: object) -> dict[str, str]:
    """The gate of rolling.yaml for the HAProxy in this directory."""
    return {"backend": "haproxy", "socket": f"{directory}/admin.sock", "backend_name": BACKEND}


def command(directory: Path) -> list[str]:
    return ["haproxy", "-W", "-f", str(conf(directory))]


def text(directory: Path, setup: Setup) -> str:
    """The example with the paths and servers of a stack; ``setup.upstream`` is put before the servers."""
    found = EXAMPLE.read_text(encoding="utf-8")
    for pattern, instead in [
        (r"stats socket \S+ mode 660 group haproxy", f"stats socket {admin_socket(directory)} mode 666"),
        (r"    (user|group|log|chroot) .*\n", ""),
        (r"bind :80\b", f"bind 127.0.0.1:{setup.nginx_port}"),
        (r"    server app-.*\n", ""),
    ]:
        found, times = re.subn(pattern, instead, found)
        assert times, f"{pattern} stands nowhere in {EXAMPLE}"
    servers = [f"    server app-{port} 127.0.0.1:{port}" for port in setup.ports]
    return "\n".join([found.rstrip("\n"), f"    {setup.upstream}", *servers, ""])


def ask(stack: Stack, action: str) -> str:
    """What HAProxy answers to a line on its admin socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWERS_WITHIN)
        connection.connect(str(admin_socket(stack.directory)))
        connection.sendall(f"{action}\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def states(stack: Stack) -> dict[str, int]:
    """srv_admin_state of each server, by name: 0 ready, 8 drained, 1 in maintenance."""
    rows = [line.split() for line in ask(stack, f"show servers state {BACKEND}").splitlines()[2:] if line.strip()]
    return {row[3]: int(row[6]) for row in rows}


def statistics(stack: Stack) -> dict[str, dict[str, str]]:
    """What ``show stat`` says of each server, by name."""
    rows = csv.DictReader(ask(stack, f"show stat {BACKEND} 4 -1").lstrip("# ").strip().splitlines())
    return {row["svname"]: row for row in rows}


def worker(stack: Stack) -> str:
    """The pid of the process that serves now."""
    return ask(stack, "show info").partition("\nPid: ")[2].split()[0]


def reload(stack: Stack) -> None:
    """As ``systemctl reload`` does; until the new process answers."""
    before = worker(stack)
    os.kill(stack.nginx_pid, signal.SIGUSR2)
    stack.wait_until(lambda: _serves_anew(stack, before), 10.0, "HAProxy is reloaded")


def _serves_anew(stack: Stack, before: str) -> bool:
    try:
        return worker(stack) != before
    except OSError:
        return False
