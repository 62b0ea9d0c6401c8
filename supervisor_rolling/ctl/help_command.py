"""``help CODE``: the entry of the documentation about a message, by the code at its end."""

from __future__ import annotations

from supervisor_rolling.core.text import shown
from supervisor_rolling.ctl.exit_status import DONE, USAGE
from supervisor_rolling.ctl.output import Output
from supervisor_rolling.help import UnknownCodeError, page


def print_page(output: Output, code: str) -> int:
    """Print the entry of a code, or the list of all. Returns the exit status."""
    try:
        lines, status = page(code), DONE
    except UnknownCodeError as error:
        lines, status = [f"ERROR: {error}"], USAGE
    output.print(shown("\n".join(lines), output.encoding).split("\n"))
    return status
