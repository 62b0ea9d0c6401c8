"""The commands in one table: what each takes, and its help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from supervisor_rolling.core.public_view import MAX_HISTORY
from supervisor_rolling.core.share import parse_share

PREFIX = "rolling_"
"""Of every command in supervisorctl."""

HELP_COLUMN = 30
"""Where the text of an option begins; no line of help is longer than 80 columns."""


class UsageError(Exception):
    """The command line is wrong; the text says how."""


@dataclass(frozen=True)
class Option:
    """An option of a command."""

    flag: str
    help: str
    metavar: str = ""  # empty: it takes no value
    read: Callable[[str], object] = str  # from the typed value to what the command gets
    short: str = ""  # the same flag in one letter


@dataclass(frozen=True)
class Command:
    """A command, as ``COMMANDS`` has it by name."""

    about: str
    usages: Sequence[tuple[str, str]]  # what follows the name, and what that does
    options: Sequence[Option] = ()
    words: int | str = 1  # argparse's nargs of the words that are not options; "*": processes may be named
    is_in_supervisorctl: bool = True  # false: a verb of the program supervisor_rolling only


def _share(text: str) -> str:
    try:
        parse_share(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _number(text: str) -> int:
    if not text.isdigit() or not 0 < int(text[:4]) <= MAX_HISTORY:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_HISTORY}")
    return int(text)


JSON = Option("--json", "print one JSON object")

COMMANDS: Mapping[str, Command] = {
    "rolling_restart": Command(
        "restart processes, a few at a time",
        [
            ("<group>", "Restart every process of a group, a few at\na time"),
            ("<group>:<name> ...", "Restart these processes of a group"),
            ("<group> ...", "Restart these groups, one after another; stop\nat the first that fails"),
        ],
        [
            Option("--all", "all groups of rolling.yaml, in its order, but\nthose that are stopped"),
            Option("--max-unavailable", "replace at most so many at a time", "N|N%", _share),
            Option("--dry-run", "print what would be done, change nothing"),
            Option("--no-wait", "return as soon as the rollout has started"),
            Option("--force", "ignore failed checks, and allow restarting the\nlast serving process"),
        ],
        words="*",
    ),
    "rolling_status": Command(
        "rollouts, and what is closed or not warm",
        [
            ("", "The rollout of every group"),
            ("<group>", "Its rollout; for each process whether it is\nwarm and whether its port is open, and why"),
        ],
        words="?",
    ),
    "rolling_pause": Command(
        "pause a rollout",
        [("<group>", "Start no further restarts; those under way are\nfinished. Continue with rolling_resume")],
    ),
    "rolling_resume": Command(
        "continue a rollout",
        [("<group>", "Continue a rollout that was paused, failed or\naborted; replaced processes are left alone")],
        [Option("--no-wait", "return as soon as the rollout has continued")],
    ),
    "rolling_abort": Command(
        "end a rollout",
        [
            (
                "<group>",
                "End the rollout: start no further restarts, and\nbring the processes under way back into service",
            )
        ],
    ),
    "rolling_history": Command(
        "the last rollouts",
        [
            ("", "The last rollouts of every group, the newest\nlast: when, by which user, and the result"),
            ("<group>", "The last rollouts of a group"),
        ],
        [Option("--number", "print so many of them (default: 20)", "N", _number)],
        words="?",
    ),
    "rolling_report": Command(
        "a rollout as a page of HTML",
        [
            ("[<rollout>]", "A rollout as a page of HTML, by its number in\nrolling_history (default: the last one)"),
            ("<group>", "The last rollout of a group; <group>:* if its\nname is a number"),
        ],
        [Option("--output", "write it to this file, not to standard output", "FILE", short="-o")],
        words="?",
    ),
    "rolling_check": Command(
        "check the set-up of a group",
        [("<group>", "Check the set-up of a group; no process is\ntouched. Fails on errors, not on warnings")],
    ),
    "rolling_setup": Command(
        "write the plugin's configuration for this host",
        [
            ("", "Look at the running supervisord and write the\nplugin's configuration, for all groups that fit"),
            ("<group> ...", "For these groups"),
        ],
        [
            Option("--dry-run", "print what would be written, change nothing"),
            Option("--yes", "do not ask before writing"),
            Option("--reload", "then reload supervisord, which restarts every\nprogram, and check the groups"),
            Option("--remove", "remove what setup wrote, and stop the listener"),
        ],
        words="*",
        is_in_supervisorctl=False,
    ),
}

IN_SUPERVISORCTL = {name: command for name, command in COMMANDS.items() if command.is_in_supervisorctl}
"""The others are verbs of the program supervisor_rolling alone."""


class _Parser(argparse.ArgumentParser):
    """argparse that neither exits nor prints."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def parse(command: str, words: Sequence[str]) -> argparse.Namespace:
    """What follows a command: ``group``, a word or a list of them, and a field for each option. Raises UsageError."""
    known = COMMANDS[command]
    parser = _Parser(prog=command, add_help=False, allow_abbrev=False)
    parser.add_argument("group", nargs=known.words, metavar="GROUP")
    for option in (JSON, *known.options):
        flags = filter(None, (option.flag, option.short))
        if option.metavar:
            parser.add_argument(*flags, metavar=option.metavar, type=option.read)
        else:
            parser.add_argument(*flags, action="store_true")
    found = parser.parse_args(list(words))
    if known.words == 1:
        found.group = found.group[0]
    return found


