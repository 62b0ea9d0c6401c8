"""YAML text → policies: what every key of rolling.yaml means.

``load`` reads a file, ``parse`` is pure. A problem in one group makes that group invalid, and no other:
``Config.invalid``. Any other problem raises ConfigError. The message has all problems, a line for each:
``rolling.yaml:7: groups.app.drian: unknown key (did you mean drain?)``. What is not even YAML is a single problem.

The keys are the fields of ``core/policy.py``: the reader of each follows from its type and annotation. Only a new kind
of value needs a reader here, in ``_READERS``.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import re
import signal
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable

import yaml

from supervisor_rolling.core.errors import ConfigError
from supervisor_rolling.core.policy import (
    MAX_PORT,
    NOT_A_KEY,
    WEEK,
    Config,
    DrainPolicy,
    GatePolicy,
    Hook,
    OneOf,
    Policy,
    Port,
    PortRule,
    Range,
    Ready,
    Share,
    SocketRule,
    WarmupPolicy,
    WarmupRequest,
)
from supervisor_rolling.core.share import parse_share
from supervisor_rolling.listener.config.trusted_file import read
from supervisor_rolling.listener.config.yaml_entries import (
    MAX_CHARACTERS,
    Entry,
    Reader,
    attempt,
    each,
    one_or_each,
    open_document,
    section,
    suggestion,
    table,
)

AUTO = -1.0  # of min_ready_seconds
MAX_COMM = 15  # bytes of a program's name that the kernel keeps (TASK_COMM_LEN)

_DRAIN_SIGNALS = ("USR1", "USR2", "HUP", "WINCH", "URG", "TTIN", "TTOU")
"""What an application is free to handle. Not those that end or stop a process (TERM, INT, QUIT, KILL, STOP, …): TERM is
how supervisord stops one, and a process that stops loses its requests in flight. Nor those that the kernel sends for
faults."""

_UNITS = {"": 1, "s": 1, "sec": 1, "seconds": 1, "ms": 0.001, "m": 60, "min": 60, "h": 3600}
_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([a-z]*)")

_PORTS_FIX = (
    r"write a regex with one group around the port, such as 'app-(\d+)', or a map of process names to ports, or auto; "
    "or shared, where they accept on one socket, or none, where no load balancer sends to them"
)
_SOCKETS_FIX = (
    "write the full path with {name} for the name of the process, such as /run/app/{name}.sock, or a map of process "
    "names to paths, or auto"
)
_HOOK_FIX = (
    "write a list of arguments, the first of which is the full path of a program, such as [/srv/app/notify, done]"
)
_GROUPS_FIX = "name a group of supervisord, such as groups: {app: {}}"
_NO_PORT_FIXES = {
    "drain": "remove drain.request; drain.signal asks a worker to finish",
    "warmup": "write ready: {command: [/srv/app/ready]}, and no requests; or correct ports",
}
_KEYS_OF_PORTS = {
    "drain": ("min_seconds", "keepalive", "idle_after"),
    "warmup": ("proxies",),
    "guard": ("max_closed",),
    "balancer": ("nginx", "retries"),
}
"""By section: what concerns ports and connections alone."""

_KEYS_OF_SIGNAL = {"drain": ("timeout", "on_timeout")}
"""What becomes of a worker that was asked to finish."""

_HAPROXY_FIXES = {
    "socket": "write gate.socket: the path of HAProxy's stats socket, such as /run/haproxy/admin.sock",
    "backend_name": "write gate.backend_name: the backend section of haproxy.cfg that has the processes as servers",
}


def load(path: str) -> Config:
    """The configuration in a file. Raises ConfigError, with all problems, where no group can use it."""
    return parse(read(path, MAX_CHARACTERS + 1), path)


def parse(data: str | bytes, file: str) -> Config:
    """The configuration in a text, which messages call ``file``. Raises ConfigError as ``load``."""
    root = open_document(data, file)
    config: Config | None = attempt(_reader(Config), root)
    problems = sorted(root.document.problems, key=lambda problem: problem.line)
    of_groups = [problem for problem in problems if len(problem.path) > 1 and problem.path[0] == "groups"]
    if config is None or len(of_groups) < len(problems):
        raise ConfigError("\n".join(problem.text for problem in problems))
    by_group: dict[str, list[str]] = {}
    for problem in of_groups:
        by_group.setdefault(str(problem.path[1]), []).append(problem.text)
    groups = {name: policy for name, policy in config.groups.items() if name not in by_group}
    invalid = {name: "\n".join(problems) for name, problems in by_group.items()}
    return dataclasses.replace(config, groups=groups, invalid=invalid, places=_places(root))


def _places(root: Entry) -> dict[str, str]:
    """Where each group begins, as ``file:line``. One that a merge key brings in has none."""
    sections = root.node.value if isinstance(root.node, yaml.MappingNode) else []
    of_groups = [value for key, value in sections if key.value == "groups" and isinstance(value, yaml.MappingNode)]
    keys = [key for value in of_groups for key, _ in value.value]
    return {str(key.value): f"{root.document.file}:{key.start_mark.line + 1}" for key in keys}


# --- from a type to its reader


@functools.cache
def _reader(hint: Any) -> Reader[Any]:
    """The reader of a value of this type: a dataclass of ``core/policy.py``, or the type of one of its fields."""
    special = hint.__metadata__[0] if typing.get_origin(hint) is typing.Annotated else hint
    if isinstance(special, Range):
        return _whole(special) if hint.__origin__ is int else _seconds(special)
    if isinstance(special, OneOf):
        return functools.partial(_one_of, special)
    if special in _READERS:
        return _READERS[special]
    if typing.get_origin(hint) is tuple:
        return each(_reader(typing.get_args(hint)[0]))
    make, check = _MAKES.get(hint, (hint, None))
    return _or_switch(hint, section(make, keys_of(hint), {"groups": _GROUPS_FIX} if hint is Config else {}, check))


@functools.cache
def keys_of(kind: Any) -> dict[str, Reader[Any]]:
    """The keys of a section and their readers."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {
        field.name: _or_empty(_reader(hints[field.name])) if field.default == "" else _reader(hints[field.name])
        for field in dataclasses.fields(kind)
        if NOT_A_KEY not in getattr(hints[field.name], "__metadata__", ())
    }


