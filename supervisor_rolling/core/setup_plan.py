"""What ``supervisor_rolling setup`` would write on a host, and why not: a plan made from what was seen.

It adds two files and changes none that the operator wrote. A file of ours begins with a line that has a checksum of the
rest, so that ``--remove`` and a second run can tell whether the operator has changed it.
"""

from __future__ import annotations

import fnmatch
import hashlib
import posixpath
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from supervisor_rolling.core.reason import with_see
from supervisor_rolling.core.setup_facts import (
    CTLPLUGIN,
    LISTENER,
    RPCINTERFACE,
    FileChange,
    Host,
    InspectedGroup,
    Inspection,
    Plan,
)
from supervisor_rolling.core.text import listed

POLICY = "rolling.yaml"
_SIGNATURE = "Written by supervisor_rolling setup ("
_REMOVE = "To remove it: supervisor_rolling setup --remove"


# --- files of ours


def signed(text: str, comment: str) -> str:
    """A text below the line that says that it is ours. ``comment``: what begins a comment."""
    return f"{comment} {_SIGNATURE}{_checksum(text)}). {_REMOVE}\n{text}"


def is_ours(text: str) -> bool:
    """Whether ``setup`` wrote a file or the end of it."""
    return _SIGNATURE in text


def split_ours(text: str) -> tuple[str, str] | None:
    """What the operator wrote of a file, and what ``setup`` wrote below it; None where setup wrote nothing, or the
    operator has changed that."""
    before, signature, after = text.rpartition(_SIGNATURE)
    head, _, ours = after.partition("\n")
    return (before[: before.rfind("\n") + 1], ours) if signature and head.startswith(_checksum(ours)) else None


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


@dataclass(frozen=True)
class Place:
    """Where the sections go."""

    path: str
    to_add: str = ""  # lines for supervisord.conf, without which it does not read that file


def place_of_sections(host: Host) -> Place:
    """The file that has them; else one that the [include] of supervisord.conf reads; else one beside supervisord.conf,
    and what to add to that."""
    if there := _there(host):
        return Place(host.sections[there[0]].file)
    includes = host.includes
    for pattern in includes or ():
        directory, name = posixpath.split(pattern)
        path = posixpath.join(directory, name.replace("*", "rolling", 1))
        if not set("*?[") & set(directory) and "*" in name and fnmatch.fnmatchcase(path, pattern):
            return Place(posixpath.normpath(path))
    path = posixpath.join(posixpath.dirname(host.main_file), "rolling.conf")
    if path in (includes or ()):
        return Place(path)
    return Place(path, f"[include]\nfiles = {path}" if includes is None else f"files = {' '.join([*includes, path])}")


def _there(host: Host) -> list[str]:
    """Those of the two sections that supervisord's configuration has."""
    return [name for name in (RPCINTERFACE, LISTENER) if name in host.sections]


def policy_path(host: Host) -> str:
    """The rolling.yaml that the listener reads, or would read."""
    if LISTENER in host.sections:
        return host.sections[LISTENER].policy
    return posixpath.join(posixpath.dirname(host.main_file), POLICY)


# --- the plan


def make_plan(host: Host, found: Inspection | None, wanted: Sequence[str]) -> Plan:
    """What to write so that these groups, or without any all that fit, have rollouts. ``found``: None where the
    listener's program could not run."""
    if host.plugin_problem or found is None:
        return Plan(problems=tuple(_not_importable(host)))
    problems = [*_mismatch(host), *_incomplete(host)]
    workers = [group.name for group in found.groups if group.is_without_sockets and group.name in wanted]
    fitting = [group for group in found.groups if group.name in workers or not unfit(group)]
    for name in wanted:
        problems += _unusable(host, found, name)
    if not fitting and not found.policy_groups and not problems:
        problems.append(_NONE_FITS + "\n".join(f"  {group.name}: {unfit(group)}" for group in found.groups))
    chosen = [group for group in fitting if not wanted or group.name in wanted]
    new = [group for group in chosen if group.name not in found.policy_groups]
    gate = _haproxy_gate(found, new)
    parts = [_sections_plan(host), _policy_plan(host, new, gate)]
    if found.policy_problem and not parts[1].files:  # else what counts is the text with its new groups: ``verified``
        parts[1] = Plan(problems=(with_see(found.policy_problem, "setup.changed"),))
    problems += [problem for part in parts for problem in part.problems]
    return Plan(
        files=tuple(change for part in parts for change in part.files) if not problems else (),
        seen=tuple(_seen(host, found, chosen, bool(gate))),
        advice=tuple(_advice(host, found, chosen, bool(gate))),
        problems=tuple(problems),
        groups=tuple(dict.fromkeys([*found.policy_groups, *(group.name for group in chosen)])),
    )


