"""Rank-1 and mAP of all that an export makes, on labelled crops, and the bar they must reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calibration.selection import select_crops
from export.projection import Projection
from mip_edge.artifact import Accuracy
from mip_edge.data.dataset import Dataset, Sample
from mip_edge.data.readers import read_dataset
from mip_edge.embedding import CropEmbedder
from mip_edge.errors import DatasetError, ParityError
from mip_edge.evaluate.camera import check_split
from mip_edge.evaluate.embed import embed_samples
from mip_edge.evaluate.protocol import Protocol, protocols_of
from mip_edge.evaluate.scoring import Distances
from mip_edge.spec import Embeddings, Modality

TRAINING_CROPS = 4096
"""Training crops that a projection is learned on, at most."""
TRAINING_SEED = 2406
GALLERY = 100_000
"""Embeddings of the gallery whose bytes are told."""

_BYTES = 4
"""Of one float32."""
_ROUNDING = 1e-9
_FIGURES = (("rank1", "Rank-1"), ("mean_ap", "mAP"))


@dataclass(frozen=True, slots=True)
class LabelledEmbeddings:
    """Embeddings of the query and the gallery part; one array where the two are one list."""

    query: Embeddings
    gallery: Embeddings

    def project(self, projection: Projection) -> LabelledEmbeddings:
        """The same crops in fewer numbers; nothing is embedded again."""
        query = projection.apply(self.query)
        same = self.query is self.gallery
        return LabelledEmbeddings(query, query if same else projection.apply(self.gallery))


@dataclass(frozen=True, slots=True)
class TrainingEmbeddings:
    """What a projection is learned on."""

    embeddings: Embeddings
    """(N, D), in the order of `samples`."""
    samples: tuple[Sample, ...]

    @property
    def identities(self) -> int:
        """People on the crops."""
        return len({sample.identity for sample in self.samples})


@dataclass(frozen=True, slots=True)
class DimensionRow:
    """What embeddings of one dimension reach, and what a gallery of them weighs."""

    dimension: int
    projected: bool
    """False for the full width, as the network gives it."""
    whiten: bool
    explained: float
    """Share of the training embeddings' variance that is kept."""
    accuracy: Mapping[str, Accuracy]
    """By direction, in percent."""

    @property
    def bytes_each(self) -> int:
        """Of one embedding in float32."""
        return self.dimension * _BYTES

    @property
    def gallery_bytes(self) -> int:
        """Of 100,000 embeddings."""
        return self.bytes_each * GALLERY

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {
            "dimension": self.dimension,
            "projected": self.projected,
            "whiten": self.whiten,
            "explained": round(self.explained, 6),
            "accuracy": {direction: asdict(one) for direction, one in self.accuracy.items()},
            "bytes_each": self.bytes_each,
            "gallery_bytes": self.gallery_bytes,
        }


def read_labelled(
    path: Path,
    dataset: str,
    *,
    split: int = 1,
    training: bool = False,
    checkpoint: Path | None = None,
) -> Dataset:
    """Query and gallery of a data set, and its training part where a projection is learned.

    `dataset` and `split` as `mip-edge evaluate` takes them; `checkpoint` is the model to be scored.
    Raises: OptionError for a kind or split that there is not; DatasetError naming what is not laid
    out as expected, or a checkpoint that has learned from the people it would be scored on.
    """
    if checkpoint is not None:
        check_split(checkpoint, dataset, split)
    parts = ("train", "query", "gallery") if training else ("query", "gallery")
    return read_dataset(dataset, path, split=split, parts=parts)


def embed_labelled(
    embedder: CropEmbedder, dataset: Dataset, *, batch: int = 32
) -> LabelledEmbeddings:
    """Query and gallery through one engine, once where they are one list."""
    query = embed_samples(embedder, dataset.query, batch=batch)
    if dataset.query is dataset.gallery:
        return LabelledEmbeddings(query, query)
    return LabelledEmbeddings(query, embed_samples(embedder, dataset.gallery, batch=batch))


