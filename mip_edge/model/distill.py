"""What a small network learns from a large one: how crops are alike, and whom they show."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mip_edge.model.losses import combine

RELATION_TEMPERATURE = 0.1
"""Of cosines: sharp enough that a crop's nearest neighbours count and the rest nearly not."""
LOGITS_TEMPERATURE = 4.0
"""Of class scores (Hinton et al., 2015)."""


def relation_loss(embeddings: Tensor, teacher: Tensor) -> Tensor:
    """How far the similarities within a batch differ: mean Kullback-Leibler divergence of rows.

    Both (B, .) of unit length, of any two widths. Each row holds a crop's cosines with all the
    others, as a distribution; the crop itself is left out.
    """
    itself = torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    found, wanted = (
        (one @ one.T / RELATION_TEMPERATURE).masked_fill(itself, -1e4).log_softmax(dim=1)
        for one in (embeddings, teacher)
    )
    return F.kl_div(found, wanted, reduction="batchmean", log_target=True)


def logits_loss(scores: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """How far the class scores differ, five times (B, classes): half global, half local mean."""
    heat = LOGITS_TEMPERATURE
    return combine(
        [
            heat**2
            * F.kl_div(
                (ours / heat).log_softmax(dim=1),
                (theirs / heat).log_softmax(dim=1),
                reduction="batchmean",
                log_target=True,
            )
            for ours, theirs in zip(scores, teacher, strict=True)
        ]
    )
