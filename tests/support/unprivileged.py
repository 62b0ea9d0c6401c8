"""Runs a call as the user nobody, in a child of this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

NOBODY = 65534


def let_in(path: Path) -> None:
    """Let every user read a path of pytest's: its directories are closed to others."""
    for directory in list(path.parents)[:-2]:  # all below /tmp
        directory.chmod(0o711)


def error_as_nobody(call: Callable[[], object]) -> str:
    """The kind and the text of what it raises; empty where it raises nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            call()
        except Exception as error:  # noqa: BLE001 - all of it is the answer
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        text = said.read().decode()
    os.waitpid(child, 0)
    return text
