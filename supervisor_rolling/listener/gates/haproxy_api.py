"""HAProxy's runtime API: reads and changes the servers of one backend over its stats socket.

Each call is one connection, as is HAProxy's default, and has one deadline. Columns are read by their names, so that a
later HAProxy may have more of them.
"""

from __future__ import annotations

import csv
import errno
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from supervisor_rolling.core.errors import GateError, GatePermissionError
from supervisor_rolling.core.text import printable

TIMEOUT = 2.0
"""Seconds for one call; HAProxy answers in a millisecond."""

MAX_COMMANDS = 50
"""In one call: HAProxy reads a line of 16 KiB at most (``tune.bufsize``)."""

DRAIN, MAINT = "drain", "maint"
"""The states of a server that keep requests away: the first all but those of users that it already has."""

_MAINT, _DRAIN, _CLOSED = 0x01, 0x08, 0x3B
"""Bits of srv_admin_state (src: server-t.h): FMAINT and FDRAIN, set by a command; and those with IMAINT, IDRAIN (of a
server that this one tracks) and RMAINT (its name has no address), which come and go beside the command."""


@dataclass(frozen=True)
class Server:
    """A server of the backend."""

    name: str
    address: str
    port: int
    is_closed: bool = False  # gets no new requests, for whatever reason in srv_admin_state
    is_drained: bool = False  # by ``state drain`` alone
    is_in_maintenance: bool = False  # by ``state maint``
    is_up: bool = True  # HAProxy's checks have not found it dead


class ServerLoad(NamedTuple):
    """What one server has to do, or several together."""

    in_flight: int = 0  # requests that it has or that wait for it
    idle: int = 0  # connections to it that wait for the next request
    ever: int = 0  # requests since HAProxy started


