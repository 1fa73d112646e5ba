"""RegDB: 412 people before one visible and one thermal camera, dealt into ten splits.

Layout: {Visible,Thermal}/<number>/*.bmp and idx/{train,test}_{visible,thermal}_{1..10}.txt with
lines "relative/path label", as github.com/mangye16/Cross-Modal-Re-ID-baseline reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mip_edge.data.dataset import Camera, Dataset, Sample
from mip_edge.data.listing import (
    Line,
    check_disjoint,
    check_images,
    check_modalities,
    check_root,
    name_labels,
    read_list,
    sort_samples,
)
from mip_edge.errors import DatasetError, OptionError
from mip_edge.spec import Modality

CAMERAS = (Camera("thermal", Modality.INFRARED), Camera("visible", Modality.VISIBLE))
"""In the order of the network's camera table."""
SPLITS = range(1, 11)


def read_regdb(root: Path, parts: Sequence[str], split: int) -> Dataset:
    """The training and test images of a split; query and gallery are one list of both lights.

    An identity is the number of its folder, as four digits: the labels of the lists are counted
    from 0 in training and again in test, and would make two people one.
    Raises: DatasetError for another layout, a list that is missing, a garbled line, an image that
    is not there, an identity in training and test, and a training one without images in one light;
    OptionError for a split that there is not.
    """
    if split not in SPLITS:
        raise OptionError(f"RegDB has the splits 1 to {SPLITS[-1]}, not --split {split}")
    check_root(root, ("idx", "Visible", "Thermal"), "RegDB")
    lines: dict[str, list[Line]] = {}
    samples: dict[str, list[Sample]] = {}
    for part in ("train", "test"):
        lines[part], samples[part] = [], []
        for camera in CAMERAS:
            listed = read_list(root, _list(root, part, camera.name, split))
            lines[part] += listed
            samples[part] += [
                Sample(line.path, _identity(line), camera.modality, camera.name) for line in listed
            ]
        name_labels(lines[part], [sample.identity for sample in samples[part]])
    check_disjoint(
        (sample.identity for sample in samples["train"]),
        (sample.identity for sample in samples["test"]),
        str(_list(root, "train", "*", split)),
        str(_list(root, "test", "*", split)),
    )
    train: list[Sample] = []
    test: list[Sample] = []
    if "train" in parts:
        check_images(lines["train"])
        check_modalities(samples["train"], str(_list(root, "train", "*", split)))
        train = sort_samples(samples["train"])
    if "query" in parts or "gallery" in parts:
        check_images(lines["test"])
        test = sort_samples(samples["test"])
    return Dataset(train, test, test, CAMERAS, "regdb")


def _list(root: Path, part: str, light: str, split: int) -> Path:
    return root / "idx" / f"{part}_{light}_{split}.txt"


def _identity(line: Line) -> str:
    """Of Visible/285/male_back_v_05528_285.bmp: 0285."""
    number = line.path.parent.name
    if not number.isdecimal():
        raise DatasetError(
            f"{line.where}: {line.path} lies in no person's folder; expected Visible/285/*.bmp"
        )
    return f"{int(number):04d}"
