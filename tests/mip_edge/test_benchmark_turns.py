"""Engines that are called in turn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from engines.fake import FakeEngine
from mip_edge.benchmark_turns import WARM_UPS, check_counts, time_in_turn
from mip_edge.errors import OptionError
from mip_edge.spec import Batch, EmbedderSpec, Embeddings, Modality

SPEC = EmbedderSpec(Modality.INFRARED, 8, 4, 3, "ab" * 32)


def test_every_round_calls_each_engine_once_on_the_same_crops() -> None:
    seen: list[tuple[str, bytes]] = []

    class Watched(FakeEngine):
        def __init__(self, name: str) -> None:
            super().__init__(SPEC)
            self.name = name

        def embed(self, batch: Batch) -> Embeddings:
            seen.append((self.name, batch.tobytes()))
            return super().embed(batch)

    ticks = itertools.count()
    spent = time_in_turn([Watched("a"), Watched("b")], 5, range(3), lambda: float(next(ticks)))
    assert spent == pytest.approx(np.full((2, 3), 1000 / 5))
    names = [name for name, _ in seen]
    assert names[: 2 * WARM_UPS] == ["a"] * WARM_UPS + ["b"] * WARM_UPS
    assert names[2 * WARM_UPS :] == ["a", "b"] * 3
    assert len({crops for _, crops in seen}) == 1
    assert len(seen[0][1]) == 5 * 8 * 4


@pytest.mark.parametrize(
    ("batches", "repeats", "words"),
    [((), 1, "--batch"), ((1, 0), 1, "--batch"), ((1,), 0, "--repeats must be at least 1, got 0")],
)
def test_counts_below_one_are_refused(batches: tuple[int, ...], repeats: int, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        check_counts(batches, repeats)
