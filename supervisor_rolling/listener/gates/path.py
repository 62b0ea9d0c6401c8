"""The ``Gate`` that closes unix sockets, by their names in the file system: no firewall sees them.

A closed socket is moved to a hidden name beside its public one, and a placeholder takes its place: a socket of that
name on which nothing listens (``system/socket_paths.py``). A new connection is refused at once; those that exist are
not touched. The public name never goes away: gunicorn fails at its stop where its socket has none.

Beyond the contract of ``Gate``:

* A new process removes what has its name and binds its socket there, so it would be open. inotify tells of it, and it
  is moved away after 0.1 to 0.2 ms: with 25 new connections a second to the socket, a client was faster in 1 to 5 of
  1000 restarts. Where the public name is a symbolic link to the name that the process binds, no client ever is.
* A name is kept for ever. So each is written to a state file before it is closed: a new listener finds there what the
  last one closed, and opens what is not to be closed any more.
* What a process has bound or removed itself since is never replaced by what was closed before.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from supervisor_rolling import file_trust
from supervisor_rolling.core.endpoint import UNIX, Endpoint, unix
from supervisor_rolling.core.errors import GateError, PartlyClosedError
from supervisor_rolling.core.preflight_report import Finding, Severity
from supervisor_rolling.listener.gates.state_file import StateFile
from supervisor_rolling.listener.system import socket_paths
from supervisor_rolling.listener.system.inotify import NewNames
from supervisor_rolling.listener.system.rename import exchange
from supervisor_rolling.listener.system.unix_diag import unix_sockets

CLOSED = "closed"
"""The state of each path in the state file."""


class PathGate:
    """Closes unix sockets. ``clock`` gives CLOCK_MONOTONIC seconds; ``directory`` is where the state file is kept."""

    name = "path"
    description = "path: a closed socket is refused at its name, and reached at .NAME~ beside it"
    closes = frozenset({UNIX})

    def __init__(self, owner: str, clock: Callable[[], float], directory: Path | None = None) -> None:
        self._owner = owner
        self._clock = clock
        self._directory = directory
        self._file: StateFile | None = None
        self._names: NewNames | None = None
        self._lock = threading.Lock()  # another thread closes what a process has just bound
        self._closed: frozenset[str] = frozenset()
        self._since: dict[str, float] = {}

    def hold(self, closed: Mapping[Endpoint, str], drained: Collection[Endpoint] = ()) -> Mapping[Endpoint, float]:
        """Make exactly these sockets closed; see ``Gate.hold``. A socket that does not exist is closed, and so is what
        a process binds there."""
        file, wanted = self._state_file(), frozenset(endpoint.address for endpoint in closed)
        if not wanted and not file.states:
            return {}
        problems = {path: problem for path in wanted if (problem := _trust_problem(path))}
        paths = wanted.difference(problems)
        with self._lock:
            self._closed &= paths
            problems.update(_problems(_open, [path for path in file.states if path not in paths]))
            try:
                left = [path for path in problems if path in file.states]
                file.write(dict.fromkeys([*paths, *left], CLOSED))
                self._watch(paths)
                self._closed = paths
                problems.update(_problems(_shut, paths))
            except GateError as error:  # what is closed stays so
                problems[""] = str(error)
        shut = [path for path in self._closed if path not in problems]
        self._since = {path: self._since.get(path, self._clock()) for path in shut}
        held = {unix(path): since for path, since in self._since.items()}
        if problems:
            raise PartlyClosedError("; ".join(problems.values()), held)
        return held

    def check(self) -> None:
        """Raise where the state file's directory does not suffice; see ``Gate.check``."""
        self._state_file().prepare()

    def inspect(self, endpoints: Mapping[Endpoint, str]) -> Sequence[Finding]:
        """What keeps these sockets from being closed; see ``Gate.inspect``."""
        self.check()
        return [
            Finding(
                "gate.path",
                process,
                f"the unix socket {endpoint.address} cannot be closed: {why}",
                fix,
                Severity.ERROR,
            )
            for endpoint, process in endpoints.items()
            for why, fix in _obstacles(endpoint.address)
        ]

    def _state_file(self) -> StateFile:
        self._file = self._file or StateFile((self._owner, self.name), self._directory)
        return self._file

    def _watch(self, paths: Collection[str]) -> None:
        """Hear of what processes bind there. Raises GateError."""
        try:
            if self._names is None and paths:
                self._names = NewNames(self._appeared)
            if self._names is not None:
                self._names.watch({os.path.dirname(path) for path in paths})
        except OSError as error:
            raise GateError(
                f"No socket is closed, because a new one would not be seen (inotify): {error}. Fix: raise the sysctls "
                "fs.inotify.max_user_instances and fs.inotify.max_user_watches"
            ) from error

    def _appeared(self, path: str) -> None:
        """A process has bound a socket: at once, from the thread that hears of it. ``hold`` reports what fails."""
        with self._lock:
            if path in self._closed:
                _problems(_shut, [path])


