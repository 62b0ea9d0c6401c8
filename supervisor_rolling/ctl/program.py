"""The program ``supervisor_rolling``: the same commands without supervisorctl's plugin.

supervisorctl loads a plugin only from the file that it reads itself, not from an included one, and not when it is
given a URL alone. This program finds supervisord by the same options, and needs no section in supervisord.conf.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from supervisor.options import ClientOptions
from supervisor.supervisorctl import Controller

from supervisor_rolling import __version__
from supervisor_rolling.core.reason import with_see
from supervisor_rolling.core.text import shown
from supervisor_rolling.ctl.commands import RollingControllerPlugin
from supervisor_rolling.ctl.completion import print_completions
from supervisor_rolling.ctl.exit_status import USAGE
from supervisor_rolling.ctl.help_command import print_page
from supervisor_rolling.ctl.output import Output
from supervisor_rolling.ctl.supervisorctl_shell import all_processes
from supervisor_rolling.ctl.usage import COMMANDS, PREFIX, UsageError, help_text, verb
from supervisor_rolling.help import is_code

PROGRAM = "supervisor_rolling"

SCHEMES = ("http://", "unix://")
"""Those that supervisor's transport knows."""

OPTIONS = """\
  -c FILE                     the configuration of supervisord, as for
                              supervisorctl
  -s URL                      where supervisord listens, instead of what that
                              says: unix:///run/supervisor.sock, http://…:9001
  -u NAME, -p PASSWORD        if supervisord asks for them
  -h, --version               print this help, or the version"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        print(__version__)
        return 0
    if (
        len(words) == 2 and words[0] == "help" and PREFIX + words[1] not in COMMANDS and is_code(words[1])
    ):  # needs no supervisord
        return print_page(Output(sys.stdout), words[1])
    if words[:1] == ["complete"]:
        return print_completions(words[1:], lambda given: all_processes(Controller(_realized(given))))
    options = ProgramOptions()
    try:
        options.realize(words, doc=_overview(), progname=PROGRAM)
        if not options.serverurl.startswith(SCHEMES):
            raise UsageError(f"cannot connect to supervisord at {options.serverurl!r}: use {' or '.join(SCHEMES)}")
        first, *rest = options.args or ["help"]
        known = [_known(word) for word in (rest if first == "help" else [first])]
    except UsageError as error:
        return _fail(with_see(f"{error}. Try: {PROGRAM} -h", "command.usage"), "--json" in words)
    except SystemExit as end:  # -h
        return int(end.code or 0)
    if first == "help":
        text = "\n".join(help_text(command, f"{PROGRAM} ") for command in known) or _overview()
        Output(sys.stdout).write(f"{text}\n")
        return 0 if options.args else USAGE
    controller = Controller(options)
    RollingControllerPlugin(controller, PROGRAM).run(known[0], " ".join(rest))
    return int(controller.exitstatus)


class ProgramOptions(ClientOptions):
    """supervisorctl's options, without its plugins."""

    def usage(self, msg: object) -> NoReturn:
        """Raise UsageError, where supervisor prints and exits."""
        raise UsageError(str(msg))

    def get_plugins(self, *_: Any) -> list[Any]:
        """None: another plugin may be broken, and ours is here."""
        return []

    def read_config(self, fp: Any) -> Any:
        """Accept a file without [supervisorctl] if the URL was given."""
        try:
            return ClientOptions.read_config(self, fp)
        except ValueError:
            if self.serverurl is None:
                raise
            return self.configroot.supervisorctl


def _realized(words: Sequence[str]) -> ClientOptions:
    options = ProgramOptions()
    options.realize(list(words), doc="", progname=PROGRAM)
    return options


def _known(word: str) -> str:
    """The command of a verb. Raises UsageError."""
    if PREFIX + word not in COMMANDS:
        raise UsageError(f"there is no command {word} (the commands are: {', '.join(map(verb, COMMANDS))})")
    return PREFIX + word


def _overview() -> str:
    heads = [f"  {verb(command):<28}{known.about}" for command, known in COMMANDS.items()]
    lines = [f"{PROGRAM} [-c FILE | -s URL] COMMAND ...", "", *heads, "", OPTIONS]
    return "\n".join([*lines, "", f"More: {PROGRAM} help COMMAND", "The code at the end of a message: help CODE"])


def _fail(text: str, as_json: bool) -> int:
    output = Output(sys.stdout)
    if as_json:
        output.write(json.dumps({"error": text, "exit_status": USAGE}) + "\n")
    else:
        output.print(shown(f"ERROR: {text}", output.encoding).split("\n"))
    return USAGE


if __name__ == "__main__":
    sys.exit(main())
