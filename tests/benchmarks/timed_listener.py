"""The listener, which also writes down when it has closed which ports: what a race can only be judged by.

Appends ``TIME PORT`` lines to the file in ``TIMED_GATE``, nanoseconds on CLOCK_MONOTONIC, when a commit that closes a
port anew has been read back. Everything else is the product's own.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Mapping

from supervisor_rolling.core.endpoint import Endpoint
from supervisor_rolling.listener import main as listener
from supervisor_rolling.listener.gates.iptables import IptablesGate

FILE = "TIMED_GATE"


def main() -> int:
    with open(os.environ[FILE], "a", buffering=1, encoding="ascii") as out:
        hold = IptablesGate.hold
        before: set[Endpoint] = set()

        def timed(
            gate: IptablesGate, closed: Mapping[Endpoint, str], drained: Collection[Endpoint] = ()
        ) -> Mapping[Endpoint, float]:
            since = hold(gate, closed, drained)
            at = time.monotonic_ns()
            out.write("".join(f"{at} {endpoint.port}\n" for endpoint in since.keys() - before))
            before.clear()
            before.update(since)
            return since

        setattr(IptablesGate, IptablesGate.hold.__name__, timed)
        return listener.main()


if __name__ == "__main__":
    sys.exit(main())
