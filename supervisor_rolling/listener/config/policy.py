"""YAML text → policies: what every key of rolling.yaml means.

``load`` reads a file, ``parse`` is pure. A problem in one group makes that group invalid, and no other:
``Config.invalid``. Any other problem raises ConfigError. The message holds every problem at once, a line for each:
``rolling.yaml:7: groups.app.drian: unknown key (did you mean drain?)``. What is not even YAML has a single one.

The tables below are the file format: a key and the reader of its value. A key that is left out has the default of
``core/policy.py``; to add a key, add the field there and its reader here.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import signal
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from supervisor_rolling.core.errors import ConfigError
from supervisor_rolling.core.policy import (
    BalancerPolicy,
    Config,
    DrainPolicy,
    GatePolicy,
    GuardPolicy,
    HistoryPolicy,
    Hook,
    HooksPolicy,
    MetricsPolicy,
    Policy,
    PortRule,
    RestartPolicy,
    Share,
    WarmupPolicy,
    WarmupRequest,
)
from supervisor_rolling.core.ports import LAST_PORT
from supervisor_rolling.core.share import MAX_PROCESSES, parse_share
from supervisor_rolling.listener.config.files import read
from supervisor_rolling.listener.config.yaml_reader import (
    MAX_CHARACTERS,
    Entry,
    Path,
    Reader,
    choice,
    each,
    not_yaml,
    one_or_each,
    open_document,
    section,
    table,
    too_large,
    whole,
)

WEEK = 7 * 24 * 3600
"""The longest duration: a typing error rather than a wish beyond it, and far below what a socket's timeout can hold."""

SHORTEST = 0.1
"""Seconds: a deadline of nothing would fail every rollout."""

MAX_REPEATS = 10000

LONGEST_NAME = 15
"""Bytes of the name that the kernel keeps of a program (TASK_COMM_LEN)."""

AUTO = -1.0
"""Of ``min_ready_seconds``."""

_DRAIN_SIGNALS = ("USR1", "USR2", "HUP", "WINCH", "URG", "TTIN", "TTOU")
"""What an application may take as it likes. Not those that end a process or hold it (TERM, INT, QUIT, KILL, STOP, …):
TERM is how supervisord stops one, and whoever stops loses what it answers. Nor those that the kernel sends for
faults."""

_UNITS = {"": 1, "s": 1, "sec": 1, "seconds": 1, "ms": 0.001, "m": 60, "min": 60, "h": 3600}
_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([a-z]*)")
_HAPROXY = {
    "socket": "write the path of HAProxy's stats socket, such as /run/haproxy/admin.sock",
    "backend_name": "write the name of the backend section of haproxy.cfg whose servers are the processes, such as app",
}
"""The keys that this backend must have, each with what to write."""

_HAPROXY_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"(?:[!-~\xa1-\xff](?:[ \t]*[!-~\xa1-\xff])*)?")  # what http.client sends as it is
_PATH = re.compile(r"/[^\s\x00-\x1f\x7f]*")
_METHOD = re.compile(r"[A-Za-z]+")

_PORTS_HINT = (
    r"write a regex with one group around the port, such as 'app-(\d+)', or a map of process names to ports, or auto"
)
_GUARD_HINT = "write {max_closed: 50%}, or false to turn the guard off"
_HISTORY_HINT = "write {file: /path}, or false to keep none"
_HOOK_HINT = (
    "write a list of arguments, the first of which is the full path of a program, such as [/srv/app/notify, done]"
)
_RETRIES_HINT = "write true where the load balancer tries another server when a connection is refused, or false"
_LISTEN_HINT = "write one such as 127.0.0.1:9180"
_NO_GROUPS = r"name a group and its ports, such as groups: {app: {ports: 'app-(\d+)'}}"


def load(path: str) -> Config:
    """The configuration in a file. Raises ConfigError where no group can use it, with all that is wrong with it."""
    data = read(path, MAX_CHARACTERS + 1)
    if len(data) > MAX_CHARACTERS:
        raise too_large(path)
    try:
        return parse(data.decode("utf-8"), path)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise not_yaml(path, line, f"the byte 0x{data[error.start]:02x} is not UTF-8", "save it as UTF-8") from None


