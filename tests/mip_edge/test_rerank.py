"""k-reciprocal re-ranking against the paper's definition, written out set by set."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from mip_edge.errors import OptionError
from mip_edge.evaluate.rerank import Reranking, rerank


def squared(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float32]:
    return (2 - 2 * first @ second.T).astype(np.float32)


def by_definition(
    between: NDArray[np.float32],
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    options: Reranking,
) -> NDArray[np.float64]:
    """Equations 2 to 12 of the paper, with Python's sets and loops."""
    table = np.block([[queries, between], [between.T, gallery]])
    table = table / table.max(axis=1, keepdims=True)
    count, first = len(table), len(queries)
    order = [
        sorted(range(count), key=lambda other, row=row: table[row, other]) for row in range(count)
    ]

    def reciprocal(row: int, k: int) -> set[int]:
        return {other for other in order[row][: k + 1] if row in order[other][: k + 1]}

    half = round(options.k1 / 2)
    weights = np.zeros((count, count))
    for row in range(count):
        own = reciprocal(row, options.k1)
        expanded = set(own)
        for candidate in own:
            theirs = reciprocal(candidate, half)
            if len(own & theirs) > 2 / 3 * len(theirs):
                expanded |= theirs
        for other in expanded:
            weights[row, other] = math.exp(-table[row, other])
        weights[row] /= weights[row].sum()
    if options.k2 > 1:
        weights = np.array([weights[order[row][: options.k2]].mean(axis=0) for row in range(count)])
    result = np.empty((first, count - first))
    for query in range(first):
        for item in range(first, count):
            smaller = sum(map(min, weights[query], weights[item]))
            larger = sum(map(max, weights[query], weights[item]))
            own_share = options.weight * table[query, item]
            result[query, item - first] = (1 - options.weight) * (1 - smaller / larger) + own_share
    return result


def people(seed: int, count: int, rows: int, noise: float) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((count, 16))
    drawn = centres[np.arange(rows) % count] + noise * rng.standard_normal((rows, 16))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("options", "noise"),
    [
        (Reranking(), 0.6),
        (Reranking(k1=5, k2=1, weight=0.0), 1.0),
        (Reranking(k1=7, k2=3, weight=0.5), 0.4),
        # more neighbours asked for than there are images
        (Reranking(k1=200, k2=6), 0.6),
    ],
)
def test_equal_to_the_definition(options: Reranking, noise: float) -> None:
    rows = people(1, 6, 70, noise)
    queries, gallery = rows[:40], rows[40:]
    tables = squared(queries, gallery), squared(queries, queries), squared(gallery, gallery)
    expected = by_definition(*tables, options)
    np.testing.assert_allclose(rerank(*tables, options), expected, rtol=0, atol=2e-6)


def test_more_rows_than_are_worked_on_at_once_change_nothing() -> None:
    rows = people(2, 30, 300, 0.5)
    queries, gallery = rows[:270], rows[270:]
    tables = squared(queries, gallery), squared(queries, queries), squared(gallery, gallery)
    options = Reranking(k1=6, k2=3)
    expected = by_definition(*tables, options)
    np.testing.assert_allclose(rerank(*tables, options), expected, rtol=0, atol=2e-6)


def test_the_full_weight_leaves_the_order_of_each_list() -> None:
    rows = people(3, 5, 40, 0.8)
    tables = squared(rows[:25], rows[25:]), squared(rows[:25], rows[:25])
    new = rerank(*tables, squared(rows[25:], rows[25:]), Reranking(weight=1.0))
    np.testing.assert_array_equal(np.argsort(new, axis=1), np.argsort(tables[0], axis=1))


def test_shapes_and_constants_that_do_not_fit_are_refused() -> None:
    with pytest.raises(OptionError, match=r"needs \(2, 2\) among queries and \(3, 3\)"):
        rerank(*(np.zeros(shape, np.float32) for shape in ((2, 3), (2, 2), (2, 2))))
    for wrong in ({"k1": 0}, {"k2": 0}, {"weight": 1.5}):
        with pytest.raises(OptionError, match="re-ranking needs"):
            Reranking(**wrong)  # type: ignore[arg-type]
