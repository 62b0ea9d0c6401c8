"""What the commands write to: supervisorctl's standard output, which may go away in the middle of a deploy.

A log disk that is full, or a pipe whose reader has ended, is no reason to leave a roll unwatched: the exit status is
still what a deploy goes by. What cannot be written is dropped, and standard error says so once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


class Output:
    """Writes to a stream for as long as that can be written to (None: never). ``is_lost``: something could not be."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.is_lost = stream is None
        self.encoding: str = getattr(stream, "encoding", None) or "ascii"

    def isatty(self) -> bool:
        """Whether somebody looks at it while it is written."""
        return self._stream is not None and hasattr(self._stream, "isatty") and self._stream.isatty()

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
