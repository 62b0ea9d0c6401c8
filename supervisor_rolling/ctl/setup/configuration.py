"""supervisord.conf and the files that its [include] reads, as supervisord reads them."""

from __future__ import annotations

import configparser
import glob
import os
import platform
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from supervisor.options import UnhosedConfigParser, expand

from supervisor_rolling.core.policy import DEFAULT_FILE
from supervisor_rolling.core.setup_facts import CTLPLUGIN, LISTENER, RPCINTERFACE, Section
from supervisor_rolling.ctl.exit_status import FAILED, CommandError

_POOL = "eventlistener:"

_OF_PROGRAM: Mapping[str, object] = {
    "program_name": "rolling",
    "group_name": "rolling",
    "process_num": 0,
    "numprocs": 1,
}
"""What supervisord expands in the command of our listener, besides what it expands everywhere."""


@dataclass(frozen=True)
class Configuration:
    """What concerns ``setup``."""

    includes: tuple[str, ...] | None  # the patterns of [include], as full paths; None: it has no [include]
    sections: Mapping[str, Section]  # ours
    pools: frozenset[str]  # the names of event listeners


def read_configuration(main_file: str, environment: Mapping[str, str], directory: str) -> Configuration:
    """The configuration of a supervisord with this environment and working directory. Raises CommandError where it
    cannot be read."""
    main = _parsed(main_file)
    expansions = {
        "here": os.path.dirname(os.path.abspath(main_file)),
        "host_node_name": platform.node(),
        **{f"ENV_{name}": value for name, value in environment.items()},
    }
    includes = _includes(main, expansions)
    files = [main_file, *(file for pattern in includes or () for file in sorted(glob.glob(pattern)))]
    parsers = {file: main if file == main_file else _parsed(file) for file in files}
    return Configuration(
        includes,
        {
            name: Section(file, _policy(parser, expansions, directory) if name == LISTENER else "")
            for file, parser in parsers.items()
            for name in (RPCINTERFACE, LISTENER, CTLPLUGIN)
            if parser.has_section(name)
        },
        frozenset(name[len(_POOL) :] for one in parsers.values() for name in one.sections() if name.startswith(_POOL)),
    )


def _parsed(path: str) -> configparser.RawConfigParser:
    parser: configparser.RawConfigParser = UnhosedConfigParser()
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            parser.read_file(file)
    except (OSError, configparser.Error) as error:
        raise CommandError(f"{path} cannot be read: {error}", FAILED) from None
    return parser


def _includes(parser: configparser.RawConfigParser, expansions: Mapping[str, str]) -> tuple[str, ...] | None:
    if not parser.has_option("include", "files"):
        return None
    patterns = _expanded(parser, "include", "files", expansions).split()
    return tuple(os.path.normpath(os.path.join(expansions["here"], pattern)) for pattern in patterns)


def _policy(parser: configparser.RawConfigParser, expansions: Mapping[str, str], directory: str) -> str:
    """The rolling.yaml that the listener's command names."""
    try:
        words = shlex.split(_expanded(parser, LISTENER, "command", {**_OF_PROGRAM, **expansions}))
    except ValueError as error:  # quotes
        raise CommandError(f"command of [{LISTENER}] cannot be read: {error}", FAILED) from None
    path = DEFAULT_FILE
    for word, after in zip(words, [*words[1:], ""]):
        option, is_joined, value = word.partition("=")
        if option == "--config":
            path = value if is_joined else after
    return os.path.normpath(os.path.join(directory, path))


def _expanded(parser: configparser.RawConfigParser, section: str, key: str, expansions: Mapping[str, object]) -> str:
    try:
        return str(expand(parser.get(section, key, fallback=""), expansions, f"{section}.{key}"))
    except ValueError as error:
        raise CommandError(f"[{section}] cannot be read: {error}", FAILED) from None
