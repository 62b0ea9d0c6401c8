"""What the tests of a gate connect to: ports that listen, connections to them, a clock that stands still."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack

LOOPBACKS = ["127.0.0.1", "::1"]
LEGACY = ("iptables-legacy", "ip6tables-legacy")  # in the same order


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def nft_tables() -> list[str]:
    """The names of the tables of nftables."""
    listed = json.loads(run("nft", "-j", "list", "tables"))["nftables"]
    return [one["table"]["name"] for one in listed if "table" in one]


def flush() -> None:
    """Remove all firewall rules."""
    for command in LEGACY:
        for table in ("filter", "nat"):
            for action in ("-F", "-X"):
                run(command, "-w", "-t", table, action)
    run("nft", "flush", "ruleset")


def listen(keep: ExitStack, address: str) -> tuple[socket.socket, int]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = keep.enter_context(socket.create_server((address, 0), family=family, backlog=512))
    return server, server.getsockname()[1]


def listen_on_both(keep: ExitStack) -> int:
    """A port that is open on both loopback addresses."""
    server = keep.enter_context(
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
    )
    return int(server.getsockname()[1])


def connect(address: str, port: int, mark: int = 0, source: str = "") -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        sock.settimeout(2)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        if source:
            sock.bind((source, 0))
        sock.connect((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def is_open(address: str, port: int, mark: int = 0, source: str = "") -> bool:
    """Whether a new connection is accepted; anything but a refusal (a time-out, say) is an error."""
    try:
        connect(address, port, mark, source).close()
    except ConnectionRefusedError:
        return False
    return True


def open_addresses(port: int) -> list[str]:
    return [address for address in LOOPBACKS if is_open(address, port)]


def iter_bytes(sock: socket.socket, selected: int) -> Iterator[bytes]:
    sock.settimeout(2)
    while selected > 0:
        part = sock.recv(min(65536, selected))
        assert part, "the connection ended early"
        selected -= len(part)
        yield part


def fail_with(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail
