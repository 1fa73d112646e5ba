"""What every gallery does, and the records that it gives."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import OptionError
from mip_edge.spec import Crop, Embeddings, Modality


@dataclass(frozen=True, slots=True)
class IdentityMatch:
    """One identity that answers a query, by the best of its embeddings of one modality."""

    identity: int
    """Who."""
    similarity: float
    """Cosine of the query with that identity's nearest embedding, in [-1, 1]."""
    camera: str
    """Where the nearest embedding was seen."""
    modality: Modality
    """The light it was seen in."""
    time: float
    """When it was seen, as given to `add`."""


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
    label: str = ""
    """A name that somebody gave, or empty."""


@dataclass(frozen=True, slots=True)
class TrackletRecord:
    """What a gallery knows of one tracklet."""

    tracklet: str
    """Its name, unique in the gallery."""
    identity: int
    """Whose it is."""
    camera: str
    """Where it was seen."""
    modalities: tuple[Modality, ...]
    """The lights of its embeddings; two where its camera switched."""
    first_time: float
    """Time of its oldest embedding kept."""
    last_time: float
    """Time of its newest embedding kept."""
    embeddings: int
    """How many embeddings are kept."""


@dataclass(frozen=True, slots=True)
class GalleryBounds:
    """How much a gallery keeps; what is over goes when `prune` runs."""

    prototypes: int = 8
    """Embeddings of one identity and modality; of the two most alike the older goes at once."""
    max_identities: int | None = None
    """Identities; those seen longest ago go first."""
    max_embeddings: int | None = None
    """Embeddings; whole identities go, those seen longest ago first."""
    max_age: float | None = None
    """Seconds since an identity was last seen."""
    undo_age: float = 86400.0
    """Seconds for which a merge can be undone, and both keep `prototypes` of their own."""

    def __post_init__(self) -> None:
        if self.prototypes < 1:
            raise OptionError(f"prototypes must be at least 1, got {self.prototypes}")
        for name in ("max_identities", "max_embeddings", "max_age", "undo_age"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise OptionError(f"{name} must be at least 0, got {value}")


class Gallery(Protocol):
    """What every gallery does, in memory or in a database; one contract test holds them to it."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the one model whose embeddings are kept here."""

    @property
    def dimension(self) -> int:
        """Length of one embedding."""

    @property
    def failures(self) -> int:
        """How often the file could not be read or written; what was not yet in it was lost."""

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
        quality: float = 1.0,
        thumbnail: Crop | None = None,
    ) -> int:
        """Keep one embedding (D,) of `identity`, or of a new one; gives the identity.

        An identity that was merged into another is that other. A tracklet belongs to one
        identity: added under another it moves there whole. Names of tracklets are unique in the
        gallery, for all runs that fill it. `thumbnail` is kept only by a gallery that was made
        to keep pictures. Raises: GalleryError for another width, not unit length, an identity
        never given out or forgotten, or a file that cannot be written.
        """

    def hold(self) -> None:
        """Let nobody else write before the next `add`, `merge` or `flush` is done.

        What is asked after it holds until then. Raises: GalleryError if others write for too long.
        """

    def search(
        self,
        embeddings: Embeddings,
        *,
        top_k: int,
        min_similarity: float,
        except_tracklet: str | None = None,
        except_identities: Collection[int] = (),
    ) -> list[list[IdentityMatch]]:
        """For each query (Q, D) its `top_k` best identities, most similar first.

        An identity stands there with its best embedding of each modality, so at most twice:
        thresholds differ by the pair of modalities. `except_identities` stand in nobody's way:
        the `top_k` are of the others.
        """

    def embeddings_of(self, identity: int) -> tuple[Embeddings, list[Modality]]:
        """All that is kept of one identity: (N, D), and the modality of each row."""

    def identities_of(self, tracklets: Collection[str]) -> dict[str, int]:
        """Whose each of these tracklets is; one without an embedding here is left out."""

    def reassign(self, tracklet: str, identity: int) -> None:
        """Give all embeddings of one tracklet to another identity."""

    def merge(self, identity: int, into: int) -> int:
        """`identity` was `into` all the time; gives the number of this merge, for `undo_merge`."""

    def undo_merge(self, merge: int) -> int:
        """What was merged becomes an identity again; gives it."""

    def split(self, identity: int, tracklets: Collection[str]) -> int:
        """Take tracklets away from an identity; gives the new identity that they become."""

    def taken_apart(self, identity: int) -> set[int]:
        """Who was taken from this identity by `undo_merge` or `split`, or it from them.

        They are two people by somebody's word; a `merge` of both ends that.
        """

    def forget(self, identity: int) -> None:
        """Remove an identity and all that is known of it, for good."""

    def prune(self, now: float) -> list[int]:
        """Keep to the bounds, `now` in the time of `add`; gives the identities that went."""

    def identities(self) -> list[IdentityRecord]:
        """All identities that have an embedding, by number."""

    def tracklets(self, identity: int) -> list[TrackletRecord]:
        """All tracklets of one identity that have an embedding, by time."""

    def flush(self) -> None:
        """What was added is in the file, and others may write; call it where the loop is idle."""

    def close(self) -> None:
        """Let files go; what was added stays."""

    def __len__(self) -> int:
        """Embeddings kept."""


def best_outside(matches: Sequence[IdentityMatch], taken: Collection[int]) -> IdentityMatch | None:
    """The first match whose identity is not in `taken`."""
    return next((found for found in matches if found.identity not in taken), None)
