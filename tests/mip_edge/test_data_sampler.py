"""The P x K sampler keeps the order and the balance that the losses count on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mip_edge.data.dataset import Sample
from mip_edge.data.sampler import IdentitySampler
from mip_edge.errors import DatasetError, OptionError
from mip_edge.spec import Modality


def people(*counts: tuple[int, int]) -> list[Sample]:
    """One identity for each (infrared, visible) count of images."""
    return [
        Sample(Path(f"{number}/{modality.value}/{k}.png"), f"{number:03d}", modality)
        for number, sides in enumerate(counts)
        for modality, count in zip((Modality.INFRARED, Modality.VISIBLE), sides, strict=True)
        for k in range(count)
    ]


def test_a_batch_is_all_infrared_then_the_same_people_visible() -> None:
    samples = people(*[(5, 9)] * 7)
    sampler = IdentitySampler(samples, identities=3, images=2, rng=np.random.default_rng(0))
    batches = sampler.epoch()
    assert sampler.batch_size == 12
    for batch in batches:
        drawn = [samples[index] for index in batch]
        assert [s.modality.value for s in drawn] == ["infrared"] * 6 + ["visible"] * 6
        names = [s.identity for s in drawn]
        assert names[:6] == names[6:]
        assert names[0::2] == names[1::2]
        assert len(set(names)) == 3


def test_an_epoch_of_equal_people_shows_every_image_of_the_longer_side_once() -> None:
    # 4 people, 4 at once: each batch takes a chunk of everybody, so no chunk is left over
    samples = people(*[(4, 8)] * 4)
    batches = IdentitySampler(samples, identities=4, images=4, rng=np.random.default_rng(1)).epoch()
    assert len(batches) == 2
    seen = Counter(int(index) for batch in batches for index in batch)
    for index, sample in enumerate(samples):
        if sample.modality is Modality.VISIBLE:
            assert seen[index] == 1
        else:
            assert seen[index] >= 1


def test_people_with_few_images_are_oversampled_to_a_full_chunk() -> None:
    samples = people((1, 2), (2, 1), (3, 3))
    (batch,) = IdentitySampler(
        samples, identities=3, images=4, rng=np.random.default_rng(0)
    ).epoch()
    assert len(batch) == 24
    assert set(batch.tolist()) == set(range(len(samples)))


def test_an_epoch_ends_when_too_few_people_have_images_left() -> None:
    samples = people((2, 2), (2, 2), (20, 20))
    batches = IdentitySampler(samples, identities=2, images=2, rng=np.random.default_rng(0)).epoch()
    assert 1 <= len(batches) <= 2


def test_the_seed_decides_the_epochs_and_epochs_differ() -> None:
    samples = people(*[(6, 6)] * 9)
    first, second, other = (
        IdentitySampler(samples, identities=4, images=2, rng=np.random.default_rng(seed))
        for seed in (5, 5, 6)
    )
    one, same, different = first.epoch(), second.epoch(), other.epoch()
    assert len(one) == len(same)
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert any((a != b).any() for a, b in zip(one, different, strict=False))
    assert any((a != b).any() for a, b in zip(one, first.epoch(), strict=False))


def test_a_batch_of_more_people_than_there_are_is_refused() -> None:
    with pytest.raises(OptionError, match="--batch shows 8 identities at once, .* has 3"):
        IdentitySampler(people(*[(4, 4)] * 3), identities=8, rng=np.random.default_rng(0))
    with pytest.raises(OptionError, match="--batch must show at least 1"):
        IdentitySampler(people((4, 4)), identities=0, rng=np.random.default_rng(0))


def test_a_person_without_one_light_is_refused() -> None:
    with pytest.raises(DatasetError, match="identity 001 has no visible image"):
        IdentitySampler(people((2, 2), (2, 0)), identities=1, rng=np.random.default_rng(0))
