"""The rollouts so far, in a file: the ``History`` of ``contracts.py``.

A line is written when a rollout begins, so that it is known whatever is killed, one when it ends, and one when a
listener ends while the rollout runs: a ``public_view.RolloutView`` as JSON. Of the lines with one id and one
``began`` the last counts. Where that says ``running`` and supervisord does not know the rollout, it ended with an
earlier supervisord (``shutdown``, ``reload``), and a line says so.

A failure here stops no rollout: it is logged, and the lines are written when that works again.
"""

from __future__ import annotations

import collections
import itertools
import json
import logging
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from supervisor_rolling.codec import dump, load
from supervisor_rolling.core.forecast import MAX_ROLLOUTS, Cycles, cycles
from supervisor_rolling.core.policy import HistoryPolicy
from supervisor_rolling.core.public_view import DIGITS, Detail, RolloutView, lost, rollout_view, summary_of
from supervisor_rolling.core.rollout import Rollout, Status
from supervisor_rolling.core.timeline import active
from supervisor_rolling.listener.system import shared_directory

log = logging.getLogger("supervisor_rolling")

DIRECTORY = "/var/lib/supervisor_rolling"

ROTATE_AT = 1 << 20
"""Bytes of a file: some two hundred rollouts of eight processes."""

FILES = 10
"""With the rotated ones: FILE, FILE.1, …"""

MAX_READ = 16 * ROTATE_AT
"""Bytes of one file, its last ones: a record of ten thousand processes has ten megabytes."""

MAX_LOADED = 500
"""Records that a listener reads when it starts: for the last id, for forecasts, and for rollouts without an end."""

RETRY_AFTER = 5.0
"""Seconds until lines that could not be written are tried again."""

MAX_PENDING = 100
"""Lines that wait for that."""

Key = tuple[int, float]
"""The id of a rollout, which may come again where a file was lost, and when it began."""


