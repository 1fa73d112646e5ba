"""Evaluation of a model on a dataset: infrared queries in a visible gallery, and the reverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mip_edge.data.dataset import Dataset, Sample
from mip_edge.data.folder import read_folder
from mip_edge.data.image import check_image_suffix, read_image, write_image
from mip_edge.embedder import Embedder
from mip_edge.embedding import CropEmbedder, check_output, default_engine, embed_files
from mip_edge.errors import DatasetError, OptionError
from mip_edge.gallery import similarity
from mip_edge.metrics import Ranking, evaluate_ranking
from mip_edge.picture import Picture, RankedItem, RankedRow, ranked_list
from mip_edge.spec import Embeddings, Modality

DIRECTIONS = (Modality.INFRARED, Modality.VISIBLE)
"""Modality of the queries, in the order of every table; the gallery is of the other."""
PICTURE_TOP = 10

_COLUMNS = (
    ("Rank-1", "rank1"),
    ("Rank-5", "rank5"),
    ("Rank-10", "rank10"),
    ("Rank-20", "rank20"),
    ("mAP", "mAP"),
    ("mINP", "mINP"),
    ("chance", "chance_rank1"),
)
_COUNTS = ("queries", "gallery", "skipped")


@dataclass(frozen=True, slots=True)
class DirectionResult:
    """How queries of one modality find their people in the other."""

    query_modality: Modality
    ranking: Ranking

    @property
    def gallery_modality(self) -> Modality:
        """The modality that is searched."""
        return self.query_modality.other

    @property
    def name(self) -> str:
        """As tables write it."""
        return f"{self.query_modality.value} to {self.gallery_modality.value}"

    def figures(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "query_modality": self.query_modality.value,
            "gallery_modality": self.gallery_modality.value,
            **self.ranking.figures(),
        }


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What a model reached on a dataset, in both directions."""

    model: str
    data: str
    fingerprint: str
    directions: tuple[DirectionResult, ...]
    picture: str | None = None
    """The ranked-list picture, if one was asked for."""

    def figures(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "data": self.data,
            "directions": [direction.figures() for direction in self.directions],
            "picture": self.picture,
        }


def evaluate_embeddings(
    query_embeddings: Embeddings,
    query_samples: Sequence[Sample],
    gallery_embeddings: Embeddings,
    gallery_samples: Sequence[Sample],
) -> tuple[DirectionResult, ...]:
    """Both directions; embeddings (Q, D) and (G, D) of unit length, one for each sample.

    A query meets only the gallery's images of the other modality.
    Raises: DatasetError if a direction has no query, no gallery, or no identity in both.
    """
    results = []
    for modality in DIRECTIONS:
        queries = _rows(query_samples, modality)
        gallery = _rows(gallery_samples, modality.other)
        for rows, part, side in (
            (queries, "query", modality),
            (gallery, "gallery", modality.other),
        ):
            if len(rows) == 0:
                raise DatasetError(f"the {part} part has no {side.value} images to evaluate")
        cosines = similarity(query_embeddings[queries], gallery_embeddings[gallery])
        ranking = evaluate_ranking(
            -cosines,
            [query_samples[row].identity for row in queries],
            [gallery_samples[row].identity for row in gallery],
        )
        results.append(DirectionResult(modality, ranking))
    return tuple(results)


def evaluate_model(
    path: str | Path,
    data: str | Path,
    *,
    engine: str | None = None,
    batch: int = 32,
    picture: Path | None = None,
    picture_queries: int = 8,
    overwrite: bool = False,
) -> EvaluationReport:
    """Evaluates a bundle or a .safetensors checkpoint on the query and gallery parts of `data`.

    `engine` None is torch for a checkpoint, the default engine for a bundle. `picture` gets the
    ranked lists of `picture_queries` infrared queries.
    """
    if picture is not None:
        check_image_suffix(picture)
        check_output(picture, overwrite=overwrite)
    dataset = read_folder(data, parts=("query", "gallery"))
    with Embedder.open(path, engine=engine or default_engine(path)) as embedder:
        query = embed_samples(embedder, dataset.query, batch=batch)
        gallery = embed_samples(embedder, dataset.gallery, batch=batch)
        directions = evaluate_embeddings(query, dataset.query, gallery, dataset.gallery)
        fingerprint = embedder.fingerprint
    if picture is not None:
        write_image(picture, draw_ranked_lists(query, gallery, dataset, queries=picture_queries))
    return EvaluationReport(
        str(path), str(data), fingerprint, directions, None if picture is None else str(picture)
    )


def embed_samples(
    embedder: CropEmbedder, samples: Sequence[Sample], *, batch: int = 32
) -> Embeddings:
    """Embeddings (N, D) in the order of `samples`, each modality by its own graph."""
    embeddings = np.empty((len(samples), embedder.dimension), dtype=np.float32)
    for modality in DIRECTIONS:
        rows = _rows(samples, modality)
        paths = [samples[row].path for row in rows]
        embeddings[rows] = embed_files(embedder, paths, modality, batch=batch)
    return embeddings


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


def format_table(report: EvaluationReport) -> str:
    """The report as a table for a person, rates in per cent."""
    heads = ["", *(head for head, _ in _COLUMNS), *_COUNTS]
    lines = [heads]
    for direction in report.directions:
        figures = direction.ranking.figures()
        rates = [f"{100 * figures[name]:.1f}" for _, name in _COLUMNS]
        lines.append([direction.name, *rates, *(str(figures[name]) for name in _COUNTS)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    text = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    ]
    notes = ["Rates in per cent; chance is the Rank-1 of a random order of the same gallery."]
    skipped = sum(direction.ranking.skipped for direction in report.directions)
    if skipped:
        notes.append(f"{skipped} queries have nobody of theirs in the gallery: in no rate.")
    if report.picture:
        notes.append(f"Ranked lists: {report.picture}")
    return "\n".join([*text, "", *notes])


def _rows(samples: Sequence[Sample], modality: Modality) -> NDArray[np.int64]:
    return np.array(
        [row for row, sample in enumerate(samples) if sample.modality is modality], dtype=np.int64
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
