"""The commands, from the table in ``ctl/usage.py``, and their exit statuses, from ``ctl/exit_status.py``."""

from __future__ import annotations

from from_code.rst import comments, definitions, directive, joined, section
from supervisor_rolling.ctl import exit_status, program
from supervisor_rolling.ctl.usage import COMMANDS, HELP_COLUMN, Command, Option, verb


def reference() -> str:
    """A section for each command, with the options that are its own."""
    return joined(*(_command(verb(name), command) for name, command in COMMANDS.items()))


def program_options() -> str:
    """What stands before the command of ``supervisor_rolling``."""
    found: dict[str, str] = {}
    for line in program.OPTIONS.splitlines():
        flags, text = line[:HELP_COLUMN].strip(), line[HELP_COLUMN:].strip()
        if flags:
            latest = flags
        found[latest] = f"{found.get(latest, '')} {text}"
    return definitions({f"``{flags}``": _sentence(text) for flags, text in found.items()})


def exit_statuses() -> str:
    """What each means."""
    texts = comments(exit_status)
    known = {name: value for name, value in vars(exit_status).items() if isinstance(value, int)}
    return definitions({f"``{status}``": texts["", name] for name, status in known.items()})


def _command(name: str, command: Command) -> str:
    usages = definitions({f"``{name} {after}".rstrip() + "``": _sentence(text) for after, text in command.usages})
    options = [_option(option) for option in command.options]
    where = "" if command.is_in_supervisorctl else "A verb of ``supervisor_rolling`` only."
    return section(name, where, usages, directive("program", f"supervisor_rolling {name}"), *options)


def _option(option: Option) -> str:
    flags = ", ".join(f"{flag} {option.metavar}".rstrip() for flag in (option.short, option.flag) if flag)
    return directive("option", flags, _sentence(option.help))


def _sentence(text: str) -> str:
    """A text of ``help`` as a sentence in one line."""
    line = " ".join(text.split())
    return f"{line[0].upper()}{line[1:]}."
