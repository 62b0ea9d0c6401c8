"""Shows a running rollout: a line for each process that is done and, on a terminal, a progress bar.

On a terminal the processes under way and a bar are drawn again and again below the lines of those that are done;
elsewhere each process is one plain line, when it is done.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from supervisor_rolling.ctl.output import Output
from supervisor_rolling.ctl.rollout_lines import (
    ASCII,
    UNDER_WAY,
    UNICODE,
    Signs,
    bar_line,
    is_done,
    left_lines,
    name_width,
    process_line,
    waits_text,
)

View = Mapping[str, Any]

CLEAR_BELOW = "\x1b[J"
UP = "\x1b[{}F"


def screen_for(output: Output) -> PlainScreen:
    """The screen that suits an output."""
    signs = UNICODE if output.encoding.lower().replace("-", "") == "utf8" else ASCII
    return TerminalScreen(output, signs) if output.is_terminal else PlainScreen(output, signs)


class PlainScreen:
    """A line for each process when it is done, and for each connection that its restart ended."""

    def __init__(self, output: Output, signs: Signs) -> None:
        self._output = output
        self._signs = signs
        self._printed: set[tuple[str, bool, bool]] = set()
        self._waits = False
        self._waits_printed: set[str] = set()  # since the last line of a process

    def skip(self, rollout: View) -> None:
        """Print nothing of what is done already."""
        self.news(rollout)

    def show(self, rollout: View) -> None:
        """Show the rollout as it is now."""
        self._output.print(self.news(rollout))

    def close(self, rollout: View) -> None:
        """Show the rollout for the last time."""
        self.show(rollout)

    def news(self, rollout: View) -> list[str]:
        """The lines of the processes that are done since the last call, and of a wait that has become long."""
        done = [p for p in rollout["processes"] if is_done(p) and _end(p) not in self._printed]
        self._printed.update(map(_end, done))
        width = name_width(rollout)
        lines: list[str] = []
        for process in sorted(done, key=lambda process: -process["seconds"]):
            lines += [process_line(process, width, self._signs), *left_lines(process, width)]
        if lines:
            self._waits_printed.clear()
        text = waits_text(rollout)
        if rollout["waits_long"] and not self._waits and text not in self._waits_printed:
            lines.append(text)
            self._waits_printed.add(text)
        self._waits = rollout["waits_long"]
        return lines


def _end(process: View) -> tuple[str, bool, bool]:
    """What a line says of it: a spare is named first, and replaced later."""
    return process["name"], process["failed"], process["replaced"]


class TerminalScreen(PlainScreen):
    """Finished processes scroll up; those under way and the bar are redrawn."""

    def __init__(self, output: Output, signs: Signs) -> None:
        super().__init__(output, signs)
        self._drawn = 0

    def show(self, rollout: View) -> None:
        """Show the rollout as it is now."""
        width = name_width(rollout)
        moving = [process_line(p, width, self._signs) for p in rollout["processes"] if p["stage"] in UNDER_WAY]
        self._draw(self.news(rollout), [*moving, bar_line(rollout, self._signs)])

    def close(self, rollout: View) -> None:
        """Show the rollout for the last time, without the bar."""
        self._draw(self.news(rollout), [])

    def _draw(self, lasting: list[str], passing: list[str]) -> None:
        columns, rows = shutil.get_terminal_size()
        passing = [line[: columns - 1] for line in passing[-max(1, rows - 1) :]]  # the bar is the last of them
        back = UP.format(self._drawn) + CLEAR_BELOW if self._drawn else ""
        self._output.write(back + self._output.painted([*self._output.fitted(lasting), *passing]))
        self._drawn = len(passing)
