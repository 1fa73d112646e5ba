"""Small trees laid out exactly as SYSU-MM01, RegDB and LLCM are handed out, with made-up images.

Layouts: the README of wuancong/SYSU-MM01 and the loaders of mangye16/Cross-Modal-Re-ID-baseline
and ZYK100/LLCM. `root` is the folder that the readers take; it is made if it is not there. An image
has a brightness and a colour of its person, so that a network can tell people apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

SYSU_CAMERAS = {1: "v", 2: "v", 3: "i", 4: "v", 5: "v", 6: "i"}
LLCM_VISIBLE = tuple(range(1, 10))
LLCM_INFRARED = (1, 2, 4, 5, 6, 7, 8, 9)


def write_sysu(
    root: Path,
    *,
    train: int = 3,
    validation: int = 1,
    test: int = 2,
    images: int = 2,
    strangers: int = 0,
    image_size: tuple[int, int] = (24, 12),
) -> Path:
    """SYSU-MM01/{cam1..cam6}/0001/0001.jpg and exp/{train,val,test,available}_id.txt.

    Every person has `images` images on every camera. Test people have the first ids, then
    validation, then training; `strangers` follow, who are in the folders and in no list.
    """
    ids = list(range(1, train + validation + test + 1))
    lists = {
        "test_id": ids[:test],
        "val_id": ids[test : test + validation],
        "train_id": ids[test + validation :],
        "available_id": ids,
    }
    for name, listed in lists.items():
        write_lines(root / "exp" / f"{name}.txt", [",".join(map(str, listed))])
    for person in range(1, len(ids) + strangers + 1):
        for camera, light in SYSU_CAMERAS.items():
            for number in range(1, images + 1):
                name = f"cam{camera}/{person:04d}/{number:04d}.jpg"
                write_person(root / name, person, light, number, image_size)
    return root


def write_regdb(
    root: Path,
    *,
    train: int = 3,
    test: int = 3,
    images: int = 2,
    splits: Sequence[int] = tuple(range(1, 11)),
    image_size: tuple[int, int] = (24, 12),
) -> Path:
    """RegDB/{Visible,Thermal}/7/male_front_v_00123_7.bmp and idx/{train,test}_{...}_{split}.txt.

    People are dealt anew in each split, and numbered from 0 in train and in test, as there.
    """
    names: dict[tuple[str, int], list[str]] = {}
    for person in range(1, train + test + 1):
        for folder, light in (("Visible", "v"), ("Thermal", "t")):
            for number in range(1, images + 1):
                file = f"male_front_{light}_{100 * person + number:05d}_{person}.bmp"
                name = f"{folder}/{person}/{file}"
                names.setdefault((folder, person), []).append(name)
                write_person(root / name, person, "i" if light == "t" else "v", number, image_size)
    for split in splits:
        order = np.random.default_rng(split).permutation(train + test) + 1
        for part, people in (("train", order[:train]), ("test", order[train:])):
            for folder in ("Visible", "Thermal"):
                lines = [
                    f"{name} {label}"
                    for label, person in enumerate(people)
                    for name in names[folder, int(person)]
                ]
                write_lines(root / "idx" / f"{part}_{folder.lower()}_{split}.txt", lines)
    return root


def write_llcm(
    root: Path,
    *,
    train: int = 3,
    test: int = 2,
    images: int = 1,
    image_size: tuple[int, int] = (24, 12),
) -> Path:
    """LLCM/{vis,nir}/0003/0003_c01_s1_f1_vis.jpg for training, test_{vis,nir}/cam1/0001/ for test.

    Every person is on each of the nine visible and eight infrared cameras. Test people have the
    first ids; training labels count from 0.
    """
    lists: dict[str, list[str]] = {}
    for person in range(1, train + test + 1):
        part = "test" if person <= test else "train"
        for light, cameras in (("vis", LLCM_VISIBLE), ("nir", LLCM_INFRARED)):
            for camera in cameras:
                for number in range(1, images + 1):
                    file = f"{person:04d}_c{camera:02d}_s{1000 + person}_f{number}_{light}.jpg"
                    folder = f"test_{light}/cam{camera}" if part == "test" else light
                    name = f"{folder}/{person:04d}/{file}"
                    label = person - 1 if part == "test" else person - test - 1
                    lists.setdefault(f"{part}_{light}", []).append(f"{name} {label}")
                    kind = "v" if light == "vis" else "i"
                    write_person(root / name, person, kind, number, image_size)
    for name, lines in lists.items():
        write_lines(root / "idx" / f"{name}.txt", lines)
    write_lines(root / "idx" / "test_id.txt", [",".join(map(str, range(1, test + 1)))])
    return root


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """A list file, its folder made where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_person(
    path: Path, person: int, light: str, number: int, image_size: tuple[int, int]
) -> None:
    """An image as the suffix says: in colour for "v", one grey channel for "i"."""
    rng = np.random.default_rng((person, number, int(light == "i")))
    colour = np.random.default_rng(person).integers(30, 226, 3)
    height, width = image_size
    if light == "i":
        image = rng.normal(colour[0], 10, (height, width))
    else:
        image = rng.normal(colour, 10, (height, width, 3))
    done, content = cv2.imencode(path.suffix, image.clip(0, 255).astype(np.uint8))
    assert done
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.tobytes())
