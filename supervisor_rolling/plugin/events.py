"""The events that a rollout emits, for any event listener of supervisord: ``events = ROLLING`` gets them all.

They are registered when this module is imported, which supervisord does before it reads the listeners' ``events=``
lines. Payload: ``group:NAME rollout:NUMBER`` on the first line, JSON in the body (``core/public_view.py``).

A payload is made with its event and is ASCII: supervisord asks for it in its loop, where an exception would end it, and
counts its characters where listeners count bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from supervisor import events

from supervisor_rolling.core.public_view import member_view, rollout_view
from supervisor_rolling.core.rollout import Rollout, Stage, Status
from supervisor_rolling.core.text import plain
from supervisor_rolling.plugin.views import struct


class RollingEvent(events.Event):
    """Parent of all; never emitted itself."""

    def __init__(self, group: str, rollout: int, body: Mapping[str, Any]) -> None:
        self.group = group
        self.rollout = rollout
        self.body = body
        self._payload = f"group:{plain(group)} rollout:{rollout}\n{json.dumps(body)}"

    def payload(self) -> str:
        """The event as its listeners get it."""
        return self._payload


class RollingRequestEvent:
    """The doorbell: there is a request for our listener, or it has no key yet. The event carries the key.

    It is a child neither of ROLLING nor of supervisor's Event (as supervisor's own EventRejectedEvent): a listener that
    subscribes to all of those must not get the key.
    """

    def __init__(self, key: str) -> None:
        self._payload = f"key:{key}"

    def payload(self) -> str:
        """The key."""
        return self._payload


class RollingStartedEvent(RollingEvent):
    """A rollout started or was resumed. Body: the rollout."""


class RollingProcessEvent(RollingEvent):
    """A process entered another stage. Body: the process."""


class RollingFinishedEvent(RollingEvent):
    """Every process was replaced. Body: the rollout."""


class RollingFailedEvent(RollingEvent):
    """A rollout failed or was aborted. Body: the rollout."""


EVENTS: dict[str, type] = {
    "ROLLING": RollingEvent,
    "ROLLING_REQUEST": RollingRequestEvent,
    "ROLLING_STARTED": RollingStartedEvent,
    "ROLLING_PROCESS": RollingProcessEvent,
    "ROLLING_FINISHED": RollingFinishedEvent,
    "ROLLING_FAILED": RollingFailedEvent,
}
for _name, _event in EVENTS.items():
    events.register(_name, _event)


def events_between(old: Rollout | None, new: Rollout, now: float) -> Iterator[RollingEvent]:
    """The events of a rollout that was ``old`` (None: there was none) and is ``new``."""
    was_running = old is not None and old.status is Status.RUNNING
    is_other = old is None or old.id != new.id
    before = {member.name: member.stage for member in old.members} if old and not is_other else {}
    is_start = is_other or (not was_running and new.status is Status.RUNNING)
    if is_start:
        yield RollingStartedEvent(new.group, new.id, struct(rollout_view(new, now)))
    for member in new.members:
        if member.stage is not before.get(member.name, Stage.OPEN):
            yield RollingProcessEvent(new.group, new.id, struct(member_view(member, now)))
    if new.status is not Status.RUNNING and (is_start or was_running):
        kind = RollingFinishedEvent if new.status is Status.DONE else RollingFailedEvent
        yield kind(new.group, new.id, struct(rollout_view(new, now)))
