"""Standard output of the commands, which may fail in the middle of a deploy: a full disk, a closed pipe.

The command continues, because a deploy depends on its exit status. What cannot be written is dropped, and
standard error says so once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from supervisor_rolling.ctl.terminal import fitted, is_capable, is_coloured, painted


class Output:
    """Writes to a stream for as long as that works (None: never)."""

    def __init__(self, stream: TextIO | None, environment: Mapping[str, str] = os.environ) -> None:
        self._stream = stream
        self.is_lost = stream is None  # something could not be written
        self.encoding: str = getattr(stream, "encoding", None) or "ascii"
        is_terminal = stream is not None and hasattr(stream, "isatty") and stream.isatty()
        self.is_terminal = is_terminal and is_capable(environment)  # its cursor can be moved up
        self._is_coloured = is_terminal and is_coloured(environment)

    def fitted(self, lines: Sequence[str]) -> list[str]:
        """The lines, broken where they are longer than a terminal is wide."""
        return fitted(lines, shutil.get_terminal_size().columns) if self.is_terminal else list(lines)

    def painted(self, lines: Sequence[str]) -> str:
        """The lines as a text, coloured on a terminal that has colours."""
        return "".join((painted(line) if self._is_coloured else line) + "\n" for line in lines)

    def print(self, lines: Sequence[str]) -> None:
        """Write lines as they look best on this output."""
        self.write(self.painted(self.fitted(lines)))

    def write(self, text: str) -> None:
        """Write at once, or drop it. Never raises OSError."""
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError as error:
            _silence(self._stream)
            self._stream, self.is_lost = None, True
            _complain(f"rolling: cannot write the output: {error.strerror}\n")


def _complain(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, AttributeError):  # AttributeError: it is closed, and None
        _silence(sys.stderr)


def _silence(stream: TextIO | None) -> None:
    """Discard what is still in its buffer: Python would write that at its exit, and print an error."""
    if stream is None:
        return
    with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
