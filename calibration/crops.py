"""The crops that INT8 scales are found on: training people only, and the list that is kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.selection import select_crops
from mip_edge.data.dataset import Sample
from mip_edge.data.folder import find_images
from mip_edge.data.image import read_image
from mip_edge.data.listing import few
from mip_edge.data.readers import read_dataset
from mip_edge.errors import CalibrationError
from mip_edge.spec import Crop, Modality
from mip_edge.synthetic.world import sample_crops

logger = logging.getLogger(__name__)

_DIFFICULTY = 0.65
"""Of drawn people, as the shipped models learned from them."""


@dataclass(frozen=True, slots=True)
class CalibrationCrop:
    """One crop, and what is written down of it."""

    name: str
    """Path below the data, or which synthetic person it shows."""
    modality: Modality
    identity: str | None
    camera: str | None
    crop: Crop
    """(H, W, 3) uint8 RGB."""


def read_calibration(
    root: Path, kind: str, *, split: int, count: int, seed: int, trained: Sequence[str] = ()
) -> list[CalibrationCrop]:
    """At most `count` crops of the training part of a data set, or of a folder of crops.

    A data set gives training identities only: those of `trained` (what the checkpoint says it
    learned from) where it names any, and none that its query or gallery shows. A folder that holds
    `visible` and `infrared` images and no parts says nothing of identities; it is taken as it is,
    unless a folder `query` or `gallery` holds it.
    Raises: CalibrationError where a light or the training part is missing; OptionError and
    DatasetError as `select_crops` and `read_dataset` do.
    """
    parts = [part for part in ("train", "query", "gallery") if (root / part).is_dir()]
    if kind == "folder" and not parts:
        chosen = _unlabelled(root, count)
    else:
        wanted = parts if kind == "folder" else ["train", "query", "gallery"]
        if "train" not in wanted:
            raise CalibrationError(
                f"{root} has {' and '.join(wanted)} and no train part; scales are found on "
                "training people only. Give the data that the model learned from"
            )
        data = read_dataset(kind, root, split=split, parts=wanted)
        examined = {sample.identity for sample in (*data.query, *data.gallery)}
        samples = _trained(data.train, trained, root)
        chosen = select_crops(samples, count, seed=seed, examined=examined)
    _check_lights({sample.modality for sample in chosen}, root)
    return [
        CalibrationCrop(
            sample.path.relative_to(root).as_posix(),
            sample.modality,
            sample.identity or None,
            sample.camera,
            read_image(sample.path),
        )
        for sample in chosen
    ]


def list_crops(crops: Sequence[CalibrationCrop]) -> list[dict[str, Any]]:
    """The list of calibration.json: the SHA-256 of each crop's pixels, its light, and a number for
    its person and its camera. Names of people and of files do not travel with a bundle."""
    people = _numbers(crop.identity for crop in crops)
    cameras = _numbers(crop.camera for crop in crops)
    return [
        {
            "sha256": hashlib.sha256(crop.crop.tobytes()).hexdigest(),
            "modality": crop.modality.value,
            "person": people.get(crop.identity),
            "camera": cameras.get(crop.camera),
        }
        for crop in crops
    ]


def _numbers(names: Iterable[str | None]) -> dict[str | None, int]:
    """A number for each name, in the order of their first crop; None has none."""
    found: dict[str | None, int] = {}
    for name in names:
        if name is not None:
            found.setdefault(name, len(found))
    return found


def draw_calibration(count: int, world: int, image_size: tuple[int, int]) -> list[CalibrationCrop]:
    """Crops of the first people of the synthetic `world` that a model learned from."""
    half = count // 2
    return [
        CalibrationCrop(f"synthetic person {index} of world {world}", modality, None, None, crop)
        for modality in (Modality.INFRARED, Modality.VISIBLE)
        for index, crop in enumerate(sample_crops(modality, half, world, image_size, _DIFFICULTY))
    ]


def _trained(samples: Sequence[Sample], trained: Sequence[str], root: Path) -> list[Sample]:
    """Those of people that the checkpoint learned from, where it knows any of these."""
    known = set(trained)
    if not known:
        return list(samples)
    kept = [sample for sample in samples if sample.identity in known]
    if not kept:
        logger.warning(
            "%s shows none of the %d people that the checkpoint learned from; calibrating on the "
            "people of its train part",
            root,
            len(known),
        )
        return list(samples)
    others = sorted({sample.identity for sample in samples} - known)
    if others:
        logger.info("left out, for the checkpoint did not learn from them: %s", few(others))
    return kept


def _unlabelled(root: Path, count: int) -> list[Sample]:
    """Images of a folder by the name of the folder that they lie in, spread evenly.

    Raises: CalibrationError if a folder named after a part that examines holds them.
    """
    found = find_images(root)
    name = root.resolve().name
    for path in found:
        examining = {"query", "gallery"}.intersection((name, *path.relative_to(root).parent.parts))
        if examining:
            raise CalibrationError(
                f"{path} lies in a {min(examining)} part, the examination; scales are found on "
                "training people only. Give the data set itself, or its train part"
            )
    lights: Mapping[Modality, list[Path]] = {
        modality: [path for path in found if modality.value in path.relative_to(root).parts]
        for modality in (Modality.INFRARED, Modality.VISIBLE)
    }
    half = count // 2
    return [
        Sample(paths[place * len(paths) // taken], "", modality)
        for modality, paths in lights.items()
        for taken in [min(half, len(paths))]
        for place in range(taken)
    ]


def _check_lights(found: set[Modality], root: Path) -> None:
    missing = [modality.value for modality in Modality if modality not in found]
    if missing:
        raise CalibrationError(
            f"{root} has no {' and no '.join(missing)} training crop; scales need both lights. "
            "Expected a data set with a train part, or a folder with `visible` and `infrared`"
        )
