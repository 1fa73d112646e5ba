"""A PCA that makes embeddings shorter: learned on training crops, folded into the graph's end."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import OptionError
from mip_edge.spec import Embeddings

_WHITENING_FLOOR = 1e-2
"""Share of the largest eigenvalue below which whitening strengthens a direction no further."""
_NOTHING = 1e-12
"""Length below which a projected embedding has no direction left."""


@dataclass(frozen=True, slots=True)
class Projection:
    """Unit embeddings of width D to those of d numbers: `(u - mean) @ matrix`, to unit length."""

    mean: NDArray[np.float64]
    """(D,); zeros where the embeddings were not centred."""
    matrix: NDArray[np.float64]
    """(D, d); columns orthonormal, or scaled by whitening, the strongest direction first."""
    whiten: bool
    explained: float
    """Share of the training embeddings' variance (about `mean`) that the d directions keep."""
    crops: int
    """Training crops of both lights that it was learned on."""
    identities: int
    """People on those crops."""
    method: Literal["pca"] = "pca"

    @property
    def width(self) -> int:
        """D, numbers of an embedding before."""
        return int(self.matrix.shape[0])

    @property
    def dimension(self) -> int:
        """d, numbers of an embedding after."""
        return int(self.matrix.shape[1])

    def apply(self, embeddings: Embeddings) -> Embeddings:
        """Unit embeddings (N, D) to unit embeddings (N, d), worked out in float64.

        Raises: OptionError for another width, or a row with nothing in the directions kept.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.width:
            raise OptionError(
                f"the projection takes embeddings of shape (N, {self.width}), got "
                f"{embeddings.shape}: learn it anew with this model"
            )
        matrix, bias = fold(self)
        projected = embeddings.astype(np.float64) @ matrix + bias
        lengths = np.linalg.norm(projected, axis=1, keepdims=True)
        lost = np.flatnonzero(~(lengths[:, 0] > _NOTHING))  # a NaN is lost too
        if len(lost):
            raise OptionError(
                f"row {lost[0]} has nothing in the {self.dimension} directions kept; take a larger "
                "--dim, or more training crops"
            )
        return np.asarray(projected / lengths, dtype=np.float32)

    def digest(self) -> str:
        """SHA-256 of the shape and of the float32 numbers that stand in the graph, in hex."""
        content = hashlib.sha256(str(self.matrix.shape).encode())
        for folded in fold(self):
            content.update(np.ascontiguousarray(folded, dtype="<f4").tobytes())
        return content.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest; the numbers themselves stand in the graph."""
        return {
            "method": self.method,
            "dimension": self.dimension,
            "width": self.width,
            "whiten": self.whiten,
            "centred": bool(self.mean.any()),
            "explained": round(self.explained, 6),
            "crops": self.crops,
            "identities": self.identities,
            "digest": self.digest(),
        }


def learn_projections(
    embeddings: Embeddings,
    dimensions: Sequence[int],
    *,
    whiten: bool,
    identities: int,
    centre: bool = False,
) -> tuple[Projection, ...]:
    """One projection for each of `dimensions`, from one exact decomposition in float64.

    PCA after Pearson (1901): eigenvectors of the embeddings' second moments, largest eigenvalue
    first, from whichever of the (D, D) and (N, N) products is smaller. The order of the crops does
    not matter, to the bit. The largest component of a direction is positive. By default nothing is
    subtracted: where `matrix` keeps nearly all of the variance, cosines stay what they were, and
    with them a --min-similarity found before; `centre` subtracts the mean of all crops first.
    `whiten` divides each direction by the square root of its eigenvalue (the largest counting as
    1); eigenvalues under a hundredth of the largest count as that hundredth, for what is so weak is
    mostly noise.
    Raises: OptionError for a dimension below 1, above the width, or above the number of directions
    that the crops span; for embeddings that are not (N, D) or not finite.
    """
    if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
        what = "numbers that are not finite" if embeddings.ndim == 2 else f"{embeddings.shape}"
        raise OptionError(
            f"--dim needs finite embeddings (N, D) of training crops, got {what}; check the "
            "checkpoint with: mip-edge evaluate"
        )
    crops, width = embeddings.shape
    for dimension in dimensions:
        _check_dimension(dimension, crops, width, spanned=crops - centre)
    # sums round by their order, and the order of files is no property of a model
    rows = sorted(range(crops), key=lambda row: embeddings[row].tobytes())
    unit = embeddings[rows].astype(np.float64)
    mean = unit.mean(axis=0) if centre else np.zeros(width)
    unit -= mean
    eigenvalues, directions = _decompose(unit)
    for dimension in dimensions:
        _check_dimension(dimension, crops, width, spanned=len(eigenvalues))
    total = float(np.square(unit).sum())
    return tuple(
        Projection(
            mean=mean,
            matrix=_scaled(directions, eigenvalues, dimension, whiten=whiten),
            whiten=whiten,
            explained=min(1.0, float(eigenvalues[:dimension].sum()) / total),
            crops=crops,
            identities=identities,
        )
        for dimension in dimensions
    )


def fold(projection: Projection) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix (D, d) and bias (d,): `u @ matrix + bias` of a unit u is what is then normalised.

    Without centring the bias is zero, and u need not be of unit length: one MatMul is all.
    """
    # 0 - x, for -x would make negative zeros, which are other bytes
    return projection.matrix, 0 - projection.mean @ projection.matrix


def _check_dimension(dimension: int, crops: int, width: int, *, spanned: int) -> None:
    if dimension < 1:
        raise OptionError(f"--dim must be at least 1, got {dimension}")
    if dimension > width:
        raise OptionError(
            f"--dim {dimension} is above the width of the model's embeddings, {width}; take "
            f"{width} at most"
        )
    if dimension > spanned:
        raise OptionError(
            f"--dim {dimension} is above the {spanned} directions that {crops} training crops "
            f"span; give more crops, or take --dim {spanned} at most"
        )


def _decompose(unit: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues (r,) of the second moments, falling, and directions (D, r), orthonormal.

    r is the numerical rank: directions below the rounding of float64 are noise, and left out.
    """
    crops, width = unit.shape
    wide = width > crops
    eigenvalues, vectors = np.linalg.eigh(unit @ unit.T if wide else unit.T @ unit)
    eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
    largest = eigenvalues[0] if len(eigenvalues) else 0.0
    rounding = max(crops, width) * np.finfo(np.float64).eps * max(largest, 0.0)
    rank = int((eigenvalues > rounding).sum())
    vectors = vectors[:, :rank]
    if wide:
        # weak directions come out of the product not quite at right angles; QR keeps the order
        vectors = np.linalg.qr(unit.T @ vectors)[0]
    peaks = vectors[np.abs(vectors).argmax(axis=0), np.arange(rank)] if rank else np.ones(0)
    return eigenvalues[:rank], vectors * np.sign(peaks)


def _scaled(
    directions: NDArray[np.float64],
    eigenvalues: NDArray[np.float64],
    dimension: int,
    *,
    whiten: bool,
) -> NDArray[np.float64]:
    matrix = directions[:, :dimension]
    if whiten:
        shares = eigenvalues[:dimension] / eigenvalues[0]
        matrix = matrix / np.sqrt(np.maximum(shares, _WHITENING_FLOOR))
    return np.ascontiguousarray(matrix)
