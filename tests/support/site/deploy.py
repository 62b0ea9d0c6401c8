"""What was deployed when this process started: the release, and the fault that a bad deploy brings along.

Both come from files that are read once, at start, so that a deploy (write the file) shows in a process only after it
was restarted. An empty or absent fault file stands for a good deploy; otherwise it holds one of these:

========================= =============================================================================================
``die``                   dies at import
``exit SECONDS``          dies so long after its start, whatever it does then
``slow SECONDS``          boots so much later
``port PORT``             listens there, and not where it was told to
``500``                   answers 500 on every page, and ``/health`` as if all were well
``500 everywhere``        answers 500 on ``/health`` too
``hang``                  accepts, and never answers on a page
``hang everywhere``       nor on ``/health``
``deaf``                  serves well, and ignores SIGTERM: it is the next deploy that meets it
========================= =============================================================================================
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.site import FAULT_FILE, RELEASE_FILE
from tests.support.site.life import started

NUMBERED = ("exit", "slow", "port")
FAULTS = ("die", "500", "500 everywhere", "hang", "hang everywhere", "deaf", *NUMBERED)

EXIT_STATUS = 70
"""Of one that dies after a while: unlike what Python itself ends with."""


@dataclass(frozen=True)
class Deploy:
    """``number``: of the faults that have one."""

    release: str
    fault: str = ""
    number: float = 0.0

    def strikes(self, fault: str, path: str) -> bool:
        """Whether the fault (``500`` or ``hang``) strikes who asks for this path."""
        return self.fault == f"{fault} everywhere" or (self.fault == fault and path != "/health")

    def port(self, told: int) -> int:
        """Where to listen."""
        return int(self.number) if self.fault == "port" else told


def read_deploy() -> Deploy:
    """What the two files say now. Raises ValueError for a fault that there is not."""
    text = _text_of(FAULT_FILE)
    word, _, number = text.partition(" ")
    fault = word if word in NUMBERED else text
    if fault and fault not in FAULTS:
        raise ValueError(f"{os.environ[FAULT_FILE]}: no fault {fault!r}; there are: {', '.join(FAULTS)}")
    return Deploy(_text_of(RELEASE_FILE) or "none", fault, float(number) if fault in NUMBERED else 0.0)


def boot(deploy: Deploy) -> None:
    """Do what the faults do before the first request."""
    if deploy.fault == "die":
        sys.exit("this release cannot even be imported")
    if deploy.fault == "exit":
        end = threading.Timer(max(0.0, deploy.number - (time.monotonic() - started())), os._exit, [EXIT_STATUS])
        end.daemon = True
        end.start()
    if deploy.fault == "slow":
        time.sleep(deploy.number)
    if deploy.fault == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _text_of(variable: str) -> str:
    path = Path(os.environ.get(variable, os.devnull))
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""
