"""The program ``supervisor_rolling``: supervisorctl's commands without supervisorctl's plugin.

supervisorctl loads a plugin only where its section stands in the file that it reads itself, not in an included one, and
not where it is given a URL alone. This program is told where supervisord is as supervisorctl is, has the same commands,
exits with the same status, and needs no section.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from supervisor.options import ClientOptions
from supervisor.supervisorctl import Controller

from supervisor_rolling import __version__
from supervisor_rolling.core.text import shown
from supervisor_rolling.ctl.commands import USAGE, RollingControllerPlugin
from supervisor_rolling.ctl.output import Output
from supervisor_rolling.ctl.usage import COMMANDS, PREFIX, help_text, verb

PROGRAM = "supervisor_rolling"

SCHEMES = ("http://", "unix://")
"""What supervisor's transport knows."""

OPTIONS = """\
  -c FILE                     supervisord's configuration, as for supervisorctl
  -s URL                      where supervisord listens, instead of what that
                              says: unix:///run/supervisor.sock, http://…:9001
  -u NAME, -p PASSWORD        who asks, where it wants to know
  -h, --version"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The program ``supervisor_rolling``. Returns its exit status: see README, Commands."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        print(__version__)
        return 0
    as_json = "--json" in words
    options = Options()
    try:
        options.realize(words, doc=_overview(), progname=PROGRAM)
        _require_known(options.serverurl)
    except _WrongError as error:
        return _tell(str(error), as_json)
    except SystemExit as end:  # the help was asked for
        return int(end.code or 0)
    if not options.args or options.args[0] == "help":
        return _help(options.args[1:], bool(options.args))
    first, *rest = options.args
    if PREFIX + first not in COMMANDS:
        return _tell(_no_such(first), as_json)
    controller = Controller(options)
    getattr(RollingControllerPlugin(controller, PROGRAM), f"do_{PREFIX}{first}")(" ".join(rest))
    return int(controller.exitstatus)


class _WrongError(Exception):
    """The options are wrong; the text says how."""


class Options(ClientOptions):
    """supervisorctl's options, without its plugins."""

    def usage(self, msg: object) -> NoReturn:
        """Have what is wrong told as everything else is that goes wrong. Raises _WrongError."""
        raise _WrongError(str(msg))

    def get_plugins(self, *_: Any) -> list[Any]:
        """None: those of others may be broken, and ours is here."""
        return []

    def read_config(self, fp: Any) -> Any:
        """A file without [supervisorctl] will do where the URL was given."""
        try:
            return ClientOptions.read_config(self, fp)
        except ValueError:
            if self.serverurl is None:
                raise
            return self.configroot.supervisorctl


def _overview() -> str:
    heads = [f"  {verb(command):<28}{known.about}" for command, known in COMMANDS.items()]
    lines = [f"{PROGRAM} [-c FILE | -s URL] VERB ...", "", *heads, "", OPTIONS, "", f"More: {PROGRAM} help VERB"]
    return "\n".join(lines)


def _require_known(url: str) -> None:
    """Raise _WrongError for a URL that supervisor takes, and then does not know how to talk to."""
    if not url.startswith(SCHEMES):
        raise _WrongError(f"nobody can talk to supervisord at {url!r}: {' or '.join(SCHEMES)} begins its URL")


def _help(verbs: Sequence[str], is_asked_for: bool) -> int:
    unknown = [one for one in verbs if PREFIX + one not in COMMANDS]
    if unknown:
        return _tell(_no_such(unknown[0]))
    print("\n".join(help_text(PREFIX + one, f"{PROGRAM} ") for one in verbs) or _overview())
    return 0 if is_asked_for else USAGE


def _no_such(found: str) -> str:
    known = ", ".join(map(verb, COMMANDS))
    return f"there is no {found} (there is: {known})"


def _tell(problem: str, as_json: bool = False) -> int:
    """What is wrong with the command line, as the commands tell it. Returns the exit status."""
    output, text = Output(sys.stdout), f"{problem}. Try: {PROGRAM} -h"
    if as_json:
        output.write(json.dumps({"error": text, "exit_status": USAGE}) + "\n")
    else:
        output.tell(shown(f"ERROR: {text}", output.encoding).split("\n"))
    return USAGE


if __name__ == "__main__":
    sys.exit(main())
