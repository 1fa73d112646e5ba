"""What a training learns from and is measured on: crops, labels and cameras, read before step 1."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mip_edge.data.cache import Resize, load_crops
from mip_edge.data.dataset import Camera, Dataset, Sample
from mip_edge.data.folder import label_identities, split_validation
from mip_edge.data.readers import read_dataset
from mip_edge.errors import OptionError
from mip_edge.recipe import TrainOptions
from mip_edge.spec import Modality

logger = logging.getLogger(__name__)

_NAMED = 5


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """The samples of a training, before any image is decoded."""

    train: list[Sample]
    query: list[Sample]
    """What selects the best epoch: validation identities, the test part, or nothing."""
    gallery: list[Sample]
    labels: NDArray[np.int64]
    """(N,) of `train`."""
    names: list[str]
    """Identity of each label."""
    cameras: tuple[Camera, ...]
    """Rows of the camera embedding; empty without one."""

    def digest(self) -> str:
        """SHA-256 over what is learned from, in its order."""
        lines = (f"{one.identity} {one.modality.value} {one.path.name}\n" for one in self.train)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def camera_rows(self, samples: Sequence[Sample]) -> Tensor | None:
        """Row of the camera table of each sample, (N,); None without a table."""
        if not self.cameras:
            return None
        row = {(one.name, one.modality): number for number, one in enumerate(self.cameras)}
        return torch.tensor([row[str(one.camera), one.modality] for one in samples])

    def camera_table(self) -> list[dict[str, str]] | None:
        """As a checkpoint stores it."""
        if not self.cameras:
            return None
        return [{"name": one.name, "modality": one.modality.value} for one in self.cameras]


def read_training_set(data: Path, options: TrainOptions, rng: np.random.Generator) -> TrainingSet:
    """The training part of `data`, and what selects: read and checked, nothing decoded.

    `options` are resolved. Query and gallery are read only where the selection is on the test part.
    Raises: DatasetError, OptionError.
    """
    parts = ("train", "query", "gallery") if options.select == "test" else ("train",)
    dataset = read_dataset(options.dataset, data, split=options.split, parts=parts)
    chosen = dataset
    if options.select == "validation":
        chosen = split_validation(dataset.train, options.validation_share, rng)
    elif options.select == "last":
        chosen = Dataset(train=dataset.train)
    labels, names = label_identities(chosen.train)
    if len(names) < options.identities:
        raise OptionError(
            f"{data}: {len(names)} identities to learn from, but --batch {options.batch} "
            f"shows {options.identities} at once; take a smaller --batch or add identities"
        )
    _tell_of_few(data, chosen.train, options.images)
    cameras = dataset.cameras if options.camera_embedding else ()
    return TrainingSet(chosen.train, chosen.query, chosen.gallery, labels, names, cameras)


def load_training_crops(
    samples: TrainingSet, options: TrainOptions, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Crops (N, H, W, 3) of `samples.train`, resized as the published training does, or with
    light augmentation as in use: on few crops the two kinds of resizing are a world apart."""
    published = options.augmentation == "published"
    resize = Resize.BICUBIC if published else Resize.BILINEAR
    cache = None if options.cache is None else Path(options.cache)
    return load_crops(samples.train, size, threads=options.workers, cache=cache, resize=resize)


def load_selecting_crops(
    samples: TrainingSet, options: TrainOptions, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Crops of `samples.query` and `samples.gallery`, prepared as for inference."""
    cache = None if options.cache is None else Path(options.cache)
    query = load_crops(samples.query, size, threads=options.workers, cache=cache)
    if samples.gallery == samples.query:
        return query, query
    return query, load_crops(samples.gallery, size, threads=options.workers, cache=cache)


def modality_flags(samples: Sequence[Sample]) -> Tensor:
    """1 visible, 0 infrared, as the network takes them, (N,)."""
    return torch.tensor([sample.modality.row for sample in samples])


def _tell_of_few(data: Path, samples: Sequence[Sample], images: int) -> None:
    counts = Counter((one.identity, one.modality) for one in samples)
    for modality in Modality:
        few = sorted(
            name for (name, seen), count in counts.items() if seen is modality and count < images
        )
        if few:
            more = f" and {len(few) - _NAMED} more" if len(few) > _NAMED else ""
            logger.warning(
                "%s: %d identities have fewer than --images %d %s images (%s%s): some are drawn "
                "twice",
                *(data, len(few), images, modality.value, ", ".join(few[:_NAMED]), more),
            )
