"""A warm-up inside the process: the requests, and how the listener learns what came of them.

``wsgi.warmed`` and ``asgi.Warmed`` send the requests through the application before its server accepts connections. The
result is the name of a memory file that stays open, which the listener reads in /proc: a warm-up that failed fails a
rollout. The process serves all the same: a dependency that is down must not keep a group from starting.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import NamedTuple

from supervisor_rolling.core.own_warmup import FAILED, PREFIX

VARIABLE = "SUPERVISOR_ROLLING_WARMUP"
"""The environment variable that names rolling.yaml: its list is sent where the application names no request."""

MAX_NAME = 240
"""Bytes of a memory file's name; the kernel takes 249."""


class UnexpectedStatusError(Exception):
    """An answer of the application that is not right."""


class Request(NamedTuple):
    """One request of the list."""

    method: str
    path: str  # with its query
    headers: Mapping[str, str]
    body: bytes = b""
    expect: tuple[int, ...] = ()  # the right statuses; empty: any 2xx or 3xx

    def check(self, status: int) -> None:
        """Raise UnexpectedStatusError if the status of the answer is not right."""
        if not (status in self.expect if self.expect else 200 <= status < 400):
            raise UnexpectedStatusError(f"{self.method} {self.path} answered {status}")


def requests_of(paths: Iterable[str], environment: Mapping[str, str] = os.environ) -> list[Request]:
    """The requests to send: a GET for each path or, without any, those of rolling.yaml for the group of this process.
    None outside of supervisord. Raises ConfigError, ValueError or OSError where rolling.yaml cannot be used."""
    headers = {"Host": "localhost"}
    given = [Request("GET", path, headers) for path in paths]
    file, group = environment.get(VARIABLE, ""), environment.get("SUPERVISOR_GROUP_NAME", "")
    if given or not file or not group:
        return given
    config = import_module("supervisor_rolling.listener.config.parser").load(file)  # only here: it needs PyYAML
    if group in config.invalid or group not in config.groups:
        raise ValueError(config.invalid.get(group) or f"{file} has no group {group}")
    warmup = config.groups[group].warmup
    return [
        Request(one.method, one.path, {**headers, **warmup.headers, **one.headers}, one.body.encode(), one.expect)
        for one in warmup.requests
        for _ in range(one.count)
    ]


class Course:
    """A warm-up: a context manager that never raises, and tells the listener and stderr how it ended."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = paths
        self._took: list[float] = []

    def __enter__(self) -> Course:
        return self

    def __iter__(self) -> Iterator[Request]:
        """Each request, to be answered before the next one."""
        for request in requests_of(self._paths):
            began = time.monotonic()
            yield request
            self._took.append((time.monotonic() - began) * 1000)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is not None and not isinstance(error, Exception):
            return False
        if error is not None:
            problem = str(error) if isinstance(error, UnexpectedStatusError) else f"{type(error).__name__}: {error}"
            sys.stderr.write(f"supervisor_rolling: the warm-up failed: {problem}\n")
            _tell(FAILED + problem)
        elif self._took:
            _tell(f"{len(self._took)} requests, {self._took[0]:.1f} to {self._took[-1]:.1f} ms")
        return True


def _tell(text: str) -> None:
    """Keep a memory file open for as long as the process lives."""
    if hasattr(os, "memfd_create"):  # else it is not Linux, and there is no listener either
        name = "".join(one if one.isprintable() else "?" for one in PREFIX + text)
        os.memfd_create(name.encode("ascii", "replace")[:MAX_NAME].decode())
