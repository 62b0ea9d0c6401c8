"""Which connections are used again behind a closed gate."""

from __future__ import annotations

from supervisor_rolling.core.connections import Arrival, KeepaliveReuse
from supervisor_rolling.core.keepalive_reuse import KeepaliveReuses

NAME = "app-1"
OLD, OTHER = "10.0.0.1:1", "10.0.0.1:2"


def find(
    reuses: KeepaliveReuses,
    *arrived: tuple[str, int],
    at: float = 12.0,
    since: float = 10.0,
    left: tuple[str, ...] = (OLD, OTHER),
) -> KeepaliveReuse | None:
    request_sniffer = [Arrival(8001, peer, answered) for peer, answered in arrived]
    return reuses.find({NAME: request_sniffer}, {NAME: frozenset(left)}, {NAME: since}, at).get(NAME)


def test_one_request_per_connection_is_no_reuse() -> None:
    assert find(KeepaliveReuses(), (OLD, 7), (OTHER, 7)) is None


def test_second_request_after_answer_is_reuse() -> None:
    reuses = KeepaliveReuses()
    assert find(reuses, (OLD, 7)) is None
    assert find(reuses, (OLD, 8), (OTHER, 1), at=13.0) == KeepaliveReuse(2, 1, 2, OLD, 3.0)
    assert find(reuses, (OLD, 9), (OTHER, 2), at=14.0) == KeepaliveReuse(5, 2, 3, OLD, 4.0)


def test_upload_and_resend_are_no_reuse() -> None:
    assert find(KeepaliveReuses(), (OLD, 7), (OLD, 7), (OLD, 7)) is None


def test_ended_connection_is_ignored() -> None:
    reuses = KeepaliveReuses()
    assert find(reuses, (OLD, 7), (OLD, 8), (OLD, 9), left=(OTHER,)) is None


def test_new_or_open_gate_forgets_requests() -> None:
    reuses = KeepaliveReuses()
    assert find(reuses, (OLD, 7), since=20.0) is None
    assert find(reuses, (OLD, 8), since=10.0) is None
    assert find(reuses, (OLD, 9), at=21.0, since=20.0) is None
