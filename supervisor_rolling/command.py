"""The program ``supervisor_rolling``: supervisorctl's commands without supervisorctl's plugin.

supervisorctl loads a plugin only where its section stands in the file that it reads itself, not in an included one, and
not where it is given a URL alone. This program is told where supervisord is as supervisorctl is, has the same commands,
exits with the same status, and needs no section.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from supervisor.options import ClientOptions
from supervisor.supervisorctl import Controller

from supervisor_rolling import __version__
from supervisor_rolling.controllerplugin import USAGE, RollingControllerPlugin
from supervisor_rolling.in_supervisorctl.usage import COMMANDS, PREFIX, help_text, verb

PROGRAM = "supervisor_rolling"

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
    options = Options()
    try:
        options.realize(words, doc=_overview(), progname=PROGRAM)
    except SystemExit as end:  # supervisor has said why
        return int(end.code or 0)
    if not options.args or options.args[0] == "help":
        return _help(options.args[1:], bool(options.args))
    first, *rest = options.args
    if PREFIX + first not in COMMANDS:
        return _wrong(first)
    controller = Controller(options)
    getattr(RollingControllerPlugin(controller, PROGRAM), f"do_{PREFIX}{first}")(" ".join(rest))
    return int(controller.exitstatus)


class Options(ClientOptions):
    """supervisorctl's options, without its plugins."""

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


def _help(verbs: Sequence[str], is_asked_for: bool) -> int:
    unknown = [one for one in verbs if PREFIX + one not in COMMANDS]
    if unknown:
        return _wrong(unknown[0])
    print("\n".join(help_text(PREFIX + one, f"{PROGRAM} ") for one in verbs) or _overview())
    return 0 if is_asked_for else USAGE


def _wrong(found: str) -> int:
    known = ", ".join(map(verb, COMMANDS))
    print(f"ERROR: there is no {found} (there is: {known}). Try: {PROGRAM} -h")
    return USAGE


if __name__ == "__main__":
    sys.exit(main())
