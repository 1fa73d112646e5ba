"""A dataset laid out as folders: DATA/{train,query,gallery}/{visible,infrared}/<identity>/*."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mip_edge.data.dataset import Dataset, Sample
from mip_edge.data.image import IMAGE_SUFFIXES
from mip_edge.data.listing import few
from mip_edge.errors import DatasetError, OptionError
from mip_edge.spec import Modality

logger = logging.getLogger(__name__)

PARTS = ("train", "query", "gallery")
LAYOUT = "{visible,infrared}/<identity>/*.png|jpg|jpeg|bmp"
_LEAST_IMAGES = 2
"""Images of each modality that a training identity needs: one cannot be told from itself."""


def read_folder(root: str | os.PathLike[str], parts: Sequence[str] = PARTS) -> Dataset:
    """The samples of `parts`; parts not asked for stay empty.

    Raises: DatasetError for a missing part or modality, an empty identity folder, or a training
    identity with fewer than two images of a modality.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder; expected a dataset of train/{LAYOUT} and so on")
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise OptionError(f"a dataset has the parts {', '.join(PARTS)}, not {sorted(unknown)[0]}")
    if not any((folder / part).is_dir() for part in PARTS):
        raise DatasetError(
            f"{folder} holds none of the folders {', '.join(PARTS)}; expected "
            f"{folder}/{parts[0]}/{LAYOUT}"
        )
    other: list[Path] = []
    found = {part: _read_part(folder / part, other) for part in parts}
    if "train" in found:
        _check_training(found["train"], folder / "train")
    if other:
        logger.warning(
            "%d other files in %s left aside (the first: %s); images end in %s",
            len(other),
            folder,
            other[0].relative_to(folder),
            ", ".join(IMAGE_SUFFIXES),
        )
    train, query, gallery = (found.get(part, []) for part in PARTS)
    return Dataset(train, query, gallery)


def split_validation(samples: Sequence[Sample], share: float, rng: np.random.Generator) -> Dataset:
    """Training samples parted by identity: `share` of the identities become query and gallery.

    At least two identities on each side. Query and gallery are the same samples: a query meets only
    the other modality of the gallery, so no image meets itself.
    Raises: OptionError if the share leaves a side with fewer than two identities.
    """
    identities = sorted({sample.identity for sample in samples})
    if not 0 < share < 1:
        raise OptionError(f"the validation share must lie between 0 and 1, got {share}")
    count = max(2, round(share * len(identities)))
    if len(identities) - count < 2:
        raise OptionError(
            f"{len(identities)} training identities cannot give {count} to validation and keep 2; "
            "add identities or take a smaller share"
        )
    chosen = {identities[index] for index in rng.permutation(len(identities))[:count]}
    held_out = [sample for sample in samples if sample.identity in chosen]
    kept = [sample for sample in samples if sample.identity not in chosen]
    return Dataset(train=kept, query=held_out, gallery=list(held_out))


def label_identities(samples: Sequence[Sample]) -> tuple[NDArray[np.int64], list[str]]:
    """Label (N,) of each sample, and the identity of each label, sorted by name."""
    names = sorted({sample.identity for sample in samples})
    number = {name: label for label, name in enumerate(names)}
    return np.array([number[sample.identity] for sample in samples], dtype=np.int64), names


def find_images(root: Path) -> list[Path]:
    """All images under `root`, however deep, sorted by path."""
    return sorted(path for path in root.rglob("*") if _is_image(path))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def _read_part(folder: Path, other: list[Path]) -> list[Sample]:
    if not folder.is_dir():
        raise DatasetError(f"{folder} is missing; expected {folder}/{LAYOUT}")
    samples: list[Sample] = []
    for modality in (Modality.INFRARED, Modality.VISIBLE):
        here = folder / modality.value
        found = _read_modality(here, modality, other) if here.is_dir() else []
        if not found:
            raise DatasetError(
                f"{folder} has no {modality.value} images; expected them in "
                f"{here}/<identity>/*.png|jpg|jpeg|bmp"
            )
        samples += found
    return samples


def _read_modality(folder: Path, modality: Modality, other: list[Path]) -> list[Sample]:
    samples: list[Sample] = []
    empty: list[str] = []
    for identity in sorted(folder.iterdir()):
        if not identity.is_dir():
            other.append(identity)
            continue
        entries = sorted(identity.iterdir())
        images = [path for path in entries if _is_image(path)]
        other += [path for path in entries if not _is_image(path)]
        if not images:
            empty.append(identity.name)
        samples += [Sample(path, identity.name, modality) for path in images]
    if empty:
        raise DatasetError(
            f"{folder}: no images in the folder of {few(empty)}; add images or remove the folder"
        )
    return samples


def _check_training(samples: Sequence[Sample], folder: Path) -> None:
    counts: dict[str, dict[Modality, int]] = defaultdict(lambda: dict.fromkeys(Modality, 0))
    for sample in samples:
        counts[sample.identity][sample.modality] += 1

    def check(fails: Callable[[dict[Modality, int]], bool], complaint: str) -> None:
        names = [name for name, count in sorted(counts.items()) if fails(count)]
        if names:
            raise DatasetError(
                f"{folder}: {complaint}: {few(names)}; training needs at least {_LEAST_IMAGES} "
                "images of each modality for every identity"
            )

    check(lambda count: sum(count.values()) < _LEAST_IMAGES, "a single image")
    for modality in Modality:
        check(lambda count, m=modality: count[m] == 0, f"no {modality.value} image")  # type: ignore[misc]
        check(
            lambda count, m=modality: count[m] < _LEAST_IMAGES,  # type: ignore[misc]
            f"a single {modality.value} image",
        )
