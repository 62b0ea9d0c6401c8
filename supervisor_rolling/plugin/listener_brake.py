"""Keeps supervisord from starting a listener that cannot start again and again, hundreds of times a second.

The listener has ``startsecs = 0``, because it gets no events in that time. So supervisord takes every exit for one of a
program that ran, and starts the next one in its next pass. Whatever the cause (the interpreter is missing or not
readable for ``user=``, a library is missing, a bug), the process never asked for events. Such a process is put into
BACKOFF, as supervisord does itself with a program that exits within its ``startsecs``. A listener that was working is
started again at once, also after SIGKILL.

supervisord waits ``backoff`` seconds at most, and gives up when that is above ``startretries``. So the process gets a
copy of its configuration with a higher ``startretries``; the group keeps its own, with which ``reread`` compares.
"""

from __future__ import annotations

import copy
import time

from supervisor.dispatchers import EventListenerStates
from supervisor.events import ProcessStateExitedEvent
from supervisor.states import ProcessStates

from supervisor_rolling.plugin.process_times import restarts
from supervisor_rolling.plugin.supervisor_settings import gets_doorbell

BETWEEN_STARTS = 5
"""Seconds between two starts of a listener that exits before it asks for events."""

WORKING = (EventListenerStates.READY, EventListenerStates.BUSY)


def delay_restart(event: ProcessStateExitedEvent) -> None:
    """Let supervisord wait before the next start, if the process that exited is our listener and never asked for
    events."""
    process = event.process
    if process.group is None or not gets_doorbell(process.group) or process.listener_state in WORKING:
        return
    if restarts(event):
        process.config = copy.copy(process.config)
        process.config.startretries = max(process.config.startretries, BETWEEN_STARTS)
        process.state, process.backoff = ProcessStates.BACKOFF, BETWEEN_STARTS
        process.delay = min(time.time(), process.laststart) + BETWEEN_STARTS
