"""What the commands write to: supervisorctl's standard output, which may go away in the middle of a deploy.

A log disk that is full, or a pipe whose reader has ended, is no reason to leave a rollout unwatched: the exit status is
still what a deploy goes by. What cannot be written is dropped, and standard error says so once.
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
    """Writes to a stream for as long as that can be written to (None: never). ``is_lost``: something could not be.

    ``is_terminal``: somebody looks at it while it is written, and it knows how to go up a line.
    """

    def __init__(self, stream: TextIO | None, environment: Mapping[str, str] = os.environ) -> None:
        self._stream = stream
        self.is_lost = stream is None
        self.encoding: str = getattr(stream, "encoding", None) or "ascii"
        is_terminal = stream is not None and hasattr(stream, "isatty") and stream.isatty()
        self.is_terminal = is_terminal and is_capable(environment)
        self._is_coloured = is_terminal and is_coloured(environment)

    def fitted(self, lines: Sequence[str]) -> list[str]:
        """The lines, broken where they are longer than a terminal is wide."""
        return fitted(lines, shutil.get_terminal_size().columns) if self.is_terminal else list(lines)

    def painted(self, lines: Sequence[str]) -> str:
        """The lines as a text, coloured on a terminal that has colours."""
        return "".join((painted(line) if self._is_coloured else line) + "\n" for line in lines)

    def print(self, lines: Sequence[str]) -> None:
        """Write lines as they look best."""
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
            _complain(f"rolling: cannot write any more: {error.strerror}\n")


def _complain(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, AttributeError):  # AttributeError: it is closed, and None
        _silence(sys.stderr)


def _silence(stream: TextIO | None) -> None:
    """Let what is still in its buffer go nowhere: Python writes that out when it ends, and would complain."""
    if stream is None:
        return
    with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
