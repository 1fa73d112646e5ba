"""A gallery of embeddings, and how a query meets it; numpy only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import GalleryError, OptionError
from mip_edge.spec import Embeddings, Modality

UNIT_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True)
class Match:
    """One gallery row that answers a query."""

    index: int
    """Row of the gallery."""
    similarity: float
    """Cosine, in [-1, 1]."""


@dataclass(frozen=True, slots=True)
class IdentityMatch:
    """One identity that answers a query, by the best of its embeddings."""

    identity: int
    """Who."""
    similarity: float
    """Cosine of the query with that identity's nearest embedding, in [-1, 1]."""
    camera: str
    """Where the nearest embedding was seen."""
    modality: Modality
    """The light it was seen in."""
    time: float
    """When it was seen, in seconds of its source."""


@dataclass(frozen=True, slots=True)
class IdentityRecord:
    """What a gallery knows of one identity."""

    identity: int
    """Who."""
    embeddings: int
    """How many embeddings are kept."""
    cameras: tuple[str, ...]
    """Where they were seen, sorted."""
    first_time: float
    """Time of the oldest embedding kept."""
    last_time: float
    """Time of the newest embedding kept."""


class Gallery(Protocol):
    """What every gallery does, in memory or in a database; one contract test holds them to it."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the one model whose embeddings are kept here."""

    @property
    def dimension(self) -> int:
        """Length of one embedding."""

    def require(self, fingerprint: str, dimension: int) -> None:
        """Refuse an embedder that did not fill this gallery. Raises: GalleryError."""

    def add(
        self,
        embedding: NDArray[np.float32],
        *,
        identity: int | None = None,
        camera: str,
        modality: Modality,
        time: float,
        tracklet: str = "",
    ) -> int:
        """Keep one embedding (D,) of `identity`, or of a new one; gives the identity."""

    def search(
        self,
        embeddings: Embeddings,
        *,
        top_k: int,
        min_similarity: float,
        except_tracklet: str | None = None,
    ) -> list[list[IdentityMatch]]:
        """For each query (Q, D) its best identities, at most `top_k`, most similar first."""

    def reassign(self, tracklet: str, identity: int) -> None:
        """Give all embeddings of one tracklet to another identity."""

    def identities(self) -> list[IdentityRecord]:
        """All identities that have an embedding, by number."""

    def __len__(self) -> int:
        """Embeddings kept."""


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
    _check_top_k(top_k)
    matches = []
    for cosines in similarity(query_embeddings, gallery_embeddings):
        best_first = np.argsort(-cosines, kind="stable")[:top_k]
        matches.append(
            [Match(int(i), float(cosines[i])) for i in best_first if cosines[i] >= min_similarity]
        )
    return matches


@dataclass(slots=True)
class _Row:
    identity: int
    camera: str
    modality: Modality
    time: float
    tracklet: str


