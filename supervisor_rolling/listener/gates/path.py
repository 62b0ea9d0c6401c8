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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from supervisor_rolling import file_trust
from supervisor_rolling.core.endpoint import UNIX, Endpoint, unix
from supervisor_rolling.core.errors import GateError, PartlyClosedError
from supervisor_rolling.core.preflight_report import Finding, Severity
from supervisor_rolling.listener.gates.state_file import StateFile
from supervisor_rolling.listener.system import procfs, socket_paths
from supervisor_rolling.listener.system.inotify import NewNames

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
        file, paths = self._state_file(), frozenset(endpoint.address for endpoint in closed)
        if not paths and not file.states:
            return {}
        strange = {path: problem for path in paths if (problem := _trust_problem(path))}
        paths -= strange.keys()
        file.write(dict.fromkeys(paths.union(file.states), CLOSED))
        with self._lock:
            self._closed = paths
            self._watch()
            opened = {path: _problem(_open, path) for path in file.states if path not in paths}
            shut = {path: _problem(_shut, path) for path in paths}
        self._since = {path: self._since.get(path, self._clock()) for path, problem in shut.items() if not problem}
        file.write(dict.fromkeys([*paths, *(path for path, problem in opened.items() if problem)], CLOSED))
        held = {unix(path): since for path, since in self._since.items()}
        problems = [problem for problem in (*strange.values(), *opened.values(), *shut.values()) if problem]
        if problems:
            raise PartlyClosedError("; ".join(problems), held)
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

    def _watch(self) -> None:
        if self._names is None and self._closed:
            try:
                self._names = NewNames(self._appeared)
            except OSError as error:
                raise GateError(
                    f"Nothing was closed, because a new socket would not be seen (inotify): {error}. Fix: raise the "
                    "sysctl fs.inotify.max_user_instances"
                ) from error
        if self._names is not None:
            self._names.watch({os.path.dirname(path) for path in self._closed})

    def _appeared(self, path: str) -> None:
        """A process has bound a socket: at once, from the thread that hears of it. ``hold`` reports what fails."""
        with self._lock:
            if path in self._closed:
                _problem(_shut, path)


def _problem(change: Callable[[str], None], path: str) -> str:
    """Why a name could not be changed; empty where it was."""
    try:
        change(path)
    except OSError as error:
        return f"The unix socket {path} could not be opened or closed: {error.strerror or error}"
    return ""


def _trust_problem(path: str) -> str:
    """Why root may not rename anything there; empty where it may, or the directory is not there."""
    try:
        found = file_trust.of_way(path)
    except OSError:
        return ""
    return f"The unix socket {path} is not closed: {found[0]}" if found else ""


def _shut(path: str) -> None:
    """Move the socket that has this name away. Raises OSError."""
    try:
        found = os.lstat(path)
        if socket_paths.is_placeholder(found):
            return
        if not (stat.S_ISSOCK(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            raise OSError("it is not a socket")
        os.replace(path, socket_paths.hidden(path))  # in place of that of an earlier process
    except FileNotFoundError:  # there is none, or its process has just removed it
        return
    spare = socket_paths.spare(path)
    if not os.path.lexists(spare):
        _make_placeholder(spare, found)
    os.replace(spare, path)
    _make_placeholder(spare, found)  # for the next process


def _open(path: str) -> None:
    """Give the socket its name back, unless its process has removed it or bound another one. Raises OSError."""
    hidden = socket_paths.hidden(path)
    if os.path.lexists(path) and socket_paths.is_placeholder(os.lstat(path)):
        if os.path.lexists(hidden):
            os.replace(hidden, path)
        else:
            _remove(path)
    elif not os.path.lexists(path) and _is_alive(hidden, path):  # a listener was killed in the middle of ``_shut``
        os.replace(hidden, path)
    _remove(hidden)
    _remove(socket_paths.spare(path))


def _is_alive(hidden: str, path: str) -> bool:
    """Whether a process listens on the socket that was moved away, or it is a symbolic link, which no process makes."""
    if os.path.islink(hidden):
        return True
    own = socket_paths.bound(path)
    names = procfs.listening_unix().values() if os.path.lexists(hidden) else ()
    return any(socket_paths.is_named(own, name) for name in names)


def _make_placeholder(path: str, like: os.stat_result) -> None:
    """A socket without a process. In a directory such as /tmp only its owner can remove it: that is ``like``'s."""
    _remove(path)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path)
    socket_paths.mark_placeholder(path)
    if os.stat(os.path.dirname(path)).st_mode & stat.S_ISVTX and os.geteuid() == 0:
        os.chown(path, like.st_uid, like.st_gid, follow_symlinks=False)


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
