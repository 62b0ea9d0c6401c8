"""The program ``echo_rolling_conf``: prints example configuration, as supervisor's ``echo_supervisord_conf`` does.

The files are beside this one; ``conf/`` in the repository links to them.
"""

from __future__ import annotations

import argparse
import configparser
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

BEGIN = "; --- rolling restarts: these three sections"
"""The line of supervisord.conf at which our sections begin."""

LISTENER = "supervisor_rolling_listener"

HEADS = {
    "sections": "; For supervisord.conf: `echo_rolling_conf sections` prints only this.",
    "yaml": "# For /etc/supervisor/rolling.yaml: `echo_rolling_conf yaml` prints only this.",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the parts; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="echo_rolling_conf",
        description="Print the sections for supervisord.conf and a commented rolling.yaml, ready to paste.",
    )
    parser.add_argument("part", nargs="?", choices=list(HEADS), help="print only this part (default: both)")
    part = parser.parse_args(arguments).part
    texts = {"sections": _sections(_listener()), "yaml": _read("rolling.yaml")}
    if part:
        sys.stdout.write(texts[part])
    else:
        sys.stdout.write("\n".join(f"{HEADS[one]}\n\n{text}" for one, text in texts.items()))
    return 0


def sections(*names: str) -> dict[str, dict[str, str]]:
    """The keys and values of these sections of supervisord.conf."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read_string(_read("supervisord.conf"))
    return {name: dict(parser[name]) for name in names}


def _sections(listener: str) -> str:
    """The end of supervisord.conf, with the listener by its path."""
    text = _read("supervisord.conf").partition(BEGIN)[2].lstrip("\n")
    return text.replace(f"command = {LISTENER} ", f"command = {listener} ")


def _listener() -> str:
    """The listener of this installation, by its path: supervisord may have another PATH than this shell."""
    beside = Path(sys.executable).parent / LISTENER
    return str(beside) if beside.is_file() else LISTENER


def _read(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
