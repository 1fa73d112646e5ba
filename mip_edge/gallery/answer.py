"""Who answers a query: near by the index, then compared exactly by what the tables hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mip_edge.gallery.base import IdentityMatch
from mip_edge.gallery.index import VectorIndex
from mip_edge.gallery.store import Store
from mip_edge.spec import Modality

_SLACK = 0.02
"""How far the index's cosine may be below the true one."""


@dataclass(frozen=True, slots=True)
class Question:
    """How many are asked for, and who does not answer."""

    top_k: int
    """Identities at most."""
    min_similarity: float
    """Cosine from which an embedding answers."""
    except_tracklet: str | None
    """The embeddings of this tracklet do not answer."""
    except_identities: frozenset[int]
    """Nor do these identities."""


def answer(
    store: Store, index: VectorIndex, query: NDArray[np.float32], question: Question
) -> list[IdentityMatch]:
    """The best identities for a query (D,), each by its best embedding of each light."""
    views, embeddings = store.views(_near(store, index, query, question))
    cosines = np.clip(embeddings @ query, -1.0, 1.0)
    best: dict[tuple[int, Modality], IdentityMatch] = {}
    for row in np.argsort(-cosines, kind="stable"):
        view, cosine = views[row], float(cosines[row])
        if cosine < question.min_similarity:
            break
        who = (view.identity, view.modality)
        if who not in best and view.tracklet != question.except_tracklet:
            best[who] = IdentityMatch(view.identity, cosine, view.camera, view.modality, view.time)
    kept = list(dict.fromkeys(identity for identity, _ in best))[: question.top_k]
    return [match for match in best.values() if match.identity in kept]


def _near(
    store: Store, index: VectorIndex, query: NDArray[np.float32], question: Question
) -> list[int]:
    """The `top_k` identities whose embeddings are nearest by the index, nearest first."""
    near: dict[int, None] = {}
    for keys, cosines in index.rank(query):
        if len(keys) == 0 or cosines[0] < question.min_similarity - _SLACK:
            break
        where = store.look_up(keys.tolist())
        for key in keys.tolist():
            identity, tracklet = where.get(key, (None, ""))
            if identity is None or identity in question.except_identities:
                continue
            if tracklet != question.except_tracklet:
                near.setdefault(identity)
                if len(near) == question.top_k:
                    return list(near)
    return list(near)