def _problems(change: Callable[[str], None], paths: Iterable[str]) -> dict[str, str]:
    """Change the names of these sockets. Returns why those were not changed that were not."""
    found: dict[str, str] = {}
    for path in paths:
        try:
            change(path)
        except OSError as error:
            found[path] = f"The unix socket {path} could not be opened or closed: {error.strerror or error}"
    return found


def _trust_problem(path: str) -> str:
    """Why root may not rename anything there; empty where it may, or the directory is not there."""
    try:
        found = file_trust.of_way(path)
    except OSError:
        return ""
    return f"The unix socket {path} is not closed: {found[0]}" if found else ""


def _shut(path: str) -> None:
    """Move the socket that has this name away. Raises OSError."""
    spare = socket_paths.spare(path)
    _recover(path)
    try:
        found = os.lstat(path)
        if socket_paths.is_placeholder(found):
            return
        if not (stat.S_ISSOCK(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            raise OSError("it is not a socket")
        _ready(spare, path, found)
        exchange(spare, path)
        now = os.lstat(spare)
        if (now.st_mode, now.st_uid) != (found.st_mode, found.st_uid):  # its process was faster with that
            _set_like(path, now, socket_paths.MARK)
        os.replace(spare, socket_paths.hidden(path))  # in place of that of an earlier process
    except FileNotFoundError:  # there is none, or its process has just removed it
        return
    _ready(spare, path, found)  # for the next process


def _open(path: str) -> None:
    """Give the socket its name back, unless its process has removed it or bound another one. Raises OSError."""
    hidden = socket_paths.hidden(path)
    _recover(path)
    if _is_placeholder(path) and os.path.lexists(hidden):
        _set_like(hidden, os.lstat(path))  # what the process has set meanwhile: it knows the public name alone
        exchange(hidden, path)
        if not _is_placeholder(hidden):  # the process has bound its socket just now
            exchange(hidden, path)
    elif _is_placeholder(path):
        _remove(path)
    elif not os.path.lexists(path) and _is_alive(hidden, path):
        with contextlib.suppress(FileExistsError):
            os.link(hidden, path, follow_symlinks=False)
    for name in (hidden, socket_paths.spare(path), socket_paths.unready(path)):
        _remove(name)


def _recover(path: str) -> None:
    """What has the name of the next placeholder and is none was moved there by a listener that was killed then."""
    spare = socket_paths.spare(path)
    if os.path.lexists(spare) and not _is_placeholder(spare):
        os.replace(spare, socket_paths.hidden(path))


def _is_alive(hidden: str, path: str) -> bool:
    """Whether a process listens on the socket that was moved away, or it is a symbolic link, which no process makes."""
    if os.path.islink(hidden):
        return True
    own = socket_paths.bound(path)
    return os.path.lexists(hidden) and any(
        one.is_listening and socket_paths.is_named(own, one.name) for one in unix_sockets()
    )


def _is_placeholder(path: str) -> bool:
    return os.path.lexists(path) and socket_paths.is_placeholder(os.lstat(path))


def _ready(spare: str, path: str, like: os.stat_result) -> None:
    """Have a placeholder at ``spare``, with the owner and mode of the socket that it replaces: a server takes the mode
    of what has its name, and in a directory such as /tmp only the owner can remove it."""
    if not _is_placeholder(spare):
        unready = socket_paths.unready(path)
        _remove(unready)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(unready)
        _set_like(unready, like, socket_paths.MARK)
        os.replace(unready, spare)
    elif stat.S_ISSOCK(like.st_mode):
        _set_like(spare, like, socket_paths.MARK)


def _set_like(path: str, like: os.stat_result, mark: int = 0) -> None:
    """Give a socket the owner and mode of another one, and the time of a placeholder. By its descriptor: its directory
    may be another user's, who could put another file in its place. Raises OSError."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found, own = os.fstat(fd), f"/proc/self/fd/{fd}"
        if not stat.S_ISSOCK(found.st_mode) or found.st_nlink != 1:
            return
        if stat.S_ISSOCK(like.st_mode):
            if os.geteuid() == 0 and (found.st_uid, found.st_gid) != (like.st_uid, like.st_gid):
                os.chown(own, like.st_uid, like.st_gid)
            if stat.S_IMODE(found.st_mode) != stat.S_IMODE(like.st_mode):
                os.chmod(own, stat.S_IMODE(like.st_mode))
        elif mark:  # a symbolic link
            os.chmod(own, 0o777)
        if mark and found.st_mtime_ns != mark:
            os.utime(own, ns=(mark, mark))
    finally:
        os.close(fd)


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _obstacles(path: str) -> Iterator[tuple[str, str]]:
    """Each reason why it cannot be closed, and the fix."""
    directory = os.path.dirname(path)
    with contextlib.suppress(OSError):
        for one in file_trust.of_way(path)[:1]:
            fix = f"{one.fix}, or run the listener as the user of the processes: user= in [eventlistener:rolling]"
            yield f"{one.path} {one.text}, and root would rename what is there", fix
    if len(os.fsencode(path)) > socket_paths.MAX_PATH:
        yield "its path is longer than 105 bytes", "shorten the path"
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        yield (
            f"the listener's user may not rename anything in {directory}",
            f"run the listener as the user of that directory: user= in [eventlistener:rolling], or chown {directory}",
        )
