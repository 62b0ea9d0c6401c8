"""libnftables itself, in a network namespace of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from supervisor_rolling.core.errors import GateError, GatePermissionError
from supervisor_rolling.listener.system import libnftables
from supervisor_rolling.listener.system.libnftables import Nftables, removal

TABLE = "rolling-test"


@pytest.fixture
def nft() -> Iterator[Nftables]:
    found = Nftables()
    yield found
    found.run(*removal(TABLE))
    found.close()


def tables(nft: Nftables) -> list[str]:
    return [one["table"]["name"] for one in nft.run("list tables")]


def test_added_table_is_listed(nft: Nftables) -> None:
    assert nft.run(f"add table inet {TABLE}") == []
    assert TABLE in tables(nft)


def test_failed_transaction_changes_nothing(nft: Nftables) -> None:
    with pytest.raises(GateError, match=r"nftables: .*No such file or directory"):
        nft.run(f"add table inet {TABLE}", "delete table inet nowhere")
    assert TABLE not in tables(nft)
    nft.run(f"add table inet {TABLE}")  # and the next goes as if nothing had been


def test_truncated_answer_is_an_unreadable_error(nft: Nftables, monkeypatch: pytest.MonkeyPatch) -> None:
    class BreaksOff:
        def __init__(self, library: Any) -> None:
            self._library = library

        def __getattr__(self, name: str) -> Any:
            return getattr(self._library, name)

        def nft_ctx_get_output_buffer(self, context: Any) -> bytes:
            return b'{"nftables": [{"table": {"flags": \n'

    with monkeypatch.context() as patched:
        patched.setattr(nft, "_library", BreaksOff(nft._library))
        with pytest.raises(libnftables.UnreadableAnswerError, match="cannot read the library"):
            nft.run("list tables")


def test_missing_library_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libnftables, "LIBRARY", "libnftables.so.99")
    with pytest.raises(GatePermissionError, match=r"libnftables\.so\.99: .*Fix: install libnftables .*libnftables1"):
        Nftables()


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("internal:0:0-0: Error: Could not process rule: Operation not permitted\n", GatePermissionError, "permitted"),
        ("internal:0:0-0: Error: Could not process rule: Device or resource busy\n", GateError, "busy"),
        ("", GateError, "no reason given"),
    ],
)
def test_permanent_errors_are_permission_errors(text: str, kind: type[GateError], words: str) -> None:
    error = libnftables._translated(text)
    assert (type(error), words in str(error)) == (kind, True)
