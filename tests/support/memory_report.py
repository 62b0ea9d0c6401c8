"""supervisord and the listener as they are, and with a window in each: what Python has in memory.

``make_rpcinterface`` opens it in supervisord, as the namespace ``lab``; this module itself is a listener that answers
SIGUSR2 with a file. Neither does anything before it is asked. With ``LAB_TRACE`` in their environment both trace every
byte that they allocate from then on: exact, and slower.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import tracemalloc
from pathlib import Path
from typing import Any

TRACE = "LAB_TRACE"
"""The environment variable that has allocations traced, whatever it holds."""

ANSWER = "LAB_MEMORY"
"""The environment variable that names the file into which the listener answers."""

SECTION = """\
[rpcinterface:lab]
supervisor.rpcinterface_factory = tests.support.memory_report:make_rpcinterface
"""


def memory(snapshot: str = "") -> dict[str, int]:
    """``objects``: those that can be in a cycle; ``blocks``: of up to 512 bytes; ``traced``: bytes, 0 without trace.

    ``snapshot`` names a file that gets a snapshot of tracemalloc, where there is a trace.
    """
    _clear_caches()
    gc.collect()
    found = {
        "objects": len(gc.get_objects()),
        "blocks": sys.getallocatedblocks(),
        "traced": tracemalloc.get_traced_memory()[0],
    }
    if snapshot and tracemalloc.is_tracing():
        tracemalloc.take_snapshot().dump(snapshot)
        gc.collect()
    return found


def _clear_caches() -> None:
    """Of Python's own: it keeps up to 4096 names of attributes that were asked for, and strings that are made for it
    (by XML-RPC, with every call) count anew."""
    clear = getattr(sys, "_clear_internal_caches", None) or getattr(sys, "_clear_type_cache")  # noqa: B009 - it came to be the other one in 3.13
    clear()


def trace_if_asked() -> None:
    if TRACE in os.environ:
        tracemalloc.start()


class MemoryRPCInterface:
    """The namespace ``lab``."""

    def memory(self, snapshot: str) -> dict[str, int]:
        """Return what Python has in memory, see above

        @param string snapshot  A file for a snapshot; empty for none
        @return struct memory   objects, blocks, traced
        """
        return memory(snapshot)


def make_rpcinterface(_supervisord: Any) -> MemoryRPCInterface:
    """What ``supervisor.rpcinterface_factory`` names."""
    trace_if_asked()
    return MemoryRPCInterface()


def answer(*_: object) -> None:
    """Write what ``memory`` says into the file, and a snapshot beside it."""
    path = Path(os.environ[ANSWER])
    found = memory(f"{path}.snapshot")
    whole = path.with_suffix(".new")
    whole.write_text(json.dumps(found), encoding="utf-8")
    whole.rename(path)


def main() -> int:
    from supervisor_rolling.listener import main as listener

    signal.signal(signal.SIGUSR2, answer)
    trace_if_asked()
    return listener.main()


if __name__ == "__main__":
    sys.exit(main())
