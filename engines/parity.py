"""How far two engines differ on the same crops."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mip_edge.artifact import Parity
from mip_edge.errors import OptionError
from mip_edge.spec import Embeddings

__all__ = ["Parity", "compare", "cosines"]


def cosines(reference: Embeddings, candidate: Embeddings) -> NDArray[np.float64]:
    """Cosine of each row with the same row of the other, (N,); NaN where a row is not finite.

    Raises: OptionError if the shapes differ or are empty.
    """
    if reference.shape != candidate.shape or reference.ndim != 2 or len(reference) == 0:
        raise OptionError(
            f"embeddings of shape {reference.shape} and {candidate.shape} came; "
            "parity needs two of one shape (N, D), N at least 1"
        )
    first, second = reference.astype(np.float64), candidate.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        alike: NDArray[np.float64] = np.einsum("nd,nd->n", first, second) / lengths
    return np.minimum(alike, 1.0)


def compare(reference: Embeddings, candidate: Embeddings) -> Parity:
    """Parity of two engines' embeddings of the same crops, both (N, D).

    top-1 agreement: the nearest OTHER crop in the candidate's space is as near in the reference's
    space as the reference's own nearest (ties within 1e-6 count as equal); 1.0 for a single crop.
    Raises: OptionError if the shapes differ or are empty.
    """
    alike = cosines(reference, candidate)
    return Parity(
        smallest_cosine=float(alike.min()),
        mean_cosine=float(alike.mean()),
        top1_agreement=_top1_agreement(reference, candidate),
        crops=len(reference),
    )


def _top1_agreement(reference: Embeddings, candidate: Embeddings) -> float:
    count = len(reference)
    if count < 2:
        return 1.0
    expected, found = (rows @ rows.T for rows in (reference, candidate))
    np.fill_diagonal(expected, -np.inf)
    np.fill_diagonal(found, -np.inf)
    chosen = expected[np.arange(count), found.argmax(axis=1)]
    return float(np.mean(chosen >= expected.max(axis=1) - 1e-6))
