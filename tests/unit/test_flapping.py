"""Which processes flap."""

from __future__ import annotations

from supervisor_rolling.core.flapping import FLAP_WINDOW, Flapping


def exits(*times: float) -> Flapping:
    flaps = Flapping()
    for at in times:
        flaps.exited(["app:app-0"], at)
    return flaps


def test_first_exit_is_no_flapping():
    assert not exits(10.0).has("app:app-0", 10.0)


def test_second_exit_within_a_second_is_flapping():
    assert exits(10.0, 10.5).has("app:app-0", 10.6)
    assert not exits(10.0, 10.5).has("app:app-1", 10.6)


def test_exits_far_apart_are_no_flapping():
    assert not exits(10.0, 10.0 + FLAP_WINDOW).has("app:app-0", 11.1)


def test_steady_process_flaps_no_more():
    assert not exits(10.0, 10.5).has("app:app-0", 10.5 + FLAP_WINDOW)
