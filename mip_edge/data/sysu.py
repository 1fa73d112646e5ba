"""SYSU-MM01: four visible and two infrared cameras, lists of identities for training and test.

Layout: cam1..cam6/<four digits>/*.jpg and exp/{train,val,test}_id.txt (one line of numbers parted
by commas), as its README at github.com/wuancong/SYSU-MM01 describes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mip_edge.data.dataset import Camera, Dataset, Sample
from mip_edge.data.listing import (
    CameraFolder,
    check_disjoint,
    check_modalities,
    check_root,
    is_image_name,
    read_camera_folders,
    read_identities,
)
from mip_edge.spec import Modality

CAMERAS = tuple(
    Camera(f"cam{number}", Modality.INFRARED if number in (3, 6) else Modality.VISIBLE)
    for number in range(1, 7)
)
"""In the order of the network's camera table."""


def read_sysu(root: Path, parts: Sequence[str]) -> Dataset:
    """Training identities (train and validation lists together: 395) and the test images.

    Query and gallery are one list of all test images, infrared and visible; the protocol draws
    its trials from it. Identities are four digits, as their folders.
    Raises: DatasetError for another layout, a list or a camera that is missing, a garbled line, an
    identity without images, one in two lists, and a training one without images in one light.
    """
    check_root(root, ("exp", *(camera.name for camera in CAMERAS)), "SYSU-MM01")
    lists = {name: root / "exp" / f"{name}_id.txt" for name in ("train", "val", "test")}
    ids = {name: read_identities(path) for name, path in lists.items()}
    for one, other in (("train", "test"), ("val", "test"), ("train", "val")):
        check_disjoint(ids[one], ids[other], str(lists[one]), str(lists[other]))
    folders = [CameraFolder(root / camera.name, camera) for camera in CAMERAS]
    train: list[Sample] = []
    test: list[Sample] = []
    if "train" in parts:
        where = f"{lists['train']} and {lists['val'].name}"
        train = read_camera_folders(folders, sorted(ids["train"] + ids["val"]), where)
        check_modalities(train, where)
    if "query" in parts or "gallery" in parts:
        test = read_camera_folders(folders, sorted(ids["test"]), str(lists["test"]))
    return Dataset(train, test, test, CAMERAS, "sysu")


def count_folders(root: Path) -> dict[Modality, int]:
    """Images in the camera folders, also of those identities that no list names."""
    counts = dict.fromkeys(Modality, 0)
    for camera in CAMERAS:
        names = (path.name for path in (root / camera.name).glob("*/*"))
        counts[camera.modality] += sum(map(is_image_name, names))
    return counts
