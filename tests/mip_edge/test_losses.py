"""The losses against the published code's values and gradients, and by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mip_edge.errors import OptionError
from mip_edge.model.losses import combine, losses, msel_loss, pairwise_distances, triplet_loss
from mip_edge.model.mip import TrainOutput

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(values)
        for name, values in np.load(DATA / "losses_reference.npz").items()
    }


def test_losses_and_gradients_are_the_published_ones(reference: dict[str, Tensor]) -> None:
    features = reference["l_feats"].clone().requires_grad_()
    scores = reference["l_scores"].clone().requires_grad_()
    output = TrainOutput(list(scores), list(features))
    given = losses(output, reference["l_pid"], reference["l_flag"], msel=True)
    assert float(given.identity.detach()) == pytest.approx(float(reference["l_id"]), rel=1e-6)
    assert float(given.triplet.detach()) == pytest.approx(float(reference["l_tri"]), rel=1e-6)
    assert float(given.msel.detach()) == pytest.approx(float(reference["l_msel"]), rel=1e-5)
    assert float(given.iael) == 0
    given.total.backward()
    assert features.grad is not None
    assert scores.grad is not None
    assert float((features.grad - reference["l_gfeat"]).abs().max()) <= 1e-6
    assert float((scores.grad[:, :16] - reference["l_gscore_first16"]).abs().max()) <= 1e-7


def test_msel_of_each_head_is_the_published_one(reference: dict[str, Tensor]) -> None:
    for features, expected in zip(reference["l_feats"], reference["l_msel_each"], strict=True):
        given = msel_loss(features, reference["l_pid"], reference["l_flag"])
        assert float(given) == pytest.approx(float(expected), rel=1e-5)


def test_msel_before_its_epoch_is_zero(reference: dict[str, Tensor]) -> None:
    output = TrainOutput(list(reference["l_scores"]), list(reference["l_feats"]))
    given = losses(output, reference["l_pid"], reference["l_flag"], msel=False)
    assert float(given.msel) == 0
    assert float(given.total) == pytest.approx(float(given.identity + given.triplet))


def test_triplet_of_three_points_on_a_line() -> None:
    features = torch.tensor([[0.0], [3.0], [4.0]])
    labels = torch.tensor([0, 0, 1])
    # Hardest positive minus hardest negative: 3 - 4, 3 - 1, and 0 (itself) - 1.
    expected = sum(math.log1p(math.exp(gap)) for gap in (-1, 2, -1)) / 3
    assert float(triplet_loss(features, labels)) == pytest.approx(expected, abs=1e-5)


def test_msel_of_four_points_on_a_line() -> None:
    features = torch.tensor([[0.0], [1.0], [3.0], [5.0]])
    labels, modality = torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0, 1, 1])
    # Other minus own: 4 - 1, 3 - 1, 5/2 - 2, 9/2 - 2.
    expected = ((9 + 4) / 2 + (1 / 4 + 25 / 4) / 2) / 2
    assert float(msel_loss(features, labels, modality)) == pytest.approx(expected, abs=1e-5)


def test_msel_leaves_out_an_identity_of_one_modality() -> None:
    features = torch.tensor([[0.0], [1.0], [3.0], [5.0], [70.0], [90.0]])
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    modality = torch.tensor([0, 0, 1, 1, 1, 1])
    alone = msel_loss(features[:4], labels[:4], modality[:4])
    assert float(msel_loss(features, labels, modality)) == pytest.approx(float(alone))


def test_half_global_half_mean_of_local() -> None:
    parts = [torch.tensor(value) for value in (8.0, 1.0, 2.0, 3.0, 6.0)]
    assert float(combine(parts)) == 0.5 * 8 + 0.5 * 3


def test_distances_keep_their_digits_under_autocast() -> None:
    features = torch.tensor([[100.0, 0.5], [100.0, 0.25]])
    with torch.autocast("cpu", torch.bfloat16):
        distances = pairwise_distances(features)
    assert distances.dtype == torch.float32
    assert float(distances[0, 1]) == pytest.approx(0.25, abs=0.01)


def test_a_model_without_classes_cannot_be_trained() -> None:
    output = TrainOutput([], [torch.zeros(2, 3)] * 5)
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(OptionError, match="no classes"):
        losses(output, labels, labels, msel=False)
