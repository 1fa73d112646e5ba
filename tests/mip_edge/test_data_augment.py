"""Training augmentation: each step against what it promises, and all of it by its seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mip_edge.data.augment import (
    AugmentOptions,
    _blur_matrix,
    augment,
    normalize,
)
from mip_edge.errors import OptionError

STILL = AugmentOptions(
    flip=0.0,
    pad=0.0,
    brightness=0.0,
    contrast=0.0,
    blur_kernel=1.0,
    erase=0.0,
    grey=0.0,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crops(count: int = 16, height: int = 64, width: int = 32) -> Tensor:
    return torch.randint(
        0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator(9)
    )


def test_normalised_values_run_from_minus_one_to_one() -> None:
    ends = torch.tensor([0, 255, 51], dtype=torch.uint8).reshape(1, 1, 1, 3)
    assert normalize(ends).flatten().tolist() == pytest.approx([-1.0, 1.0, -0.6])


def test_with_every_change_off_only_the_normalisation_is_left() -> None:
    batch = crops()
    changed = augment(batch, generator(), STILL)
    assert changed.shape == (16, 3, 64, 32)
    assert changed.dtype == torch.float32
    torch.testing.assert_close(changed, normalize(batch), atol=1e-6, rtol=0)


def test_the_generator_decides_everything_and_the_input_stays() -> None:
    batch = crops()
    before = batch.clone()
    one, same, other = (augment(batch, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(batch, before)
    assert torch.isfinite(one).all()


def test_flip_mirrors_left_and_right() -> None:
    batch = crops()
    flipped = augment(batch, generator(), replace(STILL, flip=1.0))
    torch.testing.assert_close(flipped, normalize(batch.flip(2)), atol=1e-6, rtol=0)


def test_shift_moves_by_at_most_the_scaled_border_and_fills_with_black() -> None:
    # 10 pixels at height 256 are 2.5, rounded to 2, at height 64
    white = torch.full((64, 64, 32, 3), 255, dtype=torch.uint8)
    moved = augment(white, generator(), replace(STILL, pad=10.0))
    black_rows = (moved == -1).all(dim=3).all(dim=1).sum(dim=1)
    black_columns = (moved == -1).all(dim=2).all(dim=1).sum(dim=1)
    assert set(black_rows.tolist()) == {0, 1, 2}
    assert set(black_columns.tolist()) == {0, 1, 2}


def test_grey_makes_three_equal_channels_by_the_weights() -> None:
    batch = crops()
    grey = augment(batch, generator(), replace(STILL, grey=1.0))
    assert torch.equal(grey[:, 0], grey[:, 2])
    plain = normalize(batch)
    expected = 0.2989 * plain[:, 0] + 0.587 * plain[:, 1] + 0.114 * plain[:, 2]
    torch.testing.assert_close(grey[:, 1], expected, atol=1e-6, rtol=0)


def test_erasing_fills_one_rectangle_of_the_promised_area() -> None:
    flat = torch.full((64, 64, 32, 3), 128, dtype=torch.uint8)
    erased = augment(flat, generator(), replace(STILL, erase=1.0))
    changed = (erased - normalize(flat)).abs().amax(dim=1) > 1e-6
    for mask in changed:
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        height = int(rows.max() - rows.min()) + 1
        width = int(columns.max() - columns.min()) + 1
        assert int(mask.sum()) >= 0.99 * height * width
        # rounding of both sides moves the area a little
        assert 0.01 < height * width / (64 * 32) < 0.36
    noise = erased[changed[:, None].expand_as(erased)]
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02


def test_about_half_is_erased_greyed_and_blurred() -> None:
    options = replace(STILL, erase=0.5, grey=0.5)
    changed = augment(crops(400, 32, 16), generator(), options)
    grey = (changed[:, 0] == changed[:, 1]).flatten(1).all(dim=1)
    assert 0.42 < float(grey.float().mean()) < 0.58


def test_blur_is_a_normalised_symmetric_window_reflected_at_the_edge() -> None:
    matrix = _blur_matrix(torch.tensor([1.0]), 9, 2)[0]
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(9))
    window = torch.exp(-torch.tensor([2.0, 0.5, 0.0, 0.5, 2.0]))
    torch.testing.assert_close(matrix[4, 2:7], window / window.sum())
    # at the edge the two that fall outside land on their mirror images 1 and 2
    edge = torch.tensor([1.0, 2 * float(window[1]), 2 * float(window[0])]) / window.sum()
    torch.testing.assert_close(matrix[0, :3], edge)


def test_blur_keeps_a_flat_image_flat() -> None:
    flat = torch.full((8, 64, 32, 3), 200, dtype=torch.uint8)
    options = replace(STILL, blur_kernel=21.0)
    torch.testing.assert_close(
        augment(flat, generator(), options), normalize(flat), atol=1e-5, rtol=0
    )


def test_jitter_stays_in_range_and_changes_brightness_both_ways() -> None:
    grey = torch.full((200, 32, 16, 3), 100, dtype=torch.uint8)
    options = replace(STILL, brightness=0.3)
    means = augment(grey, generator(), options).flatten(1).mean(dim=1) * 0.5 + 0.5
    factors = means / (100 / 255)
    assert 0.69 < float(factors.min()) < 0.8
    assert 1.2 < float(factors.max()) < 1.31


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(OptionError, match="flip must be 0 to 1, got 1.5"):
        AugmentOptions(flip=1.5)
    with pytest.raises(OptionError, match="erase_area"):
        AugmentOptions(erase_area=(0.5, 0.1))
    with pytest.raises(OptionError, match="pad >= 0"):
        AugmentOptions(pad=-1)