def verified(plan: Plan, path: str, groups: Sequence[str], problem: str) -> Plan:
    """The plan, if the rolling.yaml that it would write has its groups; else why not. ``groups`` and ``problem``: what
    the listener reads in the new text."""
    if not problem and set(groups) == set(plan.groups):
        return plan
    why = problem or f"the groups would be {listed(groups)}"
    return replace(plan, files=(), problems=(with_see(f"no group can be added to {path}: {why}", "setup.changed"),))


_NONE_FITS = (
    with_see("no group has two processes that run and listen on ports or unix sockets of their own", "setup.unfit")
    + "\n"
)


def unfit(group: InspectedGroup) -> str:
    """Why a group cannot have rollouts; empty where it can."""
    if group.problem:
        return group.problem
    if not group.ports:
        return "no process runs, so its ports are not known. Fix: start it, then run setup again"
    if group.is_without_sockets:
        return (
            "it listens on nothing, as queue workers do. Fix: if no load balancer sends to it, name it, and it gets "
            f"ports: none: supervisor_rolling setup {group.name}"
        )
    if group.is_shared:
        return ""
    without = [name for name, those in group.ports.items() if not those and not group.unix.get(name)]
    if without:
        return f"{listed(without)} listens on no port and no unix socket, so nothing can be closed"
    if len(group.ports) < 2:
        return "it has one process, and nothing serves while that restarts. Fix: numprocs = 2 or more, each on a port"
    return ""


# --- what refuses it


def _not_importable(host: Host) -> Iterator[str]:
    if host.plugin_problem:
        yield with_see(
            f"supervisord (pid {host.pid}) runs with {host.python}, which cannot import the plugin: "
            f"{host.plugin_problem}. With the section [{RPCINTERFACE}] supervisord would exit at its next reload. "
            f"Fix: install supervisor_rolling for {host.python}",
            "setup.import",
        )
    else:
        yield with_see(f"the listener cannot start ({host.listener}): {host.listener_problem}", "setup.listener")


def _mismatch(host: Host) -> Iterator[str]:
    if host.plugin_version != host.version:
        yield with_see(
            f"supervisord's Python ({host.python}) has supervisor_rolling {host.plugin_version}, and this program is "
            f"{host.version}. Fix: install {host.version} for {host.python}",
            "setup.import",
        )


def _incomplete(host: Host) -> Iterator[str]:
    """One of the two sections alone, in a file that is not ours."""
    there = _there(host)
    if len(there) == 1 and not split_ours(host.files.get(host.sections[there[0]].file, "")):
        missing = LISTENER if there == [RPCINTERFACE] else RPCINTERFACE
        yield with_see(
            f"{host.sections[there[0]].file} has [{there[0]}] but no [{missing}]. Fix: add it (echo_rolling_conf "
            f"sections prints it), or remove [{there[0]}] and run setup again",
            "setup.changed",
        )


def _unusable(host: Host, found: Inspection, name: str) -> Iterator[str]:
    """Why a group that the operator named cannot have rollouts."""
    group = next((one for one in found.groups if one.name == name), None)
    if group is None:
        text = f"supervisord has no group {name} (the groups are: {listed(host.running, 10) or 'none'})"
        yield with_see(text, "command.group")
    elif name not in found.policy_groups and not group.is_without_sockets and unfit(group):
        yield with_see(f"{name}: {unfit(group)}", "setup.unfit")


# --- the files


