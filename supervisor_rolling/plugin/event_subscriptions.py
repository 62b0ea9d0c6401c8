"""What supervisord's own events cause: starts and stops of processes, and the removal of a group, are noted in the
mailbox, and a listener that cannot start is not started again at once.

An exception in a callback given to ``events.subscribe`` ends supervisord without a log line, so none leaves here.
``reload`` drops all callbacks and makes a new supervisord, which gets its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from supervisor.events import ProcessGroupRemovedEvent, ProcessStateEvent, ProcessStateExitedEvent, notify, subscribe

from supervisor_rolling.core.reason import with_see
from supervisor_rolling.plugin.events import events_between
from supervisor_rolling.plugin.fault_barrier import Defects
from supervisor_rolling.plugin.listener_brake import delay_restart
from supervisor_rolling.plugin.mailbox import Mailbox


def subscribe_events(supervisord: Any, mailbox: Mailbox) -> None:
    """Act on the events of this supervisord from now on."""
    logger = supervisord.options.logger
    defects = Defects(logger)
    subscribe(ProcessStateEvent, _without_exceptions(mailbox.times.note, defects))
    subscribe(ProcessStateExitedEvent, _without_exceptions(delay_restart, defects))
    subscribe(
        ProcessGroupRemovedEvent, _without_exceptions(lambda event: _removed(event.group, mailbox, logger), defects)
    )


def _removed(group: str, mailbox: Mailbox, logger: Any) -> None:
    now = time.monotonic()
    before, after = mailbox.remove(group, now)
    if before is not None and after is not None:
        logger.warn("rolling: rollout %d of %s is aborted: %s" % (after.id, group, with_see(after.why, after.code)))
        for event in events_between(before, after, now):
            notify(event)


def _without_exceptions(call: Callable[[Any], None], defects: Defects) -> Callable[[Any], None]:
    """The callback; its exceptions go to supervisord's log."""

    def callback(event: Any) -> None:
        try:
            call(event)
        except Exception as error:  # noqa: BLE001 - supervisord would end without a log line
            defects.report("an event callback", error)

    return callback
