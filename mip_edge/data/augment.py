"""Training augmentation of a whole batch in torch: what the published training does to a crop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mip_edge.errors import OptionError

Channels = Literal["keep", "grey", "exchange"]

_ERASING_TRIES = 10
_GREY_WEIGHTS = (0.2989, 0.587, 0.114)
_BLURRED_AT_ONCE = 5  # few enough for the cache of a CPU, and 15 channels fill its vectors


@dataclass(frozen=True, slots=True)
class AugmentOptions:
    """How far a crop is changed; lengths are pixels of a crop 256 high, scaled with the height."""

    flip: float = 0.5
    """Probability of a horizontal flip."""
    pad: float = 10.0
    """Zero border around the crop before it is cut to size again at a random place."""
    brightness: float = 0.3
    """Brightness is multiplied by 1 - this to 1 + this."""
    contrast: float = 0.3
    """Contrast likewise."""
    blur_kernel: float = 21.0
    """Width of the Gaussian blur's window; a crop is either jittered or blurred, never both."""
    blur_sigma: tuple[float, float] = (0.1, 3.0)
    """Least and greatest standard deviation of the blur."""
    erase: float = 0.5
    """Probability that a rectangle is filled with normal noise."""
    erase_area: tuple[float, float] = (0.02, 1 / 3)
    """Share of the crop that is erased."""
    erase_aspect: float = 0.3
    """Least height / width of the rectangle; the greatest is its inverse."""
    grey: float = 0.5
    """Probability that the three channels become their weighted mean, after erasing."""
    channels: Channels = "keep"
    """What a visible crop's channels become after erasing and before `grey`: their weighted mean
    ("grey"), or one of the three, drawn evenly, in place of all ("exchange"). Not in the published
    recipe; after Ye et al., "Channel Augmented Joint Learning", ICCV 2021."""
    channels_probability: float = 0.5
    """Probability of that for a visible crop; an infrared crop has no colours to lose."""

    def __post_init__(self) -> None:
        probabilities = ("flip", "erase", "grey", "channels_probability")
        for name in (*probabilities, "brightness", "contrast"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"augmentation {name} must be 0 to 1, got {getattr(self, name)}")
        if self.channels not in get_args(Channels):
            raise OptionError(
                f"augmentation channels must be one of {', '.join(get_args(Channels))}, "
                f"got {self.channels!r}"
            )
        if self.pad < 0 or self.blur_kernel < 1 or not 0 < self.erase_aspect <= 1:
            raise OptionError(
                "augmentation needs pad >= 0, blur_kernel >= 1 and 0 < erase_aspect <= 1, got "
                f"{self.pad}, {self.blur_kernel}, {self.erase_aspect}"
            )
        for name, greatest in (("blur_sigma", math.inf), ("erase_area", 1.0)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= greatest:
                raise OptionError(
                    f"augmentation {name} must be rising and above 0, got {low, high}"
                )


PUBLISHED = AugmentOptions()
LIGHT = AugmentOptions(
    brightness=0.15, contrast=0.15, blur_sigma=(0.1, 0.6), pad=4.0, erase=0.0, grey=0.0
)
"""Changes that leave a crop nearly as it is."""


@dataclass(frozen=True, slots=True)
class Choices:
    """All that chance decides of a batch but the noise; tensors (B,) on the CPU."""

    flipped: Tensor
    top: Tensor
    """Pixels that the crop moves up."""
    left: Tensor
    blurred: Tensor
    """Blurred, and else jittered."""
    sigma: Tensor
    brightness: Tensor
    contrast: Tensor
    brightness_first: Tensor
    box: Tensor
    """(B, 4) int64 top, left, height, width of what is erased; height 0: nothing."""
    recoloured: Tensor
    channel: Tensor
    """The channel that `channels="exchange"` keeps."""
    grey: Tensor


def normalize(crops: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to the float (B, 3, H, W) in [-1, 1] that the network takes."""
    return crops.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0).contiguous()


def augment(
    crops: Tensor,
    generator: torch.Generator,
    options: AugmentOptions = PUBLISHED,
    *,
    visible: Tensor | None = None,
) -> Tensor:
    """A batch uint8 (B, H, W, 3) changed at random, normalised, float (B, 3, H, W).

    Flip, shift, jitter or blur, normalise, erase, channels, grey: the order of the published code
    (INPUT.AUG=2; its resize comes before, see `load_crops`), where jitter and blur end in whole
    levels 0..255. `visible` (B,) tells visible crops (1) from infrared (0) for
    `options.channels`. The same state of `generator` (of the CPU, or of the crops' device) gives
    the same batch; one of a GPU is waited for once, to read the choices.
    Raises: OptionError if `options.channels` needs `visible` and it is missing or too short.
    """
    count, height, width, _ = crops.shape
    seen = _visible_rows(visible, count, options)
    choices = draw_choices(count, (height, width), generator, options)
    images = _place(crops, choices)
    _jitter(images, _rows(~choices.blurred), choices)
    _blur(images, _rows(choices.blurred), choices, int(options.blur_kernel * height / 256) // 2)
    images.div_(127.5).sub_(1.0)
    _erase(images, generator, choices)
    if options.channels == "grey":
        _grey(images, _rows(choices.recoloured & seen))
    elif options.channels == "exchange":
        _exchange(images, _rows(choices.recoloured & seen), choices)
    _grey(images, _rows(choices.grey))
    return images


def draw_choices(
    count: int, size: tuple[int, int], generator: torch.Generator, options: AugmentOptions
) -> Choices:
    """What befalls each of `count` crops of `size` (H, W), drawn in one call of the generator."""
    height, width = size
    drawn = torch.rand(
        (14 + 2 * _ERASING_TRIES, count), generator=generator, device=generator.device
    ).cpu()
    flip, top, left, blur, sigma, brightness, contrast, order, erase, *chances = drawn[:14]
    box_top, box_left, recolour, channel, grey = chances
    pad = round(options.pad * height / 256)
    area = _between(drawn[14 : 14 + _ERASING_TRIES], *options.erase_area) * (height * width)
    span = -math.log(options.erase_aspect)
    aspect = torch.exp(_between(drawn[14 + _ERASING_TRIES :], -span, span))
    tall, wide = torch.sqrt(area * aspect).round(), torch.sqrt(area / aspect).round()
    # of ten tries the first that fits, or nothing is erased: timm's RandomErasing
    fits = (tall < height) & (wide < width)
    first = fits.to(torch.int64).argmax(dim=0, keepdim=True)
    tall, wide = tall.gather(0, first)[0], wide.gather(0, first)[0]
    erased = (erase < options.erase) & fits.any(dim=0)
    corner = [(box_top * (height - tall + 1)).floor(), (box_left * (width - wide + 1)).floor()]
    return Choices(
        flipped=flip < options.flip,
        top=(top * (2 * pad + 1)).floor().to(torch.int64) - pad,
        left=(left * (2 * pad + 1)).floor().to(torch.int64) - pad,
        blurred=blur < 0.5,
        sigma=_between(sigma, *options.blur_sigma) * (height / 256),
        brightness=_between(brightness, 1 - options.brightness, 1 + options.brightness),
        contrast=_between(contrast, 1 - options.contrast, 1 + options.contrast),
        brightness_first=order < 0.5,
        box=torch.stack([*corner, tall * erased, wide], dim=1).to(torch.int64),
        recoloured=recolour < options.channels_probability,
        channel=(channel * 3).floor().to(torch.int64),
        grey=grey < options.grey,
    )


def _between(drawn: Tensor, low: float, high: float) -> Tensor:
    return drawn * (high - low) + low


def _visible_rows(visible: Tensor | None, count: int, options: AugmentOptions) -> Tensor:
    if options.channels == "keep":
        return torch.zeros(count, dtype=torch.bool)
    if visible is None:
        words = "needs to know which crops are visible; pass `visible`"
        raise OptionError(f'augmentation channels="{options.channels}" {words}')
    if visible.shape != (count,):
        raise OptionError(
            f"augmentation got visible flags of shape {tuple(visible.shape)}, expected ({count},)"
        )
    return visible.cpu() != 0


def _place(crops: Tensor, choices: Choices) -> Tensor:
    """Flip, then a window of the old size at a random place of the crop with a zero border."""
    count, height, width, channels = crops.shape
    images = torch.zeros((count, channels, height, width), device=crops.device)
    moves = zip(choices.flipped.tolist(), choices.top.tolist(), choices.left.tolist(), strict=True)
    for image, crop, (flipped, top, left) in zip(images, crops, moves, strict=True):
        planes = crop.permute(2, 0, 1)
        if flipped:
            planes = planes.flip(2)
        source = planes[:, max(top, 0) : max(height + top, 0), max(left, 0) : max(width + left, 0)]
        rows, columns = source.shape[1:]
        down, right = max(-top, 0), max(-left, 0)
        image[:, down : down + rows, right : right + columns] = source
    return images


def _rows(chosen: Tensor) -> Tensor:
    return chosen.nonzero()[:, 0]


def _jitter(images: Tensor, rows: Tensor, choices: Choices) -> None:
    """Brightness and contrast in either order, in whole levels cut off as Pillow cuts them."""
    chosen = (choices.brightness, choices.contrast, choices.brightness_first)
    for row, (brightness, contrast, brightness_first) in zip(
        rows.tolist(), torch.stack(chosen, dim=1)[rows].tolist(), strict=True
    ):
        image = images[row]
        if brightness_first:
            image.mul_(brightness).clamp_(max=255).floor_()
        # ImageEnhance.Contrast: away from the mean of the grey image, both in whole levels
        luma = (image[0] * 19595).add_(image[1], alpha=38470).add_(image[2], alpha=7471)
        mean = luma.add_(32768).div_(65536).floor_().mean().add_(0.5).floor_()
        image.sub_(mean).mul_(contrast).add_(mean).clamp_(0, 255).floor_()
        if not brightness_first:
            image.mul_(brightness).clamp_(max=255).floor_()


def _blur(images: Tensor, rows: Tensor, choices: Choices, radius: int) -> None:
    """Gaussian blur reflected at the edges, each image with a sigma of its own, in whole levels."""
    _, channels, height, width = images.shape
    radius = min(radius, height - 1, width - 1)
    offsets = torch.arange(-radius, radius + 1)
    for first in range(0, len(rows), _BLURRED_AT_ONCE):
        some = rows[first : first + _BLURRED_AT_ONCE]
        window = torch.exp(-0.5 * (offsets / choices.sigma[some, None]) ** 2)
        window = (window / window.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
        window = window.to(images.device)[:, None, None]
        planes = F.pad(images[some], [radius] * 4, mode="reflect").flatten(0, 1)[None]
        planes = F.conv2d(planes, window.transpose(2, 3), groups=len(window))
        planes = F.conv2d(planes, window, groups=len(window))
        images[some] = planes.round_().view(-1, channels, height, width)


def _erase(images: Tensor, generator: torch.Generator, choices: Choices) -> None:
    """A box of normal noise, each pixel and channel its own."""
    for image, (top, left, tall, wide) in zip(images, choices.box.tolist(), strict=True):
        if tall:
            shape = (len(image), tall, wide)
            noise = torch.randn(shape, generator=generator, device=generator.device)
            image[:, top : top + tall, left : left + wide] = noise


def _exchange(images: Tensor, rows: Tensor, choices: Choices) -> None:
    for row, channel in zip(rows.tolist(), choices.channel[rows].tolist(), strict=True):
        images[row] = images[row, channel].clone()


def _grey(images: Tensor, rows: Tensor) -> None:
    """Weighted mean of the channels in place of each: torchvision's rgb_to_grayscale."""
    red, green, blue = _GREY_WEIGHTS
    for row in rows.tolist():
        image = images[row]
        image.copy_(red * image[0] + green * image[1] + blue * image[2])
