"""Images of people into a gallery, and images looked up in it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mip_edge.data.image import read_image
from mip_edge.embedder import Embedder
from mip_edge.embedding import collect_images, default_engine, embed_files
from mip_edge.errors import GalleryError
from mip_edge.gallery.sqlite import SqliteGallery
from mip_edge.gallery.stored import StoredGallery
from mip_edge.spec import Modality
from mip_edge.thresholds import ModalityPair, Thresholds

CAMERA = "enrolled"
"""Stands for the camera of images that somebody gave."""
DEFAULT_SIMILARITY = 0.6
"""The threshold of a model that states none."""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What came of some images."""

    identity: int
    label: str
    images: int
    embeddings: int
    """Kept of this identity now."""
    new: bool


@dataclass(frozen=True, slots=True)
class Hit:
    """One identity that answers an image by one light."""

    identity: int
    label: str
    similarity: float
    pair: str
    threshold: float
    same: bool
    """Whether the similarity reaches the threshold."""
    camera: str
    time: float


@dataclass(frozen=True, slots=True)
class Lookup:
    """The answers to one image, best first."""

    image: str
    hits: tuple[Hit, ...]


def enrol(
    path: Path,
    model: Path,
    sources: Sequence[Path],
    modality: Modality,
    *,
    label: str = "",
    identity: int | None = None,
    thumbnails: bool = False,
    now: Callable[[], float] = time.time,
    engine_options: Mapping[str, Any] | None = None,
) -> Enrolment:
    """Embed images of one person and add them to the gallery at `path`, made if need be.

    Without `identity` it is whoever has `label`, or somebody new.
    Raises: GalleryError, BundleError, ImageError in one line.
    """
    images = collect_images(sources)
    with Embedder.open(model, default_engine(model), **(engine_options or {})) as embedder:
        embeddings = embed_files(embedder, images, modality)
        fingerprint, dimension = embedder.fingerprint, embedder.dimension
    with SqliteGallery.open(
        path, fingerprint=fingerprint, dimension=dimension, thumbnails=thumbnails
    ) as gallery:
        if thumbnails and not gallery.keeps_thumbnails:
            raise GalleryError(f"{path} was made without thumbnails; leave --thumbnails out")
        if identity is None:
            identity = _labelled(gallery, label)
        known = identity is not None
        seen, tracklet = now(), f"{CAMERA}/{uuid.uuid4().hex[:12]}"
        for image, embedding in zip(images, embeddings, strict=True):
            identity = gallery.add(
                embedding,
                identity=identity,
                camera=CAMERA,
                modality=modality,
                time=seen,
                tracklet=tracklet,
                thumbnail=read_image(image) if thumbnails else None,
            )
        assert identity is not None  # collect_images gives one at least
        if label:
            gallery.label(identity, label)
        gallery.flush()
        kept = len(gallery.embeddings_of(identity)[1])
        name = gallery.labels().get(identity, "")
        return Enrolment(identity, name, len(images), kept, not known)


def look_up(
    gallery: StoredGallery,
    model: Path,
    sources: Sequence[Path],
    modality: Modality,
    *,
    top_k: int,
    engine_options: Mapping[str, Any] | None = None,
) -> list[Lookup]:
    """The `top_k` most similar identities for each image, beside the threshold of each pair.

    Raises: GalleryError for another model than the gallery's, and as `enrol`.
    """
    images = collect_images(sources)
    with Embedder.open(model, default_engine(model), **(engine_options or {})) as embedder:
        gallery.require(embedder.fingerprint, embedder.dimension)
        thresholds = embedder.thresholds or Thresholds.uniform(
            DEFAULT_SIMILARITY if embedder.min_similarity is None else embedder.min_similarity
        )
        embeddings = embed_files(embedder, images, modality)
    labels = gallery.labels()
    answers = gallery.search(embeddings, top_k=top_k, min_similarity=-1.0)
    return [
        Lookup(
            str(image),
            tuple(
                Hit(
                    identity=match.identity,
                    label=labels.get(match.identity, ""),
                    similarity=round(match.similarity, 4),
                    pair=ModalityPair.of(modality, match.modality).value,
                    threshold=round(thresholds.of(modality, match.modality), 4),
                    same=match.similarity >= thresholds.of(modality, match.modality),
                    camera=match.camera,
                    time=match.time,
                )
                for match in found
            ),
        )
        for image, found in zip(images, answers, strict=True)
    ]


def _labelled(gallery: StoredGallery, label: str) -> int | None:
    """Who has that label. Raises: GalleryError if several have."""
    found = [identity for identity, name in gallery.labels().items() if label and name == label]
    if len(found) > 1:
        raise GalleryError(
            f"identities {', '.join(map(str, found))} are all called {label!r}; name one with "
            "--identity, or merge them"
        )
    return found[0] if found else None
