"""Finds out which programs connect to ports: the ``Clients`` of ``contracts.py``.

The other end of a connection is a socket of this host, whose inode leads to a process, or of another host. Without
keep-alive a connection lives for milliseconds, so a thread looks again and again for half a second, and first among the
processes that are known load balancers. What such a process was told to read as its configuration is read, too: it
may name a port that no request goes to just now.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from supervisor_rolling.core.errors import SocketsError
from supervisor_rolling.core.peers import peer_of
from supervisor_rolling.core.port_use import Client
from supervisor_rolling.core.proxy_config import NGINX, PROGRAMS
from supervisor_rolling.listener.system.own_addresses import is_own
from supervisor_rolling.listener.system.procfs import all_pids, name_of, own_inodes, parent_of, program_of
from supervisor_rolling.listener.system.sock_diag import CLOSE_WAIT, ESTABLISHED, TcpSocket, tcp_sockets
from supervisor_rolling.listener.system.threads import at_usual_priority

log = logging.getLogger("supervisor_rolling")

GLANCES = 25
LOOK_EVERY = 0.02
"""Seconds between two glances of a look: 40 requests a second of 5 ms each are seen five times in half a second."""

MAX_SCANS = 5
"""Of all processes in one look: each reads the open files of all, which takes 10 ms where there are 200. So only for
connections that last from one glance to the next; the short ones are looked for among the load balancers alone."""

MAX_BYTES = 1 << 20
MAX_FILES = 200
MAX_WILDCARDS = 2
"""Directories and names with a wildcard in one path: ``/*/*/*/*/*`` is all of the disk and of /proc, and any user can
start a program that is called as a load balancer."""

_OPEN = (ESTABLISHED, CLOSE_WAIT)
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)

Found = Sequence[Client]


class ConnectedClients:
    """``on_change`` is called, from a thread, when a look is over; ``clock``: CLOCK_MONOTONIC."""

    def __init__(self, clock: Callable[[], float], on_change: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._on_change = on_change
        self._looks: dict[str, _Look] = {}
        self._found: dict[str, Found] = {}

    def look(self, group: str, ports: Collection[int], since: float) -> Found | None:
        """See ``Clients.look``."""
        self.last(group)  # kept while the next look is not over
        look = self._looks.get(group)
        if look is None or (look.found is not None and look.began < since):
            look = self._looks[group] = _Look(frozenset(ports), self._clock(), self._on_change)
        return look.found

    def last(self, group: str) -> Found | None:
        """See ``Clients.last``."""
        look = self._looks.get(group)
        if look is not None and look.found is not None:
            self._found[group] = look.found
        return self._found.get(group)

    def program_of(self, peer: str, port: int) -> str:
        """See ``Clients.program_of``."""
        with contextlib.suppress(SocketsError):
            open_ones = tcp_sockets(_OPEN, [port], of_clients=True)
            inodes = {one.inode for one in open_ones if peer_of(one.address, one.port) == peer}
            for pid in all_pids() if inodes else ():
                if inodes & _inodes(pid):
                    return _program_name(pid)
        return ""


class _Look(threading.Thread):
    """One look. ``found`` is None until it is over."""

    def __init__(self, ports: Collection[int], began: float, on_change: Callable[[], None]) -> None:
        super().__init__(name="looks for clients", daemon=True)
        self.began = began
        self.found: Found | None = None
        self._ports = ports
        self._on_change = on_change
        self.start()

    def run(self) -> None:
        """Whatever happens, ``found`` is set: a rollout waits for it."""
        at_usual_priority()
        try:
            self.found = clients_of(self._ports)
        except SocketsError as error:
            log.warning("cannot see what connects to the group: %s", error)
            self.found = ()
        except Exception:  # a thread has no caller to raise to
            log.exception("a defect of supervisor_rolling; what connects to the group is not known")
            self.found = ()
        self._on_change()


def clients_of(ports: Collection[int], glances: int = GLANCES) -> Found:
    """What is connected to these ports at any of so many glances, and the load balancers of this host, connected or
    not. Raises SocketsError where the kernel does not tell."""
    known = dict(_balancers())
    guarded_groups = _Watched(known)
    for _ in range(glances if ports else 0):
        guarded_groups.look(ports)
        time.sleep(LOOK_EVERY)
    return [*guarded_groups.local(), *guarded_groups.remote.values()]


@dataclass
class _Watched:
    """What a series of looks has seen. ``known``: the load balancers of this host, by pid."""

    known: Mapping[int, str]

    def __post_init__(self) -> None:
        self.remote: dict[str, Client] = {}
        self._connected: dict[int, str] = {}  # pid: the address of the other end, as the process has it
        self._unseen: dict[int, str] = {}  # likewise, by the inode of a socket that no process was found to hold
        self._before: set[int] = set()  # those of the last glance
        self._resolved: set[int] = set()
        self._scans = 0

    def look(self, ports: Collection[int]) -> None:
        """See what is connected now."""
        peers = {one.peer_address for one in tcp_sockets(_OPEN, ports)}
        for address in peers - self.remote.keys():
            if not is_own(address):
                self.remote[address] = Client("", address=address, is_local=False)
        if peers - self.remote.keys():
            self._resolve({one.inode: one for one in tcp_sockets(_OPEN, ports, of_clients=True) if one.inode})

    def local(self) -> Iterator[Client]:
        """One for each program and configuration."""
        pids = {**dict.fromkeys(self.known, ""), **self._connected}
        found: dict[tuple[object, ...], Client] = {}
        for pid, address in pids.items():
            name = self.known.get(pid) or name_of(pid)
            files = configuration_of(name, pid) if pid in self.known else ()
            one = Client(name, pid, address, files=files)
            kept = found.setdefault((name, files), one)
            if address and not kept.address:
                found[name, files] = one
        yield from found.values()
        if self._unseen and not self._connected:
            yield Client("", address=min(self._unseen.values()))

    def _resolve(self, sockets: Mapping[int, TcpSocket]) -> None:
        """Find the processes that hold these sockets: load balancers first, for their connections may last for only a
        millisecond."""
        new = {inode: one for inode, one in sockets.items() if inode not in self._resolved}
        self._find([os.getpid(), *self.known], new)
        lasting = {inode: one for inode, one in new.items() if inode in self._before}
        if lasting and self._scans < MAX_SCANS:
            self._scans += 1
            self._find([pid for pid in all_pids() if pid not in self.known], lasting)
        self._before = set(new)
        left = {**self._unseen, **{inode: one.address for inode, one in new.items()}}
        self._unseen = {inode: address for inode, address in left.items() if inode not in self._resolved}

    def _find(self, pids: Iterable[int], new: dict[int, TcpSocket]) -> None:
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
_MASTER = "nginx: master process "
_INCLUDES["httpd"] = _INCLUDES["apache2"]


def configuration_of(name: str, pid: int) -> tuple[tuple[str, str], ...]:
    """The path and text of each file that a load balancer was started with, as far as they can be read."""
    arguments = _nginx_command(pid) if name in NGINX else _command(pid)
    root = "" if _link(f"/proc/{pid}/ns/mnt") == _link("/proc/self/ns/mnt") else f"/proc/{pid}/root"
    if root and name in NGINX:  # the path is for the operator to name, and is none of ours
        return ()
    place = _link(f"/proc/{pid}/cwd") or "/"
    files: dict[str, str] = {}
    for path in _started_with(name, arguments):
        base = {"varnishd": "/etc/varnish", "apache2": "/etc/apache2", "httpd": "/etc/httpd"}.get(name, place)
        if name in ("apache2", "httpd"):  # to others -d says that they debug
            base = (_given(arguments, "-d") or [base])[0]
        _read_into(files, name, os.path.join(base, path), root, base)
    return tuple(files.items())


def _started_with(name: str, arguments: Sequence[str]) -> list[str]:
    if name in ("haproxy", "varnishd"):
        return _given(arguments, "-f")
    if name == "caddy":
        return _given(arguments, "--config", "-config", "-c") or ["Caddyfile"]
    if name in ("apache2", "httpd"):
        return _given(arguments, "-f") or ["apache2.conf" if name == "apache2" else "conf/httpd.conf"]
    if name in NGINX:
        prefix = _given(arguments, "-p")[-1:]  # else a relative path is one in a directory that nginx was compiled with
        return [os.path.join(*prefix, one) for one in _given(arguments, "-c")[-1:] if prefix or os.path.isabs(one)]
    return []


def _given(arguments: Sequence[str], *options: str) -> list[str]:
    """The values of an option, written as two arguments, with =, or in one."""
    pairs = [value for option, value in zip(arguments, arguments[1:]) if option in options]
    joined = [one.partition("=")[2] for one in arguments if one.partition("=")[0] in options and "=" in one]
    return [*pairs, *joined]


def _read_into(files: dict[str, str], name: str, path: str, root: str, base: str) -> None:
    """A file or all of a directory, and what they include."""
    selected = os.path.join(path, "*.cfg") if os.path.isdir(root + path) else path
    if sum(map(glob.has_magic, selected.split("/"))) > MAX_WILDCARDS:
        return
    for found in sorted(glob.glob(root + selected)):
        known = found.removeprefix(root)
        if known in files or len(files) >= MAX_FILES or not os.path.isfile(found):
            continue
        with contextlib.suppress(OSError), open(found, encoding="utf-8", errors="replace") as file:
            files[known] = file.read(MAX_BYTES)
        near = os.path.dirname(known) if name == "caddy" else base
        for include in _INCLUDES[name].findall(files.get(known, "")) if name in _INCLUDES else ():
            _read_into(files, name, os.path.join(near, include), root, base)


def _nginx_command(pid: int) -> list[str]:
    """The arguments of nginx, which its master process has behind its title, and no worker."""
    with contextlib.suppress(OSError):
        titles = (" ".join(_command(one)[:1]) for one in (pid, parent_of(pid)))
        return next(
            (title.removeprefix(_MASTER).split() for title in titles if title.startswith(_MASTER)), _command(pid)
        )
    return []


def _command(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as command:
            return command.read(65536).decode(errors="replace").rstrip("\0").split("\0")
    except _GONE:
        return []