def targets(names: Sequence[str]) -> list[str]:
    """The groups that words name, each once, where they name whole groups; else empty. Raises UsageError."""
    if not names:
        raise UsageError("name a group, or --all")
    _check_printable(names)
    groups = list(dict.fromkeys(map(group_of, names)))
    return [] if len(groups) == 1 or any(":" in name.removesuffix(":*") for name in names) else groups


def target(names: Sequence[str]) -> tuple[str, list[str]]:
    """The group that words name, and the processes of it; no processes stands for all. Raises UsageError."""
    _check_printable(names)
    groups = {group_of(name) for name in names}
    if len(groups) > 1:
        raise UsageError(f"processes of one group, or whole groups, not {', '.join(sorted(groups))}")
    processes = [name.partition(":")[2] for name in names]
    return groups.pop(), [] if {"", "*"}.intersection(processes) else processes


def _check_printable(names: Sequence[str]) -> None:
    for name in names:
        if not name.isprintable():  # XML could not carry it either
            raise UsageError(f"supervisord has no such name: {name!r}")


def name_of(word: str) -> str:
    """The one name that a word is, without the ``:*`` of a group: only supervisord knows whether ``app:app`` is the
    only process of its group. Raises UsageError."""
    group, processes = target([word])
    return ":".join([group, *processes])


def group_of(name: str) -> str:
    """The group of ``app``, ``app:*`` or ``app:web``."""
    return name.partition(":")[0]


def help_text(command: str, prefix: str = PREFIX) -> str:
    """What ``help COMMAND`` prints. ``prefix``: what stands before the verb."""
    known = COMMANDS[command]
    usages = [_entry(f"{prefix}{verb(command)} {after}".rstrip(), text) for after, text in known.usages]
    return "\n".join([*usages, *(_entry(f"  {_flags(o)}", o.help) for o in (*known.options, JSON))])


def verb(command: str) -> str:
    """A command without the prefix that it has in supervisorctl."""
    return command[len(PREFIX) :]


def _flags(option: Option) -> str:
    flags = ", ".join(filter(None, (option.short, option.flag)))
    return f"{flags} {option.metavar}".rstrip()


def _entry(head: str, text: str) -> str:
    gap = " " * HELP_COLUMN
    lines = text.replace("\n", "\n" + gap)
    return f"{head:<{HELP_COLUMN}}{lines}" if len(head) < HELP_COLUMN - 1 else f"{head}\n{gap}{lines}"
