"""How good a ranking is: Rank-k, mAP, mINP from distances and ids, and a threshold for "same"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mip_edge.errors import DatasetError, OptionError

_QUERIES_AT_ONCE = 128
"""Rows ranked together: keeps the (rows, gallery) arrays in the cache, and the memory bounded."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """What one gallery gave to its queries; all rates are fractions in [0, 1]."""

    rank1: float
    rank5: float
    rank10: float
    rank20: float
    mAP: float  # noqa: N815 - the field's own spelling
    """Mean over queries of the average precision."""
    mINP: float  # noqa: N815 - the field's own spelling
    """Mean over queries of (correct items / rank of the last correct one)."""
    chance_rank1: float
    """Rank-1 that a random order of this very gallery would give."""
    queries: int
    """Queries with at least one correct item in their gallery: the denominator of every rate."""
    gallery: int
    skipped: int
    """Queries without any correct item: in no rate."""
    cmc: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)
    """Rank-k for k = 1, 2, ... up to the gallery's items, or its identities if those count."""

    def figures(self) -> dict[str, float | int]:
        """The numbers without the curve, as `--json` prints them."""
        names = ("rank1", "rank5", "rank10", "rank20", "mAP", "mINP", "chance_rank1")
        counts = ("queries", "gallery", "skipped")
        return {name: getattr(self, name) for name in names + counts}


def evaluate_ranking(
    distances: ArrayLike,
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    *,
    excluded: ArrayLike | None = None,
    distinct_identities: bool = False,
) -> Ranking:
    """Rank-k, mAP and mINP of a gallery ordered by distance, nearest first.

    `distances` (Q, G), finite; ids (Q,) and (G,). `excluded` (Q, G) is true where a gallery item
    does not count for a query (its own camera, say). With `distinct_identities` Rank-k counts the
    identities of the list, not its items, as SYSU-MM01 and LLCM do; mAP and mINP never do.
    Equal distances keep the order of the gallery; the published evaluators leave it to an unstable
    sort, so on ties theirs depends on the machine.
    Raises: OptionError for shapes that do not fit or distances that are not finite; DatasetError
    if no query has a correct item.
    """
    distances, query_ids, gallery_ids, excluded = _checked(
        distances, query_ids, gallery_ids, excluded
    )
    queries, gallery = distances.shape
    first_correct = np.zeros(queries, dtype=np.int64)
    average_precision = np.zeros(queries)
    inverse_penalty = np.zeros(queries)
    chance = np.zeros(queries)
    correct = query_ids[:, None] == gallery_ids[None, :]
    if excluded is not None:
        correct &= ~excluded
    for start in range(0, queries, _QUERIES_AT_ONCE):
        rows = slice(start, start + _QUERIES_AT_ONCE)
        out = None if excluded is None else excluded[rows]
        order = _order(distances[rows], out)
        average_precision[rows], inverse_penalty[rows], first_correct[rows] = _score_lists(
            np.take_along_axis(correct[rows], order, axis=1)
        )
        if distinct_identities:
            # a list that is right at the top is so by identities too: only the others are counted
            late = np.flatnonzero(first_correct[rows])
            first_correct[start + late] = _identity_ranks(
                order[late], query_ids[rows][late], gallery_ids, None if out is None else out[late]
            )
        kept = np.full(len(order), gallery) if out is None else (~out).sum(axis=1)
        chance[rows] = correct[rows].sum(axis=1) / np.maximum(kept, 1)
    valid = correct.any(axis=1)
    if not valid.any():
        raise DatasetError(
            f"none of the {queries} queries has its identity among the {gallery} gallery items; "
            "query and gallery must share identities"
        )
    longest = len(np.unique(gallery_ids)) if distinct_identities else gallery
    cmc = np.bincount(first_correct[valid], minlength=longest).cumsum() / valid.sum()
    rank1, rank5, rank10, rank20 = (float(cmc[min(k, longest) - 1]) for k in (1, 5, 10, 20))
    return Ranking(
        rank1=rank1,
        rank5=rank5,
        rank10=rank10,
        rank20=rank20,
        mAP=float(average_precision[valid].mean()),
        mINP=float(inverse_penalty[valid].mean()),
        chance_rank1=float(chance[valid].mean()),
        queries=int(valid.sum()),
        gallery=gallery,
        skipped=int(queries - valid.sum()),
        cmc=cmc,
    )


