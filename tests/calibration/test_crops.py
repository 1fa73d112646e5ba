"""Scales are found on training people alone, and every crop is written down."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from calibration.crops import CalibrationCrop, draw_calibration, list_crops, read_calibration
from mip_edge.data.image import read_image, write_image
from mip_edge.errors import CalibrationError, DatasetError, OptionError
from mip_edge.spec import Modality
from mip_edge.synthetic.world import sample_crops
from tests.mip_edge.trees import write_regdb

LIGHTS = tuple(one.value for one in Modality)


def write(folder: Path, images: int = 2) -> None:
    """Images of their own colours, counted on over all folders."""
    folder.mkdir(parents=True)
    for index in range(images):
        colour = hashlib.sha256(f"{folder}/{index}".encode()).digest()[:3]
        image = np.tile(np.frombuffer(colour, dtype=np.uint8), (8, 4, 1))
        write_image(folder / f"{index}.png", image)


def write_people(root: Path, **parts: str) -> Path:
    """A folder data set: each part and the letters of its people."""
    for part, people in parts.items():
        for light in LIGHTS:
            for person in people:
                write(root / part / light / person)
    return root


def read(root: Path, count: int = 64, **options: object) -> list[CalibrationCrop]:
    given = {"kind": "folder", "split": 1, "seed": 1, **options}
    return read_calibration(root, count=count, **given)  # type: ignore[arg-type]


def people(crops: list[CalibrationCrop]) -> set[str | None]:
    return {crop.identity for crop in crops}


def test_query_and_gallery_people_are_never_seen(tmp_path: Path) -> None:
    root = write_people(tmp_path / "data", train="abc", query="xy", gallery="xyz")
    crops = read(root)
    assert people(crops) == {"a", "b", "c"}
    assert all(crop.name.startswith("train/") for crop in crops)
    assert Counter(crop.modality for crop in crops) == dict.fromkeys(Modality, 6)


@pytest.mark.parametrize("part", ["query", "gallery"])
def test_a_training_person_that_query_or_gallery_shows_is_refused(
    tmp_path: Path, part: str
) -> None:
    root = write_people(tmp_path / "data", train="abc", **{part: "cx"})
    with pytest.raises(OptionError, match="shows training people too: identity c;"):
        read(root)


def test_only_people_that_the_checkpoint_learned_from_are_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """b was held out to select the checkpoint."""
    root = write_people(tmp_path / "data", train="abc", query="x", gallery="x")
    with caplog.at_level(logging.INFO, logger="calibration"):
        crops = read(root, trained=["a", "c", "elsewhere"])
    assert people(crops) == {"a", "c"}
    assert "left out, for the checkpoint did not learn from them: identity b" in caplog.text


def test_people_that_the_checkpoint_does_not_know_are_taken_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_people(tmp_path / "data", train="abc")
    assert people(read(root, trained=["p", "q"])) == {"a", "b", "c"}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "none of the 2 people that the checkpoint learned from" in record.message


def test_a_data_set_without_a_train_part_is_refused(tmp_path: Path) -> None:
    root = write_people(tmp_path / "data", query="xy", gallery="xy")
    with pytest.raises(CalibrationError, match="has query and gallery and no train part"):
        read(root)


def test_a_data_set_of_another_layout_gives_its_training_people(tmp_path: Path) -> None:
    root = write_regdb(tmp_path / "regdb")
    crops = read(root, kind="regdb", count=8)
    assert len(crops) == 8
    assert {crop.modality for crop in crops} == set(Modality)
    listed = (root / "idx" / "train_visible_1.txt").read_text(encoding="utf-8")
    for crop in crops:
        if crop.modality is Modality.VISIBLE:
            assert crop.name in listed


def test_a_folder_without_parts_is_spread_evenly(tmp_path: Path) -> None:
    write(tmp_path / "crops" / "visible", 10)
    write(tmp_path / "crops" / "infrared" / "deeper", 3)
    crops = read(tmp_path / "crops", count=8)
    names = [crop.name for crop in crops]
    assert names == [
        *(f"infrared/deeper/{index}.png" for index in range(3)),
        *(f"visible/{index}.png" for index in (0, 2, 5, 7)),
    ]
    assert people(crops) == {None}


@pytest.mark.parametrize("part", ["query", "gallery"])
@pytest.mark.parametrize("place", ["inside", "above"])
def test_a_part_that_examines_is_no_folder_of_crops(tmp_path: Path, part: str, place: str) -> None:
    root = write_people(tmp_path / "all" / "data", train="a", query="x", gallery="x")
    given = root / part if place == "inside" else tmp_path / "all"
    with pytest.raises(CalibrationError, match=r"lies in a (query|gallery) part, the examination"):
        read(given)
    assert people(read(root / "train")) == {None}  # this one may be given itself


@pytest.mark.parametrize("light", LIGHTS)
def test_one_light_alone_is_refused(tmp_path: Path, light: str) -> None:
    write(tmp_path / "crops" / light)
    other = Modality(light).other.value
    with pytest.raises(CalibrationError, match=f"has no {other} training crop; .* both lights"):
        read(tmp_path / "crops")
    write(tmp_path / "data" / "train" / light / "a")
    with pytest.raises(DatasetError, match=f"has no {other} images"):
        read(tmp_path / "data")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="has no visible and no infrared training crop"):
        read(tmp_path)


def test_a_crop_is_written_down_with_the_hash_of_its_pixels(tmp_path: Path) -> None:
    root = write_people(tmp_path / "data", train="a")
    crops = read(root)
    for crop, line in zip(crops, list_crops(crops), strict=True):
        pixels = read_image(root / crop.name)
        assert line == {
            "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
            "modality": crop.modality.value,
            "person": 0,
            "camera": None,
        }


def test_people_and_cameras_are_numbers_in_the_list_and_never_names() -> None:
    pixels = np.zeros((4, 2, 3), dtype=np.uint8)
    shown = [("ann", "gate"), ("bob", None), ("ann", "yard"), (None, "gate")]
    crops = [
        CalibrationCrop(f"train/visible/{person}/1.png", Modality.VISIBLE, person, camera, pixels)
        for person, camera in shown
    ]
    listed = list_crops(crops)
    assert [(one["person"], one["camera"]) for one in listed] == [
        (0, 0),
        (1, None),
        (0, 1),
        (None, 0),
    ]
    assert not any(word in str(listed) for word in ("ann", "bob", "gate", "yard", "train"))


def test_the_choice_is_seeded(tmp_path: Path) -> None:
    root = write_people(tmp_path / "data", train="abcdefgh")

    def names(seed: int) -> list[str]:
        return [crop.name for crop in read(root, count=6, seed=seed)]

    assert names(1) == names(1) != names(2)
    assert len(names(1)) == 6


def test_drawn_people_are_those_of_the_world_that_the_model_learned_from() -> None:
    crops = draw_calibration(6, 7, (32, 16))
    assert [crop.name for crop in crops] == 2 * [
        f"synthetic person {index} of world 7" for index in range(3)
    ]
    for modality in Modality:
        mine = [crop.crop for crop in crops if crop.modality is modality]
        expected = sample_crops(modality, 3, 7, (32, 16), 0.65)
        assert all((one == two).all() for one, two in zip(mine, expected, strict=True))
    others = draw_calibration(6, 8, (32, 16))
    assert not any((one.crop == two.crop).all() for one, two in zip(crops, others, strict=True))
