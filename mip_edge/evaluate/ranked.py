"""The ranked-list picture of some queries, to look at rather than to read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mip_edge.data.dataset import Dataset, Sample
from mip_edge.data.image import read_image
from mip_edge.errors import OptionError
from mip_edge.gallery.match import similarity
from mip_edge.picture import Picture, RankedItem, RankedRow, ranked_list
from mip_edge.spec import Embeddings, Modality

PICTURE_TOP = 10


def draw_ranked_lists(
    query_embeddings: Embeddings,
    gallery_embeddings: Embeddings,
    dataset: Dataset,
    *,
    queries: int = 8,
    query_modality: Modality = Modality.INFRARED,
) -> Picture:
    """RGB picture of `queries` queries of one modality with their top 10 of the other.

    Queries of different people, spread evenly over those that the gallery knows.
    """
    if queries < 1:
        raise OptionError(f"--picture-queries must be at least 1, got {queries}")
    gallery = _rows(dataset.gallery, query_modality.other)
    known = {dataset.gallery[row].identity for row in gallery}
    first: dict[str, int] = {}
    for row in _rows(dataset.query, query_modality):
        if dataset.query[row].identity in known:
            first.setdefault(dataset.query[row].identity, int(row))
    candidates = list(first.values())
    places = np.linspace(0, len(candidates) - 1, min(queries, len(candidates))).round()
    chosen = [candidates[int(place)] for place in places]
    cosines = similarity(query_embeddings[chosen], gallery_embeddings[gallery])
    rows = [
        _ranked_row(dataset.query[row], values, [dataset.gallery[index] for index in gallery])
        for row, values in zip(chosen, cosines, strict=True)
    ]
    return ranked_list(
        rows,
        title=f"Ranked lists, {query_modality.value} to {query_modality.other.value}",
        query_caption=f"{query_modality.value} query",
        gallery_caption=f"{query_modality.other.value} gallery, nearest first (cosine below)",
    )


def _ranked_row(
    query: Sample, cosines: NDArray[np.float32], gallery: Sequence[Sample]
) -> RankedRow:
    order = np.argsort(-cosines, kind="stable")[:PICTURE_TOP]
    items = [
        RankedItem(
            read_image(gallery[index].path),
            float(cosines[index]),
            gallery[index].identity,
            gallery[index].identity == query.identity,
        )
        for index in order
    ]
    return RankedRow(read_image(query.path), query.identity, items)


def _rows(samples: Sequence[Sample], modality: Modality) -> NDArray[np.int64]:
    return np.array(
        [row for row, sample in enumerate(samples) if sample.modality is modality], dtype=np.int64
    )