def best_threshold(similarities: ArrayLike, same: ArrayLike) -> float:
    """The least similarity at which two crops should count as one person, by the best F1.

    `similarities` and `same` (true where a pair shows one person) have one shape. F1 and not the
    equal error rate: of all pairs few are of one person, as at a camera, and F1 weighs a wrong
    "same" by that share. The value lies halfway between the last pair accepted and the next one
    below; among equally good ones the strictest is taken.
    Raises: OptionError if the shapes differ, a similarity is not finite, or either kind is missing.
    """
    values = np.asarray(similarities, dtype=np.float64).ravel()
    truth = np.asarray(same, dtype=bool).ravel()
    if np.shape(similarities) != np.shape(same):
        raise OptionError(
            f"similarities {np.shape(similarities)} and same {np.shape(same)} differ in shape"
        )
    if not np.isfinite(values).all():
        raise OptionError("similarities hold values that are not finite")
    if truth.all() or not truth.any():
        raise OptionError(
            f"{int(truth.sum())} of {truth.size} pairs show one person; a threshold needs pairs of "
            "one person and of two"
        )
    order = np.argsort(-values, kind="stable")
    values, truth = values[order], truth[order]
    # a cut is possible only between two different values, and after the last
    cuts = np.append(np.flatnonzero(values[1:] < values[:-1]), len(values) - 1)
    f1 = 2 * np.cumsum(truth)[cuts] / (cuts + 1 + truth.sum())
    last = cuts[int(np.argmax(f1))]
    if last + 1 == len(values):
        return float(values[last])
    return float((values[last] + values[last + 1]) / 2)


def _checked(
    distances: ArrayLike, query_ids: ArrayLike, gallery_ids: ArrayLike, excluded: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[np.generic], NDArray[np.generic], NDArray[np.bool_] | None]:
    table = np.asarray(distances)
    if not np.issubdtype(table.dtype, np.floating):
        table = table.astype(np.float64)
    queries, gallery = np.asarray(query_ids), np.asarray(gallery_ids)
    if table.shape != (len(queries), len(gallery)) or 0 in table.shape:
        raise OptionError(
            f"distances have shape {table.shape}; expected ({len(queries)}, {len(gallery)}): "
            "one row for each query id, one column for each gallery id, not empty"
        )
    if not np.isfinite(table).all():
        raise OptionError("distances hold values that are not finite; are the embeddings broken?")
    if excluded is None:
        return table, queries, gallery, None
    mask = np.asarray(excluded, dtype=bool)
    if mask.shape != table.shape:
        raise OptionError(f"excluded has shape {mask.shape}; expected {table.shape}")
    return table, queries, gallery, mask


def _order(distances: NDArray[Any], excluded: NDArray[np.bool_] | None) -> NDArray[np.intp]:
    """Gallery index at each place of each query's list, excluded items last; ties keep order."""
    if excluded is not None:
        distances = np.where(excluded, distances.dtype.type(np.inf), distances)
    gallery = distances.shape[1]
    if distances.dtype != np.float32 or gallery >= 2**32:
        return np.argsort(distances, axis=1, kind="stable")
    # Distance and place in one integer: unique, so that the fast unstable sort is a stable one.
    # The bits of a float32 sort like the number once those of negative ones are inverted.
    bits = (distances + np.float32(0)).view(np.int32)  # + 0 makes -0.0 equal to 0.0
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    keys = bits.astype(np.int64)
    keys <<= 32
    keys |= np.arange(gallery, dtype=np.int64)
    keys.sort(axis=1)
    keys &= 0xFFFFFFFF
    order: NDArray[np.intp] = keys.astype(np.intp, copy=False)
    return order


def _score_lists(
    hits: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """AP, INP and place of the first correct item (0 = top) of each list of hits (Q, G)."""
    queries = len(hits)
    rows, places = np.nonzero(hits)
    count = np.bincount(rows, minlength=queries)
    first = np.cumsum(count) - count
    nth = np.arange(len(rows)) - first[rows] + 1
    total = np.bincount(rows, weights=nth / (places + 1), minlength=queries)
    precision = total / np.maximum(count, 1)
    found = np.flatnonzero(count)
    penalty = np.zeros(queries)
    penalty[found] = count[found] / (places[first[found] + count[found] - 1] + 1)
    top = np.zeros(queries, dtype=np.int64)
    top[found] = places[first[found]]
    return precision, penalty, top


def _identity_ranks(
    order: NDArray[np.intp],
    query_ids: NDArray[np.generic],
    gallery_ids: NDArray[np.generic],
    excluded: NDArray[np.bool_] | None,
) -> NDArray[np.int64]:
    """Place (0 = top) of each query's identity in its list without repeated identities."""
    queries, gallery = order.shape
    places = np.empty((queries, gallery), dtype=np.int32)
    np.put_along_axis(places, order, np.arange(gallery, dtype=np.int32)[None, :], axis=1)
    if excluded is not None:
        places[excluded] = gallery
    identities, code = np.unique(gallery_ids, return_inverse=True)
    if (code[1:] < code[:-1]).any():
        by_identity = np.argsort(code, kind="stable")
        places, code = places[:, by_identity], code[by_identity]
    starts = np.searchsorted(code, np.arange(len(identities)))
    best = np.minimum.reduceat(places, starts, axis=1)
    own = np.minimum(np.searchsorted(identities, query_ids), len(identities) - 1)
    before = best < best[np.arange(queries), own][:, None]
    return np.asarray(before.sum(axis=1), dtype=np.int64)
