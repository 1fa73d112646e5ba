"""The test images of a data set to embeddings, each with its own camera's embedding if it can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engines.table import DEFAULT_PRECISION
from mip_edge.data.dataset import Dataset, Sample
from mip_edge.embedder import Embedder
from mip_edge.embedding import CropEmbedder, default_engine, embed_files
from mip_edge.errors import OptionError
from mip_edge.evaluate.camera import OWN, choose_policy
from mip_edge.evaluate.stored import DatasetEmbeddings
from mip_edge.spec import Embeddings, Modality


def embed_samples(
    embedder: CropEmbedder, samples: Sequence[Sample], *, batch: int = 32
) -> Embeddings:
    """Embeddings (N, D) in the order of `samples`, each modality by its own graph."""
    embeddings = np.empty((len(samples), embedder.dimension), dtype=np.float32)
    for modality in (Modality.INFRARED, Modality.VISIBLE):
        rows = [row for row, sample in enumerate(samples) if sample.modality is modality]
        paths = [samples[row].path for row in rows]
        embeddings[rows] = embed_files(embedder, paths, modality, batch=batch)
    return embeddings


def embed_dataset(
    path: Path,
    dataset: Dataset,
    *,
    engine: str | None = None,
    precision: str = DEFAULT_PRECISION,
    engine_options: Mapping[str, Any] | None = None,
    batch: int = 32,
    camera: str | None = None,
) -> DatasetEmbeddings:
    """Query and gallery embedded by a bundle or checkpoint, once where they are one list.

    `camera` None gives each image its own camera's embedding if the checkpoint knows the cameras
    of the data set, and else the mean of its modality. `engine_options` are what `Embedder.open`
    takes beside engine and precision.
    Raises: OptionError for a camera policy that the model does not have.
    """
    given = dict(engine_options or {})
    if "camera" in given:
        raise OptionError(
            f"--engine-option camera={given['camera']}: the camera of an evaluation is told by "
            f"--camera {given['camera']}"
        )
    chosen = choose_policy(path, dataset, camera)
    runs = engine or default_engine(path)
    same = dataset.query is dataset.gallery
    samples = list(dataset.query) if same else [*dataset.query, *dataset.gallery]
    if chosen.policy == OWN:
        embeddings, fingerprint = _embed_own(path, samples, runs, precision, given, batch)
    else:
        # `mean` is what an engine does unasked, and the only way of those that know no cameras
        if camera is not None:
            given["camera"] = chosen.policy
        with Embedder.open(path, runs, precision=precision, **given) as embedder:
            fingerprint = embedder.fingerprint
            embeddings = embed_samples(embedder, samples, batch=batch)
    if same:
        return DatasetEmbeddings(embeddings, embeddings, fingerprint, chosen)
    count = len(dataset.query)
    return DatasetEmbeddings(embeddings[:count], embeddings[count:], fingerprint, chosen)


def _embed_own(
    path: Path,
    samples: Sequence[Sample],
    engine: str,
    precision: str,
    options: Mapping[str, Any],
    batch: int,
) -> tuple[Embeddings, str]:
    """All images of one camera after those of another, each with its camera's embedding."""
    embeddings, fingerprint = None, ""
    for camera in sorted({str(sample.camera) for sample in samples}):
        rows = [row for row, sample in enumerate(samples) if sample.camera == camera]
        with Embedder.open(path, engine, precision=precision, camera=camera, **options) as embedder:
            fingerprint = embedder.fingerprint
            if embeddings is None:
                embeddings = np.empty((len(samples), embedder.dimension), dtype=np.float32)
            embeddings[rows] = embed_samples(embedder, [samples[row] for row in rows], batch=batch)
    assert embeddings is not None  # without an image no checkpoint fits
    return embeddings, fingerprint
