"""A world of synthetic people: batches for training, and data sets on disk in the folder layout."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mip_edge.data.image import write_image
from mip_edge.errors import OptionError, OutputError
from mip_edge.spec import Crop, Modality
from mip_edge.synthetic.figure import Labels
from mip_edge.synthetic.identity import PARTS, draw_identity
from mip_edge.synthetic.view import View, ViewOptions, render_crop, render_view

FOLDERS = ("train", "query", "gallery")


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Fresh identities, one crop of each in each light."""

    visible: NDArray[np.uint8]
    """(N, H, W, 3)."""
    infrared: NDArray[np.uint8]
    """(N, H, W, 3), three equal channels; row i is the person of visible row i."""
    attributes: NDArray[np.int64]
    """(N, 8), columns as in ATTRIBUTES."""
    measures: NDArray[np.float32]
    """(N, 4), columns as in MEASURES."""
    parts: NDArray[np.float32]
    """(2 N, cells, parts): share of each part in each cell of a grid, visible rows first."""


def draw_pairs(
    seed: int,
    first: int,
    count: int,
    image_size: tuple[int, int],
    difficulty: tuple[float, float],
    *,
    grid: tuple[int, int] = (8, 4),
    shot: int = 0,
) -> PairBatch:
    """Persons `first` to `first + count` of the world `seed`, each at a difficulty of that range.

    Another `shot` sees the same people in other poses and places.
    """
    rng = np.random.default_rng([seed, first, shot, 1])
    views: dict[Modality, list[View]] = {modality: [] for modality in Modality}
    people = [draw_identity(seed, first + offset) for offset in range(count)]
    for person in people:
        for modality, seen in views.items():
            options = ViewOptions(image_size, float(rng.uniform(*difficulty)))
            seen.append(render_view(person, modality, rng, options))
    visible, infrared = views[Modality.VISIBLE], views[Modality.INFRARED]
    return PairBatch(
        visible=np.stack([view.crop for view in visible]),
        infrared=np.stack([view.crop for view in infrared]),
        parts=np.stack([_part_shares(view.labels, grid) for view in (*visible, *infrared)]),
        attributes=np.stack([person.attribute_row() for person in people]),
        measures=np.stack([person.measure_row() for person in people]),
    )


def _part_shares(labels: Labels, grid: tuple[int, int]) -> NDArray[np.float32]:
    """Share of each part in each cell of a grid, (rows * columns, parts)."""
    seen = labels[::2, ::2]
    row = np.arange(seen.shape[0]) * grid[0] // seen.shape[0]
    column = np.arange(seen.shape[1]) * grid[1] // seen.shape[1]
    cell = row[:, None] * grid[1] + column
    size = grid[0] * grid[1] * len(PARTS)
    counts = np.bincount((cell * len(PARTS) + seen).ravel(), minlength=size)
    shares = counts.reshape(-1, len(PARTS)).astype(np.float32)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def sample_crops(
    modality: Modality,
    count: int,
    seed: int,
    image_size: tuple[int, int] = (256, 128),
    difficulty: float = 0.8,
) -> list[Crop]:
    """Crops of `count` different synthetic people, each (H, W, 3) uint8 RGB."""
    rng = np.random.default_rng([seed, count, 2])
    options = ViewOptions(image_size, difficulty)
    return [render_crop(draw_identity(seed, n), modality, rng, options) for n in range(count)]


@dataclass(frozen=True, slots=True)
class DatasetOptions:
    """A synthetic data set in the folder layout: training people, and others to be found again."""

    train_identities: int = 100
    """People of the training part."""
    test_identities: int = 100
    """People of query and gallery, none of them in training."""
    crops: int = 8
    """Crops of a training person in each light."""
    test_crops: int = 4
    """Crops of a test person in each light, in query and in gallery each."""
    image_size: tuple[int, int] = (128, 64)
    """Height and width of the crops in pixels."""
    difficulty: float = 0.8
    """0 easy to 1 hard, as ViewOptions says."""
    seed: int = 1
    """Which world: two seeds share nobody."""

    def __post_init__(self) -> None:
        for name in ("train_identities", "test_identities", "crops", "test_crops"):
            if getattr(self, name) < 1:
                flag = "--" + name.replace("_", "-")
                raise OptionError(f"{flag} must be at least 1, got {getattr(self, name)}")
        ViewOptions(self.image_size, self.difficulty)


def write_dataset(folder: Path, options: DatasetOptions) -> int:
    """Draw a data set into `folder` (train, query, gallery) and return the number of crops.

    Written beside and renamed: a folder of that name is a whole one.
    Raises: OutputError if the folder exists and is not empty, or cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty; name another folder or remove it")
    beside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        written = _draw_dataset(beside, options)
        if folder.exists():
            folder.rmdir()
        os.replace(beside, folder)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return written


def _draw_dataset(folder: Path, options: DatasetOptions) -> int:
    view = ViewOptions(options.image_size, options.difficulty)
    written = 0
    people = options.train_identities + options.test_identities
    for number in range(people):
        person = draw_identity(options.seed, number)
        rng = np.random.default_rng([options.seed, number, 3])
        test = number >= options.train_identities
        for part in FOLDERS[1:] if test else FOLDERS[:1]:
            for modality in Modality:
                place = folder / part / modality.value / f"{number:05d}"
                place.mkdir(parents=True)
                for shot in range(options.test_crops if test else options.crops):
                    write_image(place / f"{shot:03d}.png", render_crop(person, modality, rng, view))
                    written += 1
    return written
