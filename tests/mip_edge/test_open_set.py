"""Open-set figures against cases worked by hand, and what must hold of any of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mip_edge.errors import OptionError
from mip_edge.open_set import (
    FARS,
    accepted_share,
    evaluate_open_set,
    identification_rate,
    resolvable_far,
    resolves,
    threshold_at_far,
    true_accept_rate,
)

# Three queries of anna, bert and cleo meet three gallery items of the same people.
#            anna bert cleo
TABLE = np.array(
    [
        [0.9, 0.2, 0.5],
        [0.3, 0.6, 0.7],
        [0.1, 0.4, 0.8],
    ]
)
IDS = ["anna", "bert", "cleo"]
GENUINE = np.diag(TABLE)
IMPOSTORS = TABLE[~np.eye(3, dtype=bool)]
"""0.1 0.2 0.3 0.4 0.5 0.7"""


@pytest.mark.parametrize(
    ("far", "refused", "tar"),
    [
        (0.0, 0.7, 2 / 3),  # nobody may be accepted: above 0.7 are 0.9 and 0.8
        (1 / 6, 0.5, 3 / 3),  # one of six may: 0.7; above 0.5 are all three
        (0.3, 0.5, 3 / 3),  # a second one would be 2/6
        (0.5, 0.3, 3 / 3),
    ],
)
def test_the_threshold_is_the_smallest_that_keeps_the_rate(
    far: float, refused: float, tar: float
) -> None:
    threshold = threshold_at_far(IMPOSTORS, far)
    assert threshold == np.nextafter(refused, np.inf)
    assert accepted_share(IMPOSTORS, threshold) <= far
    assert accepted_share(IMPOSTORS, refused) > far
    assert true_accept_rate(GENUINE, IMPOSTORS, far) == tar


def test_where_all_may_be_accepted_the_threshold_is_the_least_cosine() -> None:
    assert threshold_at_far(IMPOSTORS, 1.0) == -1.0


def test_equal_impostors_are_refused_together() -> None:
    # one of four may be accepted, but the two best are equal
    threshold = threshold_at_far([0.1, 0.2, 0.6, 0.6], 0.25)
    assert threshold > 0.6
    assert accepted_share([0.1, 0.2, 0.6, 0.6], threshold) == 0


def test_a_threshold_of_single_precision_refuses_the_impostor_it_was_made_of() -> None:
    impostors = np.array([0.1, 0.3], np.float32)
    threshold = threshold_at_far(impostors, 0.0)
    assert not (impostors >= threshold).any()
    assert np.float32(threshold) == threshold
    # a threshold between two numbers of float32 is not rounded onto the lower one
    between = float(impostors[1]) + 1e-12
    assert accepted_share(impostors, between) == 0


def test_a_rate_is_told_with_ten_accepts_or_not_at_all() -> None:
    assert resolves(10_000, 0.001)
    assert not resolves(9_999, 0.001)
    assert resolvable_far(2_000) == 0.005
    assert resolvable_far(0) == resolvable_far(3) == 1.0


@pytest.mark.parametrize(
    ("enrolled", "far", "rate"),
    [
        # cleo is the stranger: her best is bert with 0.4; anna (0.9) and bert (0.6) are above
        (["anna", "bert"], 0.0, 2 / 2),
        # bert is: his best is cleo with 0.7; anna (0.9) and cleo (0.8) are above
        (["anna", "cleo"], 0.0, 2 / 2),
        # anna is: her best is cleo with 0.5; bert's best is cleo (wrong), cleo's is cleo
        (["bert", "cleo"], 0.0, 1 / 2),
        # anna alone is enrolled: the strangers reach 0.3 and 0.1
        (["anna"], 0.0, 1 / 1),
        # cleo alone: the strangers anna (0.5) and bert (0.7); one of two may be accepted
        (["cleo"], 0.5, 1 / 1),
    ],
)
def test_identification_of_three_people_by_hand(
    enrolled: list[str], far: float, rate: float
) -> None:
    assert identification_rate(TABLE, IDS, IDS, enrolled, far) == rate


def test_a_stranger_better_than_an_enrolled_person_costs_him() -> None:
    table = TABLE.copy()
    table[2, 1] = 0.65  # cleo, a stranger, resembles bert more than bert does (0.6)
    assert identification_rate(table, IDS, IDS, ["anna", "bert"], 0.0) == 1 / 2
    assert identification_rate(table, IDS, IDS, ["anna", "bert"], 1.0) == 2 / 2


def test_an_excluded_item_counts_for_nobody() -> None:
    # without cleo's item bert is found, and cleo's own query has nobody of hers: not in the rate
    out = np.zeros((3, 3), dtype=bool)
    out[:, 2] = True
    assert identification_rate(TABLE, IDS, IDS, ["bert", "cleo"], 0.0, excluded=out) == 1 / 1
    found = evaluate_open_set(TABLE, IDS, IDS, excluded=out)
    assert (found.genuine_pairs, found.impostor_pairs) == (2, 4)


def test_a_query_of_nobody_in_the_gallery_is_a_stranger() -> None:
    rate = identification_rate(TABLE, ["anna", "bert", "dora"], IDS, IDS, 0.0)
    # dora reaches 0.8; of anna (right, 0.9) and bert (wrong) one is found
    assert rate == 1 / 2


def test_without_strangers_there_is_no_rate() -> None:
    with pytest.raises(OptionError, match="3 queries of enrolled people and 0 of strangers"):
        identification_rate(TABLE, IDS, IDS, IDS, 0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: threshold_at_far([], 0.1), "no pair of two people"),
        (lambda: threshold_at_far([0.1], 1.5), r"lies in \[0, 1\], got 1.5"),
        (lambda: threshold_at_far([np.nan], 0.1), "not finite"),
        (lambda: evaluate_open_set(TABLE[:2], IDS, IDS), r"shape \(2, 3\); expected \(3, 3\)"),
        (lambda: evaluate_open_set(TABLE, IDS, IDS, excluded=[[True]]), r"excluded has shape"),
    ],
)
def test_what_cannot_be_scored_is_told(call: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        call()  # type: ignore[operator]


def scene(seed: int, people: int, shift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three queries and three items a person; `shift` parts genuine pairs from impostors."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(people), 3)
    noise = rng.uniform(-0.4, 0.4, (len(ids), len(ids)))
    return np.where(ids[:, None] == ids[None, :], noise + shift, noise), ids, ids


def test_few_pairs_give_no_rate() -> None:
    found = evaluate_open_set(*scene(1, 8, 0.3))  # 24 queries: 504 impostor pairs, 12 strangers
    assert (found.impostor_pairs, found.strangers) == (504, 12)
    assert [far for far in FARS if found.tar[far] is not None] == [0.1]
    assert [far for far in FARS if found.dir[far] is not None] == []


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 0.7))
def test_rates_never_fall_with_the_far(seed: int, shift: float) -> None:
    fars = (0.1, 0.2, 0.3, 0.4, 0.8, 1.0)
    found = evaluate_open_set(*scene(seed, 70, shift), fars=fars)
    for rates in (found.tar, found.dir):
        known = [rate for rate in rates.values() if rate is not None]
        assert len(known) == 6
        assert known == sorted(known)
        assert 0 <= known[0] <= known[-1] <= 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_the_order_of_queries_and_gallery_changes_nothing(seed: int) -> None:
    table, query_ids, gallery_ids = scene(seed, 70, 0.3)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(len(table)), rng.permutation(len(table))
    shuffled = table[np.ix_(rows, columns)]
    again = evaluate_open_set(shuffled, query_ids[rows], gallery_ids[columns])
    assert again == evaluate_open_set(table, query_ids, gallery_ids)


def test_people_who_are_told_apart_perfectly_are_all_found() -> None:
    found = evaluate_open_set(*scene(5, 70, 1.0), fars=(0.1, 0.2))
    assert found.tar == found.dir == {0.1: 1.0, 0.2: 1.0}


def test_one_seed_gives_one_answer_and_another_seed_other_strangers() -> None:
    table = scene(5, 70, 0.3)
    assert evaluate_open_set(*table, seed=1) == evaluate_open_set(*table, seed=1)
    assert evaluate_open_set(*table, seed=1).dir != evaluate_open_set(*table, seed=2).dir
