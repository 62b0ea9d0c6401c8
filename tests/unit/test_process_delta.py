"""What a look brings of the process table: everything to who knows nothing, and only what has changed to who does."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor_rolling.plugin.process_delta import Keys, Table

ONE: Keys = {"app": {"app-1": (1,), "app-2": (1,)}}

all_keys = st.dictionaries(
    st.sampled_from(["app", "web"]),
    st.dictionaries(st.sampled_from(["1", "2", "3"]), st.tuples(st.integers(0, 2)), max_size=3),
)


def test_new_listener_gets_everything() -> None:
    number, news = Table().news(0, ONE)
    assert number > 0
    assert news == {"app": (True, ["app-1", "app-2"])}


def test_current_listener_gets_changes_only() -> None:
    table = Table()
    first, _ = table.news(0, ONE)
    second, news = table.news(first, {"app": {"app-1": (1,), "app-2": (2,)}})
    assert news == {"app": (False, ["app-2"])}
    assert table.news(second, {"app": {"app-1": (1,), "app-2": (2,)}})[1] == {"app": (False, [])}


def test_removed_process_resends_whole_group() -> None:
    table = Table()
    first, _ = table.news(0, ONE)
    second, news = table.news(first, {"app": {**ONE["app"], "app-3": (1,)}})
    assert news == {"app": (False, ["app-3"])}
    assert table.news(second, ONE)[1] == {"app": (True, ["app-1", "app-2"])}


def test_new_or_returned_group_is_sent_whole() -> None:
    table = Table()
    first, _ = table.news(0, {})
    second, news = table.news(first, ONE)
    assert news == {"app": (True, ["app-1", "app-2"])}
    third, news = table.news(second, {})
    assert news == {}
    assert table.news(third, ONE)[1] == {"app": (True, ["app-1", "app-2"])}


def test_listener_behind_gets_everything() -> None:
    table = Table()
    first, _ = table.news(0, ONE)
    table.news(first, {"app": {"app-1": (2,), "app-2": (1,)}})
    assert table.news(first, ONE)[1] == {"app": (True, ["app-1", "app-2"])}


def test_two_listeners_each_get_everything() -> None:
    table = Table()
    first, _ = table.news(0, ONE)
    second, news = table.news(0, ONE)
    assert (second != first, news) == (True, {"app": (True, ["app-1", "app-2"])})
    assert table.news(first, ONE)[1] == {"app": (True, ["app-1", "app-2"])}


def test_group_without_processes_is_sent() -> None:
    table = Table()
    first, news = table.news(0, {"app": {}})
    assert news == {"app": (True, [])}
    assert table.news(first, {"app": {}})[1] == {"app": (False, [])}


@given(st.lists(st.tuples(all_keys, st.sampled_from(["had", "lost", "new listener"])), max_size=12))
@settings(deadline=None)
def test_listener_always_ends_with_the_true_table(
    looks: list[tuple[dict[str, dict[str, tuple[int]]], str]],
) -> None:
    table, known = Table(), 0
    copy: dict[str, dict[str, tuple[int]]] = {}
    for keys, what in looks:
        if what == "new listener":
            known, copy = 0, {}
        number, news = table.news(known, keys)
        if what != "lost":
            kept = {group: {} if whole else copy[group] for group, (whole, _) in news.items()}
            copy = {g: {**kept[g], **{n: keys[g][n] for n in names}} for g, (_, names) in news.items()}
            known = number
            assert copy == keys