def parse(text: str, file: str) -> Config:
    """The configuration in a text, which messages call ``file``. Raises ConfigError where no group can use it, with all
    that is wrong with it."""
    root = open_document(text, file)
    config = _CONFIG(root)
    found = root.document.found()
    owners = [_group_of(problem.path) for problem in found]
    if not all(owners):
        raise ConfigError("\n".join(problem.text for problem in found))
    assert config is not None, "a reader gives a value or a problem"
    invalid: dict[str, str] = {}
    for problem, owner in zip(found, owners):
        invalid[owner] = f"{invalid[owner]}\n{problem.text}" if owner in invalid else problem.text
    groups = {name: policy for name, policy in config.groups.items() if name not in invalid}
    return replace(config, groups=groups, invalid=invalid)


def _group_of(path: Path) -> str:
    """The group to which a value belongs; empty where it is everybody's."""
    is_of_a_group = len(path) > 1 and path[0] == "groups"
    return str(path[1]) if is_of_a_group else ""


# --- readers of what only this file has


def seconds(least: float = 0.0, most: float = WEEK) -> Reader[float]:
    def read(entry: Entry) -> float | None:
        number = entry.number(_duration_hint(entry))
        if number is not None and not least <= number <= most:
            entry.wrong(f"{entry.shown} is out of range; write a number of seconds from {least:g} to {most:g}")
            return None
        return None if number is None else float(number)

    return read


def _duration_hint(entry: Entry) -> str:
    match = _DURATION.fullmatch(entry.node.value) if entry.is_scalar("str") else None
    if match is None or match[2] not in _UNITS:
        return "durations are numbers of seconds, such as 30"
    return f"durations are numbers of seconds: {float(match[1]) * _UNITS[match[2]]:g}"


def _share(entry: Entry) -> Share | None:
    if not entry.is_scalar("int", "float", "str"):
        entry.unfit("write a number of processes or a percentage, such as 2 or 10%")
        return None
    try:
        return parse_share(entry.node.value)
    except ValueError as error:
        entry.wrong(str(error))
        return None


def _socket(entry: Entry) -> str | None:
    path = entry.text(_HAPROXY["socket"])
    if path and not path.startswith("/"):
        entry.wrong(f"{entry.shown} is not a full path; write one that begins with /, such as /run/haproxy/admin.sock")
        return None
    return path


def _backend_name(entry: Entry) -> str | None:
    name = entry.text(_HAPROXY["backend_name"])
    if name and not _HAPROXY_NAME.fullmatch(name):
        entry.wrong(f"{entry.shown} is not a name in HAProxy; write letters, digits, and - _ . : only")
        return None
    return name


def _gate(entry: Entry) -> GatePolicy | None:
    backend = (entry.entries or {}).get("backend")
    is_haproxy = backend is not None and backend.node.value == "haproxy"
    return section(_make_haproxy if is_haproxy else GatePolicy, _GATE, _HAPROXY if is_haproxy else {}, _check_gate)(
        entry
    )


def _check_gate(entries: Mapping[str, Entry], values: Mapping[str, Any]) -> None:
    backend = values.get("backend", GatePolicy.backend)
    for name, hint in _HAPROXY.items():
        if backend == "haproxy" and values.get(name) == "":
            entries[name].wrong(f"is empty; {hint}")
        elif backend not in ("haproxy", None) and values.get(name):
            entries[name].wrong_name("is for `backend: haproxy` alone; remove it, or say that")
    for name in ("method", "lease", "bypass") if backend == "haproxy" else ():
        if values.get(name) not in (None, getattr(GatePolicy, name)):
            entries[name].wrong("means nothing with backend: haproxy, which refuses no connection; remove it")
    if (backend, values.get("method")) == ("nftables", "redirect"):
        entries["method"].wrong("redirect is a rule of iptables; write reject, or backend: iptables")


def _make_haproxy(**values: Any) -> GatePolicy:
    """Nothing refuses a warm-up."""
    return GatePolicy(**{**values, "bypass": "none"})


