"""Search of query images among gallery images: ranked lists, as data or as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.table import DEFAULT_PRECISION
from mip_edge.data.image import check_image_suffix, read_image, write_image
from mip_edge.embedder import Embedder
from mip_edge.embedding import (
    CropEmbedder,
    StoredEmbeddings,
    check_output,
    default_engine,
    embed_images,
)
from mip_edge.errors import OptionError
from mip_edge.gallery.match import match
from mip_edge.picture import Picture, RankedItem, RankedRow, ranked_list
from mip_edge.spec import Modality

PICTURE_ROWS = 40
"""Queries that one picture shows at most: more is nothing that a person looks through."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What to search, and how."""

    query_modality: Modality
    gallery_modality: Modality | None = None
    """None: what the .npz says, or for images the modality that the queries are not."""
    top: int = 10
    """Answers to each query, at most."""
    batch: int = 32
    """Images embedded at once."""

    def __post_init__(self) -> None:
        for name in ("top", "batch"):
            if getattr(self, name) < 1:
                raise OptionError(f"--{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Answer:
    """One gallery image for a query."""

    path: str
    similarity: float
    """Cosine, in [-1, 1]."""


@dataclass(frozen=True, slots=True)
class RankedAnswers:
    """One query with its answers, nearest first."""

    query: str
    answers: tuple[Answer, ...]


def search_images(
    embedder: CropEmbedder, queries: Sequence[Path], gallery: Path, options: SearchOptions
) -> list[RankedAnswers]:
    """The ranked list of each query image; `gallery` is a folder of images or an .npz of `embed`.

    Raises: GalleryError for an .npz of another model; OptionError for one of another modality.
    """
    stored = _open_gallery(embedder, gallery, options)
    asked = embed_images(embedder, queries, options.query_modality, batch=options.batch)
    lists = match(asked.embeddings, stored.embeddings, min_similarity=-1.0, top_k=options.top)
    return [
        RankedAnswers(
            query, tuple(Answer(stored.paths[found.index], found.similarity) for found in matches)
        )
        for query, matches in zip(asked.paths, lists, strict=True)
    ]


def search(
    path: str | Path,
    queries: Sequence[Path],
    gallery: Path,
    options: SearchOptions,
    *,
    engine: str | None = None,
    precision: str = DEFAULT_PRECISION,
    engine_options: Mapping[str, Any] | None = None,
    picture: Path | None = None,
    overwrite: bool = False,
) -> list[RankedAnswers]:
    """As `search_images`, with the bundle or checkpoint at `path`; draws `picture` if named."""
    if picture is not None:
        check_image_suffix(picture)
        check_output(picture, overwrite=overwrite)
    runs = engine or default_engine(path)
    with Embedder.open(
        path, engine=runs, precision=precision, **(engine_options or {})
    ) as embedder:
        lists = search_images(embedder, queries, gallery, options)
    if picture is not None:
        write_image(picture, draw_answers(lists, options.query_modality))
    return lists


def draw_answers(lists: Sequence[RankedAnswers], query_modality: Modality) -> Picture:
    """RGB picture of the first ranked lists; nobody says which answers are right."""
    rows = [
        RankedRow(
            read_image(ranked.query),
            _label(ranked.query),
            [
                RankedItem(read_image(answer.path), answer.similarity, _label(answer.path))
                for answer in ranked.answers
            ],
        )
        for ranked in lists[:PICTURE_ROWS]
    ]
    return ranked_list(
        rows,
        title="Search: the nearest gallery images",
        query_caption=f"{query_modality.value} query",
        gallery_caption="gallery, nearest first (cosine below)",
    )


def format_answers(lists: Sequence[RankedAnswers]) -> str:
    """The ranked lists as text for a person."""
    lines: list[str] = []
    for ranked in lists:
        lines.append(ranked.query)
        lines += [
            f"  {place:>3}  {answer.similarity:+.3f}  {answer.path}"
            for place, answer in enumerate(ranked.answers, start=1)
        ]
    return "\n".join(lines)


def _label(path: str) -> str:
    """Folder and name: in most collections the name alone is a mere number."""
    return f"{Path(path).parent.name}/{Path(path).stem}"


def _open_gallery(
    embedder: CropEmbedder, gallery: Path, options: SearchOptions
) -> StoredEmbeddings:
    if gallery.suffix != ".npz":
        modality = options.gallery_modality or options.query_modality.other
        return embed_images(embedder, [gallery], modality, batch=options.batch)
    stored = StoredEmbeddings.load(gallery)
    stored.require(embedder, gallery)
    if options.gallery_modality not in (None, stored.modality):
        raise OptionError(
            f"{gallery} holds {stored.modality.value} embeddings, --gallery-modality says "
            f"{options.gallery_modality.value}; leave the option out"
        )
    return stored