def _or_empty(read_text: Reader[str]) -> Reader[str]:
    """Of a key that is empty by default."""
    return lambda entry: "" if entry.is_scalar("str") and not entry.node.value else read_text(entry)


def _or_switch(kind: Any, read_section: Reader[Any]) -> Reader[Any]:
    """Of a section that can be turned off as a whole: ``guard: false``."""
    if "enabled" not in kind.__dataclass_fields__:
        return read_section
    fix = f"write a mapping with the key {' or '.join(keys_of(kind))}, or false to turn it off"
    return lambda entry: read_section(entry) if entry.is_mapping else kind(enabled=entry.truth(fix))


# --- numbers and words


def _seconds(allowed: Range) -> Reader[float]:
    def read_seconds(entry: Entry) -> float:
        number = entry.number(_duration_fix(entry))
        if not allowed.least <= number <= allowed.most:
            fix = f"write a number of seconds from {allowed.least:g} to {allowed.most:g}"
            raise entry.wrong(f"{entry.shown} is out of range", fix)
        return float(number)

    return read_seconds


def _duration_fix(entry: Entry) -> str:
    match = _DURATION.fullmatch(entry.node.value) if entry.is_scalar("str") else None
    if match is None or match[2] not in _UNITS:
        return "write a number of seconds, such as 30"
    return f"write a number of seconds: {float(match[1]) * _UNITS[match[2]]:g}"


def _seconds_or_auto(entry: Entry) -> float:
    is_auto = entry.is_scalar("str") and entry.node.value == "auto"
    return AUTO if is_auto else _seconds(Range(0, WEEK))(entry)


def _whole(allowed: Range) -> Reader[int]:
    fix = f"write a whole number from {allowed.least:g} to {allowed.most:g}"

    def read_whole(entry: Entry) -> int:
        number = entry.number(fix)
        if isinstance(number, float) or not allowed.least <= number <= allowed.most:
            raise entry.wrong(f"{entry.shown} is not a whole number in range", fix)
        return number

    return read_whole


def _one_of(words: OneOf, entry: Entry) -> str:
    word = entry.text(f"write {' or '.join(words)}")
    if word not in words:
        raise entry.wrong(f"{entry.shown} is unknown{suggestion(word, words)}")
    return word


def _share(entry: Entry) -> Share:
    if not entry.is_scalar("int", "float", "str"):
        raise entry.wrong_type("write a number of processes or a percentage, such as 2 or 10%")
    try:
        return parse_share(entry.node.value)
    except ValueError as error:
        raise entry.wrong(str(error)) from None


# --- texts


