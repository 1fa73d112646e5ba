"""Metrics against numbers worked by hand, and against what four public evaluators gave."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mip_edge.errors import DatasetError, OptionError
from mip_edge.metrics import best_threshold, evaluate_ranking

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def reference() -> dict[str, NDArray[np.float64]]:
    with np.load(DATA / "metrics_reference.npz") as stored:
        return {name: stored[name] for name in stored.files}


def excluded_pairs(reference: dict[str, NDArray[Any]], kind: str) -> Any:
    query_cameras, gallery_cameras = reference["m_qc"][:, None], reference["m_gc"][None, :]
    if kind == "sysu":
        return (query_cameras == 3) & (gallery_cameras == 2)
    if kind == "llcm":
        # no camera of the file is in both modalities, so for this evaluator alone they were folded
        query_cameras = query_cameras % 4
    same_person = reference["m_qp"][:, None] == reference["m_gp"][None, :]
    return same_person & (query_cameras == gallery_cameras)


@pytest.mark.parametrize(
    ("name", "exclusion", "distinct"),
    [
        ("official", "market", False),
        ("agw_sysu", "sysu", True),
        ("agw_regdb", None, False),
        ("llcm", "llcm", True),
    ],
)
def test_equal_to_the_public_evaluators(
    reference: dict[str, NDArray[np.float64]], name: str, exclusion: str | None, distinct: bool
) -> None:
    ranking = evaluate_ranking(
        reference["m_dist"],
        reference["m_qp"],
        reference["m_gp"],
        excluded=excluded_pairs(reference, exclusion) if exclusion else None,
        distinct_identities=distinct,
    )
    expected = reference[f"m_{name}_cmc"]
    assert ranking.cmc is not None
    # the evaluators give the curve in float32
    np.testing.assert_array_equal(ranking.cmc[: len(expected)].astype(np.float32), expected)
    scores = [ranking.mAP, ranking.mINP]
    averages = reference[f"m_{name}_map_minp"]
    np.testing.assert_allclose(scores[: len(averages)], averages, rtol=0, atol=1e-15)


def test_three_by_three_worked_by_hand() -> None:
    distances = [[0.1, 0.3, 0.2], [0.2, 0.1, 0.3], [0.2, 0.9, 0.1]]
    ranking = evaluate_ranking(distances, ["x", "y", "y"], ["y", "x", "y"])
    # query x: list y y x, right at 3; query y: list x y y, at 2 and 3; query y: y y x, at 1 and 2
    assert ranking.cmc is not None
    assert ranking.cmc.tolist() == [1 / 3, 2 / 3, 1.0]
    average_precision = [
        Fraction(1, 3),
        (Fraction(1, 2) + Fraction(2, 3)) / 2,
        Fraction(1),
    ]
    assert ranking.mAP == pytest.approx(float(sum(average_precision) / 3), abs=1e-15)
    penalty = [Fraction(1, 3), Fraction(2, 3), Fraction(1)]
    assert ranking.mINP == pytest.approx(float(sum(penalty) / 3), abs=1e-15)
    assert ranking.chance_rank1 == pytest.approx((1 / 3 + 2 / 3 + 2 / 3) / 3)
    assert (ranking.rank1, ranking.rank5, ranking.rank20) == (1 / 3, 1.0, 1.0)


def test_distinct_identities_count_people_not_images() -> None:
    distances = [[0.1, 0.2, 0.3, 0.4]]
    gallery = [7, 7, 7, 5]
    plain = evaluate_ranking(distances, [5], gallery)
    distinct = evaluate_ranking(distances, [5], gallery, distinct_identities=True)
    assert plain.cmc is not None
    assert distinct.cmc is not None
    assert plain.cmc.tolist() == [0, 0, 0, 1]
    assert distinct.cmc.tolist() == [0, 1]
    assert plain.mAP == distinct.mAP == 1 / 4


def test_excluded_items_leave_the_list_and_the_counts() -> None:
    distances = [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]]
    excluded = [[True, False, False], [False, False, False]]
    ranking = evaluate_ranking(distances, [1, 1], [2, 1, 1], excluded=excluded)
    assert ranking.rank1 == 1 / 2
    assert ranking.mAP == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    assert ranking.mINP == pytest.approx((1 + 2 / 3) / 2)
    assert ranking.chance_rank1 == pytest.approx((1 + 2 / 3) / 2)


def test_a_query_without_its_person_is_counted_and_in_no_rate() -> None:
    ranking = evaluate_ranking([[0.1, 0.2], [0.1, 0.2]], [1, 9], [1, 2])
    assert (ranking.queries, ranking.skipped, ranking.gallery) == (1, 1, 2)
    assert (ranking.rank1, ranking.mAP, ranking.mINP) == (1.0, 1.0, 1.0)


def test_ties_keep_the_order_of_the_gallery() -> None:
    assert evaluate_ranking(np.zeros((1, 40)), [3], [3] + [1] * 39).rank1 == 1.0
    assert evaluate_ranking(np.zeros((1, 40)), [3], [1] * 39 + [3]).mAP == 1 / 40


def test_more_queries_than_are_ranked_at_once_change_nothing() -> None:
    rng = np.random.default_rng(0)
    distances, queries, gallery = rng.random((1100, 9)), rng.integers(0, 4, 1100), np.arange(9) % 4
    together = evaluate_ranking(distances, queries, gallery, distinct_identities=True)
    singles = [
        evaluate_ranking(row[None], [query], gallery, distinct_identities=True)
        for row, query in zip(distances, queries, strict=True)
    ]
    assert together.mAP == pytest.approx(np.mean([single.mAP for single in singles]))
    assert together.rank1 == pytest.approx(np.mean([single.rank1 for single in singles]))


problems = st.tuples(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 12))


@settings(max_examples=40, deadline=None)
@given(problems, st.booleans())
def test_properties_of_any_ranking(problem: tuple[int, int, int], distinct: bool) -> None:
    seed, queries, gallery = problem
    rng = np.random.default_rng(seed)
    distances = rng.permutation(queries * gallery).reshape(queries, gallery).astype(float)
    gallery_ids = rng.integers(0, 4, gallery)
    query_ids = rng.choice(gallery_ids, queries)
    ranking = evaluate_ranking(distances, query_ids, gallery_ids, distinct_identities=distinct)
    assert ranking.cmc is not None
    assert (np.diff(ranking.cmc) >= 0).all()
    assert ranking.cmc[-1] == 1.0
    assert 0 < ranking.mINP <= 1
    assert 0 < ranking.mAP <= 1

    order = rng.permutation(gallery)
    shuffled = evaluate_ranking(
        distances[:, order], query_ids, gallery_ids[order], distinct_identities=distinct
    )
    assert shuffled == ranking

    perfect = (query_ids[:, None] != gallery_ids[None, :]).astype(float)
    best = evaluate_ranking(perfect, query_ids, gallery_ids, distinct_identities=distinct)
    assert (best.rank1, best.mAP, best.mINP) == (1.0, 1.0, 1.0)


def test_wrong_shapes_and_broken_distances_are_refused() -> None:
    with pytest.raises(OptionError, match=r"shape \(1, 2\); expected \(1, 3\)"):
        evaluate_ranking([[0.1, 0.2]], [1], [1, 2, 3])
    with pytest.raises(OptionError, match="not finite"):
        evaluate_ranking([[0.1, np.nan]], [1], [1, 2])
    with pytest.raises(OptionError, match="excluded has shape"):
        evaluate_ranking([[0.1, 0.2]], [1], [1, 2], excluded=[[True]])
    with pytest.raises(OptionError, match="not empty"):
        evaluate_ranking(np.zeros((1, 0)), [1], [])
    with pytest.raises(DatasetError, match="must share identities"):
        evaluate_ranking([[0.1, 0.2]], [1], [2, 3])


def test_best_threshold_parts_two_clean_groups_halfway() -> None:
    assert best_threshold([0.9, 0.8, 0.2, 0.1], [True, True, False, False]) == pytest.approx(0.5)


def test_best_threshold_has_the_best_f1() -> None:
    # accept 1: 2*1/(1+2); 2: 2*1/(2+2); 3: 2*2/(3+2) = 4/5, the best; 4: 4/6
    similarities = [[0.9, 0.7], [0.6, 0.1]]
    assert best_threshold(similarities, [[True, False], [True, False]]) == pytest.approx(0.35)
    # equal similarities cannot be parted: all of 0.5 or none
    assert best_threshold([0.5, 0.5, 0.4], [True, False, False]) == pytest.approx(0.45)
    # the lowest pair is one person: everything is accepted
    assert best_threshold([0.5, 0.3, 0.2], [True, False, True]) == 0.2


def test_best_threshold_needs_both_kinds_of_pair() -> None:
    with pytest.raises(OptionError, match="needs pairs"):
        best_threshold([0.1, 0.2], [True, True])
    with pytest.raises(OptionError, match="differ in shape"):
        best_threshold([0.1, 0.2], [True])
