"""The choice of training crops: balanced, seeded, and blind to query and gallery."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.selection import select_crops
from mip_edge.data.dataset import Sample
from mip_edge.errors import DatasetError, OptionError
from mip_edge.spec import Modality

CAMERAS = {Modality.INFRARED: ("night",), Modality.VISIBLE: ("gate", "hall")}


def crops(identity: str, modality: Modality, camera: str | None, count: int) -> list[Sample]:
    return [
        Sample(Path(f"{camera}/{identity}/{number}.png"), identity, modality, camera)
        for number in range(count)
    ]


def crowd(people: int, images: int) -> list[Sample]:
    """`images` of each person on each of the three cameras."""
    return [
        sample
        for person in range(people)
        for modality, cameras in CAMERAS.items()
        for camera in cameras
        for sample in crops(f"p{person}", modality, camera, images)
    ]


def test_lights_identities_and_cameras_are_balanced() -> None:
    chosen = select_crops(crowd(5, 8), 40, seed=1)
    assert len(set(chosen)) == 40
    assert Counter(sample.modality for sample in chosen) == dict.fromkeys(Modality, 20)
    assert Counter((sample.identity, sample.camera) for sample in chosen) == {
        **{(f"p{person}", "night"): 4 for person in range(5)},
        **{(f"p{person}", camera): 2 for person in range(5) for camera in ("gate", "hall")},
    }


def test_a_person_with_many_images_gives_no_more_than_others() -> None:
    samples = [
        *crops("often", Modality.INFRARED, "night", 50),
        *crops("seldom", Modality.INFRARED, "night", 3),
        *crops("often", Modality.VISIBLE, "gate", 50),
        *crops("seldom", Modality.VISIBLE, "gate", 50),
    ]
    chosen = select_crops(samples, 20, seed=1)
    assert Counter((one.identity, one.modality) for one in chosen) == {
        ("often", Modality.INFRARED): 7,
        ("seldom", Modality.INFRARED): 3,
        ("often", Modality.VISIBLE): 5,
        ("seldom", Modality.VISIBLE): 5,
    }


def test_few_crops_show_each_person_once() -> None:
    chosen = select_crops(crowd(10, 4), 10, seed=3)
    assert len({sample.identity for sample in chosen}) == 10
    assert Counter(sample.modality for sample in chosen) == dict.fromkeys(Modality, 5)


def test_cameras_are_balanced_over_people_who_give_one_image_each() -> None:
    chosen = select_crops(crowd(10, 4), 20, seed=3)
    visible = [one.camera for one in chosen if one.modality is Modality.VISIBLE]
    assert Counter(visible) == {"gate": 5, "hall": 5}


@pytest.mark.parametrize("modality", list(Modality))
def test_a_light_with_few_images_leaves_its_places_to_the_other(modality: Modality) -> None:
    samples = [*crops("a", modality, "one", 2), *crops("a", modality.other, "other", 30)]
    chosen = select_crops(samples, 11, seed=1)
    assert Counter(sample.modality for sample in chosen) == {modality: 2, modality.other: 9}


def test_crops_without_a_camera_are_taken() -> None:
    samples = [crop for one in Modality for crop in crops("a", one, None, 3)]
    assert len(select_crops(samples, 4, seed=1)) == 4


@given(st.randoms(use_true_random=False), st.integers(1, 80), st.integers(0, 1000))
def test_the_order_of_the_samples_does_not_matter(
    shuffler: random.Random, count: int, seed: int
) -> None:
    samples = crowd(4, 5)
    chosen = select_crops(samples, count, seed=seed)
    shuffled = list(samples)
    shuffler.shuffle(shuffled)
    assert select_crops(shuffled, count, seed=seed) == chosen
    assert len(set(chosen)) == min(count, len(samples))


def test_another_seed_chooses_other_crops() -> None:
    samples = crowd(6, 10)
    assert select_crops(samples, 20, seed=1) != select_crops(samples, 20, seed=2)


def test_an_examined_identity_is_refused() -> None:
    with pytest.raises(OptionError, match="query or gallery shows training people too: .*p3"):
        select_crops(crowd(5, 2), 8, seed=1, examined={"p3", "p77"})
    assert select_crops(crowd(3, 2), 8, seed=1, examined={"p3", "p77"})


def test_nothing_to_choose_from_or_nothing_to_choose_is_an_error() -> None:
    with pytest.raises(DatasetError, match="no training crop"):
        select_crops([], 8, seed=1)
    with pytest.raises(OptionError, match="at least 1, got 0"):
        select_crops(crowd(1, 1), 0, seed=1)
