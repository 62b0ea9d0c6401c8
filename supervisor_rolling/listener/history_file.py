"""The rollouts that were, in a file: the ``History`` of ``contracts.py``.

A line is written when a rollout begins, so that none is lost whoever is killed, one when it ends, and one when a
listener ends while the rollout runs: JSON objects, whose shape ``core/records.py`` has. Of the lines with one id and
one ``began`` the last counts. Where that says ``running`` and supervisord knows nothing of the rollout, it ended with
an earlier supervisord (``shutdown``, ``reload``), and a line says so.

What goes wrong here stops no rollout: it is logged, and written when that works again.
"""

from __future__ import annotations

import collections
import itertools
import json
import logging
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from supervisor_rolling.core.forecast import ROLLOUTS, Cycles, cycles
from supervisor_rolling.core.policy import HistoryPolicy
from supervisor_rolling.core.records import LOST, head, head_of, is_running, lost, record
from supervisor_rolling.core.rollout import Rollout, Status
from supervisor_rolling.core.timeline import active
from supervisor_rolling.listener.system import shared_directory

log = logging.getLogger("supervisor_rolling")

DIRECTORY = "/var/lib/supervisor_rolling"

LARGEST = 1 << 20
"""Bytes at which a file is put aside: some two hundred rollouts of eight processes."""

MAX_READ = 16 * LARGEST
"""Bytes of one file, its last ones: a record of ten thousand processes has ten megabytes."""

FILES = 10
"""With those that were put aside: FILE, FILE.1, …"""

LOOKED_AT = 500
"""Of the newest records, when a listener begins: for the last number, for forecasts, and for what nobody has ended."""

AGAIN_AFTER = 5.0
"""Seconds until what could not be written is tried again."""

WAITING = 100
"""Lines that wait for that at most."""

_OPEN = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o640

Key = tuple[int, float]
"""The id of a rollout, which may come again where a file was lost, and when it began."""


