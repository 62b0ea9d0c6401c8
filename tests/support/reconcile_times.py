"""The listener, which also writes down when each reconcile begins: CLOCK_MONOTONIC seconds, one a line.

Run as ``plugin.sections`` runs a listener. The environment variable RECONCILE_TIMES names the file.
"""

from __future__ import annotations

import os
import sys
import time

from supervisor_rolling.listener import main as listener
from supervisor_rolling.listener.reconciler import Reconciler

FILE = "RECONCILE_TIMES"


def main() -> int:
    with open(os.environ[FILE], "a", buffering=1, encoding="ascii") as out:
        reconcile = Reconciler.reconcile

        def noted(reconciler: Reconciler) -> float:
            out.write(f"{time.monotonic():.4f}\n")
            return reconcile(reconciler)

        setattr(Reconciler, Reconciler.reconcile.__name__, noted)
        return listener.main()


if __name__ == "__main__":
    sys.exit(main())
