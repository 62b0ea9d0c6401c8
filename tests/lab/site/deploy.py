"""What was deployed when this process started: the release, and the fault that a bad deploy brings along.

Both come from files that are read once, at start, so that a deploy (write the file) shows in a process only after it
was restarted. A fault file holds one of ``die`` (at import), ``500`` (on every page), ``hang`` (every page), ``slow N``
(boots N seconds late); an empty or absent one stands for a good deploy.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.lab.site import FAULT_FILE, RELEASE_FILE

FAULTS = ("", "die", "500", "hang", "slow")


@dataclass(frozen=True)
class Deploy:
    """``seconds``: how much later a slow one boots."""

    release: str
    fault: str = ""
    seconds: float = 0.0


def read_deploy() -> Deploy:
    """What the two files say now. Raises ValueError for a fault that there is not."""
    fault, _, seconds = _text_of(FAULT_FILE).partition(" ")
    if fault not in FAULTS:
        raise ValueError(f"{os.environ[FAULT_FILE]}: no fault {fault!r}; there are: die, 500, hang, slow SECONDS")
    return Deploy(release=_text_of(RELEASE_FILE) or "none", fault=fault, seconds=float(seconds or 0))


def boot(deploy: Deploy) -> None:
    """Suffer the faults that strike before the first request."""
    if deploy.fault == "die":
        sys.exit("this release cannot even be imported")
    if deploy.fault == "slow":
        time.sleep(deploy.seconds)


def _text_of(variable: str) -> str:
    path = Path(os.environ.get(variable, os.devnull))
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""