def _check_drain(entries: Mapping[str, Entry], values: Mapping[str, Any]) -> None:
    least = values.get("min", DrainPolicy.min)
    most = values.get("timeout", DrainPolicy.timeout)
    if least is not None and most is not None and least > most:
        entries["min"].wrong(f"{least:g} is more than the timeout of {most:g}; lower it, or raise drain.timeout")
    quiet = values.get("quiet", DrainPolicy.quiet)
    if values.get("keepalive") == "nginx" and most is not None and quiet is not None and quiet >= most:
        where = entries.get("quiet", entries["keepalive"])
        where.wrong(
            f"with keepalive: nginx an idle pool is known by drain.quiet ({quiet:g}), and the timeout of {most:g} ends "
            "before; lower quiet, or raise drain.timeout"
        )


def _signal(entry: Entry) -> str | None:
    """The name of a signal, without SIG; supervisord knows all that this Python knows."""
    word = entry.text("write the name of a signal, such as USR1")
    if not word:
        return word
    name = word.upper()[3:] if word.upper().startswith("SIG") else word.upper()
    if name not in _DRAIN_SIGNALS:
        known = f"SIG{name}" in signal.Signals.__members__
        why = "does more than tell a process, and would end what drains" if known else "is unknown"
        entry.wrong(f"{entry.shown} {why}; write {', '.join(_DRAIN_SIGNALS[:-1])} or {_DRAIN_SIGNALS[-1]}")
        return None
    return name


def _path(entry: Entry) -> str | None:
    path = entry.text("write a path, such as /health")
    if path is not None and not _PATH.fullmatch(path):
        entry.wrong(f"{entry.shown} is not a path; write one that begins with / and has no white space in it")
        return None
    return path


def _ready(entry: Entry) -> str | None:
    return "" if entry.is_scalar("str") and not entry.node.value else _path(entry)


def _method(entry: Entry) -> str | None:
    method = entry.text("write a method, such as GET")
    if method is not None and not _METHOD.fullmatch(method):
        entry.wrong(f"{entry.shown} is not an HTTP method; write letters only, such as GET")
        return None
    return method and method.upper()


def _body(entry: Entry) -> str | None:
    return entry.text("put it in quotes")


def _header_value(entry: Entry) -> str | None:
    value = entry.node.value if entry.is_scalar("int", "float") else entry.text("put it in quotes")
    if value is not None and not _HEADER_VALUE.fullmatch(value):
        entry.wrong(f"{entry.shown} cannot stand in a header; write Latin-1 without line breaks and outer spaces")
        return None
    return value


def _header_problem(name: str) -> str:
    return "" if _HEADER_NAME.fullmatch(name) else "is not the name of a header; write letters, digits and - only"


def _name_problem(name: str) -> str:
    """What supervisord allows in the name of a group or a process, without the * that stands for all."""
    if name and name.isprintable() and not re.search(r"[:*/\s]", name):
        return ""
    return "is not a name in supervisord; write one without : * / and white space"


def _program(entry: Entry) -> str | None:
    name = entry.text("write the name of a program, such as docker-proxy")
    if name is not None and (not 0 < len(name.encode()) <= LONGEST_NAME or not name.isprintable()):
        entry.wrong(f"{entry.shown} is not the name of a program as ps -o comm shows it, at most {LONGEST_NAME} bytes")
        return None
    return name


def _request(entry: Entry) -> WarmupRequest | None:
    if entry.is_mapping:
        return section(WarmupRequest, _REQUEST)(entry)
    if entry.is_scalar("str"):
        path = _path(entry)
        return None if path is None else WarmupRequest(path=path)
    entry.unfit("write a path, such as /, or a mapping, such as {method: POST, path: /login}")
    return None


def _drain_request(entry: Entry) -> str | None:
    """A method and a path."""
    if entry.is_mapping:
        request = section(WarmupRequest, _DRAIN_REQUEST)(entry)
        return None if request is None else f"{request.method} {request.path}"
    if not entry.is_scalar("str"):
        entry.unfit("write a path, such as /drain, or a mapping, such as {method: POST, path: /drain}")
        return None
    path = _ready(entry)
    return path and f"GET {path}"


def _ports(entry: Entry) -> PortRule | None:
    if entry.is_mapping:
        return _ports_by_name(entry)
    pattern = entry.text(_PORTS_HINT)
    if pattern is None:
        return None
    return PortRule(auto=True) if pattern == "auto" else _ports_by_regex(entry, pattern)


