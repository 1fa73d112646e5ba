"""k-reciprocal re-ranking: neighbours that choose each other move up; numpy alone.

Zhong, Zheng, Cao, Li: "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017.
It looks at all queries at once, so its figures are no single query's, and are always called
re-ranked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import OptionError

_ROWS_AT_ONCE = 256
"""Rows that are worked on together, so that what lies between two steps stays small."""


@dataclass(frozen=True, slots=True)
class Reranking:
    """The constants of the method, as its authors set them for Market-1501."""

    k1: int = 20
    """Neighbours within which two images must choose each other."""
    k2: int = 6
    """Neighbours whose encodings are averaged; 1 for none but oneself."""
    weight: float = 0.3
    """Share of the original distance (lambda)."""

    def __post_init__(self) -> None:
        if self.k1 < 1 or self.k2 < 1 or not 0 <= self.weight <= 1:
            raise OptionError(
                "re-ranking needs k1 and k2 of at least 1 and a weight in [0, 1], "
                f"got k1={self.k1}, k2={self.k2}, weight={self.weight}"
            )


def rerank(
    distances: NDArray[np.float32],
    query_distances: NDArray[np.float32],
    gallery_distances: NDArray[np.float32],
    options: Reranking | None = None,
) -> NDArray[np.float32]:
    """New distances (Q, G) in [0, 1], from squared Euclidean ones.

    `distances` (Q, G) between queries and gallery, `query_distances` (Q, Q) and
    `gallery_distances` (G, G) within them. Each row is divided by its largest distance first, as
    the authors' code does. Holds two (Q + G, Q + G) float32 arrays and one (Q + G, G).
    Raises: OptionError for shapes that do not fit.
    """
    options = options or Reranking()
    queries, gallery = distances.shape
    if query_distances.shape != (queries,) * 2 or gallery_distances.shape != (gallery,) * 2:
        raise OptionError(
            f"re-ranking of distances {distances.shape} needs ({queries}, {queries}) among queries "
            f"and ({gallery}, {gallery}) among the gallery, got {query_distances.shape} and "
            f"{gallery_distances.shape}"
        )
    count = queries + gallery
    scaled = np.empty((count, count), dtype=np.float32)
    scaled[:queries, :queries] = query_distances
    scaled[:queries, queries:] = distances
    scaled[queries:, :queries] = distances.T
    scaled[queries:, queries:] = gallery_distances
    scaled /= np.maximum(scaled.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    nearest = _nearest(scaled, min(max(options.k1 + 1, options.k2), count))
    encoding = _encode(scaled, nearest, options.k1)
    original = np.ascontiguousarray(scaled[:queries, queries:])
    del scaled
    # with k2 of 1 oneself, who need not come first where two images are the same
    averaged = nearest[:, : options.k2] if options.k2 > 1 else np.arange(count)[:, None]
    jaccard = _jaccard(encoding, averaged, queries)
    return np.asarray((1 - options.weight) * jaccard + options.weight * original, dtype=np.float32)


def _nearest(scaled: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """The `count` nearest of each row, nearest first, oneself among them; ties in row order."""
    nearest = np.empty((len(scaled), count), dtype=np.intp)
    for start in range(0, len(scaled), _ROWS_AT_ONCE):
        block = scaled[start : start + _ROWS_AT_ONCE]
        limit = np.partition(block, count - 1, axis=1)[:, count - 1 : count]
        for row, (values, most) in enumerate(zip(block, limit, strict=True)):
            within = np.flatnonzero(values <= most)
            order = np.argsort(values[within], kind="stable")[:count]
            nearest[start + row] = within[order]
    return nearest


def _encode(scaled: NDArray[np.float32], nearest: NDArray[np.intp], k1: int) -> NDArray[np.float32]:
    """Each row's k-reciprocal neighbours, weighted by exp(-distance), rows of sum 1 (N, N)."""
    count = len(scaled)
    whole = nearest[:, : k1 + 1]
    half = nearest[:, : int(np.around(k1 / 2)) + 1]
    mutual, half_mutual = _mutual(whole), _mutual(half)
    half_size = half_mutual.sum(axis=1)
    encoding = np.zeros((count, count), dtype=np.float32)
    for start in range(0, count, _ROWS_AT_ONCE):
        own, chosen = whole[start : start + _ROWS_AT_ONCE], mutual[start : start + _ROWS_AT_ONCE]
        rows, places = np.nonzero(chosen)
        members = np.zeros((len(own), count), dtype=np.bool_)
        members[rows, own[rows, places]] = True
        candidates = own[rows, places]
        theirs, counted = half[candidates], half_mutual[candidates]
        shared = (members[rows[:, None], theirs] & counted).sum(axis=1)
        accepted = shared > 2 / 3 * half_size[candidates]
        expanded = members.copy()
        taken = counted & accepted[:, None]
        expanded[np.broadcast_to(rows[:, None], theirs.shape)[taken], theirs[taken]] = True
        rows, columns = np.nonzero(expanded)
        block = encoding[start : start + _ROWS_AT_ONCE]
        block[rows, columns] = np.exp(-scaled[start + rows, columns])
        block /= block.sum(axis=1, keepdims=True)
    return encoding


def _mutual(nearest: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which of the nearest (N, k) have the row itself among their own nearest."""
    mutual = np.empty(nearest.shape, dtype=np.bool_)
    for start in range(0, len(nearest), _ROWS_AT_ONCE):
        block = nearest[start : start + _ROWS_AT_ONCE]
        oneself = np.arange(start, start + len(block))[:, None, None]
        mutual[start : start + _ROWS_AT_ONCE] = (nearest[block] == oneself).any(axis=2)
    return mutual


def _jaccard(
    encoding: NDArray[np.float32], nearest: NDArray[np.intp], queries: int
) -> NDArray[np.float32]:
    """Jaccard distance of each query with each gallery row, (Q, G), of the averaged encodings."""

    def averaged(rows: NDArray[np.intp]) -> NDArray[np.float32]:
        total: NDArray[np.float32] = encoding[rows[:, 0]]
        for column in rows.T[1:]:
            total += encoding[column]
        total /= np.float32(rows.shape[1])
        return total

    count = len(encoding)
    gallery = np.empty((count, count - queries), dtype=np.float32)
    for start in range(queries, count, _ROWS_AT_ONCE):
        block = averaged(nearest[start : start + _ROWS_AT_ONCE])
        gallery[:, start - queries : start - queries + len(block)] = block.T
    distances = np.empty((queries, count - queries), dtype=np.float32)
    for start in range(0, queries, _ROWS_AT_ONCE):
        block = averaged(nearest[start : min(start + _ROWS_AT_ONCE, queries)])
        for row, weights in enumerate(block):
            columns = np.flatnonzero(weights)
            shared = np.minimum(gallery[columns], weights[columns, None]).sum(axis=0)
            # both rows sum to 1, so the sum of the larger ones is 2 - shared
            distances[start + row] = 1 - shared / (2 - shared)
    return distances
