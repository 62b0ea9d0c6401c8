"""The events that a rollout emits, for any event listener of supervisord: ``events = ROLLING`` gets them all.

They are registered when this module is imported, which supervisord does before it reads the listeners' ``events=``
lines. Payload: ``group:NAME rollout:NUMBER`` on the first line, JSON in the body (shapes: ``views.py``).

A payload is made with its event and is ASCII. supervisord asks for it in its loop, where an exception would end it, and
counts its characters where listeners count bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from supervisor import events

from supervisor_rolling.core.text import plain
from supervisor_rolling.plugin.views import member_view, rollout_view


class RollingEvent(events.Event):
    """Parent of all; never raised itself."""

    def __init__(self, group: str, rollout: int, body: Mapping[str, Any]) -> None:
        self.group = group
        self.rollout = rollout
        self.body = body
        self._payload = f"group:{plain(group)} rollout:{rollout}\n{json.dumps(body)}"

    def payload(self) -> str:
        """The event as its listeners get it."""
        return self._payload


class RollingAskedEvent:
    """The doorbell: something was asked of our listener, or it has no key yet, which this event tells it.

    No child of ROLLING, nor of supervisor's Event: who subscribes to all of those must not get the key. (supervisor's
    own EventRejectedEvent is none either.)
    """

    def __init__(self, key: str) -> None:
        self._payload = f"key:{key}"

    def payload(self) -> str:
        """The key."""
        return self._payload


class RollingStartedEvent(RollingEvent):
    """A rollout begins, or goes on after a failure. Body: the rollout."""


class RollingProcessEvent(RollingEvent):
    """A process came to another stage. Body: the process."""


class RollingFinishedEvent(RollingEvent):
    """Every process was replaced. Body: the rollout."""


class RollingFailedEvent(RollingEvent):
    """A rollout failed or was aborted. Body: the rollout."""


EVENTS: dict[str, type] = {
    "ROLLING": RollingEvent,
    "ROLLING_ASKED": RollingAskedEvent,
    "ROLLING_STARTED": RollingStartedEvent,
    "ROLLING_PROCESS": RollingProcessEvent,
    "ROLLING_FINISHED": RollingFinishedEvent,
    "ROLLING_FAILED": RollingFailedEvent,
}
for _name, _event in EVENTS.items():
    events.register(_name, _event)

_EVENT_OF_STATUS = {
    "running": RollingStartedEvent,
    "done": RollingFinishedEvent,
    "failed": RollingFailedEvent,
    "aborted": RollingFailedEvent,
}


def events_between(old: Mapping[str, Any] | None, new: Mapping[str, Any], now: float) -> Iterator[RollingEvent]:
    """What there is to tell when the wire form ``old`` of a rollout (None: there was none) becomes ``new``."""
    group, number = new["group"], new["id"]
    is_same = old is not None and old["id"] == number
    was = {member["name"]: member["stage"] for member in old["members"]} if old is not None and is_same else {}
    begins = not is_same or (old is not None and old["status"] != "running" and new["status"] == "running")
    if begins:
        yield RollingStartedEvent(group, number, rollout_view(new, now))
    for member in new["members"]:
        if member["stage"] != was.get(member["name"], "open"):
            yield RollingProcessEvent(group, number, member_view(member, now))
    if new["status"] != "running" and (begins or old is None or old["status"] == "running"):
        yield _EVENT_OF_STATUS[new["status"]](group, number, rollout_view(new, now))
