"""Reads the load balancer's configuration: the ``Balancers`` of ``contracts.py``.

nginx's is read with crossplane, NGINX's own parser, from what ``nginx -T`` prints, or from a file: a configuration with
all that it includes, or the output of ``nginx -T`` on another host. A megabyte takes crossplane ten seconds, so that
runs in a process of its own, which a thread waits for, and which is killed when it takes too long.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from supervisor_rolling import file_trust
from supervisor_rolling.codec import dump, load
from supervisor_rolling.core.nginx_config import Nginx, nginx_of
from supervisor_rolling.core.policy import BalancerPolicy
from supervisor_rolling.core.text import printable
from supervisor_rolling.listener.system.lookups import Lookups
from supervisor_rolling.listener.system.nginx_program import nginx_program
from supervisor_rolling.listener.system.own_addresses import is_own

NGINX_TIMEOUT = 5.0
"""Seconds for a run of nginx. It looks up every name in its configuration first."""

READ_TIMEOUT = 60.0
"""Seconds for a configuration to be read."""

_READ = (
    "import sys; sys.path[:] = filter(None, sys.path); from supervisor_rolling.listener import balancer_config; "
    "balancer_config.main(sys.argv[1])"
)
"""What the process runs, without its working directory among those that it imports from."""

BUNDLED = Path(__file__).parents[1] / "bundled"
"""Where the Debian package has crossplane: Debian has no package of it. An installed one comes first."""

_NICENESS = 10

_SET_FILE = "set balancer: {nginx: FILE} to nginx.conf, or to a file with what nginx -T prints where it runs"

MAX_INCLUDES = 20
"""How deep files include each other; one that includes itself is cut off there."""

_FILE = re.compile(r"^# configuration file (/.+):$", re.MULTILINE)
"""With which ``nginx -T`` begins each file."""

_HEAD = 4096
"""Characters in which a dump has its first file, even after warnings of nginx."""

_VERSION = re.compile(r"nginx version: \S+/(\d+)\.(\d+)\.(\d+)")
_TOLERANT = {"check_ctx": False, "check_args": False}
"""crossplane knows the directives of one version of nginx; modules have more."""


class UnreadableError(Exception):
    """A configuration cannot be read; the text says why, and what to do."""


class NoNginxError(UnreadableError):
    """There is none to read."""


class NginxConfigurations:
    """``on_change`` is called, from a thread, when one has been read; ``clock``: CLOCK_MONOTONIC."""

    def __init__(self, clock: Callable[[], float], on_change: Callable[[], None] = lambda: None) -> None:
        self._lookups: Lookups[Nginx] = Lookups(
            "nginx's configuration", lambda why: Nginx(problem=why), 2 * READ_TIMEOUT, clock, on_change
        )

    def read(self, policy: BalancerPolicy, since: float) -> Nginx | None:
        return self._lookups.fresh(policy.nginx, since, lambda: _read_elsewhere(policy.nginx))

    def last_read(self, policy: BalancerPolicy) -> Nginx | None:
        return self.read(policy, 0.0) or self._lookups.last(policy.nginx)


def _read_elsewhere(path: str) -> Nginx:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _READ, path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=READ_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Nginx(
            source=path,
            problem=f"cannot be read within {READ_TIMEOUT:g} s. Fix: name a file with the upstream and its server only",
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        why = printable(lines[-1]) if lines else f"its reader exited with status {done.returncode}"
        return Nginx(source=path, problem=why)
    return load(Nginx, json.loads(done.stdout))


def main(path: str) -> None:
    """What the process does: print the configuration in JSON, or its problem in a line on standard error."""
    sys.path.append(str(BUNDLED))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    try:
        print(dump(read_nginx(path)))
    except NoNginxError as error:
        print(dump(Nginx(problem=str(error), is_absent=True)))
    except UnreadableError as error:
        sys.exit(str(error) or "is not a configuration of nginx")


def read_nginx(path: str) -> Nginx:
    """nginx's configuration in a file, or, without a path, what ``nginx -T`` prints. Raises UnreadableError."""
    program = nginx_program()
    if path:
        _require_trust(path)
        text = _text(path)
        if _FILE.search(text[:_HEAD]):  # of another host, as likely as not: its loopback is not ours
            tree, _ = _tree_of_dump(text, f"{path}: ")
            return _with_own(nginx_of(tree, (), path), lambda host: not _is_loopback(host))
        return _with_own(nginx_of(_parsed(path, combine=True), _version(program), path))
    if program is None:
        raise NoNginxError(f"nginx is not installed on this host. Fix: {_SET_FILE}")
    tree, main = _tree_of_dump(_run(program, "-T").stdout)
    return _with_own(nginx_of(tree, _version(program), main))


