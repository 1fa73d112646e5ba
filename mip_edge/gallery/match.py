"""Cosines of embeddings, and the gallery rows that answer a query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import GalleryError, OptionError
from mip_edge.spec import Embeddings

UNIT_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True)
class Match:
    """One gallery row that answers a query."""

    index: int
    """Row of the gallery."""
    similarity: float
    """Cosine, in [-1, 1]."""


def similarity(queries: Embeddings, gallery: Embeddings) -> NDArray[np.float32]:
    """Cosine of each query with each gallery row, (Q, G) in [-1, 1].

    Raises: GalleryError if the two are not (Q, D) and (G, D) of one D.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise GalleryError(
            f"queries of shape {queries.shape} met a gallery of shape {gallery.shape}; expected "
            "(Q, D) and (G, D) with one D: embed both with the same model"
        )
    cosines: NDArray[np.float32] = np.clip(queries @ gallery.T, -1.0, 1.0).astype(np.float32)
    return cosines


def match(
    query_embeddings: Embeddings,
    gallery_embeddings: Embeddings,
    *,
    min_similarity: float,
    top_k: int,
) -> list[list[Match]]:
    """For each query its gallery rows with at least `min_similarity`, at most `top_k`, best first.

    Equal similarities keep the order of the gallery.
    """
    check_top_k(top_k)
    matches = []
    for cosines in similarity(query_embeddings, gallery_embeddings):
        best_first = np.argsort(-cosines, kind="stable")[:top_k]
        matches.append(
            [Match(int(i), float(cosines[i])) for i in best_first if cosines[i] >= min_similarity]
        )
    return matches


def check_embeddings(embeddings: Embeddings, dimension: int) -> Embeddings:
    """What a gallery of `dimension` takes. Raises: GalleryError for another width or length."""
    if embeddings.ndim != 2 or embeddings.shape[1] != dimension:
        raise GalleryError(
            f"embeddings of shape {embeddings.shape} met a gallery of dimension "
            f"{dimension}; embed with the model that filled it"
        )
    norms = np.linalg.norm(embeddings, axis=1)
    if not np.all(np.abs(norms - 1.0) <= UNIT_TOLERANCE):
        raise GalleryError(
            f"an embedding of length {norms[np.argmax(np.abs(norms - 1.0))]:.3g} came; "
            "a gallery takes unit vectors only"
        )
    return embeddings


def check_top_k(top_k: int) -> None:
    """Raises: OptionError for less than one."""
    if top_k < 1:
        raise OptionError(f"top_k must be at least 1, got {top_k}")