def _text(is_valid: Callable[[str], object], what: str, fix: str, or_number: bool = False) -> Reader[str]:
    """Text for which ``is_valid`` is true; ``what`` is what others are not. ``or_number``: a number is text, too."""

    def read_text(entry: Entry) -> str:
        is_number = or_number and entry.is_scalar("int", "float")
        text = str(entry.node.value) if is_number else entry.text(fix)
        if not is_valid(text):
            raise entry.wrong(f"{entry.shown} is not {what}", fix)
        return text

    return read_text


def _matching(pattern: str) -> Callable[[str], object]:
    return re.compile(pattern).fullmatch


def _signal(entry: Entry) -> str:
    """The name of a signal, without SIG; supervisord knows all that this Python knows."""
    fix = f"write {', '.join(_DRAIN_SIGNALS[:-1])} or {_DRAIN_SIGNALS[-1]}"
    name = entry.text(fix).upper().removeprefix("SIG")
    if name not in _DRAIN_SIGNALS:
        is_known = f"SIG{name}" in signal.Signals.__members__
        raise entry.wrong(f"{entry.shown} {'would end or stop the process' if is_known else 'is unknown'}", fix)
    return name


def _is_supervisor_name(name: str) -> bool:
    """What supervisord allows as the name of a group or a process, without the * that stands for all."""
    return bool(name and name.isprintable() and not re.search(r"[:*/\s]", name))


def _is_program(name: str) -> bool:
    return 0 < len(name.encode()) <= MAX_COMM and name.isprintable()


def _is_listen_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        is_address = (ipaddress.ip_address(host.strip("[]")).version == 6) is is_bracketed
    except ValueError:
        return False
    return is_address and bool(re.fullmatch("[0-9]{1,5}", port)) and 0 < int(port) <= MAX_PORT


# --- values that can be written in more than one way


def _request(entry: Entry) -> WarmupRequest:
    if entry.is_mapping:
        return section(WarmupRequest, keys_of(WarmupRequest))(entry)
    if not entry.is_scalar("str"):
        raise entry.wrong_type("write a path, such as /, or a mapping, such as {method: POST, path: /login}")
    return WarmupRequest(path=_PATH(entry))


def _drain_request(entry: Entry) -> str:
    """A method and a path."""
    if entry.is_mapping:
        keys = {name: keys_of(WarmupRequest)[name] for name in ("method", "path")}
        request = section(WarmupRequest, keys)(entry)
        return f"{request.method} {request.path}"
    if not entry.is_scalar("str"):
        raise entry.wrong_type("write a path, such as /drain, or a mapping, such as {method: POST, path: /drain}")
    return f"GET {_PATH(entry)}"


def _ready(entry: Entry) -> Ready:
    if entry.is_mapping:
        return Ready(hook=section(Hook, keys_of(Hook), {"command": _HOOK_FIX})(entry))
    if not entry.is_scalar("str"):
        raise entry.wrong_type("write a path, such as /health, or a mapping, such as {command: [/srv/app/ready]}")
    return Ready(_or_empty(_PATH)(entry))


def _hook(entry: Entry) -> Hook:
    if not entry.is_mapping:
        return Hook(_command(entry))
    return section(Hook, keys_of(Hook), {"command": _HOOK_FIX})(entry)


def _command(entry: Entry) -> tuple[str, ...]:
    if not entry.is_list:
        raise entry.wrong_type(_HOOK_FIX)
    command = each(_ARGUMENT)(entry)
    if command and not command[0].startswith("/"):
        raise entry.wrong("does not begin with the full path of a program", _HOOK_FIX)
    return command


def _ports(entry: Entry) -> PortRule:
    if entry.is_mapping:
        return PortRule(by_name=_ports_by_name(entry))
    pattern = entry.text(_PORTS_FIX)
    if pattern in ("auto", "none", "shared"):
        return PortRule(auto=pattern == "auto", none=pattern == "none", shared=pattern == "shared")
    try:
        groups = re.compile(pattern).groups
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise entry.wrong(f"{entry.shown} is not a regex: {why}", _PORTS_FIX) from None
    if groups != 1:
        raise entry.wrong(f"{entry.shown} has {groups} groups", f"{_PORTS_FIX}; (?:...) does not count as a group")
    return PortRule(pattern=pattern)


def _sockets(entry: Entry) -> SocketRule:
    if entry.is_mapping:
        by_name = table(_SUPERVISOR_NAME, _socket_path, may_lack=True)(entry)
        owners: dict[str, str] = {}
        for name, path in by_name.items():
            if path in owners:
                entry.entries[name].wrong(f"{path} is that of {owners[path]} already", "give each process its own")
            owners.setdefault(path, name)
        return SocketRule(by_name=by_name)
    if entry.text(_SOCKETS_FIX) in ("", "auto"):
        return SocketRule(auto=entry.text(_SOCKETS_FIX) == "auto")
    return SocketRule(template=_socket_path(entry))


