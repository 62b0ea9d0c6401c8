"""Which ports a process has, by its name."""

from __future__ import annotations

import pytest

from supervisor_rolling.model import PortRule
from supervisor_rolling.pure.ports import ports_for


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("app-8000", (8000,)),
        ("app-08000", (8000,)),
        ("app-65535", (65535,)),
        ("app-65536", ()),
        ("app-0", ()),
        ("app-" + "9" * 5000, ()),
        ("app-٣", ()),
        ("xapp-8000", ()),
        ("app-8000x", ()),
        ("app-8000\n", ()),
    ],
)
def test_a_regex_gives_the_port_of_a_process_whose_whole_name_it_matches(name: str, expected: tuple[int, ...]) -> None:
    assert ports_for(PortRule(pattern=r"app-(\d+)"), name) == expected


def test_a_regex_whose_group_is_left_out_or_is_no_number_gives_no_port() -> None:
    assert ports_for(PortRule(pattern=r"app(-\d+)?"), "app") == ()
    assert ports_for(PortRule(pattern=r"app(-\d+)?"), "app-1") == ()
    assert ports_for(PortRule(pattern=r"app-(.*)"), "app-x") == ()


def test_a_map_gives_the_ports_of_the_processes_in_it_and_auto_gives_none() -> None:
    rule = PortRule(by_name={"a": (1, 2)})
    assert ports_for(rule, "a") == (1, 2)
    assert ports_for(rule, "b") == ()
    assert ports_for(PortRule(auto=True), "a") == ()
