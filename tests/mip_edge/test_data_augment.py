"""Training augmentation: each step against what it promises, and all of it by its seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor

from mip_edge.data.augment import (
    PUBLISHED,
    AugmentOptions,
    Choices,
    augment,
    draw_choices,
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


def blurred_plainly(crop: NDArray[np.uint8], sigma: float, radius: int) -> NDArray[np.uint8]:
    """Gaussian blur of a window of 2 radius + 1, reflected at the edges, rounded."""
    offsets = np.arange(-radius, radius + 1)
    window = np.exp(-0.5 * (offsets / sigma) ** 2)
    window /= window.sum()
    values = crop.astype(np.float64)
    for axis in (0, 1):
        border = [(0, 0)] * 3
        border[axis] = (radius, radius)
        padded = np.pad(values, border, mode="reflect")
        slid = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis=axis)
        values = slid @ window
    return np.round(values).astype(np.uint8)


def published_plainly(crop: NDArray[np.uint8], choices: Choices, row: int) -> NDArray[np.float64]:
    """The published pipeline on one crop 256 high, by Pillow and numpy; what is erased is NaN."""
    height, width, _ = crop.shape
    if choices.flipped[row]:
        crop = crop[:, ::-1]
    padded = np.pad(crop, ((10, 10), (10, 10), (0, 0)))
    top, left = 10 + int(choices.top[row]), 10 + int(choices.left[row])
    crop = padded[top : top + height, left : left + width]
    if choices.blurred[row]:
        crop = blurred_plainly(crop, float(choices.sigma[row]), 10)
    else:
        image = Image.fromarray(np.ascontiguousarray(crop))
        steps = [
            (ImageEnhance.Brightness, float(choices.brightness[row])),
            (ImageEnhance.Contrast, float(choices.contrast[row])),
        ]
        for enhancer, factor in steps if choices.brightness_first[row] else steps[::-1]:
            image = enhancer(image).enhance(factor)
        crop = np.asarray(image)
    values = (crop / 255 - 0.5) / 0.5
    top, left, tall, wide = choices.box[row].tolist()
    values[top : top + tall, left : left + wide] = np.nan
    if choices.grey[row]:
        values[:] = (values @ [0.2989, 0.587, 0.114])[..., None]
    return values.transpose(2, 0, 1)


def test_the_published_pipeline_is_pillows_and_numpys() -> None:
    # smooth pictures as well as noise: contrast and blur meet both
    noise = crops(24, 256, 128)
    smooth = torch.nn.functional.avg_pool2d(noise.permute(0, 3, 1, 2).float(), 9, 1, 4)
    batch = torch.where(
        torch.arange(24)[:, None, None, None] < 12, noise.permute(0, 3, 1, 2), smooth
    )
    batch = batch.permute(0, 2, 3, 1).to(torch.uint8)
    choices = draw_choices(24, (256, 128), generator(5), PUBLISHED)
    changed = augment(batch, generator(5), PUBLISHED).double().numpy()
    met = set()
    for row in range(24):
        expected = published_plainly(batch[row].numpy(), choices, row)
        erased = np.isnan(expected)
        tall, wide = choices.box[row, 2:].tolist()
        assert erased.sum() == 3 * tall * wide
        difference = np.abs(changed[row] - expected)[~erased]
        # a level is 2 / 255; rounding of float32 moves a value across it once in a while
        assert difference.max() <= 2 / 255 + 1e-5
        assert (difference > 1e-5).mean() < 0.001
        noise_inside = changed[row][erased]
        if tall * wide > 2000 and not choices.grey[row]:
            assert abs(noise_inside.mean()) < 0.1
            assert abs(noise_inside.std() - 1) < 0.1
        met |= {("flip", bool(choices.flipped[row])), ("blur", bool(choices.blurred[row]))}
        met |= {("erase", bool(tall)), ("grey", bool(choices.grey[row]))}
        met |= {("brightness first", bool(choices.brightness_first[row]))}
    assert len(met) == 10


def test_choices_spread_as_published() -> None:
    count = 20_000
    choices = draw_choices(count, (256, 128), generator(), PUBLISHED)
    for chance in (choices.flipped, choices.blurred, choices.brightness_first, choices.grey):
        assert abs(float(chance.float().mean()) - 0.5) < 0.015
    for shift in (choices.top, choices.left):
        values, counts = shift.unique(return_counts=True)
        assert values.tolist() == list(range(-10, 11))
        assert float((counts / count * 21 - 1).abs().max()) < 0.15
    for values, low, high in (
        (choices.sigma, 0.1, 3.0),
        (choices.brightness, 0.7, 1.3),
        (choices.contrast, 0.7, 1.3),
    ):
        assert low <= float(values.min()) < float(values.max()) <= high
        quarters = torch.quantile((values - low) / (high - low), torch.tensor([0.25, 0.5, 0.75]))
        torch.testing.assert_close(quarters, torch.tensor([0.25, 0.5, 0.75]), atol=0.015, rtol=0)
    boxes = choices.box[choices.box[:, 2] > 0]
    assert abs(len(boxes) / count - 0.5) < 0.015
    top, left, tall, wide = boxes.T
    assert int(tall.max()) < 256
    assert int(wide.max()) < 128
    assert bool(((top >= 0) & (top + tall <= 256) & (left >= 0) & (left + wide <= 128)).all())
    # both ends are reached, as by random.randint(0, height - tall)
    reached = (top == 0, top + tall == 256, left == 0, left + wide == 128)
    assert all(bool(end.any()) for end in reached)


def test_boxes_have_the_sizes_of_the_plain_tries() -> None:
    # the tries of RandomErasing one by one, in Python, against all at once
    rng = np.random.default_rng(0)
    sizes = []
    for _ in range(20_000):
        for _ in range(10):
            area = rng.uniform(0.02, 1 / 3) * 256 * 128
            aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
            tall, wide = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if wide < 128 and tall < 256:
                sizes.append((tall, wide))
                break
    options = replace(PUBLISHED, erase=1.0)
    drawn = draw_choices(20_000, (256, 128), generator(), options).box[:, 2:].numpy()
    quantiles = np.linspace(0.05, 0.95, 10)
    for side in range(2):
        one = np.quantile(drawn[:, side], quantiles)
        other = np.quantile(np.array(sizes)[:, side], quantiles)
        np.testing.assert_allclose(one, other, rtol=0.03, atol=1)


def test_a_box_that_never_fits_is_not_erased() -> None:
    options = replace(STILL, erase=1.0, erase_area=(1.0, 1.0), erase_aspect=1.0)
    assert not draw_choices(50, (64, 32), generator(), options).box[:, 2].any()


def mixed_flags(count: int) -> Tensor:
    return (torch.arange(count) % 2).to(torch.int64)


def test_exchange_puts_one_channel_in_place_of_all_in_visible_crops_alone() -> None:
    batch, visible = crops(90), mixed_flags(90)
    options = replace(STILL, channels="exchange", channels_probability=1.0)
    changed, plain = augment(batch, generator(), options, visible=visible), normalize(batch)
    torch.testing.assert_close(changed[visible == 0], plain[visible == 0])
    kept = []
    for one, before in zip(changed[visible == 1], plain[visible == 1], strict=True):
        assert torch.equal(one[0], one[1])
        assert torch.equal(one[0], one[2])
        (channel,) = [index for index in range(3) if torch.allclose(one[0], before[index])]
        kept.append(channel)
    assert min(kept.count(channel) for channel in range(3)) >= 8


def test_grey_channels_are_the_weighted_mean_in_visible_crops_alone() -> None:
    batch, visible = crops(20), mixed_flags(20)
    options = replace(STILL, channels="grey", channels_probability=1.0)
    changed = augment(batch, generator(), options, visible=visible)
    whole = augment(batch, generator(), replace(STILL, grey=1.0))
    torch.testing.assert_close(changed[visible == 1], whole[visible == 1])
    torch.testing.assert_close(changed[visible == 0], normalize(batch)[visible == 0])


def test_channels_change_with_their_probability_and_after_erasing() -> None:
    batch = crops(400, 32, 16)
    options = replace(STILL, channels="exchange", channels_probability=0.3, erase=1.0)
    changed = augment(batch, generator(), options, visible=torch.ones(400))
    # noise drawn afterwards would differ between the channels
    grey = (changed[:, 0] == changed[:, 1]).flatten(1).all(dim=1)
    assert 0.23 < float(grey.float().mean()) < 0.37


def test_kept_channels_need_no_flags_and_ignore_them() -> None:
    batch = crops()
    with_flags = augment(batch, generator(), visible=mixed_flags(16))
    assert torch.equal(with_flags, augment(batch, generator()))


@pytest.mark.parametrize("channels", ["grey", "exchange"])
def test_changed_channels_ask_which_crops_are_visible(channels: str) -> None:
    options = AugmentOptions(channels=channels)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="needs to know which crops are visible"):
        augment(crops(), generator(), options)
    with pytest.raises(OptionError, match=r"shape \(3,\), expected \(16,\)"):
        augment(crops(), generator(), options, visible=torch.ones(3))


def test_no_crops_give_no_images() -> None:
    assert augment(crops(0), generator()).shape == (0, 3, 64, 32)


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
    with pytest.raises(OptionError, match="keep, grey, exchange, got 'swap'"):
        AugmentOptions(channels="swap")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="channels_probability must be 0 to 1, got 2"):
        AugmentOptions(channels_probability=2)
