"""Help and completion of our commands in supervisorctl, which has no other way for a plugin to offer them.

``help X`` asks every plugin, and each one that does not know X prints "No help on X"; completion is a list of
supervisor's own commands. So both methods of the controller are wrapped.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from supervisor_rolling.core.reason import with_see
from supervisor_rolling.ctl.exit_status import CONNECTION_ERRORS, USAGE
from supervisor_rolling.ctl.help_command import print_page
from supervisor_rolling.ctl.output import Output
from supervisor_rolling.ctl.usage import IN_SUPERVISORCTL, JSON, PREFIX, Command, help_text, verb
from supervisor_rolling.help import is_code


def extend_shell(controller: Any) -> None:
    """Have a ``supervisor.supervisorctl.Controller`` know the help and the words of our commands, and typing errors."""
    usual_help, usual_complete = getattr(controller, "do_help", None), getattr(controller, "complete", None)
    usual_default = getattr(controller, "default", None)
    found: list[str] | None = None

    def do_help(arg: str) -> None:
        if arg.strip() in IN_SUPERVISORCTL:
            controller.output(help_text(arg.strip()))
        elif is_code(arg.strip()):
            controller.exitstatus = print_page(Output(controller.stdout), arg.strip())
        elif usual_help:
            usual_help(arg)

    def complete(text: str, state: int, line: str | None = None) -> str | None:
        nonlocal found
        line = _line_buffer() if line is None else line
        if state == 0:  # readline asks for one match after another
            found = completions(line, text, lambda: all_processes(controller))
        if found is None:
            return usual_complete(text, state, line) if usual_complete else None
        return found[state] if state < len(found) else None

    def default(line: str) -> None:
        name = line.split()[0]
        if name.startswith(PREFIX):
            Output(controller.stdout).print(
                [with_see(f"ERROR: there is no command {name}{_similar(name)}", "command.usage")]
            )
            controller.exitstatus = USAGE
        elif usual_default:
            usual_default(line)

    controller.do_help, controller.complete, controller.default = do_help, complete, default


def _similar(name: str) -> str:
    close = difflib.get_close_matches(verb(name), map(verb, IN_SUPERVISORCTL), n=1)
    return f" (did you mean {PREFIX}{close[0]}?)" if close else f" (the commands are: {', '.join(IN_SUPERVISORCTL)})"


def completions(
    line: str,
    text: str,
    processes: Callable[[], Sequence[Mapping[str, str]]],
    commands: Mapping[str, Command] = IN_SUPERVISORCTL,
) -> list[str] | None:
    """What the last word of a command line may become; None if the command is not one of these. ``text``: as much of
    the word as there is. ``processes`` gives supervisord's, structs with group and name."""
    words = line.split()
    if not words or words[0] not in commands or (len(words) == 1 and not line.endswith(" ")):
        return None
    command = commands[words[0]]
    with_value = {flag for one in command.options if one.metavar for flag in (one.flag, one.short)}
    if line[: len(line) - len(text)].split()[-1] in with_value:
        return []
    if text.startswith("-"):
        found = [option.flag for option in (*command.options, JSON)]
    else:
        found = _names(command, text, processes())
    return [f"{one} " for one in found if one.startswith(text)]


def _names(command: Command, text: str, processes: Sequence[Mapping[str, str]]) -> list[str]:
    if command.words == "*" and ":" in text:
        return sorted(f"{process['group']}:{process['name']}" for process in processes)
    return sorted({process["group"] for process in processes})


def all_processes(controller: Any) -> Sequence[Mapping[str, str]]:
    """supervisord's ``getAllProcessInfo``; empty if it does not answer."""
    try:
        return list(controller.get_supervisor().getAllProcessInfo())
    except CONNECTION_ERRORS:
        return []


def _line_buffer() -> str:
    import readline  # only a shell needs it, and not every Python has it

    return readline.get_line_buffer()
