"""Another host: a network namespace beside the one that this process is in, joined with it by a cable (veth).

``with Host() as balancer:`` makes and removes it; ``with balancer.there():`` puts the calling thread there, and
whatever is started or connected in that block: files, pids and supervisord's socket stay those of this machine. Both
ends have an IPv4 and an IPv6 address; ``home`` are those of this side.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

from tests.support.netns import CLONE_NEWNET, bring_up, require

OWN = "/proc/thread-self/ns/net"

_numbers = itertools.count(1)


class Addresses(NamedTuple):
    """Of one end of a cable."""

    v4: str
    v6: str


class Host:
    """See the module. Raises NoNamespaceError if the kernel or the rights do not allow it."""

    def __init__(self) -> None:
        number = next(_numbers)
        self.home = Addresses(f"10.71.{number}.1", f"fd71:{number}::1")
        self.away = Addresses(f"10.71.{number}.2", f"fd71:{number}::2")
        self._ends = (f"lab{number}", f"far{number}")
        self._namespace = -1

    def __enter__(self) -> Host:
        with _coming_back():
            require(_libc().unshare(CLONE_NEWNET))
            self._namespace = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._join()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """The namespace lives on as long as a process does that was started there; the cable does not."""
        subprocess.run(["ip", "link", "del", self._ends[0]], capture_output=True, check=False)
        os.close(self._namespace)

    @property
    def path(self) -> str:
        """Of the namespace, for programs such as nsenter, while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self._namespace}"

    @contextlib.contextmanager
    def there(self) -> Iterator[None]:
        """The calling thread is on the other host while the block lasts."""
        with _coming_back():
            require(_libc().setns(self._namespace, CLONE_NEWNET))
            yield

    def _join(self) -> None:
        here, far = self._ends
        _ip("link", "add", here, "type", "veth", "peer", "name", far, "netns", self.path)
        _plug(here, self.home)
        with self.there():
            bring_up("lo")
            _plug(far, self.away)


@contextlib.contextmanager
def _coming_back() -> Iterator[None]:
    before = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        require(_libc().setns(before, CLONE_NEWNET))
        os.close(before)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _plug(end: str, addresses: Addresses) -> None:
    _ip("address", "add", f"{addresses.v4}/24", "dev", end)
    # nodad: without it an address cannot be bound for the second in which the kernel asks whether another has it.
    _ip("address", "add", f"{addresses.v6}/64", "dev", end, "nodad")
    _ip("link", "set", end, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
