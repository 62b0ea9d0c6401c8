"""The listener's own loop: when the next turn may begin."""

from __future__ import annotations

import time
from typing import Any

import pytest

from supervisor_rolling import listener
from supervisor_rolling.listener import LONG_TURN


class Turning:
    """Stands in for the roller: a turn of it takes so long on the processor, and asks for the next one at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def turn(self) -> float:
        until = time.thread_time() + self._seconds
        while time.thread_time() < until:
            pass
        return 0.0


@pytest.mark.parametrize(("takes", "rests"), [(2 * LONG_TURN, True), (0.0, False)])
def test_a_long_turn_leaves_the_processor_to_others_for_as_long_and_a_short_one_does_not(
    takes: float, rests: bool
) -> None:
    roller: Any = Turning(takes)
    due, rested = listener._turned(roller)
    assert due <= time.monotonic()
    assert (rested - due >= takes * 0.99) if rests else rested - due < 0.001