def _require_trust(path: str) -> None:
    problems = file_trust.of_file(path)
    if problems:
        raise UnreadableError("; ".join(map(str, problems)))


def _with_own(nginx: Nginx, may_be: Callable[[str], bool] = lambda host: True) -> Nginx:
    hosts = {one.host for upstream in nginx.upstreams for one in upstream.servers}
    names = {"localhost", os.uname().nodename}
    own = {host for host in hosts if may_be(host) and (host.lower() in names or is_own(host))}
    return replace(nginx, own=frozenset(own))


def _is_loopback(host: str) -> bool:
    return host.lower() == "localhost" or host == "::1" or host.startswith("127.")


def _version(program: str | None) -> tuple[int, ...]:
    """Empty where it is not known."""
    with contextlib.suppress(UnreadableError):
        found = _VERSION.search(_run(program, "-v").stderr) if program else None
        return tuple(map(int, found.groups())) if found else ()
    return ()


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    _require_trust(command[0])
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=NGINX_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnreadableError(f"{' '.join(command)} did not end within {NGINX_TIMEOUT:g} s. Fix: {_SET_FILE}") from None
    except OSError as error:
        raise UnreadableError(f"{' '.join(command)}: {error}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        why = next((line for line in lines if "[emerg]" in line), lines[-1] if lines else f"status {done.returncode}")
        raise UnreadableError(f"{' '.join(command)} fails: {printable(why)}. Fix: correct that, or {_SET_FILE}")
    return done


def _text(path: str) -> str:
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise UnreadableError("is not a regular file")
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from None


def _tree_of_dump(text: str, label: str = "") -> tuple[list[Any], str]:
    """The tree of what ``nginx -T`` has printed, and the name of its main file. ``label``: before every file's name in
    a message."""
    parts = _FILE.split(text)
    texts = dict(zip(parts[1::2], parts[2::2]))
    if not texts:
        raise UnreadableError("nginx -T printed no configuration")
    with tempfile.TemporaryDirectory() as directory:
        files = {name: _renamed(_parsed_text(directory, body, name), label + name) for name, body in texts.items()}
    main = next(iter(files))
    return list(_with_includes(files[main], files, str(PurePosixPath(main).parent))), main


def _parsed_text(directory: str, text: str, name: str) -> list[Any]:
    file = Path(directory, "part.conf")
    file.write_text(text.removeprefix("\n"), encoding="utf-8")
    return _parsed(str(file), name, single=True)


def _parsed(path: str, name: str = "", **how: bool) -> list[Any]:
    import crossplane  # type: ignore[import-untyped]  # here: it takes as long as all else

    try:
        payload = crossplane.parse(path, **how, **_TOLERANT)
    except RecursionError:
        raise UnreadableError("a file includes itself") from None
    if payload["errors"]:
        wrong = payload["errors"][0]
        text = str(wrong["error"]).replace(path, name or path)
        fix = ". Fix: name a file with what nginx -T prints, which has all that is included" if "[Errno" in text else ""
        raise UnreadableError(text + fix)
    return list(payload["config"][0]["parsed"])


def _renamed(tree: list[Any], name: str) -> list[Any]:
    """The tree, with ``name`` as the file of each directive."""
    return [
        {**one, "file": name, **({"block": _renamed(one["block"], name)} if "block" in one else {})} for one in tree
    ]


def _with_includes(tree: list[Any], files: Mapping[str, list[Any]], prefix: str, depth: int = 0) -> Iterator[Any]:
    """The tree with what it includes in its place. A relative name is one in the directory of the main file."""
    for one in tree:
        if one["directive"] == "include" and one.get("args"):
            pattern = str(PurePosixPath(prefix, one["args"][0]))
            for name in files:
                if PurePosixPath(name).match(pattern) and depth < MAX_INCLUDES:
                    yield from _with_includes(files[name], files, prefix, depth + 1)
        elif "block" in one:
            yield {**one, "block": list(_with_includes(one["block"], files, prefix, depth))}
        else:
            yield one
