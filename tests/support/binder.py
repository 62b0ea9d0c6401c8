"""Compiles ``binder.c``, the fastest server to start, and reads what its processes report of their start.

``binder.compile(directory)`` gives the program; ``with Stamps() as stamps`` opens the UDP port that they report to
(``--stamp stamps.port``). Both have to be in the network namespace in which the processes run. Times are nanoseconds on
CLOCK_MONOTONIC, the clock of ``time.monotonic_ns()``, which all processes share.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

SOURCE = Path(__file__).with_suffix(".c")
OPTIONS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")
COMPILE_WITHIN = 60.0

ROOM = 4 << 20
"""Bytes for unread stamps: those of a thousand processes that start at once must not be dropped."""

LONGEST_STAMP = 200


class BinderError(Exception):
    """It cannot be compiled, or its report did not come in time."""


class Stamp(NamedTuple):
    """``began``: the first line of main(). ``listening``: from here on it can accept."""

    pid: int
    port: int
    began: int
    listening: int


def compile(directory: Path) -> Path:
    """The path of the program in ``directory``; static where there is a static libc. Raises BinderError."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise BinderError("no C compiler: install gcc")
    program = directory / "binder"
    for linking in (["-static"], []):
        command = [compiler, *OPTIONS, *linking, "-o", str(program), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_WITHIN, check=False)
        if done.returncode == 0:
            return program
    raise BinderError(f"{SOURCE} does not compile:\n{done.stderr}")


class Stamps:
    """The reports of the processes, in the order in which they came. For one thread."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.all: list[Stamp] = []

    def __enter__(self) -> Stamps:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def read(self, timeout: float = 0.0) -> list[Stamp]:
        """Those that have come since the last call; waits up to ``timeout`` seconds for the first."""
        found: list[Stamp] = []
        self._socket.settimeout(timeout)
        while True:
            try:
                found.append(_parsed(self._socket.recv(LONGEST_STAMP)))
            except (BlockingIOError, TimeoutError, socket.timeout):
                break
            self._socket.settimeout(0.0)
        self.all += found
        return found

    def wait_for(self, count: int, timeout: float) -> list[Stamp]:
        """The first ``count`` of all; raises BinderError when fewer have come in ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while len(self.all) < count:
            left = deadline - time.monotonic()
            if left <= 0.0:
                raise BinderError(f"{len(self.all)} of {count} processes have started within {timeout:g} s")
            self.read(left)
        return self.all[:count]

    def successor(self, port: int, since: int, timeout: float) -> Stamp:
        """The first process of this port that began after ``since`` (nanoseconds); raises BinderError if none does."""
        deadline = time.monotonic() + timeout
        while True:
            found = [stamp for stamp in self.all if stamp.port == port and stamp.began > since]
            if found:
                return found[0]
            left = deadline - time.monotonic()
            if left <= 0.0:
                raise BinderError(f"port {port}: no new process has bound it within {timeout:g} s")
            self.read(left)


def _parsed(line: bytes) -> Stamp:
    return Stamp(*(int(word) for word in line.split()))