class MemoryGallery:
    """A gallery that lives and dies with the process.

    An identity answers with the best of its embeddings: one good view is enough, and a new view
    never makes an identity harder to find. Of each identity and modality at most `prototypes`
    embeddings are kept; when one too many comes, the older of the two most alike goes, so that
    the views kept stay different and the newest is always among them.
    """

    def __init__(self, *, fingerprint: str, dimension: int, prototypes: int = 8) -> None:
        if dimension < 1 or prototypes < 1:
            raise OptionError(
                "a gallery needs dimension and prototypes of at least 1, "
                f"got {dimension} and {prototypes}"
            )
        self._fingerprint = fingerprint
        self._dimension = dimension
        self._prototypes = prototypes
        self._embeddings = np.empty((64, dimension), dtype=np.float32)
        self._rows: list[_Row] = []
        self._next_identity = 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the one model whose embeddings are kept here."""
        return self._fingerprint

    @property
    def dimension(self) -> int:
        """Length of one embedding."""
        return self._dimension

    def require(self, fingerprint: str, dimension: int) -> None:
        """Refuse an embedder that did not fill this gallery. Raises: GalleryError."""
        if fingerprint != self._fingerprint:
            raise GalleryError(
                f"the gallery was filled by model {self._fingerprint[:12]}, the embedder is model "
                f"{fingerprint[:12]}; their embeddings cannot be compared: build the gallery anew"
            )
        if dimension != self._dimension:
            raise GalleryError(
                f"the gallery holds {self._dimension}-wide embeddings, the embedder makes "
                f"{dimension}; build the gallery anew"
            )

    def add(
        self,
        embedding: NDArray[np.float32],
        *,
        identity: int | None = None,
        camera: str,
        modality: Modality,
        time: float,
        tracklet: str = "",
    ) -> int:
        """Keep one embedding (D,) of `identity`, or of a new one; gives the identity.

        Raises: GalleryError for another width, not unit length, or an identity never given out.
        """
        row = self._checked(embedding[np.newaxis] if embedding.ndim == 1 else embedding)
        if len(row) != 1:
            raise GalleryError(f"add() takes one embedding, got {len(row)}")
        if identity is None:
            identity = self._next_identity
            self._next_identity += 1
        else:
            self._check_identity(identity)
        if len(self._rows) == len(self._embeddings):
            self._embeddings = np.concatenate([self._embeddings, np.empty_like(self._embeddings)])
        self._embeddings[len(self._rows)] = row[0]
        self._rows.append(_Row(identity, camera, modality, time, tracklet))
        self._drop_redundant(identity, modality)
        return identity

    def search(
        self,
        embeddings: Embeddings,
        *,
        top_k: int,
        min_similarity: float,
        except_tracklet: str | None = None,
    ) -> list[list[IdentityMatch]]:
        """For each query (Q, D) its best identities, at most `top_k`, most similar first.

        `except_tracklet` leaves out what that tracklet itself put in: nobody is his own witness.
        """
        _check_top_k(top_k)
        queries = self._checked(embeddings)
        cosines = similarity(queries, self._embeddings[: len(self._rows)])
        return [self._best(row, top_k, min_similarity, except_tracklet) for row in cosines]

    def reassign(self, tracklet: str, identity: int) -> None:
        """Give all embeddings of one tracklet to another identity. Raises: GalleryError."""
        self._check_identity(identity)
        touched = {row.modality for row in self._rows if row.tracklet == tracklet}
        for row in self._rows:
            if row.tracklet == tracklet:
                row.identity = identity
        for modality in touched:
            self._drop_redundant(identity, modality)

    def identities(self) -> list[IdentityRecord]:
        """All identities that have an embedding, by number."""
        members: dict[int, list[_Row]] = {}
        for row in self._rows:
            members.setdefault(row.identity, []).append(row)
        return [
            IdentityRecord(
                identity=identity,
                embeddings=len(rows),
                cameras=tuple(sorted({row.camera for row in rows})),
                first_time=min(row.time for row in rows),
                last_time=max(row.time for row in rows),
            )
            for identity, rows in sorted(members.items())
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def _checked(self, embeddings: Embeddings) -> Embeddings:
        if embeddings.ndim != 2 or embeddings.shape[1] != self._dimension:
            raise GalleryError(
                f"embeddings of shape {embeddings.shape} met a gallery of dimension "
                f"{self._dimension}; embed with the model that filled it"
            )
        norms = np.linalg.norm(embeddings, axis=1)
        if not np.all(np.abs(norms - 1.0) <= UNIT_TOLERANCE):
            raise GalleryError(
                f"an embedding of length {norms[np.argmax(np.abs(norms - 1.0))]:.3g} came; "
                "a gallery takes unit vectors only"
            )
        return embeddings

    def _check_identity(self, identity: int) -> None:
        if not 1 <= identity < self._next_identity:
            raise GalleryError(f"identity {identity} was never given out by this gallery")

    def _best(
        self,
        cosines: NDArray[np.float32],
        top_k: int,
        min_similarity: float,
        except_tracklet: str | None,
    ) -> list[IdentityMatch]:
        found: dict[int, IdentityMatch] = {}
        for index in np.argsort(-cosines, kind="stable"):
            row, cosine = self._rows[index], float(cosines[index])
            if cosine < min_similarity or len(found) == top_k:
                break
            if row.tracklet != (except_tracklet or None) and row.identity not in found:
                found[row.identity] = IdentityMatch(
                    row.identity, cosine, row.camera, row.modality, row.time
                )
        return list(found.values())

    def _drop_redundant(self, identity: int, modality: Modality) -> None:
        while True:
            kept = [
                index
                for index, row in enumerate(self._rows)
                if row.identity == identity and row.modality is modality
            ]
            if len(kept) <= self._prototypes:
                return
            self._remove(_older_of_closest_pair(self._embeddings[kept], kept))

    def _remove(self, index: int) -> None:
        # Order is age, and age decides what goes: so shift, do not swap.
        count = len(self._rows)
        self._embeddings[index : count - 1] = self._embeddings[index + 1 : count]
        del self._rows[index]


def _older_of_closest_pair(embeddings: Embeddings, rows: Sequence[int]) -> int:
    cosines = embeddings @ embeddings.T
    cosines[np.tril_indices(len(rows))] = -np.inf
    return rows[int(np.unravel_index(np.argmax(cosines), cosines.shape)[0])]


def _check_top_k(top_k: int) -> None:
    if top_k < 1:
        raise OptionError(f"top_k must be at least 1, got {top_k}")


def best_outside(matches: Sequence[IdentityMatch], taken: Collection[int]) -> IdentityMatch | None:
    """The first match whose identity is not in `taken`."""
    return next((found for found in matches if found.identity not in taken), None)
