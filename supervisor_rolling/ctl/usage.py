"""The commands, in one table: what each takes, what its help says, and what its words may be completed to."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from supervisor_rolling.core.share import parse_share

PREFIX = "rolling_"
"""Of all commands in supervisorctl."""

MAX_ROLLOUTS = 500
"""That one answer of ``rolling_history`` has."""

HELP_COLUMN = 30
"""Where the help of an option begins. The text has to be short enough for 80 columns."""


class UsageError(Exception):
    """The command line is wrong; the text says how."""


@dataclass(frozen=True)
class Option:
    """``metavar``: it takes a value, which ``read`` turns into what the command gets; empty: it takes none. ``short``:
    what may be said instead of the flag."""

    flag: str
    help: str
    metavar: str = ""
    read: Callable[[str], object] = str
    short: str = ""


@dataclass(frozen=True)
class Command:
    """``about``: in a few words. ``usages``: what stands after the name, and what that does. ``words``: how many words
    that are no options there are, as argparse has it. ``names``: what these are, so that they can be completed: a
    group, or a process, too."""

    about: str
    usages: Sequence[tuple[str, str]]
    options: Sequence[Option] = ()
    words: int | str = 1
    names: str = "group"


class _Parser(argparse.ArgumentParser):
    """argparse that neither exits nor prints."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _share(text: str) -> str:
    try:
        parse_share(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _number(text: str) -> int:
    if not text.isdigit() or not 0 < int(text[:4]) <= MAX_ROLLOUTS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {MAX_ROLLOUTS}")
    return int(text)


JSON = Option("--json", "answer with one JSON object")

COMMANDS: Mapping[str, Command] = {
    "rolling_restart": Command(
        "replace processes, a few at a time",
        [
            ("<group>", "Replace all processes, a few at a time"),
            ("<group>:<name> ...", "Replace these processes of a group"),
        ],
        [
            Option("--max-unavailable", "this many at a time", "N|N%", _share),
            Option("--dry-run", "say what would be done, touch nothing"),
            Option("--no-wait", "come back when the rollout has begun"),
            Option("--force", "even the last one that serves, whatever\na check finds"),
        ],
        words="+",
        names="process",
    ),
    "rolling_status": Command(
        "what rollouts, what is closed, what is warm",
        [
            ("", "The rollout of every group"),
            ("<group>", "Its rollout, and for every process whether\nit is warm or closed, and why"),
        ],
        words="?",
    ),
    "rolling_pause": Command(
        "let nobody leave any more", [("<group>", "Nobody leaves any more, who has left is\nbrought back; see resume")]
    ),
    "rolling_resume": Command(
        "go on with a rollout",
        [("<group>", "Go on with a rollout that was paused, failed\nor aborted: what is new stays")],
        [Option("--no-wait", "come back when it goes on")],
    ),
    "rolling_abort": Command(
        "end a rollout", [("<group>", "End the rollout: nobody leaves any more, who\nhas left is brought back")]
    ),
    "rolling_history": Command(
        "the last rollouts",
        [
            ("", "The last rollouts of every group, the newest\nlast: who asked, when, how it ended"),
            ("<group>", "Those of a group"),
        ],
        [Option("--number", "so many of them (20)", "N", _number)],
        words="?",
    ),
    "rolling_report": Command(
        "a rollout as a page of HTML",
        [
            ("[<rollout>]", "A rollout, by its number in rolling_history, as\na page of HTML (the last one)"),
            ("<group>", "The last one of a group; <group>:* where its\nname is a number"),
        ],
        [Option("--output", "write it there, not to standard output", "FILE", short="-o")],
        words="?",
    ),
    "rolling_check": Command(
        "what is wrong with the set-up",
        [("<group>", "Look for what is wrong with the set-up of\na group, touch no process")],
    ),
}


def parse(command: str, words: Sequence[str]) -> argparse.Namespace:
    """What stands after a command: ``group``, a word or a list of them, and a field for each option. Raises
    UsageError."""
    known = COMMANDS[command]
    parser = _Parser(prog=command, add_help=False, allow_abbrev=False)
    parser.add_argument("group", nargs=known.words, metavar="GROUP")
    for option in (JSON, *known.options):
        flags = [option.flag, *([option.short] if option.short else [])]
        if option.metavar:
            parser.add_argument(*flags, metavar=option.metavar, type=option.read)
        else:
            parser.add_argument(*flags, action="store_true")
    return parser.parse_args(list(words))


def help_text(command: str, prefix: str = PREFIX) -> str:
    """What ``help COMMAND`` prints: no line is longer than 80 columns. ``prefix``: how a command is written before the
    rest of its name."""
    known = COMMANDS[command]
    usages = [_entry(f"{prefix}{verb(command)} {after}".rstrip(), text) for after, text in known.usages]
    options = [_entry(f"  {_written(o)}", o.help) for o in (*known.options, JSON)]
    return "\n".join([*usages, *options])


def verb(command: str) -> str:
    """A command without the prefix that it has in supervisorctl."""
    return command[len(PREFIX) :]


_COMMAND = re.compile(rf"(?<![\w./-])(?:supervisorctl )?(help )?{PREFIX}({'|'.join(map(verb, COMMANDS))})(?![\w-])")


_OTHER = re.compile(r"(?<![\w./-])supervisorctl (?=(?:tail|maintail|start|stop|restart|status|reload|update|signal)\b)")

WHERE = ("-c", "--configuration", "-s", "--serverurl")
"""The options of supervisorctl that tell where supervisord is."""


def called_as(text: str, program: str, where: str = "") -> str:
    """A text that tells of our commands as supervisorctl has them, with the verbs of the program ``program``.
    ``where``: the options that all commands need to find supervisord. A word alone is a name and stays."""
    if " " not in text:
        return text
    at = f"{where} " if where else ""
    text = _COMMAND.sub(lambda found: f"{program} {found[1] or at}{found[2]}", text)
    return _OTHER.sub(lambda found: f"{found[0]}{at}", text)


def where_told(given: Sequence[tuple[str, str]]) -> str:
    """Those of the options given to a program that tell where supervisord is, as a shell reads them."""
    return shlex.join(word for flag, value in given if flag in WHERE for word in (flag, value))


_TAIL = re.compile(r"(?<![\w./-])supervisorctl tail (\S+) stderr(?![\w-])")
NOT_FILES = ("/dev/", "/proc/")
"""Where a log begins that is the output of supervisord, or of its container."""


def with_logs(text: str, info_of: Callable[[str], Mapping[str, Any]]) -> str:
    """A text that sends to the stderr of processes, with the log that each of them has. ``info_of`` gives what
    supervisord tells of one, as ``getProcessInfo``; nothing where it cannot tell."""
    return _TAIL.sub(lambda found: _log_text(found, info_of(found[1])), text)


def _log_text(found: re.Match[str], info: Mapping[str, Any]) -> str:
    kept = [one for one in ("stderr", "stdout") if _is_kept(str(info.get(f"{one}_logfile") or ""))]
    if not info or "stderr" in kept:
        return found[0]
    if kept:
        return f"supervisorctl tail {found[1]} stdout"
    return f"the output of {found[1]}, of which supervisord keeps no file (in a container: the log of the container)"


def _is_kept(path: str) -> bool:
    return bool(path) and (path.startswith("/dev/shm/") or not path.startswith(NOT_FILES))


def _written(option: Option) -> str:
    flags = ", ".join(filter(None, (option.short, option.flag)))
    return f"{flags} {option.metavar}".rstrip()


def _entry(head: str, text: str) -> str:
    gap = " " * HELP_COLUMN
    lines = text.replace("\n", "\n" + gap)
    return f"{head:<{HELP_COLUMN}}{lines}" if len(head) < HELP_COLUMN - 1 else f"{head}\n{gap}{lines}"


def completions(line: str, text: str, processes: Callable[[], Sequence[Mapping[str, str]]]) -> list[str] | None:
    """What the last word of a command line may become: ``text`` is as much of it as there is. None where the command is
    not one of ours. ``processes`` gives supervisord's: structs of group and name. The value of an option is not known
    to anybody here."""
    first = line.split()[:1]
    if not first or first[0] not in COMMANDS or (len(line.split()) == 1 and not line.endswith(" ")):
        return None
    known = COMMANDS[first[0]]
    takes_value = {flag for one in known.options if one.metavar for flag in (one.flag, one.short)}
    if line[: len(line) - len(text)].split()[-1] in takes_value:
        return []
    if text.startswith("-"):
        found = [option.flag for option in (*known.options, JSON)]
    else:
        found = _names(known, text, processes())
    return [one + " " for one in found if one.startswith(text)]


def _names(command: Command, text: str, processes: Sequence[Mapping[str, str]]) -> list[str]:
    """The groups; where a process may be named, and a group is typed, its processes."""
    groups = sorted({process["group"] for process in processes})
    if command.names != "process" or ":" not in text:
        return groups
    return sorted(f"{process['group']}:{process['name']}" for process in processes)