def _ports_by_regex(entry: Entry, pattern: str) -> PortRule | None:
    try:
        groups = re.compile(pattern).groups
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        entry.wrong(f"{entry.shown} is not a regex: {' '.join(str(error).split())}; {_PORTS_HINT}")
        return None
    if groups != 1:
        entry.wrong(f"{entry.shown} has {groups} groups; {_PORTS_HINT}; (?:...) does not count as a group")
        return None
    return PortRule(pattern=pattern)


def _ports_by_name(entry: Entry) -> PortRule | None:
    by_name = _PORT_MAP(entry)
    if by_name == {}:
        entry.wrong(f"is empty; {_PORTS_HINT}")
    return PortRule(by_name=by_name) if by_name else None


def _check_ports(entries: Mapping[str, Entry], values: Mapping[str, Any]) -> None:
    owner: dict[int, str] = {}
    for name, ports in values.items():
        if ports == ():
            entries[name].wrong("is empty; write the port that the process listens on")
        for port in ports or ():
            if port in owner:
                entries[name].wrong(f"port {port} is that of {owner[port]} already; give each port to one process")
            owner.setdefault(port, name)


def _guard(entry: Entry) -> GuardPolicy | None:
    if entry.is_mapping:
        return section(GuardPolicy, _GUARD)(entry)
    enabled = entry.truth(_GUARD_HINT)
    return None if enabled is None else GuardPolicy(enabled=enabled)


def _settle(entry: Entry) -> float | None:
    """Below 0: auto."""
    is_auto = entry.is_scalar("str") and entry.node.value == "auto"
    return AUTO if is_auto else seconds()(entry)


def _retries(entry: Entry) -> bool | None:
    return entry.truth(_RETRIES_HINT)


def _nginx(entry: Entry) -> str | None:
    path = entry.text("write the path of nginx.conf, or of a file with the output of nginx -T")
    if path and not path.startswith("/"):
        entry.wrong(f"{entry.shown} is not a full path; write one that begins with /, such as /etc/nginx/nginx.conf")
        return None
    return path


def _hook(entry: Entry) -> Hook | None:
    if entry.is_list:
        command = _command(entry)
        return None if command is None else Hook(command)
    if not entry.is_mapping:
        entry.unfit(_HOOK_HINT)
        return None
    return section(Hook, _HOOK, {"command": _HOOK_HINT})(entry)


def _command(entry: Entry) -> tuple[str, ...] | None:
    if not entry.is_list:
        entry.unfit(_HOOK_HINT)
        return None
    command = each(_argument)(entry)
    if command and not command[0].startswith("/"):
        entry.wrong(f"begins with no full path of a program; {_HOOK_HINT}")
        return None
    return command


def _argument(entry: Entry) -> str | None:
    text = entry.node.value if entry.is_scalar("int", "float") else entry.text("put it in quotes")
    if text is not None and "\0" in text:
        entry.wrong("no argument can have a NUL in it; remove it")
        return None
    return text


def _history(entry: Entry) -> HistoryPolicy | None:
    if entry.is_mapping:
        return section(HistoryPolicy, _HISTORY)(entry)
    enabled = entry.truth(_HISTORY_HINT)
    return None if enabled is None else HistoryPolicy(enabled=enabled)


def _history_file(entry: Entry) -> str | None:
    path = entry.text("write the path of a file")
    if path and (not path.startswith("/") or path.endswith("/")):
        entry.wrong(f"{entry.shown} is no full path of a file; write one such as /var/lib/supervisor_rolling/app.jsonl")
        return None
    return path


def _listen(entry: Entry) -> str | None:
    text = entry.text(_LISTEN_HINT)
    if not text:
        return text
    host, colon, port = text.rpartition(":")
    if not colon or not _is_address(host) or not port.isdigit() or not 0 < int(port[:6]) <= LAST_PORT:
        entry.wrong(f"{entry.shown} is no address and port; {_LISTEN_HINT}")
        return None
    return text


def _is_address(host: str) -> bool:
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        return (ipaddress.ip_address(host.strip("[]")).version == 6) is is_bracketed
    except ValueError:
        return False


def _policy(entry: Entry) -> Policy | None:
    return section(functools.partial(_make_policy, entry.name), _GROUP, {"ports": _PORTS_HINT})(entry)


def _make_policy(group: str, min_ready_seconds: float = AUTO, **values: Any) -> Policy:
    if min_ready_seconds == AUTO:
        return Policy(group, **values)
    return Policy(group, **values, min_ready_seconds=min_ready_seconds, min_ready_auto=False)