class FileHistory:
    """One file, for one thread. ``url``: that of the supervisord; ``policy`` returns what rolling.yaml says now;
    ``clock``: CLOCK_MONOTONIC."""

    def __init__(
        self, url: str, policy: Callable[[], HistoryPolicy], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._policy = policy
        self._clock = clock
        self._path: str | None = None  # None: not loaded; empty: none is kept
        self._last_id = 0
        self._newest: dict[str, RolloutView] = {}  # the summary of the last rollout of each group
        self._running: dict[Key, RolloutView] = {}  # the summaries of rollouts without an end
        self._cycles: dict[str, collections.deque[Cycles]] = {}
        self._pending: list[str] = []  # lines that are not written yet
        self._retry_at = 0.0
        self._has_warned = False

    def keep(self, rollouts: Collection[Rollout]) -> None:
        self._load()
        self._end_lost(rollouts)
        errors = []
        for rollout in rollouts:
            try:
                if _state_of(self._newest_of(rollout)) != _state(rollout):
                    detail = Detail.SUMMARY if rollout.status is Status.RUNNING else Detail.COURSE
                    self._add(rollout_view(rollout, self._clock(), detail))
            except Exception as error:  # noqa: BLE001 - of one rollout: the others are kept first
                errors.append(error)
        self._flush()
        if errors:
            raise errors[0]

    def close(self, rollouts: Collection[Rollout], at: float, are_lost: bool) -> None:
        for rollout in rollouts:
            if rollout.status is Status.RUNNING:
                self._load()
                found = rollout_view(rollout, at, Detail.COURSE)
                self._add(lost(found) if are_lost else found)
        self._retry_at = 0.0
        self._flush()

    def last_id(self) -> int:
        self._load()
        return self._last_id

    def cycles(self, group: str) -> Sequence[Cycles]:
        self._load()
        return list(self._cycles.get(group, ()))

    def summaries(self, group: str, number: int) -> Sequence[RolloutView]:
        self._load()
        found: dict[Key, RolloutView] = {}
        for one in self._newest_first(group):
            found.setdefault(_key(one), summary_of(one))
            if len(found) >= number:
                break
        return list(found.values())[::-1]

    def find(self, group: str, rollout: str) -> RolloutView | None:
        self._load()
        return next((one for one in self._newest_first(group) if rollout in ("", str(one.id))), None)

    # --- writing

    def _add(self, found: RolloutView) -> None:
        self._pending = [*self._pending, dump(found)][-MAX_PENDING:]
        self._remember(found)

    def _flush(self) -> None:
        """Write the pending lines. Where no history is kept they are only remembered."""
        if not self._path:
            self._pending = []
        if not self._pending or self._clock() < self._retry_at:
            return
        try:
            while self._pending:
                _append(self._path or "", self._pending[0])
                del self._pending[0]
            self._has_warned = False
        except OSError as error:
            self._retry_at = self._clock() + RETRY_AFTER
            if not self._has_warned:
                log.warning(
                    "the history cannot be written to %s: %s. The rollouts are remembered until this listener ends. "
                    "Fix: set history: {file: …} in rolling.yaml to another file, or history: false for none",
                    self._path,
                    error.strerror or error,
                    extra={"code": "history"},
                )
            self._has_warned = True

    def _end_lost(self, rollouts: Collection[Rollout]) -> None:
        known = {(rollout.id, round(rollout.began, DIGITS)) for rollout in rollouts}
        for key, one in list(self._running.items()):
            if key not in known:
                self._add(lost(next((found for found in self._newest_first(one.group) if _key(found) == key), one)))

    # --- reading

    def _load(self) -> None:
        """Read the file, the first time and when rolling.yaml names another."""
        policy = self._policy()
        name = re.sub(r"[^\w.]+", "-", self._url.partition("://")[2]).strip("-.") or "supervisord"
        path = (policy.file or os.path.join(DIRECTORY, f"{name}.jsonl")) if policy.enabled else ""
        if path != self._path:
            self._path, self._newest, self._running, self._cycles = path, {}, {}, {}
            for found in reversed(list(itertools.islice(self._newest_first(), MAX_LOADED))):
                self._remember(found)

    def _newest_of(self, rollout: Rollout) -> RolloutView | None:
        """The summary of the last rollout of its group, if there is one. One that ended long ago may stand further back
        than what was loaded."""
        if rollout.group not in self._newest and rollout.status is not Status.RUNNING:
            found = next(self._newest_first(rollout.group), None)
            if found is not None:
                self._newest[rollout.group] = summary_of(found)
        return self._newest.get(rollout.group)

    def _remember(self, found: RolloutView) -> None:
        """What a reconcile needs of it: the rest is read on request."""
        key, group = _key(found), found.group
        self._last_id = max(self._last_id, found.id)
        if (
            found.status is not Status.LOST or _key(self._newest.get(group, found)) == key
        ):  # another may have begun since
            self._newest[group] = summary_of(found)
        self._running.pop(key, None)
        if found.status is Status.RUNNING:
            self._running[key] = summary_of(found)
        if found.status is Status.DONE and cycles(found).away:
            self._cycles.setdefault(group, collections.deque(maxlen=MAX_ROLLOUTS)).append(cycles(found))

    def _newest_first(self, group: str = "") -> Iterator[RolloutView]:
        """All records, or those of a group. What is no record is ignored: others may write there, too."""
        paths = [_rotated(self._path, number) for number in range(FILES)] if self._path else []
        kept: Iterator[bytes | str] = (line for path in paths for line in reversed(_lines(path)))
        for line in itertools.chain(reversed(self._pending), kept):
            found = _parsed(line)
            if found is not None and group in ("", found.group):
                yield found


def _key(found: RolloutView) -> Key:
    return found.id, found.began


def _state(rollout: Rollout) -> tuple[Any, ...]:
    """A line is written when this changes: a rollout that is resumed may end again in another way, or later."""
    seconds = 0.0 if rollout.status is Status.RUNNING else round(active(rollout, rollout.ended_at), DIGITS)
    return rollout.id, round(rollout.began, DIGITS), rollout.status, seconds


def _state_of(found: RolloutView | None) -> tuple[Any, ...]:
    if found is None:
        return ()
    return (*_key(found), found.status, 0.0 if found.status is Status.RUNNING else found.seconds)


# --- files


def _append(path: str, line: str) -> None:
    shared_directory.prepare(os.path.dirname(path))
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(None, "it is not a regular file")
    if os.path.exists(path) and os.stat(path).st_size >= ROTATE_AT:
        for number in range(FILES - 1, 0, -1):
            if os.path.exists(_rotated(path, number - 1)):
                os.replace(_rotated(path, number - 1), _rotated(path, number))
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        size = os.fstat(handle).st_size
        is_cut = size > 0 and os.pread(handle, 1, size - 1) != b"\n"  # the disk was full
        data = b"".join([b"\n" if is_cut else b"", line.encode("ascii"), b"\n"])
        if os.write(handle, data) < len(data):
            raise OSError(None, "the disk is full")
    finally:
        os.close(handle)


def _rotated(path: str, number: int) -> str:
    return f"{path}.{number}" if number else path


def _lines(path: str) -> list[bytes]:
    try:
        if not os.path.isfile(path):  # anything else might have no end
            return []
        with open(path, "rb") as stream:
            before = stream.seek(max(0, os.fstat(stream.fileno()).st_size - MAX_READ))
            lines = stream.read(MAX_READ).splitlines()
            return lines[1:] if before else lines
    except OSError:  # it does not exist, or may not be read: the history begins anew
        return []


def _parsed(line: bytes | str) -> RolloutView | None:
    try:
        return load(RolloutView, json.loads(line))
    except (ValueError, RecursionError):
        return None
