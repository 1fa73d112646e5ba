"""The PCA of --dim: worked by hand in two dimensions, invariants elsewhere."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.projection import Projection, fold, learn_projections
from mip_edge.errors import OptionError
from mip_edge.spec import Embeddings

AXIS_SPREAD = np.geomspace(1, 0.05, 12)


def unit(rows: NDArray[np.floating]) -> Embeddings:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def cloud(crops: int, width: int = 12, seed: int = 5) -> Embeddings:
    """Unit vectors of falling spread and a mean that is not zero."""
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(rng.normal(size=(width, width)))[0]
    return unit((rng.normal(size=(crops, width)) * AXIS_SPREAD[:width]) @ turned + 0.2)


def learned(
    embeddings: Embeddings, dimension: int, *, whiten: bool = False, centre: bool = False
) -> Projection:
    (found,) = learn_projections(
        embeddings, [dimension], whiten=whiten, identities=3, centre=centre
    )
    return found


# (3/5, 4/5), (4/5, 3/5), twice: second moments [[25, 24], [24, 25]] / 25, eigenvalues 49/25 along
# (1, 1) and 1/25 along (1, -1)
HAND = np.array([[0.6, 0.8], [0.8, 0.6], [0.6, 0.8], [0.8, 0.6]], dtype=np.float32)


def test_two_dimensions_worked_by_hand() -> None:
    projection = learned(HAND, 1)
    assert projection.matrix[:, 0] == pytest.approx([0.5**0.5, 0.5**0.5], abs=1e-7)
    assert projection.explained == pytest.approx(49 / 50, abs=1e-7)
    assert projection.mean.tolist() == [0, 0]
    assert (projection.crops, projection.identities) == (4, 3)
    assert projection.apply(HAND).tolist() == [[1], [1], [1], [1]]


def test_centred_the_same_four_crops_lie_on_the_other_diagonal() -> None:
    projection = learned(HAND, 1, centre=True)
    assert projection.mean == pytest.approx([0.7, 0.7], abs=1e-7)
    assert np.abs(projection.matrix[:, 0]) == pytest.approx([0.5**0.5] * 2, abs=1e-7)
    assert projection.explained == pytest.approx(1)
    near, far = projection.apply(HAND)[:2, 0]
    assert near == -far


def test_whitening_divides_by_the_root_of_the_eigenvalue() -> None:
    """1/25 is 1/49 of the largest eigenvalue: the second direction counts seven times."""
    plain, whitened = learned(HAND, 2), learned(HAND, 2, whiten=True)
    assert whitened.matrix == pytest.approx(plain.matrix * np.array([1, 7]), abs=1e-5)


def test_whitening_strengthens_no_direction_more_than_tenfold() -> None:
    faint = unit(np.array([[1, 0.001], [1, -0.001]]))
    matrix = learned(faint, 2, whiten=True).matrix
    assert np.abs(matrix) == pytest.approx(np.array([[1, 0], [0, 10]]), abs=1e-6)


@pytest.mark.parametrize("crops", [9, 40], ids=["fewer crops than numbers", "more"])
def test_directions_are_orthonormal_and_fall_in_strength(crops: int) -> None:
    embeddings = cloud(crops)
    matrix = learned(embeddings, 9).matrix
    assert matrix.T @ matrix == pytest.approx(np.eye(9), abs=1e-12)
    strength = np.square(embeddings.astype(np.float64) @ matrix).sum(axis=0)
    assert (np.diff(strength) < 0).all()
    assert (matrix[np.abs(matrix).argmax(axis=0), range(9)] > 0).all()


def test_few_crops_give_the_directions_that_a_singular_value_decomposition_gives() -> None:
    embeddings = cloud(8)
    expected = np.linalg.svd(embeddings.astype(np.float64), full_matrices=False)[2][:8]
    found = learned(embeddings, 8).matrix.T
    assert np.abs((expected * found).sum(axis=1)) == pytest.approx(np.ones(8), abs=1e-9)


def test_full_width_keeps_every_cosine() -> None:
    embeddings = cloud(60)
    turned = learned(embeddings, 12).apply(embeddings)
    assert turned @ turned.T == pytest.approx(embeddings @ embeddings.T, abs=1e-6)


def test_centred_full_width_keeps_the_cosines_of_centred_embeddings() -> None:
    embeddings = cloud(60)
    projection = learned(embeddings, 12, centre=True)
    centred = unit(embeddings - embeddings.astype(np.float64).mean(axis=0))
    turned = projection.apply(embeddings)
    assert turned @ turned.T == pytest.approx(centred @ centred.T, abs=1e-5)


@given(
    st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(1, 12), st.booleans(), st.booleans()
)
def test_rows_come_out_of_unit_length(
    seed: int, crops: int, dimension: int, whiten: bool, centre: bool
) -> None:
    embeddings = cloud(crops, seed=seed)
    projection = learned(embeddings, min(dimension, crops - centre), whiten=whiten, centre=centre)
    found = projection.apply(cloud(20, seed=seed + 1))
    assert found.dtype == np.float32
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(20), abs=1e-6)


@pytest.mark.parametrize("centre", [False, True])
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_crops_does_not_matter(centre: bool, shuffler: random.Random) -> None:
    embeddings = cloud(30)
    order = list(range(30))
    shuffler.shuffle(order)
    one, other = (
        learned(rows, 6, whiten=True, centre=centre) for rows in (embeddings, embeddings[order])
    )
    assert np.array_equal(one.matrix, other.matrix)
    assert one.digest() == other.digest()


def test_several_dimensions_are_the_first_columns_of_one_decomposition() -> None:
    embeddings = cloud(30)
    short, long = learn_projections(embeddings, [3, 8], whiten=False, identities=3)
    assert np.array_equal(long.matrix[:, :3], short.matrix)
    assert short.digest() == learned(embeddings, 3).digest()
    assert short.explained < long.explained < 1


@pytest.mark.parametrize("centre", [False, True])
def test_the_folded_map_is_what_apply_does(centre: bool) -> None:
    embeddings = cloud(30)
    projection = learned(embeddings, 5, whiten=True, centre=centre)
    matrix, bias = fold(projection)
    assert bias.any() == centre
    found = unit(embeddings.astype(np.float64) @ matrix + bias)
    assert found == pytest.approx(projection.apply(embeddings), abs=1e-6)
    shifted = (embeddings.astype(np.float64) - projection.mean) @ projection.matrix
    assert found == pytest.approx(unit(shifted), abs=1e-6)


def test_the_digest_tells_projections_apart() -> None:
    embeddings = cloud(30)
    digests = {
        learned(embeddings, dimension, whiten=whiten, centre=centre).digest()
        for dimension in (4, 5)
        for whiten in (False, True)
        for centre in (False, True)
    }
    assert len(digests) == 8
    assert {len(digest) for digest in digests} == {64}


def test_the_digest_covers_what_is_subtracted() -> None:
    projection = learned(cloud(30), 4)
    assert replace(projection, mean=np.full(12, 0.1)).digest() != projection.digest()


def test_the_manifest_gets_plain_values() -> None:
    projection = learned(cloud(30), 4)
    record = json.loads(json.dumps(projection.to_dict()))
    assert record.pop("digest") == projection.digest()
    assert record.pop("explained") == pytest.approx(projection.explained, abs=1e-6)
    assert record == {
        "method": "pca",
        "dimension": 4,
        "width": 12,
        "whiten": False,
        "centred": False,
        "crops": 30,
        "identities": 3,
    }


@pytest.mark.parametrize(
    ("crops", "dimension", "message"),
    [
        (30, 0, "--dim must be at least 1, got 0"),
        (30, 13, "--dim 13 is above the width of the model's embeddings, 12"),
        (7, 8, "--dim 8 is above the 7 directions that 7 training crops span"),
        (0, 1, "--dim 1 is above the 0 directions that 0 training crops span"),
    ],
)
def test_a_dimension_that_cannot_be_is_refused(crops: int, dimension: int, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        learned(cloud(30)[:crops], dimension)


def test_centring_costs_one_direction() -> None:
    with pytest.raises(OptionError, match="--dim 7 is above the 6 directions"):
        learned(cloud(7), 7, centre=True)


def test_crops_that_repeat_each_other_span_no_more() -> None:
    doubled = np.tile(cloud(4), (5, 1))
    assert learned(doubled, 4).dimension == 4
    with pytest.raises(OptionError, match="--dim 5 is above the 4 directions that 20 training"):
        learned(doubled, 5)


def test_numbers_that_are_not_finite_are_refused() -> None:
    spoilt = cloud(30)
    spoilt[4, 2] = np.nan
    with pytest.raises(OptionError, match="numbers that are not finite"):
        learned(spoilt, 3)
    with pytest.raises(OptionError, match=r"got \(12,\)"):
        learned(spoilt[0], 3)
    with pytest.raises(OptionError, match="row 4 has nothing"):
        learned(cloud(30), 3).apply(spoilt)


def test_embeddings_of_another_width_are_refused() -> None:
    with pytest.raises(OptionError, match=r"\(N, 12\), got \(5, 8\)"):
        learned(cloud(30), 3).apply(cloud(5, 8))


def test_an_embedding_outside_the_kept_directions_is_told() -> None:
    diagonal = np.full((2, 1), 0.5**0.5)
    across = np.array([[0.6, 0.8], [0.5**0.5, -(0.5**0.5)]], dtype=np.float32)
    with pytest.raises(OptionError, match="row 1 has nothing in the 1 directions kept"):
        replace(learned(HAND, 1), matrix=diagonal).apply(across)