class RuntimeApi:
    """One backend of the HAProxy behind this socket. Every method raises GateError, or GatePermissionError where it can
    never work as things are."""

    def __init__(self, path: str, backend: str, timeout: float = TIMEOUT) -> None:
        self.path = path
        self.backend = backend
        self._timeout = timeout

    def require_admin(self) -> None:
        """Raise GatePermissionError where this socket may only be read."""
        level = self._ask("show cli level").strip()
        if level != "admin":
            raise self._not_admin(level)

    def servers(self) -> list[Server]:
        """The servers of the backend, as they are now."""
        text = self._ask(f"show servers state {self.backend}")
        if "Can't find backend" in text:
            there = printable(", ".join(self._ask("show backend").split()[2:])) or "none"
            raise GateError(
                f"HAProxy ({self.path}) has no backend {self.backend!r}, only: {there}. Fix: correct gate.backend_name"
            )
        table = text.strip().splitlines()[1:]  # the first line is the format's version
        return [_server(row) for row in _rows(table, " ") if row.get("srv_name")]

    def traffic(self) -> dict[str, ServerLoad]:
        """What each server of the backend has to do, by name."""
        return {
            row["svname"]: ServerLoad(
                _number(row, "scur") + _number(row, "qcur"), _number(row, "srv_icur"), _number(row, "stot")
            )
            for row in self._statistics("4")
        }

    def persistence(self) -> list[str]:
        """What leads users back to the server that they had: a cookie, with its name, and a stick-table."""
        cookies = [f"cookie {row['cookie']}" for row in self._statistics("2") if row.get("cookie")]
        has_table = f"# table: {self.backend}," in self._ask("show table")
        return [*cookies, "a stick-table"] if has_table else cookies

    def close(self, states: Mapping[str, str]) -> str:
        """Give each server its state, drain or maint. Returns HAProxy's objections."""
        return self._command([self._set(name, state) for name, state in states.items()])

    def ready(self, servers: Sequence[Server]) -> str:
        """Let these servers have new requests again. Returns HAProxy's objections. One that its checks found dead, as
        its process was restarted, goes through maintenance: it would be out for ``rise`` checks more without."""
        dead = [server for server in servers if not server.is_up and server.is_drained]
        return self._command(
            [*(self._set(one.name, MAINT) for one in dead), *(self._set(one.name, "ready") for one in servers)]
        )

    def _set(self, name: str, state: str) -> str:
        return f"set server {self.backend}/{name} state {state}"

    def _command(self, commands: Sequence[str]) -> str:
        parts = [commands[at : at + MAX_COMMANDS] for at in range(0, len(commands), MAX_COMMANDS)]
        lines = [line for part in parts for line in self._ask("; ".join(part)).split("\n") if line.strip()]
        text = "; ".join(dict.fromkeys(map(printable, lines)))
        if "Permission denied" in text:
            raise self._not_admin("lower")
        return text

    def _statistics(self, kind: str) -> list[dict[str, str]]:
        """The rows of ``show stat`` for this backend; ``kind``: 2 the backend itself, 4 its servers."""
        lines = self._ask(f"show stat {self.backend} {kind} -1").strip().splitlines()
        return [row for row in _rows(lines, ",") if row.get("pxname") == self.backend]

    def _not_admin(self, level: str) -> GatePermissionError:
        return GatePermissionError(
            f"HAProxy's socket {self.path} has the level {printable(level)}, so no server can be drained. Fix: `stats "
            f"socket {self.path} level admin` in the global section of haproxy.cfg, then reload HAProxy"
        )

    def _ask(self, command: str) -> str:
        deadline = time.monotonic() + self._timeout
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self._timeout)
                connection.connect(self.path)
                connection.sendall(f"{command}\n".encode())
                return b"".join(_until_closed(connection, deadline)).decode(errors="replace")
        except OSError as error:
            raise self._translated(error) from None

    def _translated(self, error: OSError) -> GateError:
        path = self.path
        if isinstance(error, PermissionError):
            return GatePermissionError(
                f"The listener's user may not open HAProxy's socket {path}. Fix: `stats socket {path} mode 660 group "
                "GROUP level admin`, with a group of that user, in the global section of haproxy.cfg"
            )
        if isinstance(error, FileNotFoundError):
            fix = (
                "start HAProxy; if it is running, correct gate.socket, or write "
                f"`stats socket {path} level admin` in the global section of haproxy.cfg"
            )
            return GateError(f"There is no HAProxy socket {path}. Fix: {fix}")
        if isinstance(error, ConnectionRefusedError):
            return GateError(f"HAProxy is not running: nothing listens on its socket {path}. Fix: start HAProxy")
        if isinstance(error, socket.timeout) or error.errno == errno.EAGAIN:
            text = f"HAProxy did not answer on {path} within {self._timeout:g} s. It will be tried again"
            return GateError(f"{text}. If it stays, restart HAProxy")
        return GateError(f"HAProxy's socket {path}: {error}")


def _until_closed(connection: socket.socket, deadline: float) -> Iterator[bytes]:
    while True:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        data = connection.recv(65536)
        if not data:
            return
        yield data


def _rows(lines: Sequence[str], delimiter: str) -> Iterator[dict[str, str]]:
    """The rows of a table below a header that begins with ``# ``."""
    if lines:
        names = lines[0].lstrip("# ").split(delimiter)
        yield from (dict(zip(names, row)) for row in csv.reader(lines[1:], delimiter=delimiter))


def _server(row: dict[str, str]) -> Server:
    admin = _number(row, "srv_admin_state")
    return Server(
        name=row["srv_name"],
        address=row.get("srv_addr", ""),
        port=_number(row, "srv_port"),
        is_closed=bool(admin & _CLOSED),
        is_drained=bool(admin & _DRAIN) and not admin & _MAINT,
        is_in_maintenance=bool(admin & _MAINT),
        is_up=row.get("srv_op_state") != "0",
    )


def _number(row: dict[str, str], name: str) -> int:
    """0 where the column is empty, or HAProxy has none of this name."""
    text = row.get(name, "")
    return int(text) if text.isdigit() else 0
