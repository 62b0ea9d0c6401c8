"""Finds out which programs connect to ports: the ``Clients`` of ``contracts.py``.

The other end of a connection is a socket of this host, with an inode that leads to a process, or of another host.
Without keep-alive a connection lives for milliseconds, so the sockets are listed again and again for half a second, and
first the processes that are known load balancers are searched for them. The configuration with which such a process was
started is read, too: it may name a port that gets no requests just now.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from supervisor_rolling.core.connections import peer_of
from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.core.port_use import Client
from supervisor_rolling.core.proxy_config import NGINX, PROGRAMS
from supervisor_rolling.listener.system.lookups import Lookups
from supervisor_rolling.listener.system.own_addresses import is_own
from supervisor_rolling.listener.system.procfs import (
    all_pids,
    has_ended,
    name_of,
    own_inodes,
    parent_of,
    program_of,
)
from supervisor_rolling.listener.system.sock_diag import CLOSE_WAIT, ESTABLISHED, TcpSocket, tcp_sockets

log = logging.getLogger("supervisor_rolling")

GLANCES, EVERY = 25, 0.02
"""How often the sockets are listed, and the seconds between: 40 requests a second of 5 ms each are seen five times."""

LOOKUP_TIMEOUT = 10.0
"""Seconds for a whole lookup. Far more than it takes; a file on a dead network disk may hang for ever."""

MAX_SCANS = 5
"""Of all processes in one lookup: each reads the open files of all, which takes 10 ms where there are 200. So only for
connections that last from one glance to the next; the short ones are looked for among the load balancers only."""

MAX_BYTES = 1 << 20
MAX_FILES = 200
MAX_WILDCARDS = 2
"""Directories and names with a wildcard in one path: ``/*/*/*/*/*`` is all of the disk and of /proc, and any user can
start a program that is called as a load balancer."""

_OPEN = (ESTABLISHED, CLOSE_WAIT)
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)

Clients = Sequence[Client]


class ConnectedClients:
    """``on_change`` is called, from a thread, when a lookup is over; ``clock``: CLOCK_MONOTONIC."""

    def __init__(self, clock: Callable[[], float], on_change: Callable[[], None] = lambda: None) -> None:
        self._lookups: Lookups[Clients] = Lookups("clients", _unknown, LOOKUP_TIMEOUT, clock, on_change)

    def find(self, group: str, ports: Collection[int], since: float) -> Clients | None:
        return self._lookups.fresh(group, since, lambda: _found(ports))

    def last_found(self, group: str) -> Clients | None:
        return self._lookups.last(group)

    def program_of(self, peer: str, port: int) -> str:
        with contextlib.suppress(SocketsError):
            sockets = tcp_sockets(_OPEN, [port], of_clients=True)
            inodes = {one.inode for one in sockets if peer_of(one.address, one.port) == peer}
            for pid in all_pids() if inodes else ():
                if inodes & _inodes(pid):
                    return _program_name(pid)
        return ""


def _found(ports: Collection[int]) -> Clients:
    try:
        return clients_of(ports)
    except SocketsError as error:
        return _unknown(str(error))


def _unknown(why: str) -> Clients:
    log.warning("what connects to the group is not known: %s", why, extra={"code": "sockets"})
    return ()


def clients_of(ports: Collection[int], glances: int = GLANCES) -> Clients:
    """What is connected to these ports at any of so many glances, and the load balancers of this host, connected or
    not. Raises SocketsError where the kernel does not tell."""
    seen = _Seen(dict(_balancers()))
    until = time.monotonic() + LOOKUP_TIMEOUT / 2
    for _ in range(glances if ports else 0):
        seen.glance(ports)
        if time.monotonic() >= until:
            break
        time.sleep(EVERY)
    return [*seen.local(dict(_balancers())), *seen.remote.values()]


class _Seen:
    """What a series of glances has seen. ``known``: the load balancers of this host, by pid."""

    def __init__(self, known: Mapping[int, str]) -> None:
        self.remote: dict[str, Client] = {}
        self._known = known
        self._connected: dict[int, str] = {}  # pid: the address of the other end, as the process has it
        self._ownerless: dict[int, str] = {}  # likewise, by the inode of a socket without a known process
        self._before: set[int] = set()  # those of the last glance
        self._resolved: set[int] = set()
        self._scans = 0

    def glance(self, ports: Collection[int]) -> None:
        """See what is connected now."""
        peers = {one.peer_address for one in tcp_sockets(_OPEN, ports)} - self.remote.keys()
        far = {address: Client("", address=address, is_local=False) for address in peers if not is_own(address)}
        self.remote.update(far)
        if peers - far.keys():
            self._resolve({one.inode: one for one in tcp_sockets(_OPEN, ports, of_clients=True) if one.inode})

    def local(self, now: Mapping[int, str]) -> Iterator[Client]:
        """One for each program and configuration. ``now``: the load balancers at the end. A reload may have started
        some, and have ended others, with a configuration that cannot be read any more."""
        known = {**self._known, **now}
        found: dict[tuple[object, ...], Client] = {}
        for pid, address in {**dict.fromkeys(known, ""), **self._connected}.items():
            name = known.get(pid) or name_of(pid)
            files = configuration_of(name, pid) if pid in known else ()
            if pid in known and not files and has_ended(pid):
                continue
            one = Client(name, pid, address, files=files)
            if not found.setdefault((name, files), one).address:
                found[name, files] = one
        yield from found.values()
        if self._ownerless and not self._connected:
            yield Client("", address=min(self._ownerless.values()))

    def _resolve(self, sockets: Mapping[int, TcpSocket]) -> None:
        """Find the processes that hold these sockets: load balancers first, for their connections may last for only a
        millisecond."""
        new = {inode: one for inode, one in sockets.items() if inode not in self._resolved}
        self._search([os.getpid(), *self._known], new)
        lasting = {inode: one for inode, one in new.items() if inode in self._before}
        if lasting and self._scans < MAX_SCANS:
            self._scans += 1
            self._search([pid for pid in all_pids() if pid not in self._known], lasting)
        self._before = set(new)
        self._ownerless.update({inode: one.address for inode, one in new.items()})
        self._ownerless = {i: address for i, address in self._ownerless.items() if i not in self._resolved}

    def _search(self, pids: Iterable[int], new: dict[int, TcpSocket]) -> None:
        """Take those of these sockets that the processes hold; our own connections are no client's."""
        for pid in pids:
            for inode in _inodes(pid) & new.keys() if new else ():
                self._resolved.add(inode)
                one = new.pop(inode)
                if pid != os.getpid():
                    self._connected.setdefault(pid, one.address)


def _inodes(pid: int) -> frozenset[int]:
    try:
        return own_inodes(pid)
    except SocketsError:
        return frozenset()


def _balancers() -> Iterator[tuple[int, str]]:
    """The load balancers in this network namespace, by pid."""
    own = _link("/proc/self/ns/net")
    for pid in all_pids():
        name = _program_name(pid)
        if name in PROGRAMS and _link(f"/proc/{pid}/ns/net") == own:
            yield pid, name


def _program_name(pid: int) -> str:
    """That of its file, where it is known to be a load balancer; else what the kernel calls the process."""
    name = program_of(pid)
    return name if name in PROGRAMS else name_of(pid)


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except _GONE:
        return ""


# --- configurations


_INCLUDES = {
    "apache2": re.compile(r"^\s*Include(?:Optional)?\s+\"?([^\s\"]+)", re.MULTILINE | re.IGNORECASE),
    "caddy": re.compile(r"^\s*import\s+(\S*[/.*]\S*)", re.MULTILINE),
    "varnishd": re.compile(r"^\s*include\s+\"([^\"]+)\"", re.MULTILINE),
}
_INCLUDES["httpd"] = _INCLUDES["apache2"]
_BASES = {"varnishd": "/etc/varnish", "apache2": "/etc/apache2", "httpd": "/etc/httpd"}
_MASTER = "nginx: master process "


def configuration_of(name: str, pid: int) -> tuple[tuple[str, str], ...]:
    """The path and text of each file that a load balancer was started with, as far as they can be read."""
    arguments = _nginx_command(pid) if name in NGINX else _command(pid)
    root = "" if _link(f"/proc/{pid}/ns/mnt") == _link("/proc/self/ns/mnt") else f"/proc/{pid}/root"
    if root and name in NGINX:  # the operator is to write its path, and this is not a path of this host
        return ()
    base = _BASES.get(name) or _link(f"/proc/{pid}/cwd") or "/"
    if name in ("apache2", "httpd"):  # for others -d is debugging
        base = (_values(arguments, "-d") or [base])[0]
    files: dict[str, str] = {}
    for path in _main_files(name, arguments):
        _read_into(files, name, os.path.join(base, path), root, base)
    return tuple(files.items())


def _main_files(name: str, arguments: Sequence[str]) -> list[str]:
    if name in ("haproxy", "varnishd"):
        return _values(arguments, "-f")
    if name == "caddy":
        return _values(arguments, "--config", "-config", "-c") or ["Caddyfile"]
    if name in ("apache2", "httpd"):
        return _values(arguments, "-f") or ["apache2.conf" if name == "apache2" else "conf/httpd.conf"]
    if name in NGINX:
        prefix = _values(arguments, "-p")[-1:]  # else a relative path is one in a directory that is compiled in
        return [os.path.join(*prefix, one) for one in _values(arguments, "-c")[-1:] if prefix or os.path.isabs(one)]
    return []


def _values(arguments: Sequence[str], *options: str) -> list[str]:
    """The values of an option, written as two arguments, or with =."""
    pairs = [value for option, value in zip(arguments, arguments[1:]) if option in options]
    return pairs + [one.partition("=")[2] for one in arguments if "=" in one and one.partition("=")[0] in options]


def _read_into(files: dict[str, str], name: str, path: str, root: str, base: str) -> None:
    """A file or all of a directory, and what they include."""
    pattern = os.path.join(path, "*.cfg") if os.path.isdir(root + path) else path
    if sum(map(glob.has_magic, pattern.split("/"))) > MAX_WILDCARDS:
        return
    for found in sorted(glob.glob(root + pattern)):
        known = found.removeprefix(root)
        if known in files or len(files) >= MAX_FILES or not os.path.isfile(found):
            continue
        with contextlib.suppress(OSError), open(found, encoding="utf-8", errors="replace") as file:
            files[known] = file.read(MAX_BYTES)
        near = os.path.dirname(known) if name == "caddy" else base
        for include in _INCLUDES[name].findall(files.get(known, "")) if name in _INCLUDES else ():
            _read_into(files, name, os.path.join(near, include), root, base)


def _nginx_command(pid: int) -> list[str]:
    """The arguments of nginx, which its master process shows in its title, and no worker."""
    with contextlib.suppress(OSError):
        for title in (" ".join(_command(one)[:1]) for one in (pid, parent_of(pid))):
            if title.startswith(_MASTER):
                return title.removeprefix(_MASTER).split()
        return _command(pid)
    return []


def _command(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as command:
            return command.read(65536).decode(errors="replace").rstrip("\0").split("\0")
    except _GONE:
        return []
