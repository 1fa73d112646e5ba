"""The folder layout: what is read, and what each mistake in it is told."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from mip_edge.data.cache import load_crops
from mip_edge.data.dataset import Sample
from mip_edge.data.folder import (
    find_images,
    label_identities,
    read_folder,
    split_validation,
)
from mip_edge.data.image import read_image, write_image
from mip_edge.errors import DatasetError, ImageError, OptionError
from mip_edge.preprocess import prepare
from mip_edge.spec import EmbedderSpec, Modality


def touch(root: Path, name: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part in ("train", "query", "gallery"):
        for modality in Modality:
            for identity in ("b", "a"):
                for name in ("2.png", "1.JPG"):
                    touch(tmp_path, f"{part}/{modality.value}/{identity}/{name}")
    return tmp_path


def test_samples_are_sorted_and_carry_their_folder_names(root: Path) -> None:
    dataset = read_folder(root)
    seen = [(s.modality.value, s.identity, s.path.name) for s in dataset.train]
    assert seen == [
        (modality, identity, name)
        for modality in ("infrared", "visible")
        for identity in ("a", "b")
        for name in ("1.JPG", "2.png")
    ]
    assert len(dataset.query) == len(dataset.gallery) == 8


def test_parts_that_are_not_asked_for_need_not_exist(root: Path) -> None:
    for path in sorted((root / "train").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    dataset = read_folder(root, parts=("query", "gallery"))
    assert dataset.train == []
    assert len(dataset.query) == 8


def test_other_files_are_counted_in_one_line(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(root, "query/visible/a/notes.txt")
    touch(root, "query/visible/Thumbs.db")
    with caplog.at_level(logging.WARNING):
        read_folder(root)
    assert len(caplog.records) == 1
    assert "2 other files" in caplog.text
    assert "Thumbs.db" in caplog.text


def remove(root: Path, name: str) -> None:
    for path in sorted((root / name).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (root / name).rmdir()


def test_a_missing_part_is_named(root: Path) -> None:
    remove(root, "query")
    with pytest.raises(DatasetError, match=r"query is missing; expected .*query/\{visible"):
        read_folder(root)


@pytest.mark.parametrize("modality", ["infrared", "visible"])
def test_a_part_without_one_light_names_the_folder_expected(root: Path, modality: str) -> None:
    remove(root, f"gallery/{modality}")
    expected = re.escape(f"gallery/{modality}/<identity>/")
    with pytest.raises(DatasetError, match=f"no {modality} images; expected them in .*{expected}"):
        read_folder(root)
    (root / "gallery" / modality).mkdir()
    with pytest.raises(DatasetError, match=f"no {modality} images"):
        read_folder(root)


def test_a_training_identity_in_one_light_only_is_named(root: Path) -> None:
    remove(root, "train/infrared/b")
    with pytest.raises(DatasetError, match=r"no infrared image: identity b; .*at least 2"):
        read_folder(root)


def test_a_training_identity_with_a_single_image_is_named(root: Path) -> None:
    (root / "train/visible/a/2.png").unlink()
    with pytest.raises(DatasetError, match="a single visible image: identity a;"):
        read_folder(root)
    touch(root, "train/infrared/lonely/1.png")
    with pytest.raises(DatasetError, match="a single image: identity lonely;"):
        read_folder(root)


def test_of_many_faulty_identities_a_few_are_named(root: Path) -> None:
    for number in range(9):
        touch(root, f"train/visible/p{number}/1.png")
    with pytest.raises(DatasetError, match="identities p0, p1, p2, p3, p4 and 4 more"):
        read_folder(root)


def test_an_empty_identity_folder_is_named(root: Path) -> None:
    (root / "query/infrared/hollow").mkdir()
    with pytest.raises(DatasetError, match="no images in the folder of identity hollow"):
        read_folder(root)


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is no folder"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="none of the folders train, query, gallery"):
        read_folder(tmp_path)
    with pytest.raises(OptionError, match="not tests"):
        read_folder(tmp_path, parts=("tests",))


def people(count: int) -> list[Sample]:
    return [
        Sample(Path(f"{number}{modality.value}{k}.png"), f"{number:03d}", modality)
        for number in range(count)
        for modality in Modality
        for k in range(2)
    ]


def test_validation_identities_are_in_no_training_sample() -> None:
    samples = people(20)
    split = split_validation(samples, 0.25, np.random.default_rng(3))
    held_out = {sample.identity for sample in split.query}
    assert len(held_out) == 5
    assert held_out.isdisjoint(sample.identity for sample in split.train)
    assert split.gallery == split.query
    assert sorted(map(str, split.train + split.query)) == sorted(map(str, samples))


def test_the_validation_split_follows_its_seed() -> None:
    splits = [
        split_validation(people(20), 0.2, np.random.default_rng(seed)).query for seed in (1, 1, 2)
    ]
    assert splits[0] == splits[1] != splits[2]


def test_a_split_that_leaves_too_few_is_refused() -> None:
    with pytest.raises(OptionError, match="cannot give 2 to validation and keep 2"):
        split_validation(people(3), 0.1, np.random.default_rng(0))
    with pytest.raises(OptionError, match="between 0 and 1"):
        split_validation(people(9), 1.0, np.random.default_rng(0))


def test_labels_follow_the_sorted_names() -> None:
    samples = people(3)[::-1]
    labels, names = label_identities(samples)
    assert names == ["000", "001", "002"]
    assert [names[label] for label in labels] == [sample.identity for sample in samples]


def test_images_are_found_at_every_depth(root: Path) -> None:
    assert len(find_images(root)) == 24
    touch(root, "train/deep/deeper/x.jpeg")
    assert len(find_images(root / "train")) == 9


def test_cached_crops_are_prepared_as_for_inference(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = []
    for number, modality in enumerate([Modality.VISIBLE, Modality.INFRARED] * 3):
        path = tmp_path / f"{number}.png"
        write_image(path, rng.integers(0, 256, (50 + number, 31, 3), dtype=np.uint8))
        samples.append(Sample(path, "a", modality))
    crops = load_crops(samples, (32, 16), threads=2)
    assert crops.shape == (6, 32, 16, 3)
    assert (crops == load_crops(samples, (32, 16), threads=1)).all()
    infrared = crops[1::2]
    assert (infrared == infrared[..., :1]).all()
    for sample, crop in zip(samples, crops, strict=True):
        spec = EmbedderSpec(sample.modality, 32, 16, dimension=1, fingerprint="")
        assert (crop == prepare([read_image(sample.path)], spec)[0]).all()


def test_a_broken_crop_stops_the_loading_by_name(tmp_path: Path) -> None:
    broken = touch(tmp_path, "broken.png")
    with pytest.raises(ImageError, match=r"broken\.png is empty"):
        load_crops([Sample(broken, "a", Modality.VISIBLE)], (32, 16))
