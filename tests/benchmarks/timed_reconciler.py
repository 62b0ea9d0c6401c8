"""The listener, which also writes down how long each reconcile took and, on request, a profile.

Appends to the file in ``TIMED_RECONCILES`` a line for each reconcile: its seconds, and those of the processor. With
``TIMED_PROFILE`` reconciles are profiled, which makes them slower; that file has the statistics when the listener ends.
Everything else is the product's own.
"""

from __future__ import annotations

import cProfile
import os
import sys
import time

from supervisor_rolling.listener import main as listener
from supervisor_rolling.listener.reconciler import Reconciler

FILE = "TIMED_RECONCILES"
PROFILE = "TIMED_PROFILE"


def main() -> int:
    profile = cProfile.Profile() if PROFILE in os.environ else None
    with open(os.environ[FILE], "a", buffering=1, encoding="ascii") as out:
        reconcile = Reconciler.reconcile

        def timed(reconciler: Reconciler) -> float:
            began, used = time.monotonic(), time.thread_time()
            pause = profile.runcall(reconcile, reconciler) if profile else reconcile(reconciler)
            out.write(f"{time.monotonic() - began:.6f} {time.thread_time() - used:.6f}\n")
            return pause

        setattr(Reconciler, Reconciler.reconcile.__name__, timed)
        try:
            return listener.main()
        finally:
            if profile:
                profile.dump_stats(os.environ[PROFILE])


if __name__ == "__main__":
    sys.exit(main())
