"""Parity on vectors whose cosines are known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from engines.parity import compare, cosines
from mip_edge.errors import OptionError

REFERENCE = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)


def test_equal_embeddings_have_cosine_one_and_agree() -> None:
    parity = compare(REFERENCE, REFERENCE.copy())
    assert parity.smallest_cosine == pytest.approx(1)
    assert parity.mean_cosine == pytest.approx(1)
    assert parity.top1_agreement == 1
    assert parity.crops == 3


def test_cosines_are_those_of_the_rows() -> None:
    candidate = np.array([[0, 1], [0, 1], [0.8, 0.6]], dtype=np.float32)
    np.testing.assert_allclose(cosines(REFERENCE, candidate), [0, 1, 24 / 25], atol=1e-7)
    parity = compare(REFERENCE, candidate)
    assert parity.smallest_cosine == pytest.approx(0)
    assert parity.mean_cosine == pytest.approx((0 + 1 + 24 / 25) / 3)


def test_top1_agreement_is_the_share_of_equal_nearest_others() -> None:
    # Nearest others, reference: 0->2, 1->2, 2->1. Candidate: 0->1 (equal rows), 1->0, 2->0 or 1.
    candidate = np.array([[0, 1], [0, 1], [0.8, 0.6]], dtype=np.float32)
    assert compare(REFERENCE, candidate).top1_agreement == pytest.approx(0)
    turned = REFERENCE[:, ::-1].copy()  # another space, the same neighbours
    assert compare(REFERENCE, turned).top1_agreement == 1


def test_a_row_that_is_not_a_number_is_never_parity() -> None:
    broken = REFERENCE.copy()
    broken[1] = np.nan
    assert np.isnan(compare(REFERENCE, broken).smallest_cosine)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(OptionError, match=r"\(3, 2\) and \(2, 2\)"):
        compare(REFERENCE, REFERENCE[:2])
    with pytest.raises(OptionError, match="N at least 1"):
        compare(REFERENCE[:0], REFERENCE[:0])