def _sections_plan(host: Host) -> Plan:
    path = place_of_sections(host).path
    before = host.files.get(path)
    text = signed(sections_text(host), ";")
    is_replaceable = before is None or split_ours(before) is not None
    if before == text or (not is_replaceable and _there(host)):
        return Plan()  # as the operator wants it, or ``_incomplete`` has refused it
    if not is_replaceable:
        return Plan(problems=(_in_the_way(path, "the two sections", sections_text(host)),))
    if _BREAKS_LINE.search(_command(host)):
        why = f"supervisord.conf cannot have the command {_command(host)!r}. Fix: use paths without ; and #"
        return Plan(problems=(with_see(why, "setup.listener"),))
    return Plan(files=(FileChange(path, text, before),))


def sections_text(host: Host) -> str:
    """The sections for supervisord.conf, in which ``%`` begins an expansion."""
    listener = {**host.defaults[LISTENER], "command": _command(host).replace("%", "%%")}
    if not host.is_root:  # supervisord cannot change the user then
        listener.pop("user", None)
    parts = [(RPCINTERFACE, host.defaults[RPCINTERFACE]), (LISTENER, listener)]
    return "\n".join(f"[{name}]\n" + "".join(f"{k} = {v}\n" for k, v in those.items()) for name, those in parts)


def _command(host: Host) -> str:
    return f"{host.listener} --config {shlex.quote(policy_path(host))}"


_BREAKS_LINE = re.compile(r"[\r\n]|\s[;#]")
"""Ends a value of supervisord.conf, also within quotes."""


def _haproxy_gate(found: Inspection, new: Sequence[InspectedGroup]) -> str:
    """The key ``gate`` where nothing can close a port and HAProxy can drain the only group with ports, which needs no
    rights."""
    with_ports = [group for group in new if group.needs_gate]
    if found.gate or found.policy_groups or len(with_ports) != 1 or not with_ports[0].haproxy:
        return ""
    socket, backend = with_ports[0].haproxy
    keys = f"  socket: {_in_quotes(socket)}\n  backend_name: {_in_quotes(backend)}\n"
    return f"# No port can be closed here, so HAProxy drains its servers.\ngate:\n  backend: haproxy\n{keys}\n"


def _policy_plan(host: Host, new: Sequence[InspectedGroup], gate: str) -> Plan:
    if not new:
        return Plan()
    path = policy_path(host)
    before = host.files.get(path)
    added = "".join(map(_group_text, new))
    text = signed(f"{_POLICY_HEAD}{gate}groups:\n{added}", "#") if before is None else _with_groups(before, added)
    if text:
        return Plan(files=(FileChange(path, text, before),))
    return Plan(problems=(_in_the_way(path, "these groups", added),))


def _with_groups(text: str, added: str) -> str:
    """rolling.yaml with groups below those that it has; empty where it is not seen how."""
    if parts := split_ours(text):
        return parts[0] + signed(parts[1] + added, "#")
    body = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    keys = [number for number, line in enumerate(body) if not line[0].isspace()]
    if text and not text.endswith("\n"):
        text += "\n"
    if not any(line.startswith("groups:") for line in body):
        return text + signed(f"groups:\n{added}", "#")
    below = body[keys[-1] + 1 :]
    if body[keys[-1]].partition("#")[0].rstrip() != "groups:":
        return ""  # another key is the last one, or {…}
    indent = below[0][: len(below[0]) - len(below[0].lstrip())] if below else "  "
    return text + signed("".join(f"{indent}{line[2:]}\n" for line in added.splitlines()), "#")


_POLICY_HEAD = "# Every key and its default: echo_rolling_conf yaml\n\n"


def _group_text(group: InspectedGroup) -> str:
    """The policy of a group; a later one can be added below it."""
    ports = "auto            # those that each process listens on"
    if group.is_without_sockets:
        ports = "none            # they listen on nothing, so nothing is closed"
    elif group.is_shared:
        ports = "shared          # they accept on one socket, so nothing is closed"
    lines = [f"  {_quoted(group.name)}:", f"    ports: {ports}"]
    warmup = [f"      ready: {group.ready}"] if group.ready else []
    if 200 <= group.root_status < 300:
        warmup += ["      requests:", "        - /                # add the pages that are slow at first"]
    if warmup:
        lines += ["    warmup:", *warmup]
    if group.nginx:
        lines += ["    balancer:", f"      nginx: {_in_quotes(group.nginx)}"]
    return "\n".join(lines) + "\n"


