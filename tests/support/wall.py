"""supervisord with a wall clock that a test sets: ``Setup(supervisord="tests.support.wall")``, then
``stack.jump(3600)``.

A stand-in for setting the clock of the machine, which a test must not. It moves supervisord's clock alone: what the
kernel does when the clock of the host jumps over the end of a lease is to open the gate, and that is tried by taking
the rules away.
"""

from __future__ import annotations

import os
import time

JUMP_FILE = "LAB_JUMP_FILE"
"""The environment variable that names the file with the seconds by which the clock is wrong."""

_real = time.time


def set_clock() -> float:
    """Seconds since 1970, as many more as the file says."""
    try:
        with open(os.environ[JUMP_FILE], encoding="utf-8") as jump:
            return _real() + float(jump.read() or 0)
    except (OSError, ValueError):  # not set yet, or being written
        return _real()


def main() -> None:
    """supervisord."""
    time.time = set_clock
    from supervisor import supervisord

    supervisord.main()
