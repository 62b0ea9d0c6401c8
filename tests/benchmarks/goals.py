"""What the benchmark is to show of ours, and whether a run has shown it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tests.benchmarks.results import Result

SLOWER, LONGER = 1.1, 1.05
"""The p99 in a rollout by that before it, and the time of a rollout by its bound (of processes that are not
divided)."""


def missed(results: Sequence[Result]) -> list[str]:
    """A sentence for each goal that a rollout of ours has not reached."""
    return [text for result in results if result.side == "ours" for text in _missed(result, results)]


def _missed(ours: Result, results: Iterable[Result]) -> Iterator[str]:
    where = f"{ours.size} processes, {ours.about}"
    if ours.failed or ours.cold:
        yield f"{where}: {ours.failed} requests failed, {ours.cold} GETs were cold"
    if ours.slower > SLOWER:
        before, during = 1000 * ours.before.p99, 1000 * ours.during.p99
        yield f"{where}: p99 {during:.0f} ms, {ours.slower:.2f} times the {before:.0f} ms before"
    if ours.rollout and ours.rollout["packed_ratio"] > LONGER:
        yield f"{where}: {ours.rollout['seconds']:.1f} s, {ours.rollout['packed_ratio']:.3f} of the bound"
    for peer in results:
        if is_better(peer, ours):
            yield f"{where}: {ours.seconds:.1f} s; {peer.about} failed nothing and took {peer.seconds:.1f} s"


def is_better(peer: Result, ours: Result) -> bool:
    """Whether a peer that failed nothing, either, took less time with no more out of service."""
    is_comparable = peer.side == "peer" and peer.size == ours.size and not peer.failed and peer.least >= ours.least
    return is_comparable and peer.seconds < ours.seconds