def _quoted(name: str) -> str:
    """A name as YAML has it: ``no`` and ``8000`` are no names without quotes."""
    is_plain = name.replace("-", "").replace("_", "").isalpha() and name[0].isalpha() and name.lower() not in _WORDS
    return name if is_plain else _in_quotes(name)


def _in_quotes(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def _in_the_way(path: str, what: str, lines: str) -> str:
    added = "\n".join(f"  {line}" for line in lines.rstrip("\n").split("\n"))
    text = (
        f"{path} was not written by setup, or was changed since, and is not overwritten. Fix: add {what} to it, or "
        "move it away and run setup again"
    )
    return f"{with_see(text, 'setup.changed')}\n{added}"


# --- what the operator reads


def _why(found: Inspection) -> str:
    return "" if found.gate else f": {found.gate_problem}"


def _seen(host: Host, found: Inspection, chosen: Sequence[InspectedGroup], has_haproxy: bool) -> Iterator[str]:
    yield f"supervisord: pid {host.pid}, user {host.user}, {host.main_file}, {host.python}: it can import the plugin"
    yield f"gate: {found.gate or 'haproxy, because no port can be closed' * has_haproxy or 'none'}{_why(found)}"
    for group in chosen:
        ports = sorted(port for those in group.ports.values() for port in those)
        ready = f", {group.ready} answers 200" if group.ready else ""
        paths = [] if ports else [path for those in group.unix.values() for path in those]
        listens = f"unix sockets {listed(paths, 8)}{ready}" if paths else "listening on nothing, as queue workers do"
        listens = f"ports {listed(map(str, ports), 8)}{ready}" if ports else listens
        if group.is_shared:
            listens = "which share their socket"
        yield f"{group.name}: {len(group.ports)} process{'es' * (len(group.ports) != 1)}, {listens}"
    for balancer in dict.fromkeys(group.balancer for group in chosen if group.balancer):
        yield f"load balancer: {balancer}"
    for group in found.groups:
        if unfit(group) and group not in chosen and group.name not in found.policy_groups:
            yield f"left out: {group.name}: {unfit(group)}"


def _advice(host: Host, found: Inspection, chosen: Sequence[InspectedGroup], has_haproxy: bool) -> Iterator[str]:
    if lines := place_of_sections(host).to_add:
        path = place_of_sections(host).path
        what = "add these lines" if host.includes is None else "change the line files of [include]"
        yield f"{with_see(f'{host.main_file} does not read {path}. Fix: {what}', 'setup.include')}\n{lines}"
    if not found.gate and not has_haproxy and any(group.needs_gate and any(group.ports.values()) for group in chosen):
        yield with_see("no port can be closed until one of the gates works, and rollouts are refused", "setup.gate")
    if CTLPLUGIN in host.sections and host.ctl_problem:
        yield with_see(host.ctl_problem, "setup.ctlplugin")
    for group in chosen:
        # With the gate haproxy it makes no difference what HAProxy does with a closed port.
        for finding in () if has_haproxy else group.findings:
            fix = f". Fix: {finding.fix}" if finding.fix else ""
            text = f"{finding.severity.value}: {finding.code}: {finding.where}: {finding.text}{fix}"
            yield with_see(text, finding.code)
        yield from _warmup_advice(group)


def _warmup_advice(group: InspectedGroup) -> Iterator[str]:
    if group.root_status == 400:
        yield (
            f"{group.name}: GET / answers 400, as Django does for a host that is not in ALLOWED_HOSTS. Fix: add "
            "warmup: {headers: {Host: example.org}, requests: [/]} to the group in rolling.yaml"
        )
    elif 300 <= group.root_status < 400:
        yield (
            f"{group.name}: GET / is answered by a redirect ({group.root_status}). Fix: add a page that answers 200 to "
            "warmup.requests of the group in rolling.yaml"
        )