def training_embeddings(
    embedder: CropEmbedder,
    dataset: Dataset,
    *,
    count: int = TRAINING_CROPS,
    seed: int = TRAINING_SEED,
    batch: int = 32,
) -> TrainingEmbeddings:
    """Embeddings of at most `count` training crops of both lights, chosen by `select_crops`.

    Raises: DatasetError without training crops of both lights; OptionError where an identity of
    query or gallery is among them.
    """
    examined = {sample.identity for sample in (*dataset.query, *dataset.gallery)}
    samples = select_crops(dataset.train, count, seed=seed, examined=examined)
    for modality in Modality:
        if all(sample.modality is not modality for sample in samples):
            raise DatasetError(
                f"no {modality.value} crop among the {len(samples)} chosen to learn --dim from; "
                "expected training crops of both lights"
            )
    return TrainingEmbeddings(embed_samples(embedder, samples, batch=batch), tuple(samples))


def measure_accuracy(
    embedded: LabelledEmbeddings, dataset: Dataset, kind: str
) -> dict[str, Accuracy]:
    """Figures of each search direction, such as "infrared to visible", in percent.

    By the first standard protocol of the data set for that direction, the mean over its trials:
    all search, single-shot for SYSU-MM01, which searches in one direction only.
    Raises: DatasetError if a side is empty or they share no identity.
    """
    distances = Distances(embedded.query, dataset.query, embedded.gallery, dataset.gallery)
    found = {}
    for direction, protocol in _standard(kind).items():
        mean = distances.score(protocol).mean()
        found[direction] = Accuracy(
            rank1=100 * mean["rank1"],
            mean_ap=100 * mean["mAP"],
            queries=round(mean["queries"]),
            gallery=round(mean["gallery"]),
        )
    return found


def check_accuracy(
    reference: Mapping[str, Accuracy],
    found: Mapping[str, Accuracy],
    *,
    max_drop: float,
    graph: str,
    flag: str = "--max-drop",
) -> None:
    """Refuse figures of `graph` that lie more than `max_drop` percentage points below the source's.

    To gain is no failure, nor is one query of Rank-1: less cannot be told from rounding at a tie.
    Raises: ParityError naming graph, direction, figure, and by how much.
    """
    for direction, expected in reference.items():
        if direction not in found:
            raise ParityError(f"{graph} was not scored {direction}, as its checkpoint was")
        for name, title in _FIGURES:
            before, after = getattr(expected, name), getattr(found[direction], name)
            drop = before - after
            one_query = 100 / max(1, expected.queries)
            allowed = max(max_drop, one_query) if name == "rank1" else max_drop
            if drop <= allowed + _ROUNDING:  # a NaN is not
                continue
            raise ParityError(
                f"{graph} loses {drop:.2f} percentage points of {title} {direction} "
                f"({before:.2f}% to {after:.2f}%, {expected.queries} queries of "
                f"{one_query:.2f} points each); expected at most {max_drop:g} ({flag})"
                f"{', or one query' if name == 'rank1' else ''}"
            )


def dimension_table(
    embedded: LabelledEmbeddings, dataset: Dataset, kind: str, projections: Sequence[Projection]
) -> tuple[DimensionRow, ...]:
    """The full width first, then each projection, all of the same embeddings.

    Raises: as `measure_accuracy`.
    """
    width = embedded.query.shape[1]
    full = measure_accuracy(embedded, dataset, kind)
    rows = [DimensionRow(width, projected=False, whiten=False, explained=1.0, accuracy=full)]
    for projection in projections:
        accuracy = measure_accuracy(embedded.project(projection), dataset, kind)
        rows.append(
            DimensionRow(
                projection.dimension,
                projected=True,
                whiten=projection.whiten,
                explained=projection.explained,
                accuracy=accuracy,
            )
        )
    return tuple(rows)


def _standard(kind: str) -> dict[str, Protocol]:
    """The first standard protocol of each direction."""
    chosen: dict[str, Protocol] = {}
    for protocol in protocols_of(kind):
        direction = f"{protocol.query_modality.value} to {protocol.gallery_modality.value}"
        if protocol.standard:
            chosen.setdefault(direction, protocol)
    return chosen
