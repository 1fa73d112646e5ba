"""Calls timed in turn, so that a busy machine is busy for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence


def time_calls(
    calls: Sequence[Callable[[], object]], rounds: Iterable[int], clock: Callable[[], float]
) -> list[list[float]]:
    """Milliseconds of each call, round by round: every one once in a round, in their order."""
    spent: list[list[float]] = [[] for _ in calls]
    for _ in rounds:
        for times, call in zip(spent, calls, strict=True):
            start = clock()
            call()
            times.append(1000 * (clock() - start))
    return spent
