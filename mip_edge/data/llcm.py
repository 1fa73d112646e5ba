"""LLCM: nine cameras in low light, eight of which also see near infrared.

Layout: idx/train_{vis,nir}.txt with lines "vis/0003/0003_c01_s1_f1_vis.jpg label", idx/test_id.txt,
and test_{vis,nir}/cam<n>/<four digits>/*.jpg, as github.com/ZYK100/LLCM reads it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mip_edge.data.dataset import Camera, Dataset, Sample
from mip_edge.data.listing import (
    CameraFolder,
    Line,
    check_disjoint,
    check_images,
    check_modalities,
    check_root,
    name_labels,
    read_camera_folders,
    read_identities,
    read_list,
    sort_samples,
)
from mip_edge.errors import DatasetError
from mip_edge.spec import Modality

CAMERAS = (
    *(Camera(f"cam{number}", Modality.VISIBLE) for number in range(1, 10)),
    *(Camera(f"cam{number}", Modality.INFRARED) for number in range(1, 10) if number != 3),
)
"""In the order of the network's camera table; camera 3 sees visible light alone."""
_LIGHTS = {Modality.INFRARED: "nir", Modality.VISIBLE: "vis"}
_NAME = re.compile(r"(\d+)_c(\d+)_")
"""Identity and camera in front of a file name: 0003_c01_s185535_f7010_vis.jpg."""


def read_llcm(root: Path, parts: Sequence[str]) -> Dataset:
    """The training images of the lists, and the test images; query and gallery are one list.

    Identities are four digits; a training image tells identity and camera in its name.
    Raises: DatasetError for another layout, a list or a camera that is missing, a garbled line, an
    image that is not there, an identity without images or in training and test, and a training one
    without images in one light.
    """
    check_root(root, ("idx", "test_vis", "test_nir"), "LLCM")
    test_list = root / "idx" / "test_id.txt"
    identities = read_identities(test_list)
    lines: list[Line] = []
    listed: list[Sample] = []
    for modality, light in _LIGHTS.items():
        found = read_list(root, root / "idx" / f"train_{light}.txt")
        lines += found
        listed += [_sample(line, modality) for line in found]
    name_labels(lines, [sample.identity for sample in listed])
    train_list = f"{root / 'idx' / 'train_*.txt'}"
    check_disjoint((sample.identity for sample in listed), identities, train_list, str(test_list))
    train: list[Sample] = []
    test: list[Sample] = []
    if "train" in parts:
        check_images(lines)
        check_modalities(listed, train_list)
        train = sort_samples(listed)
    if "query" in parts or "gallery" in parts:
        folders = [
            CameraFolder(root / f"test_{_LIGHTS[camera.modality]}" / camera.name, camera)
            for camera in CAMERAS
        ]
        test = read_camera_folders(folders, sorted(identities), str(test_list))
    return Dataset(train, test, test, CAMERAS, "llcm")


def _sample(line: Line, modality: Modality) -> Sample:
    told = _NAME.match(line.path.name)
    if told is None:
        raise DatasetError(
            f"{line.where}: {line.path.name} tells no identity and camera; expected a name such as "
            "0003_c01_s185535_f7010_vis.jpg"
        )
    camera = Camera(f"cam{int(told[2])}", modality)
    if camera not in CAMERAS:
        raise DatasetError(
            f"{line.where}: LLCM has no {modality.value} camera {camera.name}; take the list as it "
            "was published"
        )
    return Sample(line.path, f"{int(told[1]):04d}", modality, camera.name)