def _socket_path(entry: Entry) -> str:
    path = entry.text(_SOCKETS_FIX)
    if not path.startswith("/"):
        raise entry.wrong(f"{entry.shown} is not the full path of a unix socket", _SOCKETS_FIX)
    return path


def _ports_by_name(entry: Entry) -> dict[str, tuple[int, ...]]:
    if not entry.entries:
        raise entry.wrong("is empty", _PORTS_FIX)
    by_name: dict[str, tuple[int, ...]] = table(_SUPERVISOR_NAME, one_or_each(_reader(Port)), may_lack=True)(entry)
    owner: dict[int, str] = {}
    for name, ports in by_name.items():
        if not ports:
            entry.entries[name].wrong("is empty", "write the port that the process listens on")
        for port in ports:
            if port in owner:
                entry.entries[name].wrong(
                    f"port {port} is that of {owner[port]} already", "give each port to one process"
                )
            owner.setdefault(port, name)
    return by_name


def _groups(entry: Entry) -> dict[str, Policy]:
    if entry.is_a("null"):  # setup adds the first one
        return {}
    return table(_SUPERVISOR_NAME, _policy, may_lack=True)(entry)


def _policy(entry: Entry) -> Policy:
    def make(min_ready_seconds: float = AUTO, **values: Any) -> Policy:
        if min_ready_seconds == AUTO:
            return Policy(entry.name, **values)
        return Policy(entry.name, **values, min_ready_seconds=min_ready_seconds, min_ready_auto=False)

    return Policy(entry.name) if entry.is_a("null") else section(make, keys_of(Policy), check=_check_policy)(entry)


# --- values taken together


def _make_gate(**values: Any) -> GatePolicy:
    is_haproxy = values.get("backend") == "haproxy"
    return GatePolicy(**{**values, "bypass": "none"}) if is_haproxy else GatePolicy(**values)


def _check_gate(entries: Mapping[str, Entry], values: Mapping[str, Any]) -> None:
    backend = values.get("backend", GatePolicy.backend)
    for name, fix in _HAPROXY_FIXES.items():
        if backend == "haproxy" and values.get(name, "") == "":
            entries["backend"].wrong(f"haproxy needs gate.{name}", fix)
        elif backend not in ("haproxy", None) and values.get(name):
            entries[name].wrong_name("is used with `backend: haproxy` only", "remove it, or set gate.backend: haproxy")
    for name in ("method", "lease", "bypass") if backend == "haproxy" else ():
        if values.get(name) not in (None, getattr(GatePolicy, name)):
            entries[name].wrong("has no effect with backend: haproxy, which refuses no connection", "remove it")
    if (backend, values.get("method")) == ("nftables", "redirect"):
        entries["method"].wrong("redirect needs iptables", "write reject, or backend: iptables")


def _check_drain(entries: Mapping[str, Entry], values: Mapping[str, Any]) -> None:
    least, most = values.get("min_seconds", DrainPolicy.min_seconds), values.get("timeout", DrainPolicy.timeout)
    idle_after = values.get("idle_after", DrainPolicy.idle_after)
    if None in (least, most, idle_after):
        return
    if least > most:
        where = entries["min_seconds"]
        where.wrong(f"{least:g} is more than the timeout of {most:g}", "lower it, or raise drain.timeout")
    if values.get("keepalive") == "nginx" and idle_after >= most:
        entries.get("idle_after", entries["keepalive"]).wrong(
            f"with keepalive: nginx, idle_after ({idle_after:g}) must be below the timeout ({most:g})",
            "lower drain.idle_after, or raise drain.timeout",
        )


