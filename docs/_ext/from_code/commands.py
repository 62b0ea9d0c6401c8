"""The commands, from the table in ``ctl/usage.py``, and their exit statuses, from ``ctl/exit_status.py``."""

from __future__ import annotations

import textwrap

from from_code.rst import comments, directive, joined, literal, section, table
from supervisor_rolling.ctl import exit_status, program
from supervisor_rolling.ctl.usage import COMMANDS, JSON, Command, Option, verb


def reference() -> str:
    """A section for each command."""
    return joined(*(_command(verb(name), command) for name, command in COMMANDS.items()))


def program_options() -> str:
    """What stands before the command of ``supervisor_rolling``."""
    return literal(textwrap.dedent(program.OPTIONS))


def exit_statuses() -> str:
    """A table."""
    texts = comments(exit_status)
    known = {value: texts["", name] for name, value in vars(exit_status).items() if ("", name) in texts}
    return table(("Status", "Meaning"), [(f"``{status}``", text) for status, text in known.items()], "15 85")


def _command(name: str, command: Command) -> str:
    usages = [f"``{name} {after}``".replace(" ``", "``") + f"\n    {_sentence(text)}" for after, text in command.usages]
    options = [_option(option) for option in (*command.options, JSON)]
    return section(name, *usages, directive("program", f"supervisor_rolling {name}"), *options)


def _option(option: Option) -> str:
    flags = ", ".join(f"{flag} {option.metavar}".rstrip() for flag in (option.short, option.flag) if flag)
    return directive("option", flags, _sentence(option.help))


def _sentence(text: str) -> str:
    """A text of ``help`` as a sentence in one line."""
    line = " ".join(text.split())
    return f"{line[0].upper()}{line[1:]}."
