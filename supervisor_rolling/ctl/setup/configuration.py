"""supervisord.conf and the files that its [include] reads, as supervisord reads them."""

from __future__ import annotations

import configparser
import glob
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass

from supervisor.options import UnhosedConfigParser, expand

from supervisor_rolling.core.setup_facts import CTLPLUGIN, LISTENER, RPCINTERFACE, Section
from supervisor_rolling.ctl.exit_status import FAILED, CommandError

_POOL = "eventlistener:"


@dataclass(frozen=True)
class Configuration:
    """What concerns ``setup``."""

    includes: tuple[str, ...] | None  # the patterns of [include], as full paths; None: it has no [include]
    sections: Mapping[str, Section]  # ours
    pools: frozenset[str]  # the names of event listeners


def read_configuration(main_file: str, environment: Mapping[str, str]) -> Configuration:
    """The configuration of a supervisord with this environment. Raises CommandError where it cannot be read."""
    main = _parsed(main_file)
    includes = _includes(main, main_file, environment)
    files = [main_file, *(file for pattern in includes or () for file in sorted(glob.glob(pattern)))]
    parsers = {file: main if file == main_file else _parsed(file) for file in files}
    return Configuration(
        includes,
        {
            name: Section(file, {key: parser.get(name, key) for key in parser.options(name)})
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


def _includes(
    parser: configparser.RawConfigParser, main_file: str, environment: Mapping[str, str]
) -> tuple[str, ...] | None:
    if not parser.has_option("include", "files"):
        return None
    here = os.path.dirname(os.path.abspath(main_file))
    expansions = {f"ENV_{name}": value for name, value in environment.items()}
    text: str = expand(
        parser.get("include", "files"), {"here": here, "host_node_name": platform.node(), **expansions}, "include.files"
    )
    return tuple(os.path.normpath(os.path.join(here, pattern)) for pattern in text.split())
