"""HAProxy's runtime API: what its stats socket is asked and told, and what it answers.

Each call is a connection of its own, as HAProxy has it by default, and has a deadline for all of it. Answers are read
by the names in their headers, so that a later HAProxy may have more columns.
"""

from __future__ import annotations

import csv
import errno
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from supervisor_rolling.core.errors import GateError, GatePermissionError
from supervisor_rolling.core.text import printable

TIMEOUT = 2.0
"""Seconds for one call. HAProxy answers in a millisecond; this much means that it stands still."""

AT_ONCE = 50
"""Orders in one call: HAProxy reads a line of 16 KiB at most, its ``tune.bufsize``."""

DRAIN, MAINT = "drain", "maint"
"""The states of a server that keep requests away: the first all but those of users that it has already."""

_MAINT, _DRAIN, _CLOSED = 0x01, 0x08, 0x01 | 0x02 | 0x08 | 0x10 | 0x20
"""Of srv_admin_state (src: server-t.h): FMAINT and FDRAIN, which somebody has said; and FMAINT, IMAINT, FDRAIN, IDRAIN,
RMAINT, each of which keeps new requests away. IMAINT and IDRAIN are those of a server that it tracks, RMAINT is that
its name has no address: they come and go beside what was said."""

_DENIED, _NO_BACKEND = "Permission denied", "Can't find backend"


@dataclass(frozen=True)
class Server:
    """A server of the backend. ``is_closed``: it gets no new requests because of a command; ``is_in_maintenance``: by
    ``state maint``; ``is_drained``: by ``state drain`` alone; ``is_up``: HAProxy does not take it for dead."""

    name: str
    address: str
    port: int
    is_closed: bool = False
    is_drained: bool = False
    is_in_maintenance: bool = False
    is_up: bool = True


@dataclass(frozen=True)
class Traffic:
    """``in_flight``: requests that a server has or that wait for it; ``idle``: connections to it that wait for the
    next request; ``ever``: requests that it has had since HAProxy started."""

    in_flight: int
    idle: int
    ever: int = 0


class RuntimeApi:
    """One backend of the HAProxy behind this socket. Every method raises GateError, GatePermissionError where it can
    never work as things are."""

    def __init__(self, path: str, backend: str, timeout: float = TIMEOUT) -> None:
        self.path = path
        self.backend = backend
        self._timeout = timeout

    def require_admin(self) -> None:
        """Raise GatePermissionError where this socket may only be asked."""
        level = self._ask("show cli level").strip()
        if level != "admin":
            raise self._not_admin(level)

    def servers(self) -> list[Server]:
        """The servers of the backend, as they are now."""
        text = self._ask(f"show servers state {self.backend}")
        if _NO_BACKEND in text:
            there = printable(", ".join(self._ask("show backend").split()[2:])) or "none"
            raise GateError(
                f"HAProxy ({self.path}) has no backend {self.backend!r}; mend gate.backend_name. It has: {there}"
            )
        lines = [line for line in text.splitlines() if line.strip()][1:]  # the first is the format's version
        return [_server(row) for row in _rows(lines, " ") if row.get("srv_name")]

    def traffic(self) -> dict[str, Traffic]:
        """What each server of the backend has to do, by name."""
        lines = [line for line in self._ask(f"show stat {self.backend} 4 -1").splitlines() if line.strip()]
        return {
            row["svname"]: Traffic(
                _number(row, "scur") + _number(row, "qcur"), _number(row, "srv_icur"), _number(row, "stot")
            )
            for row in _rows(lines, ",")
            if row.get("pxname") == self.backend
        }

    def cookie(self) -> str:
        """The cookie by which a client comes back to the server that it had; empty where there is none."""
        lines = [line for line in self._ask(f"show stat {self.backend} 2 -1").splitlines() if line.strip()]
        return next((row.get("cookie", "") for row in _rows(lines, ",") if row.get("pxname") == self.backend), "")

    def has_stick_table(self) -> bool:
        """Whether the backend has a table of who had which server."""
        return f"# table: {self.backend}," in self._ask("show table")

    def close(self, states: Mapping[str, str]) -> str:
        """Give each of these servers a state that keeps requests away. What HAProxy has to say against it."""
        return self._order([self._set(name, state) for name, state in states.items()])

    def ready(self, servers: Sequence[Server]) -> str:
        """New requests for these servers again. One that HAProxy's checks took for dead, because its process was
        restarted, goes through maintenance: it comes out of that alive, and would else stay out for ``rise`` checks
        more. What HAProxy has to say against it."""
        dead = [server.name for server in servers if not server.is_up and server.is_drained]
        revived = [self._set(name, MAINT) for name in dead]
        return self._order([*revived, *(self._set(server.name, "ready") for server in servers)])

    def _set(self, name: str, state: str) -> str:
        return f"set server {self.backend}/{name} state {state}"

    def _order(self, commands: Sequence[str]) -> str:
        said = [self._ask("; ".join(commands[at : at + AT_ONCE])) for at in range(0, len(commands), AT_ONCE)]
        lines = [printable(line) for answer in said for line in answer.split("\n") if line.strip()]
        text = "; ".join(dict.fromkeys(lines))
        if _DENIED in text:
            raise self._not_admin("lower")
        return text

    def _not_admin(self, level: str) -> GatePermissionError:
        return GatePermissionError(
            f"HAProxy's socket {self.path} is of level {printable(level)}, so no server can be drained: say `stats "
            f"socket {self.path} level admin` in the global section of haproxy.cfg, and reload HAProxy"
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
        if isinstance(error, PermissionError):
            return GatePermissionError(
                f"HAProxy's socket {self.path} may not be opened by the user of this listener: say `stats socket "
                f"{self.path} mode 660 group GROUP level admin`, with a group of that user, in the global section of "
                "haproxy.cfg"
            )
        if isinstance(error, FileNotFoundError):
            return GateError(
                f"HAProxy has no socket {self.path}: mend gate.socket, or say `stats socket {self.path} level admin` "
                "in the global section of haproxy.cfg"
            )
        if isinstance(error, ConnectionRefusedError):
            return GateError(f"HAProxy does not run: nobody listens on its socket {self.path}")
        if isinstance(error, socket.timeout) or error.errno == errno.EAGAIN:
            return GateError(f"HAProxy did not answer on {self.path} within {self._timeout:g} s")
        return GateError(f"HAProxy's socket {self.path}: {error}")


def _until_closed(connection: socket.socket, deadline: float) -> Iterator[bytes]:
    while True:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        data = connection.recv(65536)
        if not data:
            return
        yield data


def _rows(lines: Sequence[str], delimiter: str) -> Iterator[dict[str, str]]:
    """The rows of a table whose header begins with ``# ``."""
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