class FileHistory:
    """One file, for one thread. ``url``: that of the supervisord; ``policy`` gives what rolling.yaml says now;
    ``clock``: CLOCK_MONOTONIC."""

    def __init__(
        self, url: str, policy: Callable[[], HistoryPolicy], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._policy = policy
        self._clock = clock
        self._path: str | None = None
        self._last_id = 0
        self._newest: dict[str, dict[str, Any]] = {}  # the last rollout of each group: its head
        self._running: dict[Key, dict[str, Any]] = {}
        self._cycles: dict[str, collections.deque[Cycles]] = {}
        self._waiting: list[str] = []
        self._again_at = 0.0
        self._has_complained = False

    def keep(self, rollouts: Collection[Rollout]) -> None:
        """See ``contracts.History``."""
        self._load()
        self._end_the_lost(rollouts)
        errors = [error for error in map(self._keep_one, rollouts) if error]
        self._flush()
        if errors:  # when all others are kept
            raise errors[0]

    def _keep_one(self, rollout: Rollout) -> Exception | None:
        try:
            if _mark(self._newest_of(rollout)) != _mark_of(rollout):
                self._take(_line_of(rollout, self._clock()))
        except Exception as error:  # noqa: BLE001 - of one rollout, and of no other
            return error
        return None

    def close(self, rollouts: Collection[Rollout], at: float, are_lost: bool) -> None:
        """See ``contracts.History``."""
        for rollout in rollouts:
            if rollout.status is Status.RUNNING:
                self._load()
                found = record(rollout, at)
                self._take(lost(found) if are_lost else found)
        self._again_at = 0.0
        self._flush()

    def last_id(self) -> int:
        """See ``contracts.History``."""
        self._load()
        return self._last_id

    def cycles(self, group: str) -> Sequence[Cycles]:
        """See ``contracts.History``."""
        self._load()
        return list(self._cycles.get(group, ()))

    def heads(self, group: str, number: int) -> Sequence[Mapping[str, Any]]:
        """See ``contracts.History``."""
        self._load()
        found: dict[Key, dict[str, Any]] = {}
        for one in self._backwards(group):
            found.setdefault(_key(one), head_of(one))
            if len(found) >= number:
                break
        return list(found.values())[::-1]

    def find(self, group: str, rollout: str) -> Mapping[str, Any] | None:
        """See ``contracts.History``."""
        self._load()
        return next((one for one in self._backwards(group) if rollout in ("", str(one["id"]))), None)

    # --- writing

    def _take(self, found: dict[str, Any]) -> None:
        self._waiting = [*self._waiting, json.dumps(found)][-WAITING:]
        self._remember(found)

    def _flush(self) -> None:
        """Write what waits. Where nothing is to be kept it is only remembered."""
        if not self._path:
            self._waiting = []
        if not self._waiting or self._clock() < self._again_at:
            return
        try:
            for line in list(self._waiting):
                self._append(line)
                self._waiting.remove(line)
            self._has_complained = False
        except OSError as error:
            self._again_at = self._clock() + AGAIN_AFTER
            self._complain(error)

    def _append(self, line: str) -> None:
        assert self._path
        shared_directory.prepare(os.path.dirname(self._path))
        if os.path.exists(self._path) and not os.path.isfile(self._path):
            raise OSError(None, "it is no regular file")
        if _size(self._path) >= LARGEST:
            self._put_aside(self._path)
        handle = os.open(self._path, _OPEN, _MODE)
        try:
            data = b"".join([b"" if _ends_a_line(handle) else b"\n", line.encode("ascii"), b"\n"])
            if os.write(handle, data) < len(data):
                raise OSError(None, "the disk is full")
        finally:
            os.close(handle)

    def _put_aside(self, path: str) -> None:
        for number in range(FILES - 1, 0, -1):
            if os.path.exists(_aside(path, number - 1)):
                os.replace(_aside(path, number - 1), _aside(path, number))

    def _complain(self, error: OSError) -> None:
        if not self._has_complained:
            log.warning(
                "rollouts are remembered by this listener alone, because they cannot be written to %s: %s. Another file: "
                "history: {file: …} in rolling.yaml; none: history: false",
                self._path,
                error.strerror or error,
            )
        self._has_complained = True

    # --- reading

    def _load(self) -> None:
        """Read the file, the first time and when rolling.yaml names another."""
        path = self._wanted()
        if path == self._path:
            return
        self._path, self._newest, self._running, self._cycles = path, {}, {}, {}
        for found in reversed(list(itertools.islice(self._backwards(), LOOKED_AT))):
            self._remember(found)

    def _wanted(self) -> str:
        policy = self._policy()
        name = re.sub(r"[^\w.]+", "-", self._url.partition("://")[2]).strip("-.") or "supervisord"
        return (policy.file or os.path.join(DIRECTORY, f"{name}.jsonl")) if policy.enabled else ""

    def _newest_of(self, rollout: Rollout) -> dict[str, Any]:
        """The head of the last rollout of its group; empty, where there is none. One that ended long ago may stand
        further back than what was read first."""
        if rollout.group not in self._newest and rollout.status is not Status.RUNNING:
            self._newest[rollout.group] = head_of(next(self._backwards(rollout.group), {}))
        return self._newest.get(rollout.group, {})

    def _remember(self, found: dict[str, Any]) -> None:
        """What a turn has to know of it: the rest is read when somebody asks."""
        self._last_id = max(self._last_id, found["id"])
        newest = self._newest.get(found["group"], found)
        if found["status"] != LOST or _key(newest) == _key(found):  # a rollout may be told lost when another has begun
            self._newest[found["group"]] = head_of(found)
        self._running.pop(_key(found), None)
        if is_running(found):
            self._running[_key(found)] = head_of(found)
        if found["status"] == Status.DONE.value and cycles(found).away:
            self._cycles.setdefault(found["group"], collections.deque(maxlen=ROLLOUTS)).append(cycles(found))

    def _backwards(self, group: str = "") -> Iterator[dict[str, Any]]:
        """All records, or those of a group, the newest first. What is no record is passed over: others may write there,
        too."""
        aside = [_aside(self._path, number) for number in range(FILES)] if self._path else []
        kept: Iterator[bytes | str] = (
            line for path in aside for line in reversed(_lines(path))
        )  # a file when its turn comes
        for line in itertools.chain(reversed(self._waiting), kept):
            found = _parsed(line)
            if found is not None and group in ("", found["group"]):
                yield found

    def _end_the_lost(self, rollouts: Collection[Rollout]) -> None:
        there = set(map(_key_of, rollouts))
        for key, one in list(self._running.items()):
            if key not in there:
                self._take(lost(next((found for found in self._backwards(one["group"]) if _key(found) == key), one)))


def _line_of(rollout: Rollout, now: float) -> dict[str, Any]:
    return head(rollout, now) if rollout.status is Status.RUNNING else record(rollout, now)


def _key_of(rollout: Rollout) -> Key:
    return rollout.id, round(rollout.began, 3)


def _key(found: Mapping[str, Any]) -> Key:
    return found["id"], found["began"]


def _mark_of(rollout: Rollout) -> tuple[Any, ...]:
    """What is written anew when it changes: a rollout that is resumed may end again in another way, or later."""
    is_over = rollout.status is not Status.RUNNING
    return (*_key_of(rollout), rollout.status.value, round(active(rollout, rollout.ended_at), 3) if is_over else 0.0)


def _mark(found: Mapping[str, Any]) -> tuple[Any, ...]:
    if not found:
        return ()
    return (*_key(found), found["status"], 0.0 if is_running(found) else found["seconds"])


def _aside(path: str, number: int) -> str:
    return f"{path}.{number}" if number else path


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _ends_a_line(handle: int) -> bool:
    """Whether nothing stands in the way of a new line: where the disk was full, half of one does."""
    size = os.fstat(handle).st_size
    return size == 0 or os.pread(handle, 1, size - 1) == b"\n"


def _lines(path: str) -> list[bytes]:
    try:
        if not os.path.isfile(path):  # what is read might have no end
            return []
        with open(path, "rb") as stream:
            before = stream.seek(max(0, os.fstat(stream.fileno()).st_size - MAX_READ))
            lines = stream.read(MAX_READ).splitlines()
            return lines[1:] if before else lines
    except OSError:  # there is none, or it may not be read: what was is not known
        return []


def _parsed(line: bytes | str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    head = head_of(found)
    known = ("id", "group", "began", "status")
    return found if all(type(found.get(key)) is type(head[key]) and found[key] == head[key] for key in known) else None
