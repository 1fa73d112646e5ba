"""Synthetic people: always the same, alike in shape and not in brightness, and hard to find."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from mip_edge.data.folder import read_folder
from mip_edge.errors import OptionError, OutputError
from mip_edge.metrics import evaluate_ranking
from mip_edge.spec import Modality
from mip_edge.synthetic import world
from mip_edge.synthetic.figure import CANVAS, Pose, draw_figure
from mip_edge.synthetic.identity import (
    ATTRIBUTES,
    CARRIED,
    PARTS,
    TOP_PATTERNS,
    draw_identity,
)
from mip_edge.synthetic.view import ViewOptions, render_crop, render_view
from mip_edge.synthetic.world import DatasetOptions, draw_pairs, sample_crops, write_dataset


def luminance(colours: np.ndarray) -> np.ndarray:
    return colours @ np.array([0.299, 0.587, 0.114])


def test_a_person_of_a_world_is_always_the_same() -> None:
    first, again, other = draw_identity(5, 8), draw_identity(5, 8), draw_identity(5, 9)
    assert np.array_equal(first.attribute_row(), again.attribute_row())
    assert np.array_equal(first.colours, again.colours)
    assert not np.array_equal(first.colours, other.colours)


def test_the_same_seed_draws_the_same_crop() -> None:
    one, two = (
        render_crop(draw_identity(1, 2), modality, np.random.default_rng(3), ViewOptions())
        for modality in (Modality.VISIBLE, Modality.VISIBLE)
    )
    assert np.array_equal(one, two)


def test_every_value_of_every_attribute_occurs() -> None:
    rows = np.stack([draw_identity(1, number).attribute_row() for number in range(300)])
    for column, count in enumerate(ATTRIBUTES.values()):
        assert set(rows[:, column]) == set(range(count))


def test_infrared_brightness_does_not_follow_the_visible_colour() -> None:
    people = [draw_identity(2, number) for number in range(1500)]
    for part in ("top", "bottom", "bag", "shoes", "headgear"):
        index = PARTS.index(part)
        visible = [luminance(person.colours[index]) for person in people]
        infrared = [person.reflectances[index] for person in people]
        assert abs(np.corrcoef(visible, infrared)[0, 1]) < 0.1


def test_the_two_tones_of_a_pattern_differ_in_infrared() -> None:
    top = PARTS.index("top")
    gaps = [
        abs(int(person.reflectances[top]) - int(person.reflectances[top + 1]))
        for person in (draw_identity(2, number) for number in range(300))
    ]
    assert min(gaps) >= 0.29 * 255


@pytest.mark.parametrize("modality", list(Modality))
@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_a_crop_has_the_size_and_type_that_was_asked_for(
    modality: Modality, difficulty: float
) -> None:
    options = ViewOptions((96, 40), difficulty)
    crop = render_crop(draw_identity(1, 1), modality, np.random.default_rng(0), options)
    assert crop.shape == (96, 40, 3)
    assert crop.dtype == np.uint8
    if modality is Modality.INFRARED:
        assert np.array_equal(crop[..., 0], crop[..., 1])
        assert np.array_equal(crop[..., 0], crop[..., 2])


def test_a_pattern_moves_with_the_body() -> None:
    number = next(
        n for n in range(99) if draw_identity(1, n).top_pattern == TOP_PATTERNS.index("bands")
    )
    person = draw_identity(1, number)
    left, right = (draw_figure(person, Pose(centre=centre)) for centre in (0.4, 0.55))
    shift = round(0.15 * CANVAS[1])
    assert (np.roll(left, shift, axis=1) == right).mean() > 0.99


def test_a_backpack_is_seen_from_behind_and_not_from_the_front() -> None:
    number = next(n for n in range(99) if CARRIED[draw_identity(1, n).carried] == "backpack")
    person, bag = draw_identity(1, number), PARTS.index("bag")
    front, back = (draw_figure(person, Pose(yaw=yaw)) for yaw in (0.0, np.pi))
    assert (back == bag).sum() > 2 * (front == bag).sum()


def test_what_is_hidden_is_background_in_the_map_of_parts() -> None:
    options = ViewOptions(difficulty=1.0)
    views = [
        render_view(draw_identity(1, n), Modality.VISIBLE, np.random.default_rng(n), options)
        for n in range(40)
    ]
    feet = [(view.labels[-20:] > 0).any() for view in views]
    assert 0 < sum(feet) < len(feet)


def test_pairs_are_fresh_people_with_their_attributes() -> None:
    batch = draw_pairs(4, 10, 6, (64, 32), (0.0, 0.5), grid=(4, 2))
    assert batch.visible.shape == batch.infrared.shape == (6, 64, 32, 3)
    assert np.array_equal(batch.attributes[2], draw_identity(4, 12).attribute_row())
    assert batch.parts.shape == (12, 8, len(PARTS))
    np.testing.assert_allclose(batch.parts.sum(axis=2), 1, rtol=1e-6)
    assert not np.array_equal(
        batch.visible, draw_pairs(4, 10, 6, (64, 32), (0.0, 0.5), shot=1).visible
    )


def test_comparing_pixels_finds_nobody() -> None:
    people = 60
    rows = {}
    for modality in Modality:
        crops = np.stack(sample_crops(modality, people, 3, (64, 32)))
        grey = crops.astype(float) @ np.array([0.299, 0.587, 0.114])
        flat = grey.reshape(people, -1)
        flat -= flat.mean(axis=1, keepdims=True)
        rows[modality] = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    ids = np.arange(people)
    ranking = evaluate_ranking(-rows[Modality.INFRARED] @ rows[Modality.VISIBLE].T, ids, ids)
    assert ranking.rank1 < 0.15


def test_a_data_set_has_the_folder_layout_and_nobody_twice(tmp_path: Path) -> None:
    options = DatasetOptions(3, 2, crops=2, test_crops=1, image_size=(32, 16))
    assert write_dataset(tmp_path / "data", options) == 3 * 2 * 2 + 2 * 2 * 2
    dataset = read_folder(tmp_path / "data")
    trained = {sample.identity for sample in dataset.train}
    tested = {sample.identity for sample in (*dataset.query, *dataset.gallery)}
    assert len(trained) == 3
    assert len(tested) == 2
    assert not trained & tested


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        write_dataset(tmp_path, DatasetOptions(1, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_full_disk_leaves_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, crop: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(world, "write_image", full)
    with pytest.raises(OutputError, match="No space left"):
        write_dataset(tmp_path / "data", DatasetOptions(1, 1))
    assert list(tmp_path.iterdir()) == []


def test_options_out_of_range_name_their_flag() -> None:
    with pytest.raises(OptionError, match=r"--difficulty .* got 2"):
        ViewOptions(difficulty=2)
    with pytest.raises(OptionError, match=r"--test-crops .* got 0"):
        DatasetOptions(test_crops=0)