def _groups(entry: Entry) -> dict[str, Policy] | None:
    if entry.is_a("null") or entry.entries == {}:
        entry.wrong(f"is empty; {_NO_GROUPS}")
        return None
    return table(_name_problem, _policy, may_lack=True)(entry)


def _check_config(entries: Mapping[str, Entry], values: Mapping[str, Any]) -> None:
    gate, groups = values.get("gate"), values.get("groups")
    for name, policy in (groups or {}).items() if gate and gate.backend == "haproxy" else ():
        if policy.drain.keepalive == "nginx":
            keepalive = _at(entries["groups"], name, "drain", "keepalive")
            keepalive.wrong("nginx is for nginx; HAProxy drains by itself, and hands on what that changes: remove it")


def _at(entry: Entry, *names: str) -> Entry:
    for name in names:
        entry = (entry.entries or {})[name]
    return entry


def _make_config(groups: dict[str, Policy], gate: GatePolicy | None = None, **values: Any) -> Config:
    return Config(gate or GatePolicy(), groups, **values)


# --- the file format

_HEADERS = table(_header_problem, _header_value)
_STATUS = whole(100, 599)
_PORT_MAP = table(_name_problem, one_or_each(whole(1, LAST_PORT)), check=_check_ports)

_REQUEST: dict[str, Reader[Any]] = {
    "method": _method,
    "path": _path,
    "headers": _HEADERS,
    "body": _body,
    "expect": one_or_each(_STATUS),
    "count": whole(1, MAX_REPEATS),
}
_WARMUP: dict[str, Reader[Any]] = {
    "timeout": seconds(least=SHORTEST),
    "ready": _ready,
    "headers": _HEADERS,
    "requests": each(_request),
    "proxies": each(_program),
}
_DRAIN_REQUEST = {key: _REQUEST[key] for key in ("method", "path")}
_RESTART: dict[str, Reader[Any]] = {
    "timeout": seconds(least=SHORTEST),
    "on_kill": choice("fail", "restart"),
}
_DRAIN: dict[str, Reader[Any]] = {
    "timeout": seconds(),
    "min": seconds(),
    "on_timeout": choice("restart", "fail"),
    "signal": _signal,
    "request": _drain_request,
    "keepalive": choice("refuse", "application", "nginx", "ignore"),
    "quiet": seconds(least=SHORTEST),
}
_GUARD: dict[str, Reader[Any]] = {
    "max_closed": _share,
}
_BALANCER: dict[str, Reader[Any]] = {
    "nginx": _nginx,
    "retries": _retries,
}
_HOOK: dict[str, Reader[Any]] = {
    "command": _command,
    "timeout": seconds(least=SHORTEST),
}
_HOOKS: dict[str, Reader[Any]] = dict.fromkeys(("before_rollout", "after_warmup", "on_failure", "after_rollout"), _hook)
_GROUP: dict[str, Reader[Any]] = {
    "ports": _ports,
    "max_unavailable": _share,
    "canary": whole(0, MAX_PROCESSES),
    "max_failures": whole(0, MAX_PROCESSES),
    "drain": section(DrainPolicy, _DRAIN, check=_check_drain),
    "restart": section(RestartPolicy, _RESTART),
    "warmup": section(WarmupPolicy, _WARMUP),
    "min_ready_seconds": _settle,
    "guard": _guard,
    "balancer": section(BalancerPolicy, _BALANCER),
    "hooks": section(HooksPolicy, _HOOKS),
}
_GATE: dict[str, Reader[Any]] = {
    "backend": choice("auto", "iptables", "nftables", "haproxy"),
    "method": choice("reject", "redirect"),
    "lease": seconds(least=15, most=3600),
    "bypass": choice("mark", "address"),
    "socket": _socket,
    "backend_name": _backend_name,
}
_HISTORY: dict[str, Reader[Any]] = {
    "file": _history_file,
}
_METRICS: dict[str, Reader[Any]] = {
    "listen": _listen,
}
_TOP: dict[str, Reader[Any]] = {
    "gate": _gate,
    "metrics": section(MetricsPolicy, _METRICS),
    "history": _history,
    "groups": _groups,
}
_CONFIG = section(_make_config, _TOP, {"groups": _NO_GROUPS}, _check_config)