def _check_policy(entries: Mapping[str, Entry], values: Mapping[str, Any]) -> None:
    """Without a port of its own a process cannot be closed, and its connections are not known to be its own."""
    rule, drain, warmup = values.get("ports", Policy.ports), values.get("drain"), values.get("warmup")
    if warmup and warmup.socket and rule and not (rule.shared or rule.auto):
        entries["warmup"].entries["socket"].wrong_name("is used with ports: shared only", "remove it")
    sockets = values.get("sockets") or SocketRule()
    if sockets.is_used and rule is not None and rule != Policy.ports:
        entries["sockets"].wrong_name("says where the processes listen, and so does ports", "keep one of the two")
    if sockets.is_used and drain and drain.keepalive == "nginx":
        entries["drain"].entries["keepalive"].wrong("nginx works on ports only", "remove keepalive from the upstream")
    if rule is None or rule.are_own:
        return
    kind = "none" if rule.none else "shared"
    for name, asks in (("drain", drain and drain.request), ("warmup", rule.none and warmup and _asks_http(warmup))):
        if asks:
            why = f"sends a request, and with ports: {kind} no process has a port of its own"
            entries[name].wrong(why, _NO_PORT_FIXES[name])
    valid = {name: entries[name] for name, value in values.items() if value is not None}
    keys = {**_KEYS_OF_PORTS, "warmup": ("headers", "proxies")} if rule.none else _KEYS_OF_PORTS
    for entry in _written(valid, keys):
        entry.wrong_name(f"has no effect with ports: {kind}", "remove it")
    for entry in _written(valid, _KEYS_OF_SIGNAL) if drain and not drain.signal else ():
        entry.wrong_name(
            f"has no effect with ports: {kind} without drain.signal: its stop is the drain",
            f"remove it, and set stopwaitsecs in supervisord.conf to the longest {'job' if rule.none else 'request'}",
        )


def _written(entries: Mapping[str, Entry], keys: Mapping[str, Sequence[str]]) -> Iterator[Entry]:
    """Those of these keys, by section, that are in the file."""
    sections = [(entries[name].entries, keys[name]) for name in keys if name in entries and entries[name].is_mapping]
    return (found[key] for found, names in sections for key in names if key in found)


def _asks_http(warmup: WarmupPolicy) -> bool:
    return bool(warmup.ready.path or warmup.requests)


def _check_config(entries: Mapping[str, Entry], values: Mapping[str, Any]) -> None:
    gate, groups = values.get("gate"), values.get("groups")
    for name, policy in (groups or {}).items() if gate and gate.backend == "haproxy" else ():
        if policy.drain.keepalive == "nginx":
            drain = entries["groups"].entries[name].entries["drain"]
            drain.entries["keepalive"].wrong("nginx is not possible with gate.backend: haproxy", "remove it")


# --- the readers


_SUPERVISOR_NAME = (_is_supervisor_name, "is not a name in supervisord", "write one without : * / and white space")
_HEADER_NAME = (
    _matching(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"),
    "is not the name of a header",
    "write letters, digits and - only",
)
_HEADER_VALUE = _text(
    _matching(r"(?:[!-~\xa1-\xff](?:[ \t]*[!-~\xa1-\xff])*)?"),  # what http.client sends as it is
    "the value of a header",
    "put it in quotes, and write Latin-1 without line breaks and outer spaces",
    or_number=True,
)
_ARGUMENT = _text(lambda text: "\0" not in text, "an argument: it has a NUL", "remove it", or_number=True)
_METHOD = _text(_matching(r"[A-Za-z]+"), "an HTTP method", "write letters only, such as GET")
_PATH = _text(
    _matching(r"/[^\s\x00-\x1f\x7f]*"), "a path", "write one that begins with / and has no white space, such as /health"
)

_MAKES: dict[Any, tuple[Callable[..., Any], Any]] = {
    GatePolicy: (_make_gate, _check_gate),
    DrainPolicy: (DrainPolicy, _check_drain),
    Config: (Config, _check_config),
}
"""Of a section that is more than its keys: what makes it of them, and what checks them together."""

_READERS: dict[Any, Reader[Any]] = {
    # by annotation
    "seconds or auto": _seconds_or_auto,
    "path": _PATH,
    "method": lambda entry: _METHOD(entry).upper(),
    "headers": table(_HEADER_NAME, _HEADER_VALUE),
    "statuses": one_or_each(_whole(Range(100, 599))),
    "file": _text(_matching(r"/[^\0]*[^/\0]"), "a full path", "write the full path of a file, beginning with /"),
    "HAProxy name": _text(
        _matching(r"[A-Za-z0-9_.:-]{1,200}"), "a name in HAProxy", "write letters, digits, and - _ . : only"
    ),
    "signal": _signal,
    "drain request": _drain_request,
    "program": _text(_is_program, "the name of a program", "write it as ps -o comm shows it, such as docker-proxy"),
    "command": _command,
    "address and port": _text(_is_listen_address, "an address and port", "write one such as 127.0.0.1:9180"),
    # by type
    str: _text(lambda text: True, "", "put it in quotes"),
    bool: lambda entry: entry.truth("write true or false"),
    Share: _share,
    PortRule: _ports,
    SocketRule: _sockets,
    WarmupRequest: _request,
    Hook: _hook,
    Ready: _ready,
    Mapping[str, Policy]: _groups,
}
