"""Embeddings as a gallery keeps them: float16, unit length again when they are read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mip_edge.spec import Embeddings


def encode(embedding: NDArray[np.float32]) -> bytes:
    """Bytes of one embedding (D,), little-endian float16."""
    return embedding.astype("<f2").tobytes()


def decode(vectors: Sequence[bytes], dimension: int) -> Embeddings:
    """Embeddings (N, D) of their bytes; rounding left them off unit length by up to 2e-4."""
    return renormalise(halves(vectors, dimension))


def halves(vectors: Sequence[bytes], dimension: int) -> NDArray[np.float16]:
    """The very numbers of `encode`, (N, D)."""
    return np.frombuffer(b"".join(vectors), "<f2").reshape(-1, dimension)


def renormalise(rows: NDArray[np.floating]) -> Embeddings:
    """Rows (N, D) as float32 of unit length."""
    exact = rows.astype(np.float32)
    return np.asarray(exact / np.linalg.norm(exact, axis=1, keepdims=True), np.float32)


def older_of_closest_pair(embeddings: Embeddings) -> int:
    """Row of the two most alike that came first; rows are ordered by age, oldest first."""
    cosines = embeddings @ embeddings.T
    cosines[np.tri(len(embeddings), dtype=bool)] = -np.inf
    return int(np.unravel_index(np.argmax(cosines), cosines.shape)[0])
