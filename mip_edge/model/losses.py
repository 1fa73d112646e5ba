"""The losses of MIP's training: identity, triplet, modality-shared and instance-aware."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mip_edge.errors import OptionError
from mip_edge.model.mip import TrainOutput

MSEL_WEIGHT = 0.5
IAEL_WEIGHT = 0.5
_SMALLEST_SQUARE = 1e-12


@dataclass(frozen=True, slots=True)
class Losses:
    """One batch's losses, each with its weight; a loss that is off is 0."""

    identity: Tensor
    triplet: Tensor
    msel: Tensor
    iael: Tensor
    relation: Tensor
    """Between both networks' similarities, with a teacher."""
    logits: Tensor
    """Between both networks' scores, with a teacher of the same identities."""

    @property
    def total(self) -> Tensor:
        """What the training goes down."""
        published = self.identity + self.triplet + self.msel + self.iael
        return published + self.relation + self.logits


def losses(
    output: TrainOutput,
    labels: Tensor,
    modality: Tensor,
    *,
    msel: bool,
    label_smoothing: float = 0.0,
) -> Losses:
    """All losses of one batch with `labels` (B,) and `modality` (B,); IAEL if the model has it.

    `msel` turns the modality-shared loss on; the published training does from epoch 10.
    Raises: OptionError if the model has no classes.
    """
    if not output.scores:
        raise OptionError("the model has no classes; training needs one for each identity")
    zero = output.features[0].new_zeros(())
    instance = output.instance_scores
    return Losses(
        identity=combine(
            [
                F.cross_entropy(scores, labels, label_smoothing=label_smoothing)
                for scores in output.scores
            ]
        ),
        triplet=combine([triplet_loss(features, labels) for features in output.features]),
        msel=MSEL_WEIGHT
        * combine([msel_loss(features, labels, modality) for features in output.features])
        if msel
        else zero,
        iael=IAEL_WEIGHT * iael_loss(instance, labels) if instance else zero,
        relation=zero,
        logits=zero,
    )


def combine(parts: Sequence[Tensor]) -> Tensor:
    """Half the global loss, half the mean of the local ones."""
    overall, *local = parts
    return 0.5 * overall + 0.5 * torch.stack(local).mean()


def pairwise_distances(features: Tensor) -> Tensor:
    """Euclidean distances (B, B) of features (B, D), at least 1e-6."""
    if features.dtype in (torch.float16, torch.bfloat16):
        features = features.float()
    # Near neighbours differ in digits that a product in half precision does not have.
    with torch.autocast(features.device.type, enabled=False):
        products = features @ features.T
    squares = features.square().sum(dim=1)
    return (squares[:, None] + squares - 2 * products).clamp(min=_SMALLEST_SQUARE).sqrt()


def triplet_loss(features: Tensor, labels: Tensor) -> Tensor:
    """Batch-hard triplet loss with a soft margin, on features (B, D) as they are."""
    distances = pairwise_distances(features)
    same = labels[:, None] == labels
    hardest_positive = distances.masked_fill(~same, -torch.inf).max(dim=1).values
    hardest_negative = distances.masked_fill(same, torch.inf).min(dim=1).values
    return F.softplus(hardest_positive - hardest_negative).mean()


def msel_loss(features: Tensor, labels: Tensor, modality: Tensor) -> Tensor:
    """Modality-shared enhancement loss (PMT, AAAI 2023), without its weight.

    For each crop: squared difference of its mean distance to its identity in the other modality
    and in its own; the mean over each modality, then of the two. A crop whose identity is not
    in both is left out.
    """
    distances = pairwise_distances(features)
    same = labels[:, None] == labels
    alike = modality[:, None] == modality
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    own, other = same & alike & ~itself, same & ~alike
    difference = _masked_mean(distances, other) - _masked_mean(distances, own)
    counted = own.any(dim=1) & other.any(dim=1)
    each = [_masked_mean(difference.square(), counted & (modality == kind)) for kind in (0, 1)]
    return 0.5 * (each[0] + each[1])


def iael_loss(instance_scores: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Instance-aware enhancement loss, without its weight: mean cross entropy of the layers."""
    return torch.stack([F.cross_entropy(scores, labels) for scores in instance_scores]).mean()


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)
